"""Values: what python-memcached stored we read, and the other way round."""

import collections
import datetime
import decimal
import enum
import io
import json
import logging
import pickle
import threading
import zlib

import memcache
import pytest
import wire

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.testing import MemcachedServer

MEGABYTE = 1 << 20

Point = collections.namedtuple('Point', 'x y')


class Colour(enum.Enum):
    RED = 'red'


class Markup(str):
    """Text that is safe, as templates mark it."""

    __slots__ = ()


class Article:
    def __init__(self, title):
        self.title = title

    def __eq__(self, other):
        return type(other) is Article and other.title == self.title

    __hash__ = None


PLAIN = {
    'text': 'text',
    'no text': '',
    'text of many scripts': 'Grüße, 世界, \U0001f600',
    'text with NUL': 'a\0b',
    'text with newlines': 'END\r\nVALUE key 0 1\r\n',
    'bytes': b'bytes',
    'no bytes': b'',
    'all bytes': bytes(range(256)),
    'bytes like a reply': b'END\r\nVALUE key 0 1\r\n',
    'int': 7,
    'zero': 0,
    'negative int': -7,
    'large int': 1 << 200,
}

PICKLED = {
    'true': True,
    'false': False,
    'none': None,
    'float': 1.5,
    'list': [1, 'two', b'three', [4.0, None]],
    'dict': {'a': 1, 2: ('b', frozenset({3}))},
    'named tuple': Point(1, 2),
    'enum': Colour.RED,
    'subclass of text': Markup('<b>'),
    'object': Article('title'),
    'date': datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    'decimal': decimal.Decimal('1.10'),
    'bytearray': bytearray(b'bytes'),
}

LONG = {
    'long text': 'text ' * 5000,
    'long bytes': b'bytes ' * 5000,
    'long list': ['element'] * 5000,
}

ALL = PLAIN | PICKLED | LONG


