"""What a call inflates is bounded, all its values together."""

import threading
import tracemalloc
import zlib

import pytest
import wire

from sprockets.clients.memcached.data import values

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


def test_a_batch(connect, bombs):
    """Reads of several callers that travel together, in one thread."""
    client = connect(bombs, socket_timeout=30)

    async def read(client):
        keys = iter(KEYS[:20])
        return [await client.get(key) for key in keys]

    assert all(read for read in client.together(1, read)[0])


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
