"""No caller ever gets another key's value, whatever goes wrong.

Each test fails on python-memcached, unless it is marked as ``kept``.

"""

import logging
import os
import pickle
import threading
import tracemalloc
import zlib

import faults
import memcache
import pytest
import wire

from sprockets.clients.memcached import testing
from sprockets.clients.memcached.requests import tokens

CALLS = {
    'get': lambda client, key: client.get(key),
    'gets': lambda client, key: client.gets(key),
    'get_multi': lambda client, key: client.get_multi([key]),
    'set': lambda client, key: client.set(key, 'value'),
    'add': lambda client, key: client.add(key, 'value'),
    'replace': lambda client, key: client.replace(key, 'value'),
    'append': lambda client, key: client.append(key, 'value'),
    'prepend': lambda client, key: client.prepend(key, 'value'),
    'cas': lambda client, key: client.cas(key, 'value'),
    'set_multi': lambda client, key: client.set_multi({key: 'value'}),
    'incr': lambda client, key: client.incr(key),
    'decr': lambda client, key: client.decr(key),
    'incr from': lambda client, key: client.incr(key, initial=0),
    'decr from': lambda client, key: client.decr(key, initial=0),
    'get_or_set_multi': lambda client, key: client.get_or_set_multi(
        [key], lambda keys: dict.fromkeys(keys, 1)
    ),
    'touch': lambda client, key: client.touch(key),
    'delete': lambda client, key: client.delete(key),
    'delete_multi': lambda client, key: client.delete_multi([key]),
}

PREFIXED = {
    'get_multi': lambda client, prefix: client.get_multi(['k'], prefix),
    'set_multi': lambda client, prefix: client.set_multi(
        {'k': 'value'}, key_prefix=prefix
    ),
    'delete_multi': lambda client, prefix: client.delete_multi(
        ['k'], key_prefix=prefix
    ),
}


class Unpicklable:
    def __reduce__(self):
        raise TypeError('this cannot be pickled')


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def fresh():
    """A server that never held anything: its address.

    cachedump shows what is cold, which without the modern way is all.

    """
    with testing.MemcachedServer('-o', 'no_modern') as server:
        yield server.address


@pytest.fixture
def pair():
    """Two servers: their addresses."""
    with testing.MemcachedServer() as one, testing.MemcachedServer() as other:
        yield one.address, other.address


def keys_by_server(servers, count):
    """Return so many keys for each server, as python-memcached puts them."""
    found = [[] for _ in servers]
    number = 0
    while min(map(len, found)) < count:
        key = f'key{number}'
        hashed = memcache.cmemcache_hash(key.encode())
        found[hashed % len(servers)].append(key)
        number += 1
    return [keys[:count] for keys in found]


# A key that ends the command


@pytest.mark.parametrize('key', ['x\n', b'x\n', (1, 'x\n')], ids=repr)
@pytest.mark.parametrize('name', CALLS)
def test_a_key_that_ends_in_a_newline_is_refused_unsent(connect, name, key):
    """No command takes such a key, and nothing of it is sent."""
    with faults.ScriptedServer([faults.Do.CLOSE]) as server:
        client = connect(server.address)
        with pytest.raises(memcache.Client.MemcachedKeyCharacterError):
            CALLS[name](client, key)
        assert server.received == b''


@pytest.mark.parametrize('name', PREFIXED)
def test_a_prefix_that_ends_in_a_newline_is_refused_unsent(connect, name):
    """The key_prefix of a call is checked as the key is."""
    with faults.ScriptedServer([faults.Do.CLOSE]) as server:
        client = connect(server.address)
        with pytest.raises(memcache.Client.MemcachedKeyCharacterError):
            PREFIXED[name](client, 'x\n')
        assert server.received == b''


def test_a_key_is_no_way_to_flush_the_server(connect, address):
    """A value is never run as a command."""
    client = connect(address)
    client.set('kept', 'safe')
    with pytest.raises(memcache.Client.MemcachedKeyCharacterError):
        client.set('x\n', 'flush_all')
    assert client.get('kept') == 'safe'


# Values that cannot be decoded

