"""What AsyncClient promises, against a real memcached."""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import socket
import threading
import time
import tracemalloc
import weakref

import memcache
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.loop import batches
from sprockets.clients.memcached.testing import MemcachedServer


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


@contextlib.asynccontextmanager
async def connected(*servers, **options):
    client = memcached.AsyncClient(
        servers=','.join(server.address for server in servers), **options
    )
    try:
        yield client
    finally:
        await client.close()


async def statistic(client, name):
    ((_, statistics),) = await client.get_stats()
    return int(statistics[name])


@contextlib.contextmanager
def lag():
    """Give a list that holds the longest time the loop did not turn."""
    worst = [0.0]
    loop = asyncio.get_running_loop()
    last = time.perf_counter()
    handle = None

    def look():
        nonlocal last, handle
        now = time.perf_counter()
        worst[0] = max(worst[0], now - last)
        last = now
        handle = loop.call_later(0.001, look)

    look()
    yield worst
    look()
    handle.cancel()


# One at a time


def test_methods_return_futures(server):
    """Each call returns a future, so that gather makes no tasks."""

    async def main():
        async with connected(server) as client:
            before = len(asyncio.all_tasks())
            calls = [
                client.set('a', 1),
                client.get('a'),
                client.gets('a'),
                client.get_multi(['a']),
                client.set_multi({'b': 2}),
                client.incr('a'),
                client.delete('b'),
                client.touch('a', 10),
                client.get_stats(),
            ]
            assert all(type(call) is type(calls[0]) for call in calls)
            assert all(asyncio.isfuture(call) for call in calls)
            await asyncio.gather(*calls)
            assert len(asyncio.all_tasks()) == before

    asyncio.run(main())


def test_every_method_of_the_blocking_client(server):
    """The awaitable client gives what the blocking one gives."""
    calls = [
        ('set', 'a', 'text'),
        ('get', 'a'),
        ('get', 'none', 'default'),
        ('add', 'a', 1),
        ('add', 'n', 5),
        ('replace', 'a', b'bytes'),
        ('replace', 'none', 1),
        ('append', 'a', b'!'),
        ('prepend', 'a', b'?'),
        ('get', 'a'),
        ('incr', 'n', 7),
        ('decr', 'n', 100),
        ('incr', 'none'),
        ('incr', 'n', 1, True),
        ('gets', 'n'),
        ('cas', 'n', [1, 2]),
        ('get', 'n'),
        ('touch', 'n', 100),
        ('touch', 'none', 100),
        ('set_multi', {'x': 1, 2: 'two'}, 0, 'p-'),
        ('get_multi', ['x', 2, 'y'], 'p-'),
        ('get_multi', [1, '1']),
        ('delete_multi', ['x', 'y'], None, 'p-'),
        ('delete', 'a'),
        ('delete', 'a'),
        ('get_slabs',),
        ('get_stats', 'reset'),
        ('forget_dead_hosts',),
        ('disconnect_all',),
        ('quit_all',),
        ('reset_cas',),
        ('flush_all',),
        ('get', 'n'),
    ]
    blocking = memcached.Client(servers=server.address)
    wanted = [getattr(blocking, name)(*rest) for name, *rest in calls]
    server.restart()

    async def main():
        async with connected(server) as client:
            return [
                await getattr(client, name)(*rest) for name, *rest in calls
            ]

    got = asyncio.run(main())
    for call, ours, theirs in zip(calls, got, wanted, strict=True):
        if call[0] != 'get_slabs':
            assert ours == theirs, call
        else:
            assert [n for n, _ in ours] == [n for n, _ in theirs]


