"""Calls of many keys or values: what takes long to encode is done in turns."""

import asyncio
import time

import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.loop import calls
from sprockets.clients.memcached.requests import methods
from sprockets.clients.memcached.testing import MemcachedServer

MANY = 2000


@pytest.fixture
def server():
    with MemcachedServer() as running:
        yield running


class Serializer:
    """Tells in which turn of the loop each value was written."""

    def __init__(self):
        self.now = 0
        self.turns = []

    def dumps(self, value):
        self.turns.append(self.now)
        return str(*value)

    def loads(self, data):
        return [data.decode()]

    def count(self, loop):
        self.now += 1
        loop.call_soon(self.count, loop)


class Observer:
    def __init__(self, told, name, keys):
        self.told = told
        self.name = name
        self.keys = [*keys]

    def over(self, error, hits, misses, endpoint=None):
        self.told.append((self.name, len(self.keys), type(error)))


def run(server, body, serializer=None, **options):
    """Run a test, and return what observers were told."""
    told = []
    serializer = serializer or Serializer()

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, serializer=serializer, **options
        )
        scope = client.scope(lambda name, keys: Observer(told, name, keys))
        serializer.count(asyncio.get_running_loop())
        await body(scope, serializer)
        await client.close()

    asyncio.run(main())
    return told


@pytest.fixture
def no_time(monkeypatch):
    """Let a call do as little as it can in one turn."""
    monkeypatch.setattr(calls, 'SLICE', 0)


def many():
    return {f'key:{n}': [n] for n in range(MANY)}


@pytest.mark.usefixtures('no_time')
def test_others_come_in_between(server):
    """All values are stored, and all keys found, as in one turn."""

    async def body(client, serializer):
        assert await client.set_multi(many()) == []
        turns = serializer.turns
        assert len(turns) == MANY
        # One part when it is called, and one before that turn is over.
        assert max(map(turns.count, {*turns})) <= 2 * methods.FEW
        found = await client.get_multi(many())
        assert found == {key: [str(*n)] for key, n in many().items()}
        assert await client.delete_multi(many()) == 1
        assert await client.get_multi(many()) == {}

    names = ('set_multi', 'get_multi', 'delete_multi', 'get_multi')
    assert run(server, body) == [(name, MANY, type(None)) for name in names]


@pytest.mark.usefixtures('no_time')
def test_what_is_wrong_with_the_last_of_them(server):
    """Nothing is sent, and whoever awaits the call is told."""

    async def body(client, serializer):
        values = {**many(), 'last': ['too', 'many', 'of', 'them']}
        with pytest.raises(TypeError, match='last'):
            await client.set_multi(values)
        assert await client.get_multi(values) == {}
        keys = [*many(), 1, 'x' * 300]
        for method in (client.get_multi, client.delete_multi):
            with pytest.raises(memcached.Client.MemcachedKeyLengthError):
                await method(keys, key_prefix='x')

    told = run(server, body)
    assert told == [('get_multi', MANY + 1, type(None))]


class Slow(Serializer):
    """Takes its time for each value."""

    def dumps(self, value):
        time.sleep(0.001)
        return super().dumps(value)


@pytest.mark.parametrize('strict', [False, True], ids=['', 'strict'])
def test_its_time_is_over_meanwhile(server, strict):
    """Nothing is stored of what was not encoded in time."""

    async def body(client, serializer):
        call = client.set_multi(many(), timeout=0.05)
        if strict:
            with pytest.raises(memcached.TimedOutError):
                await call
        else:
            assert await call == [*many()]
        assert await client.get_multi(many()) == {}

    told = run(server, body, Slow(), strict=strict)
    assert told == [
        ('set_multi', 0, TimeoutError),
        ('get_multi', MANY, type(None)),
    ]


@pytest.mark.usefixtures('no_time')
def test_it_is_cancelled_meanwhile(server):
    """Nothing is stored, and that is no server's fault."""

    async def body(client, serializer):
        client.set_multi(many()).cancel()
        assert await client.get_multi(many()) == {}

    told = run(server, body)
    assert sorted(told) == [
        ('get_multi', MANY, type(None)),
        ('set_multi', 0, type(None)),
    ]
