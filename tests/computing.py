"""Processes that want the same value, and how often it is computed.

Run as a program, it is one of them: it takes a description in JSON, says
``ready``, and begins when it is told to.

"""

import asyncio
import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import time

from sprockets.clients import memcached

SECONDS = 60
"""Within this time a process has done its work."""


class Process:
    """A process with callers of ``get_or_set`` or ``update``.

    :param str address: the server's
    :param str kind: ``Client`` or ``AsyncClient``
    :param int callers: threads, or tasks
    :param dict options: arguments of the method
    :param float seconds: how long a computation takes; None for ever
    :param str method: ``get_or_set`` or ``update``

    """

    def __init__(
        self,
        address,
        kind,
        callers=1,
        options=None,
        seconds=0.05,
        method='get_or_set',
    ):
        task = {
            'address': address,
            'kind': kind,
            'callers': callers,
            'options': options or {},
            'seconds': seconds,
            'method': method,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def expect(self, line):
        """Wait until it says something."""
        assert self.process.stdout.readline().strip() == line

    def begin(self):
        self.process.stdin.write('begin\n')
        self.process.stdin.flush()

    def results(self):
        """Return what its callers got."""
        line = self.process.stdout.readline()
        while line.strip() in ('ready', 'computing'):
            line = self.process.stdout.readline()
        assert self.process.wait(SECONDS) == 0
        return json.loads(line)


def say(text):
    sys.stdout.write(f'{text}\n')
    sys.stdout.flush()


class Work:
    """What the callers of one process do."""

    def __init__(self, task):
        self.task = task
        self.counter = memcached.Client(servers=task['address'])

    def note(self):
        self.counter.add('computations', 0)
        self.counter.incr('computations')
        say('computing')

    def compute(self):
        self.note()
        if self.task['seconds'] is None:
            threading.Event().wait()
        time.sleep(self.task['seconds'])
        return f'computed by {os.getpid()}'

    async def compute_awaited(self):
        self.note()
        await asyncio.sleep(self.task['seconds'] or SECONDS)
        return f'computed by {os.getpid()}'

    def call(self, client):
        if self.task['method'] == 'update':
            return client.update('number', add_one, **self.task['options'])
        compute = self.compute
        if self.task['kind'] == 'AsyncClient':
            compute = self.compute_awaited
        return client.get_or_set('key', compute, **self.task['options'])

    def run(self):
        client = memcached.Client(servers=self.task['address'])
        with concurrent.futures.ThreadPoolExecutor(
            self.task['callers']
        ) as executor:
            calls = [
                executor.submit(self.call, client)
                for _ in range(self.task['callers'])
            ]
            return [call.result(SECONDS) for call in calls]

    async def run_awaited(self):
        client = memcached.AsyncClient(servers=self.task['address'])
        try:
            return await asyncio.gather(
                *[self.call(client) for _ in range(self.task['callers'])]
            )
        finally:
            await client.close()


def add_one(number):
    return (number or 0) + 1


def main():
    work = Work(json.loads(sys.argv[1]))
    say('ready')
    sys.stdin.readline()
    if work.task['kind'] == 'Client':
        results = work.run()
    else:
        results = asyncio.run(work.run_awaited())
    say(json.dumps(results))


if __name__ == '__main__':
    main()