def test_bad_arguments_raise_at_once(server):
    """What is wrong with a call raises in the call and sends nothing."""

    async def main():
        async with connected(server) as client:
            before = await statistic(client, 'cmd_set')
            for call, error in [
                (lambda: client.get('a b'), memcache.Client.MemcachedKeyError),
                (lambda: client.get(None), memcache.Client.MemcachedKeyError),
                (lambda: client.get(''), memcache.Client.MemcachedKeyError),
                (
                    lambda: client.get('k' * 251),
                    memcache.Client.MemcachedKeyLengthError,
                ),
                (
                    lambda: client.set('k\n', 1),
                    memcache.Client.MemcachedKeyCharacterError,
                ),
                (lambda: client.set('k', 1, 'soon'), ValueError),
                (lambda: client.set('k', 1, 2**63), ValueError),
                (lambda: client.incr('k', -1), ValueError),
                (lambda: client.touch('k', '0\r\nflush_all'), ValueError),
                (lambda: client.delete('k', 10), ValueError),
                (lambda: client.get_stats('a\r\nflush_all'), ValueError),
                (lambda: client.cas('k', 1), RuntimeError),
                (lambda: client.set('k', threading.Lock()), TypeError),
                (
                    lambda: client.set_multi({'a': 1, 'k': threading.Lock()}),
                    TypeError,
                ),
            ]:
                with pytest.raises(error):
                    call()
            assert await statistic(client, 'cmd_set') == before

    asyncio.run(main())


def test_refused_statistics(server):
    """An argument that memcached refuses is a ValueError."""

    async def main():
        async with connected(server) as client:
            with pytest.raises(ValueError, match='usage'):
                await client.get_stats('detail nonsense')
            assert await client.set('k', 1)

    asyncio.run(main())


# Batches


def test_reads_of_a_turn_travel_as_one_get(server):
    """Many callers' reads in one turn are one command to the server."""

    async def main():
        async with connected(server) as client:
            await client.set_multi({f'k{n}': n for n in range(100)})
            before = await statistic(client, 'cmd_get')
            values = await asyncio.gather(
                *[client.get(f'k{n % 100}') for n in range(300)]
            )
            assert values == [n % 100 for n in range(300)]
            # memcached counts keys: callers of the same key share one.
            assert await statistic(client, 'cmd_get') - before == 100

    asyncio.run(main())


@pytest.mark.parametrize('place', [0, 1, 4])
@pytest.mark.parametrize('spoilt', [False, True])
def test_values_of_any_kind_are_read_in_one_turn(server, place, spoilt):
    """Each as it was stored; one that cannot be read is a miss, alone."""
    values = [7, 'text', b'bytes', -(2**70), 'schl\u00fcssel', '', 0, b'']
    keys = [f'key{number}' for number in range(len(values))]

    async def main():
        async with connected(server) as client:
            await client.set_multi(dict(zip(keys, values, strict=True)))
            expected = [*values]
            if spoilt:
                _spoil(server, keys[place])
                expected[place] = None
            for _ in range(2):
                found = await asyncio.gather(*map(client.get, keys))
                assert found == expected
                assert [*map(type, found)] == [*map(type, expected)]
            # Two want each.
            found = await asyncio.gather(*map(client.get, keys * 2))
            assert found == expected * 2

    asyncio.run(main())


def _spoil(server, key):
    """Store text under a key that is none."""
    with socket.create_connection((server.host, server.port)) as there:
        there.sendall(b'set %b 16 0 2\r\n\xff\xfe\r\n' % key.encode())
        assert there.recv(100) == b'STORED\r\n'


def test_a_read_sees_the_write_called_before_it(server):
    """Writes of a turn go before its reads, in the order of the calls."""

    async def main():
        async with connected(server) as client:
            calls = []
            for n in range(200):
                calls += [client.set('k', n), client.get('k')]
            calls += [client.append('t', 'x'), client.set('t', 'a')]
            calls += [client.append('t', 'b'), client.append('t', 'c')]
            calls += [client.get('t'), client.get_multi(['t', 'k'])]
            calls += [client.gets('t')]
            results = await asyncio.gather(*calls)
            assert results[1:400:2] == [199] * 200
            assert results[400:404] == [False, True, True, True]
            assert results[404:] == ['abc', {'t': 'abc', 'k': 199}, 'abc']

    asyncio.run(main())


