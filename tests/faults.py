"""Servers that misbehave as told: a scripted one, and a proxy.

``ScriptedServer`` answers what a test wants, and ``FaultProxy`` spoils what a
real memcached answers.  Both listen on a free port of the loopback interface
and work in a thread of their own, so that a test's own thread can wait in a
blocking client.

What a test tells them takes effect before the call returns.  What they are
made to do is a sequence of *steps*:

- bytes are sent,
- a number is waited for, in seconds,
- ``Do.CLOSE``, ``Do.RESET`` and ``Do.STALL`` do what they say.

A *fault* is a function that takes a reply and returns the steps to take in
its stead, such as ``cut(3)``.

.. code-block:: python

    with ScriptedServer([cut(3)(b'END\\r\\n')], [b'END\\r\\n']) as server:
        client = memcached.Client(servers=server.address)
        assert client.get('key') is None
        assert len(server.connections) == 2

    with FaultProxy(memcached_server.address) as proxy:
        client = memcached.Client(servers=proxy.address)
        proxy.next_reply(replace(b'ERROR\\r\\n'))
        assert client.get('key') is None
        assert not proxy.pending

"""

import asyncio
import collections
import contextlib
import enum
import errno
import gc
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
import warnings
import weakref

SECONDS = 10
"""Nothing that a test is told to wait for takes longer."""

LIMIT = 1 << 24
"""Bytes of the longest line that a client may send."""

HELD = 8
"""How many descriptors are held for tests that leave few."""

_held = [os.open(os.devnull, os.O_RDONLY) for _ in range(HELD)]
_BELOW = 1 + max(_held)

LINGER = struct.pack('ii', 1, 0)

# Where the words of a request tell the length of the data that follow it.
LENGTHS = {
    **dict.fromkeys(
        (b'set', b'add', b'replace', b'append', b'prepend', b'cas'), 4
    ),
    b'ms': 2,
}

# What begins the lines of a reply that ends with a line of another kind.
LISTED = (b'STAT ', b'ITEM ', b'PREFIX ', b'key=')


class Do(enum.Enum):
    """Steps that are neither bytes nor seconds."""

    CLOSE = 'close the connection, after all that was sent'
    RESET = 'reset the connection'
    STALL = 'go on when release() is called'


UNINTERRUPTED = contextlib.__file__, weakref.__file__, __file__
"""Where Ctrl-C is not pressed: what a weak reference calls raises nothing, but
has Python say that an exception was ignored."""


@contextlib.contextmanager
def interrupted(at):
    """Press Ctrl-C at some point of what is done in this thread.

    The points are those at which an interpreter sees to signals: where a
    function is entered, and where one of C's returns.

    :param int at: the number of the point, from 1
    :return: a list that has something in it once it has come

    """
    left = at
    seen = []

    def entered(frame, function):
        # Since Python 3.14 this is told of too.  There is no signal between a
        # ``with`` and what is in it, but for a fault of 3.14 (CPython's issue
        # 148874), which has locks of the standard library stay locked too.
        name = getattr(function, '__name__', '')
        return name == '__enter__' != frame.f_code.co_name

    def look(frame, event, argument):
        nonlocal left
        own = frame.f_code.co_filename in UNINTERRUPTED
        own = own or entered(frame, argument)
        if event in ('call', 'c_return') and not own:
            left -= 1
            if left == 0:
                seen.append(frame.f_code.co_name)
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        yield seen
    except KeyboardInterrupt:
        assert seen
    finally:
        sys.setprofile(None)
        # A socket that was cut off from whoever asked for it is left to the
        # collector, which says so; not in the middle of another test.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ResourceWarning)
            gc.collect()


