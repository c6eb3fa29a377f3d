"""What is in this process in place of servers: ``memory`` and ``none``.

That ``memory`` does what memcached does is what the tests of the behaviour
say, which run on it too (``conftest.NEAR``); here both get the same bytes.

"""

import asyncio
import logging
import os
import random
import re
import socket
import threading
import time

import near
import pytest
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import __main__ as terminal
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.loop import nearby
from sprockets.clients.memcached.wire import memory

SECONDS = 30

DAY = 24 * 60 * 60


@pytest.fixture(autouse=True)
def _empty():
    """Each test begins with nothing stored, and no time has passed."""
    memory.STORES['memory'].clear()
    yield
    memory.STORES['memory'].clear()


@pytest.fixture(params=['Client', 'AsyncClient'])
def make(request):
    """Return how to run a call on a client of either face."""

    def run(servers, body, **options):
        async def main():
            client = getattr(memcached, request.param)(
                servers=servers, **options
            )

            async def call(name, *args, **kwargs):
                result = getattr(client, name)(*args, **kwargs)
                return await result if _is_awaited(result) else result

            try:
                return await asyncio.wait_for(body(call), SECONDS)
            finally:
                if request.param == 'AsyncClient':
                    await client.close()
                else:
                    client.disconnect_all()

        return asyncio.run(main())

    return run


def _is_awaited(result):
    return asyncio.isfuture(result) or asyncio.iscoroutine(result)


# The same bytes to memcached, and to what is in this process

SCRIPT = [
    b'get a\r\n',
    b'set a 5 0 3\r\nabc\r\n',
    b'get a b\r\n',
    b'gets a\r\n',
    b'add a 0 0 1\r\nx\r\n',
    b'add b 7 0 1\r\nx\r\n',
    b'replace a 1 0 2\r\nde\r\n',
    b'replace none 1 0 2\r\nde\r\n',
    b'append a 9 0 2\r\nfg\r\n',
    b'prepend a 9 0 1\r\nc\r\n',
    b'append none 0 0 1\r\nx\r\n',
    b'get a\r\n',
    b'cas a 0 0 1 1\r\nx\r\n',
    b'cas none 0 0 1 1\r\nx\r\n',
    b'incr a 1\r\n',
    b'incr none 1\r\n',
    b'set n 0 0 2\r\n10\r\n',
    b'incr n 5\r\n',
    b'decr n 6\r\n',
    b'get n\r\n',
    b'decr n 100\r\n',
    b'incr n x\r\n',
    b'incr n -1\r\n',
    b'incr n 18446744073709551615\r\n',
    b'incr n 18446744073709551616\r\n',
    b'incr n 3\r\n',
    b'get n\r\n',
    b'touch a 100\r\n',
    b'touch none 100\r\n',
    b'gat 100 a none\r\n',
    b'delete a\r\n',
    b'delete a\r\n',
    b'delete b 0\r\n',
    b'set gone 0 -1 1\r\nx\r\n',
    b'get gone\r\n',
    b'set empty 0 0 0\r\n\r\n',
    b'get empty\r\n',
    b'set quiet 0 0 1 noreply\r\nx\r\n',
    b'get quiet\r\n',
    b'delete quiet noreply\r\n',
    b'get quiet\r\n',
    b'nonsense\r\n',
    b'mn\r\n',
    b'mg none v\r\n',
    b'mg none v q\r\nmn\r\n',
    b'set m 3 0 2\r\nhi\r\n',
    b'mg m v f t s k\r\n',
    b'mg m k Oabc\r\n',
    b'mg fresh v f N30\r\n',
    b'mg fresh v f N30\r\n',
    b'set soon 0 20 1\r\nx\r\n',
    b'mg soon v R30\r\n',
    b'mg soon v R30\r\n',
    b'mg soon v R5\r\n',
    b'set soon 0 20 1\r\nx\r\n',
    b'mg soon v R2592001\r\n',
    b'mg soon v R%d\r\n' % (time.time() + DAY),
    b'set soon 0 %d 1\r\nx\r\n' % (time.time() + 2 * DAY),
    b'mg soon v R%d\r\n' % (time.time() + DAY),
    b'mg soon v R%d\r\n' % (time.time() + 3 * DAY),
    b'md m I T60\r\n',
    b'mg m v f\r\n',
    b'mg m v f\r\n',
    b'md m C1\r\n',
    b'md m\r\n',
    b'md m\r\n',
    b'ms s 2 F4\r\nab\r\n',
    b'ms s 1 MA\r\nc\r\n',
    b'ms s 1 ME\r\nc\r\n',
    b'ms none 1 MR\r\nc\r\n',
    b'get s\r\n',
    b'ma none\r\n',
    b'ma count N60 J7 D2 v\r\n',
    b'ma count N60 J7 D2 v\r\n',
    b'ma count MD D100 v t\r\n',
    b'ma s\r\n',
    b'ma less N60 J10 MD\r\n',
    b'ma less N60 J10 MD\r\n',
    b'get less\r\n',
    b'set last 0 0 1\r\nx\r\n',
    b'gat -1 last\r\n',
    b'get last\r\n',
    b'flush_all\r\n',
    b'get n s count\r\n',
    b'get %b\r\n' % (b'k' * 251),
]