UNDECODABLE = {
    'bad integer': (2, b'one'),
    'bad long': (4, b'one'),
    'unknown flags': (64, b'value'),
    'unknown flags, compressed': (72, zlib.compress(b'value')),
    'bad zlib': (8, b'value'),
    'cut zlib': (8, zlib.compress(b'value' * 100)[:-6]),
    'bad text': (16, b'\xff\xfe'),
    'bad text, compressed': (24, zlib.compress(b'\xff\xfe')),
}


@pytest.mark.parametrize('case', UNDECODABLE)
def test_an_undecodable_value_is_a_miss_among_others(
    connect, address, case, caplog
):
    """The others arrive, it is logged, and the next reads get their own."""
    client = connect(address)
    client.set('alice', "Alice's")
    client.set('bob', "Bob's")
    client.set('carol', "Carol's")
    wire.put(address, 'bad', *UNDECODABLE[case])
    with caplog.at_level(logging.WARNING, 'sprockets.clients.memcached'):
        found = client.get_multi(['alice', 'bad', 'carol'])
    assert client.get('bob') == "Bob's"
    assert found == {'alice': "Alice's", 'carol': "Carol's"}
    assert len(caplog.records) == 1


@pytest.mark.parametrize('name', ['get', 'gets'])
@pytest.mark.parametrize('case', UNDECODABLE)
def test_an_undecodable_value_is_a_miss(connect, address, case, name):
    """A single read of it gives what a miss gives."""
    client = connect(address)
    client.set('bob', "Bob's")
    wire.put(address, 'bad', *UNDECODABLE[case])
    assert getattr(client, name)('bad') is None
    assert client.get('bob') == "Bob's"


def test_an_undecodable_value_gives_the_default(connect, address):
    """Including a pickle whose class is gone."""
    client = connect(address)
    gone = pickle.dumps(Unpicklable, 2).replace(b'Unpickl', b'Nowhere')
    wire.put(address, 'bad', 1, gone)
    assert client.get('bad', 'default') == 'default'


# Values that cannot be serialized


def test_set_multi_with_an_unpicklable_value_stores_nothing(connect, pair):
    """All is serialized before any of it is sent to any server."""
    client = connect(*pair)
    first, second = keys_by_server(pair, 5)
    keys = [key for both in zip(first, second, strict=True) for key in both]
    mapping = dict.fromkeys(keys, 'value')
    mapping[keys[-1]] = Unpicklable()
    with pytest.raises(TypeError, match='cannot be pickled'):
        client.set_multi(mapping)
    assert [wire.stored(pair[i % 2], keys[i]) for i in range(10)] == [
        None
    ] * 10


def test_set_multi_with_an_unpicklable_value_leaves_replies_in_step(
    connect, pair
):
    """What is read after it belongs to what was asked for after it."""
    client = connect(*pair)
    first, second = keys_by_server(pair, 2)
    for key in first + second:
        client.set(key, key)
    mapping = dict.fromkeys(first + second, 'value')
    mapping[second[-1]] = Unpicklable()
    with pytest.raises(TypeError, match='cannot be pickled'):
        client.set_multi(mapping)
    for key in first + second:
        assert client.get(key) == key
        assert client.replace('absent', 'value') == 0


@pytest.mark.parametrize(
    'value',
    [Unpicklable(), lambda: None, threading.Lock(), '\ud800'],
    ids=['refused', 'function', 'lock', 'surrogate'],
)
def test_the_error_of_set_multi_says_which_key(connect, address, value):
    """Whatever the error is, it names the key whose value is at fault."""
    client = connect(address)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        client.set_multi({'good': 'value', 'the-bad-one': value})
    told = [str(caught.value), *getattr(caught.value, '__notes__', ())]
    assert 'the-bad-one' in ' '.join(told)


# Replies that are left behind


@pytest.fixture
def interrupt():
    with faults.interrupting() as interrupt:
        yield interrupt


def test_an_interrupted_read_leaves_no_reply_behind(connect, interrupt):
    """A signal between sending and receiving costs no other call its reply."""
    interrupted = []

    async def answer(connection):
        while request := await connection.request():
            key = request.split()[1]
            if not interrupted:
                interrupted.append(key)
                interrupt()
                await connection.play([faults.Do.STALL])
            await connection.send(
                b'VALUE %b 0 %d\r\n%b\r\nEND\r\n' % (key, len(key), key)
            )

    with faults.ScriptedServer(answer) as server:
        client = connect(server.address, socket_timeout=30)
        with pytest.raises(KeyboardInterrupt):
            client.get('alice')
        server.wait_for(lambda: server.stalled)
        server.release()
        assert client.get('bob') == b'bob'
        assert client.get('carol') == b'carol'


