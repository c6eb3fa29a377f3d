"""Values that are compressed with zstd, where that is wanted."""

import random
import tracemalloc
import zlib

import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.data import deflated, frames, values

OLD = 'old ' * 1000

there = pytest.mark.skipif(
    not frames.is_there(), reason='neither Python 3.14 nor backports.zstd'
)


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def client(connect, address):
    return connect(address, compression='zstd', min_compress_len=100)


@there
@pytest.mark.parametrize(
    'value',
    [
        'text ' * 1000,
        b'bytes ' * 1000,
        ['list'] * 1000,
        {'key': 'value' * 1000},
        'schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel' * 100,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize('serializer', ['pickle', 'json'])
def test_a_value_comes_back(connect, address, value, serializer):
    """With a flag of its own, and for clients that compress otherwise too."""
    client = connect(
        address,
        compression='zstd',
        min_compress_len=100,
        serializer=serializer,
    )
    assert client.set('key', value)
    flags, data = wire.stored(address, 'key')
    assert flags & values.PACKED == values.ZSTD == 128
    assert data.startswith(b'\x28\xb5\x2f\xfd')
    for reader in (client, connect(address, serializer=serializer)):
        assert reader.get('key') == value
        assert reader.get_multi(['key']) == {'key': value}
        assert reader.gets('key') == value
    assert client.get_or_set('key', list, 60) == value


@there
def test_what_is_small_or_grows_stays_as_it_is(client, address):
    for value in ('x' * 99, random.Random(1).randbytes(500)):
        assert client.set('key', value)
        assert not wire.stored(address, 'key')[0] & values.PACKED
        assert client.get('key') == value


def test_it_is_off_by_default(connect, address):
    client = connect(address, min_compress_len=100)
    assert client.set('key', OLD)
    assert wire.stored(address, 'key')[0] & values.PACKED == values.COMPRESSED


@there
def test_what_zlib_has_compressed_is_read(client, connect, address):
    other = connect(address, min_compress_len=100)
    assert other.set('key', OLD)
    assert client.get('key') == OLD
    assert client.set('key', OLD)
    assert other.get('key') == OLD


@there
def test_a_compressor_of_ones_own_is_used(connect, address):
    """It is not zstd, and has zlib's flag."""
    client = connect(
        address,
        compression='zstd',
        min_compress_len=100,
        compressor=lambda data: zlib.compress(data, 9),
    )
    assert client.set('key', OLD)
    assert wire.stored(address, 'key') == (
        values.TEXT | values.COMPRESSED,
        zlib.compress(OLD.encode(), 9),
    )


@there
@pytest.mark.parametrize(
    'old, more',
    [
        (OLD, 'more'),
        (OLD.encode(), b'\x28\xb5\x2f\xfd'),
        (OLD.encode(), bytes(range(256))),
    ],
)
def test_what_is_appended_is_a_part_of_the_value(client, old, more):
    assert client.set('key', old)
    assert client.append('key', more)
    assert client.get('key') == old + more
    assert client.append('key', more)
    assert client.get('key') == old + more + more
    assert client.set('key', old)
    assert client.prepend('key', 'x' if isinstance(more, str) else b'x')
    found = client.get('key')
    assert found[1:] == old
    assert client.append('key', more)
    assert client.get('key')[1:] == old + more


@there
def test_a_value_that_is_no_text_stays(client):
    assert client.set('key', ['v' * 1000])
    assert client.append('key', 'more')
    assert client.get('key') == ['v' * 1000]


# What is not inflated


@there
@pytest.mark.parametrize('size', [1000, 100_000, 3_000_000])
def test_the_largest_value_that_is_inflated(size):
    """So many bytes, and not one more."""
    for data in (b'x' * size, random.Random(1).randbytes(size)):
        compressed = frames.compress(data)
        for limit in (size, size + 1):
            assert frames.part(compressed, limit) == (b'', data, b'')
        with pytest.raises(deflated.UndecodableError, match='inflates to'):
            frames.part(compressed, size - 1)


@there
def test_a_bomb_takes_no_memory(client, address, caplog):
    """Some kilobytes that inflate to a gigabyte are a miss."""
    wire.put(address, 'key', values.ZSTD | values.TEXT, _bomb(1 << 30))
    tracemalloc.start()
    try:
        assert client.get('key', 'default') == 'default'
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert 'inflates to over 16777216 bytes' in caplog.text


def _bomb(size):
    """Return a frame that does not say how much it inflates to."""
    compressor = frames._zstd.ZstdCompressor()
    piece = bytes(1 << 20)
    parts = [compressor.compress(piece) for _ in range(size >> 20)]
    return b''.join([*parts, compressor.flush()])


@there
def test_a_frame_that_wants_much_memory_is_not_read():
    """It may be small itself: it says how far it looks back."""
    parameter = frames._zstd.CompressionParameter
    compressor = frames._zstd.ZstdCompressor(
        options={parameter.window_log: 27}
    )
    frame = compressor.compress(b'small') + compressor.flush()
    with pytest.raises(deflated.UndecodableError, match='inflates to over'):
        frames.part(frame, 1_000_000)


@pytest.mark.parametrize(
    'compression', ['zlib', pytest.param('zstd', marks=there)]
)
@pytest.mark.parametrize('limit', [1, 1 << 31, (1 << 31) + 1, 1 << 64])
def test_any_limit_is_one(connect, address, compression, limit):
    """Also one beyond what there is, or what zstd looks back."""
    client = connect(
        address,
        compression=compression,
        min_compress_len=100,
        max_inflated_len=limit,
    )
    assert client.set('key', OLD)
    packed = wire.stored(address, 'key')[0] & values.PACKED
    assert bool(packed) is (limit >= len(OLD))
    assert client.get('key') == OLD


@there
def test_what_is_cut_or_broken_is_a_miss(client, address):
    """At every byte."""
    whole = frames.compress(OLD.encode())
    flags = values.ZSTD | values.TEXT
    broken = [whole[:size] for size in range(len(whole))]
    broken += [
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        for at in range(len(whole))
    ]
    for data in [*broken, b'text', b'', b'\x28\xb5\x2f\xfd' * 100]:
        with pytest.raises(deflated.UndecodableError):
            frames.part(data, 1_000_000)
        wire.put(address, 'key', flags, data)
        assert client.get('key', 'default') == 'default'


def test_flags_of_both_are_of_nobody(connect, address):
    client = connect(address)
    wire.put(address, 'key', values.PACKED | values.TEXT, b'x')
    assert client.get('key', 'default') == 'default'


# Where there is none


def test_without_zstd_it_cannot_be_wanted(monkeypatch):
    monkeypatch.setattr(frames, '_zstd', None)
    monkeypatch.setenv('MEMCACHED_COMPRESSION', 'zstd')
    message = r'MEMCACHED_COMPRESSION: zstd takes .*\[zstd\]'
    with pytest.raises(ValueError, match=message):
        memcached.Client()


def test_without_zstd_what_others_stored_is_a_miss(
    connect, address, monkeypatch, caplog
):
    monkeypatch.setattr(frames, '_zstd', None)
    client = connect(address)
    wire.put(address, 'key', values.ZSTD | values.TEXT, b'x')
    assert client.get('key', 'default') == 'default'
    assert 'zstd is not installed' in caplog.text


@pytest.mark.parametrize('name', ['gzip', 'zst', 'zlib zstd'])
def test_what_there_is_not(name):
    with pytest.raises(ValueError, match=r'compression: .* is neither zlib'):
        memcached.Client(compression=name)
