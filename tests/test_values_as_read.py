"""What is computed is what is read later: a miss and a hit are alike."""

import asyncio
import collections
import enum
import json
import threading

import faces
import pytest

from sprockets.clients import memcached


class Size(enum.IntEnum):
    SMALL = 1


class Text(str):
    __slots__ = ()


class Pair(collections.namedtuple('Pair', 'a b')):
    __slots__ = ()


class Custom:
    """Writes what JSON can, and other things as text."""

    def dumps(self, value):
        return json.dumps(value, default=str)

    def loads(self, data):
        return json.loads(data)


VALUES = [
    (1, (2, 3)),
    {'size': Size.SMALL},
    Size.SMALL,
    Text('text'),
    Pair(1, [2]),
    collections.OrderedDict(a=(1,)),
    ((),) * 3,
    None,
    True,
    1.5,
    'text',
    b'bytes',
    7,
]

SERIALIZERS = ['json', Custom()]


def shape(value):
    """Return a value with the types of all its parts."""
    if isinstance(value, dict):
        return type(value), {k: shape(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [shape(v) for v in value]
    return type(value), value


@pytest.mark.parametrize('serializer', SERIALIZERS)
@pytest.mark.parametrize('options', [{}, {'stale': 60}])
@pytest.mark.parametrize('value', VALUES, ids=repr)
def test_a_miss_and_a_hit_give_the_same_type(
    connect, memcached_server, serializer, options, value
):
    """Whether it was computed or read."""
    client = connect(memcached_server.address, serializer=serializer)
    miss, hit = (
        client.get_or_set('key', lambda: value, 60, **options)
        for _ in range(2)
    )
    assert shape(miss) == shape(hit)


@pytest.mark.parametrize('serializer', SERIALIZERS)
def test_so_it_is_without_a_server(connect, serializer):
    """Though it is stored nowhere."""
    client = connect('127.0.0.1:1', serializer=serializer, socket_timeout=0.5)
    assert client.get_or_set('key', lambda: (1, (2,))) == [1, [2]]


def test_so_it_is_with_what_is_too_large(connect, memcached_server):
    """Likewise."""
    client = connect(
        memcached_server.address,
        serializer='json',
        server_max_value_length=10,
    )
    value = ('x' * 100,)
    assert client.get_or_set('key', lambda: value) == ['x' * 100]
    assert client.get('key') is None


def test_so_it_is_for_all_who_wait(memcached_server):
    """Each gets an object of its own."""

    async def main():
        client = memcached.AsyncClient(
            servers=memcached_server.address, serializer='json'
        )
        found = await asyncio.gather(
            *[client.get_or_set('key', lambda: (1, [2])) for _ in range(5)]
        )
        assert found == [[1, [2]]] * 5
        assert len({id(each) for each in found}) == 5

        @memcached.cached(60, client=client, key='pair')
        async def pair():
            return 1, 2

        assert [await pair() for _ in range(2)] == [[1, 2]] * 2
        await client.close()

    asyncio.run(main())


def test_what_is_large_is_not_made_in_the_loop(memcached_server):
    """Though it was computed there."""
    threads = []

    class Noted(Custom):
        def loads(self, data):
            threads.append(threading.current_thread())
            return super().loads(data)

    face = faces.Awaitable(
        memcached.AsyncClient(
            servers=memcached_server.address, serializer=Noted()
        )
    )
    value = ('x' * 100_000,)
    assert face.get_or_set('key', lambda: value) == list(value)
    assert threads
    assert threading.current_thread() not in threads
    face.close()