def test_more_than_a_batch_keeps_the_order(server):
    """A read sees the write before it even when they are batches apart."""

    async def main():
        async with connected(server, socket_timeout=30) as client:
            number = batches.MAX_CALLS * 3 + 7
            writes = [client.set('k', n) for n in range(number)]
            large = [
                client.set(f'large{n}', bytes(100_000)) for n in range(20)
            ]
            value = client.get('k')
            last = client.get('large19')
            assert all(await asyncio.gather(*writes, *large))
            assert await value == number - 1
            assert await last == bytes(100_000)

    asyncio.run(main())


def test_read_your_own_write_under_load(server):
    """Whoever awaited a write reads that value or a newer one."""

    async def main():
        async with connected(server) as client:

            async def writer(name):
                for n in range(50):
                    assert await client.set(name, n)
                    assert await client.get(name) == n
                    assert await client.incr(name) == n + 1
                    assert (await client.get_multi([name]))[name] == n + 1

            async def reader(name):
                last = -1
                for _ in range(100):
                    value = await client.get(name, -1)
                    assert value >= last - 1
                    last = value

            await asyncio.gather(
                *[writer(f'k{n}') for n in range(64)],
                *[reader(f'k{n}') for n in range(64)],
            )

    asyncio.run(main())


def test_callers_of_a_key_share_no_mutable_value(server):
    """Two who read the same list at once get a list each."""

    async def main():
        async with connected(server) as client:
            await client.set('list', [1])
            one, two = await asyncio.gather(
                client.get('list'), client.get('list')
            )
            one.append(2)
            assert two == [1]
            one, two = (
                await client.get_multi([('list'), (0, 'list')])
            ).values()
            one.append(2)
            assert two == [1]

    asyncio.run(main())


def test_a_cancelled_caller_leaves_the_others_alone(server):
    """Cancelling and timing out touch neither batch nor connection."""

    async def main():
        async with connected(server) as client:
            await client.set_multi({f'k{n}': n for n in range(50)})
            before = await statistic(client, 'total_connections') + 4
            for _ in range(20):
                tasks = [
                    asyncio.ensure_future(_get(client, f'k{n}'))
                    for n in range(50)
                ]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.get('k1'), 0)
                assert await asyncio.gather(*tasks[1::2]) == list(
                    range(1, 50, 2)
                )
            assert await statistic(client, 'total_connections') <= before

    asyncio.run(main())


async def _get(client, key):
    return await client.get(key)


def test_an_undecodable_value_fails_alone(server, caplog):
    """A value that is garbage is a miss; its neighbours arrive."""
    planted = memcache.Client([server.address])
    planted.set('good', 'value')
    planted._val_to_store_info = lambda value, _: (16, 2, b'\xff\xfe')
    planted.set('bad', '')
    planted._val_to_store_info = lambda value, _: (1, 3, b'...')
    planted.set('worse', '')
    planted.disconnect_all()

    async def main():
        async with connected(server) as client:
            before = await statistic(client, 'total_connections')
            assert await asyncio.gather(
                client.get('bad', 'default'),
                client.get('good'),
                client.get('worse'),
                client.get_multi(['worse', 'good', 'bad']),
            ) == ['default', 'value', None, {'good': 'value'}]
            assert await statistic(client, 'total_connections') == before

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert 'taken for a miss' in caplog.text


# Scopes


def test_150_requests_that_each_add_one(server):
    """gets and cas of concurrent scopes lose nothing."""

    async def add(client):
        scope = client.scope()
        while True:
            value = await scope.gets('n')
            if await scope.cas('n', (value or 0) + 1):
                return

    async def main():
        async with connected(server) as client:
            await asyncio.gather(*[add(client) for _ in range(150)])
            assert await client.get('n') == 150

    asyncio.run(main())


def test_cas_after_nothing_stores_only_if_there_is_still_nothing(server):
    async def main():
        async with connected(server) as client:
            one, two = client.scope(), client.scope()
            assert await one.gets('k') is None
            assert await two.gets('k') is None
            assert await two.cas('k', 'two')
            assert not await one.cas('k', 'one')
            assert await client.get('k') == 'two'

    asyncio.run(main())


