"""What the methods' arguments become, and what is wrong with them."""

import datetime
import decimal
import fractions
import time

import memcache
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import (
    arguments,
    encodings,
    methods,
    statistics,
    tokens,
)
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import protocol

DAY = 24 * 60 * 60
NOW = 1_700_000_000.25
MICROSECOND = datetime.timedelta(microseconds=1)

Client = memcache.Client


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


@pytest.fixture
def offline():
    """A client without a server."""
    return memcached.Client(servers='127.0.0.1:1')


# Keys

ALLOWED = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])

GOOD_KEYS = {
    'text': ('key', b'key'),
    'bytes': (b'key', b'key'),
    'other scripts': ('schl\u00fcssel', 'schl\u00fcssel'.encode()),
    'all bytes that are allowed': (ALLOWED, ALLOWED),
    'as long as may be': ('x' * 250, b'x' * 250),
    'as long as may be in UTF-8': ('\u00fc' * 125, b'\xc3\xbc' * 125),
    'a hash': ((7, 'key'), b'key'),
    'a hash and bytes': ((7, b'key'), b'key'),
    'what is no printable text': ('a\u00adb\u200b', b'a\xc2\xadb\xe2\x80\x8b'),
}


class Shouted(str):
    """Text that is sent as something else."""

    def __str__(self):
        return self.upper()

    def encode(self, *args):
        return self.upper().encode(*args)


def test_a_key_is_remembered_for_as_long_as_it_is_sent_so():
    """Whatever is said of keys meanwhile holds for the next call."""
    encoding = encodings.Encoding(values.Codec(), b'one:')
    for _ in range(100):
        assert encoding.key('key') == b'one:key'
    assert encoding.key('key') is encoding.key('key')
    encoding.prefix = b'two:'
    assert encoding.key('key') == b'two:key'
    encoding.server_max_key_length = 6
    assert encoding.key('key') is None
    with pytest.raises(Client.MemcachedKeyLengthError):
        encoding.route('key')
    encoding.server_max_key_length = 250
    assert encoding.key('key') == b'two:key'
    encoding.key_encoder = str.upper
    assert encoding.key('key') is None
    assert encoding.route('key').key == b'two:KEY'


def test_only_plain_keys_are_remembered():
    """What is equal to one of them is another one all the same."""
    encoding = encodings.Encoding(values.Codec())
    for _ in range(100):
        assert encoding.key('key') == b'key'
    for other in (b'key', Shouted('key'), 3, True, None, [], (0, 'key')):
        assert encoding.key(other) is None
    for wrong in ('', 'a key', 'k\u00e9y', 'key\n', 'k' * 251):
        assert encoding.key(wrong) is None
        assert encoding.key(wrong) is None


def test_so_many_keys_are_remembered():
    encoding = encodings.Encoding(values.Codec())
    most = 0
    for number in range(30 * encodings.MAX_KNOWN):
        assert encoding.key(f'key{number}') == b'key%d' % number
        most = max(most, len(encoding._known))
    assert most == encodings.MAX_KNOWN
    assert encoding.key('key0') == b'key0'


@pytest.mark.parametrize('case', GOOD_KEYS)
def test_keys_as_they_are_sent(memcached_server, case):
    """Text as UTF-8."""
    key, sent = GOOD_KEYS[case]
    client = memcached.Client()
    for store in (
        lambda: client.set(key, 'one'),
        lambda: client.set_multi({key: 'one'}) == [],
        lambda: client.set_multi({key: 'one', 'other': 'two'}) == [],
    ):
        assert store()
        request = b'get %b\r\n' % sent
        answer = wire.ask(memcached_server.address, request, b'END\r\n')
        assert answer == b'VALUE %b 16 3\r\none\r\nEND\r\n' % sent
        assert client.get(key) == 'one'
        assert client.get_multi([key]) == {key: 'one'}
        assert client.delete_multi([key]) == 1
        assert client.get_multi([key, 'none']) == {}
    client.disconnect_all()


