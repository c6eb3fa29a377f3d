"""What a request has read it reads again for nothing: memcached_memo."""

import asyncio
import random

import pytest
from tornado import httpclient, httpserver, testing, web, websocket

from sprockets.clients import memcached
from sprockets.clients.memcached import aio
from sprockets.clients.memcached.web import handlers, memo

SECONDS = 30


@pytest.fixture
def other(memcached_server):
    """Another client, which changes things behind the request's back."""
    client = memcached.Client(servers=memcached_server.address)
    yield client
    client.disconnect_all()


def run(body, base=web.RequestHandler, strict=False, **attributes):
    """Run the body of a test in a handler, for one request."""
    results = []

    class Page(memcached.MemcachedMixin, base):
        memcached_memo = True
        asked = 0

        async def get(self):
            results.append(await body(self))

        def on_memcached_timing(self, command, duration):
            self.asked += 1

    for name, value in attributes.items():
        setattr(Page, name, value)

    async def main():
        application = web.Application([('/', Page)])
        handlers.client_of(application, None, strict=strict, socket_timeout=1)
        sock, port = testing.bind_unused_port()
        server = httpserver.HTTPServer(application)
        server.add_sockets([sock])
        try:
            await httpclient.AsyncHTTPClient().fetch(
                f'http://127.0.0.1:{port}/', request_timeout=SECONDS
            )
        finally:
            server.stop()
            await server.close_all_connections()
            for client in application.memcached_clients.values():
                await client.close()

    asyncio.run(main())
    return results[0]


@pytest.mark.parametrize('strict', [False, True])
def test_a_key_is_read_once(other, strict):
    """Whatever others make of it meanwhile; a miss too."""

    async def body(handler):
        cache = handler.memcached
        other.set('a', 'old')
        assert await cache.get('a') == 'old'
        assert await cache.get('none', 'default') == 'default'
        other.set_multi({'a': 'new', 'none': 'new'})
        assert await cache.get('a') == 'old'
        assert await cache.get('none') is None
        assert await cache.get('none', 'another') == 'another'
        assert await cache.get_multi(['a', 'none']) == {'a': 'old'}
        return handler.asked

    assert run(body, strict=strict) == 2


def test_without_it_each_read_asks(other):
    async def body(handler):
        other.set('a', 'old')
        assert await handler.memcached.get('a') == 'old'
        other.set('a', 'new')
        return await handler.memcached.get('a')

    assert run(body, memcached_memo=False) == 'new'


def test_what_is_raised_is_not_remembered(other, memcached_server):
    """A client that raises does so as long as no server answers."""

    async def body(handler):
        cache = handler.memcached
        other.set_multi({'a': 1, 'b': 2})
        memcached_server.pause()
        try:
            for _ in range(2):
                with pytest.raises(memcached.UnavailableError):
                    await cache.get('a')
                with pytest.raises(memcached.UnavailableError):
                    await cache.get_multi(['a', 'b'])
        finally:
            memcached_server.resume()
        assert await cache.wait_until_ready(SECONDS)
        return await cache.get('a'), await cache.get_multi(['a', 'b'])

    assert run(body, strict=True) == (1, {'a': 1, 'b': 2})


@pytest.mark.parametrize('strict', [False, True])
def test_many_keys(other, strict):
    """Those that are known are not asked for."""

    async def body(handler):
        cache = handler.memcached
        other.set_multi({'p:a': 1, 'p:b': 2, 'p:c': 3})
        assert await cache.get('p:a') == 1
        found = await cache.get_multi(['a', 'b', 'x'], key_prefix='p:')
        assert found == {'a': 1, 'b': 2}
        other.set_multi({'p:a': 0, 'p:b': 0, 'p:x': 0})
        assert await cache.get('p:b') == 2
        assert await cache.get('p:x') is None
        found = await cache.get_multi(['a', 'b', 'c', 'x'], 'p:')
        assert found == {'a': 1, 'b': 2, 'c': 3}
        assert await cache.get_multi(['p:a', 'p:c']) == {'p:a': 1, 'p:c': 3}
        return handler.asked

    assert run(body, strict=strict) == 3


def test_at_the_same_time_it_is_read_once(other):
    async def body(handler):
        other.set('a', 'value')
        found = await asyncio.gather(
            *[handler.memcached.get('a') for _ in range(10)],
            handler.memcached.get_multi(['a']),
        )
        assert found == ['value'] * 10 + [{'a': 'value'}]
        return handler.asked

    assert run(body) == 1


