"""What the loop does itself, what a thread does, and how one hands over."""

import asyncio
import concurrent.futures
import gc
import itertools
import threading
import time
import weakref
from unittest import mock

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import batches, halves, lanes, permits
from sprockets.clients.memcached.servers import connections
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import connection, protocol

SMALL = ['x' * 10]
LARGE = ['x' * (values.HEAVY + 1)]


class Threads(concurrent.futures.ThreadPoolExecutor):
    """An executor that knows how many jobs it was given."""

    def __init__(self, workers=8):
        super().__init__(workers)
        self.jobs = 0

    def submit(self, *args, **kwargs):
        self.jobs += 1
        return super().submit(*args, **kwargs)


class Serializer:
    """Takes down in which thread each value is read."""

    def __init__(self):
        self.threads = []

    def dumps(self, value):
        return value[0].encode()

    def loads(self, data):
        self.threads.append(threading.get_ident())
        return [data.decode()]


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


@pytest.fixture
def proxy(server):
    with faults.FaultProxy(server.address) as running:
        yield running


@pytest.fixture
def threads():
    with Threads() as executor:
        yield executor


def run(main, server, **options):
    """Run a coroutine function with a client, and close that."""

    async def body():
        client = memcached.AsyncClient(servers=server.address, **options)
        try:
            return await main(client)
        finally:
            await client.close()

    return asyncio.run(body())


def connections_of(client):
    """Return how many connections a client's only server has from here."""
    (endpoint,) = client._engine.cluster.endpoints
    return endpoint.connections


