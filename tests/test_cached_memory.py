"""What a cached function keeps of the calls that were made."""

import asyncio
import os
import tracemalloc

import pytest

from sprockets.clients import memcached

LARGE = 256 * 1024

CALLS = 60


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


class Measured:
    """The bytes that are kept of what was done inside."""

    def __enter__(self):
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[0] - self._before
        tracemalloc.stop()


def arguments():
    """Return large ones, of each kind."""
    data = os.urandom(LARGE)
    yield (data,), {}
    yield (data.hex(),), {}
    yield (data, 7), {}
    yield (), {'image': os.urandom(LARGE)}


def test_large_arguments_are_not_kept(address):
    """Their results are cached all the same."""
    calls = []

    async def main():
        client = memcached.AsyncClient(servers=address)

        @memcached.cached(60, client=client, key=len_of)
        async def by_length(image, number=0):
            calls.append(None)
            return 'length'

        @memcached.cached(60, client=client, name='thumbnail')
        async def thumbnail(image, number=0):
            calls.append(None)
            return 'thumbnail'

        for function in (thumbnail, by_length):
            await function(b'first')
            calls.clear()
            with Measured() as kept:
                for _ in range(CALLS // 4):
                    for args, kwargs in arguments():
                        await function(*args, **kwargs)
                del args, kwargs
            assert kept.bytes < 10 * LARGE
        image = os.urandom(LARGE)
        calls.clear()
        for _ in range(3):
            assert await thumbnail(image) == 'thumbnail'
        assert len(calls) == 1
        assert await thumbnail.invalidate(image)
        assert thumbnail.key(image) == thumbnail.key(image=image)
        await client.close()

    asyncio.run(main())


def len_of(image, number=0):
    return f'length-{len(image)}'


def test_large_arguments_of_a_plain_function_are_not_kept(address):
    """Likewise."""
    client = memcached.Client(servers=address)

    @memcached.cached(60, client=client)
    def thumbnail(image):
        return 'thumbnail'

    thumbnail(b'first')
    with Measured() as kept:
        for _ in range(CALLS):
            thumbnail(os.urandom(LARGE))
            thumbnail.invalidate(os.urandom(LARGE))
    assert kept.bytes < 10 * LARGE
    client.disconnect_all()
