"""Which client a cached function uses: where it runs."""

import asyncio
import concurrent.futures
import gc
import os
import threading
import unittest
import weakref
from unittest import mock

import pytest
import wire
from tornado import testing as tornado_testing
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import current, testing
from sprockets.clients.memcached.web import handlers


@memcached.cached(60)
async def load(number):
    return f'loaded {number}'


@memcached.cached(60, prefix='others')
async def load_other(number):
    return f'other {number}'


@memcached.cached(60)
def load_in_thread(number):
    return f'loaded {number}'


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


class Page(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'pages'
    memcached_server_timing = True

    async def get(self, number):
        self.write(await load(int(number)))

    async def post(self, number):
        self.write(await load_other(int(number)))

    async def put(self, number):
        self.write(await asyncio.to_thread(load_in_thread, int(number)))

    async def delete(self, number):
        task = asyncio.create_task(load(int(number)))
        self.write(await task)

    def on_memcached_timing(self, command, duration):
        self.application.timings.append(command)


class Methods(Page):
    memcached_prefix = 'pages'

    @memcached.cached(60, prefix='others', name='a')
    async def load(self, number):
        return f'loaded {number}'

    @memcached.cached(60, prefix='others', name='b')
    def load_plainly(self, number):
        return f'plainly loaded {number}'

    @memcached.cached.many(60, prefix='others', name='c')
    async def load_many(self, numbers):
        return {number: f'one of many {number}' for number in numbers}

    async def get(self, number):
        number = int(number)
        self.write(await self.load(number))
        self.write(await self.load_plainly(number))
        self.write((await self.load_many([number]))[number])


class HandlerTestCase(
    testing.MemcachedTestCase, tornado_testing.AsyncHTTPTestCase
):
    memcached_prefixes = ('pages', 'others')

    def get_app(self):
        application = web.Application(
            [(r'/(\d+)', Page), (r'/methods/(\d+)', Methods)]
        )
        application.timings = []
        return application

    def tearDown(self):
        clients = getattr(self._app, 'memcached_clients', {})
        for client in clients.values():
            self.io_loop.run_sync(client.close)
        super().tearDown()

    def stored(self, function, number):
        return wire.stored(self.memcached_server.address, function.key(number))

    def test_it_uses_the_client_of_the_handler(self):
        """With its metrics and its Server-Timing; there is no other."""
        answers = [self.fetch('/7') for _ in range(2)]
        assert [answer.body for answer in answers] == [b'loaded 7'] * 2
        assert 'hits=0, misses=1' in answers[0].headers['Server-Timing']
        assert 'hits=1, misses=0' in answers[1].headers['Server-Timing']
        assert self._app.timings == ['get_or_set'] * 2
        assert list(self._app.memcached_clients) == ['PAGES']
        assert self.stored(load, 7) == (16, b'loaded 7')

    def test_a_prefix_is_the_applications_for_it(self):
        """It is counted with the request."""
        for _ in range(2):
            answer = self.fetch('/7', method='POST', body='')
            assert answer.body == b'other 7'
        assert 'hits=1, misses=0' in answer.headers['Server-Timing']
        assert sorted(self._app.memcached_clients) == ['OTHERS']
        assert self.stored(load_other, 7)

    def test_a_prefix_is_for_methods_of_the_handler_too(self):
        """It is said of the method, and the other one of the handler."""
        variables = {'OTHERS_MEMCACHED_KEY_PREFIX': 'others:'}
        with mock.patch.dict(os.environ, variables):
            for _ in range(2):
                answer = self.fetch('/methods/7')
                assert answer.body == b'loaded 7plainly loaded 7one of many 7'
        assert 'hits=3, misses=0' in answer.headers['Server-Timing']
        for name in ('a(number=7)', 'b(number=7)', 'c(numbers=7)'):
            address = self.memcached_server.address
            assert wire.stored(address, f'others:{name}'), name

    def test_a_task_of_a_handler_uses_it_too(self):
        """It has the handler's context."""
        answer = self.fetch('/7', method='DELETE')
        assert answer.body == b'loaded 7'
        assert 'misses=1' in answer.headers['Server-Timing']

    def test_a_thread_of_a_handler_uses_its_servers(self):
        """By a blocking client."""
        answer = self.fetch('/7', method='PUT', body='')
        assert answer.body == b'loaded 7'
        assert self.stored(load_in_thread, 7)


def test_what_outlives_a_request_uses_the_application(memcached_server):
    """And after that what there is in the process."""

    async def main():
        current.forget()
        application = web.Application([])
        handler = Page.__new__(Page)
        handler.application = application

        request = handlers._Request(handler)

        async def work():
            current.enter(request)
            go_on.set()
            await gone.wait()
            client = current.awaitable(None)
            assert client is application.memcached_clients['PAGES']
            await asyncio.sleep(0)
            return client

        go_on, gone = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(work())
        await go_on.wait()
        there = weakref.ref(handler)
        del handler
        gc.collect()
        assert there() is None
        gone.set()
        await (await task).close()

    asyncio.run(main())


@pytest.mark.parametrize('turn', [1, 2])
def test_each_test_case_has_its_own_server(turn):
    """One after the other; neither sees what the other has stored."""
    seen = []

    class Case(testing.MemcachedTestCase, unittest.IsolatedAsyncioTestCase):
        async def test_a(self):
            address = self.memcached_server.address
            for function in (load, load_in_thread):
                value = function(7)
                if function is load:
                    value = await value
                assert value == 'loaded 7'
                stored = await asyncio.to_thread(
                    wire.stored, address, function.key(7)
                )
                assert stored == (16, b'loaded 7')
            seen.append(address)
            await current.close()

    for _ in range(2):
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
        result = unittest.TestResult()
        suite.run(result)
        assert result.wasSuccessful(), result.errors
    assert len(set(seen)) == 2


def test_the_environment_counts_when_a_loop_begins(address, monkeypatch):
    """Not that of the loop before; with the same one it is the same client."""

    async def client():
        assert await load(7) == 'loaded 7'
        assert current.awaitable(None) is current.awaitable(None)
        return current.awaitable(None)

    first = asyncio.run(client())
    assert asyncio.run(client()) is first
    monkeypatch.setenv('MEMCACHED_KEY_PREFIX', 'other:')

    async def other():
        assert await client() is not first
        await current.close()

    asyncio.run(other())
    assert wire.stored(address, f'other:{load.key(7)}')


def test_loops_in_several_threads_have_clients_of_their_own(address):
    """And the threads one together."""

    async def client():
        assert await load(7) == 'loaded 7'
        await asyncio.to_thread(barrier.wait)
        made = current.awaitable(None)
        await current.close()
        return made

    barrier = threading.Barrier(3, timeout=60)
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        clients = list(executor.map(lambda _: asyncio.run(client()), range(3)))
        assert len(set(clients)) == 3
        made = list(executor.map(lambda _: current.blocking(None), range(6)))
    assert len(set(map(id, made[-3:]))) == 1


def test_it_is_closed_with_the_application(address):
    """What functions outside of requests used."""

    class Application(memcached.ApplicationMixin, web.Application):
        pass

    async def main():
        application = Application()
        assert await load(7) == 'loaded 7'
        client = current.awaitable(None)
        assert application.memcached_clients == {}
        await application.stop_memcached()
        with pytest.raises(RuntimeError, match='closed'):
            await client.get('key')
        # One that is asked for later is made anew.
        assert await load(7) == 'loaded 7'
        await current.close()

    asyncio.run(main())


def test_a_function_returns_the_client(address):
    """When it is needed; blocking or awaitable, as it must be."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        made = []

        def find():
            made.append(client)
            return client

        @memcached.cached(60, client=find)
        async def square(x):
            return x * x

        assert not made
        assert await square(3) == await square(3) == 9
        assert len(made) == 2
        assert await square.invalidate(3)

        @memcached.cached(60, client=lambda: blocking)
        async def wrong(x):
            return x

        blocking = memcached.Client(servers=address)
        with pytest.raises(TypeError, match='expected an AsyncClient'):
            await wrong(3)

        @memcached.cached(60, client=lambda: blocking)
        def cube(x):
            return x**3

        assert await asyncio.to_thread(cube, 3) == 27
        blocking.disconnect_all()
        await client.close()

    asyncio.run(main())


class Prices:
    def __init__(self, client):
        self.memcached = client

    @memcached.cached(60)
    async def load(self, number):
        return number

    @memcached.cached.many(60)
    async def load_many(self, numbers):
        return dict.fromkeys(numbers, 1)

    @memcached.cached.many(60)
    def load_many_plainly(self, numbers):
        return dict.fromkeys(numbers, 1)


def test_a_client_of_an_object_that_is_not_for_the_function(address):
    """It is refused in the call, and nothing is left to be awaited."""

    async def main():
        prices = Prices(memcached.Client(servers=address))
        for call in (
            lambda: prices.load(7),
            lambda: prices.load.invalidate(7),
            lambda: prices.load_many([7]),
        ):
            with pytest.raises(TypeError, match='wants an AsyncClient'):
                await call()
        assert prices.load_many_plainly([7]) == {7: 1}
        prices.memcached.disconnect_all()
        async with memcached.AsyncClient(servers=address) as client:
            prices = Prices(client)
            assert await prices.load(7) == 7
            for method in ('__call__', 'refresh', 'invalidate'):
                with pytest.raises(TypeError, match='wants a blocking Client'):
                    getattr(prices.load_many_plainly, method)([7])

    asyncio.run(main())


def test_a_thread_looks_where_a_shell_can_say_the_prefix(address, monkeypatch):
    """A dash is written as _ there."""

    @memcached.cached(60, prefix='my-app', name='load')
    def function(number):
        return number

    monkeypatch.setenv('MY_APP_MEMCACHED_SERVERS', address)
    for key_prefix in 'one:', 'other:':
        monkeypatch.setenv('MY_APP_MEMCACHED_KEY_PREFIX', key_prefix)
        assert function(7) == 7
        assert wire.stored(address, f'{key_prefix}load(number=7)')


def test_a_fork_has_clients_of_its_own():
    """It begins anew."""
    before = current.blocking(None)
    current._clients.forget_after_fork()
    assert current.blocking(None) is not before
    current.forget()


@pytest.mark.parametrize('first', ['load', 'load_in_thread'])
def test_without_a_server_it_computes(monkeypatch, first):
    """As get_or_set does."""
    monkeypatch.setenv('MEMCACHED_SERVERS', '127.0.0.1:1')
    current.forget()

    async def main():
        assert await load(7) == 'loaded 7'
        assert await load.invalidate(7) == 0
        await current.close()

    if first == 'load':
        asyncio.run(main())
    else:
        assert load_in_thread(7) == 'loaded 7'
        assert load_in_thread.invalidate(7) == 0
    current.forget()