def until(condition):
    """Wait for what comes about by itself."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# Who does what


def test_only_the_first_call_takes_a_thread(server, threads):
    """It connects; the others find its connection idle."""

    async def main(client):
        await client.set('key', 'value')
        assert threads.jobs == 1
        for _ in range(20):
            assert await client.get('key') == 'value'
            assert await client.incr('number') is None
            assert await client.get_multi(['key', 'none']) == {'key': 'value'}
        assert threads.jobs == 1

    run(main, server, executor=threads)


def test_a_large_value_is_a_threads(threads):
    """To write it, and to read it; and both are right."""
    value = 'x' * 4_000_000

    async def main(client):
        await client.set('small', 1)
        assert await client.set('large', value)
        assert threads.jobs == 2
        assert await client.get('large') == value
        assert threads.jobs == 3
        assert await client.get('small') == 1
        assert threads.jobs == 3

    with MemcachedServer('-I', '8m') as server:
        run(
            main,
            server,
            executor=threads,
            server_max_value_length=len(value),
        )


@pytest.mark.parametrize('size', [5, 70_000, 300_000, 2_000_000])
def test_a_value_that_comes_in_pieces(size):
    """To one who reads alone, again and again, it is the value."""
    value = b'x' * size
    reply = b'VALUE key 0 %d\r\n%b\r\nEND\r\n' % (size, value)

    cuts = itertools.cycle((0, 3, 20, size // 2, size + 22))

    async def answer(connection):
        while request := await connection.request():
            if b'none' in request:
                await connection.send(b'END\r\n')
                continue
            cut = next(cuts)
            await connection.play([reply[:cut], 0.002, reply[cut:]])

    async def main(client):
        for _ in range(30):
            assert await client.get('key') == value
            assert await client.get('none', 'default') == 'default'

    with faults.ScriptedServer(answer) as server:
        run(main, server)


def test_one_of_100_kb_is_not(server, threads):
    """It takes the loop less than to tell a thread."""
    value = 'x' * 100_000

    async def main(client):
        await client.set('small', 1)
        assert await client.set('key', value)
        assert await client.get('key') == value
        assert threads.jobs == 1

    run(main, server, executor=threads)


def test_deserializing_much_is_a_threads(server):
    """A few bytes are read in the loop, many are not."""
    serializer = Serializer()

    async def main(client):
        here = threading.get_ident()
        await client.set('small', SMALL)
        await client.set_multi({'large': LARGE, 'more': SMALL})
        assert await client.get('small') == SMALL
        assert serializer.threads == [here]
        got = await asyncio.gather(client.get('large'), client.get('more'))
        assert got == [LARGE, SMALL]
        _, more, large = serializer.threads
        assert more == here != large
        # Some of middling size are much, too.
        third = ['x' * (values.HEAVY // 3)]
        await client.set('third', third)
        calls = [client.get('third') for _ in range(5)]
        assert await asyncio.gather(*calls) == [third] * 5
        assert serializer.threads[3:].count(here) == 3

    run(main, server, serializer=serializer)


def test_inflating_is_a_threads(server, threads):
    """A few bytes may become many."""

    async def main(client):
        await client.set('key', 'x' * 10_000, min_compress_len=1)
        assert threads.jobs == 1
        assert await client.get('key') == 'x' * 10_000
        assert threads.jobs == 2

    run(main, server, executor=threads)


def test_a_reply_in_pieces(proxy, threads):
    """The loop puts them together."""

    async def main(client):
        await client.set('key', 'value')
        proxy.next_reply(faults.drip())
        assert await client.get('key') == 'value'
        assert threads.jobs == 1

    run(main, proxy, executor=threads)


def test_a_connection_that_ends_in_a_reply(proxy, threads):
    """A thread goes on from there: it connects and asks again."""

    async def main(client):
        await client.set('key', 'value')
        proxy.next_reply(faults.cut(9))
        assert await client.get('key') == 'value'
        assert threads.jobs == 2
        proxy.next_reply(faults.cut(3))
        # Nobody knows whether it was done.
        assert await client.incr('key') is None
        assert await client.get('key') == 'value'

    run(main, proxy, executor=threads)


def test_a_reply_too_many(proxy, threads):
    """Nobody gets it, and the connection is not used again."""

    async def main(client):
        await client.set_multi({'one': 1, 'two': 2})
        proxy.next_reply(faults.repeat())
        assert await client.get('one') is None
        assert await client.get('two') == 2
        until(lambda: proxy.connections[0].closed)

    run(main, proxy, executor=threads, dead_retry=0)


def test_a_value_that_fails_in_the_loop_fails_alone(server):
    """The others of its batch have theirs."""

    class Broken(Serializer):
        def loads(self, data):
            if data == b'bad':
                raise ValueError(data)
            return super().loads(data)

    async def main(client):
        await client.set_multi({'good': ['good'], 'bad': ['bad']})
        got = await asyncio.gather(
            client.get('good'), client.get('bad', 'default')
        )
        assert got == [['good'], 'default']

    run(main, server, serializer=Broken())


# Time


def test_a_hung_server_is_left_at_the_deadline(proxy):
    """By the loop, and it is down for everybody then."""

    async def main(client):
        await client.set('key', 'value')
        proxy.every_reply(faults.stall)
        began = time.monotonic()
        got = await asyncio.gather(*[client.get('key', 1) for _ in range(9)])
        assert got == [1] * 9
        assert time.monotonic() - began >= 0.3
        (endpoint,) = client._engine.cluster.endpoints
        # Where this process is held up itself the server is not to blame.
        while endpoint.retry_at is None:
            assert time.monotonic() - began < 30
            assert await client.get('key', 1) == 1
        # A new connection does not bring anything either.
        await asyncio.to_thread(until, lambda: endpoint.down_since is not None)
        assert connections_of(client) == 0

    run(main, proxy, socket_timeout=0.3)


def test_a_loop_that_is_late_does_not_blame_the_server(server):
    """The reply was there in time."""

    async def main(client):
        await client.set('key', 'value')
        call = client.get('key')
        # The batch leaves at the end of this turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251
        (lane,) = client._engine.state.lanes.values()
        lane._look()
        assert await call == 'value'
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.retry_at is None

    run(main, server, socket_timeout=0.3)


def test_without_a_free_thread(server):
    """What the loop can do goes on; the rest fails when its time is over."""
    release = threading.Event()

    async def main(client):
        await client.set('small', 1)
        await client.set('large', LARGE)
        for _ in range(2):
            threads.submit(release.wait)
        try:
            large = client.get('large', 'default')
            # It travels with it, and need not wait for it.
            assert await client.get('small') == 1
            for _ in range(20):
                assert await client.get('small') == 1
            assert await large == 'default'
            # It is not the server's fault.
            (endpoint,) = client._engine.cluster.endpoints
            assert endpoint.retry_at is None
            assert await client.get('small') == 1
        finally:
            release.set()
        assert await client.get('large') == LARGE

    with Threads(2) as threads:
        run(main, server, executor=threads, socket_timeout=2)


# Loops come and go


def test_a_loop_that_ends_in_an_exchange(proxy):
    """The next one has a connection of its own, and the old one is closed."""
    client = memcached.AsyncClient(servers=proxy.address)

    async def leave():
        await client.set('key', 'value')
        proxy.next_reply(faults.stall)
        client.get('key')
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)

    async def use():
        assert await client.get('key') == 'value'
        assert connections_of(client) == 1
        await client.close()

    asyncio.run(leave())
    assert connections_of(client) == 1
    asyncio.run(use())
    assert connections_of(client) == 0
    proxy.wait_for(lambda: not proxy.open)


def test_a_loop_that_rests_in_an_exchange(proxy):
    """It goes on when it runs again, whatever the client did meanwhile."""
    client = memcached.AsyncClient(servers=proxy.address)

    async def begin():
        await client.set('key', 'value')
        proxy.next_reply(faults.stall)
        call = client.get('key')
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)
        return call

    async def use():
        assert await client.get('key') == 'value'

    loop = asyncio.new_event_loop()
    try:
        call = loop.run_until_complete(begin())
        asyncio.run(use())
        assert connections_of(client) == 2
        proxy.release()
        assert loop.run_until_complete(call) == 'value'
        loop.run_until_complete(client.close())
        assert connections_of(client) == 0
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


INTERRUPTED = {
    'have a connection': (connections.Loan, 'resume'),
    'look at it': (connection.Connection, 'is_quiet'),
    'gather': (batches.Batch, 'prepare'),
    'set out': (batches.Batch, 'begin'),
    'send': (connection.Connection, '_send'),
    'read': (connection.Connection, '_read'),
    'understand': (protocol.Get, 'take'),
    'put back': (connections.Loan, 'keep'),
}


@pytest.mark.parametrize('place', INTERRUPTED)
def test_an_interrupt_in_the_loop(proxy, place):
    """The connection is closed, and what does no harm is asked again.

    It is not the server's fault, and nothing waits for other calls.

    """
    client = memcached.AsyncClient(servers=proxy.address)

    async def call(method, *args):
        return await getattr(client, method)(*args)

    async def interrupted():
        calls.append(client.get('one', 'default'))
        await calls[0]

    calls = []
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(call('set_multi', {'one': 1, 'two': 2}))
        # Now the connection that was made is the loop's.
        assert loop.run_until_complete(call('get', 'one')) == 1
        with (
            mock.patch.object(
                *INTERRUPTED[place], side_effect=KeyboardInterrupt
            ),
            pytest.raises(KeyboardInterrupt),
        ):
            loop.run_until_complete(interrupted())
        (answer,) = calls
        assert loop.run_until_complete(answer) in (1, 'default')
        assert loop.run_until_complete(call('get', 'two')) == 2
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.retry_at is None
        (lane,) = client._engine.state.lanes.values()
        assert lane.permits.free == lane.permits.limit
        loop.run_until_complete(call('close'))
        assert connections_of(client) == 0
        proxy.wait_for(lambda: not proxy.open)
    finally:
        loop.close()


def test_a_client_that_is_gone_in_an_exchange(proxy):
    """Its connection is closed when it is collected."""

    async def leave():
        client = memcached.AsyncClient(servers=proxy.address)
        await client.set('key', 'value')
        proxy.next_reply(faults.stall)
        client.get('key')
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)

    def is_closed():
        # A thread may still have what it has just done.
        gc.collect()
        return not proxy.open

    asyncio.run(leave())
    until(is_closed)


def test_several_clients_of_one_server(server):
    """They share its connections, and none of them starves."""

    async def main(first):
        others = [
            memcached.AsyncClient(servers=server.address) for _ in range(3)
        ]
        clients = [first, *others]
        await first.set('key', 'value')
        rounds = dict.fromkeys(clients, 0)
        going = True

        async def read(client):
            while going:
                assert await client.get('key') == 'value'
                rounds[client] += 1

        readers = [
            asyncio.ensure_future(read(client))
            for client in clients
            for _ in range(50)
        ]
        while min(rounds.values()) < 500:
            await asyncio.sleep(0.01)
            assert connections_of(first) <= 2
        going = False
        await asyncio.gather(*readers)
        for client in others:
            await client.close()

    run(main, server, max_connections=2)


# What is left behind

CALLS = {
    'get': lambda client: client.get('key'),
    'a miss': lambda client: client.get('none'),
    'gets': lambda client: client.gets('key'),
    'gat': lambda client: client.gat('key', 60),
    'set': lambda client: client.set('other', 1),
    'incr': lambda client: client.incr('number'),
    'get_multi': lambda client: client.get_multi(['key', 'none']),
    'set_multi': lambda client: client.set_multi({'a': 1, 'b': 2}),
    'get_or_set': lambda client: client.get_or_set('key', int, 60),
    'get_or_set, stale': lambda client: client.get_or_set(
        'key', int, 60, stale=60
    ),
    'update': lambda client: client.update('number', lambda n: (n or 0) + 1),
    'get_stats': lambda client: client.get_stats(),
}


@pytest.mark.parametrize('name', CALLS)
def test_nothing_is_left_to_the_collector(server, name):
    """Its rounds would make for the slowest calls."""
    call = CALLS[name]

    async def main(client):
        await client.set_multi({'key': 'value', 'number': 1})
        for _ in range(3):
            await call(client)
        # What other tests have left, a thread that still ends among it, makes
        # garbage of its own for a while.  A hundred calls that left any would
        # do so in every round.
        left = []
        end = time.monotonic() + 30
        gc.disable()
        try:
            while not left or (min(left) >= 20 and time.monotonic() < end):
                gc.collect()
                for _ in range(20):
                    await asyncio.gather(*[call(client) for _ in range(5)])
                left.append(gc.collect())
                await asyncio.sleep(0)
        finally:
            gc.enable()
        assert min(left) < 20, left

    run(main, server)


# Permits


class Waiter:
    """Takes a permit whenever it is told that there may be one."""

    def __init__(self, loop, of):
        self.loop = loop
        self.of = of
        self.permits = []
        self.permit = None

    @property
    def number(self):
        return len(self.permits)

    def leave(self):
        if self.of.take(self, self):
            self.permits.append(self.permit)


def test_permits_are_had_in_order():
    """Whoever waits longest is next, and who just had one is not."""

    async def main():
        loop = asyncio.get_running_loop()
        of = permits.Permits(1)
        waiters = [Waiter(loop, of) for _ in range(3)]
        for waiter in waiters:
            waiter.leave()
        assert [waiter.number for waiter in waiters] == [1, 0, 0]
        waiters[0].permits[0].release()
        # It is for the second one, which was told and will take it.
        waiters[0].leave()
        await asyncio.sleep(0)
        assert [waiter.number for waiter in waiters] == [1, 1, 0]
        waiters[1].permits[0].release()
        await asyncio.sleep(0)
        assert [waiter.number for waiter in waiters] == [1, 1, 1]
        waiters[2].permits[0].release()
        await asyncio.sleep(0)
        assert [waiter.number for waiter in waiters] == [2, 1, 1]

    asyncio.run(main())


def test_who_waits_no_more_is_passed_over():
    """It said so, it is gone, or its loop is closed."""

    async def main():
        closed = asyncio.new_event_loop()
        closed.close()
        loop = asyncio.get_running_loop()
        of = permits.Permits(1)
        holder, one, two, three, last = (
            Waiter(each, of) for each in (loop, loop, loop, closed, loop)
        )
        for waiter in (holder, one, two, three, last):
            waiter.leave()
        of.withdraw(one)
        gone = weakref.ref(two)
        del two, waiter
        gc.collect()
        assert gone() is None
        holder.permits[0].release()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (one.number, three.number, last.number) == (0, 0, 1)

    asyncio.run(main())


def test_permits_at_once():
    """As many as there are, and with more than one free more are told."""

    async def main():
        loop = asyncio.get_running_loop()
        of = permits.Permits(2)
        waiters = [Waiter(loop, of) for _ in range(4)]
        for waiter in waiters:
            waiter.leave()
        assert [waiter.number for waiter in waiters] == [1, 1, 0, 0]
        for waiter in waiters[:2]:
            waiter.permits[0].release()
        for _ in range(3):
            await asyncio.sleep(0)
        assert [waiter.number for waiter in waiters] == [1, 1, 1, 1]

    asyncio.run(main())


def test_a_permit_is_released_once():
    """Whoever does so once more changes nothing, in whatever thread."""

    async def main():
        of = permits.Permits(2)
        waiter = Waiter(asyncio.get_running_loop(), of)
        waiter.leave()
        waiter.leave()
        first, second = waiter.permits
        first.release()
        await asyncio.gather(
            *[asyncio.to_thread(first.release) for _ in range(8)]
        )
        assert of.free == 1
        second.release()
        assert of.free == 2

    asyncio.run(main())


def test_nobody_stands_back_for_a_loop_that_rests():
    """It was first, and will be told too, but it does not run."""
    of = permits.Permits(1)
    rests = asyncio.new_event_loop()
    try:
        first = Waiter(rests, of)

        async def main():
            loop = asyncio.get_running_loop()
            holder, second = (Waiter(loop, of) for _ in range(2))
            holder.leave()
            first.leave()
            second.leave()
            holder.permits[0].release()
            for _ in range(3):
                await asyncio.sleep(0)
            assert second.number == 1
            second.permits[0].release()

        asyncio.run(main())
        assert first.number == 0
        rests.run_until_complete(asyncio.sleep(0))
        assert first.number == 1
    finally:
        rests.close()


# A batch


def test_a_batch_goes_from_state_to_state():
    """Each state leads to those that the table says, and to no other."""
    every = {*batches.TRANSITIONS}
    assert every == {
        state for after in batches.TRANSITIONS.values() for state in after
    } | {batches.GATHERING}
    for state, after in batches.TRANSITIONS.items():
        for other in every:
            batch = batches.Batch(mock.Mock(), mock.Mock(), 0, None)
            batch.state = state
            if other in after:
                batch.become(other)
                assert batch.state == other
            else:
                with pytest.raises(RuntimeError, match=f'{state} .* {other}'):
                    batch.become(other)


# Few reads


async def connected(server, count):
    """Return a client that has so many connections."""
    client = memcached.AsyncClient(servers=server.address)
    assert await client.get('key') is None
    server.pause()
    calls = []
    for number in range(count):
        calls.append(client.get('key'))
        await asyncio.sleep(0.001)
        # Those behind the first one wait for a connection of their own.
        while connections_of(client) <= number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    server.resume()
    assert await asyncio.gather(*calls) == [None] * len(calls)
    return client


async def few_at_once(client, count, sent):
    """Make few reads in each turn; return what left by then in the last."""
    for _ in range(lanes.ALONE + 1):
        early = await in_a_turn(client, count, sent)
    return early


@pytest.mark.parametrize('count', [1, 2])
def test_few_reads_travel_each_alone(server, sent, count):
    """The server has one while the loop has the other."""

    async def main():
        client = await connected(server, count)
        assert await few_at_once(client, count, sent) == [(1, False)] * count
        before = len(sent)
        await asyncio.gather(*[reads(client, 50) for _ in range(count)])
        assert sent[before:] == [(1, False)] * 50 * count
        assert connections_of(client) == count
        await client.close()

    asyncio.run(main())


def test_more_than_few_travel_together(server, sent):
    """From the first turn on in which there are more; a write likewise."""

    async def main():
        client = await connected(server, 3)
        await few_at_once(client, 2, sent)
        assert await in_a_turn(client, 3, sent) == [(1, False)] * 2
        before = len(sent)
        assert await in_a_turn(client, 3, sent) == []
        assert sent[before:] == [(3, False)]
        await few_at_once(client, 2, sent)
        calls = [client.set('key', 1), client.get('key'), client.get('key')]
        assert await asyncio.gather(*calls) == [True, 1, 1]
        assert sent[-1] == (2, True)
        await client.close()

    asyncio.run(main())


def test_few_reads_and_one_connection(server, sent):
    """The second one waits for the first, as any other would."""

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, max_connections=1
        )
        await few_at_once(client, 2, sent)
        await asyncio.gather(*[reads(client, 50) for _ in range(2)])
        assert connections_of(client) == 1
        await client.close()

    asyncio.run(main())


def test_a_read_that_finds_no_connection_is_not_kept(server, proxy, sent):
    """It goes with others then, and its value is its caller's alone."""

    async def main(client):
        assert await client.set('key', 'value')
        await few_at_once(client, 1, sent)
        proxy.close_connections()
        call = client.get('key')
        assert await call == 'value'
        gone = weakref.ref(call)
        del call
        # Its end has woken this task up, in the turn that it is in.
        await asyncio.sleep(0)
        assert gone() is None

    run(main, proxy)


