"""A service that is told to stop loses no request."""

import asyncio
import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import pytest
import snippets
import sprockets.http.app
import stopped
from services import free_port, wait_until
from tornado import httpserver, httputil, netutil, web, websocket

from sprockets.clients import memcached
from sprockets.clients.memcached.web import draining

SECONDS = 60
"""Within this time a service starts, answers and ends."""

ENDING = 'ignore:unclosed event loop'
"""Of a loop that whoever runs it leaves open."""

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVICE = pathlib.Path(stopped.__file__)

SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Process:
    """A service of its own process, or several, on a port."""

    def __init__(self, port, command, processes, environ):
        self.port, self.processes = port, processes
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # It is all of its processes that get a signal.
            start_new_session=True,
        )
        client = memcached.Client()
        wait_until(lambda: client.get('ready') == processes, SECONDS)

    def tell(self, number):
        """Tell it to stop, and wait until that has come to its processes."""
        os.killpg(self.pid, number)
        client = memcached.Client()
        wait_until(lambda: client.get('told') == self.processes, SECONDS)

    def end(self):
        """Wait for its end, and return what there is to complain of."""
        _, errors = self._process.communicate(timeout=SECONDS)
        return self._process.returncode, errors

    def kill(self):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    @property
    def pid(self):
        return self._process.pid

    def connect(self):
        return http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=SECONDS
        )


@pytest.fixture
def start(memcached_server):
    """Start services, which end with the test whatever happens."""
    client = memcached.Client()
    client.set_multi({'answer': 'answer', 'begun': 0, 'ready': 0, 'told': 0})
    with contextlib.ExitStack() as stack:

        def start(*command, processes=1, **environ):
            port = free_port()
            arguments = [str(each) for each in (*command, port)]
            process = Process(port, arguments, processes, environ)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture(params=stopped.KINDS)
def kind(request):
    return request.param


@pytest.fixture
def service(kind, start):
    processes = stopped.PROCESSES if kind.endswith('forked') else 1
    return start(
        *(SERVICE, kind), processes=processes, MEMCACHED_SOCKET_TIMEOUT='1'
    )


def ask(process, path, count):
    """Make requests, and wait until the service has read them."""
    links = [process.connect() for _ in range(count)]
    for link in links:
        link.request('GET', path)
    wait_until(lambda: is_read(process.port), SECONDS)
    return links


def is_read(port):
    """Whether nothing that was sent to a port is still the kernel's.

    On a port that is listened to it counts who is not accepted yet (proc(5)).

    """
    with pathlib.Path('/proc/net/tcp').open(encoding='ascii') as table:
        next(table)
        for line in table:
            _, own, _, _, queues, *_ = line.split()
            unread = queues.partition(':')[2]
            if own.endswith(f':{port:04X}') and int(unread, 16):
                return False
    return True


def answers(links):
    """Return the status and the body of each answer."""
    found = []
    for link in links:
        with contextlib.closing(link):
            response = link.getresponse()
            found.append((response.status, response.read()))
    return found


@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('path', ['/read', '/late', '/computed', '/cached'])
def test_what_is_under_way_is_answered(service, path, number):
    """As it would have been otherwise, however long that takes."""
    client = memcached.Client()
    links = ask(service, path, 8)
    computed = path in ('/computed', '/cached')
    wait_until(lambda: client.get('begun') >= (1 if computed else 8), SECONDS)
    service.tell(number)
    if computed:
        # Longer than the timeout of a call, twice.
        time.sleep(2.2)
    client.set('go', 1)
    assert answers(links) == [(200, b'answer')] * 8
    assert service.end() == (0, '')


@pytest.mark.parametrize('kind', ['tornado', 'sprockets', 'sprockets-plain'])
def test_what_goes_on_behind_an_answer_has_its_client(service):
    """It is waited for as well."""
    client = memcached.Client()
    links = ask(service, '/behind', 1)
    assert answers(links) == [(200, b'answer')]
    wait_until(lambda: client.get('begun') == 1, SECONDS)
    service.tell(signal.SIGTERM)
    client.set('go', 1)
    assert service.end() == (0, '')
    assert client.get('behind') == 'stored'


