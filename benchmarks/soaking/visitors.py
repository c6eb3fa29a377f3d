"""A process that tells services to stop while they are visited.

``python -m benchmarks.soaking.visitors SEED ADDRESS...`` obeys.  Between two
commands it has one service after the other, which uses the servers, whatever
happens to these; each gets a SIGTERM or a SIGINT in the middle of requests.
"""

import collections
import contextlib
import http.client
import os
import pathlib
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from benchmarks import ports, stopped
from benchmarks.soaking import promises, remote

ROOT = pathlib.Path(__file__).parents[2]

SERVICE = ('-m', 'benchmarks.soaking.service')
"""What Python runs; it is told the kind and the port."""

VISITORS = 6
"""Connections, each of which asks for one thing after another."""

TIMEOUT = 1.0
DEAD_RETRY = 0.25

MILLISECONDS = (0, 50, 500)
"""What a request takes, besides its calls."""

LENGTH = (0.2, 1.5)
"""Seconds from the first request to the signal, from and to."""

BETWEEN = (1.0, 3.0)
"""Seconds from the end of one service to the next."""

STOPPED = (0.0, 0.0, 0.1, 0.4)
"""Seconds for which a service is stopped when it is told to end, so that what
has come meanwhile, visitors and the signal, is there in one turn."""

LIMIT = 5.0
"""Seconds that sprockets.http waits for what is under way, and no longer.  A
request may take more while servers hang."""

PATIENCE = 60
"""Seconds within which a service starts, and ends."""


class Service:
    """A service of a process of its own, or of several.

    :param str kind: one of ``stopped.KINDS``
    :param list addresses: the servers
    :ivar int port: where it listens
    :raises RuntimeError: if it does not start
    """

    def __init__(self, kind, addresses):
        self.port = ports.free_port()
        self._process = subprocess.Popen(
            [sys.executable, *SERVICE, kind, str(self.port)],
            cwd=ROOT,
            env={
                **os.environ,
                'MEMCACHED_SERVERS': ','.join(addresses),
                'MEMCACHED_SOCKET_TIMEOUT': str(TIMEOUT),
                'MEMCACHED_DEAD_RETRY': str(DEAD_RETRY),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A signal is for all of its processes.
            start_new_session=True,
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return
            time.sleep(0.02)
        self.tell(signal.SIGKILL)
        raise RuntimeError(f'{kind} does not start: {self.end()}')

    def tell(self, number):
        """Send a signal to its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self):
        """Wait for its end.

        :returns: its exit status, how many requests it had begun, and what it
            has complained of
        :rtype: tuple(int, int, str)
        """
        try:
            counts, errors = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.tell(signal.SIGKILL)
            counts, errors = self._process.communicate()
            errors += f'It does not end within {PATIENCE} s.'
        status = self._process.returncode
        return status, sum(map(int, counts.split())), errors


class Visitor(threading.Thread):
    """Asks for one thing after another, until the service is gone.

    :param int port: the service's
    :param str path: what to ask for
    :ivar Counter answers: how often it got which status and body
    :ivar Event answered: once it got the first
    :ivar list cut_off: when connections ended behind a request
    """

    def __init__(self, port, path):
        super().__init__(daemon=True)
        self.answers = collections.Counter()
        self.answered = threading.Event()
        self.cut_off = []
        self._port = port
        self._path = path

    def run(self):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                try:
                    self._ask()
                # One that is kept open may be closed while nothing is asked.
                except (
                    ConnectionResetError,
                    BrokenPipeError,
                    http.client.HTTPException,
                ):
                    self.cut_off.append(time.monotonic())

    def _ask(self):
        with contextlib.closing(
            http.client.HTTPConnection(
                '127.0.0.1', self._port, timeout=PATIENCE
            )
        ) as connection:
            while True:
                connection.request('GET', self._path)
                response = connection.getresponse()
                body = response.read().decode()
                self.answers[response.status, body] += 1
                self.answered.set()


class Visitors:
    """The process: what it is told to do.

    :param str seed: decides what happens
    :param list addresses: the servers, in order
    """

    def __init__(self, seed, addresses):
        self._rng = random.Random(seed)
        self._addresses = addresses
        self._counts = collections.Counter()
        self._broken = []
        self._visits = False

    def come(self):
        """Begin with services."""
        self._visits = True

    def leave(self):
        """Have no more services."""
        self._visits = False

    def tell(self):
        """Return the counts, and which promises were broken, once."""
        told = [dict(self._counts), self._broken]
        self._counts.clear()
        self._broken = []
        return told

    def requests(self):
        """Yield commands, and have services while there is none."""
        pause = 0
        while True:
            if (
                self._visits
                and not select.select([sys.stdin], [], [], pause)[0]
            ):
                self._visit_one()
                pause = self._rng.uniform(*BETWEEN)
                continue
            request = sys.stdin.readline()
            if not request:
                return
            yield request

    def _visit_one(self):
        kind = self._rng.choice(list(stopped.KINDS))
        number = self._rng.choice([signal.SIGTERM, signal.SIGINT])
        what = self._rng.choice(['read', 'computed'])
        path = f'/{what}/{self._rng.choice(MILLISECONDS)}'
        seconds = self._rng.uniform(*LENGTH)
        self.visit(kind, number, path, seconds, self._rng.choice(STOPPED))

    def visit(self, kind, number, path, seconds, stopped_for=0.0):
        """Have a service, and tell it to stop while it is visited.

        :param str kind: one of ``stopped.KINDS``
        :param signal.Signals number: what tells it
        :param str path: what it is asked for
        :param float seconds: how long it is visited before that, and at
            least until each visitor has had an answer
        :param float stopped_for: seconds for which it is stopped then
        """
        self._counts[f'services told by {number.name}'] += 1
        service = Service(kind, self._addresses)
        people = [Visitor(service.port, path) for _ in range(VISITORS)]
        for person in people:
            person.start()
        end = time.monotonic() + PATIENCE
        time.sleep(seconds)
        for person in people:
            person.answered.wait(end - time.monotonic())
        if stopped_for:
            service.tell(signal.SIGSTOP)
        service.tell(number)
        if stopped_for:
            time.sleep(stopped_for)
            service.tell(signal.SIGCONT)
        limit = time.monotonic() + LIMIT
        status, begun, errors = service.end()
        for person in people:
            person.join()
        answers = sum((each.answers for each in people), collections.Counter())
        good = answers.pop((200, 'value'), 0)
        self._counts[promises.REQUESTS] += begun
        lost = begun - good - answers.total()
        if kind.startswith('sprockets.http'):
            late = sum(at > limit for each in people for at in each.cut_off)
            late = min(late, lost)
            self._counts['services: requests that took too long'] += late
            lost -= late
        if answers or lost or status or errors:
            text = (
                f'{kind}, {path}, {number.name}: {begun} requests, {lost}'
                f' lost, others than wanted: {dict(answers)}, status {status},'
                f' {errors}'
            )
            self._broken.append((promises.STOPPED, text))


def main():
    seed, *addresses = sys.argv[1:]
    visitors = Visitors(seed, addresses)
    remote.obey(visitors, visitors.requests())


if __name__ == '__main__':
    main()