WRONG_REPLIES = {
    'another key': b'VALUE other 0 5\r\nother\r\nEND\r\n',
    'a longer key': b'VALUE keys 0 5\r\nvalue\r\nEND\r\n',
    'two values': b'VALUE key 0 1\r\n1\r\nVALUE key 0 1\r\n2\r\nEND\r\n',
    'no END': b'VALUE key 0 5\r\nvalue\r\nSTORED\r\n',
    'a shorter value': b'VALUE key 0 6\r\nvalue\r\nEND\r\n',
    'a longer value': b'VALUE key 0 4\r\nvalue\r\nEND\r\n',
    'a cas unique': b'VALUE key 0 5 17\r\nvalue\r\nEND\r\n',
    'a negative length': b'VALUE key 0 -1\r\n\r\nEND\r\n',
    'another command': b'STORED\r\n',
}


@pytest.mark.parametrize('case', WRONG_REPLIES)
def test_a_reply_to_something_else_is_a_failure(connect, case, caplog):
    """It is a miss and is logged, and nobody uses that connection again."""
    with faults.ScriptedServer(
        [WRONG_REPLIES[case]], [b"VALUE bob 0 5\r\nBob's\r\nEND\r\n"]
    ) as server:
        client = connect(server.address)
        with caplog.at_level(logging.WARNING, 'sprockets.clients.memcached'):
            assert client.get('key', 'default') == 'default'
        assert [server.address in r.getMessage() for r in caplog.records] == [
            True
        ]
        server.wait_for(lambda: not server.open, 2)
        client.forget_dead_hosts()
        assert client.get('bob') == b"Bob's"


@pytest.mark.parametrize(
    'reply',
    [
        b"VALUE bob 0 5\r\nBob's\r\nEND\r\n",
        b'VALUE a 0 1\r\nA\r\nVALUE a 0 1\r\nB\r\nEND\r\n',
    ],
    ids=['another key', 'a key twice'],
)
def test_get_multi_takes_no_other_keys_values(connect, reply):
    """One value that was not asked for, and none of the reply is trusted."""
    with faults.ScriptedServer([reply], [b'END\r\n']) as server:
        client = connect(server.address)
        found = client.get_multi(['a', 'b'])
        assert 'bob' not in found
        assert found.get('a') in (None, b'A')
        server.wait_for(lambda: not server.open, 2)


# Forked children


@pytest.mark.apart
def test_a_forked_child_shares_no_connection(connect, address):
    """Parent and child read at the same time, and each gets its own."""
    client = connect(address)
    client.set('parent', "the parent's")
    client.set('child', "the child's")
    before = int(wire.statistics(address)['total_connections'])
    child = os.fork()
    if child == 0:
        status = 99
        try:
            client.after_fork()
            status = any(
                client.get('child') != "the child's" for _ in range(500)
            )
        finally:
            os._exit(status)
    wrong = sum(client.get('parent') != "the parent's" for _ in range(500))
    _, status = os.waitpid(child, 0)
    # One is that of statistics().
    after = int(wire.statistics(address)['total_connections'])
    assert (os.waitstatus_to_exitcode(status), wrong) == (0, 0)
    assert after - before == 1 + 1


# Statistics


def test_get_slabs_is_by_server_and_slab(connect, fresh):
    """The statistics of the items of each slab, all of them text."""
    client = connect(fresh)
    client.set('key', 'value')
    [(name, slabs)] = client.get_slabs()
    assert name == f'{fresh} (1)'
    [(slab, statistics)] = slabs.items()
    assert slab.isdigit()
    assert statistics['number'] == '1'
    assert client.get('key') == 'value'