def test_idle_visitors_do_not_delay_the_end(service):
    """sprockets.http would wait five seconds for their connections."""
    links = ask(service, '/quick', 8)
    for link in links:
        assert link.getresponse().read() == b'answer'
    begun = time.monotonic()
    service.tell(signal.SIGTERM)
    assert service.end() == (0, '')
    assert time.monotonic() - begun < 4.5
    for link in links:
        assert link.sock.recv(1) == b''
        link.close()


@pytest.mark.parametrize('kind', ['tornado', 'sprockets', 'sprockets-plain'])
def test_two_signals_are_as_one(service):
    """Whoever sends them."""
    client = memcached.Client()
    links = ask(service, '/read', 2)
    wait_until(lambda: client.get('begun') == 2, SECONDS)
    service.tell(signal.SIGTERM)
    os.killpg(service.pid, signal.SIGINT)
    client.set('go', 1)
    assert answers(links) == [(200, b'answer')] * 2
    assert service.end() == (0, '')


@pytest.mark.parametrize('kind', ['sprockets-forked', 'tornado-forked'])
def test_a_parent_does_not_pass_it_on(service):
    """As the docs say; its children serve on."""
    os.kill(service.pid, signal.SIGTERM)
    for _ in range(10):
        assert answers(ask(service, '/quick', 1)) == [(200, b'answer')]
        time.sleep(0.05)
    service.tell(signal.SIGTERM)
    assert service.end() == (0, '')


# What people copy


def service_of_readme():
    """Return README's service, what it is asked for, and its answer."""
    first, second, *_ = [
        snippet.text
        for snippet in snippets.find(ROOT / 'README.rst')
        if snippet.language == 'python'
    ]
    slow = re.sub(
        r'( +)(page = .*# what takes long)',
        r'\1await wait_outside()\n\1\2',
        first,
    )
    return slow + second, '/front', b'<h1>front</h1>'


def service_of_tutorial():
    """Return the tutorial's service, likewise."""
    *_, last = [
        snippet.text
        for snippet in snippets.find(ROOT / 'docs' / 'tutorial.rst')
        if snippet.caption == 'service.py'
    ]
    slow = last.replace('asyncio.sleep(1)', 'wait_outside()')
    return slow, '/words/tea', b'tea has 3 letters, asked for 1 times'


@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('page', [service_of_readme, service_of_tutorial])
def test_the_services_of_the_docs_answer_all(page, number, start, tmp_path):
    """While something is looked up that takes long."""
    text, path, answer = page()
    assert 'wait_outside()' in text
    for old, new in (
        ('(8000', '(int(sys.argv[1])'),
        ('await stopped.wait()\n', 'ready(); await stopped.wait(); tell()\n'),
    ):
        assert old in text
        text = text.replace(old, new)
    script = tmp_path / 'service.py'
    script.write_text(
        f'import sys\nfrom stopped import ready, tell, wait_outside\n{text}'
    )
    folders = [str(SERVICE.parent), os.environ.get('PYTHONPATH', '')]
    service = start(script, PYTHONPATH=os.pathsep.join(filter(None, folders)))
    client = memcached.Client()
    links = ask(service, path, 1)
    wait_until(lambda: client.get('begun') == 1, SECONDS)
    service.tell(number)
    client.set('go', 1)
    ((status, body),) = answers(links)
    assert (status, body[: len(answer)]) == (200, answer)
    assert service.end() == (0, '')


# In one process


class Gate(memcached.MemcachedMixin, web.RequestHandler):
    """Waits until it may go on, and then asks."""

    async def get(self):
        self.application.begun.set()
        await self.application.gate.wait()
        self.write(str(await self.memcached.get('key')))


class Stop(memcached.MemcachedMixin, web.RequestHandler):
    """Ends the service that it is a part of."""

    async def get(self):
        await self.memcached.set('key', 'value')
        await self.application.stop_memcached()
        self.write('stopped')


