"""What goes wrong is raised, for those who want that."""

import asyncio
import copy
import inspect
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.requests import errors, methods
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import protocol

CALLS = {
    'get': lambda c: c.get('k', 'default'),
    'gets': lambda c: c.gets('k'),
    'gat': lambda c: c.gat('k', 60, 'default'),
    'get_multi': lambda c: c.get_multi(['k', 'l']),
    'set': lambda c: c.set('k', 1),
    'add': lambda c: c.add('k', 1),
    'replace': lambda c: c.replace('k', 1),
    'append': lambda c: c.append('k', '1'),
    'prepend': lambda c: c.prepend('k', '1'),
    'set_multi': lambda c: c.set_multi({'k': 1, 'l': 2}),
    'incr': lambda c: c.incr('k'),
    'incr from': lambda c: c.incr('k', initial=1),
    'decr': lambda c: c.decr('k'),
    'touch': lambda c: c.touch('k', 60),
    'delete': lambda c: c.delete('k'),
    'delete_multi': lambda c: c.delete_multi(['k', 'l']),
}

STEPS = {
    'invalidate': lambda c: c.invalidate('k'),
    'mark_stale': lambda c: c.mark_stale('k'),
    'invalidate_tags': lambda c: c.invalidate_tags('tag'),
    'update': lambda c: c.update('k', lambda value: 1),
}

SECONDS = 30

HUGE = pytest.param(10**400, id='huge')

LARGE = b'x' * (2 << 20)
"""What memcached does not take."""


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


class InNamespace:
    """A namespace of a face's client, called as the face is."""

    def __init__(self, face, name='x'):
        self._face = face
        self._inner = face.client.namespace(name)

    def __getattr__(self, name):
        method = getattr(self._inner, name)
        if not hasattr(self._face, 'run'):
            return method

        def call(*args, **kwargs):
            async def run():
                return await method(*args, **kwargs)

            return self._face.run(run)

        return call


@pytest.fixture(params=['client', 'namespace'])
def within(request):
    if request.param == 'client':
        return lambda face: face
    return InNamespace


@pytest.mark.parametrize('name', CALLS | STEPS)
def test_a_server_that_is_down(connect, memcached_server, within, name):
    """Each call says so, and what it was."""
    call = (CALLS | STEPS)[name]
    face = connect(memcached_server.address, strict=True, socket_timeout=1)
    inner = within(face)
    memcached_server.kill()
    for _ in range(2):
        with pytest.raises(memcached.MemcachedError) as caught:
            call(inner)
        kind = memcached.UnavailableError
        assert isinstance(
            caught.value, memcached.UpdateError if name == 'update' else kind
        )


@pytest.mark.parametrize('name', CALLS)
def test_nothing_is_raised_where_nothing_is_wrong(
    connect, address, within, name
):
    """A miss is none."""
    strict = within(connect(address, strict=True))
    found = CALLS[name](strict)
    strict.delete_multi(['k', 'l'])
    assert CALLS[name](within(connect(address))) == found


def test_what_computes_goes_on(connect, memcached_server, within):
    """It has something to return."""
    face = connect(memcached_server.address, strict=True, socket_timeout=1)
    inner = within(face)
    memcached_server.kill()
    assert inner.get_or_set('k', lambda: 1) == 1
    assert inner.get_or_set('k', lambda: 1, stale=60) == 1
    assert inner.get_or_set('k', lambda: 1, tags=('tag',)) == 1
    found = inner.get_or_set_multi(['k'], lambda keys: dict.fromkeys(keys, 1))
    assert found == {'k': 1}
    assert inner.limit('k', 3, 60).left is None


@pytest.mark.parametrize('name', CALLS | STEPS)
def test_a_server_that_refuses(connect, within, name):
    """Its words are in the error, the second time as well."""
    reply = b'SERVER_ERROR out of memory\r\n'
    with faults.ScriptedServer(*[[reply] * 99] * 9) as server:
        face = connect(server.address, strict=True, socket_timeout=SECONDS)
        inner = within(face)
        for _ in range(2):
            with pytest.raises(memcached.MemcachedError) as caught:
                (CALLS | STEPS)[name](inner)
            if name == 'update':
                assert isinstance(caught.value, memcached.UpdateError)
            else:
                assert isinstance(caught.value, memcached.RefusedError)
                assert 'out of memory' in str(caught.value)


def test_a_namespace_that_cannot_be_ended(connect, memcached_server):
    """It says so, and is ended before it is used again."""
    face = connect(memcached_server.address, strict=True, socket_timeout=0.5)
    space = InNamespace(face)
    assert space.set('k', 'old')
    memcached_server.pause()
    try:
        with pytest.raises(memcached.UnavailableError, match=r'^invalidate: '):
            space.invalidate()
    finally:
        memcached_server.resume()
    assert face.wait_until_ready(SECONDS)
    assert space.get('k') is None