@contextlib.contextmanager
def interrupting():
    """Give a function that raises KeyboardInterrupt in the main thread, once.

    It may be called in any thread, and does not wait.

    """
    handled = threading.Event()
    threads = []

    def handle(number, frame):
        if not handled.is_set():
            handled.set()
            raise KeyboardInterrupt

    def send():
        # Where a thread is about to wait in the kernel, it finds out about a
        # signal only when that ends, or when there is another one.
        while not handled.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            handled.wait(0.01)

    def interrupt():
        threads.append(threading.Thread(target=send))
        threads[-1].start()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield interrupt
    finally:
        handled.set()
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def descriptors(left):
    """Leave this process so few descriptors; there is none behind them.

    What tests have left may be closed meanwhile, by the garbage collector or
    by a thread that ends.  That gives nobody a descriptor: the limit lies
    among the lowest numbers, which were held before any test began.

    :param int left: how many files or sockets may be opened, at most
        :data:`HELD`

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_BELOW, hard))
    try:
        _hold_all()
        for _ in range(left):
            os.close(_held.pop())
        yield
    finally:
        _hold_all()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _hold_all():
    """Open whatever can be opened below the limit."""
    while True:
        try:
            _held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return


def cut(at, end=Do.CLOSE):
    """Send the first bytes of a reply, and then end the connection.

    :param int at: how many bytes
    :param Do end: how to end the connection

    """
    return lambda reply: [reply[:at], end]


def delay(seconds):
    """Send a reply later, and so those behind it on the same connection."""
    return lambda reply: [seconds, reply]


def drip(seconds=0.001):
    """Send a reply a byte at a time, with a pause after each."""
    return lambda reply: [
        step for byte in reply for step in (bytes([byte]), seconds)
    ]


def repeat(times=2):
    """Send a reply more than once."""
    return lambda reply: [reply * times]


def replace(data):
    """Send other bytes in a reply's stead."""
    return lambda reply: [data]


def other_line(number, line):
    """Send another line in the place of one of a reply's lines.

    :param int number: which one, from 0 on
    :param bytes line: the other one, without its end

    """

    def change(reply):
        lines = reply.split(b'\r\n')
        lines[number] = line
        return [b'\r\n'.join(lines)]

    return change


def before(data):
    """Send bytes that nobody asked for, and then the reply."""
    return lambda reply: [data + reply]


def other_key(key):
    """Send a reply with the keys of all its values changed to another.

    :param bytes key: the other one

    """
    return lambda reply: [re.sub(rb'(?m)^VALUE \S+', b'VALUE ' + key, reply)]


def wrong_length(by=1):
    """Send a reply that says that its values are longer than they are.

    :param int by: how many bytes longer; less than 0 for shorter

    """

    def change(found):
        return b'%s%d' % (found[1], int(found[2]) + by)

    pattern = rb'(?m)^(VALUE \S+ \d+ )(\d+)'
    return lambda reply: [re.sub(pattern, change, reply)]


def close(reply):
    """Close the connection in a reply's stead."""
    return [Do.CLOSE]


def reset(reply):
    """Reset the connection in a reply's stead."""
    return [Do.RESET]


def stall(reply):
    """Send the reply when the server is told to ``release()``."""
    return [Do.STALL, reply]


def split_replies(data):
    """Return the whole replies that bytes begin with, and the rest.

    :param bytes data: what a memcached has sent
    :rtype: tuple(list(bytes), bytes)

    """
    replies = []
    start = 0
    while end := _reply_end(data, start):
        replies.append(data[start:end])
        start = end
    return replies, data[start:]


def _reply_end(data, start):
    """Return where the reply ends that starts there, 0 if it is not whole."""
    at = start
    while (end := data.find(b'\r\n', at)) >= 0:
        line = data[at:end]
        at = end + 2
        if line.startswith(b'VALUE '):
            at += int(line.split(b' ')[3]) + 2
        elif line.startswith(b'VA '):
            at += int(line.split(b' ')[1]) + 2
            return at if at <= len(data) else 0
        elif not line.startswith(LISTED):
            return at
    return 0


class Reader(asyncio.StreamReader):
    """A stream that tells what comes, when it comes."""

    def __init__(self, tell):
        super().__init__(limit=LIMIT, loop=asyncio.get_running_loop())
        self._tell = tell

    def feed_data(self, data):
        self._tell(data)
        super().feed_data(data)


