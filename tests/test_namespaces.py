"""Namespaces and tags: what ends together, and never comes back."""

import asyncio
import contextlib
import inspect
import subprocess
import sys

import faces
import faults
import pytest
import wire
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached import aio
from sprockets.clients.memcached import client as blocking
from sprockets.clients.memcached.once import generations
from sprockets.clients.memcached.requests import tokens
from sprockets.clients.memcached.testing import MemcachedServer


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


class Namespace:
    """A namespace of a face's client, called as the face is."""

    def __init__(self, face, *names):
        self._face = face
        inner = face.client
        if hasattr(inner, 'scope'):
            inner = inner.scope()
        for name in names:
            inner = inner.namespace(name)
        self.inner = inner

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if not hasattr(self._face, 'run'):
            return method

        def call(*args, **kwargs):
            async def run():
                return await method(*args, **kwargs)

            return self._face.run(run)

        return call


def generation(address, name='x', kind='namespace'):
    """Return the generation that the server has."""
    return wire.stored(address, f'{kind}:{name}')


# Every method


def test_a_namespace_has_every_method():
    """With the same arguments; invalidate may do without a key."""
    for kind, namespace in (
        (memcached.Client, blocking.Namespace),
        (aio.Methods, aio.AsyncNamespace),
    ):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith('_') and name != 'invalidate':
                within = getattr(namespace, name)
                assert inspect.signature(within) == inspect.signature(method)


def test_no_method_is_forgotten():
    """What has a key is done in a generation, on both faces."""
    for kind, namespace in (
        (memcached.Client, blocking.Namespace),
        (aio.Methods, aio.AsyncNamespace),
    ):
        for name, method in vars(kind).items():
            if name.startswith('_') or not inspect.isfunction(method):
                continue
            names = {*inspect.signature(method).parameters}
            if names & {'key', 'keys', 'mapping'}:
                assert name in vars(namespace), name


CALLS = {
    'set': (lambda ns: ns.set('k', 1), True),
    'add': (lambda ns: ns.add('new', 1), True),
    'replace': (lambda ns: ns.replace('text', 'r'), True),
    'append': (lambda ns: ns.append('text', 'b'), True),
    'prepend': (lambda ns: ns.prepend('text', 'b'), True),
    'get': (lambda ns: ns.get('text'), 'a'),
    'get of nothing': (lambda ns: ns.get('none', 'default'), 'default'),
    'gets': (lambda ns: ns.gets('text'), 'a'),
    'gat': (lambda ns: ns.gat('text', 60), 'a'),
    'gats': (lambda ns: ns.gats('text', 60), 'a'),
    'get_multi': (
        lambda ns: ns.get_multi(['text', 'number', 'none']),
        {'text': 'a', 'number': 5},
    ),
    'set_multi': (lambda ns: ns.set_multi({'k': 1, 'l': 2}), []),
    'incr': (lambda ns: ns.incr('number'), 6),
    'incr from': (lambda ns: ns.incr('n', initial=3), 3),
    'decr': (lambda ns: ns.decr('number'), 4),
    'touch': (lambda ns: ns.touch('text', 60), 1),
    'delete': (lambda ns: ns.delete('text'), 1),
    'delete_multi': (lambda ns: ns.delete_multi(['text', 'none']), 1),
    'get_or_set': (lambda ns: ns.get_or_set('text', lambda: 'new'), 'a'),
    'get_or_set of nothing': (
        lambda ns: ns.get_or_set('none', lambda: 'new', 60),
        'new',
    ),
    'get_or_set, stale': (
        lambda ns: ns.get_or_set('none', lambda: 'new', 60, stale=60),
        'new',
    ),
    'get_or_set_multi': (
        lambda ns: ns.get_or_set_multi(
            ['text', 'none'], lambda keys: dict.fromkeys(keys, 'new')
        ),
        {'text': 'a', 'none': 'new'},
    ),
    'limit': (lambda ns: tuple(ns.limit('l', 3, 60)), (True, 2, 60)),
    'update': (lambda ns: ns.update('number', lambda n: n + 1), 6),
    'invalidate': (lambda ns: ns.invalidate('text'), 1),
    'mark_stale': (lambda ns: ns.mark_stale('text'), 1),
}


@pytest.mark.parametrize('name', CALLS)
@pytest.mark.parametrize('before', ['known', 'unknown', 'another'])
def test_each_method_in_a_namespace(connect, address, name, before):
    """Whether the client knows the generation, or takes it for another."""
    call, expected = CALLS[name]
    other = Namespace(connect(address), 'x')
    ns = Namespace(connect(address), 'x')
    if before == 'another':
        ns.set('text', 'old')
        other.invalidate()
    other.set('text', 'a')
    other.set('number', 5)
    if before == 'known':
        ns.get('text')
    assert call(ns) == expected