LEFT = re.compile(rb' t(\d+)')
"""The seconds that a value still has."""


def ask_memcached(address, request):
    """Return what a server answers within a moment after it is done."""
    host, _, port = address.rpartition(':')
    with socket.create_connection((host, int(port)), SECONDS) as link:
        link.sendall(request + b'version\r\n')
        answer = b''
        while not re.search(rb'VERSION [^\r]*\r\n\Z', answer):
            part = link.recv(65536)
            assert part
            answer += part
        return answer.rpartition(b'VERSION')[0]


def plain(answer):
    """Leave out what they may differ in.

    Those are uniques, what errors add, and seconds that are left.

    """
    answer = LEFT.sub(b' t', answer)
    answer = re.sub(rb'(VALUE \S+ \d+ \d+) \d+\r\n', rb'\1\r\n', answer)
    return re.sub(rb'(CLIENT|SERVER)_ERROR[^\r]*', rb'\1_ERROR', answer)


def test_the_same_bytes_get_the_same_answers(memcached_server):
    session = memory.Session(memory.STORES['memory'])
    for request in SCRIPT:
        expected = ask_memcached(memcached_server.address, request)
        if request.startswith(b'mg none v\r'):
            # Versions differ in whether they say the key of a miss.
            assert expected.startswith(b'EN')
            continue
        # 1.6.45 has an empty line behind the error of a read.
        expected = re.sub(rb'(_ERROR[^\r]*\r\n)\r\n', rb'\1', expected)
        answer = session.answer(request)
        assert plain(answer) == plain(expected), request
        # A second may begin between the two, or several where it is busy.
        for ours, theirs in zip(
            LEFT.findall(answer), LEFT.findall(expected), strict=True
        ):
            assert abs(int(ours) - int(theirs)) < SECONDS, request


@pytest.mark.parametrize(
    'line',
    [
        *('set k 0 0 %d', 'add k 0 0 %d', 'replace k 0 0 %d'),
        *('append k 0 0 %d', 'prepend k 0 0 %d', 'cas k 0 0 %d 1'),
    ],
)
def test_what_becomes_of_a_value_where_a_larger_one_is_refused(
    memcached_server, line
):
    """It is gone where memcached drops it, and stays where it does not."""
    session = memory.Session(memory.STORES['memory'])
    size = 1 << 20
    for request in (
        b'set k 0 0 1\r\nx\r\n',
        b'%b\r\n%b\r\n' % ((line % size).encode(), bytes(size)),
        b'get k\r\n',
    ):
        expected = ask_memcached(memcached_server.address, request)
        assert plain(session.answer(request)) == plain(expected), request[:20]


