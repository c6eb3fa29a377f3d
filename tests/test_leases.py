"""get_or_set, stale values and update, in threads, tasks and processes."""

import asyncio
import contextlib
import contextvars
import datetime
import logging
import os
import signal
import threading
import time

import faults
import memcache
import pymemcache
import pytest
import wire
from computing import Process
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached.once import leases
from sprockets.clients.memcached.requests import arguments
from sprockets.clients.memcached.testing import MemcachedServer

LOGGER = 'sprockets.clients.memcached'

KEY = 'key'
LEASE = leases.lease_key(KEY.encode()).decode()

INSTANTLY = 1.5
"""Seconds in which a call is over that waits for nobody, on a busy machine."""


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture
def pair():
    """Two servers."""
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


class Factory:
    """Computes a number, one more each time; works for every client."""

    def __init__(self, error=None):
        self.calls = 0
        self.error = error

    def __call__(self):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


DAY = 24 * 60 * 60


class UnluckyError(Exception):
    """What a factory raises."""


def hold_lease(address, seconds=60):
    """Take the lease of the key, as another process does."""
    reply = wire.ask(
        address, f'mg {LEASE} v c N{seconds}\r\n'.encode(), b'\r\n\r\n'
    )
    assert b' W' in reply


def lease_is_held(address):
    return wire.stored(address, LEASE) is not None


def seconds_left(address, key):
    """Return the seconds until a key expires whose value is being computed."""
    return int(wire.ask(address, f'mg {key} t\r\n'.encode()).split()[1][1:])


def end_lease(address):
    assert wire.ask(address, f'md {LEASE}\r\n'.encode()) == b'HD\r\n'


@contextlib.contextmanager
def took_less_than(seconds):
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


# One process


def test_a_miss_is_computed_and_stored(connect, address):
    """The value is a plain one, with its time, that every client reads."""
    client = connect(address)
    factory = Factory()
    assert client.get_or_set(KEY, factory, 60) == 1
    assert client.get_or_set(KEY, factory, 60) == 1
    assert factory.calls == 1
    assert wire.stored(address, KEY) == (2, b'1')
    assert 58 <= wire.seconds_left(address, KEY) <= 60
    assert not lease_is_held(address)


@pytest.mark.parametrize(
    'value', [b'', '', None, 0, False, 'text', b'bytes', {'a': [1, 2]}]
)
@pytest.mark.parametrize('options', [{}, {'time': 60, 'stale': 60}])
def test_any_value_is_a_value(connect, address, value, options):
    """Of whatever kind, it is found again and not computed again."""
    client = connect(address)
    calls = []

    def factory():
        calls.append(None)
        return value

    for _ in range(2):
        assert client.get_or_set(KEY, factory, **options) == value
    assert len(calls) == 1
    assert client.get(KEY, 'default') == value


def test_none_is_not_stored_if_that_is_wanted(connect, address):
    """Then the factory is called each time that it returns None."""
    client = connect(address)
    results = [None, None, 'value', 'never']
    for expected in (None, None, 'value', 'value'):
        assert (
            client.get_or_set(KEY, lambda: results.pop(0), cache_none=False)
            == expected
        )
    assert not lease_is_held(address)


@pytest.mark.parametrize('key', [b'bytes', 'schlüssel', (7, 'hashed')])
def test_any_key_will_do(pair, connect, key):
    """Bytes, any text, and a tuple with a hash, with a prefix as well."""
    client = connect(*[s.address for s in pair], key_prefix='p:')
    factory = Factory()
    for _ in range(3):
        assert client.get_or_set(key, factory) == 1
    assert client.get(key) == 1
    assert client.delete(key)
    assert client.get_or_set(key, factory) == 2


def test_the_lease_lies_where_its_key_lies(pair, connect):
    """One server that is up is all that a value and its lease need."""
    client = connect(*[s.address for s in pair])
    keys = [f'key{n}' for n in range(20)]
    for key in keys:

        def factory(key=key):
            lease = leases.lease_key(key.encode()).decode()
            held = [
                n
                for n, server in enumerate(pair)
                if wire.stored(server.address, lease)
            ]
            assert len(held) == 1
            return held[0]

        place = client.get_or_set(key, factory)
        assert wire.stored(pair[place].address, key) is not None


@pytest.mark.parametrize(
    'arguments, options, error',
    [
        ((KEY, 'no function'), {}, TypeError),
        (('a b', int), {}, memcached.Client.MemcachedKeyError),
        ((KEY, int, 'soon'), {}, ValueError),
        ((KEY, int), {'stale': -1}, ValueError),
        ((KEY, int), {'stale': 'long'}, ValueError),
        ((KEY, int), {'lease': 0}, ValueError),
        ((KEY, int), {'lease': 10**9}, ValueError),
        ((KEY, int), {'wait': -1}, ValueError),
        ((KEY, int), {'wait': []}, TypeError),
        ((KEY, int, arguments.LATEST_DATE), {'stale': 60}, ValueError),
    ],
)
def test_a_bad_argument_raises_whatever_is_stored(
    connect, address, arguments, options, error
):
    """It does not wait for the first miss."""
    client = connect(address)
    client.set(KEY, 'value')
    with pytest.raises(error):
        client.get_or_set(*arguments, **options)


def test_times_may_be_timedeltas(connect, address):
    """A part of a second counts as a whole one."""
    client = connect(address)
    minute = datetime.timedelta(minutes=1)
    client.get_or_set(KEY, int, minute, stale=minute, lease=minute, wait=0.5)
    assert 117 <= wire.seconds_left(address, KEY) <= 120


def test_callers_who_miss_together_wait_for_one(connect, address):
    """Each gets an object of its own, which nobody else can change."""
    client = connect(address)
    callers = 20
    barrier = threading.Barrier(callers)
    calls = []

    def factory():
        calls.append(None)
        if client.client.__class__ is memcached.Client:
            # Each missed once, and who computes made sure.
            wait_until(
                lambda: int(wire.statistics(address)['get_misses']) > callers
            )
        return {'list': []}

    async def body(caller):
        if client.client.__class__ is memcached.Client:
            barrier.wait(30)
        value = await caller.get_or_set(KEY, factory)
        value['list'].append(None)
        return value

    values = client.together(callers, body)
    assert len(calls) == 1
    assert values == [{'list': [None]}] * callers


def test_everybody_who_waits_gets_the_error(connect, address):
    """The next caller computes, and it is not stored."""
    client = connect(address)
    factory = Factory(UnluckyError())
    with pytest.raises(UnluckyError):
        client.get_or_set(KEY, factory)
    assert not lease_is_held(address)
    factory.error = None
    assert client.get_or_set(KEY, factory) == 2
    assert factory.calls == 2