def test_a_token_serves_once(server):
    """A second cas after one gets raises, as does one without any."""

    async def main():
        async with connected(server) as client:
            scope = client.scope()
            with pytest.raises(RuntimeError, match='without gets'):
                scope.cas('k', 1)
            await scope.gets('k')
            assert await scope.cas('k', 1)
            with pytest.raises(RuntimeError, match='without gets'):
                scope.cas('k', 2)
            with pytest.raises(RuntimeError, match='without gets'):
                client.scope().cas('k', 2)

    asyncio.run(main())


def test_gets_of_the_client_belong_to_the_task(server):
    """Without a scope it is each task that has its own tokens."""

    async def add(client):
        while True:
            value = await client.gets('n')
            if await client.cas('n', (value or 0) + 1):
                return

    async def main():
        async with connected(server) as client:
            await asyncio.gather(*[add(client) for _ in range(50)])
            assert await client.get('n') == 50

    asyncio.run(main())


def test_a_token_does_not_outlive_its_server(server):
    """After a restart the same cas unique may be another value's."""

    async def main():
        async with connected(server) as client:
            scope = client.scope()
            await client.set('k', 'old')
            await scope.gets('k')
            server.restart()
            async with connected(server) as other:
                await other.set('k', 'new')
            assert not await scope.cas('k', 'mine')
            assert await client.get('k') == 'new'

    asyncio.run(main())


def test_gets_without_an_answer_lets_no_cas_through(server):
    """cas does nothing where gets could not tell what there was."""

    async def main():
        async with connected(server, dead_retry=0) as client:
            scope = client.scope()
            server.kill()
            assert await scope.gets('k') is None
            server.start()
            assert not await scope.cas('k', 1)
            assert await client.get('k') is None

    asyncio.run(main())


# Failure


def test_down_is_a_miss(server, caplog):
    """No call raises when the server is gone; down is logged once."""

    async def main():
        async with connected(server) as client:
            await client.set('k', 1)
            server.kill()
            assert await client.get('k', 'default') == 'default'
            assert not await client.set('k', 1)
            assert await client.set_multi({'a': 1, 'b': 2}) == ['a', 'b']
            assert await client.get_multi(['a', 'b']) == {}
            assert await client.delete_multi(['a']) == 0
            assert await client.incr('k') is None
            assert await client.get_stats() == []
            await client.flush_all()
            server.start()
            await client.forget_dead_hosts()
            assert await client.set('k', 1)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    lines = [
        r.getMessage()
        for r in caplog.records
        if 'memcached server' in r.getMessage()
    ]
    assert len(lines) == 2
    assert server.address in lines[0]
    assert 'down' in lines[0]
    assert 'up' in lines[1]


def test_a_hung_server_holds_up_its_own_keys_only():
    """While 60 reads wait for a hung server, its neighbour answers."""
    with MemcachedServer() as hung, MemcachedServer() as healthy:

        async def main():
            async with connected(hung, healthy, socket_timeout=2) as client:
                await client.set((1, 'k'), 'here')
                await client.get((0, 'k'))
                hung.pause()
                with lag() as worst_lag:
                    waiting = [client.get((0, f'h{n}')) for n in range(60)]
                    waiting += [client.set((0, f's{n}'), n) for n in range(9)]
                    took = []
                    while not all(call.done() for call in waiting):
                        began = time.perf_counter()
                        assert await client.get((1, 'k')) == 'here'
                        took.append(time.perf_counter() - began)
                assert [call.result() for call in waiting[:60]] == [None] * 60
                # Less than a timeout at the worst, on a machine that is busy.
                assert sorted(took)[len(took) // 2] < 0.1
                assert max(took) < 1.5
                assert worst_lag[0] < 1.5
                hung.resume()

        asyncio.run(main())


@pytest.mark.parametrize(
    'call',
    [
        lambda client: client.get('k'),
        lambda client: client.add('k', 1),
        lambda client: client.get_multi(['k']),
        lambda client: client.get_or_set('k', lambda: None),
    ],
)
def test_who_only_awaits_a_dead_server_lets_the_loop_turn(server, call):
    """A loop of calls that fail at once does not stop everything else."""

    async def main():
        async with connected(server) as client:
            server.kill()
            await client.get('k')
            turned = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0, turned.set_result, None)
            for _ in range(100_000):
                if turned.done():
                    return
                assert not await call(client)
            raise AssertionError

    asyncio.run(main())


