"""Values that take long to make: no loop is held up, and nobody else waits."""

import asyncio
import threading
import time
import zlib

import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

HEAVY = ['x' * 100_000]


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


def wait_until(predicate, seconds=20):
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.001)


class Serializer:
    """Takes its time, or waits until it is told."""

    def __init__(self):
        self.threads = []
        self.wait = lambda: None

    def dumps(self, value):
        return value[0].encode()

    def loads(self, data):
        self.threads.append(threading.current_thread())
        self.wait()
        return [data.decode()]


def empty():
    return ['']


READS = {
    'get': lambda client: client.get('key'),
    'gets': lambda client: client.gets('key'),
    'gat': lambda client: client.gat('key', 60),
    'gats': lambda client: client.gats('key', 60),
    'get_multi': lambda client: client.get_multi(['key']),
    'get_or_set': lambda client: client.get_or_set('key', empty, 60),
    'get_or_set, stale': lambda client: client.get_or_set(
        'key', empty, 60, stale=60
    ),
}


@pytest.mark.parametrize('name', READS)
def test_much_is_deserialized_in_a_thread(server, name):
    """By whatever call it is read."""
    serializer = Serializer()

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, serializer=serializer
        )
        await client.set('key', HEAVY)
        got = await READS[name](client)
        assert (got['key'] if name == 'get_multi' else got) == HEAVY
        assert threading.main_thread() not in serializer.threads
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('name', READS)
def test_it_is_inflated_in_a_thread(server, name):
    """A few bytes may become many."""
    threads = []

    def inflate(data):
        threads.append(threading.current_thread())
        return zlib.decompress(data)

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, decompressor=inflate
        )
        await client.set('key', 'x' * 100_000, min_compress_len=1)
        got = await READS[name](client)
        assert (got['key'] if name == 'get_multi' else got) == 'x' * 100_000
        assert threads
        assert threading.main_thread() not in threads
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('name', READS)
def test_who_is_slow_to_deserialize_blames_no_server(server, name):
    """The server has answered; the call gets its default in time."""
    serializer = Serializer()
    release = threading.Event()

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, serializer=serializer, socket_timeout=0.3
        )
        await client.set('key', HEAVY)
        serializer.wait = release.wait
        got = await asyncio.wait_for(READS[name](client), 5)
        assert got in (None, {}, [''])
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.down_since is None
        assert await client.set('other', ['small'])
        release.set()
        await client.close()

    try:
        asyncio.run(main())
    finally:
        release.set()


def test_nobody_waits_for_who_deserializes(server):
    """Neither another client of the server, nor others of the same one.

    Its connections are free, though as many calls hang as there may be.

    """
    serializer = Serializer()
    release = threading.Event()

    async def main():
        client, other = (
            memcached.AsyncClient(
                servers=server.address,
                max_connections=2,
                socket_timeout=60,
                **options,
            )
            for options in ({'serializer': serializer}, {})
        )
        await client.set('key', HEAVY)
        await client.set('small', 1)
        serializer.wait = release.wait
        calls = []
        for number in range(1, 9):
            calls.append(client.get('key'))
            # A batch for each: what hangs is with a thread, or waits for one.
            await asyncio.to_thread(
                wait_until,
                lambda most=number: len(serializer.threads) >= min(most, 4),
            )
            for _ in range(5):
                assert await other.get('small') == 1
        for one in (client, other):
            began = time.monotonic()
            for _ in range(20):
                assert await one.get('small') == 1
            assert time.monotonic() - began < 2
        # What needs a thread has one too: here, to connect.
        other._engine.cluster.endpoints[0].disconnect()
        assert await other.get('small') == 1
        release.set()
        assert await asyncio.gather(*calls) == [HEAVY] * 8
        await client.close()
        await other.close()

    try:
        asyncio.run(main())
    finally:
        release.set()


def test_of_many_values_those_made_in_time_are_given(server):
    """Rather than none, because the last was late."""
    serializer = Serializer()
    release = threading.Event()

    def wait():
        if len(serializer.threads) > 3:
            release.wait()

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, serializer=serializer, socket_timeout=0.5
        )
        values = {f'key{n}': HEAVY for n in range(6)}
        await client.set_multi(values)
        serializer.wait = wait
        got = await client.get_multi(values)
        assert got == {f'key{n}': HEAVY for n in range(3)}
        release.set()
        await client.close()

    try:
        asyncio.run(main())
    finally:
        release.set()