def test_what_cannot_be_stored_gives_the_lease_back(connect, address):
    """An object that cannot be pickled is an error of the program."""
    client = connect(address)
    with pytest.raises((TypeError, AttributeError)) as raised:
        client.get_or_set(KEY, threading.Lock)
    assert 'pickle' in str(raised.value)
    assert not lease_is_held(address)


@pytest.mark.parametrize('over', [0, 1])
def test_a_value_too_large_is_returned(connect, address, over):
    """It is computed again each time, whoever refuses it."""
    client = connect(address)
    value = b'x' * (1024 * 1024 + over)
    assert client.get_or_set(KEY, lambda: value) == value
    assert client.get_or_set(KEY, lambda: 'small') == 'small'


def test_a_value_that_cannot_be_decoded_is_replaced(connect, address):
    """It is a miss, and the new value takes its place."""
    client = connect(address)
    wire.put(address, KEY, 1, b'no pickle')
    factory = Factory()
    assert client.get_or_set(KEY, factory) == 1
    assert client.get_or_set(KEY, factory) == 1
    wire.put(address, KEY, 1, b'no pickle')
    for _ in range(2):
        assert client.get_or_set(KEY, factory, 60, stale=60) == 2


def test_a_factory_that_asks_for_its_own_value_is_told_so(connect, address):
    """It would wait for itself."""
    client = connect(address)

    def blocking():
        return client.get_or_set(KEY, int)

    async def awaitable():
        return await client.client.get_or_set(KEY, int)

    kind = type(client.client)
    with pytest.raises(RuntimeError, match='itself'):
        client.get_or_set(
            KEY, blocking if kind is memcached.Client else awaitable
        )
    assert not lease_is_held(address)
    assert client.get_or_set(KEY, lambda: 'other') == 'other'


def test_a_factory_may_ask_for_another_value(connect, address):
    """Of the same client, and for the same key of another one."""
    client = connect(address)
    with MemcachedServer() as server:
        deeper = memcached.Client(servers=server.address)

        def blocking():
            return client.get_or_set('inner', lambda: 'found')

        async def awaitable():
            return await client.client.get_or_set('inner', lambda: 'found')

        kind = type(client.client)
        inner = blocking if kind is memcached.Client else awaitable
        assert client.get_or_set(KEY, inner) == 'found'
        assert client.get_or_set('k', lambda: deeper.get_or_set('k', int)) == 0


def test_whoever_stores_meanwhile_is_newer(connect, address):
    """What was computed is returned, and not stored over it."""
    client = connect(address)

    def factory():
        wire.put(address, KEY, 16, b'newer')
        return 'computed'

    assert client.get_or_set(KEY, factory) == 'computed'
    assert client.get(KEY) == 'newer'


@pytest.mark.parametrize('kind', ['Client', 'AsyncClient'])
@pytest.mark.parametrize('method', ['invalidate', 'mark_stale'])
def test_what_was_computed_before_a_deletion_does_not_stay(
    connect, address, kind, method
):
    """Whoever deletes, in this process or another, has newer data."""
    client = connect(address)

    def factory(elsewhere):
        if kind == 'Client':
            other = memcached.Client(servers=elsewhere)
            assert getattr(other, method)(KEY) == 0
            return 'old'

        async def delete():
            other = memcached.AsyncClient(servers=elsewhere)
            assert await getattr(other, method)(KEY) == 0
            await other.close()

        thread = threading.Thread(target=lambda: asyncio.run(delete()))
        thread.start()
        thread.join(30)
        return 'old'

    with faults.FaultProxy(address) as proxy:
        got = client.get_or_set(KEY, lambda: factory(proxy.address))
    assert got == 'old'
    assert client.get_or_set(KEY, lambda: 'new') == 'new'
    assert client.get_or_set(KEY, lambda: 'never') == 'new'


def test_so_it_is_where_there_is_a_value_by_then(connect, address):
    """Somebody has stored one while another is computed."""
    client = connect(address)
    other = memcached.Client(servers=address)

    def factory():
        assert other.set(KEY, 'set')
        assert other.invalidate(KEY)
        return 'old'

    assert client.get_or_set(KEY, factory) == 'old'
    assert client.get_or_set(KEY, lambda: 'new') == 'new'
    other.disconnect_all()


@pytest.mark.parametrize('end', [faults.cut(0), faults.cut(3), faults.reset])
def test_so_it_is_where_nobody_knows_whether_it_was_stored(
    connect, address, end
):
    """The answer to what stores it was lost."""
    other = memcached.Client(servers=address)

    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address, dead_retry=0)
        assert client.get_or_set('first', int) == 0

        def factory():
            assert other.invalidate(KEY) == 0
            proxy.next_reply(end)
            return 'old'

        assert client.get_or_set(KEY, factory) == 'old'
        assert client.get_or_set(KEY, lambda: 'new') == 'new'
    other.disconnect_all()


@pytest.mark.parametrize('method', ['invalidate', 'mark_stale'])
def test_so_it_is_where_another_has_the_lease(connect, address, method):
    """Who has waited for that one for long enough computes without one."""
    hold_lease(address)
    client = connect(address)

    def factory():
        other = memcached.Client(servers=address)
        assert getattr(other, method)(KEY) == 0
        return 'old'

    assert client.get_or_set(KEY, factory, wait=0.05) == 'old'
    assert client.get_or_set(KEY, lambda: 'new') == 'new'
    assert client.get_or_set(KEY, lambda: 'never') == 'new'


@pytest.mark.parametrize('end', [faults.cut(0), faults.cut(10), faults.reset])
def test_so_it_is_where_no_lease_is_known(connect, address, end):
    """The answer to the question for one was lost."""
    other = memcached.Client(servers=address)

    def factory():
        assert other.invalidate(KEY) == 0
        return 'old'

    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address, dead_retry=0)
        assert client.get_or_set('first', int) == 0
        proxy.next_reply(None, end)
        assert client.get_or_set(KEY, factory) == 'old'
        assert client.get_or_set(KEY, lambda: 'new') == 'new'
    other.disconnect_all()


@pytest.mark.parametrize('replies', [3, 5, 6])
def test_a_refresh_that_is_cancelled_leaves_nothing_behind(address, replies):
    """Neither a lease nor what was computed before a deletion."""

    async def main(proxy):
        client = memcached.AsyncClient(servers=proxy.address)
        other = memcached.AsyncClient(servers=address)

        @memcached.cached(60, client=client, key=KEY)
        async def compute():
            await other.invalidate(KEY)
            return 'old'

        # The old lease and value, what there is, the lease, what there is
        # again; the value, the lease.
        proxy.next_reply(*[None] * replies, faults.stall)
        task = asyncio.create_task(compute.refresh())
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.stalled)
        task.cancel()
        await asyncio.sleep(0)
        proxy.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not lease_is_held(address)
        assert await other.get(KEY) is None
        await client.close()
        await other.close()

    with faults.FaultProxy(address) as proxy:
        asyncio.run(main(proxy))


