"""Values as JSON, or as a serializer of the user's own writes them."""

import collections
import datetime
import enum
import json
import logging
import math
import pickle
import tracemalloc
import zlib

import memcache
import pytest
import wire

from sprockets.clients import memcached

JSON = 32
CUSTOM = 64
COMPRESSED = 8


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


class Bomb:
    """It says so when it is unpickled."""

    exploded = False

    def __reduce__(self):
        return explode, ()


def explode():
    Bomb.exploded = True
    return 'boom'


@pytest.fixture(autouse=True)
def no_explosion():
    yield
    assert not Bomb.exploded


# JSON


@pytest.mark.parametrize(
    'value, stored',
    [
        ('text', (16, b'text')),
        ('é', (16, 'é'.encode())),
        (b'\x00\xff', (0, b'\x00\xff')),
        (12, (2, b'12')),
        (-(2**70), (2, str(-(2**70)).encode())),
        (None, (JSON, b'null')),
        (True, (JSON, b'true')),
        (1.5, (JSON, b'1.5')),
        (1.0, (JSON, b'1.0')),
        ([], (JSON, b'[]')),
        ({'a': [1, 'b', {}]}, (JSON, b'{"a":[1,"b",{}]}')),
        ({'é': '\u2028'}, (JSON, '{"é":"\u2028"}'.encode())),
        ([2**70], (JSON, b'[1180591620717411303424]')),
    ],
    ids=repr,
)
def test_json_holds_what_comes_back_as_it_was(connect, address, value, stored):
    """Text, bytes and int are as before, the rest is JSON with flag 32."""
    client = connect(address, serializer='json')
    assert client.set('key', value)
    assert wire.stored(address, 'key') == stored
    found = client.get('key', 'default')
    assert found == value
    assert type(found) is type(value)


def test_a_tuple_becomes_a_list(connect, address):
    """It is the one thing that changes, wherever it is."""
    client = connect(address, serializer='json')
    assert client.set('key', (1, {'a': (2, 3)}))
    assert client.get('key') == [1, {'a': [2, 3]}]


class Color(enum.Enum):
    RED = 'red'


