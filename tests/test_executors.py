"""A given executor: whatever it does with a job, nothing is lost for good."""

import asyncio
import concurrent.futures
import contextlib
import queue
import threading

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer


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


class Moody(concurrent.futures.ThreadPoolExecutor):
    """An executor that does with a job what a test says."""

    def __init__(self, workers=8):
        super().__init__(workers)
        self.mood = None

    def submit(self, *args, **kwargs):
        if self.mood is None:
            return super().submit(*args, **kwargs)
        return self.mood()


def refuse(kind):
    def submit():
        raise kind('no more')

    return submit


def cancelled():
    future = concurrent.futures.Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


REFUSALS = {
    'full': refuse(queue.Full),
    'shut down': refuse(RuntimeError),
    'odd': refuse(ArithmeticError),
    'cancels at once': cancelled,
    'forgets': concurrent.futures.Future,
}


def is_up(client):
    """Whether a client takes its only server for one that is up."""
    return client._engine.cluster.endpoints[0].down_since is None


@pytest.mark.parametrize('name', REFUSALS)
def test_a_job_that_is_refused_fails_its_calls_alone(server, name):
    """As often as there may be batches in flight, and more; then all is well.

    The server is not to blame.

    """

    async def main():
        with Moody() as executor:
            client = memcached.AsyncClient(
                servers=server.address,
                executor=executor,
                socket_timeout=0.5,
                max_connections=2,
            )
            executor.mood = REFUSALS[name]
            for _ in range(5):
                assert not await client.set('key', 'value')
            assert is_up(client)
            executor.mood = None
            for _ in range(5):
                assert await client.set('key', 'value')
            assert await client.get('key') == 'value'
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('name', REFUSALS)
def test_what_the_loop_began_is_ended_where_no_thread_is_had(name):
    """A large value takes a thread; its connection is closed, not leaked."""
    value = 'x' * 4_000_000

    async def main(address):
        with Moody() as executor:
            client = memcached.AsyncClient(
                servers=address,
                executor=executor,
                socket_timeout=0.5,
                server_max_value_length=len(value),
            )
            assert await client.set('key', value)
            executor.mood = REFUSALS[name]
            for _ in range(5):
                assert await client.get('key', 'default') == 'default'
            (endpoint,) = client._engine.cluster.endpoints
            assert is_up(client)
            assert endpoint.connections <= 1
            executor.mood = None
            assert await client.get('key') == value
            await client.close()
            assert endpoint.connections == 0

    with MemcachedServer('-I', '8m') as server:
        asyncio.run(main(server.address))