def test_it_is_another_s_key(connect, address):
    """Neither the client nor another namespace has it."""
    face = connect(address)
    one, two = Namespace(face, 'one'), Namespace(face, 'two')
    one.set('k', 1)
    two.set('k', 2)
    face.set('k', 3)
    assert (one.get('k'), two.get('k'), face.get('k')) == (1, 2, 3)
    assert one.invalidate()
    assert (one.get('k'), two.get('k'), face.get('k')) == (None, 2, 3)


def test_keys_of_all_kinds(connect, address):
    """With a prefix of the client, in bytes, with a hash."""
    face = connect(address, key_prefix='p:')
    ns = Namespace(face, 'x')
    for key in 'k', b'k2', (7, 'k3'), 'ü':
        ns.set(key, 'v')
        assert ns.get(key) == 'v'
    assert generation(address, 'x', 'p:namespace') is not None


# The end


def test_all_of_it_ends_at_once(connect, address):
    """For everybody, whatever they have read before."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))
    ns.set('k', 1)
    ns.set_multi({'l': 1, 'm': 1})
    assert other.get('k') == 1
    assert ns.invalidate() == 1
    for each in ns, other:
        assert each.get('k', 'default') == 'default'
        assert each.get_multi(['k', 'l', 'm']) == {}
    assert other.add('k', 2)
    assert ns.get('k') == 2


def test_what_is_written_in_an_ended_generation_is_not_lost(connect, address):
    """It is written once more, in the new one."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))
    ns.set('number', 1)
    other.invalidate()
    assert ns.incr('number') is None
    assert ns.set('number', 5)
    other.invalidate()
    assert ns.set('number', 7)
    assert other.get('number') == 7
    other.invalidate()
    assert ns.set_multi({'a': 1}) == []
    assert other.get('a') == 1


def test_a_cas_does_not_outlive_its_generation(connect, address):
    """What gets saw is gone; it is not an error of the program's."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))
    ns.set('k', 1)
    assert ns.gets('k') == 1
    assert ns.cas('k', 2)
    assert ns.gets('k') == 2
    other.invalidate()
    assert not ns.cas('k', 3)
    assert other.get('k') is None
    assert ns.gets('k') is None
    ns.invalidate()
    assert not ns.cas('k', 3)
    with pytest.raises(RuntimeError):
        ns.cas('never', 3)


def test_keys_that_are_gone_through_once(connect, address):
    """They are those of the call, though it is made in two generations."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))

    def end():
        ns.set('another', 1)
        other.invalidate()
        assert other.set_multi({'k': 1, 'l': 2}) == []

    for timeout in (None, 60):
        end()
        found = ns.get_multi((key for key in 'kl'), timeout=timeout)
        assert found == {'k': 1, 'l': 2}
        end()
        assert ns.delete_multi((key for key in 'kl'), timeout=timeout) == 1
        assert other.get_multi('kl') == {}


def test_many_that_change_while_they_are_awaited(address):
    """What is asked is what it was when it was called."""

    async def main(other):
        async def end():
            await ns.set('another', 1)
            other.invalidate()

        async with memcached.AsyncClient(servers=address) as client:
            ns = client.namespace('x')
            await end()
            other.set('l', 1)
            values = {'k': 1}
            stored = ns.set_multi(values)
            values.clear()
            assert await stored == []
            assert other.get('k') == 1
            await end()
            other.set_multi({'k': 1, 'l': 2})
            keys = ['k', 'l']
            found = ns.get_multi(keys)
            keys.clear()
            assert await found == {'k': 1, 'l': 2}

    with memcached.Client(servers=address) as client:
        asyncio.run(main(client.namespace('x')))


def by_place(method, key, *args):
    return method(key, *args)


def by_name(method, key, *args):
    return method(key=key, **dict(zip(('val',), args, strict=False)))


FORMS = [
    (saw, cas) for saw in (by_place, by_name) for cas in (by_place, by_name)
]


@pytest.mark.parametrize('saw, cas', FORMS)
@pytest.mark.parametrize('key', ['k', b'k', (7, 'k'), (7, b'k')])
def test_a_cas_is_of_the_key_that_gets_saw(connect, address, saw, cas, key):
    """However either is told the key, and in whatever generation."""
    ns = Namespace(connect(address), 'x')
    other = (7, 'other') if isinstance(key, tuple) else 'other'
    again = (7, 'k') if isinstance(key, tuple) else 'k'
    for lost in (False, True):
        saw(ns.gets, key)
        if lost:
            ns.invalidate()
        with pytest.raises(RuntimeError, match='cas without gets'):
            cas(ns.cas, other, 1)
        assert bool(cas(ns.cas, again, 1)) is not lost
        with pytest.raises(RuntimeError, match='cas without gets'):
            cas(ns.cas, key, 1)
        ns.invalidate()


