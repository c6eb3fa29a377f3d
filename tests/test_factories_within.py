"""What a factory has started may ask for its value; it itself may not."""

import asyncio
import concurrent.futures
import contextvars
import threading

import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.once import nesting

SECONDS = 30

KEY = 'key'


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def run(work):
    return asyncio.run(asyncio.wait_for(work, SECONDS))


@pytest.mark.parametrize('way', ['get_or_set', 'stale', 'cached', 'update'])
def test_a_task_that_outlives_its_factory(address, way):
    """It computes the value anew like everybody else."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        tasks = []

        async def refresh():
            for _ in range(3):
                await over.wait()
                await client.delete(KEY)
                assert await ask() == 'value'

        async def factory(_=None):
            if not tasks:
                tasks.append(asyncio.ensure_future(refresh()))
            return 'value'

        load = memcached.cached(60, client=client, key=KEY)(factory)

        async def ask():
            if way == 'cached':
                return await load()
            if way == 'update':
                return await client.update(KEY, factory)
            options = {'stale': 60} if way == 'stale' else {}
            return await client.get_or_set(KEY, factory, 60, **options)

        over = asyncio.Event()
        assert await ask() == 'value'
        over.set()
        await tasks[0]
        await client.close()

    run(main())


@pytest.mark.parametrize('way', ['get_or_set', 'update'])
def test_a_task_that_asks_while_its_factory_is_at_it(address, way):
    """It gets the value, whether the factory is quick or slow."""

    async def main(seconds):
        client = memcached.AsyncClient(servers=address)
        await client.flush_all()
        tasks = []

        async def refresh():
            if way == 'update':
                return await client.update(KEY, lambda _: 'value')
            return await client.get_or_set(KEY, lambda: 'value')

        async def factory(_=None):
            if not tasks:
                tasks.append(asyncio.ensure_future(refresh()))
            await asyncio.sleep(seconds)
            return 'value'

        ask = client.update if way == 'update' else client.get_or_set
        assert await ask(KEY, factory) == 'value'
        assert await tasks[0] == 'value'
        await client.close()

    run(main(0.05))
    run(main(1.5))


def test_a_task_that_a_quick_factory_started_shares_its_value(address):
    """It is still computed once."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        calls = []
        tasks = []

        async def factory():
            calls.append(None)
            tasks.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(0.05)
            return 'value'

        async def ask():
            return await client.get_or_set(KEY, factory)

        assert await ask() == 'value'
        assert await tasks[0] == 'value'
        assert len(calls) == 1
        await client.close()

    run(main())


def in_gather(ask):
    async def inner():
        return await ask()

    return asyncio.gather(inner())


def in_task(ask):
    return asyncio.ensure_future(ask())


async def in_wait(ask):
    done, _ = await asyncio.wait([asyncio.ensure_future(ask())])
    return [task.result() for task in done]


def in_shield(ask):
    return asyncio.shield(in_task(ask))


async def directly(ask):
    return await ask()


@pytest.mark.parametrize(
    'how', [directly, in_gather, in_task, in_wait, in_shield]
)
@pytest.mark.parametrize('way', ['get_or_set', 'update', 'another between'])
def test_a_factory_that_waits_for_itself_is_told(address, how, way):
    """However it waits; and the next one computes."""

    async def main():
        client = memcached.AsyncClient(servers=address)

        async def factory(_=None):
            if way == 'another between':
                return await client.get_or_set('another', inner)
            return await how(ask)

        async def inner():
            return await how(ask)

        async def ask():
            if way == 'update':
                return await client.update(KEY, factory)
            return await client.get_or_set(KEY, factory)

        with pytest.raises(RuntimeError, match='itself'):
            await ask()
        value = client.get_or_set(KEY, lambda: 'next', default='leased')
        assert await value == 'next'
        await client.close()

    run(main())


@pytest.mark.parametrize('way', ['get_or_set', 'update'])
@pytest.mark.parametrize('seconds', [0, 1.5])
def test_a_thread_in_the_context_of_a_factory(address, way, seconds):
    """It gets the value after the factory, and while that is at it."""
    client = memcached.Client(servers=address)
    go_on = threading.Event()

    def elsewhere():
        assert go_on.wait(SECONDS)
        client.delete(KEY)
        ask = client.update if way == 'update' else client.get_or_set
        return ask(KEY, lambda _=None: 'value')

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        started = []

        def factory(_=None):
            if not started:
                context = contextvars.copy_context()
                started.append(executor.submit(context.run, elsewhere))
            if seconds:
                go_on.set()
                threading.Event().wait(seconds)
            return 'value'

        ask = client.update if way == 'update' else client.get_or_set
        assert ask(KEY, factory) == 'value'
        go_on.set()
        assert started[0].result(SECONDS) == 'value'
    client.disconnect_all()


