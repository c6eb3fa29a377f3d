"""Each call has the time that it was promised, and waits for no other one."""

import asyncio
import threading
import time
import types

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.loop import lanes
from sprockets.clients.memcached.testing import MemcachedServer

TIMEOUT = 2.0


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


async def hang(connection):
    while await connection.read():
        pass


@pytest.fixture
def hung():
    with faults.ScriptedServer(hang) as running:
        yield running


CALLS = {
    'get': lambda client: client.get('key', 'default'),
    'set': lambda client: client.set('key', 1),
    'gets': lambda client: client.gets('key'),
    'get_multi': lambda client: client.get_multi(['key']),
}


@pytest.mark.parametrize('name', CALLS)
def test_who_joins_late_has_its_own_time(hung, name):
    """A batch waits for a permit; those who join it wait from then on."""

    async def main():
        client = memcached.AsyncClient(
            servers=hung.address,
            socket_timeout=TIMEOUT,
            max_connections=1,
            dead_retry=60,
        )
        # It goes, and hangs; the next one waits for its permit.
        first = client.get('key', 'default')
        await asyncio.to_thread(hung.wait_for, lambda: hung.connections)
        early = client.get('key', 'default')
        for _ in range(3):
            await asyncio.sleep(0)
        (lane,) = client._engine.state.lanes.values()
        (batch,) = lane._waiting
        before = batch.deadline
        await asyncio.sleep(0.3)
        late = CALLS[name](client)
        assert batch.deadline - before >= 0.25
        assert batch.due == before
        await first
        assert await early == 'default'
        await late
        await client.close()

    asyncio.run(main())


def test_who_was_early_does_not_wait_for_who_came_late(server):
    """In one batch, each gets its default when its own time is over."""

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=TIMEOUT, max_connections=1
        )
        await client.set('key', 'value')
        (lane,) = client._engine.state.lanes.values()
        # Another client has the only permit, for longer than the test takes.
        holder = types.SimpleNamespace(permit=None)
        assert lane.permits.take(lane, holder)
        began = time.monotonic()
        early = client.get('key', 'early')
        written = client.set('other', 1)
        await asyncio.sleep(TIMEOUT / 2)
        late = client.get('key', 'late')
        last = client.get_multi(['key'])
        assert await early == 'early'
        assert await written == 0
        assert not late.done()
        assert not last.done()
        assert await late == 'late'
        assert await last == {}
        assert time.monotonic() - began >= TIMEOUT * 1.5 - 0.02
        holder.permit.release()
        assert await client.get('key') == 'value'
        assert await client.get('other') is None
        await client.close()

    asyncio.run(main())


def test_a_read_does_not_wait_for_a_huge_get_multi(server):
    """It comes in between its commands, of the same client too."""
    keys = [f'key{n}' for n in range(60_000)]

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        await client.set('key', 'value')
        huge = client.get_multi(keys)
        await asyncio.sleep(0)
        assert await client.get('key') == 'value'
        assert not huge.done()
        await huge
        await client.close()

    asyncio.run(main())


def test_more_keys_than_may_wait_for_a_server():
    """A call waits for itself, and is not cut."""
    number = 150_000

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=60
        )
        values = {f'{n:x}': n for n in range(number)}
        assert await client.set_multi(values) == []
        assert await client.get_multi(values) == values
        assert await client.delete_multi(values)
        assert await client.get_multi(values) == {}
        await client.close()

    with MemcachedServer('-m', '256') as server:
        asyncio.run(main())


@pytest.mark.parametrize('other', ['of b', 7], ids=['one kind', 'two kinds'])
def test_whose_time_is_over_under_way_leaves_the_others_theirs(server, other):
    """Each gets the value of its own key, in whatever order they asked."""

    async def main(proxy):
        client = memcached.AsyncClient(
            servers=proxy.address, socket_timeout=60, max_connections=1
        )
        await client.set('a', 'of a')
        await client.set('b', other)
        (lane,) = client._engine.state.lanes.values()
        holder = types.SimpleNamespace(permit=None)
        assert lane.permits.take(lane, holder)
        early = client.get('a', 'early')
        await asyncio.sleep(2 * lanes.STEP)
        late = [client.get(key, 'late') for key in ('b', 'a')]
        proxy.next_reply(faults.stall)
        holder.permit.release()
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)
        (batch,) = lane._in_flight
        assert batch.due < batch.deadline
        error = TimeoutError('timed out')
        batch.expire(batch.due, error, lane.counters)
        assert await early == 'early'
        proxy.release()
        assert await asyncio.gather(*late) == [other, 'of a']
        await client.close()

    with faults.FaultProxy(server.address) as proxy:
        asyncio.run(main(proxy))


def test_whose_time_is_over_while_values_are_made_leaves_the_others_theirs(
    server,
):
    """Each gets the value of its own key, or its default."""
    going = threading.Event()
    threads = []

    class Slow:
        def dumps(self, value):
            return value[0].encode()

        def loads(self, data):
            threads.append(threading.current_thread())
            going.wait()
            return [data.decode()]

    async def main():
        client = memcached.AsyncClient(
            servers=server.address,
            socket_timeout=TIMEOUT,
            max_connections=1,
            serializer=Slow(),
        )
        names = [f'key{number}' for number in range(6)]
        for name in names:
            heavy = [name * 20_000]
            assert await client.set(name, heavy)
        (lane,) = client._engine.state.lanes.values()
        holder = types.SimpleNamespace(permit=None)
        assert lane.permits.take(lane, holder)
        early = [client.get(name, 'early') for name in names[:3]]
        await asyncio.sleep(TIMEOUT / 2)
        late = [client.get(name, 'late') for name in names[3:]]
        await asyncio.sleep(0)
        holder.permit.release()
        assert await asyncio.gather(*early) == ['early'] * 3
        going.set()
        assert await asyncio.gather(*late) == [
            [name * 20_000] for name in names[3:]
        ]
        await client.close()

    try:
        asyncio.run(main())
    finally:
        going.set()


def test_who_goes_on_to_another_server_keeps_its_own_time(hung):
    """Not that of those who joined its batch later."""

    async def main():
        with faults.refusing() as nowhere:
            client = memcached.AsyncClient(
                servers=f'{nowhere},{hung.address}',
                socket_timeout=TIMEOUT,
                max_connections=1,
            )
            first = client._engine.cluster.endpoints[0]
            key = next(
                name
                for name in map('key{}'.format, range(99))
                if client._engine.cluster.pick(name.encode()) is first
            )
            lane = client._engine.enter().lane(first)
            holder = types.SimpleNamespace(permit=None)
            assert lane.permits.take(lane, holder)
            began = time.monotonic()
            early = client.get(key, 'early')
            await asyncio.sleep(TIMEOUT * 0.8)
            late = client.get(key, 'late')
            await asyncio.sleep(0)
            holder.permit.release()
            assert await early == 'early'
            assert time.monotonic() - began < TIMEOUT * 1.5
            assert not late.done()
            assert await late == 'late'
            await client.close()

    asyncio.run(main())
