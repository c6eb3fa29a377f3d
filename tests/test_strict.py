"""What goes wrong is raised, for those who want that."""

import asyncio
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

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
        if name != 'update':
            assert isinstance(caught.value, memcached.UnavailableError)


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
    assert inner.limit('k', 3, 60).left is None


@pytest.mark.parametrize(
    'name',
    ['get', 'set', 'get_multi', 'set_multi', 'incr', 'delete_multi', 'touch'],
)
def test_a_server_that_refuses(connect, name):
    """Its words are in the error."""
    reply = b'SERVER_ERROR out of memory\r\n'
    with faults.ScriptedServer(*[[reply] * 9] * 9) as server:
        face = connect(server.address, strict=True, socket_timeout=1)
        with pytest.raises(memcached.RefusedError, match='out of memory'):
            CALLS[name](face)


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
            with pytest.raises(memcached.UnavailableError) as caught:
                CALLS[name](with_timeout)
            if within is not InNamespace:
                assert isinstance(caught.value, memcached.TimedOutError)
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


@pytest.mark.parametrize('timeout', [0, -1, 'soon', float('nan'), 1j])
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
