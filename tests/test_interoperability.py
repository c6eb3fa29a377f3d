"""The tables of who reads what hold, where the clients are at hand."""

import csv
import datetime
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLES = ROOT / 'docs' / 'howto'

sys.path.insert(0, str(ROOT / 'interoperability'))

import others as interoperability  # noqa: E402


def table(name):
    path = TABLES / f'interoperability-{name}.csv'
    with path.open(newline='', encoding='utf-8') as file:
        _, *rows = csv.reader(file)
    # Without versions, which may be others here.
    return {re.sub(r' [0-9.]+(?=,|$)', '', row[0]): row[1:] for row in rows}


class Installed(interoperability.Clients):
    """Those clients that the tests have anyhow."""

    def programs(self):
        command = [sys.executable, interoperability.HERE / 'with_python.py']
        for name in ('pymemcache', 'pylibmc', 'pylibmc-ketama'):
            title, _ = interoperability.PYTHON[name]
            yield name, title, [*command, name]


def test_they_are_as_a_run_makes_them(tmp_path):
    """Of the clients that the tests have, in both directions."""
    made = interoperability.tables(Installed(tmp_path))
    names = ('places', 'they-read', 'we-read')
    for name, (_, *rows) in zip(names, made, strict=True):
        documented = table(name)
        assert len(rows) >= 2
        for title, *cells in rows:
            assert documented[title] == cells


def test_no_value_is_silently_another_one():
    """Of what this package reads; what others do, the page tells."""
    for cells in table('we-read').values():
        assert set(cells) <= {'yes', 'no', 'refused', 'as bytes', 'as 1'}


def test_bytes_are_for_almost_all():
    """As the page says, in both directions."""
    swapped = {'python-binary-memcached', 'meta-memcache'}
    for title, cells in table('they-read').items():
        binary = title == 'Node.js: memcached'
        assert (cells[2] == 'yes') is (title not in swapped and not binary)


@pytest.mark.parametrize(
    'kind, seen, cell',
    [
        ('text', 'text:grüße', 'yes'),
        ('text', f'bytes:{"grüße".encode().hex()}', 'as bytes'),
        ('digits', 'number:202411', 'ANOTHER, number'),
        ('digits', 'miss', 'no'),
        ('bytes', 'text:??', 'ANOTHER, text'),
        ('number', 'float:17.0', 'ANOTHER, float'),
        ('number', 'text:17', 'as text'),
        ('structure', 'text:{"a":[1,"b"]}', 'as text'),
        ('structure', 'structure:{"a":[1,"b"]}', 'yes'),
        ('true', 'number:1', 'as 1'),
        ('true', 'text:true', 'as text'),
        ('float', 'error:ValueError', 'no'),
        ('pickled', 'number:0', 'ANOTHER, number'),
        ('pickled', f'date:{datetime.date(2026, 11, 27)!r}', 'yes'),
    ],
)
def test_what_a_cell_says(kind, seen, cell):
    assert interoperability.outcome(kind, seen) == cell