def test_callers_after_a_deletion_get_what_is_newer(address):
    """They do not wait for a computation that began before it."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        data = ['old']
        reading = asyncio.Event()
        go_on = asyncio.Event()

        async def slow():
            value = data[0]
            reading.set()
            await go_on.wait()
            return value

        first = client.get_or_set(KEY, slow)
        await reading.wait()
        data[0] = 'new'
        await client.invalidate(KEY)
        assert await client.get_or_set(KEY, lambda: data[0]) == 'new'
        go_on.set()
        assert await first == 'old'
        assert await client.get(KEY) in ('new', None)
        await client.close()

    asyncio.run(main())


def test_threads_after_a_deletion_get_what_is_newer(address):
    """The same with the blocking client."""
    client = memcached.Client(servers=address)
    data = ['old']
    reading = threading.Event()
    go_on = threading.Event()
    got = []

    def slow():
        value = data[0]
        reading.set()
        assert go_on.wait(30)
        return value

    thread = threading.Thread(
        target=lambda: got.append(client.get_or_set(KEY, slow))
    )
    thread.start()
    assert reading.wait(30)
    data[0] = 'new'
    client.invalidate(KEY)
    assert client.get_or_set(KEY, lambda: data[0]) == 'new'
    go_on.set()
    thread.join(30)
    assert got == ['old']
    assert client.get(KEY) in ('new', None)
    client.disconnect_all()


# Tasks


def test_the_awaitable_client_returns_a_future(address):
    """Also for get_or_set; a hit makes no task."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.set(KEY, 'value')
        before = len(asyncio.all_tasks())
        call = client.get_or_set(KEY, int)
        assert isinstance(call, asyncio.Future)
        assert await call == 'value'
        assert len(asyncio.all_tasks()) == before
        await client.close()

    asyncio.run(main())


def test_a_factory_may_be_a_coroutine_function(address):
    """It runs in the context of the caller."""
    who = contextvars.ContextVar('who')

    async def main():
        client = memcached.AsyncClient(servers=address)

        async def factory():
            await asyncio.sleep(0)
            return who.get()

        who.set('ada')
        assert await client.get_or_set(KEY, factory) == 'ada'
        assert await client.get_or_set('k', factory, 60, stale=60) == 'ada'
        await client.close()

    asyncio.run(main())


def test_a_cancelled_caller_leaves_it_to_the_others(address):
    """Also if it was the one that began."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()
        go_on = asyncio.Event()

        async def factory():
            computing.set()
            await go_on.wait()
            return 'value'

        first = client.get_or_set(KEY, factory)
        await computing.wait()
        second = client.get_or_set(KEY, factory)
        first.cancel()
        go_on.set()
        assert await second == 'value'
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.clear()
        call = client.get_or_set('k', factory)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call, 0.01)
        go_on.set()
        await client.close()
        assert await wire_get(address, 'k') == b'value'

    asyncio.run(main())


async def wire_get(address, key):
    return (await asyncio.to_thread(wire.stored, address, key))[1]


def test_an_error_that_nobody_waits_for_is_logged(address, caplog):
    """The caller was cancelled meanwhile."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()
        go_on = asyncio.Event()

        async def factory():
            computing.set()
            await go_on.wait()
            raise UnluckyError('nobody hears')

        call = client.get_or_set(KEY, factory)
        await computing.wait()
        call.cancel()
        go_on.set()
        await client.close()

    asyncio.run(main())
    assert 'nobody hears' in caplog.text


def test_close_waits_for_a_computation(address):
    """Its caller gets the value, and it is stored."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()

        async def factory():
            computing.set()
            await asyncio.sleep(0.05)
            return 'value'

        call = client.get_or_set(KEY, factory)
        await computing.wait()
        await client.close()
        assert await call == 'value'
        assert await wire_get(address, KEY) == b'value'
        with pytest.raises(RuntimeError, match='closed'):
            client.get_or_set(KEY, factory)

    asyncio.run(main())


def test_close_ends_a_computation_that_takes_too_long(address):
    """Its callers are told, and the lease is given back."""

    async def main():
        client = memcached.AsyncClient(servers=address, socket_timeout=0.2)
        computing = asyncio.Event()

        async def factory():
            computing.set()
            await asyncio.Event().wait()

        calls = [client.get_or_set(KEY, factory) for _ in range(3)]
        await computing.wait()
        await asyncio.wait_for(client.close(), 20)
        for call in calls:
            with pytest.raises(RuntimeError, match='closed'):
                await call

    asyncio.run(main())
    assert not lease_is_held(address)


def test_a_lease_left_by_a_loop_that_ended(address):
    """The task was cancelled with its loop, and gave it back."""
    client = memcached.AsyncClient(servers=address)

    async def leave():
        computing = asyncio.Event()

        async def factory():
            computing.set()
            await asyncio.Event().wait()

        client.get_or_set(KEY, factory)
        await computing.wait()

    asyncio.run(leave())

    async def use():
        assert await client.get_or_set(KEY, lambda: 'value') == 'value'
        await client.close()

    asyncio.run(use())


# Threads


def test_ctrl_c_in_a_factory_is_not_the_others_business(address):
    """They compute instead, and the lease was given back."""
    client = memcached.Client(servers=address)
    computing = threading.Event()
    go_on = threading.Event()
    got = []

    def interrupted():
        computing.set()
        assert go_on.wait(30)
        raise KeyboardInterrupt

    def first():
        with pytest.raises(KeyboardInterrupt):
            client.get_or_set(KEY, interrupted)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert computing.wait(30)
    threads.append(
        threading.Thread(
            target=lambda: got.append(client.get_or_set(KEY, lambda: 'other'))
        )
    )
    threads[1].start()
    wait_until(lambda: int(wire.statistics(address)['get_misses']) >= 3)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert got == ['other']
    client.disconnect_all()


def test_a_child_forked_by_a_factory_goes_its_own_way(address):
    """It can leave the factory, and computes other values."""
    client = memcached.Client(servers=address)
    children = []

    def factory():
        child = os.fork()
        children.append(child)
        return 'parent' if child else 'child'

    value = client.get_or_set(KEY, factory)
    if children == [0]:
        right = value == 'child' and client.get_or_set('k', int) == 0
        os._exit(0 if right else 1)
    assert value == 'parent'
    _, status = os.waitpid(children[0], 0)
    assert status == 0
    client.disconnect_all()


# Several processes


@pytest.mark.parametrize('kind', ['Client', 'AsyncClient'])
def test_one_computation_for_all_processes(address, kind):
    """Of all callers of all processes one computes."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(Process(address, kind, 8, seconds=0.3))
            for _ in range(3)
        ]
        for process in processes:
            process.expect('ready')
        for process in processes:
            process.begin()
        values = [v for process in processes for v in process.results()]
    assert len(values) == 24
    assert len(set(values)) == 1
    assert wire.stored(address, 'computations')[1] == b'1'
    assert not lease_is_held(address)