@pytest.fixture
def peer(memcached_server):
    """Make clients of python-memcached to the same server."""
    made = []

    def make(**options):
        client = memcache.Client([memcached_server.address], **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.disconnect_all()


def same(value, expected):
    return value == expected and type(value) is type(expected)


# Both directions


@pytest.mark.parametrize('name', ALL)
def test_what_we_store_we_read(connect, memcached_server, name):
    """As itself, of the same type."""
    client = connect(memcached_server.address)
    assert client.set('key', ALL[name])
    assert same(client.get('key', 'default'), ALL[name])
    assert same(client.gets('key'), ALL[name])
    assert same(client.get_multi(['key'])['key'], ALL[name])


@pytest.mark.parametrize('name', ALL)
def test_what_python_memcached_stores_we_read(
    connect, memcached_server, peer, name
):
    """With its own choice of a pickle protocol, 0."""
    client = connect(memcached_server.address)
    assert peer().set('key', ALL[name])
    assert same(client.get('key', 'default'), ALL[name])
    assert same(client.get_multi(['key'])['key'], ALL[name])


@pytest.mark.parametrize('name', ALL)
def test_what_we_store_python_memcached_reads(
    connect, memcached_server, peer, name
):
    """Values of one service are read by another that has not moved yet."""
    client = connect(memcached_server.address)
    assert client.set('key', ALL[name])
    assert client.set_multi({'one': ALL[name]}) == []
    assert same(peer().get('key', 'default'), ALL[name])
    assert same(peer().get_multi(['one'])['one'], ALL[name])


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_each_protocol_both_ways(
    connect, memcached_server, peer, protocol
):
    """The pickleProtocol of either is read by the other."""
    address = memcached_server.address
    theirs = peer(pickleProtocol=protocol)
    ours = connect(address, pickleProtocol=protocol)
    for value in PICKLED.values():
        assert theirs.set('theirs', value)
        assert same(ours.get('theirs', 'default'), value)
        assert ours.set('ours', value)
        assert same(theirs.get('ours', 'default'), value)
        assert wire.stored(address, 'ours') == wire.stored(address, 'theirs')


@pytest.mark.parametrize('name', LONG)
def test_compressed_values_both_ways(connect, memcached_server, peer, name):
    """With min_compress_len, of the call or of the client."""
    address = memcached_server.address
    ours = connect(address, min_compress_len=1000)
    theirs = peer()
    assert theirs.set('theirs', LONG[name], min_compress_len=1000)
    assert same(ours.get('theirs'), LONG[name])
    assert ours.set('ours', LONG[name])
    assert ours.set_multi({'many': LONG[name]}) == []
    for key in ('theirs', 'ours', 'many'):
        flags, data = wire.stored(address, key)
        assert flags & values.COMPRESSED
        assert len(data) < 1000
        assert same(theirs.get(key), LONG[name])
        assert same(ours.get(key), LONG[name])
    plain = connect(address)
    assert plain.set('call', LONG[name], min_compress_len=1000)
    assert wire.stored(address, 'call') == wire.stored(address, 'ours')
    assert plain.set('plain', LONG[name])
    assert len(wire.stored(address, 'plain')[1]) > 1000


@pytest.mark.parametrize('name', PLAIN)
def test_the_flags_are_python_memcacheds(
    connect, memcached_server, peer, name
):
    """And so are the bytes, of all that is not pickled."""
    address = memcached_server.address
    peer().set('theirs', PLAIN[name])
    connect(address).set('ours', PLAIN[name])
    assert wire.stored(address, 'ours') == wire.stored(address, 'theirs')


def test_an_int_of_other_clients_is_read(connect, memcached_server):
    """Flag 4 is for long ints of Python 2."""
    wire.put(memcached_server.address, 'key', 4, b'12345678901234567890')
    client = connect(memcached_server.address)
    assert client.get('key') == 12345678901234567890


def test_what_is_appended_becomes_part_of_the_value(
    connect, memcached_server, peer
):
    """It is not compressed by itself, and it is text or bytes as it was."""
    client = connect(memcached_server.address, min_compress_len=10)
    peer().set('key', 'b' * 5)
    assert client.append('key', 'c' * 100)
    assert client.prepend('key', 'a' * 100)
    expected = 'a' * 100 + 'b' * 5 + 'c' * 100
    assert client.get('key') == expected
    assert peer().get('key') == expected


# What users may replace


class Pickler(pickle.Pickler):
    def reducer_override(self, value):
        if isinstance(value, Article):
            return Article, (value.title.upper(),)
        return NotImplemented


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if name != 'Article':
            raise pickle.UnpicklingError(f'{name} is not welcome')
        return super().find_class(module, name)


class OldPickler:
    """One without keywords, as of Python 2."""

    def __init__(self, file, protocol):
        self._pickler = pickle.Pickler(file, protocol)

    def __getattr__(self, name):
        return getattr(self._pickler, name)


def test_a_pickler_and_an_unpickler_of_the_users(connect, memcached_server):
    """They are used, and what the unpickler refuses is a miss."""
    client = connect(
        memcached_server.address, pickler=Pickler, unpickler=Unpickler
    )
    assert client.set('key', [Article('title')])
    assert client.get('key') == [Article('TITLE')]
    client.set('other', Point(1, 2))
    assert client.get('other', 'default') == 'default'


def test_a_pickler_without_keywords(connect, memcached_server):
    """It gets its arguments by position."""
    client = connect(memcached_server.address, pickler=OldPickler)
    assert client.set('key', [1, 2])
    assert client.get('key') == [1, 2]


def test_persistent_ids(connect, memcached_server):
    """pid and pload, as for pickle."""
    lock = threading.Lock()
    client = connect(
        memcached_server.address,
        pid=lambda value: 'lock' if value is lock else None,
        pload=lambda name: {'lock': lock}[name],
    )
    assert client.set('key', [lock, 1])
    assert client.get('key') == [lock, 1]


def test_a_compressor_of_the_users(connect, memcached_server):
    """It is used, and the decompressor that goes with it."""
    client = connect(
        memcached_server.address,
        compressor=lambda data: b'<' + data[:1],
        decompressor=lambda data: data[1:] * 100,
    )
    assert client.set('key', 'x' * 100, min_compress_len=10)
    assert wire.stored(memcached_server.address, 'key') == (24, b'<x')
    assert client.get('key') == 'x' * 100


# Limits


def test_the_largest_value(connect):
    """As large as the server takes, when the client is told so."""
    with MemcachedServer('-I', '4m') as server:
        client = connect(server.address, server_max_value_length=3 * MEGABYTE)
        large = b'x' * (3 * MEGABYTE)
        assert client.set('key', large)
        assert client.get('key') == large
        assert client.set('key', large + b'x') == 0
        unlimited = connect(server.address, server_max_value_length=0)
        assert unlimited.set('key', large + b'x')
        assert unlimited.get('key') == large + b'x'


def test_the_largest_value_is_set_by_a_variable(connect, monkeypatch):
    """As memcached's own is by -I."""
    with MemcachedServer('-I', '4m') as server:
        monkeypatch.setenv('MEMCACHED_MAX_VALUE_LEN', str(3 * MEGABYTE))
        monkeypatch.setenv('MEMCACHED_SERVERS', server.address)
        client = connect()
        large = b'x' * (3 * MEGABYTE)
        assert client.set('key', large)
        assert client.set('key', large + b'x') == 0
        assert client.get('key') is None
        monkeypatch.setenv('MEMCACHED_MAX_VALUE_LEN', '0')
        assert connect().set('key', large + b'x')
        # python-memcached's keyword for it wins over the variable.
        small = connect(server_max_value_length=100)
        assert small.set('key', b'x' * 101) == 0


def test_a_value_that_the_server_finds_too_large(connect, memcached_server):
    """It is 0, the old value is gone, and the server goes on serving."""
    client = connect(memcached_server.address)
    assert client.set('key', 'old')
    assert client.set('key', b'x' * MEGABYTE) == 0
    assert client.get('key') is None
    assert client.set('key', 'new')


@pytest.mark.parametrize('name', ['add', 'replace', 'append', 'prepend'])
def test_other_commands_with_a_value_that_is_too_large(
    connect, memcached_server, name
):
    """They are 0 and change nothing."""
    client = connect(memcached_server.address)
    client.set('key', b'old')
    call = getattr(client, name)
    assert call('key', b'x' * (MEGABYTE + 1)) == 0
    assert client.get('key') == b'old'


def test_cas_with_a_value_that_is_too_large(connect, memcached_server):
    """It is 0, and its gets is used up."""
    client = connect(memcached_server.address)
    client.set('key', b'old')
    client.gets('key')
    assert client.cas('key', b'x' * (MEGABYTE + 1)) == 0
    with pytest.raises(RuntimeError, match='gets'):
        client.cas('key', b'new')


def test_the_limit_is_for_what_is_sent(connect, memcached_server):
    """A value that is small enough compressed is stored."""
    client = connect(memcached_server.address)
    large = b'x' * (2 * MEGABYTE)
    assert client.set('key', large) == 0
    assert client.set('key', large, min_compress_len=1)
    assert client.get('key') == large


def test_what_we_compress_we_can_inflate(connect, memcached_server):
    """A value that is stored is read: else it is not stored."""
    client = connect(memcached_server.address, socket_timeout=30)
    large = b'x' * (values.MAX_INFLATED + 1)
    stored = client.set('key', large, min_compress_len=1)
    assert client.get('key') == (large if stored else None)


def test_the_largest_value_that_is_inflated():
    """Up to the limit, and not a byte more."""
    data = b'x' * 100_000
    for compressed in (zlib.compress(data), zlib.compress(data, 0)):
        assert values.inflate(compressed, 100_001) == data
        assert values.inflate(compressed, 100_000) == data
        with pytest.raises(values.UndecodableError, match='99999 bytes'):
            values.inflate(compressed, 99_999)


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'x',
        b'value',
        zlib.compress(b'value')[:-1],
        zlib.compress(b'value') + b'x',
        zlib.compress(b'value')[:-1] + b'\0',
    ],
    ids=['nothing', 'short', 'other', 'cut', 'longer', 'bad checksum'],
)
def test_what_is_not_inflated(data):
    """It is an error, not a part of the value."""
    with pytest.raises(values.UndecodableError, match='compressed value'):
        values.inflate(data)


