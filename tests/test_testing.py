"""A real memcached for tests: it starts, obeys, and leaves nothing behind."""

import asyncio
import atexit
import concurrent.futures
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import unittest

import memcache
import pytest
from tornado import testing as tornado_testing
from tornado import web

from sprockets.clients.memcached import testing

ADDRESSES = [{}, {'unix': True}, {'host': '::1'}, {'host': 'localhost'}]

START = """
import os, signal, sys
from sprockets.clients.memcached import testing
servers = [testing.MemcachedServer(unix=True), testing.MemcachedServer()]
for server in servers:
    print(server.start().pid, server.address, flush=True)
"""


def connect(server):
    """Return a socket connected to a server."""
    if server.unix:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        try:
            connection.connect(server.path)
        except BaseException:
            connection.close()
            raise
        return connection
    return socket.create_connection((server.host, server.port), 10)


def ask(server, request):
    """Return the line that a server answers to a request."""
    with connect(server) as connection, connection.makefile('rwb') as file:
        file.write(request)
        file.flush()
        return file.readline()


def is_alive(pid):
    """Whether there is a process that is not just waiting to be reaped."""
    try:
        state = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(')')[2].split()[0] != 'Z'


def wait_until(condition, seconds=20):
    """Wait for what no event tells of; fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def run(*command, **options):
    """Run a command and return it finished."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


@pytest.mark.parametrize('where', ADDRESSES)
class TestEachKindOfAddress:
    """What holds on a port and on a unix socket."""

    def test_started_is_answering(self, where):
        """A server that start() has returned answers at once."""
        with testing.MemcachedServer(**where) as server:
            assert ask(server, b'version\r\n').startswith(b'VERSION ')

    def test_restarted_is_empty_at_the_same_address(self, where):
        """restart() gives another process, with no keys, where it was."""
        with testing.MemcachedServer(**where) as server:
            address, pid = server.address, server.pid
            assert ask(server, b'set k 0 0 1\r\nv\r\n') == b'STORED\r\n'
            server.restart()
            assert ask(server, b'get k\r\n') == b'END\r\n'
            assert server.address == address
            assert server.pid != pid

    @pytest.mark.parametrize('method', ['stop', 'kill'])
    def test_down_and_up_again(self, where, method):
        """A server that is down refuses, and comes back where it was."""
        with testing.MemcachedServer(**where) as server:
            address, pid = server.address, server.pid
            getattr(server, method)()
            assert not server.running
            assert not is_alive(pid)
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                connect(server)
            server.start()
            assert server.running
            assert server.address == address
            assert ask(server, b'version\r\n').startswith(b'VERSION ')

    def test_reset_empties(self, where):
        """reset() leaves no keys and no counts, and the process as it is."""
        with testing.MemcachedServer(**where) as server:
            pid = server.pid
            ask(server, b'set k 0 0 1\r\nv\r\n')
            ask(server, b'get k\r\n')
            server.reset()
            assert ask(server, b'get k\r\n') == b'END\r\n'
            with connect(server) as connection:
                connection.sendall(b'stats\r\nquit\r\n')
                stats = connection.makefile('rb').read()
            assert b'STAT get_hits 0\r\n' in stats
            assert server.pid == pid


@pytest.mark.parametrize('unix', [False, True])
def test_address_suits_python_memcached(unix):
    """The address is one that python-memcached understands."""
    with testing.MemcachedServer(unix=unix) as server:
        client = memcache.Client([server.address])
        assert client.set('key', 'value')
        assert client.get('key') == 'value'
        client.disconnect_all()


def test_arguments_win_over_ours():
    """What is asked for on the command line is what memcached does."""
    value = b'v' * (2 << 20)
    with testing.MemcachedServer('-I', '4m', '-m', '32') as server:
        request = b'set k 0 0 %d\r\n%s\r\n' % (len(value), value)
        assert ask(server, request) == b'STORED\r\n'
        with connect(server) as connection:
            connection.sendall(b'stats\r\nquit\r\n')
            stats = connection.makefile('rb').read()
    assert b'STAT limit_maxbytes 33554432\r\n' in stats


def test_many_at_the_same_time():
    """Servers that are started at the same moment get ports of their own."""
    servers = [testing.MemcachedServer() for _ in range(20)]
    try:
        with concurrent.futures.ThreadPoolExecutor(10) as executor:
            list(executor.map(lambda server: server.start(), servers))
        assert len({server.address for server in servers}) == 20
        for server in servers:
            with connect(server) as connection:
                connection.sendall(b'stats\r\nquit\r\n')
                stats = connection.makefile('rb').read()
            assert f'STAT pid {server.pid}\r\n'.encode() in stats
    finally:
        for server in servers:
            server.stop()


