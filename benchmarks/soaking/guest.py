"""A process that uses the servers while it is in trouble itself.

``python -m benchmarks.soaking.guest SEED ADDRESS...`` obeys.  Between two
commands it has one loop after the other, each with callers, in which no thread
can be started for a while, or no file opened; in which the process is stopped
for a while; in which an executor refuses what it is given, or drops it; or
which ends in the middle, by itself or by a Ctrl-C.  The clients outlive the
loops.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import logging
import os
import random
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings

from benchmarks.soaking import promises, remote, stamps
from sprockets.clients import memcached

CALLERS = 20
CONNECTIONS = 4
TIMEOUT = 3.0
DEAD_RETRY = 0.25

KEYS = 40
NEVER = 3600

LENGTH = (0.05, 1.0)
"""Seconds that a loop has, from and to."""
TROUBLE = (0.01, 0.3)
"""Seconds that it is in trouble."""
STOPPED = (0.05, 4.0)
"""Seconds that the process is stopped, for less or more than a timeout."""
SPARE = 30
"""Files that may be opened while they run out."""

RENEWED = 20
"""Loops after which the clients are other ones, whose threads come anew."""

COMPRESSED = 200
"""Bytes of a value from which it may be compressed: it is inflated by a
thread."""

PATIENCE = 30
"""Seconds until all must be well when there is no trouble any more."""

OWN_THREADS = 'own threads'

EVENT_LOOP = {
    inspect.getsourcefile(module)
    for module in (asyncio.base_events, asyncio.events)
}
"""Where Python's event loop calls callbacks, and takes new ones."""
"""What clients are called that have no executor."""

ENDINGS = ('in time', 'in the middle', 'interrupted')

ABANDONED = ('Task was destroyed', 'Task exception was never retrieved')
"""How the errors begin that asyncio logs of a loop that ends in the middle."""


class Executor(concurrent.futures.Executor):
    """An executor that refuses what it is given, or drops it, as told."""

    def __init__(self, threads):
        self._max_workers = threads
        self._refuses = False
        self._begin()

    def _begin(self):
        self._executor = concurrent.futures.ThreadPoolExecutor(
            self._max_workers
        )

    def submit(self, job, *arguments, **options):
        if self._refuses:
            raise RuntimeError('the executor refuses')
        return self._executor.submit(job, *arguments, **options)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    @contextlib.contextmanager
    def refusing(self):
        """Refuse all."""
        self._refuses = True
        try:
            yield
        finally:
            self._refuses = False

    @contextlib.contextmanager
    def dropping(self):
        """Let all wait for a thread, and drop it in the end."""
        over = threading.Event()
        for _ in range(self._max_workers):
            self._executor.submit(over.wait)
        try:
            yield
        finally:
            self.shutdown(wait=False, cancel_futures=True)
            over.set()
            self._begin()


@contextlib.contextmanager
def no_threads():
    """Let no thread be started."""
    # It has another name since 3.13.
    name = (
        '_start_joinable_thread'
        if hasattr(threading, '_start_joinable_thread')
        else '_start_new_thread'
    )
    start = getattr(threading, name)

    def fail(*arguments, **options):
        raise RuntimeError("can't start new thread")

    setattr(threading, name, fail)
    try:
        yield
    finally:
        setattr(threading, name, start)


