"""Servers that ElastiCache's configuration endpoint tells."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import threading
import time
import weakref

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.servers import discovery
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import protocol

SECONDS = 10


def configuration(*servers, version=1):
    """Return an answer that names servers by their addresses."""
    nodes = []
    for server in servers:
        host, _, port = server.rpartition(':')
        nodes.append(f'|{host.strip("[]")}|{port}')
    data = f'{version}\n{" ".join(nodes)}\n'.encode()
    return b'CONFIG cluster 0 %d\r\n%b\r\nEND\r\n' % (len(data), data)


class Source(faults.ScriptedServer):
    """A configuration endpoint, whose answer can be changed."""

    def __init__(self, *steps):
        super().__init__(self._answer)
        self.steps = steps
        self.asked = 0

    async def _answer(self, connection):
        request = await connection.request()
        if not request:
            # Who was about to ask is gone, as a forked child at its end.
            return
        assert request == b'config get cluster\r\n'
        self.asked += 1
        await connection.play(self.steps)
        await connection.until_closed()

    @property
    def discover(self):
        return f'discover:{self.address}'

    def wait_for_questions(self, count):
        """Wait until that many more were asked, and one was answered."""
        wanted = self.asked + count + 1
        self.wait_for(lambda: self.asked >= wanted)


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


@pytest.fixture
def source(pair):
    one, other = pair
    with Source(configuration(one.address, other.address)) as source:
        yield source


@pytest.fixture
def often(monkeypatch):
    """Have the servers asked for all the time."""
    monkeypatch.setattr(discovery, 'INTERVAL', 0.02)


def test_without_a_pause_it_is_not_asked_all_the_time():
    """A dead_retry of 0 is for servers, which are tried by who needs them."""
    with Source(b'ERROR\r\n') as source:
        client = memcached.Client(
            servers=source.discover, dead_retry=0, socket_timeout=SECONDS
        )
        assert client.get('key') is None
        began = time.monotonic()
        source.wait_for_questions(3)
        assert time.monotonic() - began >= 2 * discovery.LEAST_PAUSE
        client.disconnect_all()


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)


def asking(source):
    """Return the threads that ask there for servers."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name == f'memcached discovery {source.address}'
    ]


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def lines(caplog, level):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == level
        and record.name == 'sprockets.clients.memcached.servers.discovery'
    ]


KEYS = [f'key{number}' for number in range(50)]

# The first use


def test_the_first_call_waits_for_the_servers(connect, pair, source):
    """It is answered by them, whichever call it is."""
    mapping = dict.fromkeys(KEYS, 'value')
    assert connect(source.discover).set_multi(mapping) == []
    assert connect(source.discover).get_multi(KEYS) == mapping
    assert connect(source.discover).get('key1') == 'value'
    assert connect(source.discover).gets('key1') == 'value'
    assert connect(source.discover).delete('key1')
    assert connect(source.discover).add('key1', 1)
    assert connect(source.discover).incr('key1') == 2
    assert len(connect(source.discover).get_stats()) == 2
    connect(source.discover).flush_all()
    assert connect(source.discover).get_multi(KEYS) == {}
    for server in pair:
        assert int(wire.statistics(server.address)['cmd_set']) > 5


@pytest.mark.parametrize('options', [{'failover': False}, {}], ids=str)
@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_it_is_as_if_they_were_listed(connect, pair, source, kind, options):
    """The servers have the order of their names, wherever they are told."""
    listed = connect(
        *sorted(server.address for server in pair),
        distribution=kind,
        **options,
    )
    told = connect(source.discover, distribution=kind, **options)
    assert told.set_multi(dict.fromkeys(KEYS, 'value')) == []
    for key in KEYS:
        assert listed.get(key) == 'value'


def test_nothing_happens_before_the_first_use(connect, source):
    """A client is made without a thread and without a connection."""
    client = connect(source.discover)
    assert asking(source) == []
    assert source.connections == []
    client.get('key')
    assert source.asked == 1


