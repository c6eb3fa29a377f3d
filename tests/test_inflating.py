"""What a call inflates is bounded, all its values together."""

import asyncio
import threading
import tracemalloc
import zlib

import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.data import deflated, frames, values

KEYS = [f'key{number}' for number in range(60)]


@pytest.fixture
def bombs(memcached_server):
    """Sixty values of 16 KB that inflate to 16 MiB each."""
    data = zlib.compress(bytes(16 << 20), 9)
    assert len(data) < 20_000
    for key in KEYS:
        wire.put(memcached_server.address, key, 8, data)
    return memcached_server.address


def test_a_call_of_many_keys(connect, bombs, caplog):
    """Some are values, the rest are misses, said a few times."""
    client = connect(bombs, socket_timeout=30)
    tracemalloc.start()
    try:
        found = client.get_multi(KEYS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < len(found) < 10
    assert peak < 160 << 20
    logged = [r.getMessage() for r in caplog.records]
    assert 0 < len(logged) < 30
    assert all('inflates to over' in message for message in logged)
    # Each for itself is well.
    assert len(client.get(KEYS[-1])) == 16 << 20


def test_a_batch(bombs):
    """Reads of many callers that travel together are as one call's."""

    async def read():
        client = memcached.AsyncClient(servers=bombs, socket_timeout=30)
        found = await asyncio.gather(*map(client.get, KEYS))
        # Each for itself is well.
        assert len(await client.get(KEYS[-1])) == 16 << 20
        await client.close()
        return [len(value) for value in found if value is not None]

    tracemalloc.start()
    try:
        found = asyncio.run(read())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # They may leave in two halves.
    assert 0 < len(found) < 20
    assert set(found) == {16 << 20}
    assert peak < 320 << 20


@pytest.mark.parametrize('compression', ['zlib', 'zstd'])
def test_what_is_compressed_is_inflated_in_any_call(
    connect, memcached_server, compression
):
    """One value alone may be as large as it was allowed to be."""
    if compression == 'zstd' and not frames.is_there():
        pytest.skip('neither Python 3.14 nor backports.zstd')
    size = values.FREE + (8 << 20)
    client = connect(
        memcached_server.address,
        socket_timeout=30,
        compression=compression,
        min_compress_len=1000,
        max_inflated_len=size,
    )
    assert client.set('key', bytes(size))
    found = [
        client.get('key'),
        client.gets('key'),
        client.gat('key', 60),
        client.get_or_set('key', str),
        *client.get_multi(['key', 'other']).values(),
        *client.get_or_set_multi(['key'], dict).values(),
    ]
    assert [*map(len, found)] == [size] * 6


def test_what_is_compressed_as_usual(connect, memcached_server):
    """It may be any number of megabytes."""
    text = ''.join(f'item {n}: {n * n % 9973}\n' for n in range(100_000))
    data = zlib.compress(text.encode(), 1)
    assert len(text) * len(KEYS) > 1.4 * values.FREE
    assert len(data) * len(KEYS) < 48 << 20
    for key in KEYS:
        wire.put(memcached_server.address, key, 16 | 8, data)
    client = connect(memcached_server.address, socket_timeout=30)
    assert client.get_multi(KEYS) == dict.fromkeys(KEYS, text)


def test_it_is_each_calls_own():
    """One that has used it up leaves another what it has."""
    codec = values.Codec()
    data = zlib.compress(bytes(16 << 20), 9)
    budget = values.Budget()
    made = [codec.decode_or(8, data, None, budget) for _ in range(6)]
    assert [value is not None for value in made[:4]] == [True] * 4
    assert made[-1] is None
    assert codec.decode_or(8, data, None, values.Budget()) is not None
    assert codec.decode_or(8, data, None) is not None


@pytest.mark.parametrize('before', [b'', b'text'])
def test_what_is_inflated_in_vain_is_a_part_of_it(before):
    """It takes as long."""
    codec = values.Codec(max_inflated_len=1 << 20)
    vain = before + zlib.compress(bytes(2 << 20), 9)
    data = zlib.compress(bytes(1 << 20), 9)
    budget = values.Budget()
    assert codec.decode_or(8, data, None, budget) is not None
    for _ in range(80):
        assert codec.decode_or(8, vain, None, budget) is None
    assert codec.decode_or(8, data, None, budget) is None


def test_threads_share_it():
    """As the parts of a call do, which several servers answer."""
    codec = values.Codec()
    data = zlib.compress(bytes(8 << 20), 9)
    budget = values.Budget()
    found = []

    def make():
        found.append(codec.decode_or(8, data, None, budget))

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codec.decode_or(8, data, None, budget) is None


# What may be somewhere in a value

FORMATS = [
    pytest.param(zlib.compress, deflated.part, id='zlib'),
    pytest.param(
        frames.compress,
        frames.part,
        id='zstd',
        marks=pytest.mark.skipif(
            not frames.is_there(),
            reason='neither Python 3.14 nor backports.zstd',
        ),
    ),
]


@pytest.mark.parametrize('size', [0, 1 << 20])
@pytest.mark.parametrize('compress, part', FORMATS)
def test_many_that_begin_further_on(compress, part, size):
    """What is looked at is not kept: there is no telling which it is."""
    limit = 1 << 20
    data = b'text' + (compress(bytes(size)) + b'text') * 500 + bytes(limit)
    tracemalloc.start()
    try:
        with pytest.raises(deflated.UndecodableError):
            part(data, limit)
        assert tracemalloc.get_traced_memory()[1] < 10 * limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('compress, part', FORMATS)
def test_one_of_many_is_the_value(compress, part):
    """If it is at the very end, whatever is before it."""
    picture = b'PNG' + compress(b'pixels' * 100) + b'END'
    text = b'text ' * 10_000
    data = picture * 100 + compress(text)
    assert part(data, len(text)) == (picture * 100, text, b'')


def test_places_that_lead_to_the_same_bytes():
    """What they inflate to counts for each: together it is bounded."""
    limit = 1 << 20
    tail = zlib.compress(bytes(limit - 1), 9)[2:-4] + b'none'
    count = 1000
    # Each skips those behind it, up to the tail.
    skips = [7 * left for left in reversed(range(count))]
    starts = b''.join(
        b'x\x9c\0%b%b'
        % (size.to_bytes(2, 'little'), (size ^ 0xFFFF).to_bytes(2, 'little'))
        for size in skips
    )
    meter = deflated.Meter()
    with pytest.raises(deflated.UndecodableError):
        deflated.part(b'text' + starts + tail, limit, meter)
    assert limit < meter.inflated < 4 * limit
