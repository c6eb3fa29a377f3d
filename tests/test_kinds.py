"""get may be told of which type the value is."""

import typing

import faults
import pytest

from sprockets.clients import memcached


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


VALUES = {'text': 'a', 'number': 7, 'list': [1], 'none': None}


@pytest.mark.parametrize('strict', [False, True])
def test_a_value_of_another_type_is_a_miss(connect, address, strict):
    """The default is returned for it; what is of a subclass is a value."""
    client = connect(address, strict=strict)
    client.set_multi(VALUES)
    assert client.get('text', kind=str) == 'a'
    assert client.get('number', kind=int) == 7
    assert client.get('list', kind=list) == [1]
    assert client.get('list', kind=object) == [1]
    assert client.get('text', kind=int) is None
    assert client.get('list', 'default', kind=dict) == 'default'
    assert client.get('missing', 'default', kind=str) == 'default'
    assert client.get('none', 'default', kind=str) == 'default'
    assert client.get('number', kind=int, timeout=10) == 7
    assert client.get('number') == 7


def test_in_a_namespace(address):
    """As outside of it."""
    client = memcached.Client(servers=address)
    ns = client.namespace('x')
    ns.set('number', 7)
    assert ns.get('number', kind=int) == 7
    assert ns.get('number', 'default', kind=str) == 'default'
    client.disconnect_all()


def test_without_a_server(connect, memcached_server):
    """It is the default."""
    client = connect(memcached_server.address, socket_timeout=1)
    memcached_server.kill()
    assert client.get('text', 'default', kind=str) == 'default'


class Movie(typing.TypedDict):
    title: str


class Named(typing.Protocol):
    def name(self) -> str: ...


@pytest.mark.parametrize(
    'kind',
    [
        *(list[int], 'str', 7, (int, str), int | str),
        # They are classes, of which isinstance() tells nothing.
        *(Movie, Named, typing.Any),
    ],
)
def test_what_is_no_class(connect, kind):
    """It is named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        client = connect(server.address)
        with pytest.raises(TypeError, match='kind is'):
            client.get('key', kind=kind)
        assert server.received == b''