def test_taken_port_is_left_alone(monkeypatch):
    """A server whose port another memcached was faster at takes another."""
    with testing.MemcachedServer() as first:
        any_port = testing._any_port
        taken = [first.port, first.port]
        monkeypatch.setattr(
            testing, '_any_port', lambda: taken.pop() if taken else any_port()
        )
        with testing.MemcachedServer() as second:
            assert not taken
            assert second.port != first.port
            assert ask(first, b'version\r\n').startswith(b'VERSION ')


def test_what_is_killed_and_started_often_keeps_nothing():
    """It is to be stopped once at the end of the process."""
    with testing.MemcachedServer() as server:
        before = atexit._ncallbacks()
        for _ in range(3):
            server.restart()
        assert atexit._ncallbacks() == before


@pytest.mark.parametrize('end', ['a signal', 'a command'])
@pytest.mark.parametrize('method', ['start', 'restart', 'reset'])
def test_what_ended_by_itself_leaves_nothing(end, method):
    """Neither process, nor what was open to them, when it is started again."""
    with testing.MemcachedServer('-A') as server:
        left = [server._process, server._watchdog]
        if end == 'a signal':
            os.kill(server.pid, signal.SIGKILL)
        else:
            ask(server, b'shutdown\r\n')
        waited_for = time.monotonic() + testing.SECONDS
        while server.running:
            assert time.monotonic() < waited_for
            time.sleep(0.01)
        getattr(server, method)()
        assert ask(server, b'get k\r\n') == b'END\r\n'
        assert all(process.returncode is not None for process in left)
        assert left[1].stdin.closed


def test_starting_twice_is_starting_once():
    """start() leaves a server alone that runs."""
    with testing.MemcachedServer() as server:
        pid = server.pid
        assert server.start() is server
        assert server.pid == pid


def test_paused_answers_nothing_until_resumed():
    """A paused server is silent; what was asked is answered afterwards."""
    with testing.MemcachedServer() as server:
        server.pause()
        with connect(server) as connection:
            connection.sendall(b'version\r\n')
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(100)
            assert server.running
            server.resume()
            connection.settimeout(10)
            assert connection.recv(100).startswith(b'VERSION ')


def test_paused_can_be_stopped():
    """A paused server ends as any other."""
    server = testing.MemcachedServer().start()
    pid = server.pid
    server.pause()
    server.stop()
    assert not is_alive(pid)


@pytest.mark.parametrize('method', ['stop', 'kill', 'pause'])
def test_reset_revives(method):
    """reset() makes a server answer, whatever was done to it."""
    with testing.MemcachedServer() as server:
        getattr(server, method)()
        server.reset()
        assert ask(server, b'version\r\n').startswith(b'VERSION ')


def test_reset_of_a_server_that_refuses_to_be_emptied():
    """reset() empties a server where flush_all is disabled."""
    with testing.MemcachedServer('-F') as server:
        ask(server, b'set k 0 0 1\r\nv\r\n')
        server.reset()
        assert ask(server, b'get k\r\n') == b'END\r\n'


def test_reset_of_a_server_that_passes_over_what_it_should_flush(monkeypatch):
    """reset() makes sure that nothing is left."""
    said = testing.FLUSH.replace(b'flush_all', b'verbosity 0')
    monkeypatch.setattr(testing, 'FLUSH', said)
    with testing.MemcachedServer() as server:
        ask(server, b'set k 0 0 1\r\nv\r\n')
        server.reset()
        assert ask(server, b'get k\r\n') == b'END\r\n'


def test_reset_of_what_was_flushed_and_is_counted_still():
    """reset() keeps the process: what memcached has not dropped is gone."""

    def clock():
        with connect(server) as connection:
            connection.sendall(b'stats\r\nquit\r\n')
            stats = connection.makefile('rb').read()
        assert b'STAT curr_items 1\r\n' in stats
        return int(re.search(rb'STAT time (\d+)', stats)[1])

    with testing.MemcachedServer() as server:
        pid = server.pid
        ask(server, b'set k 0 0 1\r\nv\r\n')
        start = clock()
        while clock() < start + 3:
            time.sleep(0.1)
        for _ in range(2):
            server.reset()
            assert server.pid == pid
            clock()
        assert ask(server, b'get k\r\n') == b'END\r\n'


