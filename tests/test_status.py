"""What the status of an application's servers and clients promises."""

import asyncio
import concurrent.futures
import json
import os
import threading
import time
import unittest
from unittest import mock

import faults
import pytest
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import (
    MemcachedServer,
    MemcachedTestCase,
)
from sprockets.clients.memcached.watch import checks, counters
from sprockets.clients.memcached.web import status


class Page(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'pages'

    async def get(self, key):
        self.write({'value': await self.memcached.get(key)})


class Session(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'sessions'


class Application(memcached.ApplicationMixin, web.Application):
    pass


HANDLERS = [
    ('/pages/(.*)', Page),
    ('/status', memcached.StatusHandler),
    (
        '/status/sessions',
        memcached.StatusHandler,
        {'memcached_prefixes': ['sessions']},
    ),
    (
        '/status/text',
        memcached.StatusHandler,
        {'memcached_prefixes': 'pages'},
    ),
    (
        '/status/once',
        memcached.StatusHandler,
        {'memcached_prefixes': iter(['pages'])},
    ),
]

BROWSER = (
    'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,'
    'image/webp,*/*;q=0.8'
)


class HandlerTests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    """StatusHandler, on a plain application."""

    memcached_prefixes = ('pages', 'sessions')

    def get_app(self):
        return web.Application(HANDLERS)

    def tearDown(self):
        for client in getattr(self._app, 'memcached_clients', {}).values():
            self.io_loop.run_sync(client.close)
        super().tearDown()

    def status(self, path='/status', code=200):
        response = self.fetch(path)
        assert response.code == code
        assert response.headers['Content-Type'].startswith('application/json')
        assert response.headers['Cache-Control'] == 'no-store'
        return json.loads(response.body)

    def test_before_the_first_request(self):
        """The servers of the handlers are asked, though nobody used them."""
        answer = self.status()
        assert answer['available'] is True
        assert answer['status'] == 'ok'
        assert answer['process'] == os.getpid()
        (client,) = answer['clients']
        assert client['prefix'] == 'PAGES'
        assert client['available'] is True
        (server,) = client['servers']
        assert server['address'] == self.memcached_server.address
        assert server['up'] is True
        assert client['client']['calls'] == 0
        assert client['client']['calls_per_batch'] is None

    def test_what_the_client_did(self):
        """It does not count the checks themselves."""
        for key in ('a', 'b', 'c'):
            self.fetch(f'/pages/{key}')
            self.status()
        (client,) = self.status()['clients']
        did = client['client']
        assert did['calls'] == did['batches'] == did['misses'] == 3
        assert did['calls_per_batch'] == 1
        assert did['hits'] == did['errors'] == 0
        assert did['hit_rate'] == 0
        assert did['seconds_per_batch'] > 0
        assert client['servers'][0]['client'] == did

    def test_no_server_answers(self):
        """It is 503, with the reason; and 200 once the server is back."""
        self.status()
        self.memcached_server.kill()
        answer = self.status(code=503)
        assert answer['available'] is False
        assert answer['status'] == 'unavailable'
        (server,) = answer['clients'][0]['servers']
        assert server['up'] is False
        assert server['reason'] in (
            'Connection refused',
            'closed by the server',
        )
        assert server['since'] is not None
        self.fetch('/pages/a')
        failed = self.status(code=503)['clients'][0]
        assert failed['client']['errors'] == 1
        assert failed['servers'][0]['since'] == server['since']
        self.memcached_server.start()
        for client in self._app.memcached_clients.values():
            client._engine.core.forget_dead_hosts()
        assert self.status()['available'] is True

    def test_before_the_process_began(self):
        """Nothing is known of it: that is no line at zero."""
        self.fetch('/pages/a')
        (client,) = self._app.memcached_clients.values()
        client._engine.began -= 10
        past = self.status('/status?history')['clients'][0]['history']
        for name in ('calls_per_second', 'errors_per_second', 'hit_rate'):
            assert len(past[name]) == counters.MOMENTS
            assert past[name][:-30] == [None] * (counters.MOMENTS - 30)
        assert past['calls_per_second'][-1] is not None

    def test_prefixes_of_the_handler(self):
        """They take the place of those of the application."""
        answer = self.status('/status/sessions')
        assert [c['prefix'] for c in answer['clients']] == ['SESSIONS']
        answer = self.status()
        assert [c['prefix'] for c in answer['clients']] == [
            'PAGES',
            'SESSIONS',
        ]

    def test_prefixes_that_are_none(self):
        """A text is no list of prefixes: each letter would be one."""
        for path in ('/status/text', '/status/once'):
            with testing.ExpectLog('tornado.application', 'Uncaught'):
                assert self.fetch(path).code == 500
        with pytest.raises(TypeError, match="is 'pages'; expected a list of"):
            self.io_loop.run_sync(lambda: status.status_of(self._app, 'pages'))

    def test_a_page_for_a_browser(self):
        """The same, with nothing from elsewhere."""
        response = self.fetch('/status', headers={'Accept': BROWSER})
        assert response.code == 200
        assert response.headers['Content-Type'] == 'text/html; charset=utf-8'
        assert response.headers['Vary'] == 'Accept'
        assert response.headers['Cache-Control'] == 'no-store'
        page = response.body.decode()
        assert self.memcached_server.address in page
        assert '{{' not in page
        assert 'http' not in page.replace('http://www.w3.org/', '')
        policy = response.headers['Content-Security-Policy'].split('; ')
        assert policy[0] == "default-src 'none'"
        assert 'unsafe' not in str(policy)

    def test_a_page_while_no_server_answers(self):
        """It has the status code of the status."""
        self.status()
        self.memcached_server.kill()
        response = self.fetch('/status', headers={'Accept': BROWSER})
        assert response.code == 503
        assert b'unavailable' in response.body

    def test_history(self):
        """The last minutes, for the page, whatever a client prefers."""
        self.fetch('/pages/a')
        response = self.fetch('/status?history', headers={'Accept': BROWSER})
        (client,) = json.loads(response.body)['clients']
        past = client['history']
        assert past.pop('step') == counters.STEP
        assert {len(values) for values in past.values()} == {counters.MOMENTS}
        assert 'history' not in self.status()['clients'][0]

    def test_head(self):
        """For probes that want to see the code only."""
        response = self.fetch('/status', method='HEAD')
        assert response.code == 200
        assert response.body == b''

    def test_nothing_secret(self):
        """Neither keys nor values, even where they are odd."""
        self.fetch('/pages/secret-key')
        for accept in (BROWSER, 'application/json'):
            response = self.fetch('/status', headers={'Accept': accept})
            assert b'secret' not in response.body


class StatusTests(MemcachedTestCase, unittest.IsolatedAsyncioTestCase):
    """memcached_status() and status_of()."""

    async def asyncSetUp(self):
        self.application = Application(HANDLERS)
        self.addAsyncCleanup(self.application.stop_memcached)

    async def test_an_application_without_the_mixin(self):
        """It is asked all the same."""
        plain = web.Application(HANDLERS)
        answer = await status.status_of(plain, [None])
        assert answer['available'] is True
        await plain.memcached_clients[None].close()

    async def test_an_application_without_handlers_or_clients(self):
        """The servers without a prefix are asked."""
        application = Application([])
        answer = await application.memcached_status()
        assert [c['prefix'] for c in answer['clients']] == [None]
        await application.stop_memcached()

    async def test_nested_routers(self):
        """A handler is found wherever it is."""
        inner = web.Application([('/session', Session)])
        self.application.add_handlers('example.com', [('/page', Page)])
        self.application.add_handlers('.*', [('/inner/.*', inner)])
        self.application.memcached_client('other')
        assert set(status.prefixes_of(self.application)) == {
            'pages',
            'sessions',
            'OTHER',
        }

    async def test_one_of_two_servers_is_down(self):
        """It is degraded; without failover it is unavailable."""
        with MemcachedServer() as other:
            for prefix, failover in (('a', True), ('b', False)):
                client = self.application.memcached_client(
                    prefix,
                    servers=[self.memcached_server.address, other.address],
                    failover=failover,
                )
                await client.get('key')
            other.kill()
            answer = await status.status_of(self.application, ['a'])
            assert (answer['available'], answer['status']) == (
                True,
                'degraded',
            )
            assert [s['up'] for s in answer['clients'][0]['servers']] == [
                True,
                False,
            ]
            answer = await status.status_of(self.application, ['b'])
            assert (answer['available'], answer['status']) == (
                False,
                'unavailable',
            )

    async def test_a_malformed_variable(self):
        """It says which; what is wrong with it may be a secret."""
        variables = {
            'PAGES_MEMCACHED_SERVERS': 'user:secret@host',
            'PAGES_MEMCACHED_KEY_PREFIX': 'secret secret',
        }
        with mock.patch.dict(os.environ, variables):
            answer = await self.application.memcached_status()
        assert answer['available'] is False
        assert answer['status'] == 'unavailable'
        (client,) = answer['clients']
        assert client['error'] == 'PAGES_MEMCACHED_SERVERS cannot be used'
        assert client['servers'] == []
        assert 'secret' not in json.dumps(answer)

    async def test_many_at_once(self):
        """They share one look, and one connection."""
        with faults.FaultProxy(self.memcached_server.address) as proxy:
            self.application.memcached_client('pages', servers=proxy.address)
            answers = await asyncio.gather(
                *[self.application.memcached_status() for _ in range(50)]
            )
            assert all(answer['available'] for answer in answers)
            assert proxy.received.count(b'stats') == 1
            assert len(proxy.connections) == 1

    async def test_many_one_after_the_other(self):
        """The servers are not asked for each, unless something has ended."""
        with (
            faults.FaultProxy(self.memcached_server.address) as proxy,
            mock.patch.object(status, 'FRESH', 3600),
        ):
            self.application.memcached_client('pages', servers=proxy.address)
            for _ in range(10):
                answer = await self.application.memcached_status()
                assert answer['available'] is True
            assert proxy.received.count(b'stats') == 1
            proxy.close_connections()
            answer = await self.application.memcached_status()
            assert answer['available'] is True
            assert proxy.received.count(b'stats') == 2
            with mock.patch.object(status, 'FRESH', 0):
                await self.application.memcached_status()
            assert proxy.received.count(b'stats') == 3
            await self.application.memcached_status()
            assert proxy.received.count(b'stats') == 3
            self.memcached_server.kill()
            # Until the proxy has closed its connection, nothing has ended.
            while (await self.application.memcached_status())['available']:
                await asyncio.to_thread(time.sleep, 0.01)

    async def test_a_server_that_hangs(self):
        """The answer comes after the timeout, for all who asked."""
        client = self.application.memcached_client(
            'pages', socket_timeout=1, dead_retry=30
        )
        await client.get('key')
        self.memcached_server.pause()
        began = time.monotonic()
        answers = await asyncio.gather(
            *[self.application.memcached_status() for _ in range(10)]
        )
        assert 0.9 < time.monotonic() - began < 5
        assert not any(answer['available'] for answer in answers)
        await self.find_it_down()
        # It is known to be down now, and nobody waits for it again.
        began = time.monotonic()
        await self.find_it_down()
        assert time.monotonic() - began < 0.9
        self.memcached_server.resume()

    async def find_it_down(self):
        """Look until a server that hangs is known to do so.

        A process that is late itself does not know.

        """
        reason = None
        while reason != 'timed out':
            answer = await self.application.memcached_status()
            (server,) = answer['clients'][0]['servers']
            reason = server['reason']

    async def test_no_thread_is_free(self):
        """It does not wait longer for a thread than for a server."""
        self.application.memcached_client('pages', socket_timeout=0.2)
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        release = threading.Event()
        for _ in range(checks.SIDE_BY_SIDE):
            checks.submit(release.wait)
        answer = await self.application.memcached_status()
        (server,) = answer['clients'][0]['servers']
        assert server['reason'].startswith('not asked: ')
        checks.submit(lambda: loop.call_soon_threadsafe(done.set))
        release.set()
        await done.wait()

    async def test_a_caller_that_goes_away(self):
        """It leaves the look to the others."""
        one = asyncio.create_task(self.application.memcached_status())
        two = asyncio.create_task(self.application.memcached_status())
        await asyncio.sleep(0)
        one.cancel()
        assert (await two)['available'] is True
        with pytest.raises(asyncio.CancelledError):
            await one

    async def test_the_calls_learn_from_a_look(self):
        """After a look has found the server down, no call waits for it."""
        client = self.application.memcached_client('pages', socket_timeout=2)
        await client.set('key', 'value')
        self.memcached_server.pause()
        await self.find_it_down()
        began = time.monotonic()
        assert await client.get('key') is None
        assert time.monotonic() - began < 1.5
        self.memcached_server.resume()

    async def test_an_executor(self):
        """It works with a client that has one of the application's."""
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            self.application.memcached_client('pages', executor=executor)
            assert (await self.application.memcached_status())['available']
            await self.application.stop_memcached()


def test_another_loop():
    """A client that is used in one loop after another is asked in each."""
    with MemcachedServer() as server:
        application = Application([])
        client = application.memcached_client(servers=server.address)
        for _ in range(2):
            answer = asyncio.run(application.memcached_status())
            assert answer['available'] is True
        asyncio.run(client.close())


@pytest.mark.parametrize(
    'accept, page',
    [
        (BROWSER, True),
        ('text/html', True),
        ('TEXT/HTML; Q=0.5', True),
        ('application/json, text/html;q=0.9', False),
        ('application/json;q=0.8, text/html;q=0.9', True),
        ('text/html;level=1;q=0.5, application/json;q=0.9', False),
        ('text/html;charset=utf-8;q=0.9, application/json;q=0.5', True),
        ('text/html;q=0.5;x=1, application/json;q=0.9', False),
        ('text/html, application/json', False),
        ('text/html;q=0', False),
        ('*/*', False),
        ('application/json', False),
        ('nonsense;;q=x,,', False),
        ('', False),
    ],
)
def test_who_gets_the_page(accept, page):
    """Who prefers HTML to JSON; a probe does not have to say anything."""
    assert status._wants_html(accept) is page


def test_history_of_a_client():
    """It is the sum of its servers, and of the calls that none was up for."""
    one, two, unserved = (counters.Counters() for _ in range(3))
    now = time.monotonic()
    for count in (one, two):
        count.turn(now - counters.STEP)
        count.calls, count.batches, count.hits, count.seconds = 8, 2, 8, 0.5
    two.misses = 16
    unserved.fail(now - counters.STEP)
    past = status._history([one, two, unserved])
    moments = list(
        zip(
            past['calls_per_second'],
            past['errors_per_second'],
            past['hit_rate'],
            past['seconds_per_batch'],
            strict=True,
        )
    )
    # The present moment may have ended meanwhile.
    assert (8.5, 0.5, 0.5, 0.25) in moments[-2:]
    assert moments[0] == (0, 0, None, None)