@pytest.mark.parametrize(
    'value',
    ['\ud800', lambda: None, threading.Lock()],
    ids=['surrogate', 'function', 'lock'],
)
@pytest.mark.parametrize('name', ['set', 'add', 'cas', 'append'])
def test_a_value_that_cannot_be_serialized_raises(
    connect, memcached_server, name, value
):
    """What pickling raises; the old value stays, and replies are in step."""
    client = connect(memcached_server.address)
    client.set('key', 'old')
    client.gets('key')
    with pytest.raises(
        (UnicodeEncodeError, AttributeError, TypeError, pickle.PicklingError)
    ):
        getattr(client, name)('key', value)
    assert client.get('key') == 'old'
    # A cas that was not sent has not used up what gets saw.
    assert client.cas('key', 'new')


# What cannot be decoded


def test_what_cannot_be_decoded_is_logged_once_for_each_reason(caplog):
    """A service that reads a thousand of them does not log a thousand."""
    codec = values.Codec()
    with caplog.at_level(logging.DEBUG, 'sprockets.clients.memcached'):
        for _ in range(3):
            assert codec.decode_or(2, b'one', 'default') == 'default'
            assert codec.decode_or(32, b'one', 'default') == 'default'
    levels = [record.levelno for record in caplog.records]
    assert levels.count(logging.WARNING) == 2
    assert levels.count(logging.DEBUG) == 4


