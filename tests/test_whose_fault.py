"""A silence, a pause or a limit that tells nothing of the server."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import faults
import loops
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.servers import connections
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import connection, protocol

TIMEOUT = 1
LONG = 30


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


@pytest.fixture
def proxy(server):
    with faults.FaultProxy(server.address) as running:
        yield running


def until(condition):
    """Wait for what comes about by itself."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# A router forgets connections


class Blocking:
    """What is done with a blocking client."""

    def __init__(self, address, **options):
        self.client = memcached.Client(servers=address, **options)
        self.endpoint = self.client.servers[0].endpoint

    def call(self, name, *args):
        return getattr(self.client, name)(*args)

    def together(self, count, name, *args):
        threads = [
            threading.Thread(target=self.call, args=(name, *args))
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self):
        self.client.disconnect_all()


class Awaited:
    """What is done with an awaitable one."""

    def __init__(self, address, **options):
        self.loop = asyncio.new_event_loop()
        self.client = memcached.AsyncClient(servers=address, **options)
        (self.endpoint,) = self.client._engine.cluster.endpoints

    def call(self, name, *args):
        async def call():
            return await getattr(self.client, name)(*args)

        return self.loop.run_until_complete(call())

    def together(self, count, name, *args):
        async def call():
            # Each in a turn of its own, so that each is a batch.
            calls = []
            for _ in range(count):
                calls.append(getattr(self.client, name)(*args))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await asyncio.gather(*calls)

        self.loop.run_until_complete(call())

    def close(self):
        self.call('close')
        self.loop.close()


@pytest.fixture(params=[Blocking, Awaited], ids=['Client', 'AsyncClient'])
def face(request, proxy):
    made = request.param(
        proxy.address, socket_timeout=TIMEOUT, dead_retry=3600
    )
    yield made
    made.close()


@pytest.mark.parametrize('idle', [1, 4])
@pytest.mark.parametrize('name', ['get', 'incr'])
def test_idle_connections_that_are_forgotten(face, proxy, idle, name):
    """One call waits in vain; the next ones have new connections."""
    face.call('set', 'key', 5)
    proxy.reply_delay = 0.05
    while face.endpoint.connections < idle:
        face.together(idle, 'get', 'key')
    proxy.reply_delay = 0
    proxy.forget()
    assert face.call(name, 'key') in (None, 0)
    # For a moment it is in doubt.
    until(lambda: face.endpoint.retry_at is None)
    assert face.call(name, 'key') == 5 + (name == 'incr')
    assert len(proxy.swallowed) == 1
    assert face.endpoint.down_since is None


def test_a_server_that_hangs_is_down_after_one_timeout(face, server):
    """Until it is known, nobody else waits for it."""
    face.call('set', 'key', 5)
    server.pause()
    assert face.call('get', 'key') is None
    assert face.endpoint.retry_at is not None
    until(lambda: face.endpoint.down_since is not None)
    server.resume()
    assert face.call('get', 'key') is None


def test_a_doubt_that_no_thread_looks_into(face, server, monkeypatch):
    """Where none can be started, a server that was silent is down."""
    face.call('set', 'key', 5)
    server.pause()

    def start(thread):
        raise RuntimeError("can't start new thread")

    # Those that there are end first.
    for thread in face.endpoint.workers.stop():
        thread.join()
    monkeypatch.setattr(threading.Thread, 'start', start)
    assert face.call('get', 'key') is None
    until(lambda: face.endpoint.down_since is not None)
    monkeypatch.undo()
    server.resume()


def test_a_connection_that_was_idle_for_too_long(proxy):
    """It is not used again: something on the way may have forgotten it."""
    for kind in (Blocking, Awaited):
        made = kind(proxy.address, socket_timeout=0.1, max_idle=0.1)
        made.call('set', 'key', 5)
        before = len(proxy.connections)
        time.sleep(0.2)
        assert made.call('get', 'key') == 5
        assert len(proxy.connections) == before + 1
        made.close()


def test_time_to_be_idle_is_at_least_that_of_a_call(monkeypatch):
    """A connection must outlive the call that it is for."""
    monkeypatch.setenv('MEMCACHED_MAX_IDLE', '2')
    with pytest.raises(ValueError, match=r'^MEMCACHED_MAX_IDLE: 2 seconds'):
        settings.Settings(None, {'socket_timeout': 3})
    monkeypatch.setenv('MEMCACHED_MAX_IDLE', 'soon')
    with pytest.raises(ValueError, match=r'^MEMCACHED_MAX_IDLE: '):
        settings.Settings(None, {})
    monkeypatch.delenv('MEMCACHED_MAX_IDLE')
    assert settings.Settings(None, {'socket_timeout': 600}).max_idle == 600


# The process is stopped

