"""Numbers that are made where there is none, in one step."""

import asyncio
import datetime

import faults
import pytest
import wire

from sprockets.clients import memcached

MOST = 2**64 - 1


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture(
    params=['meta', b'ERROR\r\n', b'CLIENT_ERROR unknown\r\n', None],
    ids=['meta', 'ERROR', 'CLIENT_ERROR', 'closed'],
)
def server(request, address):
    """The address of a server that knows meta commands, or does not."""
    if request.param == 'meta':
        yield address
    else:
        with faults.without_meta(address, request.param) as old:
            yield old.address


def test_a_number_is_made_and_counted_on(connect, server):
    """Whatever the server knows, the numbers are the same."""
    client = connect(server)
    assert client.incr('up', initial=1, time=60) == 1
    assert client.incr('up', initial=1, time=60) == 2
    assert client.incr('up', 5, initial=1) == 7
    assert client.incr('up') == 8
    assert client.decr('down', 3, initial=10) == 10
    assert client.decr('down', 3, initial=10) == 7
    assert client.decr('down', 30, initial=10) == 0
    assert client.get('up') == b'8'


def test_a_number_of_another_is_counted_on(connect, server):
    """It need not have been made in this way, and stays what it is."""
    client = connect(server)
    client.set('count', 7, time=60)
    assert client.incr('count', initial=1) == 8
    assert client.get('count') == 8


@pytest.mark.parametrize('twice', [False, True])
def test_a_server_that_closes_on_several_at_once(address, twice):
    """It is found out for all of them, and each is done without."""

    async def main():
        with faults.without_meta(address, None) as old:
            client = memcached.AsyncClient(servers=old.address)
            await client.set('other', 1)
            for _ in range(1 + twice):
                made = [client.incr(f'n{n}', initial=5) for n in range(5)]
                assert await asyncio.gather(*made) in ([5] * 5, [6] * 5)
                seen = [
                    client.get_or_set(f'k{n}', lambda: 'value', time=60)
                    for n in range(5)
                ]
                assert await asyncio.gather(*seen) == ['value'] * 5
                assert await client.get('k4') == 'value'
            await client.close()

    asyncio.run(main())


def test_its_time_is_that_of_what_is_made(connect, server, address):
    """To count on does not prolong it."""
    client = connect(server)
    minute = datetime.timedelta(minutes=1)
    assert client.incr('count', initial=1, time=minute) == 1
    assert 55 <= wire.seconds_left(address, 'count') <= 60
    assert client.incr('count', initial=1, time=6000) == 2
    assert 55 <= wire.seconds_left(address, 'count') <= 60
    assert client.incr('for ever'.replace(' ', '-'), initial=1) == 1
    assert wire.seconds_left(address, 'for-ever') == -1
    month = 60 * 60 * 24 * 31
    assert client.incr('later', initial=1, time=month) == 1
    left = wire.seconds_left(address, 'later')
    assert month - 60 <= left <= month + wire.LATE


def test_all_who_count_at_once_are_counted(connect, server):
    """Each gets another number."""

    async def body(client):
        return [await client.incr('count', initial=1) for _ in range(10)]

    client = connect(server)
    # A server that closes the connection for what it does not know is known
    # for that, or what is on the same connection would be lost.
    client.incr('warm', initial=1)
    found = [n for some in client.together(8, body) for n in some]
    assert sorted(found, key=str) == sorted(range(1, 81), key=str)


def test_it_is_one_round_trip_where_there_are_meta_commands(connect, address):
    """And one command."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address)
        client.get('warm')
        before = len(proxy.received)
        client.incr('count', initial=3, time=60)
        assert proxy.received[before:] == b'ma count N60 J3 D1 MI t v\r\n'


def test_the_largest_numbers(connect, server):
    """After 2**64 - 1 memcached begins again."""
    client = connect(server)
    assert client.incr('count', initial=MOST) == MOST
    assert client.incr('count', initial=5) == 0
    assert client.incr('count', MOST, initial=0) == MOST


def test_what_is_no_number_stays(connect, server):
    """None says so, and the next call is not confused."""
    client = connect(server)
    client.set('text', 'text')
    assert client.incr('text', initial=1) is None
    assert client.get('text') == 'text'
    assert client.incr('count', initial=1) == 1


def test_a_text_does_not_make_a_server_an_old_one(connect, address):
    """Its error is not that of a server that knows no such command."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address)
        client.set('text', 'text')
        client.incr('text', initial=1)
        client.incr('count', initial=1)
        assert proxy.received.count(b'ma ') == 2


def test_nobody_answers(connect, memcached_server):
    """It is None, as without an initial number."""
    client = connect(memcached_server.address, socket_timeout=1)
    assert client.incr('count', initial=1) == 1
    memcached_server.kill()
    assert client.incr('count', initial=1) is None
    assert client.decr('count', initial=1) is None


def test_who_does_not_care(connect, address):
    """noreply returns None, and counts."""
    client = connect(address)
    assert client.incr('count', 1, True, initial=4) is None
    assert client.incr('count') == 5


@pytest.mark.parametrize('method', ['incr', 'decr'])
@pytest.mark.parametrize(
    'arguments, named',
    [
        ({'initial': -1}, 'initial is -1'),
        ({'initial': MOST + 1}, 'initial is'),
        ({'initial': 1.5}, 'initial is 1.5'),
        ({'initial': '1'}, "initial is '1'"),
        ({'initial': 1, 'delta': -1}, 'delta is -1'),
        ({'initial': 1, 'time': 'soon'}, "time is 'soon'"),
        ({'time': 60}, 'time is 60, and initial None'),
        ({'time': 'soon'}, "time is 'soon'"),
    ],
    ids=str,
)
def test_bad_arguments(connect, method, arguments, named):
    """They are named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        client = connect(server.address)
        with pytest.raises(ValueError, match=named):
            getattr(client, method)('count', **arguments)
        assert server.received == b''


def test_a_caller_that_gives_up_has_counted(address):
    """As for any call that is under way."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        task = asyncio.ensure_future(client.incr('count', initial=1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.incr('count', initial=1) in (1, 2)
        await client.close()

    asyncio.run(main())


def test_a_server_that_knows_it_no_more(connect, address):
    """It costs one call; the next one does without."""
    client = connect(address)
    assert client.incr('count', initial=1) == 1
    with faults.without_meta(address, b'ERROR\r\n') as old:
        other = connect(old.address)
        inner = other.client
        core = getattr(inner, '_shared', None) or inner._engine
        core.cluster.servers[0].endpoint.knows_meta = True
        assert other.incr('count', initial=1) in (2, None)
        assert other.incr('count', initial=1) in (2, 3)


@pytest.mark.parametrize(
    'reply',
    [
        b'VA 2 t60\r\n7\r\n',
        b'VA 1 t60\r\nx\r\n',
        b'VA\r\n7\r\n',
        b'HD\r\n',
        b'STORED\r\n',
    ],
)
def test_an_answer_that_is_none(connect, reply):
    """It is no number, and the connection is not used any more."""
    with faults.ScriptedServer([reply]) as server:
        client = connect(server.address, socket_timeout=1)
        assert client.incr('count', initial=1) is None