@pytest.mark.parametrize('kind', ['Client', 'AsyncClient'])
def test_when_the_winner_is_killed_one_other_computes(address, kind):
    """As soon as the lease has run out, and not all of them."""
    options = {'lease': 1}
    with contextlib.ExitStack() as stack:
        winner = stack.enter_context(
            Process(address, kind, 1, options, seconds=None)
        )
        others = [
            stack.enter_context(Process(address, kind, 4, options))
            for _ in range(3)
        ]
        for process in (winner, *others):
            process.expect('ready')
        winner.begin()
        winner.expect('computing')
        winner.process.send_signal(signal.SIGKILL)
        for process in others:
            process.begin()
        values = [v for process in others for v in process.results()]
    assert len(set(values)) == 1
    assert wire.stored(address, 'computations')[1] == b'2'


def test_others_are_waited_for_no_longer_than_wanted(connect, address):
    """Then one's own factory is called, and what it returns is stored."""
    hold_lease(address)
    client = connect(address)
    factory = Factory()
    with took_less_than(INSTANTLY):
        assert client.get_or_set(KEY, factory, wait=0.2) == 1
    assert client.get(KEY) == 1
    # Which is not for this process to give back.
    assert lease_is_held(address)


def test_a_default_is_returned_rather_than_waited_for(connect, address):
    """Nobody computes, until there is no lease any more."""
    hold_lease(address)
    client = connect(address)
    factory = Factory()
    with took_less_than(INSTANTLY):
        assert client.get_or_set(KEY, factory, default='later') == 'later'
        assert client.get_or_set(KEY, factory, default=None) is None
    assert factory.calls == 0
    end_lease(address)
    assert client.get_or_set(KEY, factory, default='later') == 1


def test_a_default_is_for_who_wants_it(address):
    """Others that miss at the same time wait all the same."""
    hold_lease(address)

    async def main():
        client = memcached.AsyncClient(servers=address)
        with_default = client.get_or_set(KEY, int, default='later')
        without = client.get_or_set(KEY, int)
        assert await with_default == 'later'
        await asyncio.to_thread(wire.put, address, KEY, 16, b'theirs')
        assert await without == 'theirs'
        await client.close()

    asyncio.run(main())


def test_a_default_in_one_process(address):
    """It is returned while another task computes."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()
        go_on = asyncio.Event()

        async def factory():
            computing.set()
            await go_on.wait()
            return 'value'

        first = client.get_or_set(KEY, factory)
        await computing.wait()
        assert await client.get_or_set(KEY, int, default='later') == 'later'
        go_on.set()
        assert await first == 'value'
        await client.close()

    asyncio.run(main())


def test_the_value_of_another_process_is_waited_for(connect, address):
    """It is returned soon after it was stored."""
    hold_lease(address)
    client = connect(address)
    timer = threading.Timer(0.2, wire.put, (address, KEY, 16, b'theirs'))
    timer.start()
    factory = Factory()
    with took_less_than(10):
        assert client.get_or_set(KEY, factory) == 'theirs'
    timer.join()
    assert factory.calls == 0


def test_a_lease_lasts_as_long_as_was_asked_for(connect, address):
    """memcached counts whole seconds, and would end it up to one early."""
    client = connect(address)
    left = []

    def factory():
        left.append(seconds_left(address, LEASE))

    client.get_or_set(KEY, factory, lease=5)
    assert left[0] >= 5


@pytest.mark.parametrize('reply', [None, b'ERROR\r\n'], ids=['meta', 'ERROR'])
def test_the_longest_lease(connect, address, reply):
    """To memcached what is more than thirty days is a date."""
    held = []

    def factory():
        held.append(lease_is_held(address))

    with contextlib.ExitStack() as stack:
        server = address
        if reply is not None:
            old = stack.enter_context(faults.without_meta(address, reply))
            server = old.address
        connect(server).get_or_set(KEY, factory, lease=30 * DAY)
    assert held == [True]


def test_a_computation_that_outlasts_its_lease_is_stored(connect, address):
    """Another one may have begun, whose lease is left alone."""
    client = connect(address)

    def factory():
        end_lease(address)
        hold_lease(address)
        # No event tells that a second has passed.
        time.sleep(1.05)
        return 'late'

    assert client.get_or_set(KEY, factory, lease=1) == 'late'
    assert client.get(KEY) == 'late'
    assert lease_is_held(address)


def test_a_lease_is_for_one_life_of_the_server(connect):
    """After a restart the same cas unique may be another one's."""
    with MemcachedServer() as server:
        client = connect(server.address)

        def factory():
            server.restart()
            hold_lease(server.address)
            return 'value'

        assert client.get_or_set(KEY, factory) == 'value'
        assert lease_is_held(server.address)


# What other clients see while somebody computes


@pytest.mark.parametrize('make', ['memcache', 'pymemcache', 'ours'])
def test_other_clients_see_a_miss(address, connect, make):
    """In every command, until there is a value."""
    host, port = address.split(':')
    client = {
        'memcache': lambda: memcache.Client([address]),
        'pymemcache': lambda: pymemcache.Client((host, int(port))),
        'ours': lambda: memcached.Client(servers=address),
    }[make]()
    seen = {}

    def factory():
        read_many = client.get_many if make == 'pymemcache' else None
        seen['get'] = client.get(KEY)
        seen['gets'] = client.gets(KEY)
        seen['get_multi'] = (read_many or client.get_multi)([KEY])
        seen['incr'] = client.incr(KEY, 1)
        seen['replace'] = client.replace(KEY, 'x')
        seen['append'] = client.append(KEY, 'x')
        seen['touch'] = client.touch(KEY, 60)
        seen['delete'] = make != 'ours' and client.delete(KEY, noreply=False)
        seen['add'] = client.add(KEY, '7', noreply=False)
        return 'value'

    assert connect(address).get_or_set(KEY, factory) == 'value'
    assert seen.pop('gets') in (None, (None, None))
    assert seen.pop('get_multi') == {}
    assert seen.pop('add')
    # python-memcached calls a deletion of what is not there a success.
    assert seen.pop('delete') in (0, 1)
    # pymemcache does not look at the answers to these unless told to.
    if make == 'pymemcache':
        del seen['replace'], seen['append'], seen['touch']
    assert not any(seen.values()), seen
    assert client.get(KEY) in ('7', b'7')
    (client.close if make == 'pymemcache' else client.disconnect_all)()


