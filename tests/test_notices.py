"""Whatever happens, the log is not flooded, and says what was left out."""

import asyncio
import concurrent.futures
import logging
import threading
import time

import freezegun
import pytest
from services import wait_until
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import notices
from sprockets.clients.memcached.loop import lanes
from sprockets.clients.memcached.servers import health
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.web import tally

LOGGER = logging.getLogger('sprockets.clients.memcached.tests')


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def test_one_of_a_kind_is_logged(logged):
    """The next one says how many were not."""
    said = notices.Notices(LOGGER, quiet=0.2)
    for number in range(100):
        assert said.warning('server %s: %s', 1, number, about=1) == (
            number == 0
        )
    assert said.warning('server %s: %s', 2, 0, about=2)
    assert said.warning('another thing')
    wait_until(lambda: said.warning('server %s: %s', 1, 'later', about=1))
    assert logged.messages[:3] == [
        'server 1: 0',
        'server 2: 0',
        'another thing',
    ]
    (last,) = logged.messages[3:]
    assert last.startswith('server 1: later (')
    assert int(last.split('(')[1].split()[0]) >= 99
    # Where it happened, and not where it was counted.
    assert {record.filename for record in logged.records} == {
        'test_notices.py'
    }


def test_an_error_has_its_traceback(logged):
    """The first time."""
    said = notices.Notices(LOGGER)
    for _ in range(3):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            said.error('It failed', error=error)
    assert logged.text.count('ZeroDivisionError') == 2
    assert len(logged.messages) == 1


def test_kinds_without_end_are_no_flood(logged):
    """And take no memory without end."""
    said = notices.Notices(LOGGER)
    for number in range(10_000):
        said.warning('odd: %s', number, about=number)
    assert len(logged.messages) <= notices.MOST + 1
    assert len(said._kinds) <= notices.MOST + 1


def test_what_nobody_wants_to_see_is_not_counted(logged):
    """A level that is off costs nothing."""
    said = notices.Notices(LOGGER)
    logged.set_level(logging.ERROR, LOGGER.name)
    assert not said.warning('thing')
    logged.set_level(logging.INFO, LOGGER.name)
    assert said.warning('thing')
    assert logged.messages == ['thing']


def test_threads_count_together(logged):
    """Nothing is lost between them."""
    said = notices.Notices(LOGGER, quiet=0.5)
    assert said.warning('thing')

    def flood():
        for _ in range(1000):
            said.warning('thing')

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tries = 0
    while not said.warning('thing'):
        tries += 1
        time.sleep(0.01)
    counts = [
        int(message.partition('(')[2].partition(' ')[0] or 0)
        for message in logged.messages
    ]
    assert sum(counts) + len(counts) == 4002 + tries


# Where it is used


def test_values_that_are_too_large(connect, memcached_server, logged):
    """A page that has grown is stored a thousand times a second."""
    client = connect(memcached_server.address, server_max_value_length=100)
    for _ in range(50):
        assert not client.set('key', 'x' * 101)
    assert logged.messages == [
        'A value of 101 bytes is not stored, 100 are the limit'
    ]


def test_a_server_that_goes_and_comes(logged):
    """What is said of it is whole: it went, and it came back."""
    server = health.Health('10.0.0.1:11211', 30, 3)
    for _ in range(100):
        server.mark_down(ConnectionRefusedError('Connection refused'))
        server.mark_up()
    down, up = logged.messages
    assert (
        down == 'memcached server 10.0.0.1:11211 is down: Connection refused'
    )
    assert up.startswith('memcached server 10.0.0.1:11211 is up after')


def test_a_server_that_stays_down_is_told_of(monkeypatch, logged):
    """By and by, where the beginning was one of many."""
    monkeypatch.setattr(health, 'QUIET', 0.3)
    server = health.Health('10.0.0.1:11211', 0, 3)
    for _ in range(100):
        server.mark_down(ConnectionRefusedError('Connection refused'))
        server.mark_up()
    server.mark_down(ConnectionRefusedError('Connection refused'))
    before = len(logged.messages)

    def is_said():
        server.mark_down(ConnectionRefusedError('again'), server.try_again())
        return len(logged.messages) > before

    wait_until(is_said)
    assert 'is down: again' in logged.messages[-1]
    assert 'more since the last time' in logged.messages[-1]
    server.mark_up()
    assert 'is up after' in logged.messages[-1]