def test_tags_that_cannot_be_ended(connect, memcached_server):
    """Each of them, likewise."""
    face = connect(memcached_server.address, strict=True, socket_timeout=0.5)
    for tag in 'one', 'two':
        face.get_or_set(tag, lambda: 'old', tags=(tag,))
    memcached_server.pause()
    try:
        with pytest.raises(memcached.UnavailableError, match=r'^invalidate_t'):
            face.invalidate_tags('one', 'two')
    finally:
        memcached_server.resume()
    assert face.wait_until_ready(SECONDS)
    for tag in 'one', 'two':
        assert face.get_or_set(tag, lambda: 'new', tags=(tag,)) == 'new'


@pytest.mark.parametrize('more', [{}, {'initial': 1}])
def test_what_is_no_number(connect, address, more):
    """Whether or not one is to be made, and the second time as well."""
    face = connect(address, strict=True)
    face.set('k', 'text')
    for _ in range(2):
        for method in face.incr, face.decr:
            with pytest.raises(memcached.RefusedError, match='non-numeric'):
                method('k', **more)


def test_a_cas_after_a_restart(connect, memcached_server):
    """What gets saw is nobody's any more: 0, as ever."""
    face = connect(memcached_server.address, strict=True)
    face.set('k', 1)

    def swap(face):
        assert face.gets('k') == 1
        memcached_server.restart()
        assert face.wait_until_ready(SECONDS)
        return face.cas('k', 2)

    assert face.in_turn(1, swap) == [0]


def test_a_cas_in_a_namespace_that_was_ended(memcached_server):
    """By somebody else, since its gets."""

    async def main():
        client = memcached.AsyncClient(strict=True)
        other = memcached.AsyncClient()
        space = client.namespace('x')
        await space.set('k', 1)
        assert await space.gets('k') == 1
        await other.namespace('x').invalidate()
        assert await space.cas('k', 2) == 0
        await client.close()
        await other.close()

    asyncio.run(main())


@pytest.mark.parametrize('kind', [memcached.Client, memcached.AsyncClient])
@pytest.mark.parametrize('when', ['before', 'between'])
def test_a_cas_in_a_namespace_that_is_down(memcached_server, kind, when):
    """Since before its gets, or since then."""

    async def called(method, *args):
        result = method(*args)
        return await result if inspect.isawaitable(result) else result

    async def main():
        client = kind(strict=True, socket_timeout=1)
        space = client.namespace('x')
        if when == 'between':
            assert await called(space.gets, 'k') is None
            memcached_server.kill()
        else:
            memcached_server.kill()
            with pytest.raises(memcached.UnavailableError, match=r'^gets: '):
                await called(space.gets, 'k')
        with pytest.raises(memcached.UnavailableError, match=r'^cas: '):
            await called(space.cas, 'k', 1)
        await called(client.disconnect_all)
        if kind is memcached.AsyncClient:
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('tags', [(), ('tag',)])
def test_cached_functions(memcached_server, tags):
    """What computes goes on, with tags or without; the rest raises."""
    client = memcached.Client(strict=True, socket_timeout=1)
    client.get('k')
    memcached_server.kill()

    @memcached.cached(60, client=client, tags=tags)
    def double(number):
        return 2 * number

    assert double(2) == double.refresh(2) == 4
    for call in (
        lambda: double.get(2),
        lambda: double.set(5, 2),
        lambda: double.invalidate(2),
        lambda: double.mark_stale(2),
    ):
        with pytest.raises(memcached.UnavailableError):
            call()

    @memcached.cached.many(60, client=client)
    def doubles(numbers):
        return {number: 2 * number for number in numbers}

    assert doubles([2]) == doubles.refresh([2]) == {2: 4}
    with pytest.raises(memcached.UnavailableError):
        doubles.invalidate([2])


@pytest.mark.usefixtures('memcached_server')
def test_a_result_that_is_too_large():
    """To compute it goes on, to store it does not."""
    client = memcached.Client(strict=True, server_max_value_length=10)

    @memcached.cached(60, client=client)
    def text(size):
        return 'x' * size

    assert text(11) == text.refresh(11) == 'x' * 11
    with pytest.raises(memcached.TooLargeError, match=r'^set: '):
        text.set('x' * 11, 11)