def test_any_order_of_commands(memcached_server):
    """A thousand of them, at random, a few at a time.

    Not those after which it depends on memcached's own threads whether it
    changes an item or makes another one: blanks behind a number that is
    shorter now, and the mark of a stale one.

    """
    rng = random.Random(7)
    keys = [b'a', b'b', b'n']

    def command():
        key = rng.choice(keys)
        value = rng.choice([b'1', b'99', b'text', b''])
        verb = rng.choice([b'set', b'add', b'replace', b'append', b'prepend'])
        return rng.choice(
            [
                b'%b %b %d 0 %d\r\n%b\r\n'
                % (verb, key, rng.randrange(99), len(value), value),
                b'get %b\r\n' % b' '.join(rng.sample(keys, 2)),
                b'incr %b %d\r\n' % (key, rng.randrange(200)),
                b'delete %b\r\n' % key,
                b'touch %b 100\r\n' % key,
                b'mg %b v f R30\r\n' % key,
            ]
        )

    session = memory.Session(memory.STORES['memory'])
    for _ in range(200):
        request = b''.join(command() for _ in range(5))
        expected = ask_memcached(memcached_server.address, request)
        found = session.answer(request)
        misses = re.compile(rb'EN[^\r]*\r\n')
        assert misses.sub(b'EN\r\n', plain(found)) == misses.sub(
            b'EN\r\n', plain(expected)
        ), request


@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_what_comes_in_pieces(size):
    """However a request is cut."""
    whole = memory.Session(memory.Store())
    cut = memory.Session(memory.Store())
    request = b''.join(SCRIPT)
    pieces = [
        cut.answer(request[at : at + size])
        for at in range(0, len(request), size)
    ]
    assert b''.join(pieces) == whole.answer(request)


def test_values_expire(make, monkeypatch):
    """When they are told to, and not before."""
    now = time.monotonic()
    clock = Clock(now)
    monkeypatch.setattr(memory, 'time', clock)
    monkeypatch.setattr(nearby, 'time', clock)

    async def body(call):
        assert await call('set', 'key', 'value', time=10)
        clock.now = now + 9.9
        assert await call('get', 'key') == 'value'
        clock.now = now + 10.1
        assert await call('get', 'key') is None

    make('memory', body)


def test_a_value_is_not_stale_before_its_time(make, monkeypatch):
    """A second that has begun is one, as for memcached."""
    now = time.monotonic()
    clock = Clock(now)
    monkeypatch.setattr(memory, 'time', clock)
    monkeypatch.setattr(nearby, 'time', clock)
    computed = []
    anew = asyncio.Event()

    def factory():
        computed.append(clock.now)
        if len(computed) == 2:
            anew.set()
        return 'value'

    async def body(call):
        for later in (0, 0.1, 0.9, 1.1):
            clock.now = now + later
            await call('get_or_set', 'key', factory, 1, stale=60)
        await anew.wait()
        assert computed == [now, clock.now]

    make('memory', body)


def test_a_limit_is_over_when_it_says(make, monkeypatch):
    """Whoever waits for as long as it says need not wait again."""
    now = time.monotonic()
    clock = Clock(now)
    monkeypatch.setattr(memory, 'time', clock)
    monkeypatch.setattr(nearby, 'time', clock)

    async def body(call):
        assert await call('limit', 'key', 1, 10)
        for later in (0.6, 9.6):
            clock.now = now + later
            refused = await call('limit', 'key', 1, 10)
            assert not refused
            assert clock.now + refused.seconds >= now + 10
        clock.now += refused.seconds
        assert await call('limit', 'key', 1, 10)

    make('memory', body)


class Clock:
    """In place of :mod:`time`, for what is in this process."""

    def __init__(self, now):
        self.now = now
        self.time = time.time
        self.sleep = time.sleep

    def monotonic(self):
        return self.now


def test_a_read_at_once_sees_what_expired(make, monkeypatch):
    """The way of a hit that takes no batch knows the time too."""
    clock = Clock(time.monotonic())
    monkeypatch.setattr(memory, 'time', clock)
    monkeypatch.setattr(nearby, 'time', clock)

    async def body(call):
        assert await call('set', 'key', 'value', time=10)
        assert [await call('get', 'key') for _ in range(200)] == (
            ['value'] * 200
        )
        clock.now += 11
        assert await call('get', 'key', 'gone') == 'gone'

    make('memory', body)


