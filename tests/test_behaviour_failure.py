"""A cache that is down is a cache that misses, quickly and once for all.

Each test fails on python-memcached, unless it is marked as ``kept``.

"""

import contextlib
import gc
import logging
import pickle
import time
import tracemalloc

import faults
import memcache
import pytest
import wire

from sprockets.clients.memcached import testing

LOGGER = 'sprockets.clients.memcached'


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def proxy(address):
    with faults.FaultProxy(address) as proxy:
        yield proxy


@pytest.fixture
def pair():
    """Two servers."""
    with testing.MemcachedServer() as one, testing.MemcachedServer() as other:
        yield one, other


def key_of(place, servers):
    """Return a key that python-memcached puts on one of so many servers."""
    number = 0
    while memcache.cmemcache_hash(b'key%d' % number) % servers != place:
        number += 1
    return f'key{number}'


@contextlib.contextmanager
def took_less_than(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# Down and up

NO_ANSWER = {
    'get': (lambda client: client.get('key'), None),
    'get with a default': (lambda client: client.get('key', 'd'), 'd'),
    'gets': (lambda client: client.gets('key'), None),
    'get_multi': (lambda client: client.get_multi(['key']), {}),
    'set': (lambda client: client.set('key', 1), 0),
    'add': (lambda client: client.add('key', 1), 0),
    'replace': (lambda client: client.replace('key', 1), 0),
    'append': (lambda client: client.append('key', 1), 0),
    'prepend': (lambda client: client.prepend('key', 1), 0),
    'cas': (lambda client: (client.gets('key'), client.cas('key', 1))[1], 0),
    'set_multi': (lambda client: client.set_multi({'key': 1}), ['key']),
    'incr': (lambda client: client.incr('key'), None),
    'decr': (lambda client: client.decr('key'), None),
    'incr from': (lambda client: client.incr('key', initial=1), None),
    'decr from': (lambda client: client.decr('key', initial=1), None),
    'touch': (lambda client: client.touch('key', 1), 0),
    'delete': (lambda client: client.delete('key'), 0),
    'delete_multi': (lambda client: client.delete_multi(['key']), 0),
    'get_stats': (lambda client: client.get_stats(), []),
    'get_slabs': (lambda client: client.get_slabs(), []),
    'get_slab_stats': (lambda client: client.get_slab_stats(), []),
    'flush_all': (lambda client: client.flush_all(), None),
    'ping': (lambda client: client.ping(), False),
    'version': (lambda client: client.version(), {}),
    'limit': (
        lambda client: tuple(client.limit('key', 3, 60)),
        (True, None, 60),
    ),
}


@pytest.mark.parametrize('name', NO_ANSWER)
def test_a_server_that_is_down_is_a_miss_and_is_logged(connect, name, caplog):
    """Whichever call finds out; the log has the address and the reason."""
    call, expected = NO_ANSWER[name]
    with faults.refusing() as address:
        client = connect(address)
        with caplog.at_level(logging.INFO, LOGGER):
            assert call(client) == expected
            assert call(client) == expected
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert address in record.getMessage()
    assert 'refused' in record.getMessage()


@pytest.mark.parametrize('line', [b'ERROR', b'CLIENT_ERROR unauthenticated'])
@pytest.mark.parametrize('method', ['get_slabs', 'get_slab_stats'])
def test_statistics_of_slabs_that_a_server_refuses(
    connect, proxy, method, line
):
    """The caller has named no argument that could be a wrong one."""
    client = connect(proxy.address)
    proxy.next_reply(faults.replace(line + b'\r\n'))
    assert getattr(client, method)() == []
    assert client.set('key', 'value')


def test_down_and_up_are_logged_once_each(connect, proxy, caplog):
    """However often it is tried in between."""
    client = connect(proxy.address, dead_retry=0)
    client.set('key', 'value')
    with caplog.at_level(logging.INFO, LOGGER):
        proxy.down()
        for _ in range(5):
            assert client.get('key', 'default') == 'default'
            assert client.elsewhere.get('key', 'default') == 'default'
        proxy.up()
        for _ in range(5):
            assert client.get('key', 'default') == 'value'
            assert client.elsewhere.get('key', 'default') == 'value'
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.INFO]
    assert all(proxy.address in r.getMessage() for r in caplog.records)