class StopInTask(memcached.MemcachedMixin, web.RequestHandler):
    """Does so in a task of its own, as what sets a time limit may do."""

    async def get(self):
        await self.memcached.set('key', 'value')
        await asyncio.create_task(self.application.stop_memcached())
        self.write('stopped')


class Talk(memcached.MemcachedMixin, websocket.WebSocketHandler):
    """Goes on for as long as the other side likes."""

    async def on_message(self, message):
        await self.write_message(str(await self.memcached.get(message)))


HANDLERS = [
    ('/gate', Gate),
    ('/stop', Stop),
    ('/stop-in-task', StopInTask),
    ('/talk', Talk),
]


class Application(memcached.ApplicationMixin, web.Application):
    def __init__(self):
        super().__init__(HANDLERS)
        self.begun, self.gate = asyncio.Event(), asyncio.Event()


class Link:
    """A connection of a client that keeps it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, path):
        self.writer.write(f'GET {path} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())

    async def answer(self):
        """Return the head of an answer."""
        return (await self.reader.readuntil(b'\r\n\r\n')).decode()

    async def body(self):
        """Return an answer, and what is behind it, up to the end."""
        return (await self.reader.read()).decode()


@contextlib.asynccontextmanager
async def serving(application):
    """Yield a function that connects to an application."""
    server = httpserver.HTTPServer(application)
    sockets = netutil.bind_sockets(0, '127.0.0.1')
    server.add_sockets(sockets)
    host, port = sockets[0].getsockname()
    links = []

    async def connect():
        link = Link(*await asyncio.open_connection(host, port))
        links.append(link)
        return link

    try:
        yield connect
    finally:
        server.stop()
        await server.close_all_connections()
        for link in links:
            link.writer.close()


def run(main):
    """Run a test's coroutine with an application and its server."""

    async def serve():
        application = Application()
        async with serving(application) as connect:
            await main(application, connect)

    asyncio.run(asyncio.wait_for(serve(), SECONDS))


def test_a_connection_ends_with_its_answer(memcached_server):
    """Its client is told not to send another request."""

    async def main(application, connect):
        link = await connect()
        link.send('/gate')
        await application.begun.wait()
        stop = asyncio.ensure_future(application.stop_memcached())
        await asyncio.sleep(0)
        application.gate.set()
        answer = await link.body()
        await stop
        assert answer.startswith('HTTP/1.1 200')
        assert 'Connection: close' in answer

    run(main)


def test_what_was_sent_before_the_end_was_known_is_answered(memcached_server):
    """On connections that were used a moment ago, or are new."""

    async def main(application, connect):
        application.gate.set()
        used, new = await connect(), await connect()
        used.send('/gate')
        head = await used.answer()
        assert 'Connection: close' not in head
        await used.reader.readexactly(int(re.search('Length: (.*)', head)[1]))
        stop = asyncio.ensure_future(application.stop_memcached())
        await asyncio.sleep(0)
        used.send('/gate')
        new.send('/gate')
        for link in (used, new):
            answer = await link.body()
            assert answer.startswith('HTTP/1.1 200')
            assert 'Connection: close' in answer
        await stop

    run(main)