@pytest.mark.parametrize('argument', ['reset', 'detail on', 'detail off'])
def test_get_stats_of_what_has_no_statistics(connect, address, argument):
    """A command that is only acknowledged gives an empty dict."""
    client = connect(address)
    client.set('key', 'value')
    [(_, statistics)] = client.get_stats(argument)
    assert statistics == {}
    assert client.get('key') == 'value'


def test_get_stats_of_cachedump(connect, fresh):
    """Its lines are no STAT lines, and a key need not be ASCII."""
    client = connect(fresh)
    client.set('schl\u00fcssel', 'value')
    dump = {}
    for slab in range(1, 5):
        [(_, found)] = client.get_stats(f'cachedump {slab} 0')
        dump |= found
    assert [text[:4] for text in dump.values()] == ['[5 b']
    assert client.get('schl\u00fcssel') == 'value'


@pytest.mark.parametrize(
    'argument', ['nonsense', 'detail', 'detail bogus', 'cachedump a b']
)
def test_get_stats_that_memcached_refuses(connect, address, argument):
    """It is a ValueError, and later replies are in step."""
    client = connect(address)
    client.set('key', 'value')
    with pytest.raises(ValueError, match='refuse'):
        client.get_stats(argument)
    assert client.get('key') == 'value'


# Commands in arguments

INJECTION = '0\r\nflush_all'

INJECTED = {
    'touch': lambda client, text: client.touch('key', text),
    'touch, by name': lambda client, text: client.touch('key', time=text),
    'incr': lambda client, text: client.incr('key', text),
    'decr': lambda client, text: client.decr('key', delta=text),
    'delete': lambda client, text: client.delete('key', time=text),
    'delete_multi': lambda client, text: client.delete_multi(
        ['key'], time=text
    ),
    'get_stats': lambda client, text: client.get_stats(text),
}


@pytest.mark.parametrize(
    'text', [INJECTION, INJECTION.encode()], ids=['text', 'bytes']
)
@pytest.mark.parametrize('name', INJECTED)
def test_an_argument_is_no_way_to_send_a_command(connect, name, text):
    """What is no number, or has control characters, is refused unsent."""
    with faults.ScriptedServer([faults.Do.CLOSE]) as server:
        client = connect(server.address)
        with pytest.raises(ValueError, match='flush_all'):
            INJECTED[name](client, text)
        assert server.received == b''


TIMED = {
    'set': lambda client, time: client.set('key', 'flush_all', time),
    'add': lambda client, time: client.add('key', 'flush_all', time),
    'replace': lambda client, time: client.replace('key', 'flush_all', time),
    'append': lambda client, time: client.append('key', 'flush_all', time),
    'prepend': lambda client, time: client.prepend('key', 'flush_all', time),
    'cas': lambda client, time: client.cas('key', 'flush_all', time),
    'set_multi': lambda client, time: client.set_multi(
        {'key': 'flush_all'}, time
    ),
    'touch': lambda client, time: client.touch('key', time),
}


@pytest.mark.parametrize('name', TIMED)
def test_a_time_that_memcached_cannot_read_is_refused_unsent(connect, name):
    """Else memcached refuses the line, and takes the value for a command."""
    with faults.ScriptedServer([faults.Do.CLOSE]) as server:
        client = connect(server.address)
        with pytest.raises(ValueError, match='time is 9223372036854775808'):
            TIMED[name](client, 2**63)
        assert server.received == b''


def test_a_time_that_memcached_cannot_read_loses_nothing(connect, address):
    """What was stored before is there after it."""
    client = connect(address)
    client.set('kept', 'safe')
    with pytest.raises(ValueError, match='time'):
        client.set('key', 'flush_all', 2**63)
    assert client.get('kept') == 'safe'


# cas


def test_cas_without_gets_is_an_error(connect, address):
    """It is never a set that is not asked for."""
    client = connect(address)
    client.set('key', 'old')
    client.get('key')
    with pytest.raises(RuntimeError, match='gets'):
        client.cas('key', 'new')
    assert client.get('key') == 'old'


def test_cas_does_not_overwrite_what_came_after_gets(connect, address):
    """Of two that read the same value, the second to write learns so."""
    client = connect(address)
    client.set('key', 'old')
    assert client.gets('key') == 'old'
    client.elsewhere.set('key', 'newer')
    assert not client.cas('key', 'lost')
    assert client.get('key') == 'newer'