@pytest.mark.kept
def test_a_server_that_is_down_keeps_nothing_that_was_for_it(connect):
    """What could not be stored does not stay in memory."""
    with faults.refusing() as address:
        client = connect(address)
        keys = [f'key{number}' for number in range(10)]
        client.set('other', 'value')
        client.forget_dead_hosts()
        tracemalloc.start()
        try:
            failed = client.set_multi({key: bytes(500_000) for key in keys})
            assert failed == keys
            until = time.monotonic() + 10
            # A thread that has told the result may still be on its way out.
            while tracemalloc.get_traced_memory()[0] > 1_000_000:
                assert time.monotonic() < until
                gc.collect()
        finally:
            tracemalloc.stop()


# One state for all


def test_one_caller_pays_for_a_hung_server(connect, caplog):
    """Nobody else waits for it, in whichever thread."""
    with faults.ScriptedServer() as server:
        client = connect(server.address, socket_timeout=0.3)
        # Where this process was late, the server is not blamed.
        while 'is down: timed out' not in caplog.text:
            before = len(server.connections)
            assert client.get('key') is None
        found = client.in_turn(5, lambda face: face.get('key'))
        assert found == [None] * 5
        assert client.set_multi({'key': 'value'}) == ['key']
        assert len(server.connections) == before + 1


@pytest.mark.kept
def test_the_second_caller_does_not_wait_with_the_default_timeout(connect):
    """The kernel's timer for such a time is late by up to an eighth."""
    with faults.ScriptedServer() as server:
        client = connect(server.address)
        assert client.get('key', 'default') == 'default'
        for _ in range(3):
            began = time.monotonic()
            assert client.get('key', 'default') == 'default'
            # Where this process was late, the server was not blamed.
            if time.monotonic() - began < 2:
                break
        else:
            pytest.fail('each of them waited')


def test_one_caller_tries_a_dead_server_again(connect):
    """While it does, the others go on without waiting."""
    with faults.ScriptedServer([[faults.Do.CLOSE]], []) as server:
        client = connect(server.address, dead_retry=0, socket_timeout=1)
        assert client.get('key') is None
        before = len(server.connections)

        async def read(client):
            return await client.get('key')

        assert client.together(8, read) == [None] * 8
        assert len(server.connections) - before == 1


@pytest.mark.kept
def test_a_dead_server_is_used_again_after_dead_retry(connect, proxy):
    """Without anybody's doing."""
    client = connect(proxy.address, dead_retry=0.05)
    client.set('key', 'value')
    proxy.down()
    assert client.get('key') is None
    proxy.up()
    until = time.monotonic() + 10
    while client.get('key') is None:
        assert time.monotonic() < until
    assert client.elsewhere.get('key') == 'value'


def test_forget_dead_hosts_reaches_every_thread(connect, proxy):
    """What one thread found dead, another brings back for both."""
    client = connect(proxy.address)
    client.set('key', 'value')
    assert client.elsewhere.get('key') == 'value'
    proxy.down()
    assert client.elsewhere.get('key') is None
    proxy.up()
    client.forget_dead_hosts()
    assert client.elsewhere.get('key') == 'value'


def test_set_servers_reaches_every_thread(connect, pair):
    """Threads that used the old servers use the new ones."""
    old, new = pair
    wire.put(old.address, 'key', 0, b'old')
    wire.put(new.address, 'key', 0, b'new')
    client = connect(old.address)
    assert client.elsewhere.get('key') == b'old'
    client.set_servers([new.address])
    assert client.elsewhere.get('key') == b'new'
    assert client.get('key') == b'new'


@pytest.mark.parametrize('name', ['disconnect_all', 'quit_all'])
def test_disconnect_all_reaches_every_thread(connect, proxy, name):
    """No connection is left, and each thread makes a new one if it needs."""
    client = connect(proxy.address)
    client.set('key', 'value')
    client.elsewhere.get('key')
    getattr(client, name)()
    proxy.wait_for(lambda: not proxy.open, 2)
    assert client.elsewhere.get('key') == 'value'


# Deadlines