@pytest.mark.parametrize('known', [True, False])
def test_a_gats_that_was_none_sees_nothing(connect, address, known):
    """A cas after it is one without a gets."""
    ns = Namespace(connect(address), 'x')
    if known:
        assert ns.get('k') is None
    with pytest.raises(ValueError, match='time'):
        ns.gats('k', 'no time')
    assert ns.invalidate()
    with pytest.raises(RuntimeError, match='cas without gets'):
        ns.cas('k', 'value')


def test_reset_cas_forgets_in_whatever_generation(connect, address):
    """As outside of a namespace."""
    ns = Namespace(connect(address), 'x')
    ns.gets('k')
    ns.invalidate()
    ns.reset_cas()
    with pytest.raises(RuntimeError, match='cas without gets'):
        ns.cas('k', 1)


def test_only_the_latest_gets_are_kept(connect, address, monkeypatch):
    """However many there are that no cas follows."""
    monkeypatch.setattr(tokens.Tokens, 'limit', 3)
    ns = Namespace(connect(address), 'x')
    for number in range(5):
        ns.gets(f'k{number}')
    ns.invalidate()
    for number in range(2):
        with pytest.raises(RuntimeError, match='cas without gets'):
            ns.cas(f'k{number}', 1)
    for number in range(2, 5):
        assert not ns.cas(f'k{number}', 1)


@pytest.mark.parametrize('method', ['gets', 'gats', 'cas'])
def test_a_key_that_is_none_is_named(connect, address, method):
    """Also one that cannot be looked for among those of gets."""
    ns = Namespace(connect(address), 'x')
    more = [1] if method != 'gets' else []
    with pytest.raises(memcached.Client.MemcachedKeyTypeError):
        getattr(ns, method)(['k'], *more)


