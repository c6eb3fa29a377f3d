"""A memcached, the line to it, and what is known of its lives."""

import collections
import contextlib
import socket

import memcache

from benchmarks.soaking import line, stamps
from sprockets.clients.memcached import testing

SECONDS = 10


class Site:
    """A server as clients see it: at the end of a line that may be cut.

    ``life`` is even while the process lives, and ``cuts`` is while nothing
    is wrong with the line; they are raised before and after.  So who finds
    the same even number twice knows that nothing happened in between.

    :param int number: which one it is
    :param list counter_keys: keys of counters, which begin at 0 in each life
    """

    def __init__(self, number, counter_keys):
        self.number = number
        self.life = 0
        self.cuts = 0
        self.counter_keys = counter_keys
        self._uniques = {}
        self._asked_from = collections.deque(maxlen=20)
        self._stack = contextlib.ExitStack()

    def __str__(self):
        return f'server {self.number}'

    def __enter__(self):
        with self._stack:
            self.server = self._stack.enter_context(
                testing.MemcachedServer('-m', '128')
            )
            self.line = line.Line(self.server.address)
            self._stack.callback(self.line.stop)
            self.address = f'127.0.0.1:{self.line.port}'
            self._begin_counters()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    @property
    def life_name(self):
        """The life as counters have it in their value."""
        return f'{self.number}.{self.life}'

    def kill(self):
        """End the process as a crash does, with all connections."""
        self.life += 1
        self.cuts += 1
        # It may be the last moment of many a cas.
        self._uniques = {
            key: unique for key, (_, unique) in self._read().items()
        }
        self.server.kill()
        # The port is memcached's: it refuses, and no connection that is not
        # yet accepted outlives the process.
        self.line.do('down')

    def start(self):
        """Let it live again, empty but for the counters.

        Each has the cas unique that it had when the server died: who cannot
        tell this life from the one before is found out.
        """
        self.server.start()
        self.life += 1
        self._begin_counters()
        self.line.do('up')
        self.cuts += 1

    @contextlib.contextmanager
    def cut(self):
        """Say so while something is wrong with the line."""
        self.cuts += 1
        try:
            yield self.line
        finally:
            self.cuts += 1

    def counters(self):
        """Return what memcached itself has for its counters, in bytes.

        :rtype: dict
        """
        return {key: value for key, (value, _) in self._read().items()}

    def _read(self):
        """Return the value and the cas unique of each counter."""
        request = f'gets {" ".join(self.counter_keys)}\r\n'.encode()
        found = {}
        with self._asked(request) as replies:
            while (words := replies.readline().split()) != [b'END']:
                value = replies.read(int(words[3]))
                found[words[1].decode()] = value, int(words[4])
                replies.readline()
        return found

    def statistics(self, kind=''):
        """Return what memcached says of itself, as texts by their names.

        :rtype: dict
        """
        pairs = {}
        with self._asked(f'stats {kind}\r\n'.encode()) as replies:
            while (words := replies.readline().decode().split()) != ['END']:
                pairs[words[1]] = words[2]
        return pairs

    def connections(self):
        """Return how many connections memcached itself has of clients."""
        found = self.statistics('conns')
        # Those that it was asked on may be there a moment longer.
        own = {f'tcp:127.0.0.1:{port}' for port in self._asked_from}
        return sum(
            name.endswith(':listen_addr')
            and found[name.replace(':listen_addr', ':addr')] not in own
            for name in found
        )

    def _begin_counters(self):
        request = b'delete first noreply\r\n'
        count = self._first_unique()
        uniques = self._uniques
        for key in sorted(self.counter_keys, key=lambda k: uniques.get(k, 0)):
            # Each store takes the next number.
            skipped = max(uniques.get(key, 0) - count - 1, 0)
            count += skipped + 1
            value = stamps.make_count(key, stamps.Count(self.life_name, 0, 0))
            request += b'set skipped 0 -1 1 noreply\r\n0\r\n' * skipped
            request += b'set %b 0 0 %d noreply\r\n%b\r\n' % (
                key.encode(),
                len(value),
                value,
            )
        with self._asked(request + b'version\r\n') as replies:
            replies.readline()
        if len(self._read()) != len(self.counter_keys):
            raise RuntimeError(f'{self} does not store its counters')

    def _first_unique(self):
        """Return the number that memcached, which is empty, begins with.

        It is not the same in each version.
        """
        request = b'set first 0 0 1\r\n0\r\ngets first\r\n'
        with self._asked(request) as replies:
            replies.readline()
            return int(replies.readline().split()[4])

    @contextlib.contextmanager
    def _asked(self, request):
        with (
            socket.create_connection(
                ('127.0.0.1', self.server.port), SECONDS
            ) as connection,
            connection.makefile('rb') as replies,
        ):
            self._asked_from.append(connection.getsockname()[1])
            connection.sendall(request)
            yield replies


def place(key, count):
    """Return which of so many servers python-memcached has a key on.

    :rtype: int
    """
    return memcache.serverHashFunction(key.encode()) % count
