"""Nothing is lost in silence: what was not done is told, or is done.

Each test fails on python-memcached, unless it is marked as ``kept``.

"""

import datetime
import itertools
import logging
import time

import faults
import pytest
import wire

from sprockets.clients.memcached import testing

MEGABYTE = 1 << 20
DAY = 24 * 60 * 60
DAYS_60 = datetime.timedelta(days=60)


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def proxy(address):
    with faults.FaultProxy(address) as proxy:
        yield proxy


# Values that are too large


def test_set_multi_tells_which_value_is_too_large(connect, address):
    """The others are stored, at once, and the server goes on serving."""
    client = connect(address)
    failed = client.set_multi(
        {'a': 'A', 'large': b'x' * (MEGABYTE + 1), 'b': 'B'}
    )
    assert failed == ['large']
    assert client.get_multi(['a', 'large', 'b']) == {'a': 'A', 'b': 'B'}
    assert client.set('c', 'C')


@pytest.mark.kept
def test_set_multi_tells_what_the_server_finds_too_large(connect):
    """The server's own limit may be lower than the client's."""
    with testing.MemcachedServer('-I', '512k') as server:
        client = connect(server.address)
        large = b'x' * (600 * 1024)
        assert client.set_multi({'a': 'A', 'b': large, 'c': 'C'}) == ['b']
        assert client.get_multi('abc') == {'a': 'A', 'c': 'C'}


@pytest.mark.parametrize('name', ['set', 'set_multi'])
def test_an_old_value_is_not_served_when_the_new_is_too_large(
    connect, address, name
):
    """The caller meant to replace it, and a miss is better than a lie."""
    client = connect(address)
    client.set('key', 'old')
    large = b'x' * (MEGABYTE + 1)
    if name == 'set':
        assert client.set('key', large) == 0
    else:
        assert client.set_multi({'key': large}) == ['key']
    assert client.get('key') is None
    assert wire.stored(address, 'key') is None


# Servers that do not confirm

MAPPING = {'a': 1, 'b': 2, 'c': 3}


def test_set_multi_to_a_hung_server_tells_every_key(connect):
    """What was not confirmed may not have been stored."""
    with faults.ScriptedServer() as server:
        client = connect(server.address, socket_timeout=0.3)
        assert sorted(client.set_multi(MAPPING)) == ['a', 'b', 'c']


@pytest.mark.parametrize(
    'end, noreply',
    [
        pytest.param(faults.Do.CLOSE, False, marks=pytest.mark.kept),
        (faults.Do.CLOSE, True),
        (faults.Do.RESET, False),
        (faults.Do.RESET, True),
    ],
)
def test_set_multi_tells_every_key_after_the_connection_broke(
    connect, end, noreply
):
    """Those that were confirmed before are not among them."""

    async def break_off(connection):
        await connection.request()
        await connection.play([b'STORED\r\n'])
        await connection.request()
        await connection.request()
        await connection.play([end])

    with faults.ScriptedServer(break_off, [[end]]) as server:
        client = connect(server.address)
        failed = client.set_multi(MAPPING, noreply=noreply)
        assert sorted(failed) == ['b', 'c']


@pytest.mark.parametrize(
    'noreply', [pytest.param(False, marks=pytest.mark.kept), True]
)
def test_set_multi_with_no_server_up_tells_every_key(connect, noreply):
    """Nothing can have been stored."""
    with faults.refusing() as address:
        client = connect(address)
        failed = client.set_multi(MAPPING, noreply=noreply)
        assert sorted(failed) == ['a', 'b', 'c']


def test_delete_multi_with_no_server_up_fails(connect):
    """Nothing can have been deleted."""
    with faults.refusing() as address:
        assert connect(address).delete_multi(['a', 'b']) == 0


@pytest.mark.parametrize(
    'answer',
    [
        b'SERVER_ERROR out of memory\r\n',
        [faults.Do.CLOSE],
        [b'DELE', faults.Do.CLOSE],
        b'STORED\r\n',
    ],
    ids=['SERVER_ERROR', 'closed', 'cut', 'not to the point'],
)
def test_delete_multi_fails_where_deletion_is_not_certain(connect, answer):
    """1 is for a server that said for each key that it is gone."""
    with faults.ScriptedServer([answer, answer]) as server:
        client = connect(server.address)
        assert client.delete_multi(['a', 'b']) == 0