def test_what_was_computed_before_the_end_is_not_found(connect, address):
    """The factory may have read what has changed since."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))

    def factory():
        assert generation(address)
        wire.put(address, 'namespace:x', 0, generations.fresh())
        return 'old'

    assert ns.get_or_set('k', factory, 60) == 'old'
    assert ns.get('k') is None
    assert other.get_or_set('k', lambda: 'new', 60) == 'new'


def test_an_evicted_generation_is_an_end(connect, address):
    """The one after it is not the one before."""
    ns, other = (Namespace(connect(address), 'x') for _ in range(2))
    ns.set('k', 'old')
    other.get('k')
    before = generation(address)
    wire.ask(address, b'delete namespace:x\r\n')
    for each in ns, other, Namespace(connect(address), 'x'):
        assert each.get('k') is None
    assert generation(address) not in (None, before)
    assert ns.set('k', 'new')
    assert other.get('k') == 'new'


def test_a_namespace_in_a_namespace_ends_with_it(connect, address):
    """And for itself alone."""
    face = connect(address)
    outer = Namespace(face, 'outer')
    inner = Namespace(face, 'outer', 'inner')
    alone = Namespace(face, 'inner')
    for each in outer, inner, alone:
        each.set('k', 1)
    assert inner.invalidate()
    assert inner.get('k') is None
    assert outer.get('k') == alone.get('k') == 1
    inner.set('k', 2)
    assert inner.get('k') == 2
    assert outer.invalidate()
    assert outer.get('k') is None
    assert inner.get('k') is None
    assert alone.get('k') == 1


# Outages


NO_ANSWER = {
    'get': (lambda ns: ns.get('k', 'default'), 'default'),
    'gets': (lambda ns: ns.gets('k'), None),
    'gat': (lambda ns: ns.gat('k', 60, 'default'), 'default'),
    'get_multi': (lambda ns: ns.get_multi(['k']), {}),
    'set': (lambda ns: ns.set('k', 1), 0),
    'set_multi': (lambda ns: ns.set_multi({'k': 1}), ['k']),
    'incr': (lambda ns: ns.incr('k'), None),
    'incr from': (lambda ns: ns.incr('k', initial=1), None),
    'touch': (lambda ns: ns.touch('k', 60), 0),
    'delete': (lambda ns: ns.delete('k'), 0),
    'delete_multi': (lambda ns: ns.delete_multi(['k']), 0),
    'get_or_set': (lambda ns: ns.get_or_set('k', lambda: 'new'), 'new'),
    'get_or_set, tags': (
        lambda ns: ns.get_or_set('k', lambda: 'new', tags=('a',)),
        'new',
    ),
    'get_or_set_multi': (
        lambda ns: ns.get_or_set_multi(['k'], lambda keys: {'k': 'new'}),
        {'k': 'new'},
    ),
    'limit': (
        lambda ns: tuple(ns.limit('l', 3, 60, default=False)),
        (False, None, 60),
    ),
    'invalidate': (lambda ns: ns.invalidate(), 0),
    'invalidate a key': (lambda ns: ns.invalidate('k'), 0),
    'mark_stale': (lambda ns: ns.mark_stale('k'), 0),
}


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('name', NO_ANSWER)
def test_without_a_server(connect, memcached_server, name, known):
    """Each method returns what it does without a server."""
    call, expected = NO_ANSWER[name]
    face = connect(memcached_server.address, socket_timeout=1)
    ns = Namespace(face, 'x')
    if known:
        ns.set('k', 1)
    memcached_server.kill()
    assert call(ns) == expected
    with pytest.raises(memcached.UpdateError):
        ns.update('k', lambda value: 1)


WRONG = {
    'get': lambda ns: ns.get('k', kind=5),
    'get_multi': lambda ns: ns.get_multi(['a b']),
    'get_multi, none': lambda ns: ns.get_multi(5),
    'get_multi, prefix': lambda ns: ns.get_multi(['k'], 'p '),
    'set': lambda ns: ns.set('k', lambda: 1),
    'add': lambda ns: ns.add('k', 1, min_compress_len=-1),
    'cas': lambda ns: ns.cas('k', lambda: 1),
    'set_multi': lambda ns: ns.set_multi([('k', 1)]),
    'set_multi, key': lambda ns: ns.set_multi({'a b': 1}),
    'set_multi, value': lambda ns: ns.set_multi({'k': lambda: 1}),
    'set_multi, late': lambda ns: ns.set_multi(
        {**dict.fromkeys(range(2000), 1), 'k': lambda: 1}
    ),
    'incr': lambda ns: ns.incr('k', -1),
    'decr': lambda ns: ns.decr('k', '1'),
    'incr from': lambda ns: ns.incr('k', initial=-1),
    'incr for': lambda ns: ns.incr('k', time=5),
    'gat': lambda ns: ns.gat('k', None),
    'gats': lambda ns: ns.gats('k', None),
    'touch': lambda ns: ns.touch('k', None),
    'delete': lambda ns: ns.delete('k', 5),
    'delete, no time': lambda ns: ns.delete('k', 'x'),
    'delete_multi': lambda ns: ns.delete_multi(['a b']),
    'delete_multi, time': lambda ns: ns.delete_multi(['k'], 5),
    'mark_stale': lambda ns: ns.mark_stale('k', 0),
    'update': lambda ns: ns.update('k', 5),
    'update, attempts': lambda ns: ns.update('k', id, attempts=0),
}


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_is_said_without_a_server(
    connect, memcached_server, name, strict
):
    """By the same error as with one."""
    call = WRONG[name]
    face = connect(memcached_server.address, socket_timeout=1, strict=strict)
    ns = Namespace(face, 'x')
    if name == 'cas':
        ns.gets('k')
    with pytest.raises(Exception) as there:  # noqa: PT011
        call(ns)
    memcached_server.kill()
    with pytest.raises(there.type) as gone:
        call(Namespace(face, 'not known'))
    assert type(gone.value) is type(there.value)
    if isinstance(gone.value, ValueError):
        assert str(gone.value) == str(there.value)


@contextlib.contextmanager
def two_servers(face_of, name='x', **options):
    """Two servers, the one of a generation first, and what makes clients."""
    with MemcachedServer() as one, MemcachedServer() as two:
        addresses = [one.address, two.address]

        def make():
            return face_of(
                *addresses, socket_timeout=1, dead_retry=0, **options
            )

        face = make()
        inner = face.client
        core = getattr(inner, '_shared', None) or inner._engine
        home = core.cluster.home(f'namespace:{name}'.encode())
        servers = [one, two]
        if str(home) != one.address:
            servers.reverse()
        yield (*servers, make)


@pytest.mark.parametrize('failover', [True, False])
@pytest.mark.parametrize('distribution', ['modula', 'ketama'])
def test_the_server_of_the_generation_is_lost(connect, failover, distribution):
    """Nothing is found meanwhile, and nothing old after it."""
    with two_servers(
        connect, failover=failover, distribution=distribution
    ) as (home, _, make):
        ns = Namespace(make(), 'x')
        keys = [f'k{n}' for n in range(20)]
        assert ns.set_multi(dict.fromkeys(keys, 'old')) == []
        home.kill()
        assert ns.get_multi(keys) == {}
        for key in keys:
            assert ns.get(key) is None
            assert not ns.set(key, 'lost')
        assert ns.get_or_set(keys[0], lambda: 'computed') == 'computed'
        home.start()
        for each in ns, Namespace(make(), 'x'):
            assert each.get_multi(keys) == {}
        assert ns.set(keys[0], 'new')
        assert ns.get(keys[0]) == 'new'


def test_a_server_that_comes_back_with_an_old_generation(connect):
    """What could not be ended is ended before it is used."""
    with two_servers(connect) as (home, _, make):
        ns = Namespace(make(), 'x')
        keys = [f'k{n}' for n in range(20)]
        ns.set_multi(dict.fromkeys(keys, 'old'))
        home.pause()
        try:
            assert ns.invalidate() == 0
            assert ns.get_multi(keys) == {}
        finally:
            home.resume()
        assert ns.get_multi(keys) == {}
        # It may have been given up on before it was there again.
        wait_until(lambda: ns.set('after', 1))
        assert ns.get_multi(keys) == {}
        assert ns.get(keys[0]) is None
        assert Namespace(make(), 'x').get_multi(keys) == {}


def test_the_server_of_values_is_lost(connect):
    """What is on the others is found."""
    with two_servers(connect, failover=False) as (_, other, make):
        ns = Namespace(make(), 'x')
        keys = [f'k{n}' for n in range(20)]
        ns.set_multi(dict.fromkeys(keys, 'v'))
        other.kill()
        assert 0 < len(ns.get_multi(keys)) < 20
        assert ns.invalidate()
        assert ns.get_multi(keys) == {}


@pytest.mark.parametrize(
    'reply', [b'SERVER_ERROR busy\r\n', b'nonsense\r\n', b'END\r\nEND\r\n']
)
def test_a_generation_that_cannot_be_read(connect, reply):
    """The default is right, and nothing is raised."""
    with faults.ScriptedServer(*[[reply] * 9] * 9) as server:
        face = connect(server.address, socket_timeout=1)
        assert Namespace(face, 'x').get('k', 'default') == 'default'


# One batch


def test_the_generation_is_read_in_the_same_batch(address):
    """Once for all who read in one turn."""

    async def main():
        with faults.FaultProxy(address) as proxy:
            client = memcached.AsyncClient(servers=proxy.address)
            ns = client.namespace('x')
            await ns.set_multi({f'k{n}': n for n in range(10)})
            before = len(proxy.received)
            found = await asyncio.gather(
                *[
                    client.namespace('x').get(f'k{number}')
                    for number in range(10)
                ]
            )
            assert found == [*range(10)]
            sent = proxy.received[before:]
            assert sent.count(b'\r\n') == 1
            assert sent.count(b'namespace:x') == 1
            await client.close()

    asyncio.run(main())


def test_a_blocking_get_is_one_round_trip(address):
    """Where both are on one server."""
    with faults.FaultProxy(address) as proxy:
        client = memcached.Client(servers=proxy.address)
        ns = client.namespace('x')
        ns.set('k', 'v')
        before = len(proxy.received)
        assert ns.get('k') == 'v'
        assert proxy.received[before:].count(b'\r\n') == 1
        client.disconnect_all()


def test_who_begins_after_the_end_does_not_find_the_old(address):
    """Though others are just reading."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        ns = client.namespace('x')

        async def read(found):
            for _ in range(200):
                # What was there when it began.
                least = found[0]
                value = await ns.get('k')
                assert value is None or value >= least
                await asyncio.sleep(0)

        found = [0]
        readers = [asyncio.ensure_future(read(found)) for _ in range(8)]
        for number in range(1, 100):
            await ns.set('k', number)
            assert await ns.invalidate()
            found[0] = number + 1
            assert await ns.get('k') is None
        await asyncio.gather(*readers)
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('reads', [1, 3, 12])
@pytest.mark.parametrize('way', ['get', 'get_or_set', 'tags'])
def test_who_begins_after_the_end_in_the_same_turn(address, way, reads):
    """What others of that turn have sent already is not for him."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        elsewhere = memcached.Client(servers=address)
        ns = client.namespace('x')
        value = 'old'

        def ask():
            if way == 'get':
                return ns.get('k', 'none')
            if way == 'tags':
                return client.get_or_set('k', lambda: value, tags=('x',))
            return ns.get_or_set('k', lambda: value)

        await ns.set('k', 'old')
        # So many come in each turn.
        for _ in range(150):
            await asyncio.gather(*[ask() for _ in range(reads)])
            await asyncio.sleep(0.0005)
        before = [ask() for _ in range(reads)]
        value = 'new'
        if way == 'tags':
            assert elsewhere.invalidate_tags('x')
        else:
            assert elsewhere.namespace('x').invalidate()
        assert await ask() == ('none' if way == 'get' else 'new')
        await asyncio.gather(*before)
        elsewhere.disconnect_all()
        await client.close()

    asyncio.run(main())


def test_an_end_that_is_sent_again_brings_back_nothing(connect, address):
    """What somebody has stored and ended since it was sent first is over."""
    elsewhere = memcached.Client(servers=address).namespace('x')

    def meanwhile(reply):
        assert elsewhere.set('k', 'old')
        assert elsewhere.invalidate()
        return faults.close(reply)

    with faults.FaultProxy(address) as proxy:
        ns = Namespace(connect(proxy.address), 'x')
        assert ns.set('k', 'older')
        proxy.next_reply(meanwhile)
        assert ns.invalidate()
    assert elsewhere.get('k') is None


def test_callers_that_are_cancelled(address):
    """They leave the others alone."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        ns = client.namespace('x')
        await ns.set('k', 'v')
        futures = [asyncio.ensure_future(ns.get('k')) for _ in range(10)]
        for future in futures[::2]:
            future.cancel()
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert found[1::2] == ['v'] * 5
        await client.invalidate_tags('unused')
        await client.close()

    asyncio.run(main())


