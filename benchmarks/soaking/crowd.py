"""All callers, of clients of each kind, and how they are told what to do."""

import asyncio
import concurrent.futures
import functools
import gc
import math
import random
import threading
import time

from benchmarks.soaking import (
    callers,
    footprint,
    guest,
    host,
    internals,
    promises,
)
from sprockets.clients import memcached

CALLERS = 200
"""Of the awaitable clients, all together."""

THREADS = 4
"""Of the blocking clients, all together; a caller each."""

CONNECTIONS = 4
"""Most connections to one server while nothing goes on: those that the event
loop keeps, and those of the threads together."""

OPEN = 2 * CONNECTIONS
"""So many of both."""

PATIENCE = 30
"""Seconds to wait for callers that are to pause, or to go home."""


class Crowd:
    """The clients and their callers.

    Half of the clients keep each key on its server (FAILOVER=false), and two
    of the awaitable ones have an executor.

    :param list sites: the servers
    :param Ledger ledger: is told everything
    :param int seed: decides what is called
    """

    def __init__(self, sites, ledger, seed):
        self._sites = sites
        self._ledger = ledger
        self._seed = seed
        self._gate = callers.Gate()
        # One is left to others, and each of two clients has its share.
        self._executor_threads = 2 * len(sites) + 1
        self._executor = concurrent.futures.ThreadPoolExecutor(
            self._executor_threads
        )
        options = {
            'servers': ','.join(each.address for each in sites),
            'socket_timeout': callers.TIMEOUT,
            'dead_retry': callers.DEAD_RETRY,
            'max_connections': CONNECTIONS,
        }
        self._awaitable = [
            memcached.AsyncClient(
                executor=executor, failover=failover, **options
            )
            for executor in (None, self._executor)
            for failover in (False, True)
        ]
        self._blocking = [
            memcached.Client(failover=failover, **options)
            for failover in (False, True)
        ]
        self._callers = []
        self._tasks = []
        self._threads = []

    @property
    def calls(self):
        """How many calls there were.

        :rtype: int
        """
        return sum(self._ledger.calls.values())

    def begin(self):
        """Let the callers come, in the running loop and in threads."""
        self._start_threads()
        for number in range(CALLERS):
            caller = self._caller(f'caller:{number}', self._awaitable, number)
            self._tasks.append(asyncio.create_task(caller.run(self._gate)))
        for number in range(THREADS):
            caller = self._caller(f'thread:{number}', self._blocking, number)
            thread = threading.Thread(
                target=asyncio.run,
                args=[caller.run(self._gate)],
                name=f'caller {number}',
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)

    def _start_threads(self):
        """Let all the threads come that the clients may come to want."""
        over = threading.Event()
        internals.start_threads(self._awaitable, CONNECTIONS, over.wait)
        for _ in range(self._executor_threads):
            self._executor.submit(over.wait)
        over.set()

    def _caller(self, name, clients, number):
        place = number % len(clients)
        caller = callers.Caller(
            name,
            clients[place],
            clients is self._awaitable,
            place % 2 == 0,
            self._sites,
            self._ledger,
            random.Random(f'{self._seed} {name}'),
        )
        self._callers.append(caller)
        return caller

    async def pause(self):
        """Wait until nothing is under way."""
        self._gate.is_open = False
        await _until(lambda: all(each.waits for each in self._callers))
        self._report_hanging()

    async def footprint(self):
        """Return what there is while nothing is under way.

        :rtype: Footprint
        """
        # What was given up may still be with a thread.
        await _until(lambda: max(self._connections()) <= OPEN)
        return footprint.take(self._sites)

    def go_on(self):
        """Let the callers call again, after a pause."""
        self._gate.is_open = True

    async def find_all(self):
        """Report each server that one of the clients does not find again."""
        for each in self._sites:
            for client in self._awaitable + self._blocking:
                await self._find(each, client)

    async def fill_all(self):
        """Report each server that a client has not all connections to."""
        # Those that have an executor may have fewer.
        for client in self._awaitable[:2]:
            for each in self._sites:
                await host.fill(
                    each,
                    self._ledger,
                    f'{client}',
                    functools.partial(guest.fill, client, each.number),
                )

    async def _find(self, where, client):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            stored = client.set((where.number, f'found:{where.number}'), 'it')
            if client in self._awaitable:
                stored = await stored
            if stored:
                return
            await asyncio.sleep(callers.DEAD_RETRY)
        self._ledger.report(promises.AWAY, f'{where} by {client}')

    async def end(self):
        """Send all home, close, and return what is there without them.

        :rtype: Footprint
        """
        self._gate.is_over = True
        await _until(
            lambda: (
                all(task.done() for task in self._tasks)
                and not any(thread.is_alive() for thread in self._threads)
            )
        )
        self._report_hanging()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._awaitable:
            await client.close()
        for client in self._blocking:
            client.disconnect_all()
        self._executor.shutdown()
        await _until(lambda: max(self._connections()) == 0)
        kept = internals.kept(self._awaitable)
        # What they and the ledger know takes up as much as leaks might.
        for each in (
            *(self._callers, self._tasks, self._threads),
            *(self._awaitable, self._blocking),
        ):
            each.clear()
        self._ledger.forget_all()
        # asyncio keeps a timer that was cancelled until it would be due, and
        # with it what it was set for.
        await _until(lambda: gc.collect() >= 0 and not internals.left(kept))
        if internals.left(kept):
            self._ledger.report(promises.GROWTH, 'clients that are closed')
        return footprint.take(self._sites)

    def limits(self, before, middle):
        """Return what there may be where nothing grows.

        Threads and connections come when they are wanted, up to a number.
        What is in use takes some minutes to settle: the counts of the last
        minutes have to fill up, and what callers know.  From then on it stays.
        What is free in between, and cannot be given back, is another matter:
        it is shown, and has no bound.

        :param Footprint before: what there is after some time
        :param Footprint middle: what there is after half of all
        :rtype: Footprint
        """
        workers = len(self._sites) * CONNECTIONS
        # Of two clients each has some for values, which come when wanted.
        coming = workers + self._executor_threads + 2 * internals.VALUES
        missing = len(self._sites) * OPEN - sum(before.connections)
        there = sum(
            thread.name.startswith(('memcached ', 'ThreadPoolExecutor'))
            for thread in threading.enumerate()
        )
        return footprint.Footprint(
            math.inf,
            middle.blocks + footprint.MAY_GROW // footprint.BLOCK,
            middle.allocated + footprint.MAY_GROW,
            before.threads + coming - there,
            before.files + missing,
            [OPEN] * len(self._sites),
            [OPEN] * len(self._sites),
        )

    def _connections(self):
        for each in self._sites:
            yield each.line.do('count')
            yield each.connections()

    def _report_hanging(self):
        for caller in self._callers:
            if caller.current is not None:
                self._ledger.never_over(*caller.current)


async def _until(is_so):
    """Wait until something is so, but not for ever."""
    end = time.monotonic() + PATIENCE
    # What it waits for is partly in threads and in other processes.
    while not is_so() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
