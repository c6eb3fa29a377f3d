"""What the counts of a client's calls promise."""

import asyncio
import time
import unittest
from unittest import mock

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.loop import batches, lanes
from sprockets.clients.memcached.testing import MemcachedTestCase
from sprockets.clients.memcached.watch import counters


@pytest.fixture
def count():
    return counters.Counters()


def hit(count, now, calls):
    """Count a batch of hits at a time."""
    if now >= count.until:
        count.turn(now)
    count.calls += calls
    count.batches += 1
    count.hits += calls


def test_moments(count):
    """Each has what was done in its two seconds, up to the present one."""
    for second in range(100, 120):
        hit(count, second, calls=second)
    moments = count.moments(119)
    assert len(moments) == counters.MOMENTS
    assert [moment.calls for moment in moments[-10:]] == [
        *(0, 201, 205, 209, 213, 217, 221, 225, 229, 233),
    ]
    assert [moment.batches for moment in moments[-9:]] == [2] * 9
    assert sum(moment.hits for moment in count.moments(120)) == count.hits


def test_moments_in_which_nothing_happens(count):
    """They are zero, and what is older than five minutes is not told."""
    hit(count, 10, calls=5)
    hit(count, 300, calls=7)
    calls = [moment.calls for moment in count.moments(302)]
    assert calls[0] == 0
    assert (calls[-147], calls[-1], sum(calls)) == (0, 7, 12)
    assert sum(moment.calls for moment in count.moments(312)) == 7
    assert sum(moment.calls for moment in count.moments(10_000)) == 0
    assert count.total() == (12, 2, 12, 0, 0, 0, 0)


def test_memory_is_bounded(count):
    """However long a client lives, it keeps five minutes."""
    for second in range(0, 10_000, 2):
        hit(count, second, calls=1)
    assert len(count._begins) == counters.MOMENTS + 1
    assert [m.calls for m in count.moments(10_000)] == [1] * counters.MOMENTS


def test_failed_calls(count):
    """They are errors; no server has had them."""
    count.fail(10, calls=3)
    count.fail(11)
    count.fail(11, calls=5, steps=5)
    assert count.total() == (4, 0, 0, 0, 4, 0, 5)
    assert count.moments(12)[-1].errors == 4


CALLS = {
    'get': lambda client: client.get('key'),
    'get_or_set': lambda client: client.get_or_set('key', int),
    'gets': lambda client: client.gets('key'),
    'set': lambda client: client.set('key', 1),
    'get_multi': lambda client: client.get_multi(['key']),
}

ENDS = {
    'answered': lambda proxy: None,
    'refused': lambda proxy: proxy.every_reply(
        faults.replace(b'SERVER_ERROR backend failure\r\n')
    ),
    'closed': lambda proxy: proxy.every_reply(faults.close),
    'hung': lambda proxy: proxy.every_reply(faults.stall),
    'down': lambda proxy: proxy.down(),
}


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('name', CALLS)
def test_a_call_that_was_cancelled_is_over_once(memcached_server, name, end):
    """It is told of and counted, whatever becomes of it."""
    told = []
    observer = mock.Mock(over=lambda *call: told.append(call))

    async def main(proxy):
        client = memcached.AsyncClient(servers=proxy.address, socket_timeout=1)
        await client.set('other', 1)
        ENDS[end](proxy)
        call = CALLS[name](client.scope(lambda method, keys: observer))
        call.cancel()
        until = time.monotonic() + 30
        while not told:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        await client.close()
        engine = client._engine
        counts = [*engine.counters.values(), engine.unserved]
        assert sum(count.calls for count in counts) == 2
        failed = end != 'answered'
        assert sum(count.errors for count in counts) == failed
        ((error, *_),) = told
        assert (error is not None) == failed

    with faults.FaultProxy(memcached_server.address) as proxy:
        asyncio.run(main(proxy))


class Tests(MemcachedTestCase, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = memcached.AsyncClient(socket_timeout=1)
        self.engine = self.client._engine
        await self.client.set('a', 1)
        (self.count,) = self.engine.counters.values()
        self.addAsyncCleanup(self.client.close)

    async def test_what_a_client_counts(self):
        """Calls, hits and misses of everybody, and the batches they shared."""
        client, count = self.client, self.count
        await asyncio.gather(
            *[client.get('a') for _ in range(10)],
            client.get('b'),
            client.get_multi(['a', 'b', 'c']),
            client.gets('a'),
        )
        assert (count.hits, count.misses, count.errors) == (12, 3, 0)
        assert count.calls == 16
        assert 2 <= count.batches <= 4
        assert 0 < count.seconds < 5
        moments = count.moments(time.monotonic() + counters.STEP)
        assert sum(moment.calls for moment in moments[-3:]) == 16

    async def test_each_call_that_failed_is_counted(self):
        """The calls of a batch, and those that no server is up for."""
        client, count = self.client, self.count
        self.memcached_server.kill()
        await asyncio.gather(*[client.get('a') for _ in range(10)])
        assert count.errors == 10
        await asyncio.gather(
            client.get('a'), client.set('a', 2), client.incr('a')
        )
        assert count.calls == 11
        # The three found no server at all.
        assert self.engine.unserved.total() == (3, 0, 0, 0, 3, 0, 0)

    async def test_calls_that_are_refused_are_errors(self):
        """With too many waiting, one more fails, and is counted."""
        client, count = self.client, self.count
        with (
            mock.patch.object(batches, 'MAX_CALLS', 1),
            mock.patch.object(lanes, 'MAX_WAITING_CALLS', 1),
        ):
            client._engine.state.lanes.clear()
            await asyncio.gather(
                *[client.get(f'key{number}') for number in range(10)],
                *[client.incr(f'key{number}') for number in range(10)],
            )
        assert count.calls == 21
        assert count.errors >= 10

    async def test_a_server_that_hangs(self):
        """Each call that timed out is counted once."""
        client, count = self.client, self.count
        self.memcached_server.pause()
        await asyncio.gather(*[client.get('a') for _ in range(10)])
        self.memcached_server.resume()
        await client.forget_dead_hosts()
        assert await client.get('a') == 1
        assert count.errors == 10
        assert count.calls == 12

    async def test_a_call_of_many_keys_that_was_cancelled(self):
        """It is no error that not all of them were asked for."""
        told = []
        observer = mock.Mock(over=lambda *call: told.append(call))
        scope = self.client.scope(lambda method, keys: observer)
        call = scope.get_multi(map(str, range(20_000)))
        (lane,) = self.engine.state.lanes.values()
        while not lane.busy:  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        await self.client.close()
        ((error, hits, misses, *_),) = told
        assert error is None
        assert (hits, misses) == (0, self.count.misses)
        assert 0 < misses < 20_000
        assert self.count.errors == 0