@contextlib.contextmanager
def no_files():
    """Let no file or socket be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(_files()) + SPARE, hard)
        )
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def stopped(seconds):
    """Have this process stopped for some time, which begins soon.

    It is over at the end.

    """
    process = subprocess.Popen(
        [
            *('sh', '-c', 'kill -STOP "$0"; sleep "$1"; kill -CONT "$0"'),
            *(str(os.getpid()), str(seconds)),
        ]
    )
    try:
        yield
    finally:
        try:
            process.wait()
        except BaseException:
            # A Ctrl-C, of which there is one.
            process.wait()
            raise


def _files():
    return [int(name) for name in os.listdir('/dev/fd')]


class Interrupt:
    """A Ctrl-C that comes after some time, while it is wanted."""

    def __init__(self):
        self._wanted = False
        signal.signal(signal.SIGALRM, self._come)

    def _come(self, number, frame):
        if not self._wanted:
            return
        if frame is not None and frame.f_code.co_filename in EVENT_LOOP:
            # There it is lost, with the callbacks of a future: asyncio sets
            # that first, and a task that awaits it is never woken again.
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            return
        self._wanted = False
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def after(self, seconds):
        """Raise it in the body, unless that is over before."""
        try:
            self._wanted = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            self._wanted = False
            signal.setitimer(signal.ITIMER_REAL, 0)


class Log(logging.Handler):
    """Reports errors that are logged."""

    def __init__(self, guest):
        super().__init__(logging.ERROR)
        self._guest = guest

    def emit(self, record):
        text = record.getMessage()
        if record.name == 'asyncio' and text.startswith(ABANDONED):
            return
        if record.exc_info:
            text += f': {record.exc_info[1]!r}'
        self._guest.report(promises.RAISED, f'logged: {text}')


class Guest:
    """The process: what it is told to do.

    :param str seed: decides what happens
    :param list addresses: the servers, in order
    """

    def __init__(self, seed, addresses):
        self._rng = random.Random(seed)
        self._addresses = addresses
        self._numbers = iter(range(1, sys.maxsize))
        self._counts = collections.Counter()
        self._broken = []
        self._interrupt = Interrupt()
        self._visits = False
        self._visited = 0
        self._clients = {}
        self._troubles = {
            'guest: no threads': no_threads,
            'guest: no files': no_files,
            'guest: stopped': self._stopped,
            'guest: executor refuses': self._refusing,
            'guest: executor drops': self._dropping,
            'guest: no trouble': contextlib.nullcontext,
        }

    def report(self, promise, text):
        """Take down that a promise was broken."""
        self._broken.append((promise, f'guest: {text}'))

    def ignored(self, error):
        """Report an exception that nobody could be told of.

        :param error: what :func:`sys.unraisablehook` is given
        """
        if not issubclass(error.exc_type, KeyboardInterrupt):
            self.report(
                promises.RAISED,
                f'ignored in {error.object!r}: {error.exc_value!r}',
            )

    # Commands

    def come(self):
        """Make clients, and begin with loops."""
        # One of two is left to others: a permit for the other one that is
        # missing would be missed by all.
        self._executor = Executor(2)
        options = {
            'servers': ','.join(self._addresses),
            'socket_timeout': TIMEOUT,
            'dead_retry': DEAD_RETRY,
            'max_connections': CONNECTIONS,
        }
        self._clients = {
            f'{kind}, failover={failover}': memcached.AsyncClient(
                executor=executor, failover=failover, **options
            )
            for kind, executor in (
                (OWN_THREADS, None),
                ('executor', self._executor),
            )
            for failover in (False, True)
        }
        self._blocking = memcached.Client(failover=False, **options)
        self._visits = True

    def rest(self):
        """Have no more loops, and report servers that are not found."""
        self._visits = False
        for name, client in self._clients.items():
            for number, _ in enumerate(self._addresses):
                if not _run(_find(client, number)):
                    self.report(promises.AWAY, f'server {number} by {name}')

    def names(self):
        """Return what the awaitable clients are called."""
        return list(self._clients)

    def fill(self, name, number):
        """Ask a server more at a time than it has connections.

        :returns: whether all was answered
        :rtype: bool
        """
        return _run(fill(self._clients[name], number))

    def leave(self):
        """Close all, and report threads and sockets that are left."""
        for client in self._clients.values():
            _run(_close(client))
        self._blocking.disconnect_all()
        self._executor.shutdown()
        self._clients = {}
        del self._blocking, self._executor
        end = time.monotonic() + PATIENCE
        while (left := _left()) and time.monotonic() < end:
            time.sleep(0.02)
        if left:
            self.report(promises.GROWTH, f'{left} left')

    def tell(self):
        """Return the counts, and which promises were broken, once."""
        told = [dict(self._counts), self._broken]
        self._counts.clear()
        self._broken = []
        return told

    # Loops

    def _stopped(self):
        return stopped(self._rng.uniform(*STOPPED))

    def _refusing(self):
        return self._executor.refusing()

    def _dropping(self):
        return self._executor.dropping()

    def requests(self):
        """Yield commands, and have loops while there is none."""
        while True:
            if self._visits and not select.select([sys.stdin], [], [], 0)[0]:
                self._visit()
                self._visited += 1
                if not self._visited % RENEWED:
                    self.rest()
                    self.leave()
                    self.come()
                continue
            request = sys.stdin.readline()
            if not request:
                return
            yield request

    def _visit(self):
        """Have a loop, and let it end."""
        (trouble,) = self._rng.choices(list(self._troubles))
        ending = self._rng.choice(ENDINGS)
        tidy = self._rng.random() < 0.5
        seconds = self._rng.uniform(*LENGTH)
        self._counts[trouble] += 1
        self._counts[f'guest: loops that ended {ending}'] += 1
        loop = asyncio.new_event_loop()
        # The trouble ends with the loop, whatever becomes of its tasks.
        with contextlib.closing(loop), contextlib.ExitStack() as stack:
            make = functools.partial(
                self._callers, self._troubles[trouble], stack
            )
            try:
                if ending == 'interrupted':
                    with self._interrupt.after(seconds):
                        loop.run_until_complete(make(PATIENCE))
                else:
                    if ending == 'in the middle':
                        loop.call_later(self._rng.uniform(*LENGTH), loop.stop)
                    loop.run_until_complete(make(seconds))
            except KeyboardInterrupt:
                pass
            except RuntimeError as error:
                if 'stopped before' not in str(error):
                    raise
            stack.close()
            if tidy:
                _end_tasks(loop)

    async def _callers(self, trouble, stack, seconds):
        end = time.monotonic() + seconds
        tasks = [
            asyncio.ensure_future(self._call_until(end, client))
            for client in self._clients.values()
            for _ in range(CALLERS // len(self._clients))
        ]
        await asyncio.sleep(self._rng.uniform(*TROUBLE))
        stack.enter_context(trouble())
        await asyncio.sleep(self._rng.uniform(*TROUBLE))
        stack.close()
        await asyncio.wait(tasks)

    async def _call_until(self, end, client):
        calls = (
            self._set,
            self._get,
            self._get_multi,
            self._compute,
            self._swap,
            self._cancel,
        )
        while time.monotonic() < end:
            self._counts['guest: calls'] += 1
            key = f'guest:{self._rng.randrange(KEYS)}'
            try:
                await self._rng.choice(calls)(client, key)
                if self._rng.random() < 0.1:
                    self._check(key, self._blocking.get(key))
            except Exception as error:  # noqa: BLE001
                self.report(promises.RAISED, repr(error))
            await asyncio.sleep(self._rng.uniform(0, 0.01))

    def _make(self, key):
        return stamps.make(key, next(self._numbers), self._rng)

    def _check(self, key, value):
        if value is None:
            return
        try:
            stamps.read(key, value)
        except stamps.WrongValueError as error:
            self.report(promises.WRONG, str(error))

    async def _set(self, client, key):
        compressed = self._rng.choice([0, COMPRESSED])
        await client.set(key, self._make(key), NEVER, compressed)

    async def _get(self, client, key):
        self._check(key, await client.get(key))

    async def _get_multi(self, client, key):
        keys = [f'guest:{number}' for number in range(KEYS)]
        for each, value in (await client.get_multi(keys)).items():
            self._check(each, value)

    async def _compute(self, client, key):
        self._check(
            key,
            await client.get_or_set(key, lambda: self._make(key), NEVER),
        )

    async def _swap(self, client, key):
        scope = client.scope()
        self._check(key, await scope.gets(key))
        await scope.cas(key, self._make(key), NEVER)

    async def _cancel(self, client, key):
        call = client.set(key, self._make(key), NEVER)
        await asyncio.sleep(0)
        call.cancel()


def _run(call):
    """Run something in a loop of its own, as ``asyncio.run`` does."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(call)
    finally:
        _end_tasks(loop)
        loop.close()