def test_a_dripping_server_holds_nobody_beyond_the_timeout(connect):
    """The time is for the whole call, not for each piece of the reply."""
    reply = b'VALUE key 0 20\r\n01234567890123456789\r\nEND\r\n'
    with faults.ScriptedServer([faults.drip(0.05)(reply)]) as server:
        client = connect(server.address, socket_timeout=0.3)
        with took_less_than(1.5):
            assert client.get('key', 'default') == 'default'


@pytest.mark.parametrize(
    'call, expected',
    [
        (lambda client, keys: client.get_multi(keys), {}),
        (lambda client, keys: client.get_stats(), []),
        (lambda client, keys: client.delete_multi(keys), 0),
        (lambda client, keys: client.flush_all(), None),
    ],
    ids=['get_multi', 'get_stats', 'delete_multi', 'flush_all'],
)
def test_three_hung_servers_cost_one_timeout(connect, call, expected):
    """They are waited for at the same time."""
    keys = [f'key{number}' for number in range(30)]
    with contextlib.ExitStack() as stack:
        hung = [stack.enter_context(faults.ScriptedServer()) for _ in range(3)]
        client = connect(*[s.address for s in hung], socket_timeout=0.5)
        with took_less_than(1.3):
            assert call(client, keys) == expected


@pytest.mark.kept
def test_a_hung_server_does_not_hold_up_the_others(connect, pair):
    """Their values are in the result."""
    one, other = pair
    keys = [f'key{number}' for number in range(30)]
    client = connect(one.address, other.address, socket_timeout=0.5)
    assert client.set_multi(dict.fromkeys(keys, 'value')) == []
    theirs = [k for k in keys if wire.stored(other.address, k)]
    one.pause()
    with faults.black_hole() as nowhere:
        client.set_servers([one.address, other.address])
        with took_less_than(1.3):
            found = client.get_multi([*keys])
        client.set_servers([nowhere, other.address])
        with took_less_than(1.3):
            again = client.get_multi(keys)
    one.resume()
    assert sorted(found) == sorted(theirs)
    assert sorted(again) == sorted(theirs)


# Finding a server that is up


@pytest.fixture
def one_of_ten(address):
    """Ten servers, nine of which are down: their addresses."""
    with contextlib.ExitStack() as stack:
        down = [stack.enter_context(faults.refusing()) for _ in range(9)]
        yield [*down[:4], address, *down[4:]]


def test_the_last_server_that_is_up_is_found(connect, one_of_ten):
    """For every key, whatever its hash."""
    client = connect(*one_of_ten)
    keys = [f'key{number}' for number in range(100)]
    assert [key for key in keys if not client.set(key, key)] == []
    assert client.get_multi(keys) == {key: key for key in keys}


def test_set_multi_finds_the_last_server_that_is_up(connect, one_of_ten):
    """At the first try."""
    client = connect(*one_of_ten)
    keys = [f'key{number}' for number in range(100)]
    assert client.set_multi({key: key for key in keys}) == []
    assert client.get_multi(keys) == {key: key for key in keys}


@pytest.mark.kept
def test_a_dead_servers_keys_go_to_the_others(connect, pair):
    """And its old values are served when it is back, as ever."""
    one, other = pair
    key = key_of(0, 2)
    client = connect(one.address, other.address, socket_timeout=0.3)
    assert client.set(key, 'old')
    one.pause()
    assert not client.set(key, 'lost')
    assert client.set(key, 'new')
    assert client.get(key) == 'new'
    assert wire.stored(other.address, key) == (16, b'new')
    one.resume()
    client.forget_dead_hosts()
    assert client.get(key) in ('old', 'lost')


def test_without_failover_no_key_moves(connect, pair):
    """Its server being down, a key has none."""
    one, other = pair
    key = key_of(0, 2)
    client = connect(one.address, other.address, failover=False)
    assert client.set(key, 'old')
    one.kill()
    for _ in range(2):
        assert client.get(key, 'default') == 'default'
        assert client.set(key, 'new') == 0
        assert client.set_multi({key: 'new'}) == [key]
        assert client.delete_multi([key]) == 0
    assert wire.stored(other.address, key) is None


# flush_all


