"""Servers that are changed while calls are under way."""

import asyncio
import concurrent.futures
import itertools
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 10
KEYS = [f'key{number}' for number in range(40)]


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_threads_lose_nothing():
    """Every key is on both servers: each read finds it all the time."""
    with MemcachedServer() as one, MemcachedServer() as other:
        lists = [[one.address], [other.address], [one.address, other.address]]
        for servers in lists[:2]:
            client = memcached.Client(servers=servers)
            client.set_multi({key: key for key in KEYS})
            client.disconnect_all()
        client = memcached.Client(servers=lists[0])
        over = threading.Event()

        def read():
            count = 0
            while not over.is_set():
                for key in KEYS[:10]:
                    assert client.get(key) == key
                assert client.get_multi(KEYS) == {key: key for key in KEYS}
                count += 1
            return count

        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            readers = [executor.submit(read) for _ in range(4)]
            for servers in itertools.islice(itertools.cycle(lists), 200):
                client.set_servers(servers)
                time.sleep(0)
            over.set()
            assert all(reader.result(SECONDS) for reader in readers)
        client.disconnect_all()


def test_the_loop_loses_nothing():
    """Nor do tasks, and cas says no rather than yes in the wrong place."""

    async def use(lists):
        client = memcached.AsyncClient(servers=lists[0])
        over = False

        async def read():
            count = 0
            while not over:
                keys = KEYS[:10]
                values = await asyncio.gather(*map(client.get, keys))
                assert values == keys
                everything = await client.get_multi(KEYS)
                assert everything == {key: key for key in KEYS}
                count += 1
            return count

        async def swap():
            scope = client.scope()
            while not over:
                assert await scope.gets('key1') == 'key1'
                assert await scope.cas('key1', 'key1') in (True, False, 0)

        readers = [asyncio.create_task(read()) for _ in range(4)]
        readers.append(asyncio.create_task(swap()))
        for servers in itertools.islice(itertools.cycle(lists), 200):
            await client.set_servers(servers)
            await asyncio.sleep(0)
        over = True
        counts = await asyncio.wait_for(asyncio.gather(*readers), SECONDS)
        assert all(counts[:-1])
        await client.close()

    with MemcachedServer() as one, MemcachedServer() as other:
        lists = [[one.address], [other.address], [one.address, other.address]]
        for servers in lists[:2]:
            client = memcached.Client(servers=servers)
            client.set_multi({key: key for key in KEYS})
            client.disconnect_all()
        asyncio.run(use(lists))


def test_connections_to_a_server_that_is_gone_are_closed(connect, pair):
    """Once they are idle, and without anybody asking for it."""
    one, other = pair
    client = connect(one.address, other.address)
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []
    assert wire.connections(other.address) > 0
    client.set_servers([one.address])
    client.get('key1')
    wait_until(lambda: wire.connections(other.address) == 0)
    assert wire.connections(one.address) > 0
    client.set_servers([one.address, other.address])
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []


def test_a_call_to_a_server_that_is_gone_is_answered():
    """It was under way, and ends where it went; then the server is gone."""

    async def use(server, other):
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=5
        )
        call = client.get('key')
        await asyncio.to_thread(server.wait_for, lambda: server.stalled)
        await client.set_servers([other.address])
        assert await client.set('key', 'new')
        server.release()
        assert await call == 'old'
        engine = client._engine
        assert len(engine.lanes) == 2
        engine._drop_gone()
        assert len(engine.lanes) == 1
        await asyncio.to_thread(server.wait_for, lambda: not server.open)
        assert await client.get('key') == 'new'
        await client.close()

    answer = [faults.Do.STALL, b'VALUE key 16 3\r\nold\r\nEND\r\n']
    with (
        faults.ScriptedServer([answer]) as server,
        MemcachedServer() as other,
    ):
        asyncio.run(use(server, other))


def test_cas_does_not_follow_a_key_to_another_server(connect, pair):
    """What gets saw is of a server that is not asked any more."""
    one, other = pair
    client = connect(one.address)
    client.set('key', 'old')
    assert client.gets('key') == 'old'
    client.set_servers([other.address])
    client.set('key', 'other')
    assert not client.cas('key', 'new')
    assert client.get('key') == 'other'


def test_a_wrong_list_changes_nothing(connect, pair):
    """It raises, and the servers are those from before."""
    one, _ = pair
    client = connect(one.address)
    assert client.set('key', 'value')
    with pytest.raises(ValueError, match='port'):
        client.set_servers(['127.0.0.1:1', '127.0.0.1:99999'])
    assert client.get('key') == 'value'
    client.set_servers([])
    assert client.get('key', 'default') == 'default'
    client.set_servers([one.address])
    assert client.get('key') == 'value'