def test_reads_come_after_the_writes_before_them():
    """None overtakes a write that was called in the same turn."""

    async def main():
        client = memcached.AsyncClient(servers='memory')
        for number in range(200):
            client.set('key', number)
            assert await client.get('key') == number
        await client.close()

    asyncio.run(main())


def test_who_only_reads_lets_others_run():
    async def main():
        client = memcached.AsyncClient(servers='memory')
        await client.set('key', 'value')
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        for _ in range(1000):
            assert await client.get('key') == 'value'
        other.cancel()
        assert turns >= 10
        await client.close()

    asyncio.run(main())


def test_each_read_is_counted_once(make):
    """Whatever it takes to make the value, or whether that can be done."""

    class Broken:
        def __reduce__(self):
            return list, (7,)

    async def body(call):
        light, heavy = ['a'], ['a'] * 400_000
        for key, value in ('l', light), ('h', heavy), ('b', Broken()):
            assert await call('set', key, value)
        before = (await call('get_stats'))[0][1]
        for _ in range(3):
            assert await call('get', 'l') == light
            assert await call('get', 'h') == heavy
            assert await call('get', 'b', 'broken') == 'broken'
            assert await call('get', 'none') is None
        after = (await call('get_stats'))[0][1]
        assert {
            name: int(after[name]) - int(before[name])
            for name in ('cmd_get', 'get_hits', 'get_misses')
        } == {'cmd_get': 12, 'get_hits': 9, 'get_misses': 3}

    make('memory', body)


def test_a_value_that_can_be_changed_is_each_readers_own():
    async def main():
        client = memcached.AsyncClient(servers='memory')
        await client.set('key', ['a'])
        first, second = await client.get('key'), await client.get('key')
        first.append('b')
        assert second == await client.get('key') == ['a']
        await client.close()

    asyncio.run(main())


def test_threads_share_it():
    """None loses what another one counts."""
    client = memcached.Client(servers='memory')
    client.set('n', 0)

    def count():
        for _ in range(200):
            client.incr('n')

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get('n') == 8 * 200
    client.disconnect_all()


def test_clients_of_the_process_share_it():
    """As they would share a server; a prefix tells them apart."""
    one = memcached.Client(servers='memory')
    other = memcached.Client(servers='memory', socket_timeout=1)
    apart = memcached.Client(servers='memory', key_prefix='apart:')
    one.set('key', 'value')
    assert other.get('key') == 'value'
    assert apart.get('key') is None