BAD_KEYS = {
    'None': (None, Client.MemcachedKeyNoneError, 'None'),
    'empty': ('', Client.MemcachedKeyError, 'key='),
    'empty bytes': (b'', Client.MemcachedKeyError, 'key='),
    'a number': (7, Client.MemcachedKeyTypeError, 'string'),
    'a list': (['key'], Client.MemcachedKeyTypeError, 'string'),
    'too long': ('x' * 251, Client.MemcachedKeyLengthError, '250'),
    'too long in UTF-8': (
        '\u00fc' * 126,
        Client.MemcachedKeyLengthError,
        '250',
    ),
    'far too long': ('x' * 100_000, Client.MemcachedKeyLengthError, '250'),
    'a hash and None': ((7, None), Client.MemcachedKeyNoneError, 'None'),
    'a hash and nothing': ((7, ''), Client.MemcachedKeyError, 'key='),
    'a hash that is none': (
        ('7', 'key'),
        Client.MemcachedKeyTypeError,
        'whole number',
    ),
    'half a tuple': ((7,), Client.MemcachedKeyTypeError, 'tuple'),
    'a longer tuple': ((7, 'a', 'b'), Client.MemcachedKeyTypeError, 'tuple'),
    **{
        repr(key): (key, Client.MemcachedKeyCharacterError, 'key=')
        for key in (
            *('a b', 'a ', ' a', ' ', 'a\tb', 'a\nb', 'a\n', '\n', 'a\r'),
            *('a\0', '\0', 'a\x7f', 'a\x1f', b'a b', b'a\n', b'a\r\n'),
            *('\u00fc b', '\u00fc\n', 'a\x0b', 'a\x0c', (7, 'a b')),
        )
    },
}

# In a *_multi method str() is used for what is neither text nor bytes.
MULTI = [case for case in BAD_KEYS if case not in ('a number', 'a list')]


@pytest.mark.parametrize('case', BAD_KEYS)
def test_bad_keys(offline, case):
    """The error says what is wrong, and is python-memcached's."""
    key, error, match = BAD_KEYS[case]
    for call in (offline.get, offline.gets, offline.delete, offline.incr):
        with pytest.raises(error, match=match):
            call(key)
    with pytest.raises(error, match=match):
        offline.set(key, 'value')


@pytest.mark.parametrize('case', MULTI)
def test_bad_keys_among_many(offline, case):
    """One of them is enough, wherever it stands."""
    key, error, match = BAD_KEYS[case]
    for keys in ([key], ['good', key], [key, 'good'], [b'good', key, 7]):
        for call in (offline.get_multi, offline.delete_multi):
            with pytest.raises(error, match=match):
                call(keys)
        with pytest.raises(error, match=match):
            offline.set_multi(dict.fromkeys(keys, 'value'))


@pytest.mark.parametrize('case', BAD_KEYS)
def test_bad_keys_unchecked(case):
    """check_keys=False leaves out what is not needed to stay in step."""
    client = memcached.Client(servers='127.0.0.1:1', check_keys=False)
    key, error, _ = BAD_KEYS[case]
    if error is Client.MemcachedKeyLengthError:
        assert client.get(key) is None
    else:
        with pytest.raises(Client.MemcachedKeyError):
            client.get(key)


def test_the_message_for_a_bad_key_shows_no_megabytes(offline):
    """Only what is needed to find it."""
    with pytest.raises(Client.MemcachedKeyLengthError) as caught:
        offline.get('x' * 1_000_000)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    'key, sent',
    [(1, 'p-1'), (1.5, 'p-1.5'), ((7, 1), 'p-1'), (True, 'p-True')],
)
def test_keys_of_many_may_be_anything(memcached_server, key, sent):
    """What is neither text nor bytes is sent as its str()."""
    client = memcached.Client()
    assert client.set_multi({key: 'one', 'other': 2}, key_prefix='p-') == []
    assert wire.stored(memcached_server.address, sent) == (16, b'one')
    assert client.get_multi([key], 'p-') == {key: 'one'}
    assert client.delete_multi([key], key_prefix='p-') == 1
    assert wire.stored(memcached_server.address, sent) is None
    client.disconnect_all()


@pytest.mark.parametrize('prefix', ['p-', b'p-', '\u00fc', b'\xff'])
@pytest.mark.parametrize('keys', [['a', 'b'], ['a', b'b'], ['\u00fc', 'b']])
def test_the_prefix_of_many_keys(memcached_server, prefix, keys):
    """It is put before each, on the server only."""
    client = memcached.Client()
    values = dict.fromkeys(keys, 'one')
    assert client.set_multi(values, key_prefix=prefix) == []
    assert client.get_multi(keys, key_prefix=prefix) == values
    assert client.get_multi(keys) == {}
    client.disconnect_all()


