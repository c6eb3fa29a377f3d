"""Whatever ends a factory: all who wait are told, and the next computes."""

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import threading
import traceback

import faults
import pytest
import wire
from services import wait_until

from sprockets.clients import memcached

SECONDS = 30
"""Within this time a caller has been told."""

KEY = 'key'


class Outcome(BaseException):
    """What pytest.fail and pytest.skip raise is of this kind."""


class Picky(Exception):  # noqa: N818
    """An error that cannot be made again of its arguments."""

    def __init__(self, one, two):
        super().__init__(f'{one} and {two}')


def group():
    """Return what a task group raises, where there are such groups."""
    return BaseExceptionGroup('several', [Outcome(), ValueError()])


ENDS = [
    Outcome,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
    group,
    ValueError,
]

WAYS = ['get_or_set', 'stale', 'cached', 'cached stale', 'coroutine']


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def expire(address):
    """Let the time of the key pass; what is left is for serving it stale."""
    assert wire.ask(address, f'touch {KEY} 30\r\n'.encode()) == b'TOUCHED\r\n'


def awaited(client, way, factory):
    """Return what asks for the value, in some way."""
    options = {'stale': 60} if 'stale' in way else {}
    if 'cached' in way:

        @memcached.cached(60, client=client, key=KEY, **options)
        async def load():
            return factory()

        return lambda: asyncio.ensure_future(load())

    async def coroutine():
        await asyncio.sleep(0)
        return factory()

    given = coroutine if way == 'coroutine' else factory
    return lambda: client.get_or_set(KEY, given, 60, **options)