def test_authentication(tmp_path):
    """A server that wants a password starts, and is reset, without it."""
    users = tmp_path / 'users'
    users.write_text('user:password\n')
    login = b'set x 0 0 13\r\nuser password\r\n'
    with testing.MemcachedServer('-Y', str(users)) as server:
        for _ in range(2):
            assert ask(server, b'get k\r\n').startswith(b'CLIENT_ERROR')
            assert ask(server, login) == b'STORED\r\n'
            server.reset()


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl is needed')
def test_tls(tmp_path):
    """A server with TLS starts, and is reset, though it wants encryption."""
    key, certificate = tmp_path / 'key.pem', tmp_path / 'certificate.pem'
    made = run(
        *('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes'),
        *('-subj', '/CN=localhost', '-keyout', key, '-out', certificate),
    )
    assert made.returncode == 0, made.stderr
    options = f'ssl_chain_cert={certificate},ssl_key={key}'
    context = ssl.create_default_context(cafile=certificate)
    with testing.MemcachedServer('-Z', '-o', options) as server:
        for _ in range(2):
            with (
                connect(server) as connection,
                context.wrap_socket(
                    connection, server_hostname='localhost'
                ) as encrypted,
            ):
                encrypted.sendall(b'add k 0 0 1\r\nv\r\n')
                assert encrypted.recv(100) == b'STORED\r\n'
            server.reset()


def test_killed_leaves_its_unix_socket():
    """After a kill() the socket is there and refuses, as after a crash."""
    with testing.MemcachedServer(unix=True) as server:
        server.kill()
        assert pathlib.Path(server.path).is_socket()
        with pytest.raises(ConnectionRefusedError):
            connect(server)


def test_stopped_leaves_nothing():
    """After stop() neither the socket nor its folder is there."""
    server = testing.MemcachedServer(unix=True).start()
    folder = pathlib.Path(server.path).parent
    assert folder.is_dir()
    server.stop()
    assert not folder.exists()


def test_unsuitable_arguments():
    """memcached's own words say why it did not start; nothing is left."""
    server = testing.MemcachedServer('-I', '1')
    with pytest.raises(testing.MemcachedFailed, match='max size cannot be'):
        server.start()
    assert not server.running
    with pytest.raises(RuntimeError, match='not started'):
        server.address  # noqa: B018


def test_not_installed(monkeypatch, tmp_path):
    """Without memcached the error says so, and how to get it."""
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(testing, 'FOLDERS', ())
    with pytest.raises(
        testing.MemcachedNotInstalled,
        match=r'not installed.*apt-get install memcached',
    ):
        testing.MemcachedServer().start()


def test_what_it_does_not_have_is_said():
    """Asking for what it lacks raises an error that says so."""
    server = testing.MemcachedServer()
    with pytest.raises(RuntimeError, match='not started'):
        server.address  # noqa: B018
    with pytest.raises(RuntimeError, match='does not run'):
        server.pause()
    assert repr(server) == '<MemcachedServer not started>'
    with pytest.raises(RuntimeError, match='unix socket'):
        server.path  # noqa: B018
    server = testing.MemcachedServer(unix=True)
    with pytest.raises(RuntimeError, match='not started'):
        server.path  # noqa: B018
    with pytest.raises(RuntimeError, match='not on a port'):
        server.port  # noqa: B018


def test_environ():
    """The variables are those that clients with these prefixes read."""
    with testing.MemcachedServer() as server:
        assert repr(server) == f'<MemcachedServer {server.address}>'
        assert server.environ() == {'MEMCACHED_SERVERS': server.address}
        assert server.environ('pages', None) == {
            'PAGES_MEMCACHED_SERVERS': server.address,
            'MEMCACHED_SERVERS': server.address,
        }
        with pytest.raises(TypeError, match='prefix is 5; expected a string'):
            server.environ('pages', 5)


def test_a_port_among_the_arguments():
    """It wins as well, and is where the server is."""
    with testing.MemcachedServer() as other:
        port = other.port
    with testing.MemcachedServer('-p', str(port)) as server:
        assert server.address == f'127.0.0.1:{port}'
        server.restart()
        assert server.port == port
        assert ask(server, b'get k\r\n') == b'END\r\n'