async def reads(client, count):
    """Read again and again, and compare."""
    for _ in range(count):
        assert await client.get('key', 'none') == 'none'


# The first half


async def in_a_turn(client, count, sent):
    """Make so many reads in one turn; return what it was that left by then."""
    before = len(sent)
    calls = [client.get(f'key{number}') for number in range(count)]
    early = sent[before:]
    assert await asyncio.gather(*calls) == [None] * count
    return early


@pytest.fixture
def sent(monkeypatch):
    """What batches have left: how many reads, and whether they write."""
    left = []
    begin = lanes.Lane._begin

    def watched(lane, batch, now):
        left.append((len(batch.waiters), bool(batch.writing)))
        return begin(lane, batch, now)

    monkeypatch.setattr(lanes.Lane, '_begin', watched)
    return left


@pytest.fixture
def soon(monkeypatch):
    """It is known from the first turn on that halves help."""
    monkeypatch.setattr(halves, 'IDLE', -1000)
    monkeypatch.setattr(halves, 'WINDOW', 1)
    monkeypatch.setattr(halves, 'PERIOD', 1_000_000)


class Clocks:
    """What time it is, and how much of it a thread has worked."""

    def __init__(self):
        self.now = self.busy = 0.0

    def turns(self, known, count, seconds, busy, reads=64):
        """Let so many turns pass; return how often halves left in them."""
        left = 0
        for _ in range(count):
            left += known.size > 0
            self.now += seconds
            self.busy += seconds * busy
            known.note(reads)
        return left


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(
        halves,
        'time',
        mock.Mock(
            monotonic=lambda: clocks.now, thread_time=lambda: clocks.busy
        ),
    )
    return clocks