# Stale values


def expire(address):
    """Let the time of the key pass; what is left is for serving it stale."""
    assert wire.ask(address, f'touch {KEY} 30\r\n'.encode()) == b'TOUCHED\r\n'


def test_a_stale_value_is_computed_anew_by_one(address):
    """In the background: nobody waits, everybody gets the old one."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        factory = Factory()
        go_on = asyncio.Event()

        async def slow():
            value = factory()
            if value > 1:
                await go_on.wait()
            return value

        def get():
            return client.get_or_set(KEY, slow, 60, stale=60)

        assert await get() == 1
        await asyncio.to_thread(expire, address)
        assert await asyncio.gather(*[get() for _ in range(50)]) == [1] * 50
        assert await get() == 1
        go_on.set()
        await client.close()
        assert await wire_get(address, KEY) == b'2'
        assert factory.calls == 2

    asyncio.run(main())
    assert 117 <= wire.seconds_left(address, KEY) <= 120


def test_a_value_is_stale_for_as_long_as_was_asked_for(address):
    """In its last second, too, nobody waits for the one that computes."""

    async def is_served(number):
        """Tell whether the value is there when it is computed anew."""
        factory = Factory()
        before = []
        async with memcached.AsyncClient(servers=address) as client:
            while factory.calls < 2:
                value = client.get_or_set(f'{number}', factory, 1, stale=1)
                before.append(await value)
                await asyncio.sleep(0.02)
            return before[-1] == 1

    # On a busy machine that second may pass without a read.
    assert any(asyncio.run(is_served(number)) for number in range(20))


def test_the_longest_time_for_which_a_value_is_stale(connect, address):
    """It is computed anew, and not served on for all of that time."""
    client = connect(address)
    factory = Factory()

    def get():
        return client.get_or_set(KEY, factory, 60, stale=30 * DAY)

    assert get() == get() == 1
    # As if its own time had passed.
    wire.ask(address, f'touch {KEY} {30 * DAY - 10}\r\n'.encode())
    wait_until(lambda: get() == 2)
    assert factory.calls == 2


def test_callers_in_the_same_turn_share_a_look(address):
    """One command, and each has a value of its own."""

    async def main():
        client = memcached.AsyncClient(servers=address)

        def get(**options):
            return client.get_or_set(KEY, dict, 60, stale=60, **options)

        await client.set(KEY, {'a': 1}, 60)
        before = int(wire.statistics(address)['get_hits'])
        values = await asyncio.gather(
            *[get(default=n) for n in range(50)],
            client.get_or_set(KEY, dict, 60, stale=61),
        )
        hits = int(wire.statistics(address)['get_hits']) - before
        for value in values:
            assert value == {'a': 1}
            value['a'] = 2
        assert hits == 2
        (count,) = client._engine.counters.values()
        assert (count.calls, count.hits, count.misses) == (52, 51, 0)
        # Who had won asked once more, whether the value was computed.
        assert count.steps == 1
        await client.close()

    asyncio.run(main())


def test_a_look_is_shared_by_those_with_the_same_hash(pair):
    """The hash says where the key is."""

    async def main():
        servers = [server.address for server in pair]
        client = memcached.AsyncClient(servers=servers)
        for hashed in (0, 1):
            await client.set((hashed, KEY), hashed, 60)
        values = await asyncio.gather(
            *[
                client.get_or_set((turn % 2, KEY), dict, 60, stale=60)
                for turn in range(20)
            ]
        )
        assert values == [0, 1] * 10
        for address in servers:
            assert wire.statistics(address)['get_hits'] == '1'
        await client.close()

    asyncio.run(main())


def test_a_look_is_shared_until_its_batch_leaves(address):
    """So that whoever awaited a write sees what was written, or newer."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        scope = client.scope()

        async def use(number):
            for turn in range(100):
                value = f'{number} {turn}'
                await scope.set(f'{KEY}{number}', value)
                read = await scope.get_or_set(
                    f'{KEY}{number}', dict, 60, stale=60
                )
                assert read == value

        async def read(number):
            for _ in range(300):
                await client.get_or_set(f'{KEY}{number}', dict, 60, stale=60)

        await asyncio.gather(*[use(n) for n in range(8)], *map(read, range(8)))
        writing = scope.set(KEY, 'new')
        assert await scope.get_or_set(KEY, dict, 60, stale=60) == 'new'
        await writing
        await client.close()

    asyncio.run(main())


