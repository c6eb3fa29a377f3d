"""A forked child has nothing of its parent's."""

import contextlib
import os
import socket
import ssl
import threading
import time

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

LONG = 10


def in_child(function):
    """Return what a function returns in a forked child, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(function()).encode())
        # Nothing of pytest's is for the child.
        except BaseException as error:  # noqa: BLE001
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def server():
    with MemcachedServer() as server:
        yield server


def sockets_to(address):
    """Return the descriptors of this process that are connected there."""
    host, port = address.split(':')
    found = []
    for name in os.listdir('/proc/self/fd'):
        # It may be closed by now, be no socket, or not be connected.
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                sock = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                raise
            with sock:
                if sock.getpeername() == (host, int(port)):
                    found.append(name)
    return found


def test_it_keeps_no_descriptor(server):
    """Each that is kept would be copied by the next look."""
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        assert sockets_to(server.address) == []
    # Other threads may open some.
    assert len(os.listdir('/proc/self/fd')) < 2 * before


def test_a_server_that_was_marked_dead(server):
    """Its connections are not shared with the child either."""
    client = memcached.Client(servers=server.address, dead_retry=0)
    client.servers[0].mark_dead('a test')
    assert client.set('number', 0)
    assert len(sockets_to(server.address)) == 1

    def child():
        shared = len(sockets_to(server.address))
        client.set('child', 0)
        return shared, [client.incr('child') for _ in range(300)]

    said = in_child(child)
    assert said == str((0, list(range(1, 301))))
    assert [client.incr('number') for _ in range(300)] == [*range(1, 301)]
    client.disconnect_all()


def test_parent_and_child_at_once(server):
    """Neither gets a reply of the other's."""
    client = memcached.Client(servers=server.address, dead_retry=0)
    client.servers[0].mark_dead('a test')
    client.set_multi({'parent': 0, 'child': 0})
    going = os.pipe()

    def child():
        os.write(going[1], b'!')
        return [client.incr('child') for _ in range(2000)]

    said = []
    forked = threading.Thread(target=lambda: said.append(in_child(child)))
    forked.start()
    os.read(going[0], 1)
    counted = [client.incr('parent') for _ in range(2000)]
    forked.join()
    for end in going:
        os.close(end)
    assert counted == list(range(1, 2001))
    assert said == [str(list(range(1, 2001)))]
    client.disconnect_all()


@pytest.mark.parametrize('options', [{}, {'tls': True}], ids=str)
def test_while_a_thread_connects(options):
    """The child has no copy of a socket that is not used yet."""
    with faults.ScriptedServer(*[[[faults.Do.STALL]]] * 3) as server:
        if not options:
            # It waits for the answer before there is a connection.
            options = {'username': 'name', 'password': 'word'}
        client = memcached.Client(
            servers=server.address, socket_timeout=LONG, **options
        )
        thread = threading.Thread(target=client.get, args=('key',))
        thread.start()
        server.wait_for(lambda: server.connections)
        end = time.monotonic() + LONG
        while not sockets_to(server.address) and time.monotonic() < end:
            time.sleep(0.002)
        assert len(sockets_to(server.address)) == 1
        assert in_child(lambda: sockets_to(server.address)) == '[]'
        assert len(sockets_to(server.address)) == 1
    thread.join(LONG)


def test_while_a_socket_is_wrapped(monkeypatch):
    """The child has none that is on its way from one object to another."""
    said = []
    wrap = ssl.SSLContext.wrap_socket

    def wrapped(context, sock, **options):
        made = wrap(context, sock, **options)
        assert sock.fileno() < 0
        said.append(in_child(lambda: sockets_to(server.address)))
        return made

    monkeypatch.setattr(ssl.SSLContext, 'wrap_socket', wrapped)
    with faults.ScriptedServer([[faults.Do.STALL]]) as server:
        client = memcached.Client(
            servers=server.address, socket_timeout=LONG, tls=True
        )
        thread = threading.Thread(target=client.get, args=('key',))
        thread.start()
        server.wait_for(lambda: said)
    thread.join(LONG)
    assert said == ['[]']


def test_a_trial_of_the_parent(server):
    """The child does not wait for it."""
    client = memcached.Client(servers=server.address, dead_retry=60)
    endpoint = client.servers[0].endpoint
    endpoint.mark_down(OSError('no reason'))
    endpoint.retry_at = time.monotonic()
    trial = endpoint.try_again()
    assert in_child(lambda: (client.set('key', 1), client.get('key'))) == (
        '(True, 1)'
    )
    assert client.get('key') is None
    trial.give_back()
    assert client.get('key') == 1
    client.disconnect_all()


def test_a_stand_in(server):
    """Where the servers are not known yet, threads wait in the child anew."""
    node = '127.0.0.1|127.0.0.1|{}'.format(server.address.split(':')[1])
    body = f'1\n{node}\n'.encode()
    told = b'CONFIG cluster 0 %d\r\n%s\r\nEND\r\n' % (len(body), body)
    with faults.ScriptedServer(
        [[faults.Do.STALL, told]], *[[told]] * 9
    ) as source:
        client = memcached.Client(
            servers=f'discover:{source.address}', socket_timeout=LONG
        )
        thread = threading.Thread(target=client.get_multi, args=(['key'],))
        thread.start()
        source.wait_for(lambda: source.stalled)
        said = in_child(
            lambda: (client.set_multi({'key': 1}), client.get('key'))
        )
        assert said == '([], 1)'
        source.release()
        thread.join(LONG)
        assert client.get('key') == 1
        client.disconnect_all()
        client._shared.cluster.close()


def test_a_child_has_no_threads_that_wait_for_a_connection(server):
    """It keeps its connections then, which its parent has to share."""
    client = memcached.Client(servers=server.address)
    client.set('key', 'value')
    shared = client.servers[0].endpoint._connections
    loan = shared.take()
    thread = threading.Thread(
        target=lambda: shared.wait_for_idle(time.monotonic() + LONG)
    )
    thread.start()
    try:
        while not shared.wanted:
            time.sleep(0.002)
        assert in_child(lambda: not shared.wanted) == 'True'
    finally:
        loan.put_back()
        thread.join()
    client.disconnect_all()