def test_the_log_does_not_show_a_value(caplog):
    """Values are private: whatever cannot be decoded is not logged."""
    codec = values.Codec()
    secret = b'hunter2'
    pickled = pickle.dumps(secret)
    with caplog.at_level(logging.DEBUG, 'sprockets.clients.memcached'):
        for flags, data in (
            (values.INTEGER, secret),
            (values.TEXT, secret + b'\xff'),
            (values.PICKLE, secret),
            (values.PICKLE, pickled[:-3]),
            (values.COMPRESSED, secret),
            (64, secret),
        ):
            assert codec.decode_or(flags, data, None) is None
    assert len(caplog.records) == 6
    assert not [r for r in caplog.records if 'hunter2' in r.getMessage()]


class Explosive:
    def __reduce__(self):
        return exec, ("raise RuntimeError('unpickled')",)


def test_a_pickle_may_raise_anything():
    """It is a miss."""
    file = io.BytesIO()
    pickle.Pickler(file).dump(Explosive())
    codec = values.Codec()
    with pytest.raises(values.UndecodableError, match='RuntimeError'):
        codec.decode(values.PICKLE, file.getvalue())


OTHERS = {
    'text that Python takes for a number': (2, b'2024_11'),
    'a number with a sign': (2, b'+5'),
    'a number with blanks before it': (4, b' 5'),
    'a number with a line end': (2, b'5\n'),
    'digits that are no ASCII': (2, '\u0663'.encode()),
    'a number with a point': (2, b'1.5'),
    'nothing': (2, b''),
    'PHP, serialized': (4, b'a:1:{i:0;i:1;}'),
    'PHP, a number': (1, b'5'),
    'PHP, a boolean': (3, b'1'),
    'text with the flags of JSON': (32, b'hello'),
    'digits with the flags of JSON': (32, b'123'),
    'quotes with the flags of JSON': (32, b'"hello"'),
    'flags of nobody': (1 << 20, b'text'),
}


@pytest.mark.parametrize('case', OTHERS)
@pytest.mark.parametrize('serializer', ['pickle', 'json'])
def test_what_others_stored_is_no_other_value(case, serializer):
    """Where it can be told, it is a miss."""
    flags, data = OTHERS[case]
    codec = values.Codec(serializer=serializer)
    assert codec.decode_or(flags, data, values.MISS) is values.MISS


@pytest.mark.parametrize(
    'flags, data, value',
    [
        (2, b'9 ', 9),
        (2, b'-17', -17),
        (4, b'0', 0),
        (4, b'123456789012345678901234567890', 123456789012345678901234567890),
        (32, b'true', True),
        (32, b'null', None),
        (32, b'1.5', 1.5),
        (32, b'[1,"a"]', [1, 'a']),
    ],
)
def test_what_is_read(flags, data, value):
    """Also the blanks that memcached leaves behind a number."""
    assert values.Codec().decode(flags, data) == value


class Shade(enum.StrEnum):
    RED = 'red'


class Amount(enum.IntEnum):
    SMALL = 1


@pytest.mark.parametrize('value', [Shade.RED, Amount.SMALL])
def test_json_of_text_and_numbers_of_their_own_type(value):
    """It is read, by JSON's rules, though plain ones are not written so."""
    codec = values.Codec(serializer='json')
    flags, data = codec.encode(value)
    assert flags == values.JSON
    assert codec.decode(flags, data) == value.value == json.loads(data)
