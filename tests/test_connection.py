"""One connection: what it takes, when it ends, and that it ends in time.

The main thread, which gets the signals, may wait in another way than others,
so that what has to do with time is tested in both.

"""

import collections.abc
import concurrent.futures
import contextlib
import signal
import socket
import threading
import time
import tracemalloc

import faults
import pytest

from sprockets.clients.memcached import settings, testing
from sprockets.clients.memcached.wire import connection, protocol, resolver

LONG = 30
"""Seconds for what is not expected to come to its deadline."""

SHORT = 0.3
"""Seconds for what is."""

SLACK = 3
"""Seconds that a busy machine may take on top of a deadline."""

TOO_LONG = 8
"""Seconds that something takes that does not stop at its deadline."""


@pytest.fixture
def make():
    """Connect to a server; the connection is closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect(server, timeout=LONG):
            address, _, _ = settings.parse_server(
                getattr(server, 'address', server)
            )
            profile = connection.Profile(address=address, timeout=timeout)
            link = connection.Connection(profile, time.monotonic() + timeout)
            stack.callback(link.close)
            return link

        yield connect


@pytest.fixture(params=['main thread', 'another thread'])
def call(request):
    """Call a function in the main thread, or in another one."""
    if request.param == 'main thread':
        yield lambda function, *args: function(*args)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield lambda *args: executor.submit(*args).result(60)


@pytest.fixture
def signals(call):
    """Interrupt the thread of the calls 200 times a second; how often, a list.

    The kernel gives signals to the main thread, but for those that are for
    another one.  A process that is stopped and goes on has all its threads
    interrupted as well.

    """
    thread = call(threading.get_ident)
    count = [0]
    over = threading.Event()

    def interrupt():
        while not over.wait(0.005):
            signal.pthread_kill(thread, signal.SIGURG)
            count[0] += 1

    # One that nobody else has a handler for, as pytest-timeout for SIGALRM,
    # and that does nothing without one: the last may come when it is gone.
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        yield count
        assert count[0] > 1
    finally:
        over.set()
        interrupting.join()
        signal.signal(signal.SIGURG, before)


@contextlib.contextmanager
def times_out(seconds=SHORT):
    """Expect a timeout at the deadline, not before it and not much later."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        yield
    took = time.monotonic() - began
    assert seconds * 0.9 <= took < seconds + SLACK


def exchange(link, commands, timeout=LONG):
    link.exchange(commands, time.monotonic() + timeout)


def ask(link, command, timeout=LONG):
    began = time.monotonic()
    return link.ask(command, began, began + timeout)


def a_get():
    return protocol.Get((b'key',))


def a_value(length):
    return b'VALUE key 0 %d\r\n%b\r\nEND\r\n' % (length, b'x' * length)


class Repeated(collections.abc.Sequence):
    """A command so many times, in no more memory than once."""

    def __init__(self, command, times):
        self._command = command
        self._times = times

    def __len__(self):
        return self._times

    def __getitem__(self, place):
        if place >= self._times:
            raise IndexError
        return self._command


# An exchange


def test_replies_belong_to_the_commands_in_order(make, memcached_server):
    """Any list of commands goes in one exchange, and the next one follows."""
    link = make(memcached_server)
    commands = [
        protocol.store(protocol.SET, b'key', 16, 0, b'1'),
        protocol.count(protocol.INCR, b'key', 6),
        a_get(),
        protocol.delete(b'key'),
        protocol.delete(b'key'),
        protocol.Version(),
    ]
    exchange(link, commands)
    assert [command.answered for command in commands] == [True] * 6
    assert commands[1].result == 7
    assert commands[2].found == {b'key': (16, b'7', None)}
    assert [command.result for command in commands[3:5]] == [1, 0]
    assert link.usable
    assert link.is_quiet()
    exchange(link, [command := a_get()])
    assert command.answered


def test_nothing_to_exchange(make, memcached_server):
    """No command is as good as any number of them."""
    link = make(memcached_server)
    exchange(link, [])
    assert link.usable


def test_a_unix_socket(make):
    """It is connected to by its path."""
    with testing.MemcachedServer(unix=True) as server:
        link = make(server)
        exchange(link, [command := protocol.Version()])
        assert command.result


def test_small_packets_go_at_once_and_dead_peers_are_found(
    make, memcached_server
):
    """TCP_NODELAY and keep-alive are on."""
    sock = make(memcached_server)._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# Connecting


def test_connecting_to_nobody(make):
    """A refusal is an error at once."""
    with faults.refusing() as address, pytest.raises(ConnectionRefusedError):
        make(address)