@pytest.mark.parametrize('given', ['-v', None, ['-m', 64], 5])
def test_arguments_that_are_none(given):
    """They are refused, by the one who has them and by a test case."""

    class Case(testing.MemcachedTestCase):
        """It is not run."""

        memcached_arguments = given

        def test(self):
            """Do nothing."""

    expected = "expected strings, as in ['-I', '4m']"
    with pytest.raises(TypeError, match=re.escape(expected)):
        Case.setUpClass()
    if isinstance(given, list):
        with pytest.raises(TypeError, match=re.escape(expected)):
            testing.MemcachedServer(*given)


@pytest.mark.parametrize('given', ['pages', b'pages', None, 5, iter(['a'])])
def test_prefixes_that_are_none(given):
    """A text is no list of prefixes: each letter would be one."""

    class Case(testing.MemcachedTestCase):
        """The first test is not run."""

        memcached_prefixes = given

        def test(self):
            """Do nothing."""

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    result = unittest.TestResult()
    before = dict(os.environ)
    suite.run(result)
    assert os.environ == before
    ((_, error),) = result.errors
    assert "; expected a list of prefixes, as in ['pages']" in error


def test_prefixes_of_a_fixture_that_are_none(tmp_path):
    """Likewise of the fixture."""
    (tmp_path / 'test_it.py').write_text(
        'import pytest\n'
        '@pytest.mark.parametrize("memcached_prefixes", ["pages"])\n'
        'def test_it(memcached_server):\n    pass\n'
    )
    finished = run(
        *(sys.executable, '-m', 'pytest', '-q'),
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert finished.returncode == 1
    expected = "memcached_prefixes is 'pages'; expected a list of prefixes"
    assert expected in finished.stdout


@pytest.mark.parametrize(
    'end',
    [
        'os.kill(os.getpid(), signal.SIGKILL)',
        'os.kill(os.getpid(), signal.SIGTERM)',
        'servers[0].pause(); os._exit(1)',
        'sys.exit(0)',
        'raise SystemError',
    ],
)
def test_it_ends_with_the_process_that_started_it(end):
    """However a test process ends, neither server nor folder stays."""
    finished = run(sys.executable, '-W', 'error', '-c', START + end)
    assert 'Warning' not in finished.stderr
    started = [line.split() for line in finished.stdout.splitlines()]
    assert len(started) == 2
    for pid, _ in started:
        wait_until(lambda pid=pid: not is_alive(pid))
    folder = pathlib.Path(started[0][1].removeprefix('unix:')).parent
    wait_until(lambda: not folder.exists())


def test_a_forked_child_ends_nothing():
    """A child that exits, or stops it, leaves the parent's server running."""
    finished = run(
        *(sys.executable, '-W', 'error', '-c'),
        START + 'for stop in range(2):\n'
        '    if not os.fork():\n'
        '        if stop: servers[0].stop(); servers[1].restart\n'
        '        sys.exit(0)\n'
        '    os.wait()\n'
        'print(*[server.running for server in servers])\n'
        'for server in servers: server.reset(); server.restart()\n',
    )
    assert finished.stderr == ''
    assert finished.stdout.splitlines()[-1] == 'True True'


def test_no_pytest_needed():
    """Where pytest is not installed the module can be used all the same."""
    finished = run(
        *(sys.executable, '-W', 'error', '-c'),
        'import sys; sys.modules["pytest"] = None\n' + START,
    )
    assert finished.returncode == 0, finished.stderr


class Cases:
    """Test classes that the tests below run; pytest does not collect them."""

    class Base(testing.MemcachedTestCase):
        """Tests that fail when another one left anything."""

        memcached_prefixes = ('pages', None)

        def leave_and_look(self):
            """Fail if the test before left anything, and leave it all."""
            for name in ('PAGES_MEMCACHED_SERVERS', 'MEMCACHED_SERVERS'):
                assert os.environ[name] == self.memcached_server.address
            assert ask(self.memcached_server, b'get k\r\n') == b'END\r\n'
            ask(self.memcached_server, b'set k 0 0 1\r\nv\r\n')
            os.environ['MEMCACHED_SERVERS'] = 'lost.example.com'
            self.memcached_server.pause()

    class Plain(Base):
        """Plain tests."""

        def test_1(self):
            """The first."""
            self.leave_and_look()

        def test_2(self):
            """The second."""
            self.leave_and_look()
            self.memcached_server.stop()

        def test_3(self):
            """The third."""
            self.leave_and_look()

    class Http(Base, tornado_testing.AsyncHTTPTestCase):
        """Tests of an application that reads the environment when made."""

        memcached_arguments = ('-m', '32')

        def get_app(self):
            """Make the application."""
            server = os.environ['PAGES_MEMCACHED_SERVERS']

            class Handler(web.RequestHandler):
                def get(self):
                    self.write(server)

            return web.Application([('/', Handler)])

        def test_1(self):
            """The first."""
            answer = self.fetch('/').body.decode()
            assert answer == self.memcached_server.address
            self.leave_and_look()

        test_2 = test_1

    class Loop(Base, tornado_testing.AsyncTestCase):
        """Tests with tornado's loop."""

        @tornado_testing.gen_test
        async def test_1(self):
            """The first."""
            await asyncio.sleep(0)
            self.leave_and_look()

        test_2 = test_1

    class Isolated(Base, unittest.IsolatedAsyncioTestCase):
        """Tests with asyncio's loop."""

        async def test_1(self):
            """The first."""
            await asyncio.sleep(0)
            self.leave_and_look()

        test_2 = test_1

    class Failing(Base):
        """A test that fails."""

        def test_1(self):
            """Fail."""
            self.leave_and_look()
            raise AssertionError


@pytest.mark.parametrize(
    'name, count', [('Plain', 3), ('Http', 2), ('Loop', 2), ('Isolated', 2)]
)
@pytest.mark.parametrize('before', [None, 'before:1'])
def test_a_test_case_isolates(monkeypatch, name, count, before):
    """Each test finds the server empty and named, and the rest as it was."""
    monkeypatch.delenv('PAGES_MEMCACHED_SERVERS', raising=False)
    if before is None:
        monkeypatch.delenv('MEMCACHED_SERVERS', raising=False)
    else:
        monkeypatch.setenv('MEMCACHED_SERVERS', before)
    case = getattr(Cases, name)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    output = io.StringIO()
    result = unittest.TextTestRunner(output).run(suite)
    assert result.wasSuccessful(), output.getvalue()
    assert result.testsRun == count
    assert os.environ.get('MEMCACHED_SERVERS') == before
    assert 'PAGES_MEMCACHED_SERVERS' not in os.environ
    assert not case.memcached_server.running


def test_a_failing_test_case_cleans_up(monkeypatch):
    """After a test that failed, too, the environment is what it was."""
    monkeypatch.setenv('MEMCACHED_SERVERS', 'before:1')
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Cases.Failing)
    result = unittest.TextTestRunner(io.StringIO()).run(suite)
    assert len(result.failures) == 1
    assert os.environ['MEMCACHED_SERVERS'] == 'before:1'
    assert not Cases.Failing.memcached_server.running


