"""Whether servers answer, which they are, and the end of a block."""

import asyncio
import datetime
import threading
import time

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 30

HUGE = pytest.param(10**400, id='huge')


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def test_every_server_answers(connect):
    """One that does not is enough for False."""
    with MemcachedServer() as one, MemcachedServer() as two:
        client = connect(one.address, two.address, socket_timeout=1)
        assert client.ping() is True
        assert client.version().keys() == {one.address, two.address}
        assert {*client.version().values()} == {
            dict(client.get_stats()[0][1])['version']
        }
        two.kill()
        assert client.ping() is False
        assert client.version().keys() == {one.address}
        one.kill()
        assert client.ping() is False
        assert client.version() == {}


@pytest.mark.parametrize('reply', [b'ERROR\r\n', b'nonsense\r\n', b'\r\n'])
def test_what_answers_with_nonsense_is_not_ready(connect, reply):
    """It is no memcached."""
    with faults.ScriptedServer(*[[reply] * 3] * 9) as server:
        client = connect(server.address, socket_timeout=1)
        assert client.ping() is False
        assert client.version() == {}
        assert client.wait_until_ready(0.2) is False


def test_it_is_waited_for(connect, memcached_server, caplog):
    """Though it was found down just now, and is not to be tried again."""
    client = connect(memcached_server.address, dead_retry=600)
    memcached_server.kill()
    assert client.get('k') is None
    starter = threading.Timer(0.3, memcached_server.start)
    starter.start()
    began = time.monotonic()
    try:
        assert client.wait_until_ready(SECONDS) is True
    finally:
        starter.join()
    assert time.monotonic() - began < SECONDS
    assert client.set('k', 'v')
    down = [r for r in caplog.records if ' is down' in r.getMessage()]
    assert len(down) == 1


def test_waiting_is_bounded(connect):
    """A server that is silent takes no longer than that."""
    with faults.black_hole() as address:
        client = connect(address, socket_timeout=60)
        began = time.monotonic()
        assert client.wait_until_ready(0.3) is False
        assert time.monotonic() - began < SECONDS


def test_who_is_ready_is_not_waited_for(connect, address):
    """Not even with no time at all."""
    client = connect(address)
    assert client.wait_until_ready(datetime.timedelta(seconds=5)) is True
    assert client.get('k') is None


@pytest.mark.parametrize(
    'seconds', [-1, 'soon', None, float('inf'), True, HUGE]
)
def test_what_is_no_time(connect, address, seconds):
    """It is named."""
    with pytest.raises(ValueError, match='seconds is'):
        connect(address).wait_until_ready(seconds)


def test_a_block_ends_with_the_connections(address):
    """The blocking client can be used again, and connects anew."""
    with memcached.Client(servers=address) as client:
        assert client.set('k', 'v')
        endpoint = client.servers[0].endpoint
        assert endpoint.connections == 1
    assert endpoint.connections == 0
    assert client.get('k') == 'v'
    client.disconnect_all()


def test_an_awaited_block_ends_with_the_client(address):
    """Whatever is raised in it."""

    client = memcached.AsyncClient(servers=address)

    async def block():
        async with client as entered:
            assert entered is client
            assert await client.set('k', 'v')
            raise ArithmeticError

    async def main():
        with pytest.raises(ArithmeticError):
            await block()
        with pytest.raises(RuntimeError, match='closed'):
            await client.get('k')

    asyncio.run(main())


@pytest.mark.parametrize('kind', [memcached.Client, memcached.AsyncClient])
def test_the_representation_of_a_client(monkeypatch, kind):
    """Its prefix and its servers, and no password."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', '10.0.0.1,10.0.0.2:11212:3')
    name = kind.__name__
    assert repr(kind('pages', username='u', password='secret')) == (
        f"<{name} 'pages' of 10.0.0.1:11211, 10.0.0.2:11212>"
    )
    many = [f'10.0.0.{number}' for number in range(1, 100)]
    found = repr(kind(servers=many))
    assert found.startswith(f'<{name} of 10.0.0.1:11211, ')
    assert found.endswith(' and 94 more>')
    assert repr(kind(servers='discover:10.0.0.1')) == (
        f'<{name} of discover:10.0.0.1>'
    )
    inner = kind('pages').namespace('x').namespace('y')
    assert repr(inner) == (
        f"<{type(inner).__name__} 'x y' in 'pages' of 10.0.0.1:11211,"
        ' 10.0.0.2:11212>'
    )
    inner = kind(servers='10.0.0.1').namespace('x')
    assert repr(inner) == f"<{type(inner).__name__} 'x' of 10.0.0.1:11211>"
    if kind is memcached.AsyncClient:
        assert '10.0.0.1' in repr(kind('pages').scope())