WRITES = {
    'set': lambda cache: cache.set('a', 7),
    'add': lambda cache: cache.add('a', 7),
    'replace': lambda cache: cache.replace('a', 7),
    'append': lambda cache: cache.append('a', '7'),
    'prepend': lambda cache: cache.prepend('a', '7'),
    'incr': lambda cache: cache.incr('a', 4),
    'incr with initial': lambda cache: cache.incr('a', 4, initial=1),
    'decr': lambda cache: cache.decr('a', 1),
    'delete': lambda cache: cache.delete('a'),
    'touch': lambda cache: cache.touch('a', 60),
    'gat': lambda cache: cache.gat('a', 60),
    'set_multi': lambda cache: cache.set_multi({'a': 7}),
    'delete_multi': lambda cache: cache.delete_multi(['a']),
    'flush_all': lambda cache: cache.flush_all(),
    'invalidate': lambda cache: cache.invalidate('a'),
    'update': lambda cache: cache.update('a', lambda old: 7),
    'gets': lambda cache: cache.gets('a'),
    'get_or_set_multi': lambda cache: cache.get_or_set_multi(['a'], made),
    'mark_stale': lambda cache: cache.mark_stale('a'),
    'limit': lambda cache: cache.limit('a', 9, 60),
    'gats': lambda cache: cache.gats('a', 60),
    'get_or_set': lambda cache: cache.get_or_set('a', lambda: 7),
    'get_or_set with a default': lambda cache: cache.get_or_set(
        'a', lambda: 7, default=0
    ),
}

HARMLESS = {
    *('get', 'get_multi', 'get_stats', 'get_slabs', 'get_slab_stats'),
    *('ping', 'version', 'wait_until_ready', 'watch_servers'),
    *('forget_dead_hosts', 'disconnect_all', 'quit_all', 'reset_cas'),
    # What is in these has keys of its own.
    *('namespace', 'invalidate_tags', 'lock'),
    # It is for no request.
    'set_servers',
}
"""Methods that write no key that a request may have read."""


def made(keys):
    return dict.fromkeys(keys, 7)


@pytest.mark.parametrize('name', WRITES)
@pytest.mark.parametrize('before', ['get', 'get_multi', 'get_or_set'])
def test_a_write_goes_through(other, name, before):
    """The next read asks, and so sees what others wrote as well."""

    async def body(handler):
        cache = handler.memcached
        other.set('a', 3)
        if before == 'get':
            assert await cache.get('a') == 3
        elif before == 'get_multi':
            assert await cache.get_multi(['a']) == {'a': 3}
        else:
            assert await cache.get_or_set('a', lambda: 0) == 3
        await WRITES[name](cache)
        expected = other.get('a')
        assert await cache.get('a') == expected
        other.set('a', 'last')
        assert await cache.get('a') == expected
        return True

    assert run(body)


@pytest.mark.parametrize('name', WRITES)
def test_what_is_made_where_nothing_was_is_seen(other, name):
    """The request has read before that there is nothing."""

    async def body(handler):
        cache = handler.memcached
        assert await cache.get('a') is None
        await WRITES[name](cache)
        assert await cache.get('a') == other.get('a')
        return True

    assert run(body)


def test_each_method_that_writes_is_tried():
    """A new one has to be looked at."""
    names = {
        name for name in dir(aio.Methods) if not name.startswith('_')
    } - HARMLESS
    # That of cas is below.
    assert {name.partition(' ')[0] for name in WRITES} == names - {'cas'}


def test_a_write_that_nobody_awaited(other):
    """What is read in the same turn comes after it."""

    async def body(handler):
        other.set('a', 'old')
        assert await handler.memcached.get('a') == 'old'
        writing = handler.memcached.set('a', 'new')
        assert await handler.memcached.get('a') == 'new'
        return await writing

    assert run(body)


def test_cas_is_what_it_was(other):
    async def body(handler):
        cache = handler.memcached
        other.set('a', 1)
        assert await cache.get('a') == 1
        other.set('a', 2)
        assert await cache.gets('a') == 2
        assert await cache.cas('a', 3)
        assert await cache.get('a') == other.get('a') == 3
        await cache.gets('a')
        other.set('a', 4)
        return await cache.cas('a', 5)

    assert not run(body)


def test_a_value_computed_once(other):
    """get_or_set and cached functions remember as well."""
    calls = []

    def factory():
        calls.append(1)
        return len(calls)

    async def body(handler):
        cache = handler.memcached
        assert await cache.get('a') is None
        assert await cache.get_or_set('a', factory, 60) == 1
        assert await cache.get('a') == 1
        other.set('a', 'changed')
        assert await cache.get_or_set('a', factory, 60) == 1
        assert await cache.get_or_set('a', factory, 60, stale=60) == 1
        assert await handler.load(5) == 'loaded 5'
        other.delete(handler.load.key(5))
        assert await handler.load(5) == 'loaded 5'
        assert await handler.load.invalidate(5) == 0
        assert await handler.load(5) == 'loaded 5'
        return loaded

    loaded = []

    @memcached.cached(60, key='load:{number}')
    async def load(self, number):
        loaded.append(number)
        return f'loaded {number}'

    assert run(body, load=load) == [5, 5]