@contextlib.contextmanager
def signaled(function):
    """Yield a function that has another one called by the loop's next turn."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, lambda: (one.recv(1), function()))
        try:
            yield lambda: other.send(b'.')
        finally:
            loop.remove_reader(one)


@pytest.mark.parametrize('first', ['the request', 'the signal'])
def test_a_request_that_comes_with_the_signal_is_answered(
    memcached_server, first
):
    """In the same turn, on a connection that was without one for long."""

    async def main(application, connect):
        application.gate.set()
        link = await connect()
        await asyncio.sleep(draining.LINGER * 1.2)
        with signaled(application.memcached_drain.begin) as signal_:
            if first == 'the signal':
                signal_()
            link.send('/gate')
            if first == 'the request':
                signal_()
            answer = await link.body()
        await application.stop_memcached()
        assert answer.startswith('HTTP/1.1 200')

    run(main)


@pytest.mark.parametrize('first', ['the visitor', 'the signal'])
def test_a_visitor_who_comes_with_the_signal_is_answered(
    memcached_server, first
):
    """In the same turn, and there is nobody else to wait for."""

    async def main(application, connect):
        application.gate.set()
        link = await connect()
        place = link.writer.get_extra_info('peername')
        link.send('/gate')
        await link.answer()
        link.writer.close()
        # asyncio has no event for it.
        while application.memcached_drain._visitors:  # noqa: ASYNC110
            await asyncio.sleep(0)
        told = asyncio.Event()
        with signaled(told.set) as signal_:
            if first == 'the signal':
                signal_()
            with socket.create_connection(place, SECONDS) as visitor:
                visitor.sendall(b'GET /gate HTTP/1.1\r\nHost: x\r\n\r\n')
                if first == 'the visitor':
                    signal_()
                await told.wait()
                await application.stop_memcached()
                visitor.setblocking(False)
                assert visitor.recv(1000).startswith(b'HTTP/1.1 200')

    run(main)


def test_a_visitor_who_never_stops_is_told_once(memcached_server):
    """Requests behind one that was told so are not answered."""

    async def main(application, connect):
        link = await connect()
        link.send('/gate')
        await application.begun.wait()
        stop = asyncio.ensure_future(application.stop_memcached())
        await asyncio.sleep(0)
        for _ in range(100):
            link.send('/gate')
        application.gate.set()
        await stop
        with contextlib.suppress(ConnectionError):
            answer = await link.body()
            assert 1 <= answer.count('HTTP/1.1 200') <= 2

    run(main)


@pytest.mark.parametrize('path', ['/stop', '/stop-in-task'])
def test_a_request_may_end_its_service(memcached_server, path):
    """It does not wait for itself."""

    async def main(application, connect):
        link = await connect()
        link.send(path)
        await link.answer()
        assert await link.reader.readexactly(7) == b'stopped'
        assert application.memcached_clients == {}

    run(main)


def test_requests_that_end_their_service_do_not_wait_for_each_other(
    memcached_server,
):
    """Nor is a request in the way of the signal that comes meanwhile."""

    async def main(application, connect):
        last, *links = [await connect() for _ in range(3)]
        last.send('/gate')
        await application.begun.wait()
        for link in links:
            link.send('/stop')
        # asyncio has no event for it.
        while len(application.memcached_drain._callers) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stop = asyncio.ensure_future(application.stop_memcached())
        await asyncio.sleep(0)
        application.gate.set()
        for link in links:
            answer = await link.body()
            assert 'Connection: close' in answer
            assert answer.endswith('stopped')
        await stop
        assert application.memcached_clients == {}

    run(main)


def test_websockets_are_not_waited_for(memcached_server):
    """They have no end of their own."""

    async def main(application, connect):
        link = await connect()
        link.writer.write(
            b'GET /talk HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n'
            b'Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
            b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
        )
        assert '101' in await link.answer()
        # A masked text of three bytes, by a mask of zeros.
        link.writer.write(b'\x81\x83\0\0\0\0key')
        assert await link.reader.readexactly(6) == b'\x81\x04None'
        await application.stop_memcached()

    run(main)


def test_what_listens_is_stopped(memcached_server):
    """Otherwise visitors would come and come."""

    async def main():
        application = Application()
        application.listen(port := free_port(), '127.0.0.1')
        await application.stop_memcached()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection('127.0.0.1', port)

    asyncio.run(main())


def test_to_stop_again_or_to_give_that_up(memcached_server):
    """Is no harm, and the clients are closed once nobody is left."""

    async def main(application, connect):
        link = await connect()
        link.send('/gate')
        await application.begun.wait()
        client = application.memcached_client()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(application.stop_memcached(), 0.05)
        assert await client.set('key', 'value')
        both = asyncio.gather(
            application.stop_memcached(), application.stop_memcached()
        )
        await asyncio.sleep(0)
        application.gate.set()
        assert (await link.body()).endswith('value')
        await both
        await application.stop_memcached()
        with pytest.raises(RuntimeError, match='closed'):
            await client.get('key')

    run(main)


def test_it_can_serve_again(memcached_server):
    """With clients that are made anew."""

    async def main(application, connect):
        application.gate.set()
        for _ in range(2):
            link = await connect()
            link.send('/gate')
            assert 'close' not in await link.answer()
            link.writer.close()
            await application.stop_memcached()

    run(main)


def test_a_handler_may_be_made_where_no_loop_runs():
    """In a test of its own, say."""
    application = Application()
    request = httputil.HTTPServerRequest(
        start_line=httputil.RequestStartLine('GET', '/', 'HTTP/1.1'),
        headers=httputil.HTTPHeaders(Host='x'),
        connection=mock.Mock(),
    )
    handler = Gate(application, request)
    assert handler.memcached is handler.memcached


# A loop that is stopped in the turn in which its last task ends

STOPPED = """
import asyncio, atexit, gc, os, socket, sys
from tornado import web
from sprockets.clients import memcached

