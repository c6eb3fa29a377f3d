"""Proxies whose servers fail, or that fail themselves: what it costs.

twemproxy, and the proxy that is built into memcached, with the configurations
that the docs show.

"""

import asyncio
import contextlib
import hashlib
import logging
import time

import faults
import pytest
import servers
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import testing
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import protocol

SECONDS = 30
TIMEOUT = 10
"""Seconds for a call, on a machine that is busy."""

# Proxies spread keys that are alike badly.
KEYS = [hashlib.md5(b'%d' % n).hexdigest() for n in range(64)]

needs_the_proxy = pytest.mark.skipif(
    not servers.has_proxy(testing._find()),
    reason='the memcached here has no proxy',
)
KINDS = [
    pytest.param('routelib', marks=needs_the_proxy),
    pytest.param(
        'twemproxy',
        marks=pytest.mark.skipif(
            servers.find('nutcracker') is None,
            reason='twemproxy (nutcracker) is not installed',
        ),
    ),
]


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


@pytest.fixture(params=KINDS)
def proxy(request, pair):
    """The address of a proxy of either kind."""
    if request.param == 'routelib':
        with servers.routelib(*pair) as server:
            yield server.address
    else:
        with servers.twemproxy(*pair, seconds=1) as address:
            yield address


@contextlib.asynccontextmanager
async def awaited(address):
    """An awaitable client."""
    client = memcached.AsyncClient(servers=address, socket_timeout=TIMEOUT)
    try:
        yield client
    finally:
        await client.close()


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


@pytest.fixture(params=['killed', 'hanging'])
def losing(request, pair):
    """A way to lose one server of the two, and the keys of the other."""

    def lose(client):
        assert client.set_multi({key: key for key in KEYS}) == []
        one, other = pair
        kept = [k for k in KEYS if wire.stored(one.address, k) is not None]
        assert 0 < len(kept) < len(KEYS)
        if request.param == 'killed':
            other.kill()
        else:
            other.pause()
        return kept

    return lose


