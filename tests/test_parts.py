"""Values in parts: whole, or not there; never a mix, never a part."""

import asyncio
import datetime
import os
import re
import threading

import faults
import memcache
import pytest
import snippets
import wire
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import (
    bounds,
    memory,
    parted,
    protocol,
)

LIMIT = 2048
"""The largest value that is one item, in most of these tests."""

ROOM = LIMIT - parted.OVERHEAD

MOST = 40

LARGE = 'large ' * 2000
"""A value of several parts."""

MEGABYTE = 1024 * 1024


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def client(connect, address):
    return connect(address, max_value_len=LIMIT, max_parts=MOST)


def head_of(address, key='key'):
    flags, data = wire.stored(address, key)
    assert flags == values.PARTED
    return parted.read_head(data, bounds.PARTS.most)


def part_keys(address, key='key'):
    """Return the keys of the parts that are stored of a key's value."""
    return [k.decode() for k in head_of(address, key).keys(key.encode())]


def count_items(address):
    return int(wire.statistics(address)['curr_items'])


def read(client, name):
    """Read the key in one of the ways that there are; None for a miss."""
    if name == 'get_multi':
        return client.get_multi(['key', 'other']).get('key')
    if name == 'gat':
        return client.gat('key', 60)
    if name == 'gats':
        return client.gats('key', 60)
    return getattr(client, name)('key')


READS = ('get', 'gets', 'get_multi', 'gat', 'gats')


# A round trip