def test_cached_functions_that_are_awaited(memcached_server):
    """Likewise."""

    async def main():
        client = memcached.AsyncClient(strict=True, socket_timeout=1)
        await client.get('k')
        memcached_server.kill()
        for tags in (), ('tag',):

            @memcached.cached(60, client=client, tags=tags)
            async def double(number):
                return 2 * number

            assert await double(2) == await double.refresh(2) == 4
            for call in (
                double.get(2),
                double.set(5, 2),
                double.invalidate(2),
                double.mark_stale(2),
            ):
                with pytest.raises(memcached.UnavailableError):
                    await call

        @memcached.cached.many(60, client=client)
        async def doubles(numbers):
            return {number: 2 * number for number in numbers}

        assert await doubles([2]) == await doubles.refresh([2]) == {2: 4}
        with pytest.raises(memcached.UnavailableError):
            await doubles.invalidate([2])
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    'name, args', [('set', ['k', LARGE]), ('set_multi', [{'k': LARGE}])]
)
def test_a_value_that_is_too_large_for_the_server(
    connect, address, name, args
):
    """It is the same error as where the client knows it."""
    face = connect(address, strict=True, server_max_value_length=0)
    with pytest.raises(memcached.TooLargeError, match='too large'):
        getattr(face, name)(*args)


@pytest.mark.parametrize('name', ['set', 'add', 'append', 'cas'])
def test_a_value_that_is_too_large(connect, address, name):
    """It was not stored; of set_multi it is one of them."""
    face = connect(address, strict=True, server_max_value_length=10)
    face.set('k', 'v')
    face.gets('k')
    with pytest.raises(memcached.TooLargeError):
        getattr(face, name)('k', 'x' * 11)
    with pytest.raises(memcached.TooLargeError):
        face.set_multi({'k': 'v', 'l': 'x' * 11})


def test_one_of_two_servers(connect):
    """It is enough that one does not answer."""
    with MemcachedServer() as one, MemcachedServer() as two:
        face = connect(
            one.address,
            two.address,
            strict=True,
            failover=False,
            socket_timeout=1,
        )
        keys = [f'k{number}' for number in range(20)]
        assert face.set_multi(dict.fromkeys(keys, 1)) == []
        assert len(face.get_multi(keys)) == 20
        two.kill()
        for _ in range(2):
            with pytest.raises(memcached.UnavailableError):
                face.get_multi(keys)
            with pytest.raises(memcached.UnavailableError):
                face.set_multi(dict.fromkeys(keys, 1))


def test_keys_that_are_given_twice(connect):
    """They make up for none of another server."""
    with MemcachedServer() as one, MemcachedServer() as two:
        face = connect(one.address, two.address, strict=True, failover=False)
        two.kill()
        with pytest.raises(memcached.UnavailableError):
            face.delete_multi([(0, 'a'), (0, 'a'), (1, 'b')])
        # So many that they are several commands.
        there = [(0, f'a{number}') for number in range(1000)]
        gone = [(1, f'b{number}') for number in range(1000)]
        with pytest.raises(memcached.UnavailableError):
            face.get_multi([*there, *there, *gone])
        assert face.delete_multi([(0, 'a'), (0, 'a')]) == 1


def test_what_is_told_of_keys_that_are_given_twice():
    """An observer hears of the server that does not answer."""
    told = []

    class Observer:
        def over(self, error, *_):
            told.append(error)

    async def main(*addresses):
        client = memcached.AsyncClient(servers=addresses, failover=False)
        scope = client.scope(lambda *_: Observer())
        assert not await scope.delete_multi([(0, 'a'), (0, 'a'), (1, 'b')])
        await client.close()

    with MemcachedServer() as one, MemcachedServer() as two:
        two.kill()
        for _ in range(2):
            asyncio.run(main(one.address, two.address))
    assert len(told) == 2
    assert None not in told


@pytest.mark.parametrize('timeout', [0.2, None])
@pytest.mark.parametrize('name', ['get_multi', 'set_multi', 'delete_multi'])
def test_one_of_two_servers_is_silent(connect, name, timeout):
    """That is what is raised."""
    with MemcachedServer() as one, MemcachedServer() as two:
        face = connect(
            one.address,
            two.address,
            strict=True,
            failover=False,
            socket_timeout=1 if timeout is None else SECONDS,
        )
        keys = [(0, 'a'), (1, 'b')]
        given = dict.fromkeys(keys, 1) if name == 'set_multi' else keys
        assert face.set_multi(dict.fromkeys(keys, 1)) == []
        two.pause()
        try:
            with pytest.raises(memcached.TimedOutError, match=f'^{name}: '):
                getattr(face, name)(given, timeout=timeout)
        finally:
            two.resume()