async def told(calls):
    """Wait until all are over, and return what they were told."""
    done, late = await asyncio.wait(calls, timeout=SECONDS)
    assert not late
    assert len(done) == len(calls)
    return [
        asyncio.CancelledError() if call.cancelled() else call.exception()
        for call in calls
    ]


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('way', WAYS)
def test_awaiting_callers_are_told(address, way, end):
    """Each of them; then the lease is free for the next one."""

    async def main():
        client = memcached.AsyncClient(servers=address)

        def factory():
            raise end()

        ask = awaited(client, way, factory)
        for error in await told([ask() for _ in range(3)]):
            assert isinstance(error, BaseException)
            if end is StopIteration:
                assert isinstance(error, RuntimeError)
            else:
                assert type(error) is type(end())
        value = client.get_or_set(KEY, lambda: 'next', 60, default='leased')
        assert await asyncio.wait_for(value, SECONDS) == 'next'
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('end', [Outcome, GeneratorExit, group])
def test_who_joined_is_told(address, end):
    """Of a computation that another caller began."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()
        go_on = asyncio.Event()

        async def factory():
            computing.set()
            await go_on.wait()
            raise end()

        calls = [client.get_or_set(KEY, factory)]
        await computing.wait()
        calls += [client.get_or_set(KEY, factory) for _ in range(3)]
        await client.get('what-comes-behind-them')
        go_on.set()
        errors = await told(calls)
        assert {type(error) for error in errors} == {type(end())}
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('end', [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize('way', WAYS)
def test_what_ends_the_loop_leaves_nobody_waiting(address, way, end):
    """A loop that goes on after it finds them told, and the lease free."""
    loop = asyncio.new_event_loop()
    client = memcached.AsyncClient(servers=address)
    calls = []

    def factory():
        raise end()

    async def first():
        ask = awaited(client, way, factory)
        calls.extend(ask() for _ in range(3))
        await asyncio.gather(*calls)

    async def rest():
        value = client.get_or_set(KEY, lambda: 'next', 60, default='leased')
        assert await asyncio.wait_for(value, SECONDS) == 'next'
        await client.close()

    with pytest.raises(end):
        loop.run_until_complete(first())
    # A task that awaits such a call ends the loop itself.
    for _ in range(10):
        with contextlib.suppress(end):
            loop.run_until_complete(told(calls))
            break
    loop.run_until_complete(rest())
    loop.close()


def test_a_computation_cancelled_from_outside(address):
    """As the end of a loop does it: its caller is told, others compute."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        mine = {asyncio.current_task()}
        computing = asyncio.Event()

        async def factory():
            computing.set()
            await asyncio.Event().wait()

        call = client.get_or_set(KEY, factory)
        await computing.wait()
        for task in asyncio.all_tasks() - mine:
            task.cancel()
        (error,) = await told([call])
        assert isinstance(error, asyncio.CancelledError)
        value = client.get_or_set(KEY, lambda: 'next', 60)
        assert await asyncio.wait_for(value, SECONDS) == 'next'
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('end', [*ENDS, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize('options', [{}, {'stale': 60}])
def test_a_thread_gets_what_its_factory_raises(address, options, end):
    """As it is; then the lease is free for the next one."""
    client = memcached.Client(servers=address)

    def factory():
        raise end()

    with pytest.raises(type(end())):
        client.get_or_set(KEY, factory, 60, **options)
    assert client.get_or_set(KEY, lambda: 'next', default='leased') == 'next'
    client.disconnect_all()


@pytest.mark.parametrize('end', [*ENDS, KeyboardInterrupt, SystemExit])
def test_update_raises_what_its_function_raises(connect, address, end):
    """And the next update is made."""
    client = connect(address)

    def function(_):
        raise end()

    expected = type(end())
    if end is StopIteration and hasattr(client.client, 'close'):
        expected = RuntimeError
    with pytest.raises(expected):
        client.update(KEY, function)
    if end in (KeyboardInterrupt, SystemExit):
        # Up to Python 3.11 wait_for has a task of its own, which hands it on
        # once more.
        with contextlib.suppress(end):
            client.get(KEY)
    assert client.update(KEY, lambda _: 1) == 1


@pytest.mark.parametrize('end', [Outcome, GeneratorExit])
def test_a_stale_value_is_served_whatever_ends_its_factory(address, end):
    """Nobody waits for the awaited one, so that it is logged."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.get_or_set(KEY, lambda: 'old', 60, stale=60)
        await asyncio.to_thread(expire, address)

        def factory():
            raise end()

        assert await client.get_or_set(KEY, factory, 60, stale=60) == 'old'
        while await client.get(KEY) == 'old':
            value = await client.get_or_set(KEY, lambda: 'new', 60, stale=60)
            assert value in ('old', 'new')
        await client.close()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_an_error_in_serializing_is_told(address):
    """It is the value's own code, which may raise anything."""

    class Value:
        def __reduce__(self):
            raise Outcome

    async def main():
        client = memcached.AsyncClient(servers=address)
        (error,) = await told([client.get_or_set(KEY, Value)])
        assert isinstance(error, Outcome)
        value = client.get_or_set(KEY, lambda: 'next', default='leased')
        assert await asyncio.wait_for(value, SECONDS) == 'next'
        await client.close()

    asyncio.run(main())


# What is left behind


@pytest.mark.parametrize('options', [{}, {'stale': 60}])
@pytest.mark.parametrize('asynchronous', [False, True])
def test_an_awaited_failure_leaves_no_cycles(address, options, asynchronous):
    """The collector has nothing to find."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        numbers = itertools.count()

        def fail():
            raise ValueError

        async def fail_later():
            raise ValueError

        factory = fail_later if asynchronous else fail

        async def call():
            with contextlib.suppress(ValueError):
                await client.get_or_set(
                    f'{KEY}{next(numbers)}', factory, 60, **options
                )

        for _ in range(3):
            await call()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await call()
            # The last tasks end a little later.
            for _ in range(5):
                await client.get('what-comes-behind-them')
            assert gc.collect() < 20 * 10
        finally:
            gc.enable()
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize('options', [{}, {'stale': 60}])
def test_a_failure_in_a_thread_leaves_no_cycles(address, options):
    """Likewise."""
    client = memcached.Client(servers=address)

    def fail():
        raise ValueError

    def call():
        with contextlib.suppress(ValueError):
            client.get_or_set(KEY, fail, 60, **options)

    for _ in range(3):
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call()
        assert gc.collect() < 20 * 10
    finally:
        gc.enable()
    client.disconnect_all()


@pytest.mark.parametrize(
    'make',
    [
        lambda: ValueError('no'),
        lambda: Picky(1, 2),
        lambda: OSError(1, 'one'),
    ],
    ids=['plain', 'picky', 'two'],
)
def test_threads_that_wait_have_tracebacks_of_their_own(address, make):
    """As long as for one thread, however many they are."""
    client = memcached.Client(servers=address)
    threads = 40
    computing = threading.Event()
    go_on = threading.Event()

    def factory():
        computing.set()
        assert go_on.wait(SECONDS)
        raise make()

    def call():
        try:
            client.get_or_set(KEY, factory)
        except Exception as caught:  # noqa: BLE001
            frames = traceback.extract_tb(caught.__traceback__)
            return type(caught), str(caught), [f.name for f in frames]

    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        calls = [executor.submit(call)]
        assert computing.wait(SECONDS)
        misses = int(wire.statistics(address)['get_misses'])
        calls += [executor.submit(call) for _ in range(threads - 1)]
        wait_until(
            lambda: (
                int(wire.statistics(address)['get_misses'])
                >= misses + threads - 1
            )
        )
        go_on.set()
        results = [call.result(SECONDS) for call in calls]
    for kind, words, names in results:
        assert (kind, words) == (type(make()), str(make()))
        assert 'factory' in names
        # An error that cannot be copied is shared.
        if kind is not Picky:
            assert names.count('call') == 1
        assert len(names) < 40
    client.disconnect_all()


def test_a_loop_that_ends_says_nothing(address, capfd):
    """Whatever was being looked up, computed or updated in it."""
    client = memcached.AsyncClient(servers=address)

    async def main(silent):
        computing = asyncio.Event()

        async def factory(_=None):
            computing.set()
            await asyncio.Event().wait()

        asks = [awaited(client, way, factory) for way in WAYS[:2]]
        calls = [ask() for ask in asks]
        calls.append(client.get_or_set('another', factory, 60))
        calls.append(asyncio.ensure_future(client.update('number', factory)))
        await computing.wait()
        # Of a task that has not begun, Python itself says something: so all
        # begin, and what is asked last is not answered.
        for _ in range(5):
            await client.get('what-comes-behind-them')
        await silent.get('first')
        calls.append(silent.get_or_set('last', factory, 60, stale=60))
        calls.append(silent.get_or_set('late', factory, 60))

    async def others(silent):
        await silent.get('first')
        return silent.get_or_set('other', int)

    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    with faults.ScriptedServer([b'END\r\n']) as server:
        silent = memcached.AsyncClient(servers=server.address)
        try:
            for work in (main, others):
                loop = asyncio.new_event_loop()
                loop.run_until_complete(work(silent))
                loop.close()
                del loop
                gc.collect()
        finally:
            logging.getLogger('asyncio').setLevel(logging.NOTSET)
        asyncio.run(main(silent))
        gc.collect()
    assert capfd.readouterr().err == ''