def test_cas_after_gets_of_nothing_stores_only_on_nothing(connect, address):
    """Of two that found nothing, the second to write learns so."""
    client = connect(address)
    assert client.gets('key') is None
    client.elsewhere.set('key', 'newer')
    assert not client.cas('key', 'lost')
    assert client.get('key') == 'newer'


def test_cas_after_deletion_does_not_store(connect, address):
    """A value that was deleted since is not the one that gets saw."""
    client = connect(address)
    client.set('key', 'old')
    client.gets('key')
    client.elsewhere.delete('key')
    assert not client.cas('key', 'lost')
    assert client.get('key') is None


def test_a_gets_serves_for_one_cas(connect, address):
    """A second cas needs a gets of its own."""
    client = connect(address)
    client.set('key', 'old')
    client.gets('key')
    assert client.cas('key', 'new')
    with pytest.raises(RuntimeError, match='gets'):
        client.cas('key', 'again')
    assert client.get('key') == 'new'


def test_a_gets_serves_only_where_it_was_called(connect, address):
    """Another thread, or scope, cannot use it."""
    client = connect(address)
    client.set('key', 'old')
    client.elsewhere.gets('key')
    with pytest.raises(RuntimeError, match='gets'):
        client.cas('key', 'new')
    assert client.elsewhere.cas('key', 'theirs')
    assert client.get('key') == 'theirs'


def test_gets_elsewhere_does_not_renew_a_token(connect, address):
    """What another thread, or scope, saw is not what this one saw."""
    client = connect(address)
    client.set('key', 'old')
    client.gets('key')
    client.elsewhere.set('key', 'newer')
    client.elsewhere.gets('key')
    assert not client.cas('key', 'lost')
    assert client.elsewhere.cas('key', 'newest')


def test_concurrent_increments_with_cas_are_all_counted(connect, address):
    """Four that add 1 to a value 300 times each make 1,200."""
    client = connect(address)
    client.set('key', 0)

    async def increment(client):
        added = 0
        while added < 300:
            value = await client.gets('key')
            added += bool(await client.cas('key', value + 1))

    client.together(4, increment)
    assert client.get('key') == 1200


def key_elsewhere(servers):
    """Return a key, and a hash that puts it on another server than its own."""
    [[key], _] = keys_by_server(servers, 1)
    return 1, key


def test_cas_keeps_the_hash_of_a_key(connect, pair):
    """It writes where gets has read, and nowhere else."""
    client = connect(*pair)
    hashed, key = key_elsewhere(pair)
    client.set((hashed, key), 'old')
    assert client.gets((hashed, key)) == 'old'
    assert client.cas((hashed, key), 'new')
    assert client.get((hashed, key)) == 'new'
    assert wire.stored(pair[0], key) is None


def test_a_key_with_and_without_a_hash_are_two_keys(connect, pair):
    """A gets of the one does not serve for a cas of the other."""
    client = connect(*pair)
    hashed, key = key_elsewhere(pair)
    client.set((hashed, key), 'old')
    client.gets((hashed, key))
    with pytest.raises(RuntimeError, match='gets'):
        client.cas(key, 'new')
    assert wire.stored(pair[0], key) is None


def test_what_gets_saw_is_forgotten_in_the_end(connect, address, monkeypatch):
    """However many keys are read with gets, memory is bounded."""
    monkeypatch.setattr(tokens.Tokens, 'limit', 100)
    client = connect(address, cache_cas=True)
    for number in range(101):
        client.set(f'key{number}', number)
        client.gets(f'key{number}')
    with pytest.raises(RuntimeError, match='gets'):
        client.cas('key0', 'new')
    assert client.cas('key1', 'new')
    assert client.cas('key100', 'new')


# What inflates


def test_inflating_stops_at_a_limit(connect, address):
    """A small value that would fill the memory is a miss."""
    squeezer = zlib.compressobj()
    megabyte = b'x' * (1 << 20)
    bomb = b''.join(squeezer.compress(megabyte) for _ in range(64))
    bomb += squeezer.flush()
    wire.put(address, 'bomb', 24, bomb)
    client = connect(address)
    tracemalloc.start()
    try:
        assert client.get('bomb', 'default') == 'default'
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20