def test_a_forked_child_has_a_copy():
    client = memcached.Client(servers='memory')
    client.set('key', 'before')
    child = os.fork()
    if child == 0:
        found = client.get('key') == 'before' and client.set('key', 'child')
        os._exit(0 if found else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get('key') == 'before'


def test_it_holds_no_more_than_memcached(monkeypatch):
    """What was not used for longest makes room."""
    monkeypatch.setattr(memory, 'LIMIT', 10_000)
    client = memcached.Client(servers='memory')
    for number in range(200):
        client.set(f'key{number}', 'x' * 100)
        assert client.get('key0')
    assert client.get('key1') is None
    assert client.get('key199')
    [(_, statistics)] = client.get_stats()
    assert int(statistics['bytes']) <= 10_000
    assert int(statistics['evictions']) > 50


def test_no_connection_and_no_log(make, monkeypatch, caplog):
    """Neither has a socket, and ``none`` fails nothing."""

    class NoSocket(socket.socket):
        def connect(self, place):
            raise AssertionError(place)

    monkeypatch.setattr(socket, 'socket', NoSocket)
    caplog.set_level(logging.INFO, 'sprockets.clients.memcached')

    async def body(call):
        assert await call('get', 'key', 'default') == 'default'
        await call('set', 'key', 'value')
        return await call('get', 'key')

    async def computes(call):
        for number in range(20):
            assert await call('get_or_set', 'k', lambda: 1, stale=number) == 1

    assert make('none', body) is None
    assert make('memory', body) == 'value'
    make('none', computes)
    assert caplog.records == []


def test_none_keeps_nothing(make):
    """All reads are misses; what computes does so each time, at once."""
    calls = []

    def factory():
        calls.append(1)
        return len(calls)

    async def body(call):
        assert await call('set', 'key', 'value')
        assert await call('add', 'key', 'value')
        assert await call('get', 'key') is None
        assert await call('gets', 'key') is None
        assert await call('cas', 'key', 'value')
        assert await call('get_multi', ['key', 'other']) == {}
        assert await call('set_multi', {'key': 1}) == []
        assert await call('incr', 'key') is None
        assert await call('delete', 'key') == 0
        assert await call('touch', 'key', 60) == 0
        began = time.monotonic()
        assert await call('get_or_set', 'key', factory, 60) == 1
        assert await call('get_or_set', 'key', factory, 60, stale=60) == 2
        assert await call('update', 'key', lambda old: old, 60) is None
        assert time.monotonic() - began < SECONDS / 2

    make('none', body)


# The environment


@pytest.mark.parametrize('name', settings.IN_PROCESS)
def test_it_is_alone(name):
    for servers in (
        f'{name},10.0.0.1:11211',
        f'10.0.0.1, {name}',
        f'{name},{name}',
        [name, '10.0.0.1'],
        [(name, 2), '10.0.0.1'],
        'memory,none',
    ):
        with pytest.raises(ValueError, match='is not alone'):
            memcached.Client(servers=servers)


def test_a_bad_variable_is_named(monkeypatch):
    monkeypatch.setenv('MEMCACHED_SERVERS', 'memory,10.0.0.1')
    with pytest.raises(
        ValueError, match=r"MEMCACHED_SERVERS: 'memory' is not"
    ):
        memcached.AsyncClient()


def test_a_host_of_that_name():
    """It has its port with it."""
    client = memcached.Client(servers='memory:11211,none:11211')
    assert [s.address for s in client.servers] == [
        ('memory', 11211),
        ('none', 11211),
    ]


@pytest.mark.parametrize('name', settings.IN_PROCESS)
def test_the_variable(monkeypatch, name):
    """Blanks and a prefix make no difference; other options do no harm."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', f' {name} ')
    monkeypatch.setenv('MEMCACHED_USERNAME', 'me')
    monkeypatch.setenv('MEMCACHED_PASSWORD', 'secret')
    monkeypatch.setenv('MEMCACHED_TLS', 'true')
    assert memcached._get_servers('pages') == [name]
    client = memcached.Client('pages')
    assert client.set('key', 1)
    assert client.get('key') == (1 if name == 'memory' else None)
    assert [str(server) for server in client.servers] == [name]
    client.set_servers([name])
    assert client.set('key', 1)


@pytest.mark.parametrize('name', settings.IN_PROCESS)
def test_the_command_line_says_so(monkeypatch, capsys, name):
    monkeypatch.setenv('MEMCACHED_SERVERS', name)
    assert terminal.main([]) == 0
    output = capsys.readouterr().out
    lines = [re.split('  +', line) for line in output.splitlines()]
    assert ['SERVERS', name, 'MEMCACHED_SERVERS'] in lines
    (server,) = [line for line in lines if line[:2] == [name, 'up']]
    assert 'in this process' in server


class Application(memcached.ApplicationMixin, web.Application):
    pass


@pytest.mark.parametrize('name', settings.IN_PROCESS)
def test_the_status_says_so(monkeypatch, name):
    monkeypatch.setenv('MEMCACHED_SERVERS', name)

    async def main():
        application = Application([('/status', memcached.StatusHandler)])
        await application.memcached_client().set('key', 1)
        status = await application.memcached_status()
        await application.stop_memcached()
        return status

    status = asyncio.run(main())
    assert status['available']
    (server,) = status['clients'][0]['servers']
    assert (server['address'], server['up']) == (name, True)
    assert server['version'] == 'in this process'


def test_the_sockets_of_tests_see_the_same():
    """What the tests of the behaviour rely on."""
    with near.Server() as server:
        client = memcached.Client(servers=near.instead(server.address))
        client.set('key', 'value')
        answer = ask_memcached(server.address, b'get key\r\n')
        assert answer == b'VALUE key 16 5\r\nvalue\r\nEND\r\n'
