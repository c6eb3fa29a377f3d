"""What a name stands for: the same for all connections, and told of once."""

import asyncio
import contextlib
import logging
import socket
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import resolver


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    """Nothing has been told of in another test."""
    monkeypatch.setattr(resolver, '_taken', {})


@pytest.fixture
def names(monkeypatch):
    """Names of this machine, whose addresses are others each time."""
    known = {}
    look_up = socket.getaddrinfo

    def rotate(host, port, family=0, *args, flags=0, **kwargs):
        if host not in known or flags & socket.AI_NUMERICHOST:
            return look_up(host, port, family, *args, flags=flags, **kwargs)
        if not known[host]:
            raise socket.gaierror(socket.EAI_AGAIN, 'Try again')
        known[host].append(known[host].pop(0))
        return [
            entry
            for address in known[host]
            for entry in look_up(address, port, family, *args, **kwargs)
        ]

    monkeypatch.setattr(socket, 'getaddrinfo', rotate)
    return known


SECONDS = 30


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


@contextlib.contextmanager
def pods(addresses):
    """Run a memcached for each address, all on one port."""
    with contextlib.ExitStack() as stack:
        port = None
        for address in addresses:
            server = MemcachedServer(host=address)
            server._port = port
            port = stack.enter_context(server).port
        yield port


def test_all_connections_go_to_one_address(names, connect, caplog):
    """Whatever the order of the answer: what one stored others read."""
    names['pods'] = ['127.0.0.2', '127.0.0.3', '127.0.0.1']
    with pods(names['pods']) as port:
        client = connect(f'pods:{port}')
        for number in range(9):
            assert client.set(f'key{number}', number)
            client.disconnect_all()
        assert client.get_multi(f'key{n}' for n in range(9)) == {
            f'key{n}': n for n in range(9)
        }
    (warning,) = warnings(caplog)
    assert '3 addresses' in warning
    assert '127.0.0.1, 127.0.0.2, 127.0.0.3' in warning
    assert f'pods:{port}' in warning


def test_they_stay_together_where_one_was_gone(names, connect):
    """Those that are there already, and new ones."""
    names['pods'] = ['127.0.0.2', '127.0.0.1']
    with MemcachedServer(host='127.0.0.2') as second:
        first = MemcachedServer()
        first._port = second.port
        client = connect(f'pods:{second.port}')
        assert client.set('key', 'value')
        with first:
            client.disconnect_all()
            assert client.get('key') == 'value'
            # Until that one is gone.
            second.kill()
            client.forget_dead_hosts()
            assert client.get('key') is None
            assert client.set('key', 'value')


def test_a_server_that_has_moved_is_looked_up_anew(
    names, connect, memcached_server
):
    """Nobody says that it is gone: it costs one timeout, and no server."""
    names['pod'] = ['127.0.0.1']
    with (
        faults.FaultProxy(memcached_server.address) as before,
        MemcachedServer(host='127.0.0.2') as after,
    ):
        # It keeps its port.
        after.kill()
        after._port = before.port
        after.start()
        wire.put(f'127.0.0.2:{before.port}', 'key', 16, b'after')
        client = connect(
            f'pod:{before.port}', socket_timeout=0.5, dead_retry=3600
        )
        assert client.set('key', 'before')
        before.forget()
        names['pod'] = ['127.0.0.2']
        assert client.get('key') is None
        end = time.monotonic() + 30
        while client.get('key') != 'after':
            assert time.monotonic() < end
            time.sleep(0.002)
        assert len(before.connections) == 1


@pytest.fixture
def two(names):
    """A name for the second of two servers, and the first one's address."""
    names['pods'] = ['127.0.0.2']
    with pods(['127.0.0.1', '127.0.0.2']) as port:
        yield f'pods:{port}', f'127.0.0.1:{port}'


def connect_once_more(client):
    """Store something over a new connection, while there is one already."""
    (server,) = client.servers
    taken = server.endpoint._connections.take()
    assert client.set('key', 'new')
    taken.put_back()


def test_an_address_more_is_no_reason_to_go_there(names, two):
    """The one that there was has the values, and is there."""
    name, first = two
    client = memcached.Client(servers=name)
    assert client.set('key', 'old')
    names['pods'] = ['127.0.0.1', '127.0.0.2']
    connect_once_more(client)
    assert client.get('key') == 'new'
    assert wire.stored(first, 'key') is None
    client.disconnect_all()


def test_a_name_that_moves_takes_its_connections_along(names, two):
    """What it stood for before lives on, with what it had."""
    name, first = two
    client = memcached.Client(servers=name)
    assert client.set('key', 'old')
    assert client.gets('key') == 'old'
    names['pods'] = ['127.0.0.1']
    connect_once_more(client)
    assert wire.stored(first, 'key')
    assert [client.get('key') for _ in range(3)] == ['new'] * 3
    # What was seen there says nothing of what is here.
    assert not client.cas('key', 'newest')
    assert client.get('key') == 'new'
    client.disconnect_all()


