"""A real memcached for tests: its process, and the environment that names it.

:class:`MemcachedServer` is the process.  :class:`MemcachedTestCase` gives one
to the tests of a :class:`unittest.TestCase`, and the pytest fixture
``memcached_server`` to those of pytest.

"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import typing
import unittest
from collections import abc

from sprockets.clients.memcached import current, settings, words
from sprockets.clients.memcached.servers import endpoints

if typing.TYPE_CHECKING:
    import types

SECONDS = 30
"""Within this time memcached has started, or has answered."""

NO_ANSWER = f'no answer within {SECONDS} seconds'

FLUSH = b'flush_all\r\nstats\r\nstats reset\r\n'
"""Empties it, mostly: memcached (1.6.45) passes over what was stored within
the last second where another of its threads has that in hand."""

LIST = b'lru_crawler metadump all\r\n'
"""Names every key that can be read."""

FOLDERS = ('/usr/local/sbin', '/usr/sbin')
"""Where some systems put it, which the PATH of most users lacks."""

EPHEMERAL = pathlib.Path('/proc/sys/net/ipv4/ip_local_port_range')
"""The first and the last port that the kernel gives to clients."""

# It ends memcached when the process that started it has ended, however that
# came about: then nothing holds the other end of its standard input any more.
# Where there is a way to see that, it ends no other process that has its id.
WATCHDOG = """
read -r line
if [ ! -d /proc/self ] || [ "$(cut -d ' ' -f 22 "/proc/$1/stat")" = "$3" ]
then kill -KILL "$1"
fi
rm -rf -- "$2"
"""


class MemcachedFailed(RuntimeError):  # noqa: N818
    """memcached did not start; the message has its own words."""


class MemcachedNotInstalled(RuntimeError):  # noqa: N818
    """There is no memcached on this machine."""

    def __init__(self) -> None:
        super().__init__(
            'memcached is not installed: no such program in the PATH. Tests '
            'with a real memcached need it: apt-get install memcached, '
            'dnf install memcached, apk add memcached or brew install '
            'memcached.'
        )


class MemcachedServer:
    """A memcached process of the test's own.

    .. code-block:: python

        with MemcachedServer('-I', '4m') as server:
            client = memcached.Client(servers=server.address)
            client.set('key', 'value')
            server.restart()
            assert client.get('key') is None

    It listens on a free port, or on a unix socket in a temporary folder, and
    keeps its address for as long as the object lives, through
    :meth:`restart`, and :meth:`stop` and :meth:`start`.  It ends with the
    process that started it, even if that is killed.

    A child made by :func:`os.fork` may connect to it; only the process that
    started it can end it.

    :param str arguments: further arguments of memcached's command line; they
        win over those it gets anyway
    :param bool unix: listen on a unix socket
    :param str host: listen on this address, unless on a unix socket
    :raises TypeError: for an argument that is no text

    """

    def __init__(
        self, *arguments: str, unix: bool = False, host: str = '127.0.0.1'
    ) -> None:
        self.arguments = _texts(arguments)
        self.unix = unix
        self.host = host
        self._folder: pathlib.Path | None = None
        self._made: tuple[int, int] | None = None
        """What the folder is known by, besides its name."""
        self._owner = os.getpid()
        self._ends_at_exit = False
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        known = self._folder if self.unix else self._port
        where = self.address if known else 'not started'
        return f'<{type(self).__name__} {where}>'

    def __enter__(self) -> MemcachedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The server as ``MEMCACHED_SERVERS`` has it.

        ``127.0.0.1:12345``, ``[::1]:12345`` or ``unix:/path``.

        :rtype: str
        :raises RuntimeError: before it was started for the first time

        """
        if self.unix:
            return f'unix:{self.path}'
        if ':' in self.host:
            return f'[{self.host}]:{self.port}'
        return f'{self.host}:{self.port}'

    @property
    def path(self) -> str:
        """The path of its unix socket.

        :rtype: str
        :raises RuntimeError: if it has none, or was never started

        """
        if not self.unix:
            raise RuntimeError('it listens on a port, not on a unix socket')
        if self._folder is None:
            raise RuntimeError('it was not started yet')
        return str(self._folder / 'socket')

    @property
    def port(self) -> int:
        """The port it listens on.

        :rtype: int
        :raises RuntimeError: if it has none, or was never started

        """
        if self.unix:
            raise RuntimeError('it listens on a unix socket, not on a port')
        if self._port is None:
            raise RuntimeError('it was not started yet')
        return self._port

    @property
    def pid(self) -> int:
        """The id of the running process.

        :rtype: int
        :raises RuntimeError: if it does not run

        """
        if self._process is None or not self.running:
            raise RuntimeError('it does not run')
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, be it paused.

        :rtype: bool

        """
        return self._process is not None and _is_running(self._process)

    def environ(self, *prefixes: str | None) -> dict[str, str]:
        """Return the variables that make clients use this server.

        .. code-block:: python

            with mock.patch.dict(os.environ, server.environ('pages')):
                client = memcached.Client('pages')

        :param str prefixes: the prefixes of the clients; None stands for
            ``MEMCACHED_SERVERS``, as no prefix at all does
        :rtype: dict
        :raises TypeError: for a prefix that is no text

        """
        names = settings.prefix_names(prefixes or (None,))
        return {
            settings.variable('servers', name): self.address for name in names
        }

    def start(self) -> MemcachedServer:
        """Start it, and return once it answers; nothing if it runs.

        :rtype: MemcachedServer
        :raises MemcachedNotInstalled: if there is no memcached
        :raises MemcachedFailed: if it did not start; it has said why

        """
        if self.running:
            return self
        # What is left of one that ended without being asked.
        self.kill()
        binary = _find()
        folder = self._make_folder()
        self._owner = os.getpid()
        # Once, however often it is killed and started.
        if not self._ends_at_exit:
            self._ends_at_exit = True
            atexit.register(self.stop)
        deadline = time.monotonic() + SECONDS
        try:
            while not self._launch(binary, folder, deadline):
                # Somebody else has the port.  Once it is known as ours, all
                # that is left is to wait until it is free again.
                if self._port:
                    time.sleep(0.01)
        except BaseException:
            self.stop()
            raise
        return self

    def _make_folder(self) -> pathlib.Path:
        """Return a folder that this has made, and nobody else.

        :raises MemcachedFailed: if somebody has made another one of its name

        """
        if self._folder is None:
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix='memcached-'))
        elif not self._folder_is_ours():
            # It was removed, and its name was free for anybody since.
            try:
                self._folder.mkdir(mode=0o700)
            except FileExistsError:
                raise MemcachedFailed(
                    f'{self._folder} is there, and is not what it was: its'
                    ' unix socket cannot have the same path again'
                ) from None
        self._made = _identity(self._folder)
        return self._folder

    def _folder_is_ours(self) -> bool:
        return (
            self._folder is not None
            and self._made is not None
            and _identity(self._folder) == self._made
        )

    def stop(self) -> None:
        """End it and remove what it left; nothing if it does not run.

        It is killed: there is nothing for it to save, and asked politely it
        takes up to a second.

        """
        if os.getpid() != self._owner:
            self._disown()
            return
        self.kill()
        self._ends_at_exit = False
        atexit.unregister(self.stop)
        if self._folder is not None and self._folder_is_ours():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._made = None
        if not self.unix:
            # Its name was nothing to anybody.
            self._folder = None

    def kill(self) -> None:
        """End it as a crash does; nothing if it does not run.

        Its unix socket stays behind, and refuses connections.

        """
        if os.getpid() != self._owner:
            self._disown()
            return
        # Its id is not given to another process before it was waited for, so
        # that neither this nor the watchdog can meet another process.
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """End it and start it again: empty, at the same address.

        :raises MemcachedFailed: if it did not start; it has said why

        """
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it in its tracks, so that it accepts and answers nothing.

        The kernel still completes connections to it, and takes what is sent,
        until its queues are full.

        :raises RuntimeError: if it does not run

        """
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        if hasattr(os, 'waitid'):
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        else:
            os.waitpid(pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on after a :meth:`pause`.

        :raises RuntimeError: if it does not run

        """
        os.kill(self.pid, signal.SIGCONT)

    def reset(self) -> None:
        """Make it as it was at first: running, empty, its counters at zero.

        Clients of this process that found it down find it up again.

        :raises MemcachedFailed: if it did not start; it has said why

        """
        if self.running:
            self.resume()
            answer = self._ask(FLUSH, SECONDS)
            # With TLS, authentication or -F it refuses.
            if not (
                answer.startswith(b'OK\r\n')
                and answer.endswith(b'RESET\r\n')
                and (b'STAT curr_items 0\r\n' in answer or self._is_empty())
            ):
                self.restart()
        else:
            self.start()
        endpoints.mark_up(settings.parse_server(self.address)[0])

    def _disown(self) -> None:
        """Let go of the processes, which are not a child's to wait for."""
        for process in (self._process, self._watchdog):
            if process is not None:
                process.returncode = 0
                if process.stdin is not None:
                    process.stdin.close()
        self._process = self._watchdog = None

    def _launch(
        self, binary: str, folder: pathlib.Path, deadline: float
    ) -> bool:
        """Start the process; return False if its port is taken."""
        port = self._port or _any_port()
        errors = folder / 'errors'
        ready = folder / 'port'
        ready.unlink(missing_ok=True)
        if self.unix:
            listen = ['-s', self.path]
        else:
            host = f'[{self.host}]' if ':' in self.host else self.host
            listen = ['-l', host, '-p', str(port), '-U', '0']
        with errors.open('wb') as stderr:
            self._process = subprocess.Popen(
                [
                    binary,
                    *listen,
                    # It refuses to run as root unless told so.
                    *('-u', pwd.getpwuid(os.geteuid()).pw_name),
                    *('-t', '2'),
                    *('-m', '64'),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={
                    **os.environ,
                    'LC_ALL': 'C',
                    'MEMCACHED_PORT_FILENAME': str(ready),
                },
                # Ctrl-C is for the tests, which still want it for cleaning up.
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            [
                *('/bin/sh', '-c', WATCHDOG, 'sh'),
                *(str(self._process.pid), str(folder)),
                _started(self._process.pid),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while _is_running(self._process):
            left = deadline - time.monotonic()
            if left <= 0:
                raise MemcachedFailed(NO_ANSWER)
            # It writes the file when it listens.  Only that tells that it is
            # not somebody else who answers on this port.
            if self.unix or ready.exists():
                self._port = None if self.unix else _told(ready) or port
                with contextlib.suppress(
                    ConnectionRefusedError, FileNotFoundError
                ):
                    self._ask(b'version\r\n', left)
                    return True
            time.sleep(0.002)
        self.kill()
        words = errors.read_text(errors='replace').strip()
        if 'Address already in use' in words and time.monotonic() < deadline:
            return False
        raise MemcachedFailed(words or 'it ended without a word')

    def _is_empty(self) -> bool:
        """Tell whether it is sure that it holds nothing which can be read.

        What was flushed is counted until somebody asks for it, but not
        listed.  It may be too busy to list anything, or not know how.

        """
        answer = b''
        try:
            with self._connected(SECONDS) as connection:
                # A client that has closed its half is told nothing.
                connection.sendall(LIST)
                while answer in (b'', b'OK\r\n'):
                    more = connection.recv(4096)
                    if not more:
                        return False
                    answer += more
        except OSError:
            return False
        return answer.removeprefix(b'OK\r\n') == b'END\r\n'

    @contextlib.contextmanager
    def _connected(self, timeout: float) -> abc.Iterator[socket.socket]:
        if self.unix:
            connection = socket.socket(socket.AF_UNIX)
        else:
            connection = socket.socket(
                socket.AF_INET6 if ':' in self.host else socket.AF_INET
            )
        with connection:
            connection.settimeout(timeout)
            connection.connect(
                self.path if self.unix else (self.host, self.port)
            )
            yield connection

    def _ask(self, request: bytes, timeout: float) -> bytes:
        """Return all that it answers to a request."""
        with self._connected(timeout) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                return b''.join(iter(lambda: connection.recv(4096), b''))
            except TimeoutError:
                raise MemcachedFailed(NO_ANSWER) from None
            except OSError:
                # With TLS it is no request, and the connection may be reset.
                return b''


class MemcachedTestCase(unittest.TestCase):
    """A test case with a memcached of its own.

    .. code-block:: python

        class PageTestCase(MemcachedTestCase, testing.AsyncHTTPTestCase):
            memcached_prefixes = ('pages',)

            def get_app(self):
                return application.make()

            def test_the_second_request_is_answered_from_the_cache(self):
                ...

    It goes before :class:`tornado.testing.AsyncHTTPTestCase`,
    :class:`tornado.testing.AsyncTestCase` or
    :class:`unittest.IsolatedAsyncioTestCase` in a test's bases.  Every class
    has a process of its own.  When ``get_app()`` is called, the variables of
    the environment name it, and each test finds it running and empty,
    whatever the one before did to it.  After a test the environment is what it
    was.

    """

    memcached_arguments: typing.ClassVar[abc.Sequence[str]] = ()
    """Further arguments of memcached's command line."""

    memcached_prefixes: typing.ClassVar[abc.Sequence[str | None]] = (None,)
    """The prefixes whose variables name the server, None for no prefix."""

    memcached_server: typing.ClassVar[MemcachedServer]
    """The server, from ``setUpClass()`` on."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server."""
        arguments = _texts(cls.memcached_arguments)
        cls.memcached_server = MemcachedServer(*arguments)
        cls.memcached_server.start()
        cls.addClassCleanup(cls.memcached_server.stop)
        super().setUpClass()

    def setUp(self) -> None:
        """Empty the server and put it in the environment."""
        self.memcached_server.reset()
        names = settings.prefix_names(self.memcached_prefixes)
        variables = self.memcached_server.environ(*names)
        before = {name: os.environ.get(name) for name in variables}
        self.addCleanup(_restore, before)
        os.environ.update(variables)
        current.forget()
        super().setUp()


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process runs, without waiting for one that does not.

    Its id is given to no other as long as nobody has waited for it.

    """
    if process.returncode is not None or not hasattr(os, 'waitid'):
        return process.poll() is None
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is None
    except ChildProcessError:
        # Somebody else has, a handler of SIGCHLD say.
        return False


def _started(pid: int) -> str:
    """Return when a process was started, which tells it from others."""
    try:
        text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return ''
    return text.split(' ')[21]


def _identity(folder: pathlib.Path) -> tuple[int, int] | None:
    """Return what a folder is known by, None if it is none."""
    try:
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    return found.st_dev, found.st_ino


def _restore(variables: abc.Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    current.forget()


def _find() -> str:
    """Return the path of memcached's program.

    :raises MemcachedNotInstalled: if there is none

    """
    folders = os.pathsep.join([*os.get_exec_path(), *FOLDERS])
    found = shutil.which('memcached', path=folders)
    if found is None:
        raise MemcachedNotInstalled
    return found


def _texts(arguments: abc.Sequence[str]) -> tuple[str, ...]:
    """Return arguments of a command line.

    :raises TypeError: for what is no sequence of texts

    """
    # Their user may not be typed; a text is a sequence of letters.
    given: typing.Any = arguments
    if not isinstance(given, list | tuple) or not all(
        isinstance(each, str) for each in given
    ):
        raise TypeError(
            f'the arguments of memcached are {words.shown(given)}; expected'
            " strings, as in ['-I', '4m']"
        )
    return tuple(given)


def _told(ready: pathlib.Path) -> int | None:
    """Return the port that memcached says it has, None if it does not.

    It is another one than it was told if its further arguments have one.

    """
    found = re.search(
        '^TCP INET6?: ([0-9]+)$', ready.read_text(), re.MULTILINE
    )
    return int(found[1]) if found else None


def _any_port() -> int:
    """Return a port for a server to try.

    It is none that the kernel gives to clients: while the server is down, one
    of them might get its port, or a client that tries to connect to the
    server might be connected to itself.

    """
    try:
        end = int(EPHEMERAL.read_text().split()[0])
    except (FileNotFoundError, PermissionError):
        end = 49152
    # Not random's own sequence, which is the same for all the processes of
    # a test run that seeds it.
    ports = range(12000, end if end > 16000 else 49152)
    return random.SystemRandom().choice(ports)
