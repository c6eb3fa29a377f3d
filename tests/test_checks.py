"""What a check of a server promises."""

import contextlib
import logging
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.servers import health
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.watch import checks
from sprockets.clients.memcached.wire import protocol


@contextlib.contextmanager
def endpoint_of(server, **options):
    client = memcached.Client(servers=server.address, **options)
    try:
        yield client.servers[0].endpoint
    finally:
        client.disconnect_all()


def check(endpoint):
    return checks.check(endpoint, time.monotonic() + endpoint.timeout)


def describe(endpoint):
    return checks.describe(endpoint, check(endpoint))


def now():
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())


def test_a_server_that_is_up(memcached_server):
    """It has its version, how fast it answers, and what it says of itself."""
    plain = memcached.Client()
    plain.set('a', 'x' * 1000)
    plain.get_multi(['a', 'b', 'c', 'd'])
    said = wire.statistics(memcached_server.address)
    with endpoint_of(memcached_server) as endpoint:
        check(endpoint)
        state = describe(endpoint)
    assert state['address'] == memcached_server.address
    assert state['up'] is True
    assert state['reason'] is None
    assert state['version'] == said['version']
    assert 0 < state['round_trip'] < 1
    assert 0 < state['hit_rate'] <= 0.25
    assert state['items'] >= 1
    assert 1000 < state['memory'] < state['memory_limit']
    assert state['memory_limit'] == 64 << 20
    assert state['evictions'] == 0
    assert state['connections'] >= 1
    assert state['since'] <= now()
    plain.disconnect_all()


def test_one_connection(memcached_server):
    """However often it looks, it takes one, which is used again."""
    with (
        faults.FaultProxy(memcached_server.address) as proxy,
        endpoint_of(proxy) as endpoint,
    ):
        for _ in range(20):
            assert check(endpoint).error is None
        assert len(proxy.connections) == 1


def test_a_server_that_is_down():
    """It has a reason and the time; its statistics are not known."""
    with (
        MemcachedServer() as server,
        endpoint_of(server, dead_retry=0) as endpoint,
    ):
        check(endpoint)
        before = now()
        server.kill()
        state = describe(endpoint)
        assert state['up'] is False
        assert state['reason'] == 'Connection refused'
        assert before <= state['since'] <= now()
        unknown = set(state) - {'address', 'up', 'reason', 'since'}
        assert {state[name] for name in unknown} == {None}
        assert endpoint.retry_at is not None
        back = time.time()
        server.start()
        state = describe(endpoint)
        assert state['up'] is True
        assert endpoint.retry_at is None
        assert endpoint.up_since >= back


def test_up_since_it_came_back(memcached_server):
    """It was unreachable meanwhile, but not restarted."""
    with endpoint_of(memcached_server) as endpoint:
        started = describe(endpoint)['since']
        endpoint.mark_down(OSError('unreachable'))
        endpoint.mark_up()
        endpoint.up_since += 1000
        assert describe(endpoint)['since'] > started


@pytest.mark.parametrize(
    'answer', [b'ERROR\r\n', faults.Do.CLOSE, faults.Do.RESET]
)
def test_a_proxy_that_knows_neither_version_nor_stats(answer, caplog):
    """It is up, is not marked down, and is not asked for them again."""

    async def proxy(connection):
        while request := await connection.request():
            if request.startswith(b'get '):
                await connection.send(b'END\r\n')
            else:
                await connection.play([answer])
                if isinstance(answer, faults.Do):
                    return

    caplog.set_level(logging.WARNING)
    with (
        faults.ScriptedServer(proxy) as server,
        endpoint_of(server) as endpoint,
    ):
        for _ in range(5):
            state = describe(endpoint)
            assert state['up'] is True
            assert state['version'] is None
            assert state['hit_rate'] is None
            assert state['round_trip'] > 0
            assert endpoint.retry_at is None
        assert server.received.count(b'version') == 1
        assert server.received.count(b'stats') == 1
    assert len(caplog.records) <= 2
    assert not [r for r in caplog.records if 'is down' in r.getMessage()]


def test_a_server_that_knows_version_no_longer(memcached_server):
    """It was replaced by a proxy, say: it is up, without a version."""
    with (
        faults.FaultProxy(memcached_server.address) as proxy,
        endpoint_of(proxy) as endpoint,
    ):
        assert check(endpoint).version
        proxy.next_reply(faults.replace(b'ERROR\r\n'))
        assert check(endpoint).version is None
        assert check(endpoint).version


def test_a_server_that_hangs(memcached_server):
    """It is down after the timeout, for the calls as well."""
    with endpoint_of(memcached_server, socket_timeout=0.2) as endpoint:
        assert check(endpoint).error is None
        memcached_server.pause()
        began = time.monotonic()
        assert check(endpoint).error == 'timed out'
        assert 0.15 < time.monotonic() - began < 5
        assert endpoint.retry_at is not None
        memcached_server.resume()


def test_reasons_hold_nothing_that_the_server_sent():
    """It may be a key or a value."""
    error = protocol.ProtocolError("b'VALUE secret' is no answer to get")
    assert 'secret' not in health.words(error)
    assert 'secret' not in health.words(protocol.OutOfStepError('secret'))
    assert 'secret' not in health.words(protocol.RefusedError('secret'))
    assert health.words(OSError(111, 'refused')) == 'refused'
    assert health.words(TimeoutError('timed out')) == 'timed out'
    assert health.words(ConnectionResetError()) == 'ConnectionResetError'


def test_what_is_said_in_place_of_an_answer_is_not_told():
    """Neither in the look nor once the server is down."""
    with (
        faults.ScriptedServer([b'VALUE secret 0 1\r\n1\r\nEND\r\n']) as server,
        endpoint_of(server) as endpoint,
    ):
        state = describe(endpoint)
        assert state['up'] is False
        assert 'secret' not in str(state)
        assert 'secret' not in endpoint.reason


def test_rate():
    """It is None where nothing was read."""
    assert checks.rate(None, 3) is None
    assert checks.rate(0, 0) is None
    assert checks.rate(1, 2) == 0.3333