def test_a_loop_takes_its_connections_along(names, two):
    """Those that it keeps, too."""
    name, _ = two

    async def main():
        client = memcached.AsyncClient(servers=name)
        other = memcached.Client(servers=name)
        assert await client.set('key', 'old')
        assert await client.get('key') == 'old'
        names['pods'] = ['127.0.0.1']
        assert await asyncio.to_thread(other.set, 'key', 'new')
        assert await client.get('key') == 'new'
        await client.close()
        other.disconnect_all()

    asyncio.run(main())


# A name that is not known just now


@pytest.fixture
def forgotten(names, monkeypatch):
    """A client of a server whose name is not known any more.

    And how to have nobody answer who is asked for it: an event to set.

    """
    answering = threading.Event()
    answering.set()
    names['pod'] = ['127.0.0.1']
    look_up = socket.getaddrinfo

    def wait(host, *args, flags=0, **kwargs):
        if host in names and not flags & socket.AI_NUMERICHOST:
            answering.wait(SECONDS)
        return look_up(host, *args, flags=flags, **kwargs)

    monkeypatch.setattr(socket, 'getaddrinfo', wait)
    with MemcachedServer() as server:
        client = memcached.Client(
            servers=f'pod:{server.port}', socket_timeout=2, dead_retry=3600
        )
        assert client.set('key', 'value')
        names['pod'] = []
        yield client, answering
        answering.set()
        client.disconnect_all()


def get_while_taken(client):
    """Read something while somebody has the connection, but not for long."""
    (server,) = client.servers
    connections = server.endpoint._connections
    taken = connections.take()
    found = []
    call = threading.Thread(target=lambda: found.append(client.get('key')))
    call.start()
    wait_until(lambda: connections.wanted or not call.is_alive())
    taken.put_back()
    call.join()
    return found


def test_a_name_that_is_not_known_is_no_outage(forgotten, caplog):
    """What is connected serves on, until there is nothing any more."""
    client, _ = forgotten
    endpoint = client.servers[0].endpoint
    for _ in range(3):
        assert get_while_taken(client) == ['value']
    assert endpoint.down_since is None
    (warning,) = warnings(caplog)
    assert f'{endpoint} cannot be looked up: [Errno -3] Try again' in warning
    client.disconnect_all()
    assert client.get('key') is None
    assert endpoint.down_since is not None
    assert warnings(caplog)[1:] == [
        f'memcached server {endpoint} is down: [Errno -3] Try again'
    ]


def test_a_name_server_that_hangs_costs_one_call(forgotten, caplog):
    """That waits in vain, and the next ones do not wait for a name."""
    client, answering = forgotten
    endpoint = client.servers[0].endpoint
    answering.clear()
    assert get_while_taken(client) == [None]
    assert endpoint.down_since is None
    assert get_while_taken(client) == ['value']
    assert client.get('key') == 'value'
    (warning,) = warnings(caplog)
    assert f"{endpoint} cannot be looked up: the look-up of 'pod'" in warning


def addresses(server):
    """Return what a server stands for."""
    address = settings.parse_server(server)[0]
    return [place[0] for _, place in resolver.resolve(address, 10)]


def test_the_order_is_the_same_each_time(names):
    """In all processes."""
    names['pods'] = ['10.0.0.3', '10.0.0.1', '10.0.0.2']
    for _ in range(4):
        assert addresses('pods') == ['10.0.0.1', '10.0.0.2', '10.0.0.3']


def test_two_kinds_of_addresses_are_one_machine(names, caplog):
    """localhost is the most usual of all."""
    names['both'] = ['::1', '127.0.0.1', '127.0.0.1']
    assert addresses('both') == ['127.0.0.1', '::1']
    assert warnings(caplog) == []


def test_several_of_one_kind_are_told_of(names, caplog):
    """Of IPv6 as well."""
    names['both'] = ['::1', '::2', '127.0.0.1']
    assert addresses('both') == ['127.0.0.1', '::1', '::2']
    (warning,) = warnings(caplog)
    assert '2 addresses' in warning
    assert '::1, ::2' in warning


def test_a_warning_is_said_once_for_each_name(names, caplog):
    """However many threads look it up."""
    caplog.set_level(logging.WARNING)
    names['one'] = ['10.0.0.3', '10.0.0.1']
    names['two'] = ['10.0.0.3', '10.0.0.1']

    def look_up():
        for name in ('one', 'two'):
            for _ in range(10):
                addresses(name)

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warnings(caplog)) == 2


def test_an_address_is_not_told_of(memcached_server, caplog):
    """It stands for itself."""
    client = memcached.Client()
    assert client.set('key', 'value')
    assert warnings(caplog) == []