def test_the_loop_is_not_held_up():
    """A configuration endpoint that hangs holds up its callers only."""

    async def use(source):
        client = memcached.AsyncClient(
            servers=source.discover, socket_timeout=3
        )
        calls = asyncio.gather(
            client.get('key', 'default'),
            client.set('key', 'value'),
            client.set_multi({'a': 1}),
            client.get_stats(),
            client.incr('key'),
        )
        worst = 0.0
        while not calls.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - began)
        assert await calls == ['default', 0, ['a'], [], None]
        # Now it is known, and nobody waits any more.
        began = time.monotonic()
        assert await client.get('key', 'default') == 'default'
        assert time.monotonic() - began < 2
        await client.close()
        return worst

    with Source(faults.Do.STALL) as source:
        assert asyncio.run(use(source)) < 2
        source.release()


def test_all_callers_at_once_ask_once(connect, source):
    """However many begin at the same time."""
    client = connect(source.discover)

    async def use(client):
        return await client.set('key', 'value')

    assert all(client.together(8, use))
    assert source.asked == 1


def test_an_executor_of_ones_own(source):
    """The calls wait in its threads."""
    import concurrent.futures

    async def use():
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            client = memcached.AsyncClient(
                servers=source.discover, executor=executor
            )
            assert await client.set('key', 'value')
            assert await client.get('key') == 'value'
            await client.close()

    asyncio.run(use())


# Servers that change


def test_other_servers_are_used_when_they_are_told(
    connect, pair, source, often, caplog
):
    """Keys go to them, and those that are gone are let go of."""
    client = connect(source.discover)
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []
    with MemcachedServer() as third:
        source.steps = (configuration(third.address, version=2),)
        source.wait_for_questions(1)
        assert client.get_multi(KEYS) == {}
        assert client.set_multi(dict.fromkeys(KEYS, 'new')) == []
        assert wire.statistics(third.address)['curr_items'] == '50'
        # What was there is as it was, and nobody is connected to it.
        for server in pair:
            address = server.address
            assert int(wire.statistics(address)['curr_items']) > 5
            wait_until(functools.partial(is_alone, address))
    assert len(lines(caplog, 'INFO')) == 2


def is_alone(address):
    return wire.connections(address) == 0


def test_servers_that_stay_keep_their_connections(
    connect, pair, source, often
):
    """One more server is no reason to connect to the others anew."""
    one, other = pair
    client = connect(source.discover)
    client.set_multi(dict.fromkeys(KEYS, 'value'))
    before = [s['total_connections'] for s in map(statistics, pair)]
    with MemcachedServer() as third:
        addresses = one.address, other.address, third.address
        source.steps = (configuration(*addresses, version=2),)
        source.wait_for_questions(1)
        client.set_multi(dict.fromkeys(KEYS, 'value'))
        after = [s['total_connections'] for s in map(statistics, pair)]
    # One more for each is our own question.
    assert [int(n) + 1 for n in before] == list(map(int, after))


def statistics(server):
    return wire.statistics(server.address)


FAILURES = {
    'an error': [b'SERVER_ERROR no\r\n'],
    'no such command': [b'ERROR\r\n'],
    'nothing': [b'END\r\n'],
    'no node': [configuration()],
    'no version': [b'CONFIG cluster 0 4\r\n\na|b\r\nEND\r\n'],
    'another length': [b'CONFIG cluster 0 2\r\n1\na||1\r\nEND\r\n'],
    'a huge length': [b'CONFIG cluster 0 99999999999\r\n'],
    'garbage': [b'\xff\x00\r\n' * 10],
    'no port': [b'CONFIG cluster 0 8\r\n1\na.b||\n\r\nEND\r\n'],
    'closed': [faults.Do.CLOSE],
    'reset': [faults.Do.RESET],
    'cut': [configuration('127.0.0.1:1')[:20], faults.Do.CLOSE],
    'silence': [faults.Do.STALL],
}


