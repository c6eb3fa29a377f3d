"""The end of a client, and of its loops."""

import asyncio
import threading

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer


@pytest.fixture
def proxy():
    with (
        MemcachedServer() as server,
        faults.FaultProxy(server.address) as running,
    ):
        yield running


def test_who_gives_up_closing_disturbs_nobody_else(proxy):
    """Another close() goes on, at the same time or later."""

    async def main():
        client = memcached.AsyncClient(servers=proxy.address)
        await client.set('key', 'value')
        proxy.every_reply(faults.stall)
        call = client.get('key')
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)
        first, second, third = (
            asyncio.ensure_future(client.close()) for _ in range(3)
        )
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        fourth = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        second.cancel()
        proxy.release()
        assert await call == 'value'
        await third
        await fourth
        with pytest.raises(asyncio.CancelledError):
            await second
        await client.close()
        with pytest.raises(RuntimeError, match='closed'):
            client.get('key')

    asyncio.run(main())


def test_two_loops_at_once_are_told(proxy):
    """A client is for one at a time; another one is no use to it."""
    client = memcached.AsyncClient(servers=proxy.address)

    async def first(running, stop):
        await client.set('key', 'value')
        running.set()
        await asyncio.to_thread(stop.wait)
        assert await client.get('key') == 'value'
        await client.close()

    async def second():
        for call in (
            lambda: client.get('key'),
            lambda: client.set('key', 1),
            lambda: client.get_multi(['key']),
            lambda: client.get_or_set('key', int),
        ):
            with pytest.raises(RuntimeError, match='another event loop'):
                await call()

    running, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(first(running, stop)))
    thread.start()
    try:
        running.wait()
        asyncio.run(second())
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize('turns', range(4))
def test_a_call_of_many_keys_is_answered_first(turns):
    """Also where it is between two of its slices, with nothing under way."""
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
    ):

        async def main():
            client = memcached.AsyncClient(
                servers=f'{one.address},{two.address}', socket_timeout=10
            )
            values = {f'key{number}': number for number in range(30_000)}
            await client.set_multi(values)
            call = client.get_multi(values)
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.close()
            assert call.done()
            assert await call == values

        asyncio.run(main())


def test_a_call_that_nobody_waits_for_ends():
    """It asks for no more of its keys."""
    with MemcachedServer() as server:

        async def main():
            client = memcached.AsyncClient(servers=server.address)
            keys = [f'key{number}' for number in range(100_000)]
            await client.get('key')
            call = client.get_multi(keys)
            await asyncio.sleep(0)
            call.cancel()
            await client.close()
            (endpoint,) = client._engine.cluster.endpoints
            assert endpoint.connections == 0

        asyncio.run(main())