def test_threads_that_make_the_values_of_one_call(memcached_server):
    """They have all that was reached, whoever is in between."""
    barrier = threading.Barrier(2)

    class Get(protocol.Get):
        @property
        def count(self):
            barrier.wait(1)
            return super().count

    encoding = copy.copy(memcached.Client()._shared.encoding)
    encoding.get = Get
    request = errors.Many(methods.get_multi(encoding, ['k', 'l'], ''))
    assert len(request.keys.keys) == 2
    commands = [request.commands_for([place])[0] for place in range(2)]
    threads = [
        threading.Thread(target=request.unpack, args=[command])
        for command in commands
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert request.result() == {}


def test_the_errors_are_a_tree():
    """One except is enough, and Python's own as well."""
    errors = (
        memcached.UnavailableError,
        memcached.TimedOutError,
        memcached.RefusedError,
        memcached.TooLargeError,
        memcached.UpdateError,
    )
    for error in errors:
        assert issubclass(error, memcached.MemcachedError)
    assert issubclass(memcached.TimedOutError, memcached.UnavailableError)
    assert issubclass(memcached.TimedOutError, TimeoutError)


@pytest.mark.parametrize('value', [None, 1, 'yes'])
@pytest.mark.parametrize('kind', [memcached.Client, memcached.AsyncClient])
def test_what_is_neither_true_nor_false(kind, value):
    """It is named."""
    with pytest.raises(TypeError, match='strict is'):
        kind(strict=value)
    if value is not None:
        with pytest.raises(TypeError, match='strict is'):
            memcached.AsyncClient().scope(strict=value)


def test_a_scope_that_is_strict(memcached_server):
    """And its client is not; or the other way round."""

    async def main():
        client = memcached.AsyncClient(socket_timeout=1)
        await client.get('k')
        memcached_server.kill()
        strict = client.scope(strict=True)
        for each in strict, strict.namespace('x'):
            with pytest.raises(memcached.UnavailableError):
                await each.get('k')
        assert await client.scope().get('k') is None
        assert await client.namespace('x').get('k') is None
        await client.close()
        client = memcached.AsyncClient(socket_timeout=1, strict=True)
        assert await client.scope(strict=False).get('k') is None
        with pytest.raises(memcached.UnavailableError):
            await client.scope().get('k')
        await client.close()

    asyncio.run(main())


# The time of one call


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('name', CALLS)
def test_a_call_has_less_time_than_the_others(
    connect, memcached_server, within, name, strict
):
    """A server that is silent holds it up for no longer, and is not down."""
    face = connect(
        memcached_server.address, strict=strict, socket_timeout=SECONDS
    )
    inner = within(face)
    inner.set('k', 1)
    with_timeout = Timed(inner)
    memcached_server.pause()
    began = time.monotonic()
    try:
        if strict:
            with pytest.raises(memcached.TimedOutError):
                CALLS[name](with_timeout)
        else:
            assert CALLS[name](with_timeout) == FAILED[name]
        assert time.monotonic() - began < SECONDS / 2
    finally:
        memcached_server.resume()
    wire.ask(memcached_server.address, b'version\r\n')
    assert face.set('after', 'v')
    assert face.get('after') == 'v'


FAILED = {
    'get': 'default',
    'gets': None,
    'gat': 'default',
    'get_multi': {},
    'set_multi': ['k', 'l'],
    'incr': None,
    'incr from': None,
    'decr': None,
} | dict.fromkeys(
    (
        *('set', 'add', 'replace', 'append', 'prepend', 'touch', 'delete'),
        'delete_multi',
    ),
    0,
)


class Timed:
    """A client each call of which has a tenth of a second."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        method = getattr(self._inner, name)
        return lambda *args, **kwargs: method(*args, timeout=0.1, **kwargs)


@pytest.mark.parametrize('name', CALLS)
def test_a_time_that_is_enough(connect, address, within, name):
    """Nothing is different, however long it is."""
    one, two = connect(address), connect(address)

    class Long(Timed):
        def __getattr__(self, name):
            method = getattr(self._inner, name)
            return lambda *args, **kwargs: method(
                *args, timeout=1000, **kwargs
            )

    first, second = within(one), within(two)
    first.set('k', 'v')
    found = CALLS[name](Long(first))
    first.delete_multi(['k', 'l'])
    second.set('k', 'v')
    assert CALLS[name](second) == found


def test_a_longer_time_than_the_client_s(connect, memcached_server):
    """That of the client counts."""
    face = connect(memcached_server.address, socket_timeout=0.3)
    face.get('k')
    memcached_server.pause()
    began = time.monotonic()
    try:
        assert face.get('k', 'default', timeout=1000) == 'default'
    finally:
        memcached_server.resume()
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize(
    'timeout', [0, -1, 'soon', float('nan'), 1j, True, HUGE]
)
@pytest.mark.parametrize('name', CALLS)
def test_what_is_no_time_for_a_call(connect, name, within, timeout):
    """It is named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        inner = within(connect(server.address))

        class Wrong(Timed):
            def __getattr__(self, name):
                method = getattr(self._inner, name)
                return lambda *args, **kwargs: method(
                    *args, timeout=timeout, **kwargs
                )

        with pytest.raises(ValueError, match='timeout is'):
            CALLS[name](Wrong(inner))
        assert server.received == b''