def test_connecting_without_an_answer(make, call):
    """It ends at the deadline."""
    with faults.black_hole() as address, times_out():
        call(make, address, SHORT)


def test_connecting_too_late(make, memcached_server):
    """With no time left nothing is tried."""
    with pytest.raises(TimeoutError):
        make(memcached_server, -1)


def test_signals_do_not_give_connecting_more_time(make, call, signals):
    """The deadline stands, however often a thread is interrupted."""
    with faults.black_hole() as address, times_out():
        call(make, address, SHORT)


def test_a_name_with_several_addresses(make, memcached_server, monkeypatch):
    """An address that does not answer leaves time for the next ones."""
    with faults.black_hole() as hole, faults.refusing() as nobody:
        places = [
            ('127.0.0.1', int(each.rpartition(':')[2]))
            for each in (nobody, hole, memcached_server.address)
        ]
        monkeypatch.setattr(
            resolver,
            'resolve',
            lambda address, timeout: [
                (socket.AF_INET, place) for place in places
            ],
        )
        link = make('some.name', 2)
    exchange(link, [command := protocol.Version()])
    assert command.answered


# Deadlines


@pytest.fixture
def slow():
    """Make a server that goes on and on after what it is told to send."""
    with contextlib.ExitStack() as stack:

        def serve(reply, *steps):
            return stack.enter_context(
                faults.ScriptedServer([[reply, *steps, faults.Do.STALL]])
            )

        yield serve


def drip(byte=b'x'):
    """Send a byte now and again, for much longer than anybody waits."""
    return [step for _ in range(TOO_LONG * 20) for step in (0.05, byte)]


SLOW = {
    'nothing': (b'', []),
    'nothing, and then the end': (b'', [TOO_LONG, faults.Do.CLOSE]),
    'a part of a line': (b'VAL', []),
    'a line': (b'VALUE key 0 1\r\n', []),
    'a value': (b'VALUE key 0 1\r\nx\r\n', []),
    'a line bit by bit': (b'', drip()),
    'a value bit by bit': (b'VALUE key 0 1000\r\n', drip()),
    'a part of a large value': (a_value(1_000_000)[:500_000], []),
    'a large value bit by bit': (a_value(1_000_000)[:500_000], drip()),
    'a large value bit by bit, and then the end': (
        a_value(1_000_000)[:500_000],
        [*drip(), faults.Do.CLOSE],
    ),
    'a larger value': (a_value(9_000_000)[:8_000_000], []),
    'a large value but for a byte': (a_value(1_000_000)[:-1], []),
}


@pytest.mark.parametrize('case', SLOW)
def test_a_reply_that_does_not_end(make, slow, call, case):
    """Whatever comes of it, and however slowly, the deadline stands."""
    reply, steps = SLOW[case]
    link = make(slow(reply, *steps), SHORT)
    command = a_get()
    with times_out():
        call(exchange, link, [command], SHORT)
    assert not link.usable
    assert not command.answered
    assert not command.found


@pytest.mark.parametrize('case', SLOW)
def test_signals_do_not_give_a_reply_more_time(
    make, slow, call, signals, case
):
    """Each makes Python begin a wait anew, but not with all of the time."""
    reply, steps = SLOW[case]
    link = make(slow(reply, *steps), SHORT)
    with times_out():
        call(exchange, link, [a_get()], SHORT)


def test_a_deadline_that_is_nearer_than_the_timeout(make, slow, call):
    """What is left of a call's time counts, not what it began with."""
    link = make(slow(b''), 60)
    with times_out():
        call(exchange, link, [a_get()], SHORT)


def test_a_deadline_that_has_passed(make, memcached_server, call):
    """Nothing is waited for then."""
    link = make(memcached_server)
    with times_out(0):
        call(exchange, link, [a_get()], -1)
    assert not link.usable


@pytest.mark.parametrize('timeout', [0.001, 0.0035, 0.05, 1.0])
def test_any_timeout_will_do(make, slow, call, timeout):
    """It may be shorter than the kernel's clock tells, and a whole number."""
    link = make(slow(b''), 10)
    with times_out(timeout):
        call(exchange, link, [a_get()], timeout)


async def deaf(connection):
    """Take nothing of what the client sends, and say nothing."""
    connection.stop_reading()
    await connection.play([faults.Do.STALL])