@pytest.mark.parametrize('way', ['get_or_set', 'update'])
@pytest.mark.parametrize('elsewhere', [False, True])
def test_a_thread_that_waits_for_itself_is_told(address, way, elsewhere):
    """Through another thread as well, which knows its context."""
    client = memcached.Client(servers=address)
    function = client.update if way == 'update' else client.get_or_set

    with concurrent.futures.ThreadPoolExecutor(4) as executor:

        def factory(_=None):
            if not elsewhere:
                return function(KEY, factory)
            context = contextvars.copy_context()
            asked = executor.submit(context.run, function, KEY, factory)
            return asked.result(SECONDS)

        with pytest.raises(RuntimeError, match='itself'):
            function(KEY, factory)
    assert client.get_or_set(KEY, lambda: 1, default='leased') == 1
    client.disconnect_all()


def test_what_computes_for_itself_stores_nothing(address):
    """The one that computes for all does, and its lease stays its own."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        tasks = []

        async def refresh():
            return await client.get_or_set(KEY, lambda: 'its own')

        async def factory():
            tasks.append(asyncio.ensure_future(refresh()))
            assert await tasks[0] == 'its own'
            assert await client.get(KEY) is None
            return "everybody's"

        assert await client.get_or_set(KEY, factory) == "everybody's"
        await client.close()

    run(main())
    assert wire.stored(address, KEY)[1] == b"everybody's"


# Functions that want each other


def ring(count, decorate):
    """Return functions of which each wants the next one's value."""
    functions = []
    barrier = threading.Barrier(count)

    for place in range(count):

        @decorate(f'ring-{place}')
        def load(place=place):
            barrier.wait(SECONDS)
            return functions[(place + 1) % count]()

        functions.append(load)
    return functions


@pytest.mark.parametrize('count', [2, 3])
def test_threads_whose_functions_want_each_other_are_told(address, count):
    """They would wait until their leases end; nothing is stored."""
    client = memcached.Client(servers=address)

    def decorate(name):
        return memcached.cached(60, key=name, client=client, lease=600)

    functions = ring(count, decorate)
    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        asked = [executor.submit(function) for function in functions]
        for each in asked:
            with pytest.raises(RuntimeError, match='ask for each other'):
                each.result(SECONDS)
    for place in range(count):
        key = f'ring-{place}'
        assert client.get_or_set(key, lambda: 1, default='leased') == 1
    client.disconnect_all()


@pytest.mark.parametrize('count', [2, 3])
def test_threads_whose_updates_want_each_other_are_told(address, count):
    """Likewise: each has what the next one waits for."""
    client = memcached.Client(servers=address)
    barrier = threading.Barrier(count)
    first = threading.local()

    def update(place):
        def change(_):
            if not hasattr(first, 'done'):
                first.done = True
                barrier.wait(SECONDS)
            return update((place + 1) % count)

        return client.update(f'ring-{place}', change)

    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        for each in [executor.submit(update, n) for n in range(count)]:
            with pytest.raises(RuntimeError, match=r'each other|itself'):
                each.result(SECONDS)
    assert client.update('ring-0', lambda _: 'next') == 'next'
    client.disconnect_all()


def ways(client):
    """Return the ways to ask for a value, by what they are called."""

    def refresh(key, function):
        return memcached.cached(60, client=client, key=key, lease=600)(
            function
        ).refresh()

    return {
        'get_or_set': lambda key, function: client.get_or_set(
            key, function, 60, lease=600
        ),
        'stale': lambda key, function: client.get_or_set(
            key, function, 60, stale=60, lease=600
        ),
        'tags': lambda key, function: client.get_or_set(
            key, function, 60, tags=('tag',), lease=600
        ),
        'namespace': lambda key, function: client.namespace('n').get_or_set(
            key, function, 60, lease=600
        ),
        'update': client.update,
        'refresh': refresh,
    }


