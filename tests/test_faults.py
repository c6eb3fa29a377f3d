"""The servers that misbehave do so exactly as they are told."""

import concurrent.futures
import contextlib
import os
import socket
import threading
import time

import faults
import memcache
import pytest

from sprockets.clients.memcached import testing

VALUE = b'VALUE k 0 5\r\nvalue\r\nEND\r\n'


@pytest.fixture(scope='module')
def memcached():
    """A real memcached that has the key of these tests."""
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture
def proxy(memcached):
    """A proxy in front of a memcached with one key."""
    with (
        socket.create_connection((memcached.host, memcached.port)) as setter,
        setter.makefile('rb') as answers,
    ):
        setter.sendall(b'flush_all\r\nset k 0 0 5\r\nvalue\r\n')
        assert answers.readline() + answers.readline() == b'OK\r\nSTORED\r\n'
    with faults.FaultProxy(memcached.address) as server:
        yield server


@pytest.fixture
def python_memcached():
    """Make a client of python-memcached, which is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(server):
            client = memcache.Client([server.address])
            stack.callback(client.disconnect_all)
            return client

        yield make


@contextlib.contextmanager
def connected(server, timeout=10):
    """Give a plain socket connected to a server."""
    with socket.create_connection(('127.0.0.1', server.port), timeout) as it:
        yield it


SIZE = len(VALUE)


def ask(connection, request=b'get k\r\n', size=SIZE):
    """Return as many bytes of the answer as there are, up to the size."""
    connection.sendall(request)
    return take(connection, size)


def take(connection, size=1000):
    """Return what comes up to a size, or the end."""
    answer = b''
    while len(answer) < size:
        more = connection.recv(size - len(answer))
        if not more:
            break
        answer += more
    return answer


def is_silent(connection):
    """Whether nothing comes on an open connection."""
    connection.settimeout(0.2)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)
    return False


class TestReplies:
    """split_replies() knows where a reply ends."""

    REPLIES = (
        b'STORED\r\n',
        b'VALUE a 0 3\r\n\r\n\r\r\nVALUE b 1 0 77\r\n\r\nEND\r\n',
        b'END\r\n',
        b'STAT pid 1\r\nSTAT version 1.6\r\nEND\r\n',
        b'VA 4 f0\r\nEN\r\n\r\n',
        b'HD\r\n',
        b'7\r\n',
        b'SERVER_ERROR out of memory storing object\r\n',
    )

    def test_all(self):
        """Replies of all kinds are told apart."""
        split, rest = faults.split_replies(b''.join(self.REPLIES))
        assert split == list(self.REPLIES)
        assert rest == b''

    def test_incomplete(self):
        """A reply is none before its last byte has come."""
        for reply in self.REPLIES:
            for at in range(len(reply)):
                assert faults.split_replies(reply[:at]) == ([], reply[:at])


class TestScript:
    """ScriptedServer follows its script."""

    def test_answers_in_order(self):
        """Each request gets its answer; its data are no requests."""
        with (
            faults.ScriptedServer([b'STORED\r\n', b'END\r\n']) as server,
            connected(server) as connection,
        ):
            request = b'set k 0 0 7\r\nget k\r\n\r\n'
            assert ask(connection, request, 8) == b'STORED\r\n'
            assert is_silent(connection)
            assert ask(connection, b'get k\r\n', 5) == b'END\r\n'
            assert ask_is_unanswered(connection)
            assert server.received == request + b'get k\r\nget k\r\n'

    def test_scripts_are_for_connections(self):
        """Each connection has its script, and further ones have the last."""
        with faults.ScriptedServer([b'1\r\n'], [b'2\r\n']) as server:
            for expected in (b'1\r\n', b'2\r\n', b'2\r\n'):
                with connected(server) as connection:
                    assert ask(connection, b'incr k 1\r\n', 3) == expected
            assert len(server.connections) == 3
            for each in server.connections:
                assert each.received == b'incr k 1\r\n'

    def test_records_what_no_script_reads(self):
        """All that comes is recorded, be it a request or not."""
        with (
            faults.ScriptedServer() as server,
            connected(server) as connection,
        ):
            connection.sendall(b'no request')
            server.wait_for(lambda: server.received == b'no request')

    def test_every_cut(self):
        """A reply cut at a byte arrives up to that byte, and then the end."""
        scripts = [[faults.cut(at)(VALUE)] for at in range(len(VALUE))]
        with faults.ScriptedServer(*scripts) as server:
            for at in range(len(VALUE)):
                with connected(server) as connection:
                    assert ask(connection, size=1000) == VALUE[:at]

    def test_reset_after_a_cut(self):
        """A reply can be followed by a reset, which is no end."""
        script = [faults.cut(3, faults.Do.RESET)(VALUE)]
        with (
            faults.ScriptedServer(script) as server,
            connected(server) as connection,
        ):
            connection.sendall(b'get k\r\n')
            with pytest.raises(ConnectionResetError):
                take(connection)

    def test_drip(self):
        """A dripping reply comes a byte at a time, over the time it takes."""
        script = [faults.drip(0.01)(VALUE)]
        with (
            faults.ScriptedServer(script) as server,
            connected(server) as connection,
        ):
            started = time.monotonic()
            connection.sendall(b'get k\r\n')
            pieces = []
            while len(b''.join(pieces)) < len(VALUE):
                pieces.append(connection.recv(1000))
            assert b''.join(pieces) == VALUE
            assert len(pieces) > 2
            assert time.monotonic() - started > 0.01 * (len(VALUE) - 1)

    def test_stall(self):
        """A stalled reply comes when it is released, and not before."""
        with (
            faults.ScriptedServer([faults.stall(VALUE)]) as server,
            connected(server) as connection,
        ):
            connection.sendall(b'get k\r\n')
            server.wait_for(lambda: server.stalled == 1)
            assert is_silent(connection)
            server.release()
            assert take(connection, len(VALUE)) == VALUE
            assert server.stalled == 0

    def test_coroutine(self):
        """A coroutine has the connection in its hands."""
        seen = []

        async def script(connection):
            await connection.send(b'hello\r\n')
            seen.append(await connection.request())
            await connection.play([b'VERSION', 0.001, b' 1\r\n'])
            seen.append(await connection.request())

        with (
            faults.ScriptedServer(script) as server,
            connected(server) as connection,
        ):
            assert take(connection, 7) == b'hello\r\n'
            assert ask(connection, b'version\r\n', 11) == b'VERSION 1\r\n'
            connection.shutdown(socket.SHUT_WR)
            assert take(connection) == b''
            assert seen == [b'version\r\n', b'']

    def test_a_failing_coroutine_fails_the_test(self):
        """What a script finds wrong is raised at the end."""

        async def script(connection):
            assert await connection.request() == b'version\r\n'

        def use():
            with (
                faults.ScriptedServer(script) as server,
                connected(server) as connection,
            ):
                assert ask(connection, b'get k\r\n') == b''

        with pytest.raises(AssertionError, match=r'get k'):
            use()

    def test_a_client_that_goes_away_fails_nothing(self):
        """A client may close or reset its connection at any time."""

        async def script(connection):
            await connection.request()
            await connection.request()

        with faults.ScriptedServer(script) as server:
            with connected(server) as connection:
                connection.sendall(b'get k\r\nget')
            server.wait_for(lambda: not server.open)
            with connected(server) as connection:
                connection.sendall(b'get k\r\n')
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, faults.LINGER
                )
            server.wait_for(lambda: len(server.connections) == 2)
            server.wait_for(lambda: not server.open)

    def test_not_reading(self):
        """A connection that is not read holds up who sends."""

        async def script(connection):
            connection.stop_reading()
            await connection.server.stall()
            connection.resume_reading()
            await connection.until_closed()

        with (
            faults.ScriptedServer(script) as server,
            connected(server) as connection,
        ):
            server.wait_for(lambda: server.stalled)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.sendall(bytes(1 << 28))
            assert server.received == b''
            server.release()
            server.wait_for(lambda: len(server.received) > 1 << 16)


def ask_is_unanswered(connection):
    """Whether a request stays without an answer."""
    connection.sendall(b'get k\r\n')
    return is_silent(connection)


def assert_taken(host, port):
    """Nobody can have a port, not even a server, which sets SO_REUSEADDR."""
    for reuse in (0, 1):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            with pytest.raises(OSError, match='in use'):
                other.bind((host, port))


class TestEveryServer:
    """What the scripted server and the proxy have in common."""

    @pytest.fixture(params=['script', 'proxy'])
    def server(self, request, memcached):
        """One of each kind, with one key that has a value."""
        if request.param == 'proxy':
            return request.getfixturevalue('proxy')
        server = faults.ScriptedServer([VALUE, VALUE])
        return request.getfixturevalue('enter')(server)

    @pytest.fixture
    def enter(self):
        """Enter contexts until the end of the test."""
        with contextlib.ExitStack() as stack:
            yield stack.enter_context

    def test_close_while_idle(self, server):
        """Idle connections are closed by the time the call returns."""
        with connected(server) as first, connected(server) as second:
            for connection in (first, second):
                assert ask(connection) == VALUE
            assert len(server.open) == server.peak == 2
            server.close_connections()
            for connection in (first, second):
                connection.setblocking(False)
                assert connection.recv(1) == b''
            assert server.open == []
        with connected(server) as connection:
            assert ask(connection) == VALUE
        assert len(server.connections) == 3
        assert server.peak == 2

    def test_reset_while_idle(self, server):
        """Idle connections are reset by the time the call returns."""
        with connected(server) as connection:
            assert ask(connection) == VALUE
            server.reset_connections()
            connection.setblocking(False)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)

    def test_down_and_up(self, server):
        """A server that is down refuses; up again it is where it was."""
        with connected(server) as connection:
            assert ask(connection) == VALUE
            server.down()
            connection.setblocking(False)
            assert connection.recv(1) == b''
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(('127.0.0.1', server.port), 10)
            server.down()
        server.up()
        server.up()
        with connected(server) as connection:
            assert ask(connection) == VALUE

    def test_the_port_is_ours_while_down(self, server):
        """While a server is down, nobody else can have its port."""
        server.down()
        assert_taken('127.0.0.1', server.port)

    def test_unsolicited(self, server):
        """Bytes that nobody asked for are there when the call returns."""
        with connected(server) as connection:
            assert ask(connection) == VALUE
            server.send(b'ERROR\r\n')
            connection.setblocking(False)
            assert connection.recv(100) == b'ERROR\r\n'

    def test_pause(self, server):
        """A paused server is silent, and answers when it is resumed."""
        with connected(server) as connection:
            assert ask(connection) == VALUE
            server.pause()
            connection.sendall(b'get k\r\n')
            assert is_silent(connection)
            server.resume()
            assert take(connection, len(VALUE)) == VALUE

    def test_paused_can_be_stopped(self, server):
        """Neither a pause nor a stall outlives the server."""
        with connected(server) as connection:
            server.pause()
            connection.sendall(b'get k\r\n')
            server.wait_for(lambda: server.received)
            server.stop()
            assert take(connection) == b''
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.1', server.port), 10)
        names = [thread.name for thread in threading.enumerate()]
        assert repr(server) not in names

    # The child calls nothing that another thread could have a lock for.
    def test_closing_reaches_past_a_forked_child(self, server):
        """A connection is closed even if a child has its socket as well."""
        waiting, done = os.pipe()
        with connected(server) as connection:
            assert ask(connection) == VALUE
            child = os.fork()
            if not child:
                os.close(done)
                os.read(waiting, 1)
                os._exit(0)
            os.close(waiting)
            try:
                server.down()
                assert connection.recv(1) == b''
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(('127.0.0.1', server.port), 10)
            finally:
                os.close(done)
                os.waitpid(child, 0)

    def test_waiting_is_bounded(self, server):
        """What does not become so in time is an error."""
        with pytest.raises(AssertionError, match=r'not within 0\.1 seconds'):
            server.wait_for(lambda: server.connections, 0.1)


class TestProxy:
    """FaultProxy passes on, and spoils what it is told to spoil."""

    def test_transparent(self, proxy, python_memcached):
        """Without faults a client sees memcached's answers as they are."""
        client = python_memcached(proxy)
        values = {f'key{n}': 'v' * n for n in range(0, 5000, 50)}
        assert client.set_multi(values) == []
        assert client.get_multi(values) == values
        assert client.set('large', 'l' * 1_000_000)
        assert client.get('large') == 'l' * 1_000_000
        assert client.get_stats()[0][1]['version']
        assert proxy.received.startswith(b'set key0 ')
        assert proxy.received.endswith(b'get large\r\nstats\r\n')

    def test_pipelined(self, proxy):
        """Replies to commands that were sent together keep their order."""
        requests = b''.join(b'add k%d 0 0 1\r\nv\r\n' % n for n in range(5000))
        with connected(proxy) as connection:
            size = 5000 * len(b'STORED\r\n')
            assert ask(connection, requests, size) == 5000 * b'STORED\r\n'

    def test_unix_socket(self):
        """The memcached behind may listen on a unix socket."""
        with (
            testing.MemcachedServer(unix=True) as server,
            faults.FaultProxy(server.address) as proxy,
            connected(proxy) as connection,
        ):
            assert ask(connection, b'get k\r\n', 5) == b'END\r\n'

    @pytest.mark.parametrize(
        'fault, expected',
        [
            (faults.repeat(), VALUE + VALUE),
            (faults.repeat(3), VALUE + VALUE + VALUE),
            (faults.drip(0.0001), VALUE),
            (faults.delay(0.001), VALUE),
            (faults.replace(b'ERROR\r\n'), b'ERROR\r\n'),
            (faults.before(b'OK\r\n'), b'OK\r\n' + VALUE),
            (faults.other_key(b'bob'), VALUE.replace(b'k', b'bob')),
            (faults.wrong_length(), VALUE.replace(b'5', b'6')),
            (faults.wrong_length(-2), VALUE.replace(b'5', b'3')),
            (lambda reply: [reply.upper()], VALUE.upper()),
            (None, VALUE),
        ],
    )
    def test_one_reply_is_spoiled(self, proxy, fault, expected):
        """The next reply is what the fault makes of it, and no other is."""
        with connected(proxy) as connection:
            assert ask(connection) == VALUE
            proxy.next_reply(fault)
            assert proxy.pending == 1
            assert ask(connection, size=len(expected)) == expected
            assert proxy.pending == 0
            assert ask(connection) == VALUE

    def test_every_cut(self, proxy):
        """A reply cut at a byte arrives up to that byte, and then the end."""
        for at in range(len(VALUE)):
            proxy.next_reply(faults.cut(at))
            with connected(proxy) as connection:
                assert ask(connection, size=1000) == VALUE[:at]

    def test_close_and_reset(self, proxy):
        """A connection is closed or reset in a reply's stead."""
        proxy.next_reply(faults.close, faults.reset)
        with connected(proxy) as connection:
            assert ask(connection) == b''
        with connected(proxy) as connection:
            connection.sendall(b'get k\r\n')
            with pytest.raises(ConnectionResetError):
                connection.recv(1)

    def test_stall(self, proxy):
        """A stalled reply holds back the replies behind it, and no others."""
        proxy.next_reply(faults.stall)
        with connected(proxy) as connection, connected(proxy) as other:
            connection.sendall(b'get k\r\nincr k 1\r\n')
            proxy.wait_for(lambda: proxy.stalled)
            assert ask(other) == VALUE
            assert is_silent(connection)
            proxy.release()
            answer = take(connection, len(VALUE) + 14)
            assert answer == VALUE + b'CLIENT_ERROR c'

    def test_faults_in_order(self, proxy):
        """Each fault is for one reply, also of those sent together."""
        first, third = faults.replace(b'1\r\n'), faults.replace(b'3\r\n')
        proxy.next_reply(first, None, third)
        with connected(proxy) as connection:
            expected = b'1\r\n' + VALUE + b'3\r\n' + VALUE
            answer = ask(connection, b'get k\r\n' * 4, len(expected))
            assert answer == expected

    def test_every_reply(self, proxy):
        """A fault for every reply stays until it is taken back."""
        proxy.every_reply(faults.replace(b'END\r\n'))
        with connected(proxy) as connection:
            for _ in range(3):
                assert ask(connection, size=5) == b'END\r\n'
            proxy.next_reply(faults.replace(b'ERROR\r\n'))
            assert ask(connection, size=7) == b'ERROR\r\n'
            assert ask(connection, size=5) == b'END\r\n'
            proxy.every_reply(None)
            assert ask(connection) == VALUE

    def test_a_mistaken_fault_fails_the_test(self, memcached):
        """What a fault raises is raised at the end."""

        def use():
            with (
                faults.FaultProxy(memcached.address) as proxy,
                connected(proxy) as connection,
            ):
                proxy.next_reply(lambda reply: reply.no_such_method())
                assert ask(connection) == b''

        with pytest.raises(AttributeError, match='no_such_method'):
            use()

    @pytest.mark.parametrize('direction', ['request_delay', 'reply_delay'])
    def test_latency(self, proxy, direction):
        """A delay adds to each round trip, and not to what is in flight."""
        with connected(proxy) as connection:
            setattr(proxy, direction, 0.2)
            started = time.monotonic()
            size = 10 * len(VALUE)
            for _ in range(10):
                connection.sendall(b'get k\r\n')
            assert take(connection, size) == 10 * VALUE
            assert 0.2 <= time.monotonic() - started < 2

    def test_memcached_goes_and_comes_back(self):
        """A memcached that is down, or goes away, is so through the proxy."""
        with (
            testing.MemcachedServer() as server,
            faults.FaultProxy(server.address) as proxy,
        ):
            with connected(proxy) as connection:
                assert ask(connection, size=5) == b'END\r\n'
                server.kill()
                assert take(connection) == b''
            # The reset may come while it connects.
            with (
                pytest.raises(ConnectionResetError),
                connected(proxy) as connection,
            ):
                connection.recv(1)
            server.start()
            with connected(proxy) as connection:
                assert ask(connection, size=5) == b'END\r\n'

    def test_many_clients(self, proxy):
        """Fifty clients at a time each get their own answers."""

        def use(number):
            with connected(proxy) as connection:
                for turn in range(20):
                    value = b'%d-%d' % (number, turn)
                    request = b'set k%d 0 0 %d\r\n%s\r\n' % (
                        number,
                        len(value),
                        value,
                    )
                    assert ask(connection, request, 8) == b'STORED\r\n'
                    expected = b'VALUE k%d 0 %d\r\n%s\r\nEND\r\n' % (
                        number,
                        len(value),
                        value,
                    )
                    request = b'get k%d\r\n' % number
                    answer = ask(connection, request, len(expected))
                    assert answer == expected

        with concurrent.futures.ThreadPoolExecutor(50) as executor:
            list(executor.map(use, range(50)))
        assert len(proxy.connections) == 50

    def test_python_memcached_mixes_up_keys(self, proxy, python_memcached):
        """The faults show what they are there to show.

        python-memcached takes the second copy of a reply for the answer to
        its next question.

        """
        client = python_memcached(proxy)
        client.set('k', 'value')
        client.set('l', 'other value')
        repeated = faults.other_key(b'l')(b'VALUE k 16 5\r\nvalue\r\nEND\r\n')
        proxy.next_reply(faults.repeat(), faults.replace(*repeated))
        assert client.get('k') == 'value'
        assert client.get('l') == 'value'


def test_refusing():
    """The port refuses connections, and nobody else can have it."""
    with faults.refusing() as address:
        host, _, port = address.partition(':')
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), 10)
        assert_taken(host, int(port))


def test_black_hole():
    """Connecting gets no answer of any kind."""
    with faults.black_hole() as address:
        host, _, port = address.partition(':')
        for _ in range(3):
            with pytest.raises(TimeoutError):
                socket.create_connection((host, int(port)), 0.2)


@pytest.mark.parametrize('left', [0, 1, faults.HELD])
def test_few_descriptors(left):
    """What is closed meanwhile adds none, and all are back at the end."""
    with contextlib.ExitStack() as before:
        before.enter_context(open(os.devnull))
        with faults.descriptors(left), contextlib.ExitStack() as opened:
            before.close()
            for _ in range(left):
                opened.enter_context(open(os.devnull))
            with pytest.raises(OSError, match='Too many open files'):
                os.open(os.devnull, os.O_RDONLY)
    with open(os.devnull) as file:
        assert file.fileno() > faults.HELD
