"""A memcached, the line to it, and what is known of its lives."""

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
        self.server.kill()
        # The port is memcached's: it refuses, and no connection that is not
        # yet accepted outlives the process.
        self.line.do('down')

    def start(self):
        """Let it live again, empty but for the counters."""
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
        request = f'get {" ".join(self.counter_keys)}\r\n'.encode()
        values = {}
        with self._asked(request) as replies:
            while (words := replies.readline().split()) != [b'END']:
                values[words[1].decode()] = replies.read(int(words[3]))
                replies.readline()
        return values

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
        accepted = [
            name
            for name in self.statistics('conns')
            if name.endswith(':listen_addr')
        ]
        # One of them is what it was asked on.
        return len(accepted) - 1

    def _begin_counters(self):
        for key in self.counter_keys:
            value = stamps.make_count(key, stamps.Count(self.life_name, 0))
            request = b'set %b 0 0 %d\r\n%b\r\n'
            with self._asked(
                request % (key.encode(), len(value), value)
            ) as replies:
                if replies.readline() != b'STORED\r\n':
                    raise RuntimeError(f'{self} does not store {key}')

    @contextlib.contextmanager
    def _asked(self, request):
        with (
            socket.create_connection(
                ('127.0.0.1', self.server.port), SECONDS
            ) as connection,
            connection.makefile('rb') as replies,
        ):
            connection.sendall(request)
            yield replies


def place(key, count):
    """Return which of so many servers python-memcached has a key on.

    :rtype: int
    """
    return memcache.serverHashFunction(key.encode()) % count