@pytest.mark.kept
def test_delete_multi_of_what_is_not_there_succeeds(connect, address):
    """There was no failure, whether there were such keys or not."""
    client = connect(address)
    client.set('a', 'A')
    assert client.delete_multi(['a', 'b']) == 1
    assert client.get('a') is None


# Connections that were closed while idle

AFTER_CLOSE = {
    'get': (lambda client: client.get('key'), 7),
    'gets': (lambda client: client.gets('key'), 7),
    'get_multi': (lambda client: client.get_multi(['key']), {'key': 7}),
    'set': (lambda client: client.set('key', 8), True),
    'add': (lambda client: client.add('another', 8), True),
    'replace': (lambda client: client.replace('key', 8), True),
    'append': (lambda client: client.append('key', '8'), True),
    'prepend': (lambda client: client.prepend('key', '8'), True),
    'set_multi': (lambda client: client.set_multi({'key': 8}), []),
    'incr': (lambda client: client.incr('key'), 8),
    'decr': (lambda client: client.decr('key'), 6),
    'incr from': (lambda client: client.incr('key', initial=1), 8),
    'touch': (lambda client: client.touch('key', 60), 1),
    'delete': (lambda client: client.delete('key'), 1),
    'delete_multi': (lambda client: client.delete_multi(['key']), 1),
    'get_stats': (lambda client: len(client.get_stats()), 1),
}


@pytest.mark.parametrize('end', ['close_connections', 'reset_connections'])
@pytest.mark.parametrize('name', AFTER_CLOSE)
def test_a_connection_closed_while_idle_is_replaced(
    connect, proxy, name, end, caplog
):
    """Nobody notices, whatever the call is, and the next one works."""
    client = connect(proxy.address)
    client.set('key', 7)
    getattr(proxy, end)()
    call, expected = AFTER_CLOSE[name]
    with caplog.at_level(logging.INFO, 'sprockets.clients.memcached'):
        assert call(client) == expected
        assert client.set('next', 'value')
    assert caplog.records == []


def test_a_restarted_server_is_used_at_once(connect):
    """It is empty, and it is not taken for dead."""
    with testing.MemcachedServer() as server:
        client = connect(server.address)
        client.set('key', 'value')
        server.restart()
        assert client.set('key', 'new')
        server.restart()
        assert client.get('key', 'default') == 'default'
        assert client.add('key', 'newer')


HARMLESS = {
    'get': (
        lambda client: client.get('key'),
        b'VALUE key 2 1\r\n7\r\nEND\r\n',
    ),
    'get_multi': (
        lambda client: client.get_multi(['key'])['key'],
        b'VALUE key 2 1\r\n7\r\nEND\r\n',
    ),
    'set': (lambda client: client.set('key', 7), b'STORED\r\n'),
    'replace': (lambda client: client.replace('key', 7), b'STORED\r\n'),
    'set_multi': (
        lambda client: client.set_multi({'key': 7}) == [],
        b'STORED\r\n',
    ),
    'touch': (lambda client: client.touch('key', 7), b'TOUCHED\r\n'),
    'delete': (lambda client: client.delete('key'), b'DELETED\r\n'),
}


@pytest.mark.parametrize('name', HARMLESS)
def test_what_does_no_harm_is_sent_again_when_a_connection_breaks(
    connect, name
):
    """A server may close a connection just when a request comes."""
    call, answer = HARMLESS[name]
    with faults.ScriptedServer(
        [b'STORED\r\n', [faults.Do.CLOSE]], [answer, answer]
    ) as server:
        client = connect(server.address)
        assert client.set('other', 'value')
        assert call(client)
        assert len(server.connections) == 2


HARMFUL = {
    'incr': lambda client: client.incr('key'),
    'decr': lambda client: client.decr('key'),
    'add': lambda client: client.add('key', 7),
    'append': lambda client: client.append('key', 7),
    'prepend': lambda client: client.prepend('key', 7),
}