def test_values_that_can_be_changed_are_nobody_else_s(address):
    """As for get."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        ns = client.namespace('x')
        await ns.set('k', [1])
        one, two = await asyncio.gather(ns.get('k'), ns.get('k'))
        assert one == two == [1]
        assert one is not two
        await client.close()

    asyncio.run(main())


def test_a_request_s_namespace_is_told_to_its_observer(address):
    """By the name of the method, with its hits and misses."""
    told = []

    class Observer:
        def __init__(self, method):
            self.method = method

        def over(self, error, hits, misses, endpoint=None):
            told.append((self.method, hits, misses))

    async def main():
        client = memcached.AsyncClient(servers=address)
        scope = client.scope(lambda method, keys: Observer(method))
        ns = scope.namespace('x')
        await ns.set('k', 'v')
        assert await ns.get('k') == 'v'
        assert await ns.get_or_set('k', lambda: 1) == 'v'
        await client.close()

    asyncio.run(main())
    assert ('get', 1, 0) in told
    assert ('get_or_set', 1, 0) in told


def test_threads_share_a_namespace(address):
    """Each has its own gets."""
    client = memcached.Client(servers=address)
    face = faces.Blocking(client.namespace('x'))
    face.set('k', 0)

    async def add(client):
        done = 0
        while done < 20:
            value = await client.gets('k')
            done += bool(await client.cas('k', value + 1))

    face.together(4, add)
    assert face.get('k') == 80
    face.close()


# Tags


class Tagged:
    """Reads what has tags, and counts how often it is computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, face, key='k', tags=('a', 'b'), **options):
        return face.get_or_set(key, self.compute, 60, tags=tags, **options)

    def compute(self):
        self.calls += 1
        return self.calls


