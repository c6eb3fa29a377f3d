"""Whatever comes over the wire: no wrong value, no hang, and up again.

Real replies of a real memcached, spoilt on their way: cut at every byte,
late, dripped, repeated, exchanged for others; connections that are refused,
reset, swallowed or closed while idle; a server that is killed under load.
Each value carries its key, so that another one's is seen.

How often the tests are run is for the caller to say:
``scripts/test --only tests -- tests/test_wire_faults.py --count 100``.

"""

import asyncio
import collections
import contextlib
import functools
import random
import threading
import time
import types
import typing

import faces
import faults
import hypothesis
import pytest
import wire
from hypothesis import stateful, strategies

from sprockets.clients import memcached
from sprockets.clients.memcached import testing
from sprockets.clients.memcached.servers import connections

LONG = 30
"""Seconds for calls that are not expected to come to their deadline."""

SHORT = 0.7
"""Seconds for those that are."""

SLACK = 5
"""Seconds that a busy machine may take on top of a deadline."""


class InThread(faces.Blocking):
    """The blocking client as a thread other than the main one uses it."""

    def __getattr__(self, name):
        return getattr(self.elsewhere, name)


KINDS = {
    'Client': lambda **options: faces.Blocking(memcached.Client(**options)),
    'Client in a thread': lambda **options: InThread(
        memcached.Client(**options)
    ),
    'AsyncClient': lambda **options: faces.Awaitable(
        memcached.AsyncClient(**options)
    ),
}
THREADED = [kind for kind in KINDS if kind != 'Client in a thread']


@contextlib.contextmanager
def connected(kind, server, **options):
    options.setdefault('socket_timeout', LONG)
    face = KINDS[kind](servers=server.address, **options)
    try:
        yield face
    finally:
        face.close()


@pytest.fixture
def proxy(memcached_server):
    with faults.FaultProxy(memcached_server.address) as proxy:
        yield proxy


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=THREADED)
def parallel(request):
    """A kind of client whose face runs calls side by side."""
    return request.param


@contextlib.contextmanager
def in_time(seconds):
    """Let nothing take longer than a deadline."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + SLACK


def until(condition, seconds=LONG):
    """Wait for what a caller sees when it tries again."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def arrived(face):
    """Wait until the client's side has what was sent to idle connections."""
    shared = getattr(face.client, '_shared', None) or face.client._engine
    here = shared.cluster.endpoints[0]._connections
    idle = [*here.idle, *[loan.link for loan in here.out]]
    until(lambda: not any(link.is_quiet() for link in idle))


# Calls


class Case(typing.NamedTuple):
    """A call, and what may come of it.

    ``before`` runs in peace.  ``right`` is the result when all is well, and
    ``failed`` of a failure.  ``after`` is what memcached then has, once the
    call has reached it, whether or not the reply came through.

    """

    call: typing.Any
    right: typing.Any
    failed: typing.Any
    harmless: bool
    after: typing.Any = types.MappingProxyType({})
    before: typing.Any = None
    also: tuple = ()


KEY_2 = {'key': b'key 2'}