@pytest.mark.kept
@pytest.mark.parametrize('name', HARMFUL)
def test_what_may_have_run_is_not_sent_again(connect, name):
    """One that ran twice would count twice, or deny its own success."""
    with faults.ScriptedServer(
        [b'STORED\r\n', [faults.Do.CLOSE]], [b'1\r\n']
    ) as server:
        client = connect(server.address)
        assert client.set('other', 'value')
        assert not HARMFUL[name](client)
        assert server.received.count(name.encode() + b' key') == 1


def test_what_may_have_run_is_not_sent_again_but_what_follows_is(connect):
    """The server that broke the connection is not taken for dead."""
    with faults.ScriptedServer(
        [b'STORED\r\n', [faults.Do.CLOSE]], [b'8\r\n']
    ) as server:
        client = connect(server.address)
        client.set('other', 'value')
        assert client.incr('key') is None
        assert client.incr('key') == 8
        assert server.received.count(b'incr') == 2


# Times

TIMED = {
    'set': lambda client, time: client.set('key', 'value', time),
    'set, by name': lambda client, time: client.set('key', 'value', time=time),
    'add': lambda client, time: client.add('key', 'value', time),
    'replace': lambda client, time: (
        client.set('key', 'old'),
        client.replace('key', 'value', time),
    ),
    'cas': lambda client, time: (
        client.gets('key'),
        client.cas('key', 'value', time),
    ),
    'set_multi': lambda client, time: client.set_multi({'key': 'value'}, time),
    'touch': lambda client, time: (
        client.set('key', 'value'),
        client.touch('key', time),
    ),
}

TIMES = {
    '0.5': (0.5, 1),
    'timedelta of 0.5 s': (datetime.timedelta(seconds=0.5), 1),
    'timedelta of 61 s': (datetime.timedelta(seconds=61), 61),
    '30 days and 1 s': (30 * DAY + 1, 30 * DAY + 1),
    '60.5 days': (60.5 * DAY, 60.5 * DAY),
    'timedelta of 60 days': (DAYS_60, 60 * DAY),
}

# Where python-memcached is right as well.
KEPT = [
    ('set', 'timedelta of 61 s'),
    ('set, by name', 'timedelta of 61 s'),
]


@pytest.mark.parametrize(
    'name, case',
    [
        pytest.param(*both, marks=[pytest.mark.kept] if both in KEPT else [])
        for both in itertools.product(TIMED, TIMES)
    ],
)
def test_a_value_expires_when_it_was_told_to(connect, address, name, case):
    """Seconds and timedeltas; a part of a second counts as a whole one."""
    # What was not stored in time would have expired as well.
    client = connect(address, socket_timeout=10)
    when, expected = TIMES[case]
    TIMED[name](client, when)
    left = wire.seconds_left(address, 'key')
    if expected == 1 and left is None:
        # A second may be over by now.
        return
    # The server's clock ticks once a second.
    assert left is not None
    # More than a month is sent as a date.
    room = wire.LATE if expected > 30 * DAY else 2
    assert max(expected - 3, 0) <= left <= expected + room


@pytest.mark.kept
@pytest.mark.parametrize('name', TIMED)
@pytest.mark.parametrize('whole', [int, float])
def test_a_value_expires_at_a_date(connect, address, name, whole):
    """Seconds since the epoch."""
    client = connect(address)
    TIMED[name](client, whole(time.time() + 100))
    assert 95 <= wire.seconds_left(address, 'key') <= 100 + wire.LATE


@pytest.mark.kept
@pytest.mark.parametrize('name', TIMED)
def test_a_value_without_a_time_does_not_expire(connect, address, name):
    """0 is for never."""
    client = connect(address)
    TIMED[name](client, 0)
    assert wire.seconds_left(address, 'key') == -1


@pytest.mark.parametrize('name', TIMED)
def test_milliseconds_since_the_epoch_are_an_error(connect, address, name):
    """memcached would take a part of the number for another time."""
    client = connect(address)
    with pytest.raises(ValueError, match='millisecond'):
        TIMED[name](client, int(time.time() * 1000))


# Many keys