def test_halves_leave_while_the_loop_would_be_idle(clocks):
    """Most of the time; then it is seen whether it still would be."""
    known = halves.Halves()
    assert clocks.turns(known, halves.WINDOW, 0.001, 0.7) == 0
    round_ = halves.WINDOW * (halves.PERIOD + 1)
    # That it is busy with halves says nothing.
    assert clocks.turns(known, halves.WINDOW * halves.PERIOD, 0.001, 1) == (
        halves.WINDOW * halves.PERIOD
    )
    assert clocks.turns(known, halves.WINDOW, 0.001, 0.7) == 0
    assert clocks.turns(known, round_, 0.001, 0.7) == (
        halves.WINDOW * halves.PERIOD
    )


def test_a_busy_loop_sends_all_reads_together(clocks):
    """It has other things to do while the server answers."""
    known = halves.Halves()
    assert clocks.turns(known, 50 * halves.WINDOW, 0.001, 0.95) == 0
    # Until it is busy no more.
    clocks.turns(known, halves.WINDOW, 0.001, 0.5)
    assert clocks.turns(known, halves.WINDOW, 0.001, 0.95) == halves.WINDOW
    clocks.turns(known, halves.WINDOW * halves.PERIOD, 0.001, 0.95)
    assert clocks.turns(known, 50 * halves.WINDOW, 0.001, 0.95) == 0