@pytest.fixture
def tagged():
    return Tagged()


@pytest.mark.parametrize('options', [{}, {'stale': 60}], ids=str)
@pytest.mark.parametrize('tag', ['a', 'b'])
def test_a_tag_ends_what_has_it(connect, address, tag, options, tagged):
    """And nothing else; a value that may be stale as well."""
    face, other = connect(address), connect(address)
    assert tagged(face, **options) == 1
    assert tagged(face, tags=('b', 'a'), **options) == 1
    assert tagged(face, 'other', ('c',), **options) == 2
    assert tagged(other, **options) == 1
    assert other.invalidate_tags(tag) == 1
    assert tagged(face, **options) == 3
    assert tagged(face, 'other', ('c',), **options) == 2
    assert tagged(face, **options) == 3
    assert face.invalidate_tags('a', 'c') == 1
    assert tagged(face, **options) == 4
    assert tagged(face, 'other', ('c',), **options) == 5


def test_an_evicted_tag_ends_what_has_it(connect, address, tagged):
    """Never an old value."""
    face = connect(address)
    assert tagged(face) == 1
    wire.ask(address, b'delete tag:a\r\n')
    assert tagged(face) == 2
    assert tagged(face) == 2


OTHER = """
import sys
from sprockets.clients import memcached
with memcached.Client(servers=sys.argv[1]) as client:
    assert client.get_or_set('k', str, 60, tags=('a',)) == 'first'
    assert client.namespace('x').get('k') == 'first'
    assert client.invalidate_tags('a')
    assert client.namespace('x').invalidate()
"""


def test_another_process_ends_it(connect, address):
    """Whoever has the servers in common."""
    face = connect(address)
    ns = Namespace(face, 'x')

    def read(value):
        return face.get_or_set('k', lambda: value, 60, tags=('a',))

    assert read('first') == 'first'
    ns.set('k', 'first')
    subprocess.run([sys.executable, '-c', OTHER, address], check=True)
    assert read('second') == 'second'
    assert ns.get('k') is None


@pytest.mark.parametrize('tags', [(), [], set()])
def test_no_tags_are_none(connect, address, tags):
    """It is as if nothing had been said."""
    face = connect(address)
    assert face.get_or_set('k', lambda: 1, 60, tags=tags) == 1
    assert face.get('k') == 1