@pytest.mark.parametrize('failure', FAILURES)
def test_a_failure_keeps_the_servers(connect, source, often, caplog, failure):
    """Those known before are used further on; logged once."""
    client = connect(source.discover, socket_timeout=1)
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []
    good, source.steps = source.steps, FAILURES[failure]
    source.wait_for_questions(1)
    assert len(client.get_multi(KEYS)) == len(KEYS)
    # The thread of an earlier test may just have asked in vain.
    (warning,) = [
        line for line in lines(caplog, 'WARNING') if source.address in line
    ]
    assert 'those known before are used' in warning
    source.steps = good
    source.release()
    source.wait_for_questions(1)
    assert len(client.get_multi(KEYS)) == len(KEYS)
    assert len(lines(caplog, 'INFO')) == 1


@pytest.mark.parametrize('failure', FAILURES)
def test_a_failure_at_first_is_a_miss(connect, pair, often, caplog, failure):
    """Nothing raises, and it works as soon as the servers are told."""
    with Source(*FAILURES[failure]) as source:
        client = connect(source.discover, socket_timeout=1)
        assert client.get('key', 'default') == 'default'
        assert client.set_multi({'a': 1}) == ['a']
        assert len(lines(caplog, 'WARNING')) == 1
        source.steps = (configuration(pair[0].address),)
        source.release()
        wait_until(lambda: client.set('key', 'value'))


def test_nobody_waits_while_they_cannot_be_known(connect):
    """Only the first call pays for an endpoint that is not there."""
    with faults.refusing() as address:
        client = connect(f'discover:{address}')
        for _ in range(3):
            began = time.monotonic()
            assert client.get('key', 'default') == 'default'
            assert time.monotonic() - began < 1


def test_a_memcached_is_no_configuration_endpoint(
    connect, memcached_server, caplog
):
    """Its own words say so."""
    client = connect(f'discover:{memcached_server.address}')
    assert not client.set('key', 'value')
    (warning,) = lines(caplog, 'WARNING')
    assert warning.startswith(f'{memcached_server.address} does not tell')
    assert warning.endswith(': config: ERROR')


# The end


def test_closing_the_client_ends_its_thread(source):
    """And so no question is asked any more."""

    async def use():
        client = memcached.AsyncClient(servers=source.discover)
        await client.set('key', 'value')
        (thread,) = asking(source)
        await client.close()
        await asyncio.to_thread(thread.join, SECONDS)
        assert not thread.is_alive()

    asyncio.run(use())


def test_a_client_that_nobody_keeps_ends_its_thread(source):
    """Without close(), too."""
    client = memcached.Client(servers=source.discover)
    client.set('key', 'value')
    gone = weakref.ref(client._shared.cluster)
    (thread,) = asking(source)
    del client
    gc.collect()
    assert gone() is None
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_list_ends_the_questions(connect, pair, source, often):
    """Whoever calls set_servers says which servers there are."""
    one, other = pair
    client = connect(source.discover)
    client.set('key', 'value')
    (thread,) = asking(source)
    client.set_servers([one.address])
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []
    assert wire.statistics(other.address)['curr_items'] in ('0', '1')
    client.set_servers([source.discover])
    client.set_multi(dict.fromkeys(KEYS, 'value'))
    assert int(wire.statistics(other.address)['curr_items']) > 5


