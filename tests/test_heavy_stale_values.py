"""What is heavy is not for the loop, where a value may be stale neither."""

import asyncio
import threading

from sprockets.clients import memcached

SECONDS = 30

THREADS = []


class Heavy:
    """Notes in which thread it is made."""

    def __init__(self):
        self.data = b'x' * 200_000

    def __setstate__(self, state):
        THREADS.append(threading.get_ident())
        self.__dict__.update(state)


def test_a_heavy_value_is_made_in_a_thread(memcached_server):
    """For a caller of its own, so that the loop serves the others."""

    async def main():
        client = memcached.AsyncClient(servers=memcached_server.address)
        await client.set('key', Heavy(), 500)
        THREADS.clear()
        value = await client.get_or_set('key', Heavy, 60, stale=60)
        assert value.data == Heavy().data
        await client.close()

    asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert THREADS
    assert threading.get_ident() not in THREADS