class Application(memcached.ApplicationMixin, web.Application):
    pass

@memcached.cached(60)
async def load(number):
    return number

async def begin():
    application = Application([])
    await application.memcached_client().set('key', 'value')
    await load(1)
    return application

async def last():
    await release

async def stop():
    await application._shut_down()
    release.set_result(None)
    loop.call_soon(look)

@atexit.register
def tell():
    # At the very end: what was registered first is called last.
    port = int(os.environ['MEMCACHED_SERVERS'].rpartition(':')[2])
    for each in gc.get_objects():
        if isinstance(each, socket.socket) and each.fileno() >= 0:
            if each.type == socket.SOCK_STREAM and each.family == 2:
                if each.getpeername()[1] == port:
                    print('open:', each, file=sys.stderr)

def look():
    # As sprockets.http does, from time to time.
    assert asyncio.all_tasks() == set()
    loop.stop()

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
application = loop.run_until_complete(begin())
release = loop.create_future()
tasks = [loop.create_task(last()), loop.create_task(stop())]
loop.run_forever()
if closes:
    loop.close()
"""


@pytest.mark.parametrize('closes', [True, False])
def test_a_loop_that_sees_its_last_task_end_first(memcached_server, closes):
    """Nothing is left open, though nobody could close it in the loop."""
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'error', '-W', ENDING, '-c'),
            f'closes = {closes}\n{STOPPED}',
        ],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, '')


def test_what_a_loop_that_runs_uses_is_not_let_go_of(memcached_server):
    """It may be another thread's, while the process exits."""

    async def main():
        async with memcached.AsyncClient() as client:
            assert await client.set('key', 'value')
            client._engine.abandon()
            assert await client.get('key') == 'value'

    asyncio.run(main())


# What is no application


def test_the_mixin_stands_before_the_application():
    """Otherwise Python would not ask it."""
    for base in (web.Application, sprockets.http.app.Application):
        with pytest.raises(TypeError, match='before it'):
            type('Wrong', (base, memcached.ApplicationMixin), {})

    class Later(memcached.ApplicationMixin):
        """Becomes one where it is used."""

    type('Right', (Later, web.Application), {})
    with pytest.raises(TypeError, match='before it'):
        type('Wrong', (web.Application, Later), {})


# A client that is closed while it computes


def test_a_function_has_its_client_while_that_is_closed(memcached_server):
    """Whoever else calls is told that it is closed."""

    async def main():
        client = memcached.AsyncClient()
        await client.set('part', 'value')
        begun, go = asyncio.Event(), asyncio.Event()

        async def compute():
            begun.set()
            await go.wait()
            one, other = await asyncio.gather(
                client.get('part'), asyncio.create_task(part())
            )
            return f'{one} {other} {await client.get_or_set("deep", deep)}'

        async def part():
            return (await client.get_multi(['part']))['part']

        async def deep():
            return await client.incr('none')

        call = client.get_or_set('key', compute)
        await begun.wait()
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match='closed'):
            client.get('part')
        go.set()
        assert await call == 'value value None'
        await closing
        with pytest.raises(RuntimeError, match='closed'):
            client.get('part')

    asyncio.run(main())
