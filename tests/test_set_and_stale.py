"""A set on a key that is read with stale is as fresh as it says."""

import asyncio
import time

import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.once import leases

KEY = 'key'

OPTIONS = {'time': 60, 'stale': 600}


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def expire(address, key=KEY):
    """Let the time pass; what is left is for serving it stale."""
    command = f'touch {key} 300\r\n'.encode()
    assert wire.ask(address, command) == b'TOUCHED\r\n'


def read(client, times=5):
    """Return what is read, and whether it was computed, after a while."""
    computed = []

    def factory():
        computed.append(None)
        return 'computed'

    found = [client.get_or_set(KEY, factory, **OPTIONS) for _ in range(times)]
    # What is computed in the background is done before these.
    client.get_multi([KEY, 'other'])
    time.sleep(0.05)
    client.get('other')
    return found[-1], len(computed)


@pytest.mark.parametrize('seconds', [10, 60, 600])
def test_what_was_set_is_served_and_not_computed(connect, address, seconds):
    """Whatever time it has, and whatever was there before."""
    client = connect(address)
    client.set(KEY, 'set', time=seconds)
    assert read(client) == ('set', 0)
    client.delete(KEY)
    assert read(client) == ('computed', 1)
    client.set(KEY, 'set', time=seconds)
    assert read(client) == ('set', 0)


@pytest.mark.parametrize('old', [False, True])
def test_so_it_is_without_meta_commands(
    connect, memcached_server, monkeypatch, old
):
    """As old servers and proxies have none."""
    client = connect(memcached_server.address)
    inner = client.client
    core = inner._engine if hasattr(inner, '_engine') else inner._shared
    for endpoint in core.cluster.endpoints:
        monkeypatch.setattr(endpoint, 'knows_meta', False)
    if old:
        assert read(client) == ('computed', 1)
    client.set(KEY, 'set', time=60)
    assert read(client) == ('set', 0)
    assert client.mark_stale(KEY, 60)
    assert read(client)[1] == 1


def test_what_was_computed_is_stale_when_its_time_has_passed(connect, address):
    """And each time again."""
    client = connect(address)
    assert read(client) == ('computed', 1)
    for _ in range(3):
        expire(address)
        assert read(client)[1] == 1


def test_what_was_set_can_be_marked_stale(connect, address):
    """Then it is computed anew; a set after that is fresh."""
    client = connect(address)
    client.set(KEY, 'set', time=60)
    assert client.mark_stale(KEY, 60)
    assert read(client)[1] == 1
    assert client.mark_stale(KEY, 60)
    client.set(KEY, 'set', time=60)
    assert read(client) == ('set', 0)


def test_if_the_note_is_lost_it_is_served_until_it_is_dropped(
    connect, address
):
    """It is a key of its own, which may be evicted."""
    client = connect(address)
    assert read(client) == ('computed', 1)
    assert client.delete(leases.computed_key(KEY.encode()).decode())
    expire(address)
    assert read(client) == ('computed', 0)
    client.delete(KEY)
    assert read(client) == ('computed', 1)


def test_what_cannot_be_known_is_computed(address):
    """Where the server does not say."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.get_or_set(KEY, lambda: 'old', **OPTIONS)
        await asyncio.to_thread(expire, address)
        flow = client._engine.state.computing.flow
        asked = []

        def refuse(want, *keys):
            asked.append(keys)
            return None
            yield

        flow._read_aside = refuse
        new = client.get_or_set(KEY, lambda: 'new', **OPTIONS)
        assert await new == 'old'
        while await client.get(KEY) == 'old':
            pass
        assert len(asked) == 1
        await client.close()

    asyncio.run(asyncio.wait_for(main(), 30))