def test_a_cancelled_caller_leaves_a_shared_look_to_the_others(address):
    """Of those that are left, one computation serves all."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        factory = Factory()
        calls = [
            client.get_or_set(KEY, factory, 60, stale=60) for _ in range(5)
        ]
        calls[0].cancel()
        assert await asyncio.gather(*calls[1:]) == [1] * 4
        assert calls[0].cancelled()
        assert factory.calls == 1
        await client.close()

    asyncio.run(main())


def test_a_thread_computes_a_stale_value_while_others_get_it(address):
    """The one that computes gets the new one."""
    client = memcached.Client(servers=address)
    client.get_or_set(KEY, lambda: 'old', 60, stale=60)
    expire(address)
    seen = []

    def factory():
        for _ in range(3):
            thread = threading.Thread(
                target=lambda: seen.append(
                    client.get_or_set(KEY, int, 60, stale=60)
                )
            )
            thread.start()
            thread.join(30)
        return 'new'

    assert client.get_or_set(KEY, factory, 60, stale=60) == 'new'
    assert seen == ['old'] * 3
    assert client.get_or_set(KEY, int, 60, stale=60) == 'new'
    client.disconnect_all()


def test_a_stale_value_is_a_value_for_everybody_else(connect, address):
    """get, and get_or_set without stale, read it as long as it is there."""
    client = connect(address)
    client.get_or_set(KEY, lambda: 'old', 60, stale=60)
    expire(address)
    assert client.get(KEY) == 'old'
    assert client.get_or_set(KEY, int, 60) == 'old'


def read_until(client, expected, **options):
    """Ask until a background computation has come to its end."""
    wait_until(
        lambda: client.get_or_set(KEY, lambda: expected, **options) == expected
    )


def test_an_error_serves_the_old_value(connect, address, caplog):
    """It is logged, and the next caller computes."""
    client = connect(address)
    options = {'time': 60, 'stale': 60}
    client.get_or_set(KEY, lambda: 'old', **options)
    expire(address)
    failing = Factory(UnluckyError('not now'))
    with caplog.at_level(logging.ERROR, LOGGER):
        assert client.get_or_set(KEY, failing, **options) == 'old'
        # The loop of the awaitable client turns only while it is called.
        wait_until(
            lambda: client.get(KEY) == 'old' and 'not now' in caplog.text
        )
    read_until(client, 'new', **options)


def test_a_value_marked_stale_is_served_and_computed_anew(connect, address):
    """Though its time has not passed."""
    client = connect(address)
    options = {'time': 60, 'stale': 60}
    assert client.mark_stale(KEY) == 0
    client.get_or_set(KEY, lambda: 'old', **options)
    assert client.mark_stale(KEY, 30)
    assert client.get(KEY) == 'old'
    read_until(client, 'new', **options)
    assert 117 <= wire.seconds_left(address, KEY) <= 120
    assert client.mark_stale(KEY, 30)
    assert 27 <= seconds_left(address, KEY) <= 30


def test_without_a_time_only_a_mark_makes_a_value_stale(connect, address):
    """It is kept for ever, and the other arguments do nothing."""
    client = connect(address)
    factory = Factory()
    for _ in range(3):
        assert client.get_or_set(KEY, factory, stale=60) == 1
    assert wire.seconds_left(address, KEY) == -1
    assert client.mark_stale(KEY, 30)
    read_until(client, 2, stale=60)


@pytest.mark.parametrize('stale', [0, -1, 'long', 10**9])
def test_mark_stale_takes_seconds(connect, address, stale):
    """Or a timedelta; nothing else."""
    with pytest.raises(ValueError, match='stale'):
        connect(address).mark_stale(KEY, stale)


@pytest.mark.parametrize('change', ['set', 'delete'])
def test_a_change_while_a_stale_value_is_computed_stays(
    connect, address, change
):
    """What was computed is older."""
    client = connect(address)
    options = {'time': 60, 'stale': 60}
    client.get_or_set(KEY, lambda: 'old', **options)
    expire(address)
    changed = threading.Event()

    def factory():
        other = memcached.Client(servers=address)
        other.set(KEY, 'set') if change == 'set' else other.delete(KEY)
        changed.set()
        return 'computed'

    client.get_or_set(KEY, factory, **options)
    assert changed.wait(30)
    client.get('what-comes-behind-it')
    assert client.get(KEY) == ('set' if change == 'set' else None)


@pytest.mark.parametrize(
    'value', [None, b'x' * (1024 * 1024 + 1), b'x' * 1024 * 1024]
)
def test_a_stale_value_is_not_served_for_one_not_stored(
    connect, address, value
):
    """Where the new one is too large, or not to be cached."""
    client = connect(address)
    options = {'time': 60, 'stale': 60, 'cache_none': False}
    client.get_or_set(KEY, lambda: 'old', **options)
    expire(address)
    client.get_or_set(KEY, lambda: value, **options)
    wait_until(lambda: client.get(KEY) is None)


def test_a_cancelled_caller_does_not_take_the_turn_with_it(address):
    """Whose turn it is to compute may be told to one who has gone."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.get_or_set(KEY, lambda: 'old', 60, stale=60)
        await asyncio.to_thread(expire, address)
        call = client.get_or_set(KEY, lambda: 'new', 60, stale=60)
        call.cancel()
        await asyncio.to_thread(
            wait_until, lambda: wire.stored(address, KEY)[1] == b'new'
        )
        await client.close()

    asyncio.run(main())


# Servers without meta commands


@pytest.fixture(
    params=[b'ERROR\r\n', b'CLIENT_ERROR unknown\r\n', None],
    ids=['ERROR', 'CLIENT_ERROR', 'closed'],
)
def old(request, address):
    with faults.without_meta(address, request.param) as server:
        yield server


def metas(server):
    return sum(
        line.startswith((b'mg ', b'md ', b'mn'))
        for line in server.received.split(b'\r\n')
    )


def test_without_meta_commands_a_lock_does(connect, address, old, caplog):
    """It is noticed once, and the server is not taken for dead."""
    client = connect(old.address, dead_retry=600)
    factory = Factory()
    with caplog.at_level(logging.INFO, LOGGER):
        for number in range(3):
            assert client.get_or_set(f'key{number}', factory) == number + 1
        assert client.get_or_set(KEY, factory, 60) == 4
        assert client.get_or_set(KEY, factory, 60) == 4
    assert ' is down' not in caplog.text
    assert metas(old) <= 2
    assert not lease_is_held(address)
    assert 58 <= wire.seconds_left(address, KEY) <= 60


def test_without_meta_commands_others_are_waited_for(connect, address, old):
    """The lock is that of all clients, with and without."""
    client = connect(old.address)
    factory = Factory()
    hold_lease(address)
    assert client.get_or_set(KEY, factory, default='later') == 'later'
    assert client.get_or_set(KEY, factory, wait=0.1) == 1
    assert lease_is_held(address)
    end_lease(address)
    modern = memcached.Client(servers=address)

    def held():
        return modern.get_or_set('k', int, default='held')

    assert client.get_or_set('k', held) == 'held'
    modern.disconnect_all()


def test_without_meta_commands_a_lock_is_its_owners(connect, address, old):
    """One that has run out and is another one's is left alone."""
    client = connect(old.address)
    client.get_or_set('k', int)

    def factory():
        end_lease(address)
        hold_lease(address)
        return 'value'

    client.get_or_set(KEY, factory)
    assert lease_is_held(address)


def test_without_meta_commands_errors_give_the_lock_back(
    connect, address, old
):
    """At once, so that the next caller computes."""
    client = connect(old.address)
    with pytest.raises(UnluckyError):
        client.get_or_set(KEY, Factory(UnluckyError()))
    assert not lease_is_held(address)
    assert client.get_or_set(KEY, Factory()) == 1


def test_without_meta_commands_deletions_count_too(connect, address, old):
    """What was computed before one does not stay."""
    client = connect(old.address)

    def factory():
        memcached.Client(servers=address).invalidate(KEY)
        return 'old'

    assert client.get_or_set(KEY, factory) == 'old'
    assert client.get(KEY) is None


def test_without_meta_commands_they_count_for_all(connect, address, old):
    """For who computes without a lease as well."""
    hold_lease(address)
    client = connect(old.address)

    def factory():
        memcached.Client(servers=address).invalidate(KEY)
        return 'old'

    assert client.get_or_set(KEY, factory, wait=0.05) == 'old'
    assert client.get(KEY) is None