def test_the_first_half_is_of_as_many_as_come(clocks):
    """Of the most that have come lately; of few there is none."""
    known = halves.Halves()
    sizes = {}
    for reads in (64, 33, 9, 6, 5, 4, 1):
        clocks.turns(known, 3 * halves.WINDOW, 0.001, 0.5, reads)
        clocks.turns(known, halves.WINDOW, 0.001, 0.5, reads)
        sizes[reads] = known.size
    assert sizes == {64: 32, 33: 17, 9: 5, 6: 4, 5: 4, 4: 0, 1: 0}


def test_half_of_many_reads_leave_early(server, sent, soon):
    """Once it is known how many come, and for as long as they do."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        assert await client.get('key') is None
        assert await in_a_turn(client, 64, sent) == []
        for _ in range(3):
            assert await in_a_turn(client, 64, sent) == [(32, False)]
        assert await in_a_turn(client, 20, sent) == []
        for _ in range(2):
            await in_a_turn(client, 33, sent)
        for _ in range(2):
            assert await in_a_turn(client, 33, sent) == [(17, False)]
        for _ in range(2):
            await in_a_turn(client, halves.LEAST, sent)
        for _ in range(2):
            assert await in_a_turn(client, halves.LEAST, sent) == []
        assert await in_a_turn(client, 64, sent) == []
        await client.close()

    asyncio.run(main())


def test_a_half_that_is_back_soon_counts(server, sent, soon):
    """Some loops read it before the end of the turn in which it left."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        assert await client.get('key') is None
        for _ in range(10):
            calls = [client.get(f'key{number}') for number in range(64)]
            # Time for the server to answer.
            time.sleep(0.002)  # noqa: ASYNC251
            await asyncio.gather(*calls)
        assert await in_a_turn(client, 64, sent) == [(32, False)]
        await client.close()

    asyncio.run(main())