@pytest.mark.parametrize('size', [100, 40_000_000], ids=['many', 'large'])
def test_a_server_that_takes_nothing(make, call, size):
    """Sending ends at the deadline too."""
    command = protocol.store(protocol.SET, b'key', 0, 0, b'x' * size)
    commands = Repeated(command, 40_000_000 // size)
    with faults.ScriptedServer(deaf) as server:
        link = make(server, SHORT)
        with times_out():
            call(exchange, link, commands, SHORT)
        assert not link.usable


def test_signals_do_not_give_sending_more_time(make, call, signals):
    """The deadline stands while requests wait to be taken."""
    command = protocol.store(protocol.SET, b'key', 0, 0, b'x' * 40_000_000)
    with faults.ScriptedServer(deaf) as server:
        link = make(server, SHORT)
        with times_out():
            call(exchange, link, [command], SHORT)


def test_signals_do_no_harm(make, memcached_server, call, signals):
    """An exchange that is interrupted again and again comes to its end."""
    link = make(memcached_server)
    data = b'x' * 1_000_000
    while signals[0] < 20:
        commands = [
            protocol.store(protocol.SET, b'key', 0, 0, data),
            command := a_get(),
        ]
        call(exchange, link, commands)
        assert command.found[b'key'][1] == data


# One command, in one step


def test_what_is_usual_is_one_step(make, memcached_server, call):
    """It is answered, and nothing is left to go on with."""
    link = make(memcached_server)
    many = [
        protocol.store_request(protocol.SET, key, 0, 0, b'7')
        for key in (b'key', b'other')
    ]
    commands = [
        protocol.Many(protocol.SET, many),
        protocol.store(protocol.SET, b'key', 16, 0, b'x' * 10_000),
        a_get(),
        protocol.Get((b'key', b'other', b'none')),
        protocol.count(protocol.INCR, b'other', 1),
        protocol.delete(b'key'),
        a_get(),
    ]
    for command in commands:
        assert call(ask, link, command)
        assert command.answered
        assert not link.has_begun
        assert link.is_quiet()
    assert commands[0].done == 2
    assert commands[2].found == {b'key': (16, b'x' * 10_000, None)}
    assert commands[3].found[b'other'] == (0, b'7', None)
    assert commands[4].result == 8
    assert commands[6].found == {}
    exchange(link, [command := protocol.Version()])
    assert command.result


@pytest.mark.parametrize(
    'steps',
    [
        [a_value(100)[:-1], 0.02, a_value(100)[-1:]],
        [a_value(100)[:20], 0.02, a_value(100)[20:]],
        [a_value(1_000_000)],
    ],
    ids=['the end is missing', 'half is missing', 'large'],
)
def test_what_is_not_usual_is_gone_on_with(make, call, steps):
    """Nothing of it is lost, and nothing is sent twice."""
    with faults.ScriptedServer([steps, b'DELETED\r\n']) as server:
        link = make(server)
        assert call(ask, link, command := a_get())
        assert command.found
        assert not link.has_begun
        assert call(ask, link, protocol.delete(b'key'))
        assert server.received == b'get key\r\ndelete key\r\n'


def test_an_error_line_is_not_usual(make, call):
    """It is read where all others are."""
    command = protocol.delete(b'key')
    with faults.ScriptedServer([b'SERVER_ERROR no memory\r\n']) as server:
        link = make(server)
        assert call(ask, link, command)
        assert command.answered
        assert isinstance(command.error, protocol.RefusedError)
        assert link.usable


def test_a_reply_too_many_for_one_step(make, call):
    """None of them is taken."""
    command = protocol.count(protocol.INCR, b'key', 1)
    with faults.ScriptedServer([b'5\r\n8\r\n']) as server:
        link = make(server)
        with pytest.raises(protocol.ProtocolError):
            call(ask, link, command)
        assert (command.answered, command.result) == (False, None)
        assert not link.usable


def test_nothing_is_sent_where_something_has_come(make, call):
    """It would be taken for the reply."""

    async def serve(connection):
        await connection.send(b'END\r\n')
        assert not await connection.request()

    with faults.ScriptedServer(serve) as server:
        link = make(server)
        wait_until(lambda: not link.is_quiet())
        command = a_get()
        assert not call(ask, link, command)
        assert not link.has_begun
        assert not command.answered
        link.close()


def test_a_connection_that_ends_in_one_step(make, call):
    """It is closed here, too."""
    with faults.ScriptedServer([[faults.Do.CLOSE]]) as server:
        link = make(server)
        with pytest.raises(ConnectionResetError):
            call(ask, link, a_get())
        assert not link.usable


def test_one_step_takes_no_longer_than_there_is_time(make, call):
    """What is left of it is for whoever goes on."""
    with faults.ScriptedServer() as server:
        link = make(server, SHORT)
        command = a_get()
        with times_out():
            deadline = time.monotonic() + SHORT
            assert not call(ask, link, command, SHORT)
            assert link.has_begun
            call(link.exchange, [command], deadline)


def test_signals_do_not_give_one_step_more_time(make, call, signals):
    """The deadline stands, however often a thread is interrupted."""
    with faults.ScriptedServer() as server:
        link = make(server, SHORT)
        command = a_get()
        with times_out():
            deadline = time.monotonic() + SHORT
            assert not call(ask, link, command, SHORT)
            call(link.exchange, [command], deadline)


# Large replies, and many


@pytest.mark.parametrize('pieces', [1, 7, 1000])
@pytest.mark.parametrize('length', [100, 65_536, 1_000_000, 9_000_000])
def test_values_of_any_length(make, call, length, pieces):
    """A value is put together from however many pieces it comes in."""
    reply = a_value(length)
    size = len(reply) // min(pieces, length) + 1
    steps = [reply[at : at + size] for at in range(0, len(reply), size)]
    with faults.ScriptedServer([steps, b'END\r\n']) as server:
        link = make(server)
        call(exchange, link, [command := a_get()])
        assert command.found == {b'key': (0, b'x' * length, None)}
        assert link.usable
        call(exchange, link, [command := a_get()])
        assert command.answered


def test_a_large_value_that_breaks_off(make, call):
    """The end of the connection is noticed at once, not at the deadline."""
    steps = [a_value(1_000_000)[:500_000], faults.Do.CLOSE]
    with faults.ScriptedServer([steps]) as server:
        link = make(server)
        with pytest.raises(ConnectionResetError):
            call(exchange, link, [command := a_get()])
        assert not command.found


def test_what_follows_a_large_value_is_not_waited_for(make, call):
    """Of an exchange that is over nothing is asked any more."""
    commands = [a_get(), protocol.delete(b'key')]
    with faults.ScriptedServer(
        [a_value(1_000_000), b'DELETED\r\n', b'END\r\n']
    ) as server:
        link = make(server)
        call(exchange, link, commands)
        assert commands[1].result == 1
        call(exchange, link, [a_get()])


def test_a_million_commands(make, memcached_server, call):
    """So many replies fill all buffers while requests are still being sent."""
    commands = Repeated(protocol.delete(b'key'), 1_000_000)
    link = make(memcached_server)
    call(exchange, link, commands)
    assert link.usable
    assert link.is_quiet()


def test_more_bytes_than_there_are_buffers_for(make, memcached_server, call):
    """Requests and replies of 30 MB each do not wait for each other."""
    data = b'x' * 100_000
    commands = []
    for _ in range(300):
        commands += [protocol.store(protocol.SET, b'key', 0, 0, data), a_get()]
    link = make(memcached_server)
    call(exchange, link, commands)
    assert all(command.answered for command in commands)
    assert all(c.found[b'key'][1] == data for c in commands[1::2])


def test_replies_much_larger_than_their_requests(make, memcached_server, call):
    """All requests are sent before much of 50 MB of replies is read."""
    data = b'x' * 1_000_000
    link = make(memcached_server)
    exchange(link, [protocol.store(protocol.SET, b'key', 0, 0, data)])
    commands = [a_get() for _ in range(50)]
    call(exchange, link, commands)
    assert all(c.found[b'key'][1] == data for c in commands)


def test_memory_is_bounded(make, memcached_server):
    """Neither requests nor replies pile up, however many there are."""
    commands = Repeated(
        protocol.store(protocol.SET, b'key', 0, 0, b'x' * 100), 100_000
    )
    assert len(commands) * len(commands[0].request) > 10_000_000
    link = make(memcached_server)
    tracemalloc.start()
    try:
        exchange(link, commands)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


# How it ends


def test_those_answered_before_the_end(make, call):
    """What was read before the connection broke remains read."""
    commands = [protocol.delete(b'%d' % number) for number in range(4)]
    with faults.ScriptedServer(
        [b'DELETED\r\n', b'NOT_FOUND\r\n', [b'DELE', faults.Do.CLOSE]]
    ) as server:
        link = make(server)
        with pytest.raises(ConnectionResetError):
            call(exchange, link, commands)
        assert [c.answered for c in commands] == [True, True, False, False]
        assert [c.result for c in commands] == [1, 0, 0, 0]
        assert not link.usable


def test_those_answered_before_what_is_no_answer(make, call):
    """What was read before remains read, and the connection is closed."""
    commands = [protocol.delete(b'%d' % number) for number in range(3)]
    with faults.ScriptedServer(
        [b'DELETED\r\n', b'STORED\r\n', b'DELETED\r\n']
    ) as server:
        link = make(server)
        with pytest.raises(protocol.ProtocolError):
            call(exchange, link, commands)
        assert [c.answered for c in commands] == [True, False, False]
        assert not link.usable
        server.wait_for(lambda: not server.open)


def test_one_reply_too_many(make, call):
    """None is taken: which of them is too many cannot be told."""
    commands = [protocol.count(protocol.INCR, b'%d' % n, 1) for n in range(2)]
    with faults.ScriptedServer([b'5\r\n5\r\n8\r\n', b'']) as server:
        link = make(server)
        with pytest.raises(protocol.ProtocolError):
            call(exchange, link, commands)
        assert [c.answered for c in commands] == [False, False]
        assert [c.result for c in commands] == [None, None]
        assert not link.usable
        server.wait_for(lambda: not server.open)


def test_what_is_no_answer_while_sending(make, call):
    """It ends the sending as well."""

    async def babble(connection):
        await connection.request()
        await connection.send(b'nonsense\r\n')
        connection.stop_reading()
        await connection.play([faults.Do.STALL])

    command = protocol.store(protocol.SET, b'key', 0, 0, b'x' * 1000)
    with faults.ScriptedServer(babble) as server:
        link = make(server)
        with pytest.raises(protocol.ProtocolError):
            call(exchange, link, Repeated(command, 40_000))
        assert not link.usable


@pytest.mark.parametrize('end', [faults.Do.CLOSE, faults.Do.RESET])
def test_the_end_while_sending(make, call, end):
    """It is noticed at once."""

    async def leave(connection):
        await connection.request()
        await connection.play([end])

    command = protocol.store(protocol.SET, b'key', 0, 0, b'x' * 1000)
    with faults.ScriptedServer(leave) as server:
        link = make(server)
        with pytest.raises(ConnectionError):
            call(exchange, link, Repeated(command, 40_000))
        assert not link.usable


@pytest.fixture
def interrupt():
    with faults.interrupting() as interrupt:
        yield interrupt


@pytest.mark.parametrize(
    'sent', [b'', b'VALUE key 0 1\r\n', a_value(1_000_000)[:500_000]]
)
def test_an_interrupt_while_reading(make, interrupt, sent):
    """It leaves a closed connection, whose reply nobody reads."""

    async def answer(connection):
        await connection.request()
        await connection.send(sent)
        interrupt()
        await connection.until_closed()

    with faults.ScriptedServer(answer) as server:
        link = make(server)
        with pytest.raises(KeyboardInterrupt):
            exchange(link, [a_get()])
        assert not link.usable
        server.wait_for(lambda: not server.open)


def test_an_interrupt_while_sending(make, interrupt):
    """It leaves a closed connection, on which half a request was sent."""

    async def stuff(connection):
        await connection.read()
        connection.stop_reading()
        interrupt()
        await connection.play([faults.Do.STALL])

    command = protocol.store(protocol.SET, b'key', 0, 0, b'x' * 40_000_000)
    with faults.ScriptedServer(stuff) as server:
        link = make(server)
        with pytest.raises(KeyboardInterrupt):
            exchange(link, [command])
        assert not link.usable


# While nobody uses it


def test_a_connection_at_rest(make, memcached_server):
    """It is quiet, and known not to be lost."""
    link = make(memcached_server)
    exchange(link, [protocol.Version()])
    assert link.is_quiet()
    assert not link.is_lost()


def test_bytes_that_nobody_asked_for(make):
    """They make a connection that must not be used, though it is open."""
    with faults.ScriptedServer() as server:
        link = make(server)
        server.wait_for(lambda: server.open)
        server.send(b'END\r\n')
        wait_until(lambda: not link.is_quiet())
        assert not link.is_lost()


@pytest.mark.parametrize('end', ['close_connections', 'reset_connections'])
def test_a_connection_that_the_server_ended(make, end):
    """It can be told without reading, with bytes before the end as well."""
    with faults.ScriptedServer() as server:
        links = [make(server), make(server)]
        server.wait_for(lambda: len(server.open) == 2)
        server.send(b'END\r\n')
        getattr(server, end)()
        for link in links:
            wait_until(link.is_lost)
            assert not link.is_quiet()


def test_a_connection_that_was_closed(make, memcached_server):
    """It is lost, and closing it again does nothing."""
    link = make(memcached_server)
    link.close()
    link.close()
    assert link.is_lost()
    assert not link.usable


def wait_until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