def test_without_meta_commands_stale_values_are_served(connect, address, old):
    """While one computes; marked stale or when their time has passed."""
    client = connect(old.address)
    options = {'time': 60, 'stale': 60}
    assert client.get_or_set(KEY, lambda: 'old', **options) == 'old'
    assert client.get_or_set(KEY, lambda: 'never', **options) == 'old'
    assert client.mark_stale(KEY, 30)
    assert client.get(KEY) == 'old'
    seen = []

    def factory():
        other = memcached.Client(servers=old.address)
        seen.append(other.get_or_set(KEY, lambda: 'never', **options))
        return 'new'

    client.get_or_set(KEY, factory, **options)
    read_until(client, 'new', **options)
    assert seen == ['old']
    assert client.mark_stale(KEY, 30)
    failing = Factory(UnluckyError())
    assert client.get_or_set(KEY, failing, **options) == 'new'
    wait_until(
        lambda: (
            client.get(KEY) == 'new'
            and failing.calls == 1
            and not lease_is_held(address)
        )
    )
    read_until(client, 'newest', **options)


def test_a_server_short_of_memory_knows_meta_commands(connect, address):
    """SERVER_ERROR is no answer to whether it does."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address)
        proxy.next_reply(None, faults.replace(b'SERVER_ERROR out\r\n'))
        assert client.get_or_set(KEY, lambda: 'value') == 'value'
        assert client.get_or_set('k', lambda: lease_is_held_for(address))


def lease_is_held_for(address):
    lease = leases.lease_key(b'k').decode()
    return wire.stored(address, lease) == (0, b'')


# Servers that are down, and networks that break


def test_with_no_server_up_the_factory_is_called(connect):
    """Nothing raises but what the factory raises."""
    with faults.refusing() as address:
        client = connect(address)
        factory = Factory()
        for options in ({}, {'time': 60, 'stale': 60}, {'default': 'later'}):
            calls = factory.calls
            assert client.get_or_set(KEY, factory, **options) == calls + 1
        with pytest.raises(UnluckyError):
            client.get_or_set(KEY, Factory(UnluckyError()))
        assert client.mark_stale(KEY) == 0


def test_with_no_server_up_callers_share_a_computation():
    """There is one at a time in a process all the same."""

    async def main(address):
        client = memcached.AsyncClient(servers=address)
        factory = Factory()

        async def slow():
            await asyncio.sleep(0.05)
            return factory()

        # One after another they learn that it is down, and from then on
        # nothing is awaited.
        await client.get(KEY)
        calls = [client.get_or_set(KEY, slow) for _ in range(50)]
        assert await asyncio.gather(*calls) == [1] * 50
        await client.close()

    with faults.refusing() as address:
        asyncio.run(main(address))


@pytest.mark.parametrize('knows_meta', [True, False])
def test_those_who_serve_stale_values_notice_that_a_server_is_back(
    knows_meta,
):
    """Even if nobody calls anything else."""

    async def main(server):
        client = memcached.AsyncClient(servers=server.address, dead_retry=0.05)

        def get():
            return client.get_or_set(KEY, Factory(), 60, stale=60)

        assert await get() == 1
        server.stop()
        assert await get() == 1
        client._engine.cluster.servers[0].endpoint.knows_meta = knows_meta
        server.start()
        until = time.monotonic() + 30
        while not wire.statistics(server.address)['curr_items'] > '0':
            assert time.monotonic() < until
            assert await asyncio.gather(get(), get()) == [1, 1]
            await asyncio.sleep(0.02)
        await client.close()

    with MemcachedServer() as server:
        asyncio.run(main(server))


def test_a_cas_for_another_server_does_not_use_up_a_trial(connect, pair):
    """What may go to one server only leaves the others' to who can use it."""
    first, other = pair
    servers = [first.address, other.address]
    client = connect(*servers, dead_retry=0.05, socket_timeout=30)
    key = (0, KEY)
    first.stop()
    assert client.set(key, 'old')
    assert client.gets(key) == 'old'
    assert wire.stored(other.address, KEY) is not None
    first.start()
    # By then it may be tried.
    time.sleep(0.1)
    assert not client.cas(key, 'new')
    assert client.set(key, 'newer')
    assert wire.stored(first.address, KEY) is not None


def test_a_server_killed_while_a_value_is_computed(connect):
    """The value is returned; when the server is back all is as ever."""
    with MemcachedServer() as server:
        client = connect(server.address, dead_retry=0)

        def factory():
            server.kill()
            return 'value'

        with took_less_than(10):
            assert client.get_or_set(KEY, factory) == 'value'
        server.start()
        assert client.get_or_set(KEY, lambda: 'again') == 'again'
        assert client.get_or_set(KEY, lambda: 'never') == 'again'


def test_a_server_killed_with_another_one_up(connect, pair):
    """Its keys and their leases move to the other one together."""
    client = connect(*[s.address for s in pair], dead_retry=600)
    client.get_or_set('warm', int)
    pair[0].kill()
    factory = Factory()
    for number in range(20):
        key = f'key{number}'
        assert client.get_or_set(key, factory) == number + 1
        assert client.get_or_set(key, factory) == number + 1
        assert wire.stored(pair[1].address, key) is not None


REPLIES = {
    # A read, the lease, a read to be sure, the value, the lease back.
    'lease': (1, 70),
    'read': (2, 5),
    'add': (3, 8),
    'release': (4, 4),
}


@pytest.mark.parametrize('name', REPLIES)
@pytest.mark.parametrize('end', [faults.Do.CLOSE, faults.Do.RESET])
def test_a_network_cut_at_every_byte(connect, address, name, end):
    """The value arrives, it is the right one, and in time."""
    place, length = REPLIES[name]
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address, dead_retry=0)
        assert client.get_or_set('first', lambda: 'value') == 'value'
        for at in range(length):
            key = f'{name}{at}'
            proxy.next_reply(*[None] * place, faults.cut(at, end))
            with took_less_than(5):
                assert client.get_or_set(key, lambda: 'value') == 'value'
            proxy.wait_for(lambda: proxy.pending == 0)
            stored = wire.stored(address, key)
            assert stored in (None, (16, b'value'))
            assert client.get_or_set(key, lambda: 'value', wait=0.05) == (
                'value'
            )


@pytest.mark.parametrize('length', [75])
def test_a_network_cut_at_every_byte_of_a_stale_value(
    connect, address, length
):
    """The old value or the new one, and no other."""
    options = {'time': 60, 'stale': 60, 'wait': 0.05}
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address, dead_retry=0)
        assert client.get_or_set(KEY, lambda: 'old', **options) == 'old'
        for at in range(length):
            client.set(KEY, 'old', 30)
            proxy.next_reply(faults.cut(at))
            with took_less_than(5):
                value = client.get_or_set(KEY, lambda: 'new', **options)
            assert value in ('old', 'new')
            proxy.wait_for(lambda: proxy.pending == 0)