USER = """
import os, socket, unittest
import pytest
from sprockets.clients.memcached.testing import MemcachedTestCase

SEEN = set()

def ask(server, request):
    with socket.create_connection((server.host, server.port), 10) as s:
        s.sendall(request)
        return s.recv(100)

@pytest.mark.parametrize('number', range(4))
def test_isolated(memcached_server, number):
    SEEN.add(memcached_server.pid)
    assert len(SEEN) == 1
    assert os.environ['MEMCACHED_SERVERS'] == memcached_server.address
    assert 'PAGES_MEMCACHED_SERVERS' not in os.environ
    assert ask(memcached_server, b'get k\\r\\n') == b'END\\r\\n'
    assert ask(memcached_server, b'set k 0 0 1\\r\\nv\\r\\n') != b''
    memcached_server.pause()

@pytest.fixture(autouse=True)
def patched_first(monkeypatch):
    monkeypatch.setenv('OTHER', 'value')

def test_another_address(memcached_server, monkeypatch):
    monkeypatch.setenv('MEMCACHED_SERVERS', 'cache.example.com')

def test_not_asked_for():
    assert 'MEMCACHED_SERVERS' not in os.environ

class TestPrefixes:
    @pytest.fixture
    def memcached_prefixes(self):
        return ['pages', 'sessions']

    def test_prefixes(self, memcached_server):
        assert 'MEMCACHED_SERVERS' not in os.environ
        for prefix in 'PAGES', 'SESSIONS':
            name = f'{prefix}_MEMCACHED_SERVERS'
            assert os.environ[name] == memcached_server.address

@pytest.mark.parametrize('memcached_prefixes', [['other']])
def test_parametrized(memcached_server):
    assert os.environ['OTHER_MEMCACHED_SERVERS'] == memcached_server.address

class Test(MemcachedTestCase):
    memcached_prefixes = ('pages',)

    def test_it(self):
        address = self.memcached_server.address
        assert os.environ['PAGES_MEMCACHED_SERVERS'] == address
        assert ask(self.memcached_server, b'get k\\r\\n') == b'END\\r\\n'
"""


