"""The line to a memcached, in a process of its own, which does as told.

``python -m benchmarks.soaking.line 127.0.0.1:12345`` says its port.  Then each
line that it reads is a JSON list, the name of a method with its arguments, and
is answered by one with the result.  It ends with its input.
"""

import json
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'tests'))

import faults

WHOLE = 40
"""Fewer replies than that stay whole between two that are torn."""

SECONDS = 15
"""What a process may take to end; it does nothing that takes longer."""


class Proxy(faults.FaultProxy):
    """A proxy that keeps nothing of what it passes on."""

    def record(self, connection, data):
        connection.received.clear()

    async def _attend(self, connection):
        try:
            await super()._attend(connection)
        finally:
            self.connections.remove(connection)

    def count(self):
        """Return how many connections there are."""
        return len(self.open)

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


class Line:
    """The process: its methods are those of :class:`Proxy`.

    :param str target: memcached's address
    """

    def __init__(self, target):
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for who started it; this one ends with its input.
            start_new_session=True,
        )
        self.port = self._answer()

    def do(self, name, *arguments):
        """Have something done, and return the result when it is."""
        self._process.stdin.write(json.dumps([name, *arguments]) + '\n')
        self._process.stdin.flush()
        return self._answer()

    def stop(self):
        """End the process.

        :raises RuntimeError: if it did not do what it was to
        """
        try:
            self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        if self._process.returncode:
            raise RuntimeError('a line to a memcached failed, as it said')

    def _answer(self):
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError('a line to a memcached has ended')
        return json.loads(answer)


def main():
    with Proxy(sys.argv[1]) as proxy:
        print(proxy.port, flush=True)
        for request in sys.stdin:
            name, *arguments = json.loads(request)
            result = getattr(proxy, name)(*arguments)
            print(json.dumps(result), flush=True)


if __name__ == '__main__':
    main()