def test_the_prefix_of_many_keys_is_checked(offline):
    """It counts for the length of each."""
    assert offline.get_multi(['x' * 240], 'p' * 10) == {}
    for keys in (['x' * 241], ['a', b'x' * 241], ['a', '\u00fc' * 121]):
        with pytest.raises(Client.MemcachedKeyLengthError):
            offline.get_multi(keys, 'p' * 10)
    for prefix in ('a b', 'a\n', '\n', ' ', b'a\r', None, 7):
        with pytest.raises(Client.MemcachedKeyError):
            offline.get_multi(['a'], prefix)


def test_a_key_encoder_is_applied_once(memcached_server):
    """To each key, and not to a prefix; what comes back is as given."""
    client = memcached.Client(key_encoder=lambda key: f'{key}!')
    assert client.set('a', 1)
    assert client.set((7, 'b'), 2)
    assert client.set_multi({'c': 3, 4: 4}, key_prefix='p-') == []
    for key in ('a!', 'b!', 'p-c!', 'p-4!'):
        assert wire.stored(memcached_server.address, key) is not None
    assert client.get_multi(['a', (7, 'b')]) == {'a': 1, (7, 'b'): 2}
    assert client.get_multi(['c', 4], 'p-') == {'c': 3, 4: 4}
    client.disconnect_all()


@pytest.mark.parametrize('hash_bad_keys', [False, True])
def test_a_key_encoder_may_choose_the_server(pair, hash_bad_keys):
    """By a tuple of a hash and a key, as a caller may."""
    client = memcached.Client(
        servers=[server.address for server in pair],
        key_encoder=lambda key: (int(key[-1]), f'{key}!'),
        hash_bad_keys=hash_bad_keys,
    )
    assert client.set('a0', '0')
    assert client.set((0, 'a1'), '1')
    assert client.get('a1') == '1'
    assert client.set_multi({'b0': 2, 'b1': 3}) == []
    assert client.get_multi(['b0', 'b1']) == {'b0': 2, 'b1': 3}
    for number, server in enumerate(pair):
        for key in 'ab':
            assert wire.stored(server.address, f'{key}{number}!') is not None
    client.disconnect_all()


def test_a_key_encoder_makes_good_keys_of_bad_ones(memcached_server):
    """That is what it is for."""
    client = memcached.Client(key_encoder=lambda key: key.replace(' ', '_'))
    assert client.set('a b', 1)
    assert client.set_multi({'c d': 2}) == []
    assert client.get_multi(['a b', 'c d']) == {'a b': 1, 'c d': 2}
    assert wire.stored(memcached_server.address, 'c_d') == (2, b'2')
    assert client.delete_multi(['a b']) == 1
    assert client.get('a b') is None
    client.disconnect_all()


def test_the_length_of_keys_may_be_limited_otherwise():
    """server_max_key_length, 0 for no limit."""
    client = memcached.Client(servers='127.0.0.1:1', server_max_key_length=10)
    assert client.get('x' * 10) is None
    assert client.get_multi(['x' * 10, 'a']) == {}
    with pytest.raises(Client.MemcachedKeyLengthError):
        client.get('x' * 11)
    with pytest.raises(Client.MemcachedKeyLengthError):
        client.get_multi(['a', 'x' * 11])
    client = memcached.Client(servers='127.0.0.1:1', server_max_key_length=0)
    assert client.get('x' * 1000) is None
    assert client.get_multi(['x' * 1000, 'a']) == {}


# Times

TIMES = [
    (0, 0),
    (1, 1),
    (60, 60),
    (0.0, 0),
    (0.001, 1),
    (0.5, 1),
    (1.0, 1),
    (1.001, 2),
    (True, 1),
    (False, 0),
    (fractions.Fraction(3, 2), 2),
    (-1, protocol.EXPIRED),
    (-0.5, protocol.EXPIRED),
    (-(10**6), protocol.EXPIRED),
    (30 * DAY, 30 * DAY),
    (30 * DAY - 0.5, 30 * DAY),
    (30 * DAY + 1, 1_700_000_000 + 30 * DAY + 1),
    (60 * DAY, 1_700_000_000 + 60 * DAY),
    (999_999_999, 2_147_483_647),
    (1_000_000_000, 1_000_000_000),
    (1_700_000_060, 1_700_000_060),
    (1_700_000_060.25, 1_700_000_061),
    (2_147_483_647, 2_147_483_647),
    (datetime.timedelta(0), 0),
    (MICROSECOND, 1),
    (datetime.timedelta(seconds=0.5), 1),
    (datetime.timedelta(seconds=60), 60),
    (datetime.timedelta(minutes=1) + MICROSECOND, 61),
    (datetime.timedelta(days=30), 30 * DAY),
    (datetime.timedelta(days=60), 1_700_000_000 + 60 * DAY),
    (datetime.timedelta(days=36_500), 2_147_483_647),
    (-MICROSECOND, protocol.EXPIRED),
    (datetime.timedelta.max, 2_147_483_647),
]