@pytest.mark.parametrize('options', [(), ('-n', '2')])
def test_as_a_user_would(tmp_path, options):
    """pytest in a project of a user's finds the fixtures by itself."""
    (tmp_path / 'test_it.py').write_text(USER)
    environment = {
        name: value
        for name, value in os.environ.items()
        if 'MEMCACHED' not in name and 'PYTEST' not in name
    }
    finished = run(
        *(sys.executable, '-m', 'pytest', '-W', 'error', '-q', *options),
        cwd=tmp_path,
        env=environment,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert '9 passed' in finished.stdout


def test_as_a_user_without_memcached_would(tmp_path):
    """Without memcached the fixture's error says how to get it."""
    (tmp_path / 'test_it.py').write_text(
        'def test_it(memcached_server):\n    pass\n'
    )
    (tmp_path / 'conftest.py').write_text(
        'from sprockets.clients.memcached import testing\n'
        'testing.FOLDERS = ()\n'
    )
    finished = run(
        *(sys.executable, '-m', 'pytest', '-q'),
        cwd=tmp_path,
        env={**os.environ, 'PATH': str(tmp_path)},
    )
    assert finished.returncode == 1
    assert 'apt-get install memcached' in finished.stdout


# What is not its own


@pytest.mark.parametrize('kind', ['a link', 'a folder', 'a file'])
def test_a_folder_of_somebody_elses(tmp_path, kind):
    """Once its own is gone, it follows and removes nothing of that name."""
    server = testing.MemcachedServer(unix=True)
    server.start()
    server.stop()
    folder = pathlib.Path(server.path).parent
    precious = tmp_path / 'precious'
    precious.mkdir()
    (precious / 'letter').touch()
    if kind == 'a link':
        folder.symlink_to(precious)
    elif kind == 'a folder':
        folder.mkdir()
        (folder / 'letter').touch()
    else:
        folder.touch()
    try:
        with pytest.raises(testing.MemcachedFailed, match='not what it was'):
            server.start()
        server.stop()
        assert (precious / 'letter').exists()
        assert list(precious.iterdir()) == [precious / 'letter']
        if kind == 'a folder':
            assert list(folder.iterdir()) == [folder / 'letter']
    finally:
        if kind == 'a folder':
            shutil.rmtree(folder)
        else:
            folder.unlink()
    # When it has gone, all is well again.
    with server:
        assert ask(server, b'version\r\n').startswith(b'VERSION')


def test_it_is_at_the_same_path_after_a_stop():
    """As long as nobody else is there."""
    server = testing.MemcachedServer(unix=True)
    with server:
        path = server.path
    with server:
        assert server.path == path
        assert ask(server, b'version\r\n').startswith(b'VERSION')
    assert not os.path.exists(os.path.dirname(path))


def test_a_crashed_ones_id_is_nobody_elses():
    """Until it is ended, so that nobody else can be ended in its place."""
    with testing.MemcachedServer() as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while server.running:
            assert time.monotonic() < end
        # It is a zombie, and has its id still.
        os.kill(pid, 0)
        server.restart()
        assert server.pid != pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(
    not pathlib.Path('/proc/self').exists(), reason='there is no /proc'
)
@pytest.mark.parametrize('same', [True, False])
def test_the_watchdog_ends_no_stranger(tmp_path, same):
    """One that has the id by now was started at another time."""
    stranger = subprocess.Popen(['sleep', '60'])
    try:
        folder = tmp_path / 'folder'
        folder.mkdir()
        started = testing._started(stranger.pid)
        watchdog = subprocess.run(
            [
                *('/bin/sh', '-c', testing.WATCHDOG, 'sh'),
                *(str(stranger.pid), str(folder)),
                started if same else '1',
            ],
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=30,
        )
        assert watchdog.returncode == 0
        assert not folder.exists()
        if same:
            assert stranger.wait(30) == -signal.SIGKILL
        else:
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_somebody_else_has_waited_for_it():
    """It is then not running, and nobody is ended by its id."""
    with testing.MemcachedServer() as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not server.running
        server.restart()
        assert ask(server, b'version\r\n').startswith(b'VERSION')
