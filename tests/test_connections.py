"""A connection is idle, out with an exchange, or closed; never two of them."""

import asyncio
import gc
import logging
import signal
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

LONG = 10


@pytest.fixture
def server():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def proxy(server):
    with faults.FaultProxy(server.address) as proxy:
        yield proxy


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def clients(address):
    """Return how many connections a server has, but for the one that asks."""
    return int(wire.statistics(address)['curr_connections'])


# Ctrl-C


class Press(logging.Handler):
    """Presses Ctrl-C when a refusal is logged."""

    def __init__(self):
        super().__init__()
        self.armed = True

    def emit(self, record):
        if self.armed and 'CLIENT_ERROR' in record.getMessage():
            self.armed = False
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_an_answer_is_noted(server):
    """No caller gets the number of another one after it."""
    with faults.FaultProxy(server.address) as proxy:
        client = memcached.AsyncClient(
            servers=proxy.address, socket_timeout=LONG
        )
        loop = asyncio.new_event_loop()

        async def do(name, *arguments):
            return await getattr(client, name)(*arguments)

        for key, value in ('text', 'text'), ('one', 100), ('other', 5000):
            loop.run_until_complete(do('set', key, value))
        press = Press()
        logger = logging.getLogger('sprockets.clients.memcached')
        logger.addHandler(press)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(do('incr', 'text'))
        finally:
            logger.removeHandler(press)

        async def both():
            second = memcached.AsyncClient(
                servers=proxy.address, socket_timeout=LONG
            )
            proxy.every_reply(faults.delay(0.02))
            for count in range(1, 10):
                assert await asyncio.gather(
                    client.incr('one'), second.incr('other')
                ) == [100 + count, 5000 + count]
            await second.close()
            await client.close()

        loop.run_until_complete(both())
        loop.close()


def in_two(reply):
    """Send a reply's first byte, and then the rest."""
    return [reply[:1], 0.001, reply[1:]]