def test_the_timeout_is_paid_once():
    """After a server hung for one call, the next ones fail at once."""
    with MemcachedServer() as server:

        async def main():
            async with connected(server, socket_timeout=2) as client:
                await client.set('k', 1)
                server.pause()
                assert await client.get('k') is None
                began = time.perf_counter()
                assert (
                    await asyncio.gather(
                        *[client.get('k') for _ in range(100)]
                    )
                    == [None] * 100
                )
                assert time.perf_counter() - began < 1.5
                server.resume()

        asyncio.run(main())


def test_100_000_calls_to_a_server_that_hangs(request):
    """They end with the timeout, in bounded memory; the loop turns on."""
    if request.config.getoption('--loop') == 'debug':
        pytest.skip('in debug mode each future has a traceback')
    with MemcachedServer() as server:

        async def main():
            loop = asyncio.get_running_loop()
            ended = 0
            most_in_a_turn = 0

            def count(call):
                nonlocal ended
                ended += 1

            def turn(before):
                nonlocal most_in_a_turn
                most_in_a_turn = max(most_in_a_turn, ended - before)
                if ended < 100_000:
                    loop.call_soon(turn, ended)

            async with connected(server, socket_timeout=2) as client:
                await client.set('k', 1)
                server.pause()
                tracemalloc.start()
                try:
                    calls = [client.get(f'k{n}', n) for n in range(100_000)]
                    more = [client.get(f'm{n}', n) for n in range(30_000)]
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                assert peak < 300 * 1024 * 1024
                # One that is let in no more fails without waiting.
                await asyncio.sleep(0)
                assert more[-1].done()
                assert not calls[0].done()
                for call in calls:
                    call.add_done_callback(count)
                loop.call_soon(turn, 0)
                await asyncio.wait(calls)
                assert [call.result() for call in calls] == list(
                    range(100_000)
                )
                # Four batches are given up at once and then one in each
                # turn; what is counted may be a part of the next turn's too.
                assert most_in_a_turn <= 10 * batches.MAX_CALLS
                server.resume()

        asyncio.run(main())


def test_a_call_ends_though_no_thread_is_free():
    """Where others hold the executor's threads, a call still times out."""
    release = threading.Event()
    with (
        MemcachedServer() as server,
        concurrent.futures.ThreadPoolExecutor(2) as executor,
    ):
        for _ in range(2):
            executor.submit(release.wait)

        async def main():
            client = memcached.AsyncClient(
                servers=server.address, executor=executor, socket_timeout=0.3
            )
            began = time.perf_counter()
            try:
                assert await client.get('k', 'default') == 'default'
                assert time.perf_counter() - began < 2
                assert not await client.set('k', 1)
            finally:
                release.set()
            await client.close()

        asyncio.run(main())


def test_a_loop_that_was_blocked_blames_no_server(server, caplog):
    """A batch that came back in time counts, though the loop comes late."""

    async def main():
        async with connected(server, socket_timeout=0.2) as client:
            await client.set('k', 1)
            call = client.get('k')
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251
            assert await call == 1
            assert await client.get('k') == 1

    asyncio.run(main())
    assert 'down' not in caplog.text


def test_an_observer_that_raises_harms_nobody(server, caplog):
    """What goes wrong for one caller is logged; the others are told."""

    class Broken:
        def over(self, error, hits, misses, endpoint):
            raise ZeroDivisionError

    async def main():
        async with connected(server) as client:
            scope = client.scope(lambda method, keys: Broken())
            assert await asyncio.gather(
                scope.set('k', 1),
                client.get('k'),
                scope.get('k'),
                client.get('k'),
                client.get_multi(['k']),
            ) == [True, 1, 1, 1, {'k': 1}]

    asyncio.run(main())
    assert 'could not take its result' in caplog.text


