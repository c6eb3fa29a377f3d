"""A stale value whose source is down: it is asked now and then, not always."""

import asyncio
import contextlib
import logging
import time

import pytest
import wire
from services import wait_until

from sprockets.clients import memcached

LOGGER = 'sprockets.clients.memcached'

SECONDS = 30

KEY = 'key'

STALE = {'time': 60, 'stale': 60}


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def expire(address, key=KEY):
    """Let the time of a key pass; what is left is for serving it stale."""
    assert wire.ask(address, f'touch {key} 30\r\n'.encode()) == b'TOUCHED\r\n'


class Source:
    """Computes a value, or fails as long as it is down."""

    def __init__(self):
        self.calls = 0
        self.is_down = True

    def __call__(self):
        self.calls += 1
        if self.is_down:
            raise OSError('the database is down')
        return 'new'


def read_for(client, seconds, source):
    """Read one value after another, and return how many there were."""
    until = time.monotonic() + seconds
    reads = 0
    while time.monotonic() < until:
        assert client.get_or_set(KEY, source, **STALE) == 'old'
        reads += 1
        # Others have the processor meanwhile.
        time.sleep(0.005)
    return reads


def test_a_source_that_is_down_is_left_alone(connect, address, caplog):
    """For longer each time; what is said of it does not fill the log."""
    client = connect(address)
    client.get_or_set(KEY, lambda: 'old', **STALE)
    expire(address)
    source = Source()
    with caplog.at_level(logging.ERROR, LOGGER):
        reads = read_for(client, 2, source)
    assert 1 <= source.calls <= 4
    assert reads > 2 * source.calls
    said = [r for r in caplog.records if 'anew' in r.getMessage()]
    assert len(said) == 1
    assert 'the database is down' in caplog.text
    # It is asked again once it is well, by and by.
    source.is_down = False
    wait_until(lambda: client.get_or_set(KEY, source, **STALE) == 'new')


def test_many_values_of_a_source_that_is_down(address, caplog):
    """Each is asked for, and the log does not say so of each."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        keys = [f'{KEY}{number}' for number in range(100)]
        for key in keys:
            await client.get_or_set(key, lambda: 'old', **STALE)
            await client.touch(key, 30)
        source = Source()
        for _ in range(3):
            values = await asyncio.gather(
                *[client.get_or_set(key, source, **STALE) for key in keys]
            )
            assert values == ['old'] * len(keys)
        await client.close()
        assert len(keys) <= source.calls <= 2 * len(keys)

    with caplog.at_level(logging.ERROR, LOGGER):
        asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert len([r for r in caplog.records if 'anew' in r.getMessage()]) == 1


def test_a_mark_has_it_asked_at_once(connect, address):
    """Whoever marks a value stale knows that there is another one."""
    client = connect(address)
    client.get_or_set(KEY, lambda: 'old', **STALE)
    expire(address)
    source = Source()

    def is_asked_again():
        calls = source.calls
        client.mark_stale(KEY, 30)
        assert client.get_or_set(KEY, source, **STALE) == 'old'
        client.get('what-comes-behind-it')
        return source.calls > calls

    # So often that the pause is longer than this takes.
    for _ in range(7):
        wait_until(is_asked_again)
    source.is_down = False
    client.mark_stale(KEY, 30)
    wait_until(lambda: client.get_or_set(KEY, source, **STALE) == 'new')


def test_a_value_that_is_gone_is_asked_for_at_once(connect, address):
    """There is nothing to serve meanwhile."""
    client = connect(address)
    client.get_or_set(KEY, lambda: 'old', **STALE)
    expire(address)
    source = Source()
    wait_until(
        lambda: (
            client.get_or_set(KEY, source, **STALE) == 'old'
            and source.calls > 0
        )
    )
    client.invalidate(KEY)
    with contextlib.suppress(OSError):
        client.get_or_set(KEY, source, **STALE)
    source.is_down = False
    assert client.get_or_set(KEY, source, **STALE) == 'new'
