"""Programs in which threads are none: gevent, and eventlet."""

import os
import subprocess
import sys
import textwrap

import pytest
import services

SECONDS = 60


def run(program, **environ):
    """Run a program, which must succeed, and return what it prints."""
    finished = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ''
    return finished.stdout


# eventlet


@pytest.fixture
def eventlet(monkeypatch):
    """It is there, and is not asked to say that it is deprecated."""
    services.need('eventlet')
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore')


@pytest.mark.parametrize(
    'arguments', ['', 'socket=True', 'thread=True', 'select=True']
)
def test_the_import_says_that_eventlet_is_none(eventlet, arguments):
    """Whatever it has patched."""
    said = run(f"""
        import eventlet
        eventlet.monkey_patch({arguments})
        try:
            from sprockets.clients import memcached
        except ImportError as error:
            print(error)
    """)
    assert 'does not work in a process that eventlet has patched' in said


def test_a_client_says_so_where_the_import_came_first(eventlet):
    """And not the first of its calls."""
    said = run("""
        from sprockets.clients import memcached
        import eventlet
        eventlet.monkey_patch()
        for kind in (memcached.Client, memcached.AsyncClient):
            try:
                kind()
            except RuntimeError as error:
                print(error)
    """)
    assert said.count('eventlet has patched') == 2


def test_to_import_eventlet_is_no_harm(eventlet, memcached_server):
    """Some libraries do, and patch nothing."""
    said = run("""
        import eventlet
        from sprockets.clients import memcached
        print(memcached.Client().set('key', 'value'))
    """)
    assert said == 'True\n'
