"""The line to a memcached, in a process of its own, which does as told.

``python -m benchmarks.soaking.line 127.0.0.1:12345`` says its port, and then
obeys.
"""

import pathlib
import random
import sys

from benchmarks.soaking import remote

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'tests'))

import faults

WHOLE = 40
"""Fewer replies than that stay whole between two that are torn."""


class Proxy(faults.FaultProxy):
    """A proxy that keeps nothing of what it passes on."""

    def __init__(self, target):
        super().__init__(target)
        self._asked = set()

    def record(self, connection, data):
        connection.received.clear()
        if connection.number >= 0:
            self._asked.add(connection.number)

    async def _attend(self, connection):
        try:
            await super()._attend(connection)
        finally:
            self.connections.remove(connection)
            self._forgotten.discard(connection)
            self.swallowed.discard(connection)

    def count(self):
        """Return how many connections there are."""
        return len(self.open)

    def hold(self):
        """Answer nothing until told to ``resume``."""
        self.pause()
        self._asked.clear()

    def asked(self):
        """Return on how many connections something was asked since."""
        return len(self._asked)

    def slow(self, seconds):
        """Hold back all that comes from memcached for some time."""
        self.reply_delay = seconds

    def tear(self, count, seed):
        """End connections in the middle of some of the next replies.

        :param int count: how many
        :param seed: decides which, where, and how
        """
        rng = random.Random(seed)

        def torn(reply):
            end = rng.choice([faults.Do.CLOSE, faults.Do.RESET])
            return [reply[: rng.randrange(len(reply))], end]

        for _ in range(count):
            whole = [None] * rng.randrange(WHOLE)
            self.next_reply(*whole, torn)

    def mend(self):
        """Tear no more replies."""
        self._next.clear()


class Line(remote.Remote):
    """The process: its methods are those of :class:`Proxy`.

    :param str target: memcached's address
    """

    def __init__(self, target):
        super().__init__(__name__, target)
        self.port = self.answer()


def main():
    with Proxy(sys.argv[1]) as proxy:
        print(proxy.port, flush=True)
        remote.obey(proxy)


if __name__ == '__main__':
    main()