def _end_tasks(loop):
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))


async def _find(client, number):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if await client.set((number, f'guest:found:{number}'), 'it'):
            return True
        await asyncio.sleep(DEAD_RETRY / 5)
    return False


async def fill(client, number):
    """Ask a server more at a time than a client has connections to it.

    :returns: whether all was answered
    :rtype: bool
    """
    calls = []
    for each in range(3 * CONNECTIONS):
        calls.append(client.set((number, f'guest:fill:{each}'), 'it'))
        # So that each travels alone.
        await asyncio.sleep(0.001)
    return all(await asyncio.gather(*calls))


async def _close(client):
    await client.close()


def _left():
    """Return what there is in a process that does nothing, as a text."""
    gc.collect()
    threads = set(threading.enumerate()) - {threading.main_thread()}
    sockets = []
    for file in _files():
        # One of them was the folder itself.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(file).st_mode):
                sockets.append(file)
    return ', '.join(
        [thread.name for thread in threads]
        + [f'socket {file}' for file in sockets]
    )


def main():
    seed, *addresses = sys.argv[1:]
    guest = Guest(seed, addresses)
    logging.basicConfig(level=logging.WARNING, handlers=[Log(guest)])
    sys.unraisablehook = guest.ignored
    # Where a loop ends, some tasks do not even begin.
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
    remote.obey(guest, guest.requests())


if __name__ == '__main__':
    main()