# At each point all garbage is collected.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    'fault', [None, in_two], ids=['in one step', 'in several']
)
@pytest.mark.filterwarnings('ignore::ResourceWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_ctrl_c_at_any_point_of_a_blocking_call(server, proxy, fault):
    """The next calls get their own replies, and no connection is lost."""
    client = memcached.Client(servers=proxy.address, dead_retry=0)
    proxy.every_reply(fault)
    endpoint = client.servers[0].endpoint
    numbers = {f'number{place}': place * 1000 for place in range(3)}
    client.set_multi({**numbers, 'own': 0})
    at = 0
    while True:
        at += 1
        with faults.interrupted(at) as interrupted:
            client.incr('number0')
            client.get_multi(['number1', 'number2'])
        assert client.incr('own') == at
        found = client.get_multi(list(numbers))
        # It may have been counted before.
        assert 0 <= found.pop('number0') <= at
        assert found == {'number1': 1000, 'number2': 2000}
        idle = endpoint._connections.idle
        assert len(idle) == len(set(idle)) == endpoint.connections
        if not interrupted:
            break
    assert at > 100
    client.disconnect_all()
    # Those that were interrupted while they were made, in its tracebacks.
    gc.collect()
    until(lambda: clients(server.address) == 1)


# At each point all garbage is collected.
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings('ignore::ResourceWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_ctrl_c_at_any_point_while_one_connects(server):
    """Likewise, and no socket is left open."""
    client = memcached.Client(servers=server.address, dead_retry=0)
    endpoint = client.servers[0].endpoint
    client.set('key', 'value')
    at = 0
    while True:
        client.disconnect_all()
        at += 1
        with faults.interrupted(at) as interrupted:
            client.get('key')
        assert client.get('key') == 'value'
        assert endpoint.connections <= 2
        if not interrupted:
            break
    assert at > 50
    client.disconnect_all()
    gc.collect()
    until(lambda: clients(server.address) == 1)


# What is in use


def test_a_connection_in_use_shows_that_the_server_is_the_same(proxy):
    """A second one that is opened meanwhile leaves cas to its caller."""
    client = memcached.Client(servers=proxy.address, socket_timeout=LONG)
    endpoint = client.servers[0].endpoint
    client.set('key', 1)
    assert client.gets('key') == 1
    proxy.next_reply(faults.stall)
    waits = threading.Thread(target=client.get, args=('key',))
    waits.start()
    proxy.wait_for(lambda: proxy.stalled)
    assert endpoint.connections == 1
    assert client.cas('key', 2)
    assert endpoint.connections == 2
    proxy.release()
    waits.join()
    assert endpoint.connections == 2
    client.disconnect_all()


# What others notice of a client that is closed


def test_closing_a_client_leaves_cas_to_another(server):
    """Nobody has restarted the server, as far as the other one can see."""

    async def main():
        one = memcached.AsyncClient(servers=server.address)
        other = memcached.AsyncClient(servers=server.address)
        await one.set('key', 1)
        assert await other.get('key') == 1
        assert await one.gets('key') == 1
        await other.close()
        assert await one.cas('key', 2)
        assert await one.get('key') == 2
        await one.close()

    asyncio.run(main())


def test_the_last_client_closes_the_connections(server):
    """And ends the threads."""

    async def main():
        several = [
            memcached.AsyncClient(servers=server.address) for _ in range(3)
        ]
        for client in several:
            await client.set('key', 1)
        (endpoint,) = several[0]._engine.cluster.endpoints
        for client in several[1:]:
            await client.close()
        assert endpoint.connections
        await several[0].close()
        assert not endpoint.connections

    asyncio.run(main())
    until(lambda: clients(server.address) == 1)


def test_other_servers_and_clients_that_are_gone_do_not_count(server):
    """Whoever uses a server no more does not keep its connections open."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        moved = memcached.AsyncClient(servers=server.address)
        memcached.AsyncClient(servers=server.address)
        await client.set('key', 1)
        (endpoint,) = client._engine.cluster.endpoints
        await moved.set_servers(['127.0.0.1:1'])
        gc.collect()
        await client.close()
        assert not endpoint.connections
        await moved.close()

    asyncio.run(main())


# A crowd of threads


def test_a_crowd_that_comes_again_finds_its_connections(server):
    """Bursts of many threads do not connect each time."""
    client = memcached.Client(servers=server.address, max_connections=4)
    client.set('key', 1)
    before = int(wire.statistics(server.address)['total_connections'])
    crowd = threading.Barrier(32)

    def burst():
        for _ in range(20):
            crowd.wait(LONG)
            for _ in range(5):
                assert client.get('key') == 1

    several = [threading.Thread(target=burst) for _ in range(32)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    made = int(wire.statistics(server.address)['total_connections']) - before
    assert made <= 40
    # Later they are as few as there are to be.
    until(lambda: client.servers[0].endpoint.connections <= 4)
    until(lambda: clients(server.address) <= 5)
    assert client.get('key') == 1
    client.disconnect_all()


def test_more_than_are_to_be_idle_without_a_thread(server, monkeypatch):
    """Where none can be started, they are closed at once."""
    client = memcached.Client(servers=server.address, max_connections=1)
    endpoint = client.servers[0].endpoint
    several = [endpoint._connect(time.monotonic() + LONG) for _ in range(3)]

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', start)
        for begun in several:
            endpoint.finish(begun)
    assert endpoint.connections == 1
    assert client.set('key', 1)
    client.disconnect_all()


def test_a_second_end_of_an_exchange_does_nothing(server):
    """The connection may be another one's by then."""
    client = memcached.Client(servers=server.address)
    endpoint = client.servers[0].endpoint
    client.set('key', 1)
    first = endpoint.ready()
    endpoint.finish(first)
    second = endpoint.ready()
    assert second.link is first.link
    endpoint.finish(first)
    first.drop()
    assert second.link.usable
    assert endpoint.ready() is None
    endpoint.finish(second)
    assert endpoint.connections == 1
    client.disconnect_all()
