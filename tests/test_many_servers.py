"""What a thousand servers cost: threads, and time of the loop."""

import asyncio
import contextlib
import json
import socket
import threading
import time

from test_discovery import Source, configuration, many
from test_main import run
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached.loop import threads
from sprockets.clients.memcached.servers import journey, workers
from sprockets.clients.memcached.watch import checks
from sprockets.clients.memcached.web import status

SERVERS = 1000


class Threads:
    """Counts the threads that there are, at most."""

    def __init__(self):
        self._before = threading.active_count()
        self._most = self._before
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._end.wait(0.001):
            self._most = max(self._most, threading.active_count() - 1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    @property
    def more(self):
        return self._most - self._before


def test_a_status_of_many_servers():
    """A few threads look at all of them, one after the other."""

    async def ask():
        application = web.Application()
        client = memcached.AsyncClient(servers=many(SERVERS))
        application.memcached_clients = {None: client}
        with Threads() as counted:
            seen = await status.status_of(application, [None])
        await client.close()
        return seen, counted.more

    seen, most = asyncio.run(ask())
    servers = seen['clients'][0]['servers']
    assert len(servers) == SERVERS
    assert not any(server['up'] for server in servers)
    assert most <= checks.SIDE_BY_SIDE + workers.MOST_IDLE


def test_the_lookers_end():
    """There is none when nothing is to be looked at."""
    done = threading.Event()
    checks.submit(done.set)
    assert done.wait(10)
    end = time.monotonic() + 10
    while any(t.name == 'memcached check' for t in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_command_line_shows_them_all():
    """Each with its state."""
    servers = many(SERVERS)
    finished = run('--json', MEMCACHED_SERVERS=','.join(servers))
    assert finished.returncode == 1
    assert finished.stderr == ''
    report = json.loads(finished.stdout)
    assert [server['address'] for server in report['servers']] == servers


def test_many_servers_that_hang():
    """They are waited for no longer than one, and few at one time."""
    count = checks.SIDE_BY_SIDE + 8
    with contextlib.ExitStack() as stack:
        # What is accepted by the kernel, and by nobody else.
        listening = [
            stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            for _ in range(count)
        ]
        servers = [f'127.0.0.1:{s.getsockname()[1]}' for s in listening]

        async def ask():
            application = web.Application()
            client = memcached.AsyncClient(servers=servers, socket_timeout=0.5)
            application.memcached_clients = {None: client}
            began = time.monotonic()
            seen = await status.status_of(application, [None])
            assert time.monotonic() - began < 5
            await client.close()
            return seen['clients'][0]['servers']

        seen = asyncio.run(ask())
    assert len(seen) == count
    assert not any(server['up'] for server in seen)
    down = [server for server in seen if server['since']]
    # Nobody is blamed who was not asked.
    assert len(down) <= checks.SIDE_BY_SIDE


def test_a_call_of_many_servers_that_hang():
    """Awaited, it has a part of them wait; who waits in vain is not blamed."""
    with socket.create_server(('0.0.0.0', 0)) as listening:
        port = listening.getsockname()[1]
        servers = [f'127.0.{n >> 8}.{n % 256}:{port}' for n in range(1, 600)]

        async def ask():
            client = memcached.AsyncClient(
                servers=servers, socket_timeout=1, failover=False
            )
            with Threads() as counted:
                began = time.monotonic()
                keys = [f'key{n}' for n in range(3000)]
                assert await client.get_multi(keys) == {}
                assert time.monotonic() - began < 10
                assert await client.get(keys[0], 'default') == 'default'
            found = client._engine.cluster.endpoints
            await client.close()
            return counted.more, {each.usable() for each in found}

        most, usable = asyncio.run(ask())
    # Some were tried, and some were not.
    assert usable == {True, False}
    assert most <= threads.EXCHANGES + workers.MOST_IDLE


def test_threads_of_many_servers_end():
    """Of those that have nothing to do, some are kept."""
    client = memcached.Client(servers=many(SERVERS), socket_timeout=5)
    with Threads() as counted:
        client.get_multi([f'key{n}' for n in range(SERVERS * 3)])
        client.get_stats()
    assert counted.more <= journey.SIDE_BY_SIDE + workers.MOST_IDLE
    end = time.monotonic() + 10
    while threading.active_count() > 1 + workers.MOST_IDLE + 40:
        assert time.monotonic() < end
        time.sleep(0.005)
    client.disconnect_all()


def test_a_read_of_many_servers(connect):
    """Each is tried, with few threads."""
    client = connect(*many(SERVERS), socket_timeout=5)
    with Threads() as counted:
        assert client.get('key', 'default') == 'default'
    assert counted.more <= journey.SIDE_BY_SIDE + workers.MOST_IDLE


def test_discovered_servers_are_no_more(connect):
    """A thousand are taken, and are as if they were listed."""
    with Source(configuration(*many(SERVERS))) as source:
        client = connect(source.discover, socket_timeout=5)
        with Threads() as counted:
            assert client.get('key', 'default') == 'default'
        assert counted.more <= journey.SIDE_BY_SIDE + workers.MOST_IDLE