@pytest.mark.parametrize(
    'fault',
    [
        faults.replace(b'VA 0 kother W\r\n\r\n'),
        faults.replace(b'VA 5\r\n\r\n'),
        faults.replace(b'VALUE key 0 5\r\nwrong\r\nEND\r\n'),
        faults.replace(b'HD\r\n'),
        faults.replace(b'garbage\r\n'),
        faults.repeat(),
        faults.wrong_length(),
    ],
    ids=['other key', 'length', 'get', 'HD', 'garbage', 'twice', 'longer'],
)
def test_an_answer_that_is_none_gives_no_lease(connect, address, fault):
    """The value is computed, and is right."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address, dead_retry=0, socket_timeout=0.5)
        assert client.get_or_set('first', int) == 0
        proxy.next_reply(None, fault)
        with took_less_than(10):
            assert client.get_or_set(KEY, lambda: 'value') == 'value'
        assert client.get(KEY) in ('value', None)


# update


def test_update_changes_a_value(connect, address):
    """It makes one if there is none, with its time."""
    client = connect(address)
    assert client.update(KEY, lambda old: [*(old or []), 1], 60) == [1]
    assert client.update(KEY, lambda old: [*old, 2], 60) == [1, 2]
    assert client.get(KEY) == [1, 2]
    assert 58 <= wire.seconds_left(address, KEY) <= 60


def test_update_is_tried_again_when_another_came(connect, address):
    """It is called with what the other one stored."""
    client = connect(address)
    client.set(KEY, 1)
    seen = []

    def add(number):
        seen.append(number)
        if len(seen) < 4:
            wire.put(address, KEY, 2, str(number + 10).encode())
        return number + 1

    assert client.update(KEY, add) == 32
    assert seen == [1, 11, 21, 31]


def test_update_gives_up(connect, address):
    """After so many attempts, with an error that says so."""
    client = connect(address)

    def never(number):
        wire.put(address, KEY, 2, b'1')
        return 'mine'

    with pytest.raises(memcached.UpdateError, match='5 attempts'):
        client.update(KEY, never, attempts=5)
    assert client.get(KEY) == 1


def test_update_says_when_it_did_not_come_about(connect, address):
    """No server, a value too large, one that cannot be decoded."""
    client = connect(address)
    for size in (1024 * 1024 + 1, 1024 * 1024):
        with pytest.raises(memcached.UpdateError, match='too large'):
            client.update(KEY, lambda _, size=size: b'x' * size)
    wire.put(address, KEY, 1, b'no pickle')
    with pytest.raises(memcached.UpdateError, match='decoded'):
        client.update(KEY, lambda _: 1)
    assert wire.stored(address, KEY) == (1, b'no pickle')
    with faults.refusing() as nobody:
        offline = connect(nobody)
        with pytest.raises(memcached.UpdateError, match='no server'):
            offline.update(KEY, lambda _: 1)


def test_update_says_when_it_is_not_known(connect, address):
    """The answer to the last step was lost."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address)
        proxy.next_reply(None, faults.close)
        with pytest.raises(memcached.UpdateError, match='not known'):
            client.update(KEY, lambda _: 1)


def test_update_passes_errors_on(connect, address):
    """Its own function's, and those of its arguments."""
    client = connect(address)

    def fail(_):
        raise UnluckyError

    with pytest.raises(UnluckyError):
        client.update(KEY, fail)
    assert client.update(KEY, lambda _: 1) == 1
    with pytest.raises(TypeError):
        client.update(KEY, 'no function')
    with pytest.raises(ValueError, match='time'):
        client.update(KEY, lambda _: 1, 'soon')
    with pytest.raises(memcached.Client.MemcachedKeyError):
        client.update('a b', lambda _: 1)


def test_update_within_itself_is_told_so(connect, address):
    """It would wait for itself."""
    client = connect(address)

    async def awaitable(_):
        return await client.client.update(KEY, lambda _: 1)

    def blocking(_):
        return client.update(KEY, lambda _: 1)

    kind = type(client.client)
    with pytest.raises(RuntimeError, match='itself'):
        client.update(KEY, blocking if kind is memcached.Client else awaitable)


def test_updates_of_one_process_lose_nothing(connect, address):
    """They come one after another, so that none is in vain."""
    client = connect(address)
    calls = []

    def add(number):
        calls.append(None)
        return (number or 0) + 1

    async def body(caller):
        return await caller.update(KEY, add)

    results = client.together(50, body)
    assert sorted(results) == list(range(1, 51))
    assert client.get(KEY) == 50
    assert len(calls) == 50


@pytest.mark.parametrize(
    'kind, number, callers', [('AsyncClient', 8, 64), ('Client', 3, 32)]
)
def test_updates_of_many_processes_lose_nothing(
    address, kind, number, callers
):
    """Each caller of each process adds 1."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                Process(address, kind, callers, method='update')
            )
            for _ in range(number)
        ]
        for process in processes:
            process.expect('ready')
        for process in processes:
            process.begin()
        results = [r for process in processes for r in process.results()]
    total = number * callers
    assert sorted(results) == list(range(1, total + 1))
    assert wire.stored(address, 'number') == (2, str(total).encode())


# gat and gats


def test_gat_reads_and_sets_another_time(connect, address):
    """A miss is the default."""
    client = connect(address)
    client.set(KEY, 'value', 10)
    assert client.gat(KEY, 60) == 'value'
    assert 58 <= wire.seconds_left(address, KEY) <= 60
    assert client.gat('none', 60) is None
    assert client.gat('none', 60, 'default') == 'default'
    assert client.gat(KEY, 0) == 'value'
    assert wire.seconds_left(address, KEY) == -1
    with pytest.raises(ValueError, match='time'):
        client.gat(KEY, 'soon')


def test_gats_is_for_a_cas(connect, address):
    """It stores only if nobody else has since."""
    client = connect(address)
    client.set(KEY, 'value', 10)
    assert client.gats(KEY, 60) == 'value'
    assert 58 <= wire.seconds_left(address, KEY) <= 60
    assert client.cas(KEY, 'new')
    client.gats(KEY, 60)
    wire.put(address, KEY, 16, b'other')
    assert not client.cas(KEY, 'newer')
    assert client.gats('none', 60) is None
    assert client.cas('none', 'made')


def test_gat_keeps_its_place_among_writes(address):
    """What was called later has the last word on the time."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.set(KEY, 'old')
        found, _ = await asyncio.gather(
            client.gat(KEY, 100), client.set(KEY, 'new', 1000)
        )
        assert found == 'old'
        await client.close()

    asyncio.run(main())
    assert wire.seconds_left(address, KEY) > 100