def test_an_observer_is_told_of_a_part_that_failed(server):
    """Though other servers answered; without a failure there is no error."""

    async def main():
        errors = []

        class Observer:
            def over(self, error, hits, misses, endpoint=None):
                errors.append((type(error).__name__, hits, misses))

        client = memcached.AsyncClient(
            servers=[server.address, '127.0.0.1:1'], failover=False
        )
        scope = client.scope(lambda method, keys: Observer())
        there, away = (0, 'there'), (1, 'away')
        assert await scope.set_multi({there: 1}) == []
        assert await scope.get_multi([there, there]) == {there: 1}
        for _ in range(2):
            assert await scope.set_multi({there: 1, away: 2}) == [away]
            assert await scope.get_multi([there, away]) == {there: 1}
            assert not await scope.delete_multi([away, (0, 'none')])
        await client.close()
        assert errors[:2] == [('NoneType', 0, 0), ('NoneType', 1, 0)]
        assert {kind for kind, _, _ in errors[2:]} <= {
            *('ConnectionRefusedError', 'UnavailableError'),
        }

    asyncio.run(main())


# Executors and loops


@pytest.mark.parametrize('threads', [2, 4])
def test_a_shared_executor_is_not_starved(threads):
    """A hung server leaves a thread of the executor to others."""
    with (
        MemcachedServer() as server,
        concurrent.futures.ThreadPoolExecutor(threads) as executor,
    ):

        async def main():
            clients = [
                memcached.AsyncClient(
                    servers=server.address, executor=executor, socket_timeout=1
                )
                for _ in range(2)
            ]
            for client in clients:
                await client.set('k', 1)
            server.pause()
            calls = []
            for n in range(20):
                calls += [client.get(f'k{n}') for client in clients]
                await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            began = time.perf_counter()
            for _ in range(10):
                await loop.run_in_executor(executor, int)
            assert time.perf_counter() - began < 0.5
            assert not any(call.done() for call in calls)
            assert await asyncio.gather(*calls) == [None] * 40
            server.resume()
            for client in clients:
                await client.close()

        asyncio.run(main())


