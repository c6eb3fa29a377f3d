"""What an awaitable client and its scopes have in common."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import client
from sprockets.clients.memcached.loop import batches, executors, lanes
from sprockets.clients.memcached.once import leases
from sprockets.clients.memcached.servers import cluster, health
from sprockets.clients.memcached.watch import counters, observers

CLOSED = 'the memcached client is closed'

JOIN = 0.1
"""Seconds to wait for idle threads to end."""

Future = asyncio.Future[typing.Any]

Flight = asyncio.Task[leases.Outcome | None]
"""The one computation of a value."""


Looking = tuple[Future, typing.Any, observers.Observer | None]
"""A caller that shares a read with others: its future, what it wants, its
observer."""


class Shared(typing.Protocol):
    """A read that others may join."""

    key: bytes

    def join(self, stale: int, looking: Looking) -> bool:
        """Let another caller share it, unless it has left.

        :param int stale: for how many seconds it serves a stale value
        :return: False if it is too late, or another read than this

        """


class Observed(typing.Protocol):
    """A client, as far as it matters here."""

    _observe: observers.Observe | None


class Engine:
    """What an :class:`AsyncClient` and its scopes have in common."""

    def __init__(
        self,
        prefix: str | None,
        executor: concurrent.futures.Executor | None,
        options: abc.Mapping[str, typing.Any],
    ) -> None:
        # It takes the arguments, and has everything but the awaiting.
        self.blocking = client.Client(prefix, **options)
        shared = self.blocking._shared
        self.settings = shared.settings
        self.cluster = shared.cluster
        self.requests = shared.requests
        self.codec = shared.codec
        self.executor = executor
        self.threads: executors.Threads = (
            executors.OwnThreads()
            if executor is None
            else executors.SharedThreads.of(executor, self.cluster)
        )
        self.flow = shared.flow
        self.tracing = shared.tracing
        self.looks: dict[abc.Hashable, Shared] = {}
        """What callers of the same may join, until it leaves."""
        self.flights: dict[cluster.Route, Flight] = {}
        self.locks: weakref.WeakValueDictionary[
            cluster.Route, asyncio.Lock
        ] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[typing.Any]] = set()
        self.counters: dict[health.Endpoint, counters.Counters] = {}
        self.unserved = counters.Counters()
        """Counts the calls for which no server was up."""
        self.closed = False
        """Whether calls are let in no more."""
        self.released = False
        """Whether those that were let in are over."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.entered: asyncio.AbstractEventLoop | None = None
        """The loop in which there is no need to :meth:`enter`."""
        self.lanes: dict[health.Endpoint, lanes.Lane] = {}
        self.client: weakref.ref[Observed] | None = None
        _engines.add(self)
        self.cluster.changed = weakref.WeakMethod(self._servers_changed)

    def enter(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, and work in it from now on.

        :raises RuntimeError: if there is none, or if the client is closed

        """
        if self.closed:
            raise RuntimeError(CLOSED)
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            # Another loop than the last time: its callers are gone with it.
            for lane in self.lanes.values():
                lane.forsake()
            self.lanes = {}
            self.looks = {}
            self.flights = {}
            self.locks = weakref.WeakValueDictionary()
            self._tasks = set()
            self.loop = loop
            client = None if self.client is None else self.client()
            if client is not None:
                client._observe = self.tracing.observe()
        self.entered = loop
        return loop

    def lane(self, endpoint: health.Endpoint) -> lanes.Lane:
        """Return the way to a server."""
        lane = self.lanes.get(endpoint)
        if lane is None:
            lane = self.lanes[endpoint] = lanes.Lane(
                endpoint,
                self.codec,
                self.cluster.timeout,
                self.threads,
                self.counters.setdefault(endpoint, counters.Counters()),
                self._redirect,
            )
        return lane

    def _servers_changed(self) -> None:
        """Take note, in any thread, that there are other servers."""
        loop = self.loop
        if loop is not None:
            # One that is closed has nothing of ours any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._drop_gone)

    def _drop_gone(self) -> None:
        """Let go of servers that are gone, with their connections."""
        known = {*self.cluster.endpoints, self.cluster.stand_in}
        gone = [e for e in self.lanes if e not in known]
        for endpoint in gone:
            if not self.lanes[endpoint].busy:
                self.lanes.pop(endpoint).end()
                self.counters.pop(endpoint, None)
        if any(endpoint in self.lanes for endpoint in gone):
            # By then every call that is under way is over.
            asyncio.get_running_loop().call_later(
                self.cluster.timeout + 1, self._drop_gone
            )

    def _redirect(
        self,
        waiters: list[batches.Waiter],
        unreachable: health.Endpoint,
        deadline: float,
    ) -> None:
        """Send reads whose server could not be reached to another one.

        :param float deadline: until when they were to be answered

        """
        for waiter in waiters:
            key, future, default, hashed, tried, observer, otherwise = waiter
            endpoint = None
            if self.cluster.goes_on(unreachable):
                # After its read a lookup goes on by itself, and takes more
                # than one call.
                if not tried and otherwise is None:
                    give_up = functools.partial(future.set_result, default)
                    self.limit(future, deadline, give_up)
                tried += (unreachable,)
                endpoint = self.cluster.pick(key, hashed, tried)
            if endpoint is not None and endpoint not in tried:
                self.lane(endpoint).read(
                    (
                        key,
                        future,
                        default,
                        hashed,
                        tried,
                        observer,
                        otherwise,
                    )
                )
                continue
            self.unserved.fail(clock.monotonic())
            batches.fall_back(future, default, otherwise)
            if observer is not None:
                batches.tell(observer.over, health.UnavailableError(), 0, 0)

    def limit(
        self,
        future: Future,
        deadline: float,
        give_up: abc.Callable[[], None],
    ) -> None:
        """Let a call that goes on to another server keep its deadline.

        There it travels with others, which have more time.

        :param float deadline: on :func:`time.monotonic`'s clock
        :param give_up: sets the result of a failure

        """

        def over() -> None:
            if not future.done():
                give_up()

        left = deadline + lanes.GRACE - clock.monotonic()
        timer = future.get_loop().call_later(left, over)
        future.add_done_callback(lambda _: timer.cancel())

    def spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, typing.Any]
    ) -> asyncio.Task[typing.Any]:
        """Let a task work on its own, whoever waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[typing.Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Who waits for it is told, and nobody else need be.
            task.exception()

    async def close(self) -> None:
        """Let no more calls in, and release what there is when it is over."""
        self.closed = True
        self.entered = None
        if self.loop is asyncio.get_running_loop():
            await self._finish()
            for lane in self.lanes.values():
                lane.end()
        self.released = True
        self.lanes = {}
        self.cluster.close()
        threads = []
        for endpoint in self.cluster.endpoints:
            endpoint.disconnect()
            threads += endpoint.workers.stop()
        # They have nothing to do but to end, unless another client's calls
        # are still with them; a thread has no event to wait for.
        until = clock.monotonic() + JOIN
        while (  # noqa: ASYNC110
            any(t.is_alive() for t in threads) and clock.monotonic() < until
        ):
            await asyncio.sleep(0)

    async def _finish(self) -> None:
        """Wait for what is under way.

        What computes gets the time of a call; then it is cancelled, and gives
        back its lease.

        """
        deadline = clock.monotonic() + self.cluster.timeout
        cancelled = False
        while True:
            # A call may go on to another server while one is drained.
            while busy := [x for x in self.lanes.values() if x.busy]:
                await busy[0].drain()
            if not self._tasks:
                return
            await asyncio.wait(
                list(self._tasks),
                timeout=max(deadline - clock.monotonic(), 0),
            )
            if self._tasks and clock.monotonic() >= deadline:
                if cancelled:
                    return
                cancelled = True
                deadline += self.cluster.timeout
                for task in self._tasks:
                    task.cancel()

    def forget_after_fork(self) -> None:
        """Leave the parent's loop and its callers to the parent."""
        self.loop = self.entered = None
        self.lanes = {}
        self.looks = {}
        self._tasks = set()
        if self.executor is not None:
            self.threads = executors.SharedThreads.of(
                self.executor, self.cluster
            )


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_after_fork() -> None:
    executors.SharedThreads.forget_after_fork()
    for engine in list(_engines):
        engine.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