def test_only_reads_count_as_reads(server, sent, soon):
    """Many that are written at once do not make the next reads leave early."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        for _ in range(3):
            await client.set_multi(dict.fromkeys(map(str, range(100)), 'one'))
            await client.get_multi(map(str, range(100)))
        assert await in_a_turn(client, 64, sent) == []
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('most, early', [(1, []), (2, [(32, False)])])
def test_the_other_half_need_not_wait(server, sent, soon, most, early):
    """It has a connection too, or all travel together."""

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, max_connections=most
        )
        for _ in range(4):
            found = await in_a_turn(client, 64, sent)
        assert found == early
        await client.close()

    asyncio.run(main())


def test_no_read_overtakes_a_write(server, sent, soon):
    """Calls of a turn are done in their order, however many they are."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        await in_a_turn(client, 64, sent)
        for number in range(20):
            calls = []
            for place in range(64):
                if place == 40:
                    calls.append(client.set('key', number))
                calls.append(client.get('key', 'none'))
            found = await asyncio.gather(*calls)
            # One that is behind the write sees it.
            assert set(found[41:]) == {number}
            before = 'first' if number else 'none'
            assert set(found[:40]) <= {before, number}
            first = client.set('key', 'first')
            found = await asyncio.gather(
                first, *[client.get('key') for _ in range(64)]
            )
            assert set(found[1:]) == {'first'}
        assert any(reads >= 32 and not writes for reads, writes in sent)
        await client.close()

    asyncio.run(main())


