"""The scripts run that compare revisions, and tell what they are to tell."""

import math
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import holdups  # noqa: E402
from sprockets.clients.memcached import testing  # noqa: E402


@pytest.fixture(scope='module')
def large_server():
    """A memcached for large values, with some keys."""
    with testing.MemcachedServer('-I', '8m') as server:
        yield server


def run(name, up, down=None, **options):
    """Measure a small case."""
    down = down or []
    case = holdups.Case('', name, {}, len(up), len(down), options)
    return holdups.measure(case, ROOT, up, down)


@pytest.mark.parametrize('name', ['get_multi', 'set_multi'])
def test_holdups_of_many_keys(large_server, name):
    """The longest turn, the work in it, and the time of a call."""
    figures = run(name, [large_server.port], count=100)
    assert 0 < figures['held'] < figures['took'] + 1
    assert figures['busy'] > 0


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_holdups_of_servers_that_refuse(kind):
    """There are as many as wanted, and none answers."""
    with holdups.refusing() as down:
        assert len(down) == holdups.PORTS
        figures = run('get_multi', [], down[:5], count=9, distribution=kind)
    assert figures['found'] == 0


def test_holdups_of_large_values(large_server):
    """All of them are found."""
    figures = run('large', [large_server.port], method='get_multi', count=2)
    assert figures['found'] == 2


def test_holdups_where_many_servers_change(large_server):
    """They are not asked anything."""
    ports = range(large_server.port, large_server.port + 5)
    figures = run('set_servers', list(ports), distribution='ketama')
    assert figures['took'] > 0
    assert run('make', list(ports), distribution='ketama')['took'] > 0


def test_a_key_of_a_dead_server(large_server):
    """There are some, and what they cost more is measured."""
    run('set_multi', [large_server.port], count=1000)
    with holdups.refusing() as down:
        figures = run(
            'dead_key',
            [large_server.port],
            down[:1],
            count=1000,
            distribution='ketama',
        )
    assert 300 < figures['found'] < 700


def test_a_table_of_what_was_measured():
    """With what is to be reached, and whether it is."""
    case = holdups.Case('much', 'get_multi', {'held': ('<=', 0.05)})
    rows = holdups.rows(
        case, {'old': {'held': 2.5, 'found': 3}, 'this': {'held': 0.0123}}
    )
    assert list(rows) == [
        ['much', '', '', '', ''],
        ['  longest hold-up', '2.50 s', '12.3 ms', '<= 50.0 ms', 'reached'],
        ['  found', '3', '-', '', ''],
    ]
    endless = {'this': {'held': math.inf}}
    assert list(holdups.rows(case, endless))[1:] == [
        ['  longest hold-up', '> 150 s', '<= 50.0 ms', 'not reached']
    ]