PAIRS = [
    ('get_or_set', 'get_or_set'),
    ('get_or_set', 'stale'),
    ('tags', 'namespace'),
    ('tags', 'tags'),
    ('update', 'update'),
    ('update', 'get_or_set'),
    ('refresh', 'get_or_set'),
    ('refresh', 'update'),
]


@pytest.mark.parametrize('how', [directly, in_gather, in_task])
@pytest.mark.parametrize('pair', PAIRS, ids='-'.join)
def test_tasks_whose_functions_want_each_other_are_told(address, pair, how):
    """Whatever they do to the other's value, and in whichever task."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        known = ways(client)
        begun = []
        both_begun = asyncio.Event()

        async def work(place):
            begun.append(place)
            if len({*begun}) == 2:
                both_begun.set()
            await both_begun.wait()
            return await how(lambda: ask(1 - place))

        def ask(place):
            return known[pair[place]](
                f'ring-{place}', lambda _=None: work(place)
            )

        results = await asyncio.gather(ask(0), ask(1), return_exceptions=True)
        for result in results:
            assert isinstance(result, RuntimeError)
            assert 'each other' in str(result) or 'itself' in str(result)
        for place, way in enumerate(pair):
            last = known[way](f'ring-{place}', lambda _=None: 'next')
            assert await last == 'next'
        await client.close()

    run(main())


@pytest.mark.parametrize('count', [2, 3])
def test_a_ring_of_functions_is_told(address, count):
    """By way of others as well, at once."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        begun = []
        all_begun = asyncio.Event()

        async def load(place):
            begun.append(place)
            if len(begun) == count:
                all_begun.set()
            await all_begun.wait()
            return await ask((place + 1) % count)

        def ask(place):
            return client.get_or_set(
                f'ring-{place}', lambda: load(place), 60, lease=600
            )

        results = await asyncio.gather(
            *map(ask, range(count)), return_exceptions=True
        )
        for result in results:
            assert isinstance(result, RuntimeError)
            assert 'ask for each other' in str(result)
        value = client.get_or_set('ring-0', lambda: 'next', default='leased')
        assert await value == 'next'
        await client.close()

    run(main())


def test_a_function_that_waits_for_several_is_told(address):
    """Though it is not the last one that it waits for which waits for it."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        go_on = asyncio.Event()
        asked = asyncio.Event()

        async def front():
            waits = asyncio.gather(
                client.get_or_set('back', back, 60, lease=600),
                client.get_or_set('other', other, 60, lease=600),
            )
            # Both are misses, and somebody's.
            await client.get('back')
            await asyncio.sleep(0)
            asked.set()
            return await waits

        async def back():
            await asked.wait()
            return await client.get_or_set('front', front, 60, lease=600)

        async def other():
            await go_on.wait()
            return 'other'

        others = [
            asyncio.ensure_future(client.get_or_set('back', back, lease=600)),
            asyncio.ensure_future(client.get_or_set('other', other)),
        ]
        await client.get('back')
        with pytest.raises(RuntimeError, match='each other'):
            await client.get_or_set('front', front, 60, lease=600)
        go_on.set()
        assert await others[1] == 'other'
        with pytest.raises(RuntimeError, match='each other'):
            await others[0]
        await client.close()

    run(main())


def test_functions_that_want_the_same_wait_for_it(address):
    """Nobody of them waits for somebody who waits for them."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        go_on = asyncio.Event()

        async def shared():
            await go_on.wait()
            return 'shared'

        async def load(name):
            return name, await client.get_or_set('shared', shared)

        asked = [
            asyncio.ensure_future(
                client.get_or_set(name, lambda name=name: load(name))
            )
            for name in 'abc'
        ]
        await asyncio.sleep(0.1)
        go_on.set()
        assert await asyncio.gather(*asked) == [
            (name, 'shared') for name in 'abc'
        ]
        await client.close()

    run(main())


def test_a_forked_child_knows_nothing_of_who_waits():
    """Its threads are others."""
    me = nesting.runner()
    with nesting.part_of('a', me), nesting.waiting('b', me):
        assert list(nesting._waits.by_who_waits) == ['a']
        nesting._waits.forget_after_fork()
        assert nesting._waits.by_who_waits == {}
    with nesting.part_of('b', me), nesting.waiting('a', me):
        assert list(nesting._waits.by_who_waits) == ['b']
    assert nesting._waits.by_who_waits == {}
