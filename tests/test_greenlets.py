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


# gevent


@pytest.fixture
def gevent():
    pytest.importorskip('gevent', reason='gevent is not installed')


GEVENT = """
from gevent import monkey; monkey.patch_all()
import time, gevent
from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

LARGE = 'x' * 1_000_000

def within(call, *args, **kwargs):
    '''Return what a call returns, which must not take for ever.'''
    with gevent.Timeout(20):
        return call(*args, **kwargs)
"""


def greenlets(program, **environ):
    return run(GEVENT + textwrap.dedent(program), **environ)


@pytest.mark.parametrize('in_thread', [False, True])
@pytest.mark.parametrize(
    'call',
    [
        'client.get("key")',
        'client.get_multi(["key", "large"])',
        'client.set("key", "value")',
        'client.set_multi({f"large{n}": LARGE for n in range(20)})',
        'client.get("large")',
    ],
)
def test_the_deadline_holds(gevent, call, in_thread):
    """Of what is sent and what is read, in greenlets that are threads too."""
    program = f"""
        import threading
        with MemcachedServer() as server:
            client = memcached.Client(
                servers=server.address, socket_timeout=0.5, dead_retry=0
            )
            client.set('large', LARGE)
            assert client.set('key', 'value')
            server.pause()
            if {in_thread}:
                thread = threading.Thread(target=lambda: {call})
                thread.start()
                within(thread.join)
            else:
                within(lambda: {call})
            server.resume()
            until = time.monotonic() + 20
            while client.get('key') != 'value':
                assert time.monotonic() < until
                time.sleep(0.01)
    """
    run_quietly(program)


def run_quietly(program):
    """Run a program, of which no more is expected than an end."""
    silence = 'import logging; logging.disable()\n'
    greenlets(silence + textwrap.dedent(program))


def test_greenlets_go_on_while_one_waits(gevent):
    """For a server that hangs, and for names."""
    said = greenlets("""
        import logging; logging.disable()
        with MemcachedServer() as server, MemcachedServer() as other:
            one = memcached.Client(servers=server.address, socket_timeout=10)
            two = memcached.Client(
                servers=other.address.replace('127.0.0.1', 'localhost')
            )
            assert one.set('key', 'value')
            server.pause()
            waits = gevent.spawn(one.get, 'key')
            gevent.sleep(0.1)
            calls = [gevent.spawn(two.set, f'k{n}', n) for n in range(100)]
            assert all(within(call.get) for call in calls)
            assert within(two.get_multi, [f'k{n}' for n in range(100)]) == {
                f'k{n}': n for n in range(100)
            }
            assert not waits.ready()
            server.resume()
            print(within(waits.get))
    """)
    assert said == 'value\n'


def test_values_of_all_sizes(gevent):
    """More than one write, and more than one read."""
    greenlets("""
        with MemcachedServer() as one, MemcachedServer() as two:
            client = memcached.Client(servers=[one.address, two.address])
            values = {f'k{n}': 'x' * (n * 10_000) for n in range(100)}
            assert within(client.set_multi, values) == []
            assert within(client.get_multi, values) == values
            assert within(client.get_or_set, 'new', lambda: LARGE) == LARGE
            assert within(client.get, 'new') == LARGE
    """)