def test_a_tag_in_a_namespace(connect, address, tagged):
    """Either ends it."""
    face = connect(address)
    ns = Namespace(face, 'x')
    ns.set('k', 'not this')
    assert tagged(ns) == 1
    assert tagged(ns) == 1
    assert ns.invalidate_tags('a')
    assert tagged(ns) == 2
    assert ns.invalidate()
    assert tagged(ns) == 3


def test_tags_without_a_server(connect, memcached_server, tagged):
    """It is computed each time, and a tag that was not ended is later."""
    face = connect(memcached_server.address, socket_timeout=1, dead_retry=0)
    assert tagged(face) == 1
    memcached_server.pause()
    try:
        assert tagged(face) == 2
        assert face.invalidate_tags('a') == 0
    finally:
        memcached_server.resume()
    assert tagged(face) == 3


@pytest.mark.parametrize('blocking_client', [True, False])
def test_a_cached_function_with_tags(address, blocking_client):
    """Its results end with a tag, or one alone."""
    calls = []

    async def main():
        if blocking_client:
            client = memcached.Client(servers=address)

            @memcached.cached(60, name='f', client=client, tags=('catalog',))
            def plain(number):
                calls.append(number)
                return len(calls)

            async def function(number):
                return plain(number)

            async def on(name, *args):
                return getattr(plain, name)(*args)

            async def end(*tags):
                return client.invalidate_tags(*tags)
        else:
            client = memcached.AsyncClient(servers=address)

            @memcached.cached(60, name='f', client=client, tags=('catalog',))
            async def function(number):
                calls.append(number)
                return len(calls)

            async def on(name, *args):
                return await getattr(function, name)(*args)

            end = client.invalidate_tags
        assert await function(1) == 1
        assert await function(2) == 2
        assert await function(1) == 1
        assert await end('catalog')
        assert await function(1) == 3
        assert await on('get', 1) == 3
        assert await on('get', 2) is None
        assert await on('invalidate', 1) == 1
        assert await function(1) == 4
        assert await on('refresh', 1) == 5
        assert await function(1) == 5
        assert await on('set', 7, 1)
        assert await function(1) == 7
        assert await on('mark_stale', 1)
        if blocking_client:
            client.disconnect_all()
        else:
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('tags', [(), ('catalog',)], ids=str)
@pytest.mark.parametrize('blocking_client', [True, False])
def test_a_cached_function_in_a_namespace(address, blocking_client, tags):
    """What is done to a result is done to the one that is found there."""
    calls = []

    def compute(number):
        calls.append(number)
        return len(calls)

    async def on(method, *args):
        result = method(*args)
        return await result if inspect.isawaitable(result) else result

    async def main():
        make = memcached.Client if blocking_client else memcached.AsyncClient
        client = make(servers=address)
        ns = client.namespace('x')
        cached = memcached.cached(60, name='f', client=ns, tags=tags)
        if blocking_client:
            function = cached(compute)
        else:

            @cached
            async def function(number):
                return compute(number)

        assert await on(function, 1) == 1
        assert await on(function, 1) == await on(function.get, 1) == 1
        assert await on(function.refresh, 1) == 2
        assert await on(function, 1) == await on(function.get, 1) == 2
        assert await on(function.set, 7, 1)
        assert await on(function, 1) == await on(function.get, 1) == 7
        assert await on(function.mark_stale, 1)
        assert await on(function.invalidate, 1)
        assert await on(function.get, 1) is None
        assert await on(function, 1) == 3
        assert await on(client.get, function.key(1)) is None
        assert await on(ns.invalidate)
        assert await on(function.get, 1) is None
        assert await on(function, 1) == 4
        if blocking_client:
            client.disconnect_all()
        else:
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('blocking_client', [True, False])
def test_a_cached_function_in_a_namespace_without_a_server(blocking_client):
    """It computes, and stores nothing."""

    async def main():
        make = memcached.Client if blocking_client else memcached.AsyncClient
        client = make(servers='127.0.0.1:1', socket_timeout=0.5)
        cached = memcached.cached(60, name='f', client=client.namespace('x'))
        if blocking_client:

            @cached
            def plain(number):
                return str(number)

            assert plain.refresh(1) == '1'
            assert plain.set('2', 1) == 0
            client.disconnect_all()
        else:

            @cached
            async def awaited(number):
                return str(number)

            assert await awaited.refresh(1) == '1'
            assert await awaited.set('2', 1) == 0
            await client.close()

    asyncio.run(main())


# Bad input