class Page(memcached.MemcachedMixin, web.RequestHandler):
    """Its hooks fail, each time."""

    def __init__(self):
        """Without a request, which they have no need of."""

    def on_memcached_timing(self, command, duration):
        raise ZeroDivisionError


def test_hooks_that_fail(logged):
    """They are called for each call, and so fail for each."""
    for _ in range(50):
        tally.Tally(Page()).end('get', 0, None, 0, 0)
    (message,) = logged.messages
    assert message.startswith('A hook for memcached get failed')


def test_a_child_counts_by_itself(logged):
    """A lock that another thread of its parent had is not its own."""
    with notices._lock.held:
        held = notices._lock.held
        notices._lock.forget_after_fork()
        assert notices._lock.held is not held


# Clocks that tests put in the place of others


def test_a_server_found_down_in_frozen_time_comes_back(
    connect, memcached_server
):
    """Not in a lifetime, but when it is tried again."""
    client = connect(
        memcached_server.address, dead_retry=0.05, socket_timeout=1
    )
    assert client.set('key', 'value')
    with freezegun.freeze_time('2044-01-01', real_asyncio=True):
        memcached_server.kill()
        assert client.get('key') is None
    memcached_server.start()
    wait_until(lambda: client.set('key', 'value'))
    assert client.get('key') == 'value'


def test_what_failed_in_frozen_time_is_tried_again(memcached_server):
    """A stale value that could not be computed anew."""
    client = memcached.Client()
    client.get_or_set('key', lambda: 'old', time=60, stale=30)
    client.mark_stale('key', 30)

    def fail():
        raise ZeroDivisionError

    with freezegun.freeze_time('2044-01-01'):
        assert client.get_or_set('key', fail, time=60, stale=30) == 'old'
    wait_until(
        lambda: (
            client.get_or_set('key', lambda: 'new', time=60, stale=30) == 'new'
        )
    )


def test_a_retry_that_no_clock_brings_is_over():
    """Whatever has set it."""
    server = health.Health('10.0.0.1:11211', 30, 3)
    server.mark_down(ConnectionRefusedError())
    assert not server.usable()
    assert server.try_again() is None
    server.retry_at += 1e9
    assert server.usable()
    assert server.try_again() is not None


# Where calls are under way


def test_a_server_that_is_full(connect, logged):
    """It refuses each write."""
    with MemcachedServer('-m', '2', '-M') as server:
        client = connect(server.address)
        value = 'x' * 100_000
        refused = [client.set(f'key{n}', value) for n in range(100)].count(0)
    assert refused > 20
    (message,) = logged.messages
    assert 'out of memory' in message


def test_more_calls_than_are_answered(logged, monkeypatch):
    """The overload ends and begins with each batch that leaves."""
    monkeypatch.setattr(lanes, 'MAX_WAITING_CALLS', 2000)

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, max_connections=1, socket_timeout=30
        )
        await client.get('key')
        calls = []
        for _ in range(50):
            calls += [client.get('key') for _ in range(3000)]
            await asyncio.sleep(0.002)
        await asyncio.gather(*calls)
        await client.close()

    with MemcachedServer() as server:
        asyncio.run(main())
    (message,) = logged.messages
    assert 'more are refused' in message


def test_an_executor_that_is_gone(logged):
    """It takes no batch."""

    async def main():
        executor = concurrent.futures.ThreadPoolExecutor(2)
        executor.shutdown()
        client = memcached.AsyncClient(
            servers=server.address, executor=executor
        )
        for _ in range(20):
            assert await client.get('key') is None
        await client.close()

    with MemcachedServer() as server:
        asyncio.run(main())
    (message,) = logged.messages
    assert 'no thread takes its calls' in message


def test_observers_that_fail(logged, memcached_server):
    """They are told of each call."""

    class Fails:
        def over(self, *_):
            raise ZeroDivisionError

    async def main():
        client = memcached.AsyncClient()
        scope = client.scope(lambda *_: Fails())
        for _ in range(20):
            await scope.get('key')
        await client.close()

    asyncio.run(main())
    assert len(logged.messages) == 1