def test_any_number_of_keys_is_stored_read_and_deleted_at_once(connect):
    """What is sent before reading does not fill what both sides hold.

    On a unix socket that is little, so that it shows with fewer keys.

    """
    with testing.MemcachedServer(unix=True) as server:
        client = connect(server.address, socket_timeout=30)
        mapping = {f'key{number}': number for number in range(30_000)}
        assert client.set_multi(mapping) == []
        assert client.get_multi(mapping) == mapping
        assert client.delete_multi(mapping) == 1
        assert client.get_multi(['key0', 'key29999']) == {}


# Signatures


def test_delete_takes_a_time_as_documented(connect, address):
    """None and 0 are no delay; it is not taken for noreply."""
    client = connect(address)
    for call in (
        lambda: client.delete('key', time=0),
        lambda: client.delete('key', time=None),
        lambda: client.delete('key', None, False),
        lambda: client.delete('key', 0, noreply=True),
    ):
        client.set('key', 'value')
        assert call() == 1
        assert client.get('key') is None


@pytest.mark.parametrize('delay', [1, 0.5, -1, '5', datetime.timedelta(1)])
@pytest.mark.parametrize('name', ['delete', 'delete_multi'])
def test_a_delay_of_a_deletion_is_an_error(connect, address, name, delay):
    """memcached has not had them since 1.4; nothing is deleted."""
    client = connect(address)
    client.set('key', 'value')
    keys = 'key' if name == 'delete' else ['key']
    with pytest.raises(ValueError, match='delay'):
        getattr(client, name)(keys, delay)
    assert client.get('key') == 'value'


def test_get_multi_of_keys_that_are_sent_alike(connect, address):
    """Each key that was given is in the result."""
    client = connect(address)
    client.set('1', 'one')
    found = client.get_multi([1, '1', b'1', (0, '1')])
    assert found == {1: 'one', '1': 'one', b'1': 'one', (0, '1'): 'one'}


@pytest.mark.kept
def test_set_multi_of_keys_that_are_sent_alike(connect):
    """Each key that was not stored is in the result."""
    with faults.refusing() as address:
        client = connect(address)
        assert client.set_multi({1: 'a', '1': 'b'}) == [1, '1']


# Numbers


@pytest.mark.parametrize('name', ['incr', 'decr'])
def test_counting_with_what_is_no_number_gives_none(
    connect, address, name, caplog
):
    """It is logged, and the value stays."""
    client = connect(address)
    client.set('key', 'text')
    with caplog.at_level(logging.WARNING, 'sprockets.clients.memcached'):
        assert getattr(client, name)('key') is None
    assert len(caplog.records) == 1
    assert 'non-numeric' in caplog.records[0].getMessage()
    assert client.get('key') == 'text'


@pytest.mark.parametrize('name', ['incr', 'decr'])
def test_counting_where_the_server_fails_gives_none(connect, name, caplog):
    """It is logged with the server's words."""
    with faults.ScriptedServer(
        [b'SERVER_ERROR out of memory\r\n', b'5\r\n']
    ) as server:
        client = connect(server.address)
        with caplog.at_level(logging.WARNING, 'sprockets.clients.memcached'):
            assert getattr(client, name)('key') is None
        assert len(caplog.records) == 1
        assert 'out of memory' in caplog.records[0].getMessage()
        assert getattr(client, name)('key') == 5


@pytest.mark.parametrize('delta', [-1, 2**64, 0.5, '1', None, '-1'])
@pytest.mark.parametrize('name', ['incr', 'decr'])
def test_a_delta_that_memcached_cannot_read_is_refused_unsent(
    connect, name, delta
):
    """It is a ValueError that names it."""
    with faults.ScriptedServer([b'5\r\n']) as server:
        client = connect(server.address)
        with pytest.raises(ValueError, match=r'^delta is '):
            getattr(client, name)('key', delta)
        assert server.received == b''


@pytest.mark.kept
def test_counting(connect, address):
    """The new number; None where there is none, or with noreply."""
    client = connect(address)
    client.set('key', 5)
    assert client.incr('key') == 6
    assert client.incr('key', 10) == 16
    assert client.decr('key', 4) == 12
    assert client.decr('key', 100) == 0
    assert client.incr('key', 2, True) is None
    assert client.get('key') == 2
    assert client.incr('absent') is None
    assert client.incr('key', 2**64 - 1) == 1