def test_flush_all_does_not_raise_on_a_timeout(connect, caplog):
    """It is logged."""
    with faults.ScriptedServer() as server:
        client = connect(server.address, socket_timeout=0.3)
        with caplog.at_level(logging.WARNING, LOGGER):
            while not caplog.records:
                # A process that is stopped meanwhile blames no server.
                assert client.flush_all() is None
        [record] = caplog.records
        assert server.address in record.getMessage()


def test_flush_all_logs_a_refusal(connect, caplog):
    """With the server's words; the connection is in step."""
    with testing.MemcachedServer('-F') as server:
        client = connect(server.address)
        client.set('key', 'value')
        with caplog.at_level(logging.WARNING, LOGGER):
            assert client.flush_all() is None
        [record] = caplog.records
        assert server.address in record.getMessage()
        assert 'not allowed' in record.getMessage()
        assert client.get('key') == 'value'


# Connections


def test_threads_that_take_turns_share_a_connection(connect, proxy):
    """As many connections as calls run at once, not one for each thread."""
    client = connect(proxy.address)
    assert all(client.in_turn(8, lambda face: face.set('key', 'value')))
    assert len(proxy.connections) == 1


@pytest.mark.kept
@pytest.mark.parametrize('limit', [1, 3])
def test_no_more_than_max_connections_are_kept(
    connect, client_kind, address, limit
):
    """Those that a burst of blocking calls needed besides are closed."""
    with faults.FaultProxy(address, reply_delay=0.005) as proxy:
        client = connect(proxy.address, max_connections=limit)

        async def store(client):
            return [await client.set(f'key{n}', 'value') for n in range(5)]

        assert client.together(8, store) == [[True] * 5] * 8
        proxy.wait_for(lambda: 1 <= len(proxy.open) <= limit, 2)
        if client_kind == 'AsyncClient':
            assert proxy.peak <= limit


# The environment


def test_the_environment_is_read_once(connect, pair, monkeypatch):
    """A thread that comes later has the servers that the others have."""
    old, new = pair
    wire.put(old.address, 'key', 0, b'old')
    wire.put(new.address, 'key', 0, b'new')
    monkeypatch.setenv('MEMCACHED_SERVERS', old.address)
    client = connect()
    assert client.get('key') == b'old'
    monkeypatch.setenv('MEMCACHED_SERVERS', new.address)
    assert client.elsewhere.get('key') == b'old'


@pytest.mark.parametrize(
    'form',
    [
        *('{}:3', '{},', ' {} ', ',{}', '{}:1,', '{},,'),
        pytest.param('inet:{}', marks=pytest.mark.kept),
    ],
)
def test_servers_are_written_as_people_write_them(
    connect, address, monkeypatch, form
):
    """With a weight, with blanks around, with a comma at the end."""
    monkeypatch.setenv('MEMCACHED_SERVERS', form.format(address))
    client = connect()
    assert client.set('key', 'value')
    assert client.get('key') == 'value'


def test_an_empty_variable_counts_as_unset(connect, monkeypatch):
    """The default is used, whether there is a server or not."""
    monkeypatch.setenv('MEMCACHED_SERVERS', '')
    connect()


@pytest.mark.parametrize('port', [99999, 65536, 0])
def test_a_port_that_cannot_be_is_an_error_at_once(connect, monkeypatch, port):
    """Not at the first use."""
    monkeypatch.setenv('MEMCACHED_SERVERS', f'127.0.0.1:{port}')
    with pytest.raises(ValueError, match=f'MEMCACHED_SERVERS.*{port}'):
        connect()


# Pickles


def test_values_are_pickled_with_a_current_protocol(connect, address):
    """Which is smaller than protocol 0 by far, and faster."""
    client = connect(address)
    value = {f'name{number}': [number, 0.5, 'text'] for number in range(50)}
    client.set('key', value)
    flags, data = wire.stored(address, 'key')
    assert flags == 1
    assert data[0] == 0x80
    assert data[1] >= 4
    assert len(data) < 0.8 * len(pickle.dumps(value, 0))
    assert client.get('key') == value


@pytest.mark.kept
@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_pickled_with_any_protocol_are_read(connect, address, protocol):
    """Also those of an older release."""
    value = {'a': [1, 0.5, None], 'b': ('text', b'bytes')}
    wire.put(address, 'key', 1, pickle.dumps(value, protocol))
    assert connect(address).get('key') == value