@pytest.mark.parametrize('read_by', READS)
@pytest.mark.parametrize(
    'size',
    [
        *(ROOM - 1, ROOM, ROOM + 1, LIMIT, LIMIT + 1),
        *(2 * ROOM, 2 * ROOM + 1, 3 * ROOM - 1, MOST * ROOM),
    ],
)
def test_bytes_come_back(client, address, size, read_by):
    """Of whatever length, in as few parts as hold them."""
    value = os.urandom(size)
    assert client.set('key', value, time=60)
    assert read(client, read_by) == value
    parts = -(-size // ROOM)
    if parts == 1:
        assert wire.stored(address, 'key') == (0, value)
    else:
        assert head_of(address).parts == parts
        for key in part_keys(address):
            assert len(wire.stored(address, key)[1]) <= LIMIT


@pytest.mark.parametrize('options', [{}, {'serializer': 'json'}], ids=str)
@pytest.mark.parametrize(
    'value',
    [
        LARGE,
        '\N{EURO SIGN}' * 4000,
        LARGE.encode(),
        ['x' * 4000, {'a': 1}, None],
        [os.urandom(3000).hex(), 3.5],
    ],
    ids=['ASCII', 'text', 'bytes', 'list', 'hardly compressed'],
)
def test_each_kind_of_value_comes_back(connect, address, options, value):
    """With its type, compressed or not."""
    client = connect(address, max_value_len=LIMIT, max_parts=MOST, **options)
    for min_compress_len in (0, 1):
        client.set('key', value, min_compress_len=min_compress_len)
        for name in READS:
            got = read(client, name)
            assert got == value
            assert type(got) is type(value)
        # Nobody else's object.
        assert client.get_multi(['key']) == {'key': value}


@pytest.mark.parametrize('megabytes', [1, 3, 8])
def test_some_megabytes_come_back(connect, address, megabytes):
    """With memcached's own limit, which is that of an item with its key."""
    client = connect(address, max_parts=16)
    value = os.urandom(megabytes * MEGABYTE)
    assert client.set('key', value)
    assert head_of(address).parts == megabytes + 1
    for name in READS:
        assert read(client, name) == value
    assert client.set_multi({'a': value, 'b': 'small'}) == []
    assert client.get_multi(['a', 'b', 'c']) == {'a': value, 'b': 'small'}


def test_many_at_once(client):
    """Large ones and small ones, in one call and side by side."""
    mapping = {f'k{n}': str(n) * (5000 if n % 3 else 5) for n in range(40)}
    assert client.set_multi(mapping) == []
    assert client.get_multi([*mapping, 'none']) == mapping

    async def body(own):
        return [await own.get(key) for key in mapping]

    assert client.together(4, body) == [[*mapping.values()]] * 4


def test_the_longest_key(client):
    """The keys of the parts are of one length, whatever the key is."""
    key = 'k' * 250
    assert client.set(key, LARGE)
    assert client.get(key) == LARGE
    assert client.set((7, 'hashed'), LARGE)
    assert client.get((7, 'hashed')) == LARGE


def test_any_text_for_a_key(connect, address):
    """Where that is allowed."""
    client = connect(
        address, max_value_len=LIMIT, max_parts=MOST, hash_bad_keys=True
    )
    assert client.set('any text ' * 99, LARGE)
    assert client.get('any text ' * 99) == LARGE


# How much is stored


@pytest.mark.parametrize('max_parts', [0, 1])
def test_it_is_off(connect, address, max_parts):
    """Then a value that is too large is not stored, nor read."""
    client = connect(address, max_value_len=LIMIT, max_parts=max_parts)
    client.set('key', 'old')
    assert not client.set('key', LARGE)
    assert wire.stored(address, 'key') is None
    on = connect(address, max_value_len=LIMIT, max_parts=MOST)
    assert on.set('key', LARGE)
    for name in READS:
        assert read(client, name) is None
    assert on.get('key') == LARGE


def test_more_parts_than_there_may_be(connect, address, caplog):
    """It is not stored, and the old one is not served on."""
    client = connect(address, max_value_len=LIMIT, max_parts=3)
    assert client.set('key', b'x' * (3 * ROOM))
    assert not client.set('key', b'x' * (3 * ROOM + 1))
    assert client.get('key') is None
    assert f'{3 * ROOM} are the limit' in caplog.text
    large = b'x' * (3 * ROOM + 1)
    assert client.set_multi({'key': large, 'b': LARGE[:4000]}) == ['key']
    assert client.get('b') == LARGE[:4000]
    strict = connect(address, max_value_len=LIMIT, max_parts=3, strict=True)
    with pytest.raises(memcached.TooLargeError):
        strict.set('key', large)
    with pytest.raises(memcached.TooLargeError):
        strict.set_multi({'key': large})
    with pytest.raises(memcached.UpdateError, match='too large'):
        client.update('key', lambda _: large)


def test_a_client_that_reads_fewer_parts(connect, client, address, caplog):
    """To it there is none, and it does not take its place in an update."""
    client.set('key', LARGE)
    fewer = connect(address, max_value_len=LIMIT, max_parts=2)
    for name in READS:
        assert read(fewer, name) is None
    assert 'more than MAX_PARTS' in caplog.text
    with pytest.raises(memcached.UpdateError, match='cannot be decoded'):
        fewer.update('key', lambda _: 1)
    assert client.get('key') == LARGE


def test_the_limit_may_be_set_later(connect, address):
    """By python-memcached's name; with none there are no parts."""
    client = connect(address, max_parts=MOST, server_max_value_length=LIMIT)
    assert client.set('key', LARGE)
    assert head_of(address)
    unlimited = connect(address, max_parts=MOST, server_max_value_length=0)
    assert unlimited.set('key', LARGE)
    assert wire.stored(address, 'key')[0] == values.TEXT


# Parts that are not there, or not these


def forget(address, key):
    assert wire.ask(address, b'delete %b\r\n' % key.encode()) == b'DELETED\r\n'


def another_mark(address, key):
    _, data = wire.stored(address, key)
    wire.put(address, key, 0, b'0' * 32 + data[32:])


def shorter(address, key):
    _, data = wire.stored(address, key)
    wire.put(address, key, 0, data[:-1])


def longer(address, key):
    _, data = wire.stored(address, key)
    wire.put(address, key, 0, data + b'x')


def empty(address, key):
    wire.put(address, key, 0, b'')


SPOILS = [forget, another_mark, shorter, longer, empty]


@pytest.mark.parametrize('place', [0, 3, -1])
@pytest.mark.parametrize('spoil', SPOILS)
def test_a_part_is_missing_or_another(client, address, spoil, place):
    """The value is a miss, whoever asks."""
    client.set('key', LARGE)
    client.set('other', LARGE)
    spoil(address, part_keys(address)[place])
    for name in READS:
        assert read(client, name) is None
    assert client.get('key', 'default') == 'default'
    assert client.get_multi(['key', 'other']) == {'other': LARGE}
    assert client.set('key', LARGE)
    assert client.get('key') == LARGE


def test_it_counts_as_a_miss(address_of_server):
    """For whoever is told, as another value counts as a hit."""
    told = []

    class Observer:
        def over(self, error, hits, misses, endpoint=None):
            told.append((error, hits, misses))

    async def main():
        client = memcached.AsyncClient(
            servers=address_of_server, max_value_len=LIMIT, max_parts=MOST
        )
        scope = client.scope(lambda name, keys: Observer())
        await client.set('key', LARGE)
        await client.set('other', LARGE)
        calls = (
            lambda: scope.get('key'),
            lambda: scope.gets('key'),
            lambda: scope.get_multi(['key']),
        )
        for call in calls:
            await call()
        forget(address_of_server, part_keys(address_of_server)[1])
        for call in calls:
            await call()
        await scope.get_multi(['key', 'other'])
        await client.close()

    asyncio.run(main())
    hit, miss, both = (None, 1, 0), (None, 0, 1), (None, 1, 1)
    assert told == [hit] * 3 + [miss] * 3 + [both]


@pytest.fixture
def address_of_server():
    with MemcachedServer() as server:
        yield server.address


@pytest.mark.parametrize('old', range(3))
def test_an_older_head_is_no_mix(client, address, old):
    """With the parts of the new value; it finds its own, or none."""
    stored = [str(n) * 9000 for n in range(3)]
    heads = []
    for value in stored:
        client.set('key', value)
        heads.append(wire.stored(address, 'key')[1])
        assert client.get('key') == value
    wire.put(address, 'key', values.PARTED, heads[old])
    assert client.get('key') == stored[old]
    forget(address, part_keys(address)[2])
    assert client.get('key') is None


def test_a_head_that_is_copied(client, address):
    """A head that is copied to another key stands for nothing there."""
    client.set('key', LARGE)
    wire.put(address, 'copy', *wire.stored(address, 'key'))
    assert client.get('copy') is None


def test_writers_at_the_same_time(connect, address):
    """Who reads meanwhile has the value of one of them, whole."""
    size = 5 * ROOM
    face = connect(address, max_value_len=LIMIT, max_parts=MOST)
    letters = 'abc'
    face.set('key', 'a' * size)
    writing = iter(letters)
    lock = threading.Lock()

    async def body(own):
        with lock:
            letter = next(writing, None)
        seen = set()
        for _ in range(40):
            if letter is not None:
                assert await own.set('key', letter * size)
            seen.add(await own.get('key'))
        return seen

    for seen in face.together(6, body):
        assert seen <= {letter * size for letter in letters}


# Writing


def test_a_write_that_fails_changes_nothing(connect, address_of_server):
    """``add``, ``replace`` and ``cas`` leave the value, and no parts."""
    address = address_of_server
    client = connect(address, max_value_len=LIMIT, max_parts=MOST)
    assert not client.replace('key', LARGE)
    assert count_items(address) == 0
    assert client.add('key', LARGE)
    assert client.gets('key') == LARGE
    items = count_items(address)
    assert not client.add('key', LARGE[::-1])
    assert client.elsewhere.set('key', LARGE.upper())
    # The parts of the old one are left to expire.
    items += items - 1
    assert not client.cas('key', LARGE[::-1])
    assert client.get('key') == LARGE.upper()
    assert count_items(address) == items
    assert client.replace('key', LARGE[::-1])
    assert client.gets('key') == LARGE[::-1]
    assert client.cas('key', LARGE)
    assert client.get('key') == LARGE


def test_from_small_to_large_and_back(client):
    """By ``cas`` too; each is the value from then on."""
    for value in ('small', LARGE, 'small', LARGE):
        client.gets('key')
        assert client.cas('key', value)
        assert client.get('key') == value


def test_it_is_put_together_with_what_is_appended(client, address):
    """Before and behind, once and again; a pickle ignores it."""
    client.set('key', LARGE)
    assert client.append('key', '-end')
    assert client.prepend('key', 'begin-')
    assert client.append('key', '!')
    for name in READS:
        assert read(client, name) == f'begin-{LARGE}-end!'
    assert client.set('key', LARGE, min_compress_len=1)
    assert client.append('key', '!')
    assert client.get('key') == f'{LARGE}!'
    noise = os.urandom(9000)
    assert client.set('key', noise, min_compress_len=1)
    assert client.prepend('key', b'<')
    assert client.get('key') == b'<' + noise
    # What is put behind is one item with the head.
    assert not client.append('key', LARGE)
    assert client.get('key') == b'<' + noise


def test_another_head_behind_it(client, address):
    """Nobody knows which it is."""
    client.set('key', LARGE)
    assert client.append('key', wire.stored(address, 'key')[1])
    assert client.get('key') is None


def test_it_is_no_number(client):
    """As any text is none."""
    client.set('key', LARGE)
    assert client.incr('key') is None
    assert client.decr('key') is None
    assert client.get('key') == LARGE


def test_it_is_deleted(client):
    """With its head; nothing is found of it."""
    client.set('key', LARGE)
    assert client.delete('key')
    assert client.get('key') is None
    assert not client.delete('key')
    client.set('key', LARGE)
    assert client.delete_multi(['key', 'other'])
    assert client.get('key') is None
    client.set('key', LARGE)
    assert client.invalidate('key')
    assert client.get('key') is None


def touch(client):
    assert client.touch('key', 500)


def touch_in_time(client):
    assert client.touch('key', datetime.timedelta(seconds=500))


def gat(client):
    assert client.gat('key', 500) == LARGE


def gats(client):
    assert client.gats('key', 500) == LARGE


@pytest.mark.parametrize('touched', [touch, touch_in_time, gat, gats])
def test_its_parts_live_as_long(client, address, touched):
    """Whatever gives it another time."""
    client.set('key', LARGE, time=50)
    keys = ['key', *part_keys(address)]
    assert all(45 <= wire.seconds_left(address, key) <= 50 for key in keys)
    touched(client)
    assert all(495 <= wire.seconds_left(address, key) <= 500 for key in keys)
    assert client.get('key') == LARGE


def test_touch_of_others(client, address):
    """What is not in parts, what is not there, and what is not whole."""
    client.set('key', 'small', time=50)
    assert client.touch('key', 500)
    assert wire.seconds_left(address, 'key') > 450
    assert not client.touch('none', 500)
    client.set('key', LARGE, time=50)
    forget(address, part_keys(address)[0])
    assert not client.touch('key', 500)


def test_it_expires(client):
    """A time that is over is over."""
    assert client.set('key', LARGE, time=-1)
    assert client.get('key') is None


# What is computed once


@pytest.mark.parametrize('options', [{}, {'stale': 60}], ids=str)
def test_it_is_computed_once(client, address, options):
    """And anew where it is not whole, to be found again."""
    made = []

    def compute():
        made.append(1)
        return [LARGE, len(made)]

    def get():
        return client.get_or_set('key', compute, 60, **options)

    assert [get(), get()] == [[LARGE, 1]] * 2
    assert client.get('key') == [LARGE, 1]
    forget(address, part_keys(address)[1])
    assert [get(), get()] == [[LARGE, 2]] * 2
    assert client.get('key') == [LARGE, 2]


def test_it_is_served_while_it_is_stale(client, address):
    """Once it is marked so, one computes it anew."""
    made = []

    def compute():
        made.append(1)
        return f'{len(made)}{LARGE}'

    def get():
        return client.get_or_set('key', compute, 60, stale=60)

    assert get() == f'1{LARGE}'
    assert client.mark_stale('key', 60)
    assert get() in (f'1{LARGE}', f'2{LARGE}')
    faces_wait(lambda: get() == f'2{LARGE}')
    assert len(made) == 2


def faces_wait(condition):
    end = 400
    while not condition():
        end -= 1
        assert end, 'it did not come about'


def test_many_are_computed_once(client, address):
    """Those that are not whole with those that are missing."""
    asked = []

    def compute(keys):
        asked.append(keys)
        return {key: f'{key}{len(asked)}{LARGE}' for key in keys}

    def get():
        return client.get_or_set_multi(['a', 'b', 'c'], compute, 60)

    first = get()
    assert get() == first
    forget(address, part_keys(address, 'b')[0])
    second = get()
    assert second == {**first, 'b': f'b2{LARGE}'}
    assert get() == second
    assert asked == [['a', 'b', 'c'], ['b']]


def test_it_is_changed(client, address):
    """By ``update``; one that is not whole is none."""
    assert client.update('key', lambda old: [old, LARGE]) == [None, LARGE]
    assert client.update('key', lambda old: [*old, 1]) == [None, LARGE, 1]
    assert client.get('key') == [None, LARGE, 1]
    forget(address, part_keys(address)[0])
    assert client.update('key', lambda old: [old, LARGE]) == [None, LARGE]
    assert client.get('key') == [None, LARGE]


def test_cas_takes_the_place_of_what_is_not_whole(client, address):
    """For ``gets`` saw it, though it is a miss; ``add`` finds it there."""
    client.set('key', LARGE)
    forget(address, part_keys(address)[0])
    assert not client.add('key', 'new')
    assert client.gets('key') is None
    assert client.cas('key', 'new')
    assert client.get('key') == 'new'


def test_what_ends_together(client):
    """Namespaces and tags."""
    if isinstance(client.client, memcached.Client):
        user = client.namespace('user')
        assert user.set('key', LARGE)
        assert user.get('key') == LARGE
        assert user.get_multi(['key']) == {'key': LARGE}
        assert user.invalidate()
        assert user.get('key') is None
    made = []

    def compute():
        made.append(1)
        return LARGE + str(len(made))

    def get():
        return client.get_or_set('key', compute, 60, tags=('catalog',))

    assert [get(), get()] == [f'{LARGE}1'] * 2
    client.invalidate_tags('catalog')
    assert [get(), get()] == [f'{LARGE}2'] * 2


def test_an_awaited_namespace(address_of_server):
    """Whether or not its generation is known."""

    async def main():
        client = memcached.AsyncClient(
            servers=address_of_server, max_value_len=LIMIT, max_parts=MOST
        )
        for _ in range(2):
            user = client.namespace('user')
            assert await user.get('key') is None
            assert await user.set('key', LARGE)
            assert await user.get('key') == LARGE
            assert await user.get_multi(['key']) == {'key': LARGE}
            await user.invalidate()
        await client.close()

    asyncio.run(main())


def test_a_cached_function(address_of_server, monkeypatch):
    """And a handler: what it remembers, and a whole response."""
    monkeypatch.setenv('MEMCACHED_SERVERS', address_of_server)
    monkeypatch.setenv('MEMCACHED_MAX_VALUE_LEN', str(LIMIT))
    monkeypatch.setenv('MEMCACHED_MAX_PARTS', str(MOST))
    made = []

    @memcached.cached(60, key='load {name}')
    async def load(name):
        made.append(name)
        return LARGE + name

    class Page(memcached.MemcachedMixin, web.RequestHandler):
        memcached_memo = True

        @memcached.cached_response(60)
        async def get(self):
            made.append('page')
            assert await self.memcached.set('key', LARGE)
            assert await self.memcached.get('key') == LARGE
            assert await self.memcached.get('key') == LARGE
            self.write(await load('x'))

    class Application(memcached.ApplicationMixin, web.Application):
        pass

    async def main():
        application = Application([('/', Page)])
        for _ in range(3):
            answer = await snippets.fetch(
                application, '/', headers={'Host': 'pages'}
            )
            assert answer.body.decode() == f'{LARGE}x'
        await application.stop_memcached()

    asyncio.run(main())
    assert made == ['page', 'x']


# The event loop


def test_the_loop_does_not_make_it(address_of_server):
    """Nor put it together: threads do."""
    threads = []

    class Serializer:
        def dumps(self, value):
            return value.data

        def loads(self, data):
            threads.append(threading.current_thread())
            return bytes(data)

    class Value:
        data = os.urandom(3 * MEGABYTE)

    async def main():
        client = memcached.AsyncClient(
            servers=address_of_server, max_parts=8, serializer=Serializer()
        )
        await client.set('key', Value())
        assert await client.get('key') == Value.data
        assert await client.gets('key') == Value.data
        assert await client.get_multi(['key']) == {'key': Value.data}
        await client.close()

    asyncio.run(main())
    assert len(threads) == 3
    assert threading.main_thread() not in threads


def test_a_large_text_is_checked_in_a_thread(address_of_server, monkeypatch):
    """As it may take long; others in its batch have theirs."""
    threads = []

    async def main():
        client = memcached.AsyncClient(servers=address_of_server, max_parts=32)
        decode = client._engine.core.codec.decoders[values.TEXT]

        def watched(data):
            if len(data) > 100:
                threads.append(threading.current_thread())
            return decode(data)

        client._engine.core.codec.decoders[values.TEXT] = watched
        large = 'x' * (values.LARGE + 1)
        await client.set_multi({'key': large, 'small': 'small'})
        found = await asyncio.gather(client.get('key'), client.get('small'))
        assert found == [large, 'small']
        await client.close()

    asyncio.run(main())
    assert threads
    assert threading.main_thread() not in threads


# Servers


def test_a_server_that_takes_less(connect):
    """``-I`` is smaller: nothing is stored, and nothing is left of it."""
    with MemcachedServer('-I', '512k') as server:
        client = connect(server.address, max_value_len=MEGABYTE, max_parts=4)
        client.set('key', 'old')
        value = os.urandom(MEGABYTE + 1)
        assert not client.set('key', value)
        assert client.get('key') is None
        assert not client.add('key', value)
        assert client.add('key', 'new')
        assert client.set_multi({'key': value, 'b': 'x'}) == ['key']
        assert client.get('b') == 'x'
        assert count_items(server.address) == 1
        assert client.get_or_set('key', lambda: value, 60) == value


def replace(client, value):
    assert not client.replace('key', value)


def cas(client, value):
    client.gets('key')
    assert not client.cas('key', value)


def update(client, value):
    with pytest.raises(memcached.UpdateError, match='refuses cas'):
        client.update('key', lambda old: value)


@pytest.mark.parametrize('write', [replace, cas, update])
def test_what_a_server_refuses_spares_the_old_value(connect, write):
    """A write that depends on the old value leaves it, as an item's does."""
    with MemcachedServer('-I', '512k') as server:
        client = connect(server.address, max_value_len=MEGABYTE, max_parts=4)
        client.set('key', 'old')
        write(client, os.urandom(MEGABYTE + 1))
        assert client.get('key') == 'old'
        assert count_items(server.address) == 1


def refuses_a_part(asked):
    """Return a server that takes all but the first part of a value.

    :param list asked: is to have the command and the key of each request

    """

    async def answer(connection):
        while line := await connection.request():
            word, key = line.split()[:2]
            is_first = not asked
            asked.append((word, key))
            reply = b'DELETED' if word == b'delete' else b'STORED'
            if is_first:
                reply = b'SERVER_ERROR out of memory storing object'
            await connection.send(reply + b'\r\n')

    return faults.ScriptedServer(answer)


def test_parts_that_are_refused_are_in_nobodys_way(connect):
    """An ``add`` of which a part is refused has never had the key."""
    asked = []
    with refuses_a_part(asked) as server:
        client = connect(server.address, max_value_len=LIMIT, max_parts=MOST)
        assert not client.add('key', LARGE)
    parts = -(-len(LARGE) // ROOM)
    words = [word for word, _ in asked]
    assert words == [b'set'] * parts + [b'delete'] * parts
    assert b'key' not in [key for _, key in asked]


def test_a_newer_value_is_not_deleted():
    """In place of the head of one of which a part was refused."""
    asked = []

    async def main(address):
        client = memcached.AsyncClient(
            servers=address, max_value_len=LIMIT, max_parts=MOST
        )
        refused, stored = await asyncio.gather(
            client.set('key', LARGE), client.set('key', 'new')
        )
        assert stored
        assert not refused
        await client.close()

    with refuses_a_part(asked) as server:
        asyncio.run(main(server.address))
    words = [word for word, key in asked if key == b'key']
    assert words == [b'set', b'delete', b'set']


@pytest.mark.parametrize('name', ['set', 'replace', 'add'])
def test_a_value_for_which_nobody_waits_any_more(address_of_server, name):
    """It is stored all the same, and takes nothing newer away."""
    # So much is sent by a thread.
    value = 'x' * (2 * MEGABYTE)

    async def main(proxy):
        client = memcached.AsyncClient(servers=proxy.address, max_parts=MOST)
        other = memcached.AsyncClient(
            servers=address_of_server, max_parts=MOST
        )
        await client.set('key', 'old')
        if name == 'add':
            await client.delete('key')
        proxy.reply_delay = 0.1
        assert not await getattr(client, name)('key', value, timeout=0.05)
        # When it is stored, and that has not come back.
        while await other.get('key') != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await other.set('key', 'new')
        await client.close()
        assert await other.get('key') == 'new'
        await other.close()

    with faults.FaultProxy(address_of_server) as proxy:
        asyncio.run(asyncio.wait_for(main(proxy), 10))


@pytest.mark.parametrize('name', ['set', 'replace', 'add'])
@pytest.mark.parametrize('limit', [LIMIT, MEGABYTE])
def test_calls_that_are_not_awaited_keep_their_order(
    address_of_server, name, limit
):
    """Whatever is called behind it comes behind it, from its first part on."""

    async def main():
        client = memcached.AsyncClient(
            servers=address_of_server, max_value_len=limit, max_parts=MOST
        )
        value = 'x' * (3 * limit)
        for _ in range(3):
            await client.set('key', 'old')
            if name == 'add':
                await client.delete('key')
            store = getattr(client, name)
            calls = store('key', value), client.append('key', '!')
            assert await client.get('key') == f'{value}!'
            assert all(await asyncio.gather(*calls))
            await client.set('key', 'old')
            calls = store('key', value), client.set('key', 'new')
            await asyncio.gather(*calls)
            assert await client.get('key') == 'new'
        await client.close()

    asyncio.run(main())


def test_a_server_that_takes_more(connect):
    """``-I`` is larger: a value is in parts all the same."""
    with MemcachedServer('-I', '8m') as server:
        client = connect(server.address, max_parts=4)
        value = os.urandom(2 * MEGABYTE)
        assert client.set('key', value)
        assert client.get('key') == value
        assert count_items(server.address) == 4


@pytest.mark.parametrize('key', ['key', 'part'])
def test_evicted_parts(connect, key):
    """Where there is no room for all of them, a value is whole, or none."""
    with MemcachedServer('-m', '4') as server:
        client = connect(server.address, max_value_len=32 * 1024, max_parts=64)
        stored = {f'{key}{n}': f'{n} ' * 200_000 for n in range(8)}
        for name, value in stored.items():
            client.set(name, value)
        found = [client.get(name) for name in stored]
        assert None in found
        for value, wanted in zip(found, stored.values(), strict=True):
            assert value in (None, wanted)


def stored_by_a_server(value):
    """Return what a server replies to a get of the head, and to the parts."""
    parts = parted.split(b'key', values.TEXT, 0, value, ROOM)
    text = parts.head.written()
    head = b'VALUE key %d %d\r\n%b\r\nEND\r\n' % (
        values.PARTED,
        len(text),
        text,
    )
    lines = []
    for name, place in zip(parts.keys, parts.head.places(), strict=True):
        data = parts.head.mark + value[place]
        lines.append(b'VALUE %b 0 %d\r\n%b\r\n' % (name, len(data), data))
    return head, b''.join(lines) + b'END\r\n'


def test_a_server_that_dies_between(connect):
    """The read is done once more, from the head; then it is a miss."""
    head, parts = stored_by_a_server(LARGE.encode())
    for connections, found in (
        ([[head, [faults.Do.CLOSE]], [head, parts]], LARGE),
        ([[head, [parts[:5000], faults.Do.CLOSE]], [head, parts]], LARGE),
        ([[head, [faults.Do.RESET]]], None),
    ):
        with faults.ScriptedServer(*connections) as server:
            client = connect(
                server.address,
                max_value_len=LIMIT,
                max_parts=MOST,
                dead_retry=0,
            )
            assert client.get('key') == found


@pytest.mark.parametrize('name', ['set', 'replace', 'add'])
def test_a_server_that_dies_while_it_is_stored(connect, name):
    """It is stored once more, if that does no harm."""

    async def dies(connection):
        for _ in range(3):
            await connection.request()
            await connection.send(b'STORED\r\n')

    async def stores(connection):
        while await connection.request():
            await connection.send(b'STORED\r\n')

    with faults.ScriptedServer(dies, stores) as server:
        client = connect(server.address, max_value_len=LIMIT, max_parts=MOST)
        assert bool(getattr(client, name)('key', LARGE)) is (name != 'add')


def test_a_server_that_refuses_the_parts(connect):
    """It fails as a read does that is refused."""
    head, _ = stored_by_a_server(LARGE.encode())
    refused = b'SERVER_ERROR out of memory\r\n'
    with faults.ScriptedServer([head, refused] * 9) as server:
        client = connect(server.address, max_value_len=LIMIT, max_parts=MOST)
        assert client.get('key', 'default') == 'default'


@pytest.mark.parametrize('first', [b'', None], ids=['nothing', 'the head'])
def test_a_proxy_that_refuses_another_key(connect, first):
    """Each is asked for by itself, and the parts of those that are there."""
    head, parts = stored_by_a_server(LARGE.encode())
    refused = b'SERVER_ERROR lost a server\r\n'
    if first is None:
        first = head.removesuffix(b'END\r\n')
    with faults.ScriptedServer(
        [first + refused], [refused, head, parts]
    ) as server:
        client = connect(server.address, max_value_len=LIMIT, max_parts=MOST)
        assert client.get_multi(['other', 'key']) == {'key': LARGE}


MARK = b'0123456789abcdef' * 2

HEADS = {
    'too many parts': b'<parts %b 41 90000 16>' % MARK,
    'a million': b'<parts %b 1000000 90000000 16>' % MARK,
    'so many digits': b'<parts %b %b 90000 16>' % (MARK, b'9' * 4000),
    'too long': b'<parts %b 4 9999999999999 16>' % MARK,
    'more parts than bytes': b'<parts %b 40 20 16>' % MARK,
    'parts that would be empty': b'<parts %b 9 10 16>' % MARK,
    'none': b'<parts %b 0 0 16>' % MARK,
    'a head in a head': b'<parts %b 4 4000 %d>' % (MARK, values.PARTED),
    'flags that are none': b'<parts %b 4 4000 %b>' % (MARK, b'9' * 30),
    'no mark': b'<parts abc 4 4000 16>',
    'two': b'<parts %b 4 4000 16>' % MARK * 2,
    'nothing': b'',
    'something else': b'hello',
}


@pytest.mark.parametrize('name', HEADS)
def test_a_head_that_names_what_cannot_be(client, address, name):
    """It is a miss, and nothing more is asked for."""

    def count():
        before = int(wire.statistics(address)['cmd_get'])
        found = [read(client, read_by) for read_by in READS]
        return found, int(wire.statistics(address)['cmd_get']) - before

    # What nobody can read is asked for once.
    wire.put(address, 'key', values.PARTED + 2, HEADS[name])
    unknown = count()
    assert unknown[0] == [None] * len(READS)
    wire.put(address, 'key', values.PARTED, HEADS[name])
    assert count() == unknown
    assert client.set('key', LARGE)
    assert client.get('key') == LARGE


def test_failing_over(connect, address):
    """A value goes to another server as a whole."""
    with MemcachedServer() as dead:
        client = connect(
            dead.address,
            address,
            max_value_len=LIMIT,
            max_parts=MOST,
            socket_timeout=5,
        )
        dead.kill()
        mapping = {f'k{n}': f'{n}{LARGE}' for n in range(10)}
        assert client.set_multi(mapping) == []
        assert client.get_multi(mapping) == mapping
        for key, value in mapping.items():
            assert client.get(key) == value


# Replies that come in pieces

PARTS = parted.split(b'key', values.TEXT, 0, b'0123456789' * 3, 7)


def in_parts(head):
    return parted.Store(head, b'key', PARTS)


def store_head(verb):
    text = PARTS.head.written()
    return in_parts(protocol.store(verb, b'key', values.PARTED, 0, text))


WHOLE = (values.TEXT, b'0123456789' * 3)

COMMANDS = {
    'get': lambda: parted.reads(9)((b'key', b'other')),
    'gets': lambda: parted.reads(9)((b'key',), 'gets'),
    'gat': lambda: parted.reads(9)((b'key',), 'gat', 60),
    'mg': lambda: parted.MetaGet(9, b'key', recache=5),
    'touch': lambda: parted.Touch(9, b'key', 60),
    'set': lambda: store_head(protocol.SET),
    'add': lambda: store_head(protocol.ADD),
}


def answers(command, session, cut):
    """Have a command read its replies, each of them cut at a place."""
    while True:
        reply = session.answer(command.request)
        incoming = protocol.Incoming()
        incoming.feed(reply[:cut])
        if cut < len(reply):
            assert command.read(incoming) > 0
            incoming.feed(reply[cut:])
        assert command.read(incoming) == 0
        assert not incoming.unread
        if command.answered:
            return
        assert command.proceed()
        assert not command.answered


def told(command):
    found = getattr(command, 'found', None)
    if found:
        return {key: item[:2] for key, item in found.items()}
    return command.result, command.error


@pytest.mark.parametrize('name', COMMANDS)
def test_replies_are_cut_anywhere(name):
    """And where a command starts over, it is all asked for again."""
    wanted = None
    command = COMMANDS[name]()
    request = command.request
    for cut in range(1, 500):
        session = memory.Session(memory.Store())
        session.answer(store_head(protocol.SET).request)
        answers(command, session, cut)
        wanted = wanted or told(command)
        assert told(command) == wanted
        command.start_over()
        assert command.request == request
        assert not command.answered
    if name in ('get', 'gets', 'gat', 'mg'):
        assert wanted == {b'key': WHOLE}
    else:
        # There is one already.
        assert wanted == (name != 'add', None)


@pytest.mark.parametrize('name', ['get', 'gets', 'gat', 'mg', 'touch'])
def test_the_usual_way_is_no_way_to_a_head(name):
    """All else is taken in one step."""
    command = COMMANDS[name]()
    session = memory.Session(memory.Store())
    session.answer(store_head(protocol.SET).request)
    lines = session.answer(command.request).split(b'\r\n')
    assert command.take(lines, 0) == -1
    command.start_over()
    session.answer(b'set key 16 0 5\r\nplain\r\n')
    lines = session.answer(command.request).split(b'\r\n')
    assert command.take(lines, 0) == len(lines) - 1


# Others


def test_what_python_memcached_sees(client, address):
    """A miss, in place of the head."""
    client.set('key', LARGE)
    client.set('small', 'small')
    peer = memcache.Client([address])
    assert peer.get('key') is None
    assert peer.get_multi(['key', 'small']) in (
        {'small': 'small'},
        {'key': None, 'small': 'small'},
    )
    peer.disconnect_all()


def test_flags_that_no_other_has():
    """Neither ours, nor those that tell a compressed value."""
    known = {
        *(values.PICKLE, values.INTEGER, values.LONG, values.TEXT),
        *(values.JSON, values.CUSTOM, values.ZSTD, values.COMPRESSED),
    }
    assert values.PARTED not in known
    assert values.PARTED & ~values.PICKLE & 0xFFF == 0x200
    assert not values.PARTED & values.PACKED
    assert values.PARTED < 1 << 31


def test_keys_of_parts_are_bounded():
    """Whatever the key is."""
    head = parted.Head(MARK, bounds.PARTS.most, 1 << 30, 0)
    for key in (b'k', b'k' * 250, bytes(range(128, 250)) * 2):
        for name in head.keys(key):
            assert re.fullmatch(rb'part:[0-9a-f]{32}:[0-9]+', name)
            assert len(name) < 50