@pytest.mark.parametrize(
    'name, error',
    [
        ('', ValueError),
        (' ', ValueError),
        ('a\nb', ValueError),
        ('\x00', ValueError),
        ('\ud800', ValueError),
        (None, TypeError),
        (7, TypeError),
        (b'a', TypeError),
    ],
    ids=repr,
)
def test_what_cannot_be_a_name(connect, name, error):
    """It is named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        with pytest.raises(error, match='name is'):
            face.client.namespace(name)
        with pytest.raises(error, match='name is'):
            face.client.namespace('x').namespace(name)
        with pytest.raises(error, match='tag is'):
            face.invalidate_tags(name)
        with pytest.raises(error, match='tag is'):
            face.get_or_set('k', int, 60, tags=('a', name))
        with pytest.raises(error, match='tag is'):
            memcached.cached(60, tags=(name,))
        assert server.received == b''


@pytest.mark.parametrize('tags', ['catalog', b'a', 7, None, ''])
def test_tags_that_are_none(connect, tags):
    """One text is not many."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        for each in face, Namespace(face, 'x'):
            with pytest.raises(TypeError, match='tags is'):
                each.get_or_set('k', int, 60, tags=tags)
        with pytest.raises(TypeError, match='tags is'):
            memcached.cached(60, tags=tags)
        assert server.received == b''


@pytest.mark.parametrize('name', ['get', 'set', 'incr', 'get_or_set', 'touch'])
def test_a_bad_key_in_a_namespace(connect, name):
    """It is said before anything is sent; a longer prefix leaves less."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        ns = Namespace(face, 'x')
        more = {'set': (1,), 'get_or_set': (int,), 'touch': (1,)}
        call = getattr(ns, name)
        for key in 'a b', 'x' * 240, '':
            with pytest.raises(memcached.Client.MemcachedKeyError):
                call(key, *more.get(name, ()))
        assert server.received == b''


@pytest.mark.parametrize('name', ['ü', 'a b', 'x' * 1000, 'hash', '日本'])
def test_names_of_all_kinds(connect, address, name):
    """What does not go into a key goes by its hash."""
    face = connect(address)
    ns = Namespace(face, name)
    ns.set('k', 1)
    assert ns.get('k') == 1
    assert Namespace(connect(address), name).get('k') == 1
    assert Namespace(face, name + '.').get('k') is None
    ns.invalidate()
    assert ns.get('k') is None


@pytest.mark.parametrize('name', ['x', 'n' * 100, 'a b'])
@pytest.mark.parametrize('length', [100, 150, 200, 230])
def test_a_long_prefix_leaves_room_for_any_name(
    connect, address, name, length, tagged
):
    """Whoever has another one has other namespaces and tags."""
    face = connect(address, key_prefix='p' * length)
    other = connect(address, key_prefix='p' * (length - 1) + 'q')
    for number, each in enumerate([face, other]):
        ns = Namespace(each, name)
        assert ns.get('k') is None
        assert ns.set('k', number)
        assert ns.get('k') == number
        assert tagged(each, tags=(name,)) == number + 1
    assert Namespace(other, name).invalidate()
    assert other.invalidate_tags(name)
    assert Namespace(face, name).get('k') == 0
    assert tagged(face, tags=(name,)) == 1
    assert tagged(other, tags=(name,)) == 3


def test_names_with_blanks_are_no_namespaces_within(connect, address):
    """What ends one leaves the others alone."""
    face = connect(address)
    within = [('a', 'b', 'c'), ('a', 'b c'), ('a b', 'c'), ('a b c',)]
    several = [Namespace(face, *names) for names in within]
    for ns, names in zip(several, within, strict=True):
        ns.set('k', names)
    for ns, names in zip(several, within, strict=True):
        assert ns.get('k') == names
        ns.invalidate()
        assert ns.get('k') is None
    assert repr(several[0].inner) == repr(several[-1].inner)


# What is computed

COMPUTING = {
    'get_or_set': lambda ns, make: ns.get_or_set('k', make, 60),
    'stale': lambda ns, make: ns.get_or_set('k', make, 60, stale=60),
    'tagged': lambda ns, make: ns.get_or_set('k', make, 60, tags=('t',)),
    'many': lambda ns, make: ns.get_or_set_multi(
        ['k'], lambda keys: {'k': make()}, 60
    ),
    'many, prefixed': lambda ns, make: ns.get_or_set_multi(
        ['k'], lambda keys: {'k': make()}, 60, key_prefix='p'
    ),
}


@pytest.mark.parametrize('way', COMPUTING)
def test_what_is_computed_is_found_there_and_nowhere_else(
    connect, address, way
):
    """Once, until the namespace ends."""
    face = connect(address)
    ns, other = Namespace(face, 'x'), Namespace(face, 'y')
    made = []

    def make():
        made.append(1)
        return len(made)

    first = COMPUTING[way](ns, make)
    assert COMPUTING[way](ns, make) == first
    assert made == [1]
    for key in 'k', 'pk':
        assert wire.stored(address, key) is None
        assert other.get(key) is None
    if way != 'tagged':
        assert ns.get('pk' if 'prefixed' in way else 'k') == 1
    ns.invalidate()
    assert COMPUTING[way](ns, make) != first
    assert len(made) == 2