class Connection:
    """A connection of a client, or the proxy's own to memcached.

    :ivar int number: how many came before it, -1 if it is the proxy's own
    :ivar bytearray received: all that came
    :ivar bool closed: whether it ended, on either side

    """

    def __init__(self, server, number):
        self.server = server
        self.number = number
        self.received = bytearray()
        self.closed = False
        self._reader = Reader(self._record)

    def _record(self, data):
        self.received += data
        self.server.record(self, data)

    async def _open(self, connect, *arguments, **options):
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        self._transport, _ = await connect(
            lambda: protocol, *arguments, **options
        )
        # So that drain() waits until everything is sent.
        self._transport.set_write_buffer_limits(0)
        self._writer = asyncio.StreamWriter(
            self._transport, protocol, self._reader, loop
        )
        return self

    async def accepted(self, accepted):
        """Use a socket that was accepted."""
        loop = asyncio.get_running_loop()
        return await self._open(loop.connect_accepted_socket, accepted)

    async def connected(self, address):
        """Connect to a server."""
        loop = asyncio.get_running_loop()
        if address.startswith('unix:'):
            path = address.removeprefix('unix:')
            return await self._open(loop.create_unix_connection, path)
        host, _, port = address.rpartition(':')
        host = host.strip('[]')
        return await self._open(loop.create_connection, host, int(port))

    async def read(self):
        """Return what has come, empty when the other side has closed."""
        return await self._reader.read(1 << 16)

    async def request(self):
        """Return the next request, with its data; empty after the last.

        :rtype: bytes

        """
        try:
            request = await self._reader.readuntil(b'\r\n')
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return b''
        words = request.split()
        place = LENGTHS.get(words[0]) if words else None
        if place is not None:
            length = int(words[place]) + 2
            request += await self._reader.readexactly(length)
        return request

    def stop_reading(self):
        """Leave all that comes where it is, so that a sender is held up."""
        self._transport.pause_reading()

    def resume_reading(self):
        """Read on after ``stop_reading()``."""
        self._transport.resume_reading()

    async def until_closed(self):
        """Take all that comes until the other side closes."""
        data = await self.read()
        while data:
            data = await self.read()

    async def send(self, data):
        """Send bytes, and return when the kernel has them."""
        await self.server._flowing.wait()
        self._writer.write(data)
        await self._writer.drain()

    async def play(self, steps):
        """Do what the steps say."""
        for step in steps:
            if self.closed:
                return
            if isinstance(step, bytes):
                await self.send(step)
            elif step is Do.CLOSE:
                await self.close()
            elif step is Do.RESET:
                await self.reset()
            elif step is Do.STALL:
                await self.server.stall()
            else:
                await asyncio.sleep(step)

    async def reset(self):
        """Reset the connection."""
        if not self.closed:
            endpoint = self._transport.get_extra_info('socket')
            # The other side may have ended it already.
            with contextlib.suppress(OSError):
                endpoint.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, LINGER
                )
        await self._end()

    async def close(self):
        """Close the connection."""
        if not self.closed:
            # A forked child may have the socket too: closing alone would tell
            # the other side nothing.
            endpoint = self._transport.get_extra_info('socket')
            _shut_down(endpoint)
        await self._end()

    async def _end(self):
        self.closed = True
        self._transport.abort()
        # A connection that broke has ended as well.
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Server:
    """A port of ours, and the connections that came to it.

    :ivar str address: where it listens, as ``MEMCACHED_SERVERS`` has it
    :ivar int port: where it listens
    :ivar list(Connection) connections: all that came, in order
    :ivar int peak: most connections at one time
    :ivar int stalled: how many connections wait for a ``release()``

    """

    def __init__(self):
        self._holder = _bind(0)
        self.port = self._holder.getsockname()[1]
        self.address = f'127.0.0.1:{self.port}'
        self.connections = []
        self.peak = 0
        self.stalled = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._received = bytearray()
        self._released = asyncio.Event()
        self._errors = []
        self._attending = set()
        self._listener = None
        self._opening = set()
        self._next_number = 0
        self._changed = threading.Condition()
        # Whatever loop the clients are tested in.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=repr(self), daemon=True
        )

    def __repr__(self):
        return f'<{type(self).__name__} {self.address}>'

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, traceback):
        self.stop()
        # A script's own mistake must not pass for a fault.
        if self._errors and kind is None:
            raise self._errors[0]

    @property
    def received(self):
        """All that came, on all connections, in the order it came.

        :rtype: bytes

        """
        return bytes(self._received)

    @property
    def open(self):
        """The connections that are open.

        :rtype: list(Connection)

        """
        return [each for each in self.connections if not each.closed]

    def start(self):
        """Listen."""
        self._thread.start()
        self.up()
        return self

    def stop(self):
        """End everything; it cannot be started again."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._do(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
        self._loop.close()
        self._holder.close()

    def up(self):
        """Listen, after ``down()``."""
        self._do(self._up())

    def down(self):
        """Close all connections and refuse new ones, until ``up()``.

        Meanwhile nobody else gets the port.

        """
        self._do(self._down())

    def close_connections(self):
        """Close the connections that are open."""
        self._do(self._end_all(Connection.close))

    def reset_connections(self):
        """Reset the connections that are open."""
        self._do(self._end_all(Connection.reset))

    def send(self, data):
        """Send bytes that nobody asked for on all connections."""
        self._do(self._send(data))

    def pause(self):
        """Send nothing more, on any connection, until ``resume()``."""
        self._loop_call(self._flowing.clear)

    def resume(self):
        """Go on after ``pause()``."""
        self._loop_call(self._flowing.set)

    def release(self):
        """Let those go on that stall now."""
        self._loop_call(self._release)

    def wait_for(self, predicate, seconds=SECONDS):
        """Wait until something is so.

        In a coroutine it holds up the loop, and so the client that is waited
        for: ``await asyncio.to_thread(server.wait_for, predicate)``.

        :param predicate: a function that tells; it is called when something
            came, and when a connection came, went or stalled
        :raises AssertionError: if it is not so in time

        """
        with self._changed:
            if not self._changed.wait_for(predicate, seconds):
                raise AssertionError(f'not within {seconds} seconds')

    def record(self, connection, data):
        """Take down what came on a connection."""
        if connection.number >= 0:
            self._received += data
            self._tell()

    async def stall(self):
        """Wait for ``release()``."""
        self.stalled += 1
        self._tell()
        try:
            await self._released.wait()
        finally:
            self.stalled -= 1
            self._tell()

    def _release(self):
        self._released.set()
        self._released = asyncio.Event()

    def _tell(self):
        with self._changed:
            self._changed.notify_all()

    def _do(self, coroutine):
        """Run a coroutine in the server's thread and return its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(SECONDS)

    def _loop_call(self, function):
        async def call():
            function()

        self._do(call())

    async def _up(self):
        if self._listener is None:
            self._listener = _bind(self.port)
            self._listener.setblocking(False)
            self._listener.listen(512)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _down(self):
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            if self._opening:
                await asyncio.wait(self._opening)
            # As for connections, a forked child may have it too.
            _shut_down(self._listener)
            self._listener.close()
            self._listener = None
        await self._end_all(Connection.close)

    async def _stop(self):
        await self._down()
        for task in self._attending:
            task.cancel()
        if self._attending:
            await asyncio.wait(self._attending)
        await self._loop.shutdown_default_executor()

    async def _all(self):
        """Return the connections that clients have just now.

        For a client there is one before it was accepted here.

        """
        while self._listener is not None and self._accept(self._listener):
            pass
        if self._opening:
            await asyncio.wait(self._opening)
        return self.open

    async def _end_all(self, end):
        for connection in await self._all():
            await end(connection)

    async def _send(self, data):
        for connection in await self._all():
            # The client may have ended it.
            with contextlib.suppress(ConnectionError):
                await connection.send(data)

    def _accept(self, listener):
        """Accept a connection, and return whether there was one."""
        # It may have gone away before it was accepted.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            # What is sent takes effect at once, and is not kept for more.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._run(self._opening, self._open(accepted))
            return True
        return False

    async def _open(self, accepted):
        connection = Connection(self, self._next_number)
        self._next_number += 1
        await connection.accepted(accepted)
        self.connections.append(connection)
        self.peak = max(self.peak, len(self.open))
        self._run(self._attending, self._attend(connection))
        self._tell()

    def _run(self, tasks, coroutine):
        task = self._loop.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._ended)

    async def _attend(self, connection):
        try:
            # A client may go away at any time.
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError
            ):
                await self._serve(connection)
        except Exception as error:
            # Before the client can see that the connection is closed.
            self._errors.append(error)
            raise
        finally:
            await connection.close()
            self._tell()

    def _ended(self, task):
        error = None if task.cancelled() else task.exception()
        if error is not None and error not in self._errors:
            self._errors.append(error)

    async def _serve(self, connection):
        raise NotImplementedError


