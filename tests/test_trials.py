"""The one try of a server that is down: who has it, and how it ends."""

import asyncio
import errno
import socket
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.servers import endpoints, health
from sprockets.clients.memcached.testing import MemcachedServer

LONG = 10


@pytest.fixture
def server():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def client(server):
    """A client of one server, which waits long for one that is down."""
    client = memcached.Client(
        servers=server.address, dead_retry=60, socket_timeout=LONG
    )
    yield client
    client.disconnect_all()


def due(endpoint):
    """Let a server be down, and its trial due."""
    endpoint.mark_down(OSError('no reason'))
    endpoint.retry_at = time.monotonic()


def endpoint_of(client):
    return client.servers[0].endpoint


def test_who_is_first_has_it(client):
    """The others find the server down until it is over."""
    endpoint = endpoint_of(client)
    assert endpoint.try_again() is None
    due(endpoint)
    assert endpoint.usable()
    assert endpoint.usable()
    assert isinstance(endpoint.try_again(), health.Trial)
    assert not endpoint.usable()
    assert endpoint.try_again() is None


def test_one_that_is_given_back(client):
    """The next caller may try at once; a second time changes nothing."""
    endpoint = endpoint_of(client)
    due(endpoint)
    trial = endpoint.try_again()
    trial.give_back()
    assert endpoint.usable()
    assert endpoint.try_again() is not None
    trial.give_back()
    assert not endpoint.usable()


def test_one_that_is_used_up(client):
    """Whoever had it cannot give it back."""
    endpoint = endpoint_of(client)
    due(endpoint)
    trial = endpoint.try_again()
    endpoint.mark_down(OSError('no reason'), trial)
    trial.give_back()
    assert not endpoint.usable()
    assert endpoint.retry_at > time.monotonic() + 50


def test_one_that_was_lost(server):
    """It does not keep the server down for ever."""
    client = memcached.Client(
        servers=server.address, dead_retry=0.05, socket_timeout=0.1
    )
    endpoint = endpoint_of(client)
    due(endpoint)
    assert endpoint.try_again() is not None
    assert client.get('key', 'default') == 'default'
    until = time.monotonic() + LONG
    while not client.set('key', 1) and time.monotonic() < until:
        time.sleep(0.01)
    assert client.get('key') == 1
    client.disconnect_all()


def test_a_late_failure_leaves_a_trial_alone(client):
    """Nor does it keep the server down for longer."""
    endpoint = endpoint_of(client)
    endpoint.mark_down(OSError('no reason'))
    retry_at = endpoint.retry_at
    endpoint.mark_down(OSError('late'))
    assert endpoint.retry_at == retry_at
    endpoint.retry_at = time.monotonic()
    trial = endpoint.try_again()
    endpoint.mark_down(OSError('late'))
    endpoint.mark_up(trial)
    assert endpoint.retry_at is None


def test_a_call_that_came_late_tries_nothing(client, server):
    """It waited while others found the server down."""
    endpoint = endpoint_of(client)
    assert client.set('key', 1)
    before = server_connections(server)
    endpoint.mark_down(OSError('no reason'))
    retry_at = endpoint.retry_at
    for left in (LONG, 0, -1):
        command = endpoints.protocol.Version()
        endpoint.exchange([command], time.monotonic() + left)
        assert command.error is not None
        assert endpoint.retry_at == retry_at
    # The one that asks was new.
    assert server_connections(server) == before + 1


def server_connections(server):
    return int(wire.statistics(server.address)['total_connections'])