@pytest.mark.parametrize('when, expected', TIMES, ids=repr)
def test_times(monkeypatch, when, expected):
    """A delta of up to 30 days, or a date, in whole seconds.

    What is more than 30 days is told as a date, a second more or less.

    """
    monkeypatch.setattr(time, 'time', lambda: NOW)
    sent = arguments.exptime(when)
    assert type(sent) is int
    if expected > 30 * DAY and expected != when:
        assert expected <= sent <= expected + 1
    else:
        assert sent == expected


@pytest.mark.parametrize(
    'when',
    [
        2_147_483_648,
        1_700_000_000_000,
        1.7e12,
        2**63,
        10**400,
        -(10**400),
        float('nan'),
        float('inf'),
        float('-inf'),
        None,
        '60',
        b'60',
        '',
        [60],
        1j,
        datetime.datetime(2030, 1, 1),
        datetime.date(2030, 1, 1),
        object(),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_times_that_are_none(when):
    """The error names it."""
    with pytest.raises(ValueError, match=r'^time is ') as caught:
        arguments.exptime(when)
    assert len(str(caught.value)) < 1000


def test_a_decimal_is_a_number_of_seconds():
    """It is as good as any other."""
    assert arguments.exptime(decimal.Decimal('1.5')) == 2
    with pytest.raises(ValueError, match=r'^time is '):
        arguments.exptime(decimal.Decimal('nan'))


def test_milliseconds_are_guessed():
    """The error says what it may be."""
    with pytest.raises(ValueError, match='milliseconds'):
        arguments.exptime(time.time() * 1000)


# Deltas


class Three:
    def __index__(self):
        return 3


@pytest.mark.parametrize(
    'delta, sent',
    [(0, b'0'), (1, b'1'), (2**64 - 1, b'%d' % (2**64 - 1)), (Three(), b'3')],
)
def test_deltas(delta, sent):
    """A whole number from 0 to 2**64 - 1."""
    for verb in (protocol.INCR, protocol.DECR):
        command = methods.count(
            verb, encodings.Encoding(values.Codec()), 'key', delta, False
        ).command
        assert command.request.endswith(b' key %b\r\n' % sent)


@pytest.mark.parametrize(
    'delta', [-1, 2**64, 10**400, 0.0, 1.5, '1', b'1', None, [], 1j]
)
def test_deltas_that_are_none(delta):
    """The error names it."""
    with pytest.raises(ValueError, match=r'^delta is ') as caught:
        arguments.delta(delta)
    assert len(str(caught.value)) < 1000


# Arguments of stats


@pytest.mark.parametrize('argument', [None, '', b''])
def test_no_argument_of_stats(argument):
    """It is left out."""
    assert statistics.argument(argument) == b''


@pytest.mark.parametrize('argument', ['cachedump 1 0', b'cachedump 1 0'])
def test_arguments_of_stats(argument):
    """They are sent as they are."""
    assert statistics.argument(argument) == b'cachedump 1 0'


@pytest.mark.parametrize(
    'argument', ['a\r\nb', 'a\n', '\0', '\x7f', 'ü', b'\xff', 7, ['items']]
)
def test_arguments_that_stats_cannot_have(argument):
    """The error names it."""
    with pytest.raises(ValueError, match='no argument of stats'):
        statistics.argument(argument)


@pytest.mark.parametrize('delay', [None, 0, 0.0, False])
def test_no_delay(delay):
    """Deletion is at once."""
    arguments.check_no_delay(delay)


@pytest.mark.parametrize('delay', [1, -1, 0.5, '0', '', [], float('nan')])
def test_delays(delay):
    """The error names it."""
    with pytest.raises(ValueError, match=r'^time is '):
        arguments.check_no_delay(delay)


# What gets saw


@pytest.fixture
def endpoint():
    options = settings.Settings(None, {'servers': '127.0.0.1:1'})
    [endpoint] = cluster.Cluster(options).endpoints
    return endpoint


def answered(key, unique):
    """Return a gets of a key whose value has a cas unique, or of none."""
    command = protocol.Get((key,), 'gets')
    incoming = protocol.Incoming()
    if unique is not None:
        incoming.feed(b'VALUE %b 0 1 %d\r\n1\r\n' % (key, unique))
    incoming.feed(b'END\r\n')
    assert command.read(incoming) == 0
    return command


def test_a_token_serves_once(endpoint):
    """It is taken, not read."""
    saw = tokens.Tokens()
    route = cluster.Route(b'key', None)
    saw.remember(route, answered(b'key', 17), endpoint)
    assert saw.take(route).unique == 17
    with pytest.raises(RuntimeError, match="cas without gets: 'key' was"):
        saw.take(route)
    assert len(saw) == 0
    with pytest.raises(RuntimeError, match="gets: 'schön' was"):
        saw.take(cluster.Route('schön'.encode(), None))


def test_the_last_gets_counts(endpoint):
    """Each one replaces the one before."""
    saw = tokens.Tokens()
    route = cluster.Route(b'key', None)
    saw.remember(route, answered(b'key', 17), endpoint)
    saw.remember(route, answered(b'key', None), endpoint)
    assert saw.take(route).unique is None
    assert len(saw) == 0


def test_a_hash_makes_another_key(endpoint):
    """A token is for the key with the hash that it was read with."""
    saw = tokens.Tokens()
    saw.remember(cluster.Route(b'key', 1), answered(b'key', 17), endpoint)
    for hashed in (None, 2):
        with pytest.raises(RuntimeError, match='cas without gets'):
            saw.take(cluster.Route(b'key', hashed))
    assert saw.take(cluster.Route(b'key', 1)).unique == 17


def test_tokens_are_bounded_and_the_oldest_goes(endpoint, monkeypatch):
    """One that was renewed is not old."""
    monkeypatch.setattr(tokens.Tokens, 'limit', 3)
    saw = tokens.Tokens()
    routes = [cluster.Route(b'key%d' % n, None) for n in range(4)]
    for route in (*routes[:3], routes[0], routes[3]):
        saw.remember(route, answered(route.key, 17), endpoint)
    assert len(saw) == 3
    with pytest.raises(RuntimeError, match='cas without gets'):
        saw.take(routes[1])
    for route in (routes[0], routes[2], routes[3]):
        assert saw.take(route).unique == 17


def test_reset_cas_forgets_what_gets_saw(connect, memcached_server):
    """As in python-memcached, where it empties the memory."""
    client = connect(memcached_server.address)
    client.set('key', 'old')
    client.gets('key')
    client.reset_cas()
    with pytest.raises(RuntimeError, match='cas without gets'):
        client.cas('key', 'new')


def test_a_cas_with_a_bad_argument_uses_no_token(connect, memcached_server):
    """The caller may put it right and try again."""
    client = connect(memcached_server.address)
    client.set('key', 'old')
    client.gets('key')
    with pytest.raises(ValueError, match=r'^time is '):
        client.cas('key', 'new', time='x')
    assert client.cas('key', 'new')


# Many commands


@pytest.mark.apart
def test_the_statistics_of_slabs_are_by_slab(connect, memcached_server):
    """get_slab_stats: each slab's, and the two of the server."""
    client = connect(memcached_server.address)
    client.set('key', 'value')
    [(name, statistics)] = client.get_slab_stats()
    assert name == f'{memcached_server.address} (1)'
    assert statistics['active_slabs'].isdigit()
    assert statistics['total_malloced'].isdigit()
    slabs = {k: v for k, v in statistics.items() if k.isdigit()}
    assert len(slabs) == int(statistics['active_slabs'])
    assert all(slab['chunk_size'].isdigit() for slab in slabs.values())


def test_statistics_have_the_names_and_values_of_python_memcached(
    connect, memcached_server
):
    """get_stats, get_slab_stats; a weight is part of a server's name."""
    address = memcached_server.address
    client = connect((address, 3))
    theirs = memcache.Client([(address, 3)])
    for words in ((), ('settings',), ('slabs',)):
        [(name, ours)] = client.get_stats(*words)
        [(same, other)] = theirs.get_stats(*words)
        assert name == same == f'{address} (3)'
        assert list(ours) == list(other)
        if arguments == ('settings',):
            assert ours == other
    [(name, ours)] = client.get_slab_stats()
    [(same, other)] = theirs.get_slab_stats()
    assert name == same
    assert {k for k in ours if k.isdigit()} == {
        k for k in other if k.isdigit()
    }
    theirs.disconnect_all()