class ScriptedServer(Server):
    """A server that does what a script says.

    Each argument is what one connection does, and the last is what all
    further ones do.  It is one of

    - a sequence of answers, one for each request: bytes, or steps.  After the
      last the connection is left open, and silent,
    - a coroutine function that takes the ``Connection``; when it returns, the
      connection is closed.

    Without arguments it never answers.

    .. code-block:: python

        async def greet(connection):
            await connection.send(b'hello')
            assert await connection.request() == b'version\\r\\n'
            await connection.play([b'VERSION', Do.STALL, b' 1.6\\r\\n'])

        with ScriptedServer(greet) as server:
            ...
            server.release()

    What a coroutine raises, other than that the client has gone away, is
    raised again at the end of the ``with`` block.

    """

    def __init__(self, *connections):
        super().__init__()
        self._scripts = connections or ([],)

    async def _serve(self, connection):
        script = self._scripts[min(connection.number, len(self._scripts) - 1)]
        if callable(script):
            await script(connection)
            return
        for answer in script:
            if not await connection.request():
                return
            steps = [answer] if isinstance(answer, bytes) else answer
            await connection.play(steps)
        if not connection.closed:
            await connection.until_closed()


class FaultProxy(Server):
    """A proxy in front of a memcached, which spoils its replies as told.

    :param str target: memcached's address, ``host:port`` or ``unix:/path``
    :ivar float request_delay: seconds to hold back what goes to memcached
    :ivar float reply_delay: seconds to hold back what comes from memcached
    :ivar set swallowed: the connections of which something was swallowed

    The delays are those of a long line: order and throughput stay.  A
    connection that memcached does not take, or ends, ends here as well.

    """

    def __init__(self, target, request_delay=0.0, reply_delay=0.0):
        super().__init__()
        self.target = target
        self.request_delay = request_delay
        self.reply_delay = reply_delay
        self._next = collections.deque()
        self._every = None
        self._forgotten = set()
        self.swallowed = set()

    def forget(self):
        """Swallow what comes on the connections that are open by now.

        So does a router that has forgotten them: nobody is told.

        """
        self._forgotten.update(self.connections)

    @property
    def pending(self):
        """How many of the faults for next replies have not been used.

        :rtype: int

        """
        return len(self._next)

    def next_reply(self, *faults):
        """Use each fault for one of the next replies, on any connection.

        A reply is the whole answer to one command: ``get``'s goes to ``END``.
        None leaves a reply as it is.

        """
        self._next.extend(faults)

    def every_reply(self, fault):
        """Use a fault for every reply that has none of its own.

        :param fault: the fault; None for none

        """
        self._every = fault

    async def _serve(self, client):
        memcached = Connection(self, -1)
        try:
            await memcached.connected(self.target)
        except OSError:
            await client.reset()
            return
        try:
            await self._pass_on(client, memcached)
        finally:
            await memcached.close()

    async def _pass_on(self, client, memcached):
        requests, replies = asyncio.Queue(), asyncio.Queue()
        sources = [
            asyncio.create_task(self._take_requests(client, requests)),
            asyncio.create_task(self._take_replies(memcached, replies)),
        ]
        sinks = [
            asyncio.create_task(_deliver(requests, memcached)),
            asyncio.create_task(_deliver(replies, client)),
        ]
        try:
            await asyncio.wait(sinks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*sources, *sinks):
                task.cancel()
            ended = await asyncio.gather(
                *sources, *sinks, return_exceptions=True
            )
        for error in ended:
            # Either side may go away at any time; a fault may be mistaken.
            if isinstance(error, Exception) and not isinstance(
                error, ConnectionError
            ):
                raise error

    async def _take_requests(self, client, queue):
        loop = asyncio.get_running_loop()
        try:
            while data := await client.read():
                if client in self._forgotten:
                    self.swallowed.add(client)
                    continue
                queue.put_nowait((loop.time() + self.request_delay, [data]))
        finally:
            queue.put_nowait(None)

    async def _take_replies(self, memcached, queue):
        loop = asyncio.get_running_loop()
        rest = b''
        try:
            while data := await memcached.read():
                due = loop.time() + self.reply_delay
                replies, rest = split_replies(rest + data)
                if self._next or self._every:
                    for reply in replies:
                        queue.put_nowait((due, self._steps(reply)))
                elif replies:
                    queue.put_nowait((due, [b''.join(replies)]))
        finally:
            queue.put_nowait(None)

    def _steps(self, reply):
        fault = self._next.popleft() if self._next else self._every
        return [reply] if fault is None else fault(reply)


