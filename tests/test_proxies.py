"""A real proxy between the clients and their servers: twemproxy.

It is Debian's package ``nutcracker``, which ``scripts/test`` installs where it
can.  It knows neither ``gat``, ``stats`` and ``flush_all`` nor meta commands,
and closes the connection on each.

"""

import asyncio
import logging
import os
import time

import faults
import pytest
import servers
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 10
TIMEOUT = 30
"""Seconds for a call, and for the proxy to wait for a server: a machine that
is busy may need many of them for 5,000 keys."""

needs_twemproxy = pytest.mark.skipif(
    servers.find('nutcracker') is None,
    reason='twemproxy (nutcracker) is not installed',
)


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


@pytest.fixture
def proxy(pair):
    with servers.twemproxy(*pair, seconds=TIMEOUT) as address:
        yield address


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


@needs_twemproxy
def test_what_every_proxy_knows(connect, pair, proxy, caplog):
    """All commands that are sent unless one asks for others."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    assert client.set('key', 1)
    assert client.get('key') == 1
    assert client.incr('key') == 2
    assert client.decr('key') == 1
    assert client.gets('key') == 1
    assert client.cas('key', 'b')
    assert not client.add('key', 'x')
    assert client.append('key', 'c')
    assert client.prepend('key', 'a')
    assert client.get('key') == 'abc'
    assert client.replace('key', {'a': 1})
    assert client.touch('key', 60)
    assert client.delete('key')
    assert not client.delete('key')
    assert client.get('key', 'default') == 'default'
    assert client.gets('key') is None
    assert client.cas('key', 'new')
    assert warnings(caplog) == []
    assert {wire.stored(server.address, 'key') for server in pair} == {
        None,
        (16, b'new'),
    }


@needs_twemproxy
def test_many_keys_and_large_values(connect, pair, proxy):
    """A get of 1,000 keys is spread over the servers by the proxy."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    mapping = {f'key{n}': os.urandom(n % 300) for n in range(5000)}
    assert client.set_multi(mapping) == []
    assert client.get_multi(mapping) == mapping
    for server in pair:
        assert int(wire.statistics(server.address)['curr_items']) > 1000
    assert client.delete_multi(mapping)
    assert client.get_multi(mapping) == {}
    value = os.urandom(900_000)
    assert client.set('key', value)
    assert client.get('key') == value
    assert not client.set('key', bytes(1 << 21))


@needs_twemproxy
def test_cas_is_right(connect, proxy):
    """Increments by many at a time are all counted."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    client.set('count', 0)

    async def increment(client):
        for _ in range(25):
            while not await client.cas(
                'count', await client.gets('count') + 1
            ):
                pass

    client.together(4, increment)
    assert client.get('count') == 100


@needs_twemproxy
def test_callers_at_the_same_time(proxy):
    """What travels together comes back to each."""

    async def use():
        client = memcached.AsyncClient(servers=proxy, socket_timeout=TIMEOUT)
        await client.set_multi({f'key{n}': n for n in range(1000)})
        for _ in range(5):
            values = await asyncio.gather(
                *[client.get(f'key{n}') for n in range(1000)]
            )
            assert values == list(range(1000))
        await client.close()

    asyncio.run(use())


RARE = {
    'gat': lambda client: client.gat('key', 60),
    'stats': lambda client: client.get_stats(),
    'flush_all': lambda client: client.flush_all(),
}


@needs_twemproxy
@pytest.mark.parametrize('name', RARE)
def test_an_unknown_command_does_not_take_the_proxy_down(
    connect, proxy, caplog, name
):
    """It comes to nothing, and the next call is answered."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    assert client.set('key', 'value')
    assert not RARE[name](client)
    assert client.get('key') == 'value'
    assert not RARE[name](client)
    assert client.get('key') == 'value'
    # The second time it is no news.
    assert warnings(caplog) == [
        f'memcached server {proxy} closes connections on {name}'
    ]


@pytest.mark.parametrize('name', RARE)
def test_a_server_that_closes_on_everything_is_down(connect, name):
    """As one that crashes whatever it is asked."""

    async def close(connection):
        await connection.request()

    with faults.ScriptedServer(close) as server:
        client = connect(server.address)
        assert not RARE[name](client)
        count = len(server.connections)
        assert client.get('key', 'default') == 'default'
        assert len(server.connections) == count


@needs_twemproxy
def test_values_are_computed_once_without_meta_commands(connect, proxy):
    """get_or_set does without what the proxy does not know."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    assert client.get_or_set('key', lambda: 42, time=60) == 42
    assert client.get_or_set('key', lambda: 43, time=60) == 42


@needs_twemproxy
def test_a_server_behind_the_proxy_that_is_down(connect, pair, proxy, caplog):
    """Its keys are misses, and the proxy serves the others' as before."""
    one, other = pair
    client = connect(proxy, socket_timeout=TIMEOUT)
    mapping = {f'key{n}': n for n in range(100)}
    assert client.set_multi(mapping) == []
    (there,) = {int(wire.statistics(one.address)['curr_items'])}
    other.kill()
    found = [key for key in mapping if client.get(key) == mapping[key]]
    assert len(found) == there
    failed = client.set_multi(mapping)
    assert len(failed) == 100 - there
    assert not set(failed) & set(found)
    assert not any('down' in line for line in warnings(caplog))
    other.start()
    end = time.monotonic() + SECONDS
    while client.set_multi(mapping):
        assert time.monotonic() < end
    assert client.get_multi(mapping) == mapping


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)