def test_a_server_that_is_lost_costs_its_own_keys(
    connect, proxy, losing, caplog
):
    """And no others, whoever shares a batch with them."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    kept = losing(client)

    async def read(client):
        assert await client.get_multi(KEYS) == dict.fromkeys(kept) | {
            key: key for key in kept
        }
        # Each that is lost takes the proxy's whole timeout.
        lost = [key for key in KEYS if key not in kept]
        for key in (*kept[:4], *lost[:2], *kept[4:]):
            assert await client.get(key) == (key if key in kept else None)
        return True

    assert client.get_multi(KEYS) == {key: key for key in kept}
    assert client.get_multi(kept) == {key: key for key in kept}
    assert all(client.together(4, read))
    assert not any('is down' in line for line in warnings(caplog))


@pytest.mark.parametrize('callers', [2, 64])
def test_reads_that_travel_together(proxy, losing, callers):
    """64 callers at once get what each of them alone would."""
    kept = losing(memcached.Client(servers=proxy, socket_timeout=TIMEOUT))
    lost = [key for key in KEYS if key not in kept]
    # Two of one server, and one of each in either order.
    pairs = [*kept[:3], *lost[:2], kept[3], *lost[2:4]]
    keys = pairs if callers == 2 else KEYS

    async def main():
        async with awaited(proxy) as client:
            for at in range(0, len(keys), callers):
                some = keys[at : at + callers]
                calls = [client.get(key, 'none') for key in some]
                assert await asyncio.gather(*calls) == [
                    key if key in kept else 'none' for key in some
                ]

    asyncio.run(main())


def test_who_shares_a_batch_writes_and_computes(proxy, losing):
    """A cas, a count and what is computed once are those of a well server."""
    blocking = memcached.Client(servers=proxy, socket_timeout=TIMEOUT)
    kept = losing(blocking)
    one, another, *_ = kept

    async def main():
        async with awaited(proxy) as client:
            assert await client.set(one, 1)
            assert await client.delete(another)
            assert await client.gets(one) == 1
            for _ in range(3):
                await asyncio.gather(*[client.get(key) for key in KEYS])
            # An answer that says no is no restart.
            assert await client.cas(one, 2)
            *_, counted, computed = await asyncio.gather(
                *[client.get(key) for key in KEYS],
                client.incr(one),
                client.get_or_set(another, lambda: 'computed'),
            )
            assert (counted, computed) == (3, 'computed')
            assert await client.get(another) == 'computed'

    asyncio.run(main())


def test_what_is_computed_while_others_are_refused_stays(connect, proxy, pair):
    """The lease was not lost, for the server was not."""
    client = connect(proxy, socket_timeout=TIMEOUT)
    assert client.set_multi({key: key for key in KEYS}) == []
    one, other = pair
    kept = [k for k in KEYS if wire.stored(one.address, k) is not None]
    lost = next(key for key in KEYS if key not in kept)
    other.kill()
    client.delete(kept[0])
    # A client of the process's own, which shares its connections.
    elsewhere = memcached.Client(servers=proxy, socket_timeout=TIMEOUT)

    def compute():
        assert elsewhere.get_multi(KEYS[:8]) is not None
        assert elsewhere.get(lost) is None
        return 'computed'

    assert client.get_or_set(kept[0], compute) == 'computed'
    assert client.get(kept[0]) == 'computed'


def test_a_server_that_comes_back(connect, proxy, pair):
    """Its keys are hits again, and many are asked for at once."""
    client = connect(proxy, socket_timeout=TIMEOUT, dead_retry=0.1)
    assert client.set_multi({key: key for key in KEYS}) == []
    _, other = pair
    other.kill()
    assert len(client.get_multi(KEYS)) < len(KEYS)
    other.start()
    until(lambda: client.set_multi({key: key for key in KEYS}) == [])
    until(lambda: client.get_multi(KEYS) == {key: key for key in KEYS})


@needs_the_proxy
def test_a_proxy_that_is_restarted(connect, pair):
    """It is a server that was; reads go on by a new connection."""
    with servers.routelib(*pair) as proxy:
        client = connect(proxy.address, socket_timeout=TIMEOUT, dead_retry=0)
        assert client.set_multi({key: key for key in KEYS}) == []
        proxy.restart()
        until(lambda: client.get('nothing', 'default') == 'default')
        assert client.get_multi(KEYS) == {key: key for key in KEYS}


def test_a_proxy_that_is_flushed_when_it_is_back(connect, proxy, caplog):
    """It closes the connection for that, and is used all the same."""
    options = {
        'socket_timeout': TIMEOUT,
        'dead_retry': 0,
        'flush_on_reconnect': 1,
    }
    client = connect(proxy, **options)
    assert client.set('key', 'value')
    # What one client of a process knows of a server, all of them do.
    other = memcached.Client(servers=proxy, **options)
    other.servers[0].endpoint.mark_down(OSError('for the test'))
    assert client.get('key') == 'value'
    assert (
        f'memcached server {proxy} closes connections on flush_all'
        in warnings(caplog)
    )


@needs_the_proxy
def test_more_requests_than_a_proxy_takes(proxy_with_a_limit):
    """It refuses some; each is a miss, and the proxy is not down for it."""

    async def main():
        async with awaited(proxy_with_a_limit) as client:
            assert await client.set('key', 'value')
            values = await asyncio.gather(
                *[client.gets('key') for _ in range(200)]
            )
            assert set(values) <= {'value', None}
            assert await client.get('key') == 'value'

    asyncio.run(main())


@pytest.fixture
def proxy_with_a_limit(pair, monkeypatch, tmp_path):
    text = (servers.ROUTES / 'direct.lua').read_text()
    text = text.replace('settings{', 'settings{\n    active_req_limit = 2,')
    (tmp_path / 'direct.lua').write_text(text)
    monkeypatch.setattr(servers, 'ROUTES', tmp_path)
    with servers.routelib(*pair) as server:
        yield server.address


@needs_the_proxy
def test_a_gutter_pool(connect, pair):
    """The third server stands in for one that is down."""
    with (
        MemcachedServer() as gutter,
        servers.routelib(*pair, gutter, routes='gutter') as proxy,
    ):
        client = connect(proxy.address, socket_timeout=TIMEOUT)
        pair[1].kill()
        until(lambda: client.set_multi({key: key for key in KEYS}) == [])
        assert client.get_multi(KEYS) == {key: key for key in KEYS}
        assert client.get_or_set('computed', lambda: 1) == 1
        assert any(wire.stored(gutter.address, key) for key in KEYS)


@needs_the_proxy
def test_zones_whose_copies_have_uniques_of_their_own(connect, pair, caplog):
    """Values are right; that they are not kept is logged, and once."""
    # What one copy has counted the other has not.
    wire.ask(pair[1].address, b'set other 0 0 1\r\nx\r\n')
    with servers.routelib(*pair, routes='zones') as proxy:
        client = connect(proxy.address, socket_timeout=TIMEOUT)
        assert client.set('key', 'value')
        for server in pair:
            assert wire.stored(server.address, 'key') == (16, b'value')
        assert client.get('key') == 'value'
        pair[0].kill()
        until(lambda: client.get('key') == 'value')
        pair[0].start()
        until(lambda: client.set('key', 'new'))
        for number in range(30):
            computed = client.get_or_set(f'computed{number}', lambda: 42)
            assert computed == 42
        said = [line for line in warnings(caplog) if 'loses leases' in line]
        assert len(said) == 1


# The line of keys


@pytest.mark.parametrize('length', [1, 36, 250])
def test_no_line_of_keys_is_too_long(connect, memcached_server, length):
    """Of as many keys as there are, and each has its value."""
    with faults.FaultProxy(memcached_server.address) as proxy:
        client = connect(proxy.address, socket_timeout=SECONDS)
        keys = [f'{n:x}'.rjust(length, '_')[:length] for n in range(3000)]
        keys = list(dict.fromkeys(keys))
        values = {key: key for key in keys}
        assert client.set_multi(values) == []
        assert client.get_multi(keys) == values

        async def read(client):
            calls = [client.get(key) for key in keys]
            return await asyncio.gather(*calls)

        assert client.together(1, read) == [keys]
        lines = [
            line
            for connection in proxy.connections
            for line in bytes(connection.received).split(b'\r\n')
            if line.startswith(b'get ')
        ]
    assert max(map(len, lines)) + 2 <= protocol.MAX_ASKED
    if length == 250:
        assert max(map(len, lines)) > protocol.MAX_ASKED - 300


# No cas uniques


def test_a_server_without_cas_uniques(connect, caplog):
    """What needs them comes to nothing, and it is said once what that is."""
    with MemcachedServer('-C') as server:
        client = connect(server.address, socket_timeout=TIMEOUT)
        assert client.set('key', 1)
        for _ in range(3):
            assert client.gets('key') == 1
            assert not client.cas('key', 2)
        with pytest.raises(memcached.UpdateError, match='no cas uniques'):
            client.update('key', lambda value: value + 1)
        assert client.get('key') == 1
        assert client.gets('nothing') is None
        assert client.cas('nothing', 'added')
    (said,) = [line for line in warnings(caplog) if 'uniques' in line]
    assert 'its option -C' in said


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)