CASES = {
    'get': Case(lambda c: c.get('key', 'd'), 'key 1', 'd', True),
    'get of nothing': Case(lambda c: c.get('none', 'd'), 'd', 'd', True),
    'gets': Case(lambda c: c.gets('key'), 'key 1', None, True),
    'get_multi': Case(
        lambda c: c.get_multi(['key', 'other', 'none']),
        {'key': 'key 1', 'other': 'other 1'},
        {},
        True,
        also=({'other': 'other 1'},),
    ),
    'set': Case(lambda c: c.set('key', 'key 2'), True, 0, True, KEY_2),
    'set_multi': Case(
        lambda c: c.set_multi({'key': 'key 2', 'new': 'new 2'}),
        [],
        ['key', 'new'],
        True,
        KEY_2 | {'new': b'new 2'},
        also=(['key'], ['new']),
    ),
    'add': Case(
        lambda c: c.add('new', 'new 1'), True, 0, False, {'new': b'new 1'}
    ),
    'replace': Case(lambda c: c.replace('key', 'key 2'), True, 0, True, KEY_2),
    'append': Case(
        lambda c: c.append('key', '!'), True, 0, False, {'key': b'key 1!'}
    ),
    'prepend': Case(
        lambda c: c.prepend('key', '!'), True, 0, False, {'key': b'!key 1'}
    ),
    'cas': Case(
        lambda c: c.cas('key', 'key 2'),
        True,
        0,
        False,
        KEY_2,
        before=lambda c: c.gets('key'),
    ),
    'incr': Case(
        lambda c: c.incr('number', 5), 12, None, False, {'number': b'12'}
    ),
    'decr': Case(
        lambda c: c.decr('count', 5), 2, None, False, {'count': b'2'}
    ),
    'incr from': Case(
        lambda c: c.incr('new', 5, initial=3),
        3,
        None,
        False,
        {'new': b'3'},
    ),
    'touch': Case(lambda c: c.touch('key', 60), 1, 0, True),
    'delete': Case(lambda c: c.delete('key'), 1, 0, True, {'key': None}),
    'delete_multi': Case(
        lambda c: c.delete_multi(['key', 'other']),
        1,
        0,
        True,
        {'key': None, 'other': None},
    ),
    'get_stats': Case(
        lambda c: [len(stats) for _, stats in c.get_stats('sizes')],
        [1],
        [],
        True,
    ),
    'flush_all': Case(lambda c: c.flush_all(), None, None, True),
}
READS = ['get', 'gets', 'get_multi']

HELD = {
    'key': b'key 1',
    'other': b'other 1',
    'number': b'7',
    'count': b'7',
    'none': None,
    'new': None,
}


def fill(address):
    """Let memcached have what the calls expect."""
    request = b''
    for key, data in HELD.items():
        name = key.encode()
        request += b'delete %b\r\n' % name
        if data is not None:
            flags = 2 if data.isdigit() else 16
            request += b'set %b %d 0 %d\r\n' % (name, flags, len(data))
            request += data + b'\r\n'
    wire.ask(address, request + b'mn\r\n', b'MN\r\n')


def held(address):
    """Return what memcached has of the keys that the calls use."""
    request = b'get %b\r\n' % b' '.join(key.encode() for key in HELD)
    words = wire.ask(address, request, b'END\r\n').split(b'\r\n')
    found = {
        header.split()[1].decode(): data
        for header, data in zip(words[:-2:2], words[1:-2:2], strict=True)
    }
    return {key: found.get(key) for key in HELD}


def prepare(face, case, proxy):
    """Make a call ready to be spoilt; on a connection that was used before."""
    fill(proxy.target)
    if case.before:
        case.before(face)
    else:
        assert face.get('other') == 'other 1'


def replies_of(face, case, proxy):
    """Return what memcached answers to a call, reply by reply."""
    replies = []

    def note(reply):
        replies.append(reply)
        return [reply]

    prepare(face, case, proxy)
    proxy.every_reply(note)
    assert case.call(face) == case.right
    proxy.every_reply(None)
    return replies


def check(face, case, proxy, result):
    """Check a result of a call that memcached has run, spoilt or not."""
    assert result in (case.right, case.failed, *case.also)
    if case.call is not CASES['flush_all'].call:
        assert held(proxy.target) == {**HELD, **case.after}
    recovers(face, proxy)


def recovers(face, proxy):
    """See that a client works again, with nothing left of a fault."""

    def works():
        # What was sent before may get there only now, a flush say.
        fill(proxy.target)
        face.forget_dead_hosts()
        value = face.get('other')
        assert value in ('other 1', None)
        found = face.get_multi(['key', 'none'])
        assert found in ({'key': 'key 1'}, {})
        return value and found

    # A reply too many may come late, and cost the next call its own.
    until(works)


# Cut