@pytest.mark.parametrize('way', ['get_or_set', 'get_or_set_multi', 'update'])
def test_who_reads_while_a_value_is_computed(other, way):
    """What is read then is old once the value is there."""

    async def body(handler):
        cache = handler.memcached
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def factory(given=None):
            begun.set()
            await go_on.wait()
            return {'a': 7} if way == 'get_or_set_multi' else 7

        if way == 'get_or_set_multi':
            call = cache.get_or_set_multi(['a'], factory)
        else:
            call = getattr(cache, way)('a', factory)
        computing = asyncio.ensure_future(call)
        await begun.wait()
        assert await cache.get('a') is None
        assert await cache.get_multi(['a']) == {}
        go_on.set()
        assert await computing in (7, {'a': 7})
        assert await cache.get('a') == 7
        return await cache.get_multi(['a'])

    assert run(body) == {'a': 7}


def test_tasks_that_read_and_write_at_once(other):
    """Once they are done, what is remembered is what is there."""
    source = random.Random(7)
    calls = [
        # What they make is no number any more.
        *[WRITES[name] for name in WRITES if 'pend' not in name],
        *[lambda cache: cache.get('a')] * 12,
        *[lambda cache: cache.get_multi(['a', 'b'])] * 6,
        *[lambda cache: cache.get_or_set('a', lambda: 5)] * 3,
    ]

    async def one(cache):
        for _ in range(source.randrange(3)):
            await asyncio.sleep(0)
        await source.choice(calls)(cache)

    async def body(handler):
        cache = handler.memcached
        for _ in range(100):
            await asyncio.gather(*[one(cache) for _ in range(20)])
            assert await cache.get('a') == other.get('a')
        return True

    assert run(body)


def test_a_factory_that_fails_is_asked_again(other):
    async def body(handler):
        def fail():
            raise ValueError

        cache = handler.memcached
        with pytest.raises(ValueError):  # noqa: PT011
            await cache.get_or_set('a', fail, 60)
        return await cache.get_or_set('a', lambda: 'value', 60)

    assert run(body) == 'value'


def test_nobody_changes_what_another_one_has_read(other):
    async def body(handler):
        cache = handler.memcached
        other.set('a', [1])
        first = await cache.get('a')
        first.append(2)
        second = (await cache.get_multi(['a']))['a']
        second.append(3)
        assert await cache.get_or_set('a', list) == [1]
        return await cache.get('a')

    assert run(body) == [1]


def test_one_who_is_cancelled_leaves_it_to_the_others(other):
    async def body(handler):
        other.set('a', 'value')
        first = handler.memcached.get('a')
        second = handler.memcached.get('a')
        first.cancel()
        return await second, await handler.memcached.get('a')

    assert run(body) == ('value', 'value')


def test_each_request_begins_anew(other):
    other.set('a', 'first')

    async def body(handler):
        return await handler.memcached.get('a')

    assert run(body) == 'first'
    other.set('a', 'second')
    assert run(body) == 'second'


def test_prefixes_are_apart(other, monkeypatch, memcached_server):
    monkeypatch.setenv('OTHER_MEMCACHED_KEY_PREFIX', 'other:')

    async def body(handler):
        other.set_multi({'a': 'own', 'other:a': 'other'})
        own = await handler.memcached.get('a')
        return own, await handler.memcached_for('other').get('a')

    assert run(body) == ('own', 'other')


def test_it_is_bounded(other, monkeypatch):
    monkeypatch.setattr(memo, 'MOST', 5)

    async def body(handler):
        cache = handler.memcached
        for number in range(10):
            await cache.get(f'key{number}')
        other.set_multi({f'key{number}': 'new' for number in range(10)})
        found = [await cache.get(f'key{number}') for number in range(10)]
        return found.count('new')

    assert run(body) == 5


def test_a_bad_key_is_an_error(other):
    async def body(handler):
        cache = handler.memcached
        for call in (
            lambda: cache.get('a b'),
            lambda: cache.get_multi(['a b']),
            lambda: cache.get_or_set('a b', list),
        ):
            with pytest.raises(memcached.Client.MemcachedKeyCharacterError):
                await call()
        return handler.asked

    assert run(body) == 0


@pytest.mark.parametrize('keys', [None, 7])
def test_keys_that_are_no_list_are_an_error(other, keys):
    async def body(handler):
        with pytest.raises(TypeError, match=f'keys is {keys}; expected'):
            await handler.memcached.get_multi(keys)
        return handler.asked

    assert run(body) == 0


def test_an_outage_looks_as_ever(memcached_server):
    """Misses, and what is computed."""

    async def body(handler):
        cache = handler.memcached
        memcached_server.kill()
        assert await cache.get('a', 'default') == 'default'
        assert await cache.get_multi(['a', 'b']) == {}
        assert await cache.set('a', 1) == 0
        return await cache.get_or_set('a', lambda: 'computed', 60)

    assert run(body) == 'computed'


def test_a_websocket_has_none(other):
    """It goes on for as long as it likes."""

    class Socket(memcached.MemcachedMixin, websocket.WebSocketHandler):
        memcached_memo = True

    handler = Socket.__new__(Socket)
    handler.application = web.Application([])
    assert type(handler.memcached) is not memo.Memo
