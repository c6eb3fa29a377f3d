"""What becomes of calls of AsyncClient that wait for a server that hangs."""

import asyncio
import time

import faults
import pytest

from sprockets.clients import memcached

TIMEOUT = 2.0


def key_of(server, servers, name='key'):
    """Return a key that has its home on a server."""
    return servers.index(server), name


class Outcomes:
    """Observes calls and keeps what it was told of each method."""

    def __init__(self):
        self.errors = {}

    def observe(self, method, keys):
        return Outcome(self.errors.setdefault(method, []))


class Outcome:
    def __init__(self, errors):
        self._errors = errors

    def over(self, error, hits, misses, endpoint=None):
        self._errors.append(error)


def clients(*servers, **options):
    """Return a client with one connection to each server."""
    return memcached.AsyncClient(
        servers=','.join(server.address for server in servers),
        socket_timeout=TIMEOUT,
        max_connections=1,
        **options,
    )


CALLS = {
    'get': lambda client, key: client.get(key, None),
    'gets': lambda client, key: client.gets(key),
    'set': lambda client, key: client.set(key, 1),
    'incr': lambda client, key: client.incr(key),
    'get_multi': lambda client, key: client.get_multi([key]),
    'set_multi': lambda client, key: client.set_multi({key: 1}),
}

FAILURES = {
    'get': None,
    'gets': None,
    'set': 0,
    'incr': None,
    'get_multi': {},
    'set_multi': [(0, 'key')],
}


@pytest.mark.parametrize('method', CALLS)
def test_a_call_has_one_deadline_for_all_servers(method):
    """One that waited for a server that hangs waits no longer for the next.

    Its connections are taken, so that the call waits for its turn until that
    server is down; then it goes on to the other one, which hangs as well.

    """

    async def main(first, second):
        client = clients(first, second)
        key = key_of(first, (first, second))
        before = client.get(key)
        await asyncio.sleep(0)
        await asyncio.to_thread(first.wait_for, lambda: first.received)
        # So that the first server is down well before this call's deadline.
        await asyncio.sleep(TIMEOUT / 3)
        began = time.monotonic()
        result = await CALLS[method](client, key)
        took = time.monotonic() - began
        await before
        await client.close()
        return result, took

    # Where this process was late, the first server is not blamed, and no call
    # goes on.
    for _ in range(5):
        with (
            faults.ScriptedServer() as first,
            faults.ScriptedServer() as second,
        ):
            result, took = asyncio.run(main(first, second))
            assert result == FAILURES[method]
            assert took < TIMEOUT * 1.6
            if second.received:
                return
    pytest.fail('no call went on to the second server')


@pytest.mark.parametrize('method', CALLS)
def test_an_observer_is_told_of_a_call_that_was_never_sent(method):
    """It failed, though there was nobody who could have refused it."""

    async def main(server, other):
        outcomes = Outcomes()
        client = clients(server, other, failover=False)
        key = key_of(server, (server, other))
        before = client.get(key)
        await asyncio.sleep(0)
        await asyncio.to_thread(server.wait_for, lambda: server.received)
        scope = client.scope(outcomes.observe)
        assert await CALLS[method](scope, key) == FAILURES[method]
        await before
        await client.close()
        return outcomes.errors

    with faults.ScriptedServer() as server, faults.ScriptedServer() as other:
        errors = asyncio.run(main(server, other))
    assert list(errors) == [method]
    assert [bool(error) for error in errors[method]] == [True]


def test_a_gets_that_was_cancelled_does_not_count_any_more():
    """Though its answer comes last, cas is about what the later gets saw."""

    def value(unique):
        return b'VALUE key 0 3 %d\r\nold\r\nEND\r\n' % unique

    async def main(server):
        client = memcached.AsyncClient(servers=server.address)
        scope = client.scope()
        early, beside = scope.gets('key'), client.get('other')
        await asyncio.sleep(0)
        await asyncio.to_thread(server.wait_for, lambda: server.stalled)
        early.cancel()
        assert await scope.gets('key') == b'old'
        server.release()
        await beside
        stored = await scope.cas('key', b'new')
        await client.close()
        return stored

    with faults.ScriptedServer(
        # What travels with it, the early one, and perhaps the cas.
        [faults.stall(b'END\r\n'), value(5), b'STORED\r\n'],
        [value(9), b'STORED\r\n'],
    ) as server:
        assert asyncio.run(main(server))
        assert b'cas key 0 0 3 9\r\n' in server.received