def test_calls_that_came_late_keep_dead_retry():
    """A server that hangs is asked once, and then left alone.

    Calls for several servers wait for worker threads; by the time that one is
    free the server may be down.

    """
    with (
        faults.ScriptedServer(*[[[faults.Do.STALL]]] * 99) as hung,
        MemcachedServer() as server,
    ):
        client = memcached.Client(
            servers=[hung.address, server.address],
            socket_timeout=0.3,
            dead_retry=60,
            max_connections=2,
            failover=False,
        )
        keys = [f'key{number}' for number in range(20)]

        def calls():
            for _ in range(5):
                client.get_multi(keys)

        several = [threading.Thread(target=calls) for _ in range(10)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        assert len(hung.connections) <= 2
        assert endpoint_of(client).retry_at > time.monotonic() + 50
        client.disconnect_all()


# Every kind of call brings a server back


def keys_of(client, endpoint):
    pick = client._engine.cluster.pick
    return [
        key
        for key in [f'key{number}' for number in range(3000)]
        if pick(key.encode()) is endpoint
    ]


async def cancelled(client, key):
    client.get(key).cancel()
    await asyncio.sleep(0)


async def gets_and_cas(client, key):
    endpoint = client._engine.cluster.endpoints[0]
    endpoint.mark_up()
    await client.set(key, 1)
    await client.gets(key)
    due(endpoint)
    assert await client.cas(key, 2)


KINDS = {
    'get': lambda client, key: client.get(key),
    'gets': lambda client, key: client.gets(key),
    'gat': lambda client, key: client.gat(key, 9),
    'set': lambda client, key: client.set(key, 1),
    'add': lambda client, key: client.add(key, 1),
    'incr': lambda client, key: client.incr(key),
    'delete': lambda client, key: client.delete(key),
    'touch': lambda client, key: client.touch(key),
    'get_multi': lambda client, key: client.get_multi([key]),
    'set_multi': lambda client, key: client.set_multi({key: 1}),
    'delete_multi': lambda client, key: client.delete_multi([key]),
    'get_stats': lambda client, key: client.get_stats(),
    'get_slabs': lambda client, key: client.get_slabs(),
    'flush_all': lambda client, key: client.flush_all(),
    'get_or_set': lambda client, key: client.get_or_set(key, int),
    'stale': lambda client, key: client.get_or_set(key, int, 60, stale=5),
    'default': lambda client, key: client.get_or_set(key, int, default=3),
    'invalidate': lambda client, key: client.invalidate(key),
    'mark_stale': lambda client, key: client.mark_stale(key),
    'update': lambda client, key: client.update(key, lambda value: 1),
    'cancelled': cancelled,
    'cas': gets_and_cas,
}


@pytest.mark.parametrize('failover', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_an_awaited_call_brings_a_server_back(kind, failover):
    """Whatever it does, and whether or not there are other servers."""

    async def main():
        client = memcached.AsyncClient(
            servers=[first.address, second.address],
            dead_retry=60,
            failover=failover,
        )
        endpoint = client._engine.cluster.endpoints[0]
        key = keys_of(client, endpoint)[0]
        due(endpoint)
        await KINDS[kind](client, key)
        # A call that was cancelled travels on.
        await client.close()
        assert endpoint.retry_at is None

    with MemcachedServer() as first, MemcachedServer() as second:
        asyncio.run(main())


@pytest.mark.parametrize('kind', sorted({*KINDS} - {'cancelled', 'cas'}))
def test_a_blocking_call_brings_a_server_back(kind, server):
    """Likewise."""
    client = memcached.Client(servers=server.address, dead_retry=60)
    due(endpoint_of(client))
    KINDS[kind](client, 'key')
    assert endpoint_of(client).retry_at is None
    client.disconnect_all()


@pytest.mark.parametrize('awaited', [True, False])
def test_all_keys_of_the_server_go_with_the_trial(awaited, server):
    """A call for many keys is one trial, in however many batches it is."""
    values = {f'key{number}': number for number in range(2500)}

    async def main():
        client = memcached.AsyncClient(
            servers=[server.address, other.address], dead_retry=60
        )
        endpoint = client._engine.cluster.endpoints[0]
        own = set(keys_of(client, endpoint)) & set(values)
        assert await client.set_multi(values) == []
        due(endpoint)
        assert await client.get_multi(list(values)) == values
        assert len(own) > 1000
        due(endpoint)
        assert await client.set_multi(values) == []
        await client.close()

    with MemcachedServer() as other:
        if awaited:
            asyncio.run(main())
            return
        client = memcached.Client(
            servers=[server.address, other.address], dead_retry=60
        )
        assert client.set_multi(values) == []
        due(endpoint_of(client))
        assert client.get_multi(list(values)) == values
        due(endpoint_of(client))
        assert client.set_multi(values) == []
        client.disconnect_all()


def test_a_trial_in_a_loop_that_ends(server):
    """The next loop finds the server down, and later up."""

    async def give_up(client):
        client.get('key')

    async def main(client):
        for _ in range(1000):
            if await client.set('key', 1):
                break
            await asyncio.sleep(0.01)
        assert await client.get('key') == 1
        await client.close()

    client = memcached.AsyncClient(
        servers=server.address, dead_retry=0.05, socket_timeout=0.2
    )
    due(client._engine.cluster.endpoints[0])
    asyncio.run(give_up(client))
    asyncio.run(main(client))


# What is short in this process is no fault of a server


@pytest.fixture
def no_descriptors(monkeypatch):
    """Let no socket be opened, as with too many open files."""

    class Socket(socket.socket):
        def __init__(self, *arguments, **options):
            raise OSError(24, 'Too many open files')

    def forbid():
        monkeypatch.setattr(socket, 'socket', Socket)

    return forbid


def test_a_call_without_a_descriptor(server, no_descriptors, monkeypatch):
    """It fails, and goes to no other server; the next one is as before."""
    with MemcachedServer() as other:
        client = memcached.Client(
            servers=[server.address, other.address], dead_retry=60
        )
        key = (1, 'key')  # the second server's
        assert client.set(key, 'value')
        client.disconnect_all()
        with monkeypatch.context():
            no_descriptors()
            assert client.get(key) is None
            assert not client.set(key, 'other')
            monkeypatch.undo()
        assert [s.endpoint.retry_at for s in client.servers] == [None, None]
        assert client.get(key) == 'value'
        client.disconnect_all()


@pytest.mark.parametrize('step', ['__init__', 'connect'])
@pytest.mark.parametrize(
    'name', ['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS', 'EADDRNOTAVAIL']
)
def test_a_shortage_of_any_kind(
    connect, memcached_server, monkeypatch, name, step
):
    """Descriptors, memory, ports: the call fails, and the next one is well."""
    client = connect(memcached_server.address, dead_retry=3600)
    assert client.set('key', 'value')
    client.disconnect_all()

    take = getattr(socket.socket, step)

    def fail(sock, first, *arguments, **options):
        # An event loop has a pair of sockets for itself.
        if first == socket.AF_UNIX:
            return take(sock, first, *arguments, **options)
        raise OSError(getattr(errno, name), name)

    with monkeypatch.context() as patch:
        patch.setattr(
            socket, 'socket', type('Socket', (socket.socket,), {step: fail})
        )
        assert client.get('key') is None
        assert not client.set('key', 'other')
    assert client.get('key') == 'value'


def test_a_name_that_is_looked_up_without_a_descriptor(
    connect, memcached_server, descriptors
):
    """It is said to be unknown, for the file of hosts cannot be read."""
    port = memcached_server.port
    client = connect(f'localhost:{port}', dead_retry=3600)
    assert client.set('key', 'value')
    client.disconnect_all()
    with descriptors(0):
        assert client.get('key') is None
        assert not client.set('key', 'other')
    assert client.get('key') == 'value'


def test_a_trial_without_a_descriptor(client, no_descriptors, monkeypatch):
    """It is given back: the next call tries the server."""
    endpoint = endpoint_of(client)
    due(endpoint)
    no_descriptors()
    assert not client.set('key', 1)
    monkeypatch.undo()
    assert endpoint.retry_at is not None
    assert client.set('key', 1)
    assert endpoint.retry_at is None


def test_an_awaited_call_without_a_descriptor(
    server, no_descriptors, monkeypatch
):
    """Likewise; what has a connection goes on over it."""

    async def main():
        client = memcached.AsyncClient(servers=server.address, dead_retry=60)
        (endpoint,) = client._engine.cluster.endpoints
        no_descriptors()
        assert await client.get('key', 'default') == 'default'
        assert not await client.set('key', 1)
        monkeypatch.undo()
        assert endpoint.retry_at is None
        assert await client.set('key', 1)
        no_descriptors()
        assert await client.get('key') == 1
        monkeypatch.undo()
        await client.close()

    asyncio.run(main())


def test_an_address_without_its_kind_of_network(monkeypatch):
    """A name's other address has refused: the server is down."""
    with socket.socket() as nobody:
        nobody.bind(('127.0.0.1', 0))
        port = nobody.getsockname()[1]
        family = socket.AF_INET

        def both(*arguments, flags=0, **options):
            if flags:
                raise socket.gaierror(socket.EAI_NONAME, 'no number')
            # Nobody has the second one.
            return [
                (family, socket.SOCK_STREAM, 6, '', (host, port))
                for host in ('127.0.0.1', '192.0.2.1')
            ]

        connect = socket.socket.connect

        class Socket(socket.socket):
            def connect(self, address):
                if address[0] != '127.0.0.1':
                    raise OSError(errno.EADDRNOTAVAIL, 'not here')
                return connect(self, address)

        monkeypatch.setattr(socket, 'getaddrinfo', both)
        monkeypatch.setattr(socket, 'socket', Socket)
        client = memcached.Client(servers=f'both:{port}')
        assert client.get('key') is None
        assert endpoint_of(client).reason == 'Connection refused'
