"""What is told when something happens to a server."""

import asyncio
import logging
import threading
import time

import faults
import pytest
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import (
    MemcachedServer,
    MemcachedTestCase,
)

SECONDS = 20


def wait_for(client, events, count):
    """Use a client until so much was told."""

    async def use():
        for _ in range(SECONDS * 100):
            client.get('key')
            if len(events) >= count:
                return
            await asyncio.sleep(0.01)

    asyncio.run(use())
    return [event.kind for event in events]


def test_down_and_up(caplog):
    """Each once, with the reason, and for how long; the same in the log."""
    caplog.set_level(logging.INFO, 'sprockets.clients.memcached')
    events = []
    with MemcachedServer() as server:
        client = memcached.Client(servers=server.address, dead_retry=0.1)
        client.watch_servers(events.append)
        client.get('key')
        server.kill()
        assert wait_for(client, events, 1) == ['down']
        server.start()
        assert wait_for(client, events, 2) == ['down', 'up']
        client.disconnect_all()
    down, up = events
    assert down == memcached.ServerEvent(
        'down', server.address, reason=down.reason
    )
    assert down.reason in ('Connection refused', 'closed by the server')
    assert up.server == server.address
    assert 0 < up.seconds < SECONDS
    for word in (' is down: ', ' is up after '):
        lines = [line for line in caplog.messages if word in line]
        assert len(lines) == 1


@pytest.mark.parametrize('hours', [-2, 2])
def test_for_how_long_whatever_the_clock_says(hours, caplog, monkeypatch):
    """It is set while the server is down."""
    caplog.set_level(logging.INFO, 'sprockets.clients.memcached')
    told = time.time
    events = []
    with MemcachedServer() as server:
        client = memcached.Client(servers=server.address, dead_retry=0.1)
        client.watch_servers(events.append)
        server.kill()
        assert wait_for(client, events, 1) == ['down']
        monkeypatch.setattr(time, 'time', lambda: told() + hours * 3600)
        server.start()
        assert wait_for(client, events, 2) == ['down', 'up']
        client.disconnect_all()
    assert 0 < events[1].seconds < SECONDS
    (line,) = [line for line in caplog.messages if ' is up after ' in line]
    assert 0 <= float(line.split()[-2]) < SECONDS


def test_each_client_of_a_server_is_told():
    """What one has noticed is so for all."""
    told = []
    with MemcachedServer() as server:
        clients = [
            memcached.Client(servers=server.address, dead_retry=30)
            for _ in range(2)
        ]
        clients[1].watch_servers(told.append)
        server.kill()
        clients[0].get('key')
        clients[0].get('key')
    assert [event.kind for event in told] == ['down']


def test_servers_that_change(connect):
    """Those that are new, and those that are gone."""
    told = []
    client = connect('127.0.0.1:1', '127.0.0.1:2')
    client.watch_servers(told.append)
    client.set_servers(['127.0.0.1:2', '127.0.0.1:3'])
    client.get('key')
    assert [(e.kind, e.server) for e in told if e.kind != 'down'] == [
        ('discovered', '127.0.0.1:3'),
        ('gone', '127.0.0.1:1'),
    ]


def test_servers_that_somebody_tells(memcached_server):
    host, port = memcached_server.host, memcached_server.port
    nodes = f'1\n|{host}|{port}\n'.encode()
    answer = b'CONFIG cluster 0 %d\r\n%b\r\nEND\r\n' % (len(nodes), nodes)
    told = []
    with faults.ScriptedServer([answer]) as source:
        client = memcached.Client(servers=f'discover:{source.address}')
        client.watch_servers(told.append)
        client.set('key', 1)
        client.disconnect_all()
    assert told == [
        memcached.ServerEvent('discovered', memcached_server.address)
    ]


def test_a_listener_that_fails(caplog):
    """It is logged, and harms neither the call nor the others."""
    told = []

    def fail(event):
        raise ZeroDivisionError

    client = memcached.Client(servers='127.0.0.1:1', dead_retry=30)
    client.forget_dead_hosts()
    client.watch_servers(fail)
    client.watch_servers(told.append)
    assert client.get('key') is None
    assert [event.kind for event in told] == ['down']
    assert any('A listener failed' in m for m in caplog.messages)
    with pytest.raises(TypeError, match='callback is 3; expected a function'):
        client.watch_servers(3)


class Application(memcached.ApplicationMixin, web.Application):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told = []
        self.threads = set()

    def tell(self, *what):
        self.told.append(what)
        self.threads.add(threading.current_thread())

    def on_memcached_server_down(self, prefix, server, reason):
        self.tell('down', prefix, server, reason)

    def on_memcached_server_up(self, prefix, server, seconds):
        self.tell('up', prefix, server, seconds)

    def on_memcached_server_discovered(self, prefix, server):
        self.tell('discovered', prefix, server)

    def on_memcached_server_gone(self, prefix, server):
        self.tell('gone', prefix, server)


class Page(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'pages'

    async def get(self):
        await self.memcached.get('key')


class Tests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    memcached_prefixes = ('pages',)

    def get_app(self):
        return Application([('/', Page)])

    def tearDown(self):
        self.io_loop.run_sync(self._app.stop_memcached)
        super().tearDown()

    async def until(self, count):
        for _ in range(SECONDS * 100):
            await self.http_client.fetch(self.get_url('/'))
            if len(self._app.told) >= count:
                return
            await asyncio.sleep(0.01)

    @testing.gen_test(timeout=SECONDS)
    async def test_hooks_of_an_application(self):
        """They are called in the loop, with the prefix."""
        await self.http_client.fetch(self.get_url('/'))
        self.memcached_server.kill()
        await self.until(1)
        self.memcached_server.start()
        (client,) = self._app.memcached_clients.values()
        await client.forget_dead_hosts()
        await self.until(2)
        await client.set_servers(['127.0.0.1:1'])
        await self.until(4)
        address = self.memcached_server.address
        down, up, discovered, gone = self._app.told[:4]
        assert down[:3] == ('down', 'PAGES', address)
        assert up[:3] == ('up', 'PAGES', address)
        assert 0 < up[3] < SECONDS
        assert discovered == ('discovered', 'PAGES', '127.0.0.1:1')
        assert gone == ('gone', 'PAGES', address)
        assert self._app.threads == {threading.current_thread()}