CIRCLE = []
CIRCLE.append(CIRCLE)
DEEP = []
for _ in range(200_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    'value',
    [
        {1: 'a'},
        {1: 'a', '1': 'b'},
        {'a': [{True: 1}]},
        ({None: 1},),
        {b'a': 1},
        {(1, 2): 3},
        math.nan,
        [math.inf],
        {1, 2},
        [b'bytes'],
        bytearray(b'bytes'),
        datetime.datetime(2020, 1, 1),
        Color.RED,
        object(),
        CIRCLE,
        DEEP,
        ['\ud800'],
        {'\ud800': 1},
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_a_type_error(connect, address, value):
    """Nothing is sent, and what the key had is still there."""
    client = connect(address, serializer='json')
    assert client.set('key', 'old')
    for store in (client.set, client.add, client.replace):
        with pytest.raises(TypeError):
            store('key', value)
    with pytest.raises(TypeError, match="'bad'"):
        client.set_multi({'good': 1, 'bad': value})
    client.gets('key')
    with pytest.raises(TypeError):
        client.cas('key', value)
    assert client.get('key') == 'old'
    assert client.get('good') is None


def test_a_dict_of_another_kind_is_a_dict(connect, address):
    """What JSON can write comes back as JSON's own types."""
    client = connect(address, serializer='json')
    assert client.set('key', collections.OrderedDict(a=1))
    found = client.get('key')
    assert found == {'a': 1}
    assert type(found) is dict


def test_json_never_unpickles(connect, address, caplog):
    """A pickled value is a miss, in every way to read; logged once."""
    wire.put(address, 'key', 1, pickle.dumps(Bomb()))
    wire.put(address, 'good', 16, b'good')
    compressed = zlib.compress(pickle.dumps(Bomb()))
    wire.put(address, 'compressed', 1 | COMPRESSED, compressed)
    client = connect(address, serializer='json')
    for _ in range(3):
        assert client.get('key', 'default') == 'default'
        assert client.get('compressed', 'default') == 'default'
        assert client.gets('key') is None
        assert client.get_multi(['key', 'good']) == {'good': 'good'}
    assert warnings(caplog) == [
        'A value is taken for a miss: it is pickled, and not to be unpickled'
    ]


def test_each_client_says_once_that_it_does_not_unpickle(connect, address):
    """Another client is another program's, and says it for itself."""
    wire.put(address, 'key', 1, pickle.dumps({}))
    for _ in range(2):
        client = connect(address, serializer='json')
        with_logs = []
        handler = logging.Handler()
        handler.emit = with_logs.append
        logger = logging.getLogger('sprockets.clients.memcached.data.values')
        logger.addHandler(handler)
        try:
            client.get('key')
            client.get('key')
        finally:
            logger.removeHandler(handler)
        assert [r.levelname for r in with_logs].count('WARNING') == 1


def test_a_client_that_pickles_reads_json(connect, address):
    """So one can go over from one to the other, process by process."""
    client = connect(address, serializer='json')
    assert client.set('key', {'a': [1]})
    other = connect(address)
    assert other.get('key') == {'a': [1]}
    assert other.set('key', {'a': {1}})
    assert other.get('key') == {'a': {1}}


@pytest.mark.parametrize(
    'data', [b'', b'{', b'[1]x', b'\xff', b'[' * 200_000, b'nul'], ids=repr
)
def test_broken_json_is_a_miss(connect, address, data):
    """Among values that are none it is no worse than the others."""
    wire.put(address, 'key', JSON, data)
    wire.put(address, 'good', JSON, b'[1]')
    client = connect(address, serializer='json')
    assert client.get('key', 'default') == 'default'
    assert client.get_multi(['key', 'good']) == {'good': [1]}


def test_readers_of_a_key_get_a_list_each(connect, address):
    """What one of them changes is not changed for another."""
    client = connect(address, serializer='json')
    client.set('key', [1])

    async def read_and_change(client):
        value = await client.get('key')
        value.append(2)
        return value

    assert client.together(4, read_and_change) == [[1, 2]] * 4


def test_json_is_compressed_as_the_rest_is(connect, address):
    """Both flags are set."""
    client = connect(address, serializer='json', min_compress_len=10)
    value = ['a' * 1000]
    assert client.set('key', value)
    flags, data = wire.stored(address, 'key')
    assert flags == JSON | COMPRESSED
    assert json.loads(zlib.decompress(data)) == value
    assert client.get('key') == value


def test_python_memcached_does_not_read_json(address):
    """It knows no such flag: an error rather than another value."""
    ours = memcached.Client(servers=address, serializer='json')
    ours.set('key', {'a': 1})
    theirs = memcache.Client([address])
    with pytest.raises(ValueError, match='Unknown flags'):
        theirs.get('key')
    theirs.disconnect_all()
    ours.disconnect_all()


# One's own


class Repr:
    """Writes what is in a tuple, and reads nothing else."""

    def dumps(self, value):
        if not isinstance(value, tuple):
            raise KeyError(f'{value!r} is no tuple')
        return repr(list(value))

    def loads(self, data):
        assert isinstance(data, bytes)
        return tuple(json.loads(data))


def test_a_serializer_of_ones_own(connect, address):
    """It has a flag of its own, and text, bytes and int are as before."""
    client = connect(address, serializer=Repr())
    for value in ('text', b'bytes', 1, (1, 2)):
        assert client.set('key', value)
        assert client.get('key') == value
    assert wire.stored(address, 'key') == (CUSTOM, b'[1, 2]')
    wire.put(address, 'pickled', 1, pickle.dumps(Bomb()))
    assert client.get('pickled') is None
    wire.put(address, 'broken', CUSTOM, b'x')
    assert client.get('broken', 'default') == 'default'


def test_its_error_is_the_callers(connect, address):
    """And nothing is sent."""
    client = connect(address, serializer=Repr())
    with pytest.raises(KeyError, match='is no tuple'):
        client.set('key', [1])
    with pytest.raises(KeyError, match='bad'):
        client.set_multi({'good': (1,), 'bad': [1]})
    assert client.get('good') is None


def test_it_has_to_return_text_or_bytes(connect, address):
    """Anything else would go wrong further on."""

    class Wrong(Repr):
        def dumps(self, value):
            return [value]

    client = connect(address, serializer=Wrong())
    with pytest.raises(TypeError, match='dumps returned list'):
        client.set('key', (1,))


def test_a_module_will_do(connect, address):
    """Anything that has both functions."""
    client = connect(address, serializer=json)
    assert client.set('key', {'a': 1})
    assert client.get('key') == {'a': 1}


def test_others_do_not_read_what_it_wrote(connect, address):
    """A client that does not have it has a miss."""
    connect(address, serializer=Repr()).set('key', (1, 2))
    assert connect(address).get('key', 'default') == 'default'
    assert connect(address, serializer='json').get('key') is None


# The options


@pytest.mark.parametrize(
    'value', ['xml', 1, 1.5, b'json', {'dumps': 1}], ids=str
)
def test_a_serializer_that_is_none(value):
    """It is an error when the client is made."""
    with pytest.raises(ValueError, match=r'^serializer: '):
        memcached.Client(serializer=value)


def test_json_from_the_environment(address, monkeypatch):
    """Whoever runs a service can forbid it to unpickle."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERIALIZER', ' JSON ')
    client = memcached.Client('pages', servers=address)
    assert client.set('key', [1])
    assert wire.stored(address, 'key') == (JSON, b'[1]')
    monkeypatch.setenv('PAGES_MEMCACHED_SERIALIZER', 'yaml')
    with pytest.raises(ValueError, match=r'^PAGES_MEMCACHED_SERIALIZER: '):
        memcached.Client('pages')


# Inflating


def put_zeros(address, size):
    wire.put(address, 'key', COMPRESSED, zlib.compress(b'\0' * size, 9))


def test_inflating_stops_at_the_limit(connect, address):
    """A value of exactly that size is read, a larger one is a miss."""
    client = connect(address, max_inflated_len=100_000)
    put_zeros(address, 100_000)
    assert client.get('key') == b'\0' * 100_000
    put_zeros(address, 100_001)
    assert client.get('key', 'default') == 'default'


def test_the_default_is_16_mib(connect, address):
    """A value that inflates to 128 MiB takes no more memory than that."""
    client = connect(address, socket_timeout=20)
    put_zeros(address, 16 * 1024 * 1024)
    assert len(client.get('key')) == 16 * 1024 * 1024
    bomb = zlib.compressobj(9)
    parts = [bomb.compress(bytes(1 << 20)) for _ in range(128)]
    data = b''.join([*parts, bomb.flush()])
    wire.put(address, 'key', COMPRESSED, data)
    tracemalloc.start()
    try:
        assert client.get('key', 'default') == 'default'
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def test_what_would_not_be_inflated_is_not_compressed(connect, address):
    """So that a client reads what it wrote."""
    client = connect(address, max_inflated_len=1000, min_compress_len=10)
    for size in (1000, 1001):
        assert client.set('key', b'a' * size)
        assert client.get('key') == b'a' * size
