"""So many calls in so many seconds, counted by all processes together."""

import datetime
import subprocess
import sys

import faults
import pytest
import wire

from sprockets.clients import memcached


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture(params=['meta', b'ERROR\r\n'], ids=['meta', 'ERROR'])
def server(request, address):
    """The address of a server that knows meta commands, or does not."""
    if request.param == 'meta':
        yield address
    else:
        with faults.without_meta(address, request.param) as old:
            yield old.address


def test_so_many_calls_are_allowed(connect, server):
    """And no more; each is told how many are left."""
    client = connect(server)
    found = [client.limit('key', 3, 60) for _ in range(5)]
    assert [bool(each) for each in found] == [True] * 3 + [False] * 2
    assert [each.allowed for each in found] == [True] * 3 + [False] * 2
    assert [each.left for each in found] == [2, 1, 0, 0, 0]
    assert all(50 <= each.seconds <= 60 for each in found)
    assert client.limit('other', 3, 60).left == 2


def test_it_begins_anew(connect, server, address):
    """When the first call's seconds are over; the others do not count."""
    client = connect(server)
    minute = datetime.timedelta(minutes=1)
    for _ in range(5):
        client.limit('key', 3, minute)
    assert 50 <= wire.seconds_left(address, 'key') <= 60
    wire.ask(address, b'touch key -1\r\n')
    assert client.limit('key', 3, minute).left == 2


def test_it_says_when(connect, address):
    """As memcached knows it."""
    client = connect(address)
    client.limit('key', 3, 60)
    wire.ask(address, b'touch key 7\r\n')
    assert client.limit('key', 3, 60).seconds in (6, 7)


def test_it_says_so_of_a_while_that_was_longer(connect, address):
    """As where a new version of a program counts in another one."""
    client = connect(address)
    client.limit('key', 3, 3600)
    allowance = client.limit('key', 3, 60)
    assert allowance.left == 1
    assert 3500 <= allowance.seconds <= 3600


def test_all_at_once(connect, server):
    """As many as may be are allowed, whoever calls."""
    client = connect(server)

    async def body(client):
        return [bool(await client.limit('key', 30, 60)) for _ in range(10)]

    found = [each for some in client.together(8, body) for each in some]
    assert sum(found) == 30


OTHER = """
import sys
from sprockets.clients import memcached
client = memcached.Client(servers=sys.argv[1])
print(sum(bool(client.limit('key', 50, 600)) for _ in range(100)))
"""


def test_two_processes(address):
    """They share the limit."""
    command = [sys.executable, '-c', OTHER, address]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as two,
    ):
        numbers = [int(each.communicate()[0]) for each in (one, two)]
    assert sum(numbers) == 50


@pytest.mark.parametrize('default', [True, False])
def test_without_a_server(connect, memcached_server, default):
    """It is for the caller to say, and it is told apart."""
    client = connect(memcached_server.address, socket_timeout=1)
    memcached_server.kill()
    found = client.limit('key', 3, 60, default=default)
    assert bool(found) is default
    assert found.left is None
    assert found.seconds == 60


def test_what_is_no_count(connect, address):
    """It is not known then, and what is there stays."""
    client = connect(address)
    client.set('key', 'text')
    assert client.limit('key', 3, 60, default=False).left is None
    assert client.get('key') == 'text'


def test_in_a_namespace(address):
    """It begins anew when that ends."""
    client = memcached.Client(servers=address, socket_timeout=1)
    ns = client.namespace('x')
    assert client.limit('key', 3, 60).left == 2
    assert [ns.limit('key', 3, 60).left for _ in range(2)] == [2, 1]
    ns.invalidate()
    assert ns.limit('key', 3, 60).left == 2
    client.disconnect_all()


@pytest.mark.parametrize('within', [False, True])
@pytest.mark.parametrize(
    'arguments, error, named',
    [
        (('key', 0, 60), ValueError, 'calls is 0'),
        (('key', -1, 60), ValueError, 'calls is -1'),
        (('key', 2**64, 60), ValueError, 'expected 1 to 18446744073709551614'),
        (('key', 1.5, 60), ValueError, 'calls is 1.5'),
        (('key', '3', 60), ValueError, "calls is '3'"),
        (('key', 3, 0), ValueError, 'seconds is 0'),
        (('key', 3, -1), ValueError, 'seconds is -1'),
        (('key', 3, 'soon'), ValueError, "seconds is 'soon'"),
        (('a b', 3, 60), memcached.Client.MemcachedKeyError, 'a b'),
    ],
    ids=str,
)
def test_bad_arguments(connect, arguments, error, named, within):
    """They are named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        inner = face.client.namespace('x') if within else face.client

        def call():
            return inner.limit(*arguments)

        with pytest.raises(error, match=named):
            face.run(call) if hasattr(face, 'run') else call()
        assert server.received == b''
