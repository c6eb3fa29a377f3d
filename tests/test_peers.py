"""The tests of what python-memcached does wrong, run on python-memcached."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
FILES = sorted(path.name for path in TESTS.glob('test_behaviour_*.py'))


@pytest.mark.long
@pytest.mark.parametrize('name', FILES)
def test_python_memcached_fails_each_of_them(name, request, tmp_path):
    """A test that passes there would show nothing of ours."""
    if request.config.getoption('--client') == 'memcache':
        pytest.skip('it is what runs now')
    variables = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith(('PYTEST_', 'COV_'))
    }
    finished = subprocess.run(
        [
            *(sys.executable, '-m', 'pytest', '--client=memcache'),
            *('-p', 'no:cacheprovider', '-p', 'no:xdist'),
            *('--timeout=15', '--quiet', '-rfE', str(TESTS / name)),
        ],
        # Not the checkout, which python -m would put in its path.
        cwd=tmp_path,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # It hangs in many ways; none of them may hang this.
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    last = finished.stdout.splitlines()[-1].partition(' in ')[0]
    counts = dict(reversed(pair.split()) for pair in last.split(', '))
    assert set(counts) <= {'xfailed', 'deselected'}
    assert int(counts['xfailed']) >= 50


def test_there_are_three_kinds_of_them():
    """Wrong data, silent loss, failure."""
    assert FILES == [
        'test_behaviour_data.py',
        'test_behaviour_failure.py',
        'test_behaviour_loss.py',
    ]
