"""Each server's health, what is sent to it twice, and which life it is in."""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import testing
from sprockets.clients.memcached.servers import cluster, endpoints, journey
from sprockets.clients.memcached.wire import connection, protocol

LONG = 30
"""Seconds for what is not expected to come to its deadline."""

SHORT = 0.3
"""Seconds for what is."""

SLACK = 5
"""Seconds that a busy machine may take on top of a deadline."""

LOGGER = 'sprockets.clients.memcached'

CLOSE = [faults.Do.CLOSE]
BROKEN = [CLOSE]
"""What a connection does that breaks at the first request."""
MISS = b'END\r\n'
HIT = b'VALUE key 16 5\r\nvalue\r\nEND\r\n'


@pytest.fixture
def connect():
    """Make clients whose connections are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(*servers, **options):
            options.setdefault('socket_timeout', LONG)
            client = memcached.Client(
                servers=[each.address for each in servers], **options
            )
            stack.callback(client.disconnect_all)
            return client

        yield make


@pytest.fixture
def threads():
    """Call a function in so many threads; futures for the results."""
    with concurrent.futures.ThreadPoolExecutor(64) as executor:
        yield lambda count, *args: [
            executor.submit(*args) for _ in range(count)
        ]


@pytest.fixture
def messages(caplog):
    """What is logged: levels and messages."""
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


def endpoint_of(client):
    return client.servers[0].endpoint


def exchange(client, *commands, timeout=LONG, trial=None):
    return endpoint_of(client).exchange(
        commands, time.monotonic() + timeout, trial=trial
    )


def until(condition, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def a_get():
    return protocol.Get((b'key',))


def a_set():
    return protocol.store(protocol.SET, b'key', 16, 0, b'value')


def an_incr():
    return protocol.count(protocol.INCR, b'key', 1)


# Health


def test_a_server_has_one_state_in_the_process(connect):
    """What one client finds out, all of them know, in all threads."""
    with faults.ScriptedServer(BROKEN) as server:
        one, other = connect(server), connect(server)
        assert endpoint_of(one) is endpoint_of(other)
        assert one.get('key', 'default') == 'default'
        came = len(server.connections)
        assert other.get('key', 'default') == 'default'
        assert not other.set('key', 'value')
        assert len(server.connections) == came


def test_clients_that_connect_in_another_way_have_their_own(connect):
    """A short timeout of one does not make a server dead for the other."""
    with faults.ScriptedServer([], [HIT]) as server:
        hasty, patient = connect(server, socket_timeout=SHORT), connect(server)
        assert hasty.get('key') is None
        assert patient.get('key') == 'value'


def test_going_down_and_coming_up_are_logged_once(connect, threads, messages):
    """However many callers notice, with the address and the reason."""
    with (
        testing.MemcachedServer() as server,
        faults.FaultProxy(server.address) as proxy,
    ):
        client = connect(proxy, dead_retry=0)
        proxy.down()
        for call in threads(30, client.get, 'key'):
            assert call.result() is None
        ((level, message),) = messages()
        assert level == 'WARNING'
        assert f'server {proxy.address} is down' in message
        assert 'refused' in message
        assert len(messages()) == 1
        proxy.up()
        until(lambda: client.set('key', 'value'))
        for call in threads(30, client.get, 'key'):
            assert call.result() == 'value'
        (level, message) = messages()[-1]
        assert level == 'INFO'
        assert f'server {proxy.address} is up' in message
        assert len(messages()) == 2


def test_one_caller_tries_while_the_others_fail_fast(connect, threads):
    """Nobody else waits, until that one has found out."""
    with faults.ScriptedServer(
        BROKEN, BROKEN, [[faults.Do.STALL, HIT], HIT], [HIT]
    ) as server:
        client = connect(server, dead_retry=0)
        assert client.get('key') is None
        (trial,) = threads(1, client.get, 'key')
        server.wait_for(lambda: server.stalled)
        began = time.monotonic()
        for call in threads(40, client.get, 'key'):
            assert call.result() is None
        assert time.monotonic() - began < SLACK
        assert len(server.connections) == 3
        server.release()
        assert trial.result() == 'value'
        assert client.get('key') == 'value'


def test_a_trial_that_fails_is_followed_by_another(connect, messages):
    """Each after ``dead_retry``, with no more to log."""
    with faults.ScriptedServer(*[BROKEN] * 6, [HIT]) as server:
        client = connect(server, dead_retry=0)
        for _ in range(3):
            assert client.get('key') is None
        assert client.get('key') == 'value'
        assert len(server.connections) == 7
        assert [level for level, _ in messages()] == ['WARNING', 'INFO']


@pytest.mark.parametrize(
    'answer', [b'ERROR\r\n', b'SERVER_ERROR busy\r\n'], ids=repr
)
def test_a_trial_that_is_refused(connect, answer):
    """A server that answers is up, whatever it says."""
    with faults.ScriptedServer(BROKEN, BROKEN, [answer, HIT]) as server:
        client = connect(server, dead_retry=0)
        assert client.get('key') is None
        assert client.get('key') is None
        assert endpoint_of(client).retry_at is None
        assert client.get('key') == 'value'


def test_a_trial_takes_a_new_connection(connect):
    """What is idle from before may have died with the server."""
    with faults.ScriptedServer([MISS, faults.Do.STALL], [b'7\r\n']) as server:
        client = connect(server, dead_retry=0, socket_timeout=LONG)
        assert client.get('key') is None
        endpoint = endpoint_of(client)
        endpoint.mark_down(OSError('no reason'))
        assert client.incr('key') == 7
        assert endpoint.retry_at is None


def test_a_trial_without_time(connect):
    """A call that waited elsewhere tells nothing of the server."""
    with faults.ScriptedServer([]) as server:
        client = connect(server, dead_retry=0)
        endpoint = endpoint_of(client)
        endpoint.mark_down(OSError('no reason'))
        for timeout in (-1, 0.01):
            trial = endpoint.try_again()
            assert trial is not None
            assert not endpoint.usable()
            exchange(client, command := a_get(), timeout=timeout, trial=trial)
            assert isinstance(command.error, TimeoutError)
        assert endpoint.usable()


def test_a_trial_that_joins_others(alive):
    """A batch that has begun before takes it along to the server."""

    async def main():
        client = memcached.AsyncClient(
            servers=alive.address, dead_retry=0, socket_timeout=LONG
        )
        try:
            await client.set('key', 'value')
            (endpoint,) = client._engine.cluster.endpoints
            for trial in (
                lambda: client.get('key'),
                lambda: client.gets('key'),
            ):
                before = client.get('other')
                endpoint.mark_down(OSError('no reason'))
                assert await trial() == 'value'
                assert await before is None
                assert endpoint.retry_at is None
        finally:
            await client.close()

    asyncio.run(main())


def test_an_answer_from_before_it_went_down(connect, threads):
    """It does not make a server up of which worse is known since."""
    with faults.ScriptedServer([[faults.Do.STALL, HIT]], BROKEN) as server:
        client = connect(server)
        (early,) = threads(1, client.get, 'key')
        server.wait_for(lambda: server.stalled)
        assert client.incr('key') is None
        server.release()
        assert early.result() == 'value'
        assert endpoint_of(client).retry_at is not None


@pytest.mark.parametrize('share', [0.01, 0.3])
def test_too_little_time_is_no_fault_of_the_server(connect, share):
    """A call that had little left does not make a server dead."""
    with faults.ScriptedServer([]) as server:
        client = connect(server, socket_timeout=1)
        exchange(client, command := a_get(), timeout=share)
        assert isinstance(command.error, TimeoutError)
        assert endpoint_of(client).retry_at is None


def test_time_that_passed_afterwards_is_not_counted(connect, monkeypatch):
    """A process that was late gave the server no more of it."""
    exchange_of = connection.Connection.exchange

    def late(*args):
        try:
            exchange_of(*args)
        finally:
            time.sleep(0.6)

    monkeypatch.setattr(connection.Connection, 'exchange', late)
    with faults.ScriptedServer([]) as server:
        client = connect(server, socket_timeout=1)
        exchange(client, command := a_get(), timeout=0.1)
        assert isinstance(command.error, TimeoutError)
        assert endpoint_of(client).retry_at is None


def test_all_of_the_time_is(connect):
    """A call that had all of it and got no answer does."""
    with faults.ScriptedServer([]) as server:
        client = connect(server, socket_timeout=SHORT)
        began = time.monotonic()
        exchange(client, command := a_get(), timeout=SHORT)
        assert time.monotonic() - began < SHORT + SLACK
        assert isinstance(command.error, TimeoutError)
        assert endpoint_of(client).retry_at is not None


def test_with_no_time_nothing_is_sent(connect):
    """What is late before it begins is not begun."""
    with faults.ScriptedServer([]) as server:
        client = connect(server)
        assert exchange(client, command := a_set(), timeout=0)
        assert isinstance(command.error, TimeoutError)
        assert not server.connections


# What is sent twice


@pytest.mark.parametrize('used_before', [True, False])
def test_what_is_harmless_is_tried_once_more(connect, used_before):
    """On a new connection, whether or not the first one was new."""
    first = [MISS, CLOSE] if used_before else [CLOSE]
    with faults.ScriptedServer(first, [HIT]) as server:
        client = connect(server)
        if used_before:
            client.get('other')
        assert client.get('key') == 'value'
        assert len(server.connections) == 2
        assert server.received.count(b'get key') == 2


def test_what_is_harmless_is_not_tried_for_ever(connect):
    """A server that breaks two connections in a row is down."""
    with faults.ScriptedServer([MISS, CLOSE], [CLOSE], [HIT]) as server:
        client = connect(server)
        client.get('other')
        assert client.get('key') is None
        assert len(server.connections) == 2
        assert endpoint_of(client).retry_at is not None


@pytest.mark.parametrize('used_before', [True, False])
def test_what_may_have_run_is_sent_once(connect, used_before):
    """A server is blamed only if it broke a connection that was new."""
    first = [MISS, CLOSE] if used_before else [CLOSE]
    with faults.ScriptedServer(first, [b'7\r\n']) as server:
        client = connect(server)
        if used_before:
            client.get('other')
        assert client.incr('key') is None
        assert server.received.count(b'incr') == 1
        assert (endpoint_of(client).retry_at is None) == used_before


def test_of_many_commands_each_is_judged_alone(connect):
    """The answered, what may have run, and the rest."""
    answered, lost, harmless = a_set(), an_incr(), a_get()
    with faults.ScriptedServer([b'STORED\r\n', CLOSE], [HIT]) as server:
        client = connect(server)
        assert exchange(client, answered, lost, harmless)
        assert answered.result is True
        assert answered.error is None
        assert lost.result is None
        assert isinstance(lost.error, ConnectionResetError)
        assert harmless.found[b'key'][1] == b'value'
        assert harmless.error is None
        assert server.received.count(b'set') == 1
        assert server.received.count(b'incr') == 1
        assert bytes(server.connections[1].received) == b'get key\r\n'


def test_what_timed_out_is_not_tried_again(connect):
    """There is no time for it."""
    with faults.ScriptedServer([]) as server:
        client = connect(server, socket_timeout=SHORT)
        assert client.get('key') is None
        assert len(server.connections) == 1


def test_a_server_that_talks_nonsense(connect, messages):
    """It is down once it has done so on two connections."""
    nonsense = [b'220 mail.test ESMTP\r\n']
    with faults.ScriptedServer(*[nonsense] * 2) as server:
        client = connect(server)
        for _ in range(3):
            assert client.get('key') is None
        assert len(server.connections) == 2
        said, down = messages()
        for level, message in (said, down):
            assert level == 'WARNING'
            assert '220 mail.test ESMTP' in message
        assert 'is down' in down[1]


def test_behind_a_refusal_that_leaves_doubt(connect, messages):
    """What follows on the connection is asked for on another one."""
    refused, lost, harmless = a_set(), an_incr(), a_get()
    with faults.ScriptedServer(
        [b'CLIENT_ERROR bad data chunk\r\n', b'ERROR\r\n', b'7\r\n'], [HIT]
    ) as server:
        client = connect(server)
        assert exchange(client, refused, lost, harmless)
        assert not refused.result
        assert lost.result is None
        assert harmless.found[b'key'][1] == b'value'
        assert server.received.count(b'set') == 1
        assert server.received.count(b'incr') == 1
        assert endpoint_of(client).retry_at is None
        ((level, message),) = messages()
        assert level == 'WARNING'
        assert 'bad data chunk' in message


def test_only_what_was_not_sent_may_go_elsewhere(connect):
    """False is for a server that could not be reached, and only for that."""
    with faults.refusing() as address:
        client = connect(_At(address))
        assert not exchange(client, a_set())
    with faults.ScriptedServer(BROKEN, BROKEN) as server:
        assert exchange(connect(server), a_set())


class _At:
    def __init__(self, address):
        self.address = address


def test_the_error_of_a_server_is_forgotten_where_another_answers(connect):
    """Who asks how a call went is told of the server that did it."""
    with faults.refusing() as address, testing.MemcachedServer() as server:
        client = connect(_At(address), server)
        keys = [f'key-{number}' for number in range(20)]
        assert client.delete_multi(keys) == 1
        client.forget_dead_hosts()
        route = cluster.Route(b'key', 0)
        command = protocol.delete(b'key')
        journey.run(client._shared.cluster, command, route)
        assert command.answered
        assert command.error is None


def test_servers_are_asked_side_by_side(connect):
    """One that hangs costs its time once, and the others nothing."""
    with (
        faults.ScriptedServer([]) as hung,
        faults.ScriptedServer([]) as hung_too,
        testing.MemcachedServer() as server,
    ):
        client = connect(hung, server, hung_too, socket_timeout=1)
        wire.put(server.address, 'key', 16, b'value')
        keys = [(place, f'key{place}') for place in range(3)]
        keys.append((1, 'key'))
        began = time.monotonic()
        found = client.get_multi(keys)
        assert time.monotonic() - began < 1 + SLACK
        assert found == {(1, 'key'): 'value'}


# Lives


@pytest.fixture
def alive():
    with testing.MemcachedServer() as server:
        yield server


def test_one_life_as_long_as_a_connection_lasts(connect, threads, alive):
    """More connections, one after another and at once, are no new life."""
    client = connect(alive)
    client.set('key', 'value')
    life = endpoint_of(client).incarnation
    for call in threads(30, client.get, 'key'):
        assert call.result() == 'value'
    assert client.get('key') == 'value'
    assert endpoint_of(client).incarnation == life


def test_a_new_life_after_a_lost_connection(connect, alive):
    """Whether it was in use or not."""
    client = connect(alive)
    client.set('key', 'value')
    life = endpoint_of(client).incarnation
    alive.restart()
    client.get('key')
    assert endpoint_of(client).incarnation > life


def test_a_new_life_where_no_connection_is_left(connect, alive):
    """Nobody could tell whether the server was restarted meanwhile."""
    client = connect(alive)
    client.set('key', 'value')
    life = endpoint_of(client).incarnation
    client.disconnect_all()
    client.get('key')
    assert endpoint_of(client).incarnation > life


@pytest.mark.parametrize('restarted', [False, True])
def test_no_new_life_of_who_answers_and_closes(connect, alive, restarted):
    """That there is an answer on a connection that was lost is seen late."""
    client = connect(alive)
    endpoint = endpoint_of(client)
    busy = endpoint._connect(time.monotonic() + LONG)
    life = endpoint.incarnation
    busy.link.shut_down()
    client.set('key', 'value')
    assert endpoint.incarnation > life
    if restarted:
        alive.restart()
        client.get('key')
    endpoint._connections.note_answer(busy.link)
    # What else was seen since then holds.
    assert (endpoint.incarnation > life) == restarted
    busy.drop()


def test_a_new_life_that_a_busy_connection_has_not_noticed(connect, alive):
    """A call under way has lost its server, and does not know it yet."""
    client = connect(alive)
    endpoint = endpoint_of(client)
    busy = endpoint._connect(time.monotonic() + LONG)
    client.set('key', 'value')
    life = endpoint.incarnation
    client.set('key', 'value')
    assert endpoint.incarnation == life
    endpoint._connections._close_idle()
    client.get('key')
    assert endpoint.incarnation == life
    alive.restart()
    client.disconnect_all()
    client.get('key')
    assert endpoint.incarnation > life
    busy.drop()


@pytest.mark.parametrize('disconnected', [True, False])
def test_cas_overwrites_nothing_of_another_life(connect, alive, disconnected):
    """The first values after a restart have the cas uniques of before."""
    client = connect(alive)
    assert client.set('key', 'first')
    unique = wire.ask(alive.address, b'gets key\r\n', b'END\r\n').split()[4]
    assert client.gets('key') == 'first'
    if disconnected:
        client.disconnect_all()
    alive.restart()
    while True:
        wire.put(alive.address, 'key', 16, b'second')
        answer = wire.ask(alive.address, b'gets key\r\n', b'END\r\n')
        if answer.split()[4] == unique:
            break
        assert int(answer.split()[4]) < int(unique)
    assert not client.cas('key', 'lost')
    assert client.get('key') == 'second'
    # What gets sees now is good for cas again.
    assert client.gets('key') == 'second'
    assert client.cas('key', 'third')


def test_cas_of_another_life_is_not_sent(connect, alive):
    """It is left out of what is sent with it."""
    client = connect(alive)
    stale = protocol.compare_and_swap(b'key', 0, 0, b'x', 1, -1)
    assert exchange(client, stale, a_set(), command := a_get())
    assert isinstance(stale.error, endpoints.StaleError)
    assert not stale.answered
    assert command.found[b'key'][1] == b'value'


# Flushing


def test_a_server_that_comes_back_is_flushed(connect, alive):
    """With ``flush_on_reconnect`` nothing is read that it had before."""
    with faults.FaultProxy(alive.address) as proxy:
        client = connect(proxy, dead_retry=0, flush_on_reconnect=1)
        assert client.set('key', 'old')
        proxy.down()
        assert client.get('key') is None
        proxy.up()
        assert client.get('key') is None
        assert proxy.received.count(b'flush_all') == 1
        assert client.set('key', 'new')
        assert client.get('key') == 'new'
        assert proxy.received.count(b'flush_all') == 1


def test_a_server_that_only_hung_is_flushed_as_well(connect, threads, alive):
    """A connection that outlived it is no way round the flush."""
    client = connect(
        alive, socket_timeout=1, dead_retry=0, flush_on_reconnect=1
    )
    assert client.set('key', 'old')
    barrier = threading.Barrier(4)

    def get():
        barrier.wait()
        return client.get('key')

    while endpoint_of(client).connections < 2:
        assert [call.result() for call in threads(4, get)] == ['old'] * 4
    alive.pause()
    assert client.get('key') is None
    # A new connection brings nothing either.
    until(lambda: endpoint_of(client).down_since is not None)
    alive.resume()
    until(client.get_stats)
    # It was told to. What 1.6.45 makes of that just after a pause is its own:
    # once in 60 times the value was still there.
    ((_, statistics),) = client.get_stats()
    assert statistics['cmd_flush'] == '1'


@pytest.mark.parametrize(
    'answer', [b'garbage\r\n', b'STORED\r\n', b'OK\r\nOK\r\n']
)
def test_a_flush_that_fails(connect, answer):
    """It is a failure of the server; nothing raises."""
    steps = [answer, faults.Do.CLOSE]
    with faults.ScriptedServer(BROKEN, BROKEN, [steps], [b'OK\r\n', HIT]) as (
        server
    ):
        client = connect(server, dead_retry=0, flush_on_reconnect=1)
        assert client.get('key') is None
        assert client.get('key', 'default') == 'default'
        assert endpoint_of(client).retry_at is not None
        assert client.get('key') == 'value'


def test_a_server_that_is_full_when_it_comes_back(connect):
    """It stays down: what it has must not be read before it is flushed."""
    full = [b'ERROR Too many open connections\r\n', faults.Do.CLOSE]

    async def serve(connection):
        while request := await connection.request():
            flush = request.startswith(b'flush_all')
            await connection.send(b'OK\r\n' if flush else HIT)

    with faults.ScriptedServer(BROKEN, BROKEN, [full], serve) as server:
        client = connect(server, dead_retry=0, flush_on_reconnect=1)
        assert client.get('key') is None
        assert client.get('key', 'default') == 'default'
        assert endpoint_of(client).retry_at is not None
        assert client.get('key') == 'value'
        assert server.received.count(b'flush_all') == 2


def test_a_server_that_refuses_to_be_flushed(connect, messages):
    """It is used all the same, and the refusal is logged."""
    with (
        testing.MemcachedServer('-F') as server,
        faults.FaultProxy(server.address) as proxy,
    ):
        client = connect(proxy, dead_retry=0, flush_on_reconnect=1)
        assert client.set('key', 'value')
        proxy.down()
        assert client.get('key') is None
        proxy.up()
        assert client.get('key') == 'value'
        assert 'flush_all' in str(messages())


# Connections


def test_as_many_connections_as_calls_at_once(connect, threads):
    """And of them, a while later, as many are kept as may be."""
    stalled = [faults.Do.STALL, HIT]
    with faults.ScriptedServer([stalled, HIT]) as server:
        client = connect(server, max_connections=3)
        calls = threads(10, client.get, 'key')
        server.wait_for(lambda: server.stalled == 10)
        assert endpoint_of(client).connections == 10
        server.release()
        assert [call.result() for call in calls] == ['value'] * 10
        until(lambda: endpoint_of(client).connections == 3)
        server.wait_for(lambda: len(server.open) == 3)


def test_a_connection_in_use_is_closed_when_it_comes_back(connect, threads):
    """``disconnect`` lets a call under way end, and its connection go."""
    with faults.ScriptedServer([[faults.Do.STALL, HIT]], [HIT]) as server:
        client = connect(server)
        (call,) = threads(1, client.get, 'key')
        server.wait_for(lambda: server.stalled)
        client.disconnect_all()
        server.release()
        assert call.result() == 'value'
        server.wait_for(lambda: not server.open)
        assert client.get('key') == 'value'


@pytest.fixture
def interrupt():
    with faults.interrupting() as interrupt:
        yield interrupt


def test_an_interrupt_leaves_no_connection(connect, interrupt):
    """The call's connection is closed, and the server is not blamed."""

    async def interrupting(connection):
        await connection.request()
        interrupt()
        await connection.until_closed()

    with faults.ScriptedServer(interrupting, [HIT]) as server:
        client = connect(server)
        with pytest.raises(KeyboardInterrupt):
            client.get('other')
        assert endpoint_of(client).connections == 0
        assert endpoint_of(client).retry_at is None
        assert client.get('key') == 'value'