@pytest.mark.parametrize('name', CASES)
def test_a_reply_cut_at_every_byte(kind, proxy, name):
    """What is harmless is done all the same, and the rest only once."""
    case = CASES[name]
    with connected(kind, proxy) as face:
        replies = replies_of(face, case, proxy)
        places = [
            (number, at)
            for number, reply in enumerate(replies)
            for at in range(len(reply) + 1)
        ]
        for number, at in places:
            prepare(face, case, proxy)
            proxy.next_reply(*[None] * number, faults.cut(at))
            result = case.call(face)
            assert not proxy.pending
            if case.harmless and name not in ('delete', 'set_multi'):
                assert result == case.right
            elif at == len(replies[number]):
                assert result in (case.right, *case.also)
            elif not case.harmless:
                assert result == case.failed
            # The server is not taken for dead, with no help of ours.
            assert name == 'flush_all' or face.get('number') is not None
            check(face, case, proxy, result)


@pytest.mark.parametrize('name', CASES)
def test_a_connection_reset_in_a_reply(kind, proxy, name):
    """A reset is no other than a close."""
    case = CASES[name]
    with connected(kind, proxy) as face:
        length = len(replies_of(face, case, proxy)[0])
        for at in (0, 1, length // 2, length - 1, length):
            prepare(face, case, proxy)
            proxy.next_reply(faults.cut(at, faults.Do.RESET))
            check(face, case, proxy, case.call(face))


@pytest.mark.parametrize('name', CASES)
def test_the_first_reply_of_all_is_cut(kind, proxy, name):
    """A server that breaks a new connection is soon tried again."""
    case = CASES[name]
    for at in (0, 1):
        with connected(kind, proxy, dead_retry=0.01) as face:
            fill(proxy.target)
            proxy.next_reply(faults.cut(at))
            if case.before:
                case.before(face)
            result = case.call(face)
            assert result in (case.right, case.failed, *case.also)
            until(lambda: face.get('number') or name == 'flush_all')


# Exchanged

ANSWERS = {
    'ERROR': faults.replace(b'ERROR\r\n'),
    'CLIENT_ERROR': faults.replace(b'CLIENT_ERROR bad data chunk\r\n'),
    'SERVER_ERROR': faults.replace(b'SERVER_ERROR out of memory\r\n'),
    'an empty line': faults.replace(b'\r\n'),
    'garbage': faults.replace(b'\x00\xff garbage\r\n'),
    'a long line': faults.replace(b'x' * 5000),
    'an answer to another command': faults.replace(b'RESET\r\nHD\r\n'),
    'a value of another key': faults.replace(
        b'VALUE other 16 7\r\nother 1\r\nEND\r\n'
    ),
    'two values of the key': faults.replace(
        b'VALUE key 16 5\r\nkey 0\r\nVALUE key 16 5\r\nkey 1\r\nEND\r\n'
    ),
    'an error behind a value': faults.replace(
        b'VALUE key 16 5\r\nkey 1\r\nSERVER_ERROR out of memory\r\n'
    ),
    'the value of another key': faults.other_key(b'other'),
    'the value of no key': faults.other_key(b'nobody'),
    'a shorter value': faults.wrong_length(-1),
    'a much shorter value': faults.wrong_length(-5),
    'a longer value': faults.wrong_length(1),
    'repeated': faults.repeat(),
    'repeated often': faults.repeat(100),
    'after a number': faults.before(b'5\r\n'),
    'after an old value': faults.before(b'VALUE key 16 5\r\nkey 0\r\nEND\r\n'),
    'after a success': faults.before(b'STORED\r\n'),
    'after a failure': faults.before(b'NOT_FOUND\r\n'),
    'after garbage': faults.before(b'garbage\r\n'),
    'after an error': faults.before(b'ERROR\r\n'),
}


@pytest.mark.parametrize('answer', ANSWERS)
def test_another_reply(kind, proxy, answer):
    """It is a failure, or is seen through; no call has another result."""
    with connected(kind, proxy) as face:
        for name, case in CASES.items():
            if name == 'incr from' and answer in ('ERROR', 'CLIENT_ERROR'):
                # No server has done what it does not know.
                continue
            prepare(face, case, proxy)
            proxy.next_reply(ANSWERS[answer])
            if name == 'get_stats' and answer in ('ERROR', 'CLIENT_ERROR'):
                # As it says where the server finds an argument wrong.
                with pytest.raises(ValueError, match=f'stats: {answer}'):
                    case.call(face)
                continue
            check(face, case, proxy, case.call(face))


@pytest.mark.parametrize(
    'line',
    [
        b'ERROR',
        b'CLIENT_ERROR bad',
        b'SERVER_ERROR backend failure',
        b'NOT_FOUND',
        b'garbage',
        b'SERVER_ERR',
        b'',
    ],
    ids=repr,
)
@pytest.mark.parametrize('name', CASES)
def test_a_line_of_a_reply_is_another(kind, proxy, name, line, monkeypatch):
    """It costs no more than the call: no outage, and no restart.

    A ``cas`` of somebody else's goes on, and the next read is answered.

    """
    # However busy the machine is.
    monkeypatch.setattr(connections, 'SOON', LONG)
    case = CASES[name]
    with (
        connected(kind, proxy, dead_retry=0) as face,
        connected('Client', proxy, dead_retry=0) as other,
    ):
        replies = replies_of(face, case, proxy)
        places = [
            (number, place)
            for number, reply in enumerate(replies)
            for place in range(reply.count(b'\r\n'))
            # Not those that are values, which may be any line.
            if b'VALUE ' not in reply.split(b'\r\n')[max(place - 1, 0)]
            or place == 0
        ]
        for number, place in places:
            prepare(face, case, proxy)
            other.set('mine', 1)
            assert other.gets('mine') == 1
            change = faults.other_line(place, line)
            proxy.next_reply(*[None] * number, change)
            try:
                result = case.call(face)
            except ValueError:
                # What a server says of an argument that is wrong.
                assert name == 'get_stats'
                assert line.startswith((b'ERROR', b'CLIENT_ERROR'))
                result = case.failed
            assert proxy.pending == 0
            assert face.get('number') is not None or name == 'flush_all'
            if name != 'flush_all':
                assert other.cas('mine', 2)
            check(face, case, proxy, result)


@pytest.mark.parametrize('answer', ['ERROR', 'SERVER_ERROR'])
def test_statistics_that_a_server_refuses(kind, proxy, answer):
    """With no argument it is nobody's mistake, and a failure."""
    with connected(kind, proxy) as face:
        proxy.next_reply(ANSWERS[answer])
        assert face.get_stats() == []
        proxy.next_reply(ANSWERS['SERVER_ERROR'])
        assert face.get_stats('sizes') == []


@pytest.mark.parametrize('by', [-4, -3, -2, -1, 1, 2, 3, 4])
@pytest.mark.parametrize('name', READS)
def test_a_value_of_a_wrong_length_is_a_miss(kind, proxy, name, by):
    """None of the reply is taken."""
    case = CASES[name]
    with connected(kind, proxy) as face:
        prepare(face, case, proxy)
        proxy.next_reply(faults.wrong_length(by))
        assert case.call(face) == case.failed
        assert case.call(face) == case.right


def test_a_value_that_looks_like_the_end_of_a_reply(kind, proxy):
    """A length that stops there is found out by what is left over."""
    with connected(kind, proxy) as face:
        value = 'key\r\nEND\r\n'
        assert face.set('key', value)
        proxy.next_reply(faults.wrong_length(-7))
        assert face.get('key') is None
        assert face.get('key') == value


@pytest.mark.parametrize(
    'line',
    [b'ERROR Too many open connections\r\n', b'garbage\r\n', b'END\r\n'],
)
def test_a_server_that_speaks_first(kind, proxy, line):
    """What nobody asked for, on connections at rest, does no harm."""
    with connected(kind, proxy) as face:
        for case in CASES.values():
            prepare(face, case, proxy)
            proxy.send(line)
            arrived(face)
            result = case.call(face)
            # The token of cas is of a connection that is gone.
            assert case.before or result == case.right
            assert result in (case.right, case.failed)
            recovers(face, proxy)


@pytest.mark.parametrize('end', ['close_connections', 'reset_connections'])
def test_a_connection_that_ends_while_idle(kind, proxy, end):
    """It is replaced, and nobody notices."""
    with connected(kind, proxy) as face:
        for case in CASES.values():
            prepare(face, case, proxy)
            getattr(proxy, end)()
            arrived(face)
            result = case.call(face)
            assert case.before or result == case.right
            assert result in (case.right, case.failed)


# Late


def all_at_once(face, **parallel):
    """Run every call side by side; their results by name."""
    waiting = collections.deque(CASES)
    results = {}

    async def body(client):
        name = waiting.popleft()
        case = CASES[name]
        if case.before:
            await _awaited(case.before, client)
        results[name] = await _awaited(case.call, client)

    face.together(len(CASES), body)
    return results


class _Waits:
    """Let a case that was written for a plain client await its method."""

    def __init__(self, client):
        self._client = client
        self.pending = None

    def __getattr__(self, name):
        def call(*args, **options):
            self.pending = getattr(self._client, name)(*args, **options)
            return []

        return call


async def _awaited(call, client):
    waits = _Waits(client)
    call(waits)
    result = await waits.pending
    if call is CASES['get_stats'].call:
        return [len(statistics) for _, statistics in result]
    return result


SPOILT = {
    'never': faults.stall,
    'dripped': faults.drip(0.5),
    'cut in silence': lambda reply: [reply[:-1], faults.Do.STALL],
    'longer by its end': faults.wrong_length(5),
    'much longer': faults.wrong_length(1 << 20),
    'half a gigabyte': faults.wrong_length(1 << 29),
}


@pytest.mark.parametrize('how', SPOILT)
def test_replies_that_do_not_come_in_time(parallel, proxy, how):
    """Each call fails at its deadline; a late reply is no other call's."""
    with connected(parallel, proxy, socket_timeout=SHORT) as face:
        fill(proxy.target)
        face.get('other')
        proxy.every_reply(SPOILT[how])
        with in_time(SHORT):
            results = all_at_once(face)
        for name, result in results.items():
            case = CASES[name]
            late = name in READS or how in ('never', 'dripped')
            allowed = () if late else (case.right, *case.also)
            assert result in (case.failed, *allowed), name
        proxy.every_reply(None)
        proxy.release()
        recovers(face, proxy)


def test_a_reply_that_is_late_but_in_time(kind, proxy):
    """A little delay, or many little pieces, change nothing."""
    with connected(kind, proxy) as face:
        for fault in (faults.delay(0.002), faults.drip(0.0002)):
            for case in CASES.values():
                prepare(face, case, proxy)
                proxy.next_reply(fault)
                assert case.call(face) == case.right


# Gone


@contextlib.contextmanager
def refusing(proxy):
    proxy.down()
    yield proxy.address
    proxy.up()


@contextlib.contextmanager
def silent(proxy):
    proxy.pause()
    yield proxy.address
    proxy.resume()


@pytest.mark.parametrize('how', [refusing, silent])
def test_a_server_that_goes_and_comes(parallel, proxy, how):
    """Meanwhile each call is a failure, in time; then each is right."""
    with connected(parallel, proxy, socket_timeout=SHORT) as face:
        fill(proxy.target)
        assert face.get('other') == 'other 1'
        with how(proxy):
            with in_time(SHORT):
                results = all_at_once(face)
            assert results == {n: case.failed for n, case in CASES.items()}
            # Once known, it is waited for no more.
            with in_time(0):
                for case in CASES.values():
                    if case.before:
                        case.before(face)
                    assert case.call(face) == case.failed
        recovers(face, proxy)


def test_a_server_that_is_swallowed(parallel):
    """Connecting without an answer ends at the deadline of the call."""
    with faults.black_hole() as address:
        face = KINDS[parallel](servers=address, socket_timeout=SHORT)
        try:
            with in_time(SHORT):
                results = all_at_once(face)
            assert results == {n: case.failed for n, case in CASES.items()}
        finally:
            face.close()


def test_memcached_is_gone_behind_the_proxy(kind):
    """Connections that break as soon as they are made are no server."""
    with (
        testing.MemcachedServer() as server,
        faults.FaultProxy(server.address) as proxy,
        connected(kind, proxy, dead_retry=0.01) as face,
    ):
        fill(server.address)
        assert face.get('other') == 'other 1'
        server.kill()
        for name, case in CASES.items():
            if case.before:
                case.before(face)
            assert case.call(face) == case.failed, name
        server.start()
        until(lambda: face.set('key', 'key 1'))
        assert face.get('key') == 'key 1'
        assert face.get('other') is None


# Under load

CALLERS = 50


class Caller:
    """One of many, with keys of its own; it knows what they may be.

    It writes larger and larger numbers, so that an old value shows.

    """

    def __init__(self, number):
        self.key = f'caller-{number}'
        self.written = 0
        self.acknowledged = 0
        self.lost = set()
        self.counted = 0
        self.may_be_counted = 0
        self.successes = 0
        self.failures = 0
        self.longest = 0.0
        self._random = random.Random(number)

    async def turn(self, client):
        """Make each kind of call once."""
        await self._timed(self._write(client))
        await self._timed(self._read(client))
        await self._timed(self._read_others(client))
        await self._timed(self._swap(client))

    async def count(self, client):
        """Count one up, where it can be told how often that happened."""
        self.may_be_counted += 1
        if await client.incr(f'{self.key}-count') is not None:
            self.counted += 1

    async def _timed(self, call):
        began = time.monotonic()
        succeeded = await call
        self.longest = max(self.longest, time.monotonic() - began)
        if succeeded:
            self.successes += 1
        else:
            self.failures += 1
            # A call that fails at once gives nobody else a turn.
            await asyncio.sleep(0.01)

    async def _write(self, client):
        self.written += 1
        stored = await client.set(self.key, f'{self.key} {self.written}')
        return self._noted(stored)

    async def _read(self, client):
        value = await client.get(self.key)
        if value is not None:
            self._check(value)
        return value is not None

    async def _read_others(self, client):
        others = [f'caller-{self._random.randrange(CALLERS)}' for _ in '123']
        found = await client.get_multi([self.key, 'none', *others])
        for key, value in found.items():
            assert value.startswith(f'{key} '), (key, value)
        if self.key in found:
            self._check(found[self.key])
        return found

    async def _swap(self, client):
        value = await client.gets(self.key)
        if value is not None:
            self._check(value)
        self.written += 1
        stored = await client.cas(self.key, f'{self.key} {self.written}')
        return self._noted(stored)

    def _noted(self, stored):
        if stored:
            self.acknowledged = self.written
        else:
            self.lost.add(self.written)
        return stored

    def _check(self, value):
        key, _, number = value.partition(' ')
        assert key == self.key, (self.key, value)
        # What nobody acknowledged may get there late.
        assert (
            self.acknowledged <= int(number) <= self.written
            or int(number) in self.lost
        )


STORM = [
    faults.close,
    faults.reset,
    faults.cut(1),
    faults.cut(7),
    faults.cut(20),
    faults.cut(20, faults.Do.RESET),
    faults.delay(0.003),
    faults.replace(b'ERROR\r\n'),
    faults.replace(b'CLIENT_ERROR bad\r\n'),
    faults.replace(b'SERVER_ERROR bad\r\n'),
    faults.replace(b'garbage\r\n'),
    faults.other_key(b'nobody'),
    faults.wrong_length(1),
    faults.wrong_length(-1),
    faults.before(b'garbage\r\n'),
]


def let_go_on(face, callers, go_on, over):
    """Let each caller do something until it is over, or one has failed."""
    waiting = collections.deque(callers)

    async def body(client):
        try:
            await go_on(waiting.popleft(), client)
        except BaseException:
            over.set()
            raise

    try:
        face.together(len(callers), body)
    finally:
        over.set()


def test_a_storm_of_faults(parallel, proxy):
    """50 callers, one in 50 replies spoilt: not one wrong value."""
    chance = random.Random(5)
    spoilt = []

    def fault(reply):
        if chance.random() > 0.02:
            return [reply]
        spoilt.append(chance.choice(STORM))
        return spoilt[-1](reply)

    callers = [Caller(number) for number in range(CALLERS)]
    over = threading.Event()

    async def go_on(caller, client):
        while not over.is_set():
            await caller.turn(client)
            await caller.count(client)
            if len(spoilt) >= 100 and caller.successes >= 20:
                return

    with connected(parallel, proxy, dead_retry=0.001) as face:
        for caller in callers:
            wire.put(proxy.target, f'{caller.key}-count', 2, b'0')
        proxy.every_reply(fault)
        let_go_on(face, callers, go_on, over)
        proxy.every_reply(None)
        face.forget_dead_hosts()
        for caller in callers:
            assert caller.longest < LONG + SLACK
            _, count = wire.stored(proxy.target, f'{caller.key}-count')
            assert caller.counted <= int(count) <= caller.may_be_counted
            value = face.get(caller.key)
            assert value is not None
            caller._check(value)


def test_a_server_killed_and_restarted_under_load(parallel):
    """50 callers see misses and nothing else, and hits again at once."""
    callers = [Caller(number) for number in range(CALLERS)]
    over = threading.Event()

    async def go_on(caller, client):
        while not over.is_set():
            await caller.turn(client)

    def all_have(attribute, more):
        before = [getattr(caller, attribute) for caller in callers]
        until(
            lambda: all(
                getattr(caller, attribute) >= count + more
                for caller, count in zip(callers, before, strict=True)
            )
        )

    def kill_and_restart():
        try:
            all_have('successes', 3)
            for _ in range(3):
                server.kill()
                all_have('failures', 2)
                server.start()
                all_have('successes', 3)
        finally:
            over.set()

    with (
        testing.MemcachedServer() as server,
        connected(parallel, server, dead_retry=0.01, socket_timeout=5) as face,
    ):
        killer = Thread(kill_and_restart)
        let_go_on(face, callers, go_on, over)
        killer.result()
        for caller in callers:
            assert caller.longest < 5 + SLACK
            value = face.get(caller.key)
            assert value is not None
            caller._check(value)


class Thread(threading.Thread):
    """A thread whose error is raised where it is waited for."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self._function = function
        self._error = None
        self.start()

    def run(self):
        try:
            self._function()
        # It is raised again, in the main thread.
        except BaseException as error:  # noqa: BLE001
            self._error = error

    def result(self):
        self.join(LONG)
        if self._error is not None:
            raise self._error


# Any calls, any faults, in any order

KEYS = strategies.sampled_from(['a', 'b', 'c'])
# Not one reply too many that another call may be waiting for: if it comes
# late enough nobody can tell.
SEEN_THROUGH = [
    *STORM,
    *[
        ANSWERS[name]
        for name in (
            'an empty line',
            'garbage',
            'a long line',
            'an answer to another command',
            'the value of no key',
            'a shorter value',
            'a much shorter value',
            'a longer value',
        )
    ],
]
FAULTS = strategies.one_of(
    strategies.none(),
    strategies.integers(0, 40).map(faults.cut),
    strategies.integers(0, 40).map(
        functools.partial(faults.cut, end=faults.Do.RESET)
    ),
    strategies.sampled_from(SEEN_THROUGH),
)


class Machine(stateful.RuleBasedStateMachine):
    """Calls to a memcached behind a proxy, and what each key may be.

    A call that failed may have had its effect or not; a read tells.

    """

    kind: str

    def __init__(self):
        super().__init__()
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        self.server = enter(testing.MemcachedServer())
        self.proxy = enter(faults.FaultProxy(self.server.address))
        self.client = enter(connected(self.kind, self.proxy, dead_retry=0))
        self.values = collections.defaultdict(lambda: {None})
        self.counts = collections.defaultdict(lambda: {None})
        self.written = 0

    def teardown(self):
        self._stack.close()

    def new(self, key):
        self.written += 1
        return f'{key} {self.written}'

    def store(self, key, value, stored):
        self.values[key] = {value} if stored else self.values[key] | {value}

    # Calls

    @stateful.rule(key=KEYS)
    def set(self, key):
        value = self.new(key)
        self.store(key, value, self.client.set(key, value))

    @stateful.rule(key=KEYS)
    def add(self, key):
        value = self.new(key)
        stored = self.client.add(key, value)
        assert not stored or None in self.values[key]
        self.store(key, value, stored)

    @stateful.rule(key=KEYS)
    def replace(self, key):
        value = self.new(key)
        stored = self.client.replace(key, value)
        assert not stored or self.values[key] != {None}
        self.store(key, value, stored)

    @stateful.rule(keys=strategies.lists(KEYS, min_size=1, unique=True))
    def set_multi(self, keys):
        values = {key: self.new(key) for key in keys}
        failed = self.client.set_multi(values)
        for key, value in values.items():
            self.store(key, value, key not in failed)

    @stateful.rule(key=KEYS)
    def swap(self, key):
        seen = self.client.gets(key)
        assert seen is None or seen in self.values[key]
        value = self.new(key)
        stored = self.client.cas(key, value)
        assert not stored or seen in self.values[key]
        self.store(key, value, stored)

    @stateful.rule(key=KEYS)
    def get(self, key):
        value = self.client.get(key)
        if value is not None:
            assert value in self.values[key]
            self.values[key] = {value}

    @stateful.rule(keys=strategies.lists(KEYS, min_size=1, unique=True))
    def get_multi(self, keys):
        for key, value in self.client.get_multi(keys).items():
            assert key in keys
            assert value in self.values[key]
            self.values[key] = {value}

    @stateful.rule(key=KEYS)
    def delete(self, key):
        deleted = self.client.delete(key)
        assert not deleted or self.values[key] != {None}
        self.values[key] = {None} if deleted else self.values[key] | {None}

    @stateful.rule(keys=strategies.lists(KEYS, min_size=1, unique=True))
    def delete_multi(self, keys):
        deleted = self.client.delete_multi(keys)
        for key in keys:
            self.values[key] = {None} if deleted else self.values[key] | {None}

    @stateful.rule(key=KEYS)
    def start_to_count(self, key):
        stored = self.client.set(f'n{key}', 0)
        self.counts[key] = {0} if stored else self.counts[key] | {0}

    @stateful.rule(key=KEYS)
    def count(self, key):
        may_be = {
            None if count is None else count + 1 for count in self.counts[key]
        }
        count = self.client.incr(f'n{key}')
        if count is not None:
            assert count in may_be
            self.counts[key] = {count}
        else:
            self.counts[key] |= may_be

    # Faults

    @stateful.rule(some=strategies.lists(FAULTS, max_size=3))
    def spoil(self, some):
        self.proxy.next_reply(*some)

    @stateful.rule(
        end=strategies.sampled_from(['close_connections', 'reset_connections'])
    )
    def end_connections(self, end):
        getattr(self.proxy, end)()
        arrived(self.client)

    @stateful.rule()
    def speak_first(self):
        self.proxy.send(b'END\r\n')
        arrived(self.client)

    @stateful.rule()
    def restart(self):
        self.server.kill()
        # What is not stored any more is not what a call finds.
        assert self.client.get('a') is None
        self.server.start()
        self.values.clear()
        self.counts.clear()

    @stateful.rule()
    def go_and_come(self):
        self.proxy.down()
        assert self.client.get('a') is None
        assert not self.client.set('a', 'never')
        self.proxy.up()

    # Peace

    @stateful.rule()
    def see(self):
        """After all that the client sees what memcached has."""
        self.proxy._loop_call(self.proxy._next.clear)
        self.client.forget_dead_hosts()
        for key in 'abc':
            truth = wire.stored(self.server.address, key)
            value = self.client.get(key)
            assert value == (truth and truth[1].decode())
            assert value in self.values[key]
            self.values[key] = {value}
            truth = wire.stored(self.server.address, f'n{key}')
            count = truth and int(truth[1])
            assert self.client.get(f'n{key}') == count
            assert count in self.counts[key]
            self.counts[key] = {count}


@pytest.mark.parametrize('kind', THREADED)
def test_any_calls_and_any_faults(kind):
    """What a client gives is always one of the things that may be."""
    stateful.run_state_machine_as_test(
        type('Machine', (Machine,), {'kind': kind}),
        settings=hypothesis.settings(
            max_examples=15,
            # What depends on time as well does not get simpler.
            phases=[hypothesis.Phase.generate],
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