async def _deliver(queue, connection):
    """Play each of a queue's steps when it is due, until there are none."""
    loop = asyncio.get_running_loop()
    while item := await queue.get():
        due, steps = item
        if (left := due - loop.time()) > 0:
            await asyncio.sleep(left)
        await connection.play(steps)
        if connection.closed:
            return


@contextlib.contextmanager
def without_meta(address, answer):
    """A server in front of a real one, that knows no meta commands.

    :param answer: what it answers to them; None to close the connection

    """
    host, port = address.split(':')

    async def script(connection):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while request := await connection.request():
                if request[:1] == b'm':
                    if answer is None:
                        return
                    await connection.send(answer)
                    continue
                writer.write(request)
                reads = request.startswith((b'get', b'gat', b'stats'))
                end = b'END\r\n' if reads else b'\r\n'
                reply = b''
                while not reply.endswith(end):
                    reply += await reader.readexactly(1)
                await connection.send(reply)
        finally:
            writer.close()

    with ScriptedServer(script) as server:
        yield server


@contextlib.contextmanager
def refusing():
    """Give the address of a port that refuses connections.

    :rtype: str

    """
    with _bind(0) as holder:
        yield f'127.0.0.1:{holder.getsockname()[1]}'


@contextlib.contextmanager
def black_hole():
    """Give the address of a port where connecting gets no answer.

    The queue of connections that wait to be accepted is full, and so the
    kernel drops all that comes.

    :rtype: str

    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bind(0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(100):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
            if not select.select([], [client], [], 0.1)[1]:
                break
        else:
            raise AssertionError('the queue is never full')
        yield f'127.0.0.1:{address[1]}'


def _bind(port):
    """Return a socket bound to a port, 0 for any.

    It does not listen.  While it is open, the port is refused to all others,
    and a connection to it is refused.

    """
    bound = socket.socket()
    # Another socket of ours may listen there as well.  Not SO_REUSEADDR: with
    # it a memcached of another test could take the port, while none listens.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(('127.0.0.1', port))
    return bound


def _shut_down(endpoint):
    # It may have come to its end already.
    with contextlib.suppress(OSError):
        endpoint.shutdown(socket.SHUT_RDWR)