def test_a_shared_executor_works(server):
    """Many calls through an executor that is somebody else's."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:

        async def main():
            async with connected(
                server, executor=executor, socket_timeout=30
            ) as client:
                await asyncio.gather(
                    *[client.set(f'k{n}', n) for n in range(3000)]
                )
                assert await asyncio.gather(
                    *[client.get(f'k{n}') for n in range(3000)]
                ) == list(range(3000))
            # It is not shut down with the client.
            assert executor.submit(int).result() == 0

        asyncio.run(main())


@pytest.mark.parametrize(
    'executor',
    [
        'threads',
        concurrent.futures.ProcessPoolExecutor(1),
    ],
)
def test_an_executor_that_is_none(executor):
    with pytest.raises(TypeError, match='executor'):
        memcached.AsyncClient(executor=executor)


def test_many_clients_do_not_multiply_threads(server):
    """Clients of one server share its threads and connections."""

    async def main():
        clients = [
            memcached.AsyncClient(servers=server.address) for _ in range(20)
        ]
        before = {*threading.enumerate()}
        for _ in range(5):
            await asyncio.gather(*[c.set('k', 1) for c in clients])
            await asyncio.gather(*[c.get('k') for c in clients])
        assert len({*threading.enumerate()} - before) <= 4
        ((_, statistics),) = await clients[0].get_stats()
        # memcached counts its listening socket too.
        assert int(statistics['curr_connections']) <= 1 + 4
        for client in clients:
            await client.close()

    asyncio.run(main())


def test_connections_at_512_callers(server):
    """At most four connections, however many callers there are."""

    async def main():
        async with connected(server) as client:

            async def caller(n):
                for _ in range(5):
                    await client.set(f'k{n}', n)
                    assert await client.get(f'k{n}') == n

            await asyncio.gather(*[caller(n) for n in range(512)])
            assert await statistic(client, 'curr_connections') <= 1 + 4

    asyncio.run(main())


def test_one_loop_after_another(server):
    """A client made before any loop serves one loop after another."""
    client = memcached.AsyncClient(servers=server.address)

    async def main(n):
        assert await client.set('k', n)
        return await client.get('k')

    assert [asyncio.run(main(n)) for n in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match='no running event loop'):
        client.get('k')
    asyncio.run(client.close())


def test_close_answers_what_is_in_flight(server):
    """close() waits for calls, releases everything, lets no more in."""

    async def main():
        # Those of other tests may end meanwhile.
        before = {*threading.enumerate()}
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=30
        )
        scope = client.scope()
        calls = [client.set(f'k{n}', n) for n in range(2500)]
        reads = [client.get(f'k{n}') for n in range(2500)]
        await client.close()
        assert all(call.done() for call in calls + reads)
        assert all(call.result() for call in calls)
        assert [call.result() for call in reads] == list(range(2500))
        for call in (client.get, scope.get, client.gets, client.delete):
            with pytest.raises(RuntimeError, match='closed'):
                call('k')
        await client.close()
        assert {*threading.enumerate()} <= before

    asyncio.run(main())


def test_a_client_that_nobody_keeps_leaves_nothing(server):
    """Threads and connections go with the last client of a server."""
    before = {*threading.enumerate()}

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        await client.set('k', 1)
        return weakref.ref(client._engine.cluster.endpoints[0])

    endpoint = asyncio.run(main())
    deadline = time.monotonic() + 10
    # A thread may still be on its way back from its last batch.
    while (
        endpoint() is not None or {*threading.enumerate()} - before
    ) and time.monotonic() < deadline:
        gc.collect()
    assert endpoint() is None
    assert {*threading.enumerate()} <= before


def test_a_forked_child_has_a_way_of_its_own(server):
    """A client used before a fork works in parent and child."""
    client = memcached.AsyncClient(servers=server.address)

    async def work(name):
        assert await client.set(name, name)
        for _ in range(200):
            assert await client.get(name) == name
        return True

    assert asyncio.run(work('before'))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            status = 0 if asyncio.run(work('child')) else 1
        os._exit(status)
    assert asyncio.run(work('parent'))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    asyncio.run(client.close())


# Values of any size and number


def test_large_values_and_small_ones(server):
    """Values of every size arrive whole, side by side."""

    async def main():
        async with connected(server) as client:
            sizes = [0, 1, 2, 4095, 65_535, 65_536, 262_144, 1_000_000]
            await asyncio.gather(
                *[client.set(f'k{n}', b'x' * n) for n in sizes]
            )
            for _ in range(3):
                values = await asyncio.gather(
                    *[client.get(f'k{n}') for n in sizes * 4]
                )
                assert [len(value) for value in values] == sizes * 4

    asyncio.run(main())


def test_set_multi_and_get_multi_of_any_number(server):
    async def main():
        async with connected(server) as client:
            mapping = {f'key{n}': n for n in range(20_000)}
            assert await client.set_multi(mapping) == []
            assert await client.get_multi(mapping) == mapping
            assert await client.delete_multi(mapping) == 1
            assert await client.get_multi(mapping) == {}
            assert await client.get_multi([]) == {}
            assert await client.set_multi({}) == []
            assert await client.delete_multi([]) == 1

    asyncio.run(main())


def test_many_servers(server):
    """Keys of several servers, one of which is gone, find their way."""
    with MemcachedServer() as two, MemcachedServer() as three:

        async def main():
            async with connected(server, two, three) as client:
                mapping = {f'k{n}': n for n in range(500)}
                assert await client.set_multi(mapping) == []
                assert await client.get_multi(mapping) == mapping
                plain = memcache.Client(
                    [server.address, two.address, three.address]
                )
                assert plain.get_multi(mapping) == mapping
                plain.disconnect_all()
                two.kill()
                values = await asyncio.gather(*map(client.get, mapping))
                assert 100 < values.count(None) < 300
                assert await client.set_multi(mapping) == []
                assert await asyncio.gather(*map(client.get, mapping)) == list(
                    mapping.values()
                )

        asyncio.run(main())