def test_no_read_overtakes_a_write_when_a_batch_comes_back(server, sent):
    """It may do so between two calls of a turn; writes leave at its end."""

    async def main(client):
        assert await client.set('key', 'old')
        (lane,) = client._engine.state.lanes.values()
        written = client.set('key', 'new')
        # Whenever a batch comes back.
        lane.leave()
        assert await client.get('key') == 'new'
        assert await written
        assert sent[-1] == (1, True)

    run(main, server)


def test_no_read_overtakes_a_value_in_parts(server, sent):
    """Nobody joins what stores one, and still it leaves with its turn."""
    value = 'x' * 5000

    async def main(client):
        assert await client.set('key', 'old')
        (lane,) = client._engine.state.lanes.values()
        sent.clear()
        written = client.set('key', value)
        # Whenever a batch comes back.
        lane.leave()
        assert sent == []
        assert await client.get('key') == value
        assert await written
        assert sent == [(0, True), (1, False)]

    run(main, server, max_value_len=2048, max_parts=8)


def test_a_call_that_is_refused_takes_little(server, monkeypatch):
    """Who comes when there is too much does not make for more of it."""
    monkeypatch.setattr(lanes, 'MAX_WAITING_CALLS', 2000)
    looked = []
    is_overloaded = lanes.Lane._is_overloaded

    def watched(lane, size):
        looked.append(size)
        return is_overloaded(lane, size)

    monkeypatch.setattr(lanes.Lane, '_is_overloaded', watched)

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=60
        )
        await client.set('key', 'value')
        for _ in range(3):
            looked.clear()
            calls = [client.get('key') for _ in range(10_000)]
            assert len(looked) < 10
            found = await asyncio.gather(*calls)
            assert found == ['value'] * 2000 + [None] * 8000
        await client.close()

    asyncio.run(main())