def test_an_executor_that_is_shut_down_with_jobs_waiting(server):
    """Other clients of the server do not miss what those held."""
    release = threading.Event()

    async def main():
        executor = concurrent.futures.ThreadPoolExecutor(9)
        for _ in range(9):
            executor.submit(release.wait)
        client = memcached.AsyncClient(
            servers=server.address, executor=executor, max_connections=4
        )
        calls = []
        for number in range(4):
            calls.append(client.set(f'key{number}', number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        executor.shutdown(wait=False, cancel_futures=True)
        # At once, and not when their time is over.
        results = await asyncio.wait_for(asyncio.gather(*calls), 2)
        assert not any(results)
        release.set()
        other = memcached.AsyncClient(servers=server.address)
        for _ in range(8):
            assert await other.set('key', 1)
        await client.close()
        await other.close()

    try:
        asyncio.run(main())
    finally:
        release.set()


def test_loops_that_end_in_the_middle_leave_the_executor_its_threads(
    server, hung
):
    """One after another, more than it has threads."""
    with concurrent.futures.ThreadPoolExecutor(2) as executor:

        async def leave():
            client = memcached.AsyncClient(
                servers=hung.address,
                executor=executor,
                socket_timeout=0.05,
                dead_retry=0,
            )
            client.get('key')
            await asyncio.sleep(0.001)

        async def use():
            client = memcached.AsyncClient(
                servers=server.address, executor=executor
            )
            assert await client.set('key', 'value')
            await client.close()

        for _ in range(20):
            asyncio.run(leave())
        asyncio.run(use())


async def set_and_get(client):
    assert await client.set('key', 'value')
    assert await client.get('key') == 'value'


@pytest.mark.parametrize(
    'submit',
    [REFUSALS['full'], REFUSALS['cancels at once'], refuse(KeyboardInterrupt)],
    ids=['full', 'cancels at once', 'interrupted'],
)
def test_a_loop_that_ends_where_a_job_is_refused(server, submit):
    """Its share of the executor is there for others, though it never turns."""
    refused = []

    def mood():
        refused.append(True)
        return submit()

    with Moody(1) as executor:
        client, other = (
            memcached.AsyncClient(servers=server.address, executor=executor)
            for _ in range(2)
        )
        executor.mood = mood
        loop = asyncio.new_event_loop()

        async def ask():
            return client.set('key', 'value')

        task = loop.create_task(ask())
        while not refused:
            # Once around.
            loop.call_soon(loop.stop)
            with contextlib.suppress(KeyboardInterrupt):
                loop.run_forever()
        executor.mood = None
        loop.close()

        # Another client: its own is told of the end where it is used again.
        asyncio.run(set_and_get(other))
        assert task.done()
        asyncio.run(other.close())
        asyncio.run(client.close())


def test_a_loop_that_rests_keeps_nobody_from_the_executor(server, hung):
    """Its calls wait for a thread, and it does not run."""
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        rests = asyncio.new_event_loop()

        async def begin():
            slow, waiting = (
                memcached.AsyncClient(
                    servers=address,
                    executor=executor,
                    socket_timeout=0.3,
                    dead_retry=0,
                )
                for address in (hung.address, server.address)
            )
            slow.get('key')
            await asyncio.to_thread(hung.wait_for, lambda: hung.connections)
            waiting.get('key')
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return slow, waiting

        async def use():
            client = memcached.AsyncClient(
                servers=server.address, executor=executor
            )
            for _ in range(5):
                assert await client.set('key', 'value')
            await client.close()

        try:
            kept = rests.run_until_complete(begin())
            asyncio.run(use())
            for client in kept:
                rests.run_until_complete(client.close())
            rests.run_until_complete(rests.shutdown_default_executor())
        finally:
            rests.close()


def test_clients_are_made_while_others_use_the_executor(server):
    """What is known of the executor's users is read and written at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        going = threading.Event()
        going.set()

        def make():
            while going.is_set():
                memcached.AsyncClient(
                    servers=server.address, executor=executor
                )

        async def use():
            # A call for which a thread is needed looks at them.
            for _ in range(300):
                client = memcached.AsyncClient(
                    servers=server.address, executor=executor
                )
                assert await client.set('key', 'value')
                client._engine.cluster.endpoints[0].disconnect()

        maker = threading.Thread(target=make)
        maker.start()
        try:
            asyncio.run(use())
        finally:
            going.clear()
            maker.join()


@pytest.mark.skipif(
    not hasattr(concurrent.futures, 'InterpreterPoolExecutor'),
    reason='it is new in Python 3.14',
)
def test_interpreters_are_no_threads():
    """A job cannot get there: that is said when the client is made."""
    with (
        concurrent.futures.InterpreterPoolExecutor(1) as executor,
        pytest.raises(TypeError, match='executor of threads'),
    ):
        memcached.AsyncClient(executor=executor)


@pytest.mark.parametrize('stale', [0, 60])
def test_a_large_value_for_more_callers_than_there_are_threads(server, stale):
    """Each gets its own, one after another, and nobody waits for ever."""

    async def main():
        with concurrent.futures.ThreadPoolExecutor(3) as executor:
            client = memcached.AsyncClient(
                servers=server.address, executor=executor, socket_timeout=5
            )
            value = ['x' * 100_000]
            for _ in range(2):
                calls = [
                    client.get_or_set('key', lambda: value, 60, stale=stale)
                    for _ in range(12)
                ]
                got = await asyncio.wait_for(asyncio.gather(*calls), 10)
                assert got == [value] * 12
                assert len({id(each) for each in got}) == 12
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('stale', [0, 60])
def test_a_large_value_where_no_thread_is_to_be_had(server, stale):
    """The loop is held up rather than the value lost."""

    async def main():
        with Moody() as executor:
            client = memcached.AsyncClient(
                servers=server.address, executor=executor
            )
            value = ['x' * 100_000]
            await client.get_or_set('key', lambda: value, 60, stale=stale)
            await client.delete('key')
            executor.mood = refuse(queue.Full)
            calls = [
                client.get_or_set('key', lambda: value, 60, stale=stale)
                for _ in range(6)
            ]
            assert await asyncio.gather(*calls) == [value] * 6
            executor.mood = None
            await client.close()

    asyncio.run(main())