def in_child(function):
    """Run a function in a forked child, and return how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if function() else 2
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_asks_for_itself(connect, source, often):
    """It begins with what its parent knew, and learns what is new."""
    client = connect(source.discover)
    assert client.set('key', 'value')
    assert len(asking(source)) == 1
    asked = source.asked

    def child():
        client.after_fork()
        return (
            asking(source) == []
            and client.get('key') == 'value'
            and len(asking(source)) == 1
            and client.get('key') == 'value'
        )

    assert in_child(child) == 0
    assert client.get('key') == 'value'
    source.wait_for(lambda: source.asked > asked)


def test_a_client_made_before_the_fork(connect, source):
    """As an application that is forked before its first request."""
    client = connect(source.discover)

    def child():
        client.after_fork()
        return client.set('key', 'value')

    assert in_child(child) == 0
    assert client.get('key') == 'value'


# What is told, and where


@pytest.mark.parametrize(
    'data, servers',
    [
        (b'1\na.b|10.0.0.1|11211\n', ['a.b:11211']),
        (b'12\nb||1 a||2\n', ['a:2', 'b:1']),
        (b'1\n|10.0.0.1|11211', ['10.0.0.1:11211']),
        (b'1\n|fd00::1|11211\n', ['[fd00::1]:11211']),
        (b'1\na||1 a||1\n', ['a:1']),
    ],
    ids=repr,
)
def test_what_a_configuration_says(data, servers):
    """The name of each node, else its address."""
    assert discovery.parse(data) == servers


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'1',
        b'1\n',
        b'a\na||1',
        b'1\na|1',
        b'1\na||b',
        b'1\na||0',
        b'1\na||65536',
        b'1\na||1:2',
        b'1\n||1',
        b'1\nunix||1',
        b'1\nunix:/a||1',
        b'1\ninet:a||1',
        b'1\na,b||1',
        b'1\na|b|c|d',
        b'1\n\xff||1',
        b'1\na\0b||1',
    ],
    ids=repr,
)
def test_what_is_no_configuration(data):
    """Nothing in it is used."""
    with pytest.raises(ValueError, match=r'.'):
        discovery.parse(data)


@pytest.mark.parametrize(
    'data, words',
    [
        (b'9' * 100_000 + b'\na||1', 'its version'),
        (b'1\n' + b'x' * 100_000 + b'||1', 'is no node'),
        (b'1\na||' + b'9' * 100_000, 'is no node'),
        (b'1\n\x1b[2J||1', 'is no node'),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_said_of_it_is_short(data, words):
    """However long it is."""
    with pytest.raises(ValueError, match=words) as caught:
        discovery.parse(data)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def many(count):
    return [f'127.0.{n >> 8}.{n & 255}:{n % 9000 + 1}' for n in range(count)]


def test_too_many_servers(connect, caplog):
    """None of them is used, and the log line is short."""
    with Source(configuration(*many(20_000))) as source:
        client = connect(source.discover, socket_timeout=2)
        assert client.get('key', 'default') == 'default'
        assert client.get_stats() == []
    (line,) = lines(caplog, 'WARNING')
    assert 'more than 1000 servers (MAX_DISCOVERED)' in line
    assert len(line) < 200


def test_as_many_servers_as_may_be(connect, caplog):
    """Their number is an option, and a bound: no more, and no less."""
    servers = many(50)
    with Source(configuration(*servers)) as source:
        client = connect(source.discover, max_discovered=50)
        client.get('key')
        wait_until(lambda: lines(caplog, 'INFO'))
        (line,) = lines(caplog, 'INFO')
        assert line.endswith('and 30 more')
        client = connect(source.discover, max_discovered=49)
        client.get('key')
        assert lines(caplog, 'WARNING')


def test_an_answer_may_come_in_any_pieces():
    """It is the same one, cut at any byte."""
    answer = configuration('127.0.0.1:1', '127.0.0.1:2')
    for at in range(len(answer)):
        incoming = protocol.Incoming()
        command = protocol.Configuration()
        incoming.feed(answer[:at])
        assert command.read(incoming) > 0
        incoming.feed(answer[at:])
        assert command.read(incoming) == 0
        assert discovery.parse(command.result) == [
            '127.0.0.1:1',
            '127.0.0.1:2',
        ]


@pytest.mark.parametrize(
    'servers',
    [
        'discover:',
        'discover:a:b',
        'discover:a:1:2',
        'discover:a,b',
        'a,discover:b',
        'discover:a,discover:b',
        'discover:unix:/a',
        'discover:discover:a',
    ],
)
def test_where_to_ask_stands_alone(servers):
    """It is one address, without a weight, and nothing else."""
    with pytest.raises(ValueError, match='servers: '):
        memcached.Client(servers=servers)
    with pytest.raises(ValueError, match='servers: '):
        memcached.Client(servers=servers.split(','))


def test_from_the_environment(source, monkeypatch):
    """It is one of the forms of the variable."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', f' {source.discover} ')
    assert memcached._get_servers('pages') == [source.discover]
    client = memcached.Client('pages')
    assert client.set('key', 'value')
    assert settings.discovered(['discover:a']).text == 'a:11211'