STOPPED = """
import asyncio, sys
from sprockets.clients import memcached

async def awaited():
    client = memcached.AsyncClient(servers=sys.argv[2], socket_timeout=1)
    await client.set('key', 'value')
    print('ready', flush=True)
    sys.stdin.readline()
    value = await client.get('key')
    print(value and len(value), flush=True)
    (endpoint,) = client._engine.cluster.endpoints
    print(endpoint.reason or 'up', flush=True)

def blocking():
    client = memcached.Client(servers=sys.argv[2], socket_timeout=1)
    client.set('key', 'value')
    print('ready', flush=True)
    sys.stdin.readline()
    value = client.get('key')
    print(value and len(value), flush=True)
    print(client.servers[0].endpoint.reason or 'up', flush=True)

asyncio.run(awaited()) if sys.argv[1] == 'awaited' else blocking()
"""


@pytest.mark.parametrize('size', [5, 900_000])
@pytest.mark.parametrize('kind', ['awaited', 'blocking'])
def test_a_process_that_is_stopped_in_a_call(proxy, server, kind, size):
    """What came meanwhile counts, and nobody is to blame."""
    with subprocess.Popen(
        [sys.executable, '-c', STOPPED, kind, proxy.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == 'ready\n'
        wire.put(server.address, 'key', 16, b'x' * size)
        proxy.next_reply(faults.stall)
        process.stdin.write('go\n')
        process.stdin.flush()
        proxy.wait_for(lambda: proxy.stalled)
        os.kill(process.pid, signal.SIGSTOP)
        proxy.release()
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        said = process.stdout.readline()
        if size < 10_000:
            assert said == f'{size}\n'
        # What the kernel has no room for comes behind that, too late.
        assert process.stdout.readline() == 'up\n'
        process.stdin.close()
        assert process.wait(LONG) == 0


@pytest.mark.parametrize('step', ['resolve', 'connect'])
def test_a_process_that_is_stopped_while_it_connects(
    connect, server, monkeypatch, step
):
    """Nothing was asked of the server in time, which is not its fault."""
    client = connect(server.address, socket_timeout=TIMEOUT, dead_retry=3600)
    module, name = {
        'resolve': (connection.resolver, 'resolve'),
        'connect': (connection, '_keep_alive'),
    }[step]
    take = getattr(module, name)
    done = threading.Event()

    def take_long(*arguments):
        time.sleep(TIMEOUT * 1.2)
        taken = take(*arguments)
        done.set()
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(module, name, take_long)
        assert not client.set('key', 'value')
        # A thread may go on with it.
        assert done.wait(LONG)
    until(lambda: client.set('key', 'value'))
    assert client.get('key') == 'value'


# A connection that is lost while the loop has something else to do


VALUE = b'VALUE key 16 5\r\nvalue\r\nEND\r\n'


@pytest.mark.parametrize('at', [0, 3, 20])
@pytest.mark.parametrize('kind', loops.KINDS)
def test_a_loop_that_tells_of_a_connection_once(kind, at):
    """Some do, of the last bytes and of the reset: both are noticed."""
    reset = threading.Event()

    async def torn(connection):
        assert await connection.request()
        await connection.play([VALUE])
        assert await connection.request()
        await connection.play([VALUE[:at], faults.Do.RESET])
        reset.set()

    async def main(address):
        client = memcached.AsyncClient(
            servers=address, socket_timeout=LONG, dead_retry=3600
        )
        assert await client.get('key') == 'value'
        call = client.get('key')
        # Until the request is on its way.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert reset.wait(LONG)
        assert await asyncio.wait_for(call, LONG / 2) == 'value'
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.down_since is None
        await client.close()

    with (
        faults.ScriptedServer(torn, [VALUE]) as server,
        asyncio.Runner(loop_factory=loops.factory(kind)) as runner,
    ):
        runner.run(main(server.address))


# The server takes no more connections


FULL = b'ERROR Too many open connections\r\n'
LOGIN = {'username': 'me', 'password': 'secret'}


@pytest.mark.parametrize('options', [{}, LOGIN], ids=['', 'login'])
def test_a_connection_too_many(caplog, options):
    """The others serve, and the log says what is too small."""
    first = []
    slow = threading.Event()

    async def serve(connection):
        if first:
            await connection.send(FULL)
            await connection.close()
            return
        first.append(connection)
        if options:
            assert b'me secret' in await connection.request()
            await connection.send(b'STORED\r\n')
        while request := await connection.request():
            if request.startswith(b'get slow'):
                slow.set()
                await asyncio.sleep(0.2)
            await connection.send(b'END\r\n')

    with faults.ScriptedServer(serve) as server:
        client = memcached.Client(
            servers=server.address,
            socket_timeout=LONG,
            dead_retry=3600,
            **options,
        )
        client.get('key', 'none')
        thread = threading.Thread(target=client.get, args=('slow',))
        thread.start()
        assert slow.wait(LONG)
        assert client.get('key', 'none') == 'none'
        endpoint = client.servers[0].endpoint
        assert endpoint.retry_at is None
        assert endpoint.incarnation == 1
        thread.join()
        client.disconnect_all()
    (said,) = {record.getMessage() for record in caplog.records}
    assert 'takes no more connections' in said


@pytest.mark.parametrize(
    'options', [{}, LOGIN, {'tls': True}], ids=['', 'login', 'tls']
)
def test_the_first_connection_is_one_too_many(caplog, options):
    """The call fails at once, and the server is up."""

    async def serve(connection):
        # It is in clear, whatever the connection was to be.
        await connection.send(FULL)
        await connection.read()
        await connection.close()

    with faults.ScriptedServer(serve) as server:
        client = memcached.Client(
            servers=server.address,
            socket_timeout=LONG,
            dead_retry=3600,
            **options,
        )
        assert client.get('key', 'none') == 'none'
        assert client.servers[0].endpoint.retry_at is None
        client.disconnect_all()
    (said,) = {record.getMessage() for record in caplog.records}
    assert 'takes no more connections' in said


@pytest.mark.parametrize('is_busy', [False, True])
def test_connections_too_many_that_are_not_answered(caplog, is_busy):
    """The others serve as well, and no call waits for a new one again."""

    async def serve(connection):
        if connection.number:
            await connection.until_closed()
        while request := await connection.request():
            found = request == b'get key\r\n'
            await connection.send(VALUE if found else b'END\r\n')

    ended = threading.Event()

    def use(endpoint, taken):
        """Be answered now and then, or have no use for the connection."""
        while is_busy and not ended.wait(TIMEOUT / 50):
            command = protocol.Get((b'key',))
            taken.link.exchange([command], time.monotonic() + LONG)
            taken.put_back()
            taken = endpoint.ready()
        taken.put_back()

    with faults.ScriptedServer(serve) as server:
        client = memcached.Client(
            servers=server.address, socket_timeout=TIMEOUT, dead_retry=3600
        )
        endpoint = client.servers[0].endpoint
        assert client.get('key') == 'value'
        taken = endpoint.ready()
        user = threading.Thread(target=use, args=(endpoint, taken))
        call = threading.Thread(target=client.get, args=('key',))
        call.start()
        until(lambda: len(server.connections) == 2)
        user.start()
        call.join()
        ended.set()
        user.join()
        until(lambda: endpoint.retry_at is None)
        assert endpoint.down_since is None
        # Somebody else has it, but not for long.
        taken = endpoint.ready()
        late = threading.Timer(0.1, taken.put_back)
        late.start()
        assert client.get('key') == 'value'
        late.join()
        assert len(server.connections) == 2
        client.disconnect_all()
    (said,) = {record.getMessage() for record in caplog.records}
    assert 'takes no more connections' in said


def test_what_was_answered_before_is_not_run_again():
    """Whoever says in the middle that it is full has run what was before."""
    asked = []

    async def serve(connection):
        while request := await connection.request():
            asked.append(request)
            if request.startswith(b'incr'):
                await connection.send(b'1\r\n')
            elif request.startswith(b'get full') and len(asked) < 5:
                await connection.send(FULL)
                return
            else:
                if request.startswith(b'get slow'):
                    await connection.play([faults.Do.STALL])
                await connection.send(b'END\r\n')

    async def main(server):
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=LONG, dead_retry=3600
        )
        slow = client.get('slow', 'none')
        await asyncio.to_thread(server.wait_for, lambda: server.stalled)
        # So that there are two.
        assert await client.get('key', 'none') == 'none'
        server.release()
        assert await slow == 'none'
        assert await asyncio.gather(
            client.incr('number'), client.get('full', 'none')
        ) == [1, 'none']
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.retry_at is None
        await client.close()

    with faults.ScriptedServer(serve) as server:
        asyncio.run(main(server))
    assert sorted(asked) == [
        b'get full\r\n',
        b'get full\r\n',
        b'get key\r\n',
        b'get slow\r\n',
        b'incr number 1\r\n',
    ]


def test_keepalives_come_before_routers_forget(server):
    """The kernel is told, where it can be."""
    client = memcached.Client(servers=server.address, socket_timeout=2)
    client.set('key', 1)
    (link,) = client.servers[0].endpoint._connections.idle
    import socket

    def option(name):
        return link._socket.getsockopt(
            socket.IPPROTO_TCP, getattr(socket, name)
        )

    assert option('TCP_KEEPIDLE') == 60
    assert option('TCP_KEEPINTVL') == 15
    assert option('TCP_USER_TIMEOUT') == 2000
    client.disconnect_all()


def test_who_waits_for_an_idle_connection_gets_one(server):
    """Also one that an event loop would keep else."""
    made = Awaited(server.address)
    made.call('set', 'key', 1)
    made.call('get', 'key')
    shared = made.endpoint._connections
    assert not shared.idle
    had = []

    def want():
        loan = shared.wait_for_idle(time.monotonic() + LONG)
        had.append(loan)
        loan.put_back()

    thread = threading.Thread(target=want)
    thread.start()
    until(lambda: shared.wanted)
    while not had:
        assert made.call('get', 'key') == 1
    thread.join()
    assert isinstance(had[0], connections.Loan)
    made.close()
