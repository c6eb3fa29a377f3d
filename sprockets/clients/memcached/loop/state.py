"""What a client has in one event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time as clock
import typing
from collections import abc

from sprockets.clients.memcached import core, settings
from sprockets.clients.memcached.loop import (
    batches,
    futures,
    jobs,
    lanes,
    nearby,
    threads,
)
from sprockets.clients.memcached.servers import endpoints, journey
from sprockets.clients.memcached.watch.counters import Counters, Moment

Future = futures.Future


_computing: contextvars.ContextVar[LoopState | None] = contextvars.ContextVar(
    'memcached_computing', default=None
)
"""Where a task works on its own that runs this, or has asked for it."""


class _Errand:
    """A function to call in a thread, and who waits for it in the loop."""

    def __init__(
        self, function: abc.Callable[[], typing.Any], future: Future
    ) -> None:
        self.job: jobs.Job[_Errand] | None = None
        self.future = future
        self.outcome: abc.Callable[[], typing.Any] | None = None
        self._function = function

    def work(self) -> None:
        """Call the function, in a thread."""
        self.outcome = futures.outcome(self._function)

    def over(self) -> None:
        """Give what came of it to who waits, in the loop."""
        if self.outcome is not None:
            futures.settle(self.future, self.outcome)


class Belongings(typing.Protocol):
    """What belongs to the client, as far as it matters here."""

    core: core.Core
    threads: threads.Threads
    counters: dict[endpoints.Endpoint, Counters]
    unserved: Counters
    former: Moment
    closed: bool
    released: bool


class LoopState:
    """What a client has in one event loop: made anew for another one.

    :param Engine engine: what belongs to the client
    :param computing: what is computed in the loop, which is nothing to this

    """

    def __init__(self, engine: Belongings, computing: typing.Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = engine
        self.cluster = engine.core.cluster
        self.computing = computing
        self.lanes: dict[endpoints.Endpoint, lanes.Lane] = {}
        self._tasks: set[asyncio.Task[typing.Any]] = set()
        self._held: set[Future] = set()
        self._errands = jobs.Crew(engine.threads, engine.threads.make_values)

    def lane(self, endpoint: endpoints.Endpoint) -> lanes.Lane:
        """Return the way to a server."""
        lane = self.lanes.get(endpoint)
        if lane is None:
            near = endpoint.address.family in settings.IN_PROCESS
            lane = self.lanes[endpoint] = (nearby if near else lanes).Lane(
                endpoint,
                self.engine.core.codec,
                self.cluster.timeout,
                self.engine.threads,
                self.engine.counters.setdefault(endpoint, Counters()),
                self._redirect,
                self.engine.core.encoding.get,
            )
        return lane

    def drop_gone(self) -> None:
        """Let go of servers that are gone, with their connections."""
        known = {*self.cluster.endpoints, self.cluster.stand_in}
        gone = [e for e in self.lanes if e not in known]
        for endpoint in gone:
            if not self.lanes[endpoint].busy:
                self.lanes.pop(endpoint).end()
                did = self.engine.counters.pop(endpoint, None)
                if did is not None:
                    self.engine.former = self.engine.former.plus(did.total())
        if any(endpoint in self.lanes for endpoint in gone):
            # By then every call that is under way is over.
            self.loop.call_later(self.cluster.timeout + 1, self.drop_gone)

    def failed_at(
        self,
        endpoint: endpoints.Endpoint | None,
        calls: int = 1,
        steps: int = 0,
    ) -> None:
        """Count calls that go nowhere any more.

        :param Endpoint endpoint: where they were last, None if nowhere
        :param int steps: how many of them are no calls, but steps of one

        """
        self.counters_of(endpoint).fail(clock.monotonic(), calls, steps)

    def counters_of(self, endpoint: endpoints.Endpoint | None) -> Counters:
        """Return what counts for a server, or for those that have none."""
        unserved = self.engine.unserved
        if endpoint is None:
            return unserved
        return self.engine.counters.get(endpoint, unserved)

    def _redirect(
        self,
        waiters: list[batches.Waiter],
        unreachable: endpoints.Endpoint,
        deadline: float,
    ) -> None:
        """Send reads whose server could not be reached to another one.

        :param float deadline: until when they were to be answered

        """
        for waiter in waiters:
            key, future, default, otherwise, extras = waiter
            hashed, way, observer = extras or (None, None, None)
            endpoint = None
            # For one who was cancelled it goes nowhere.
            if not future.done():
                if way is None:
                    way = journey.Journey(self.cluster)
                    # After its read a lookup goes on by itself, and takes
                    # more than one call.
                    if otherwise is None and self.cluster.goes_on(unreachable):
                        give_up = functools.partial(future.set_result, default)
                        self.limit(future, deadline, give_up)
                if way.turn_back(unreachable):
                    endpoint = way.to(key, hashed)
            if endpoint is not None:
                extras = batches.Extras(hashed, way, observer)
                self.lane(endpoint).read(
                    (key, future, default, otherwise, extras)
                )
                continue
            self.failed_at(unreachable)
            batches.fall_back(future, default, otherwise)
            if observer is not None:
                error = endpoints.UnavailableError()
                batches.tell(observer.over, error, 0, 0, unreachable)

    def limit(
        self,
        future: futures.Receiver,
        deadline: float,
        give_up: abc.Callable[[], None],
    ) -> None:
        """Let a call that goes on to another server keep its deadline.

        There it travels with others, which have more time.

        :param float deadline: on :func:`time.monotonic`'s clock
        :param give_up: sets the result of a failure

        """
        self.within(
            future, deadline + lanes.GRACE - clock.monotonic(), give_up
        )

    def within(
        self,
        future: futures.Receiver,
        seconds: float,
        give_up: abc.Callable[[], None],
    ) -> None:
        """Let a call that has less time than others end on its own.

        :param float seconds: from now on
        :param give_up: sets the result of a failure

        """

        def over() -> None:
            if not future.done():
                give_up()

        timer = self.loop.call_later(seconds, over)
        future.add_done_callback(lambda _: timer.cancel())

    def in_thread(
        self, function: abc.Callable[[], typing.Any], seconds: float
    ) -> Future:
        """Call a function in a thread, and return the future of its result.

        It ends with :exc:`.NoThreadError` if there is none for it, and with
        :exc:`TimeoutError` after so many seconds.

        """
        future = self.loop.create_future()
        self.hold(future)
        errand = _Errand(function, future)
        timer = self.loop.call_later(
            seconds, futures.fail, future, TimeoutError('timed out')
        )

        def end(_: Future) -> None:
            timer.cancel()
            if errand.job is not None:
                errand.job.take_back()
            self.leave()

        future.add_done_callback(end)
        job = jobs.Job(
            self, self._errands, errand, errand.work, self._errand_over
        )
        self._errands.put(self, job)
        return future

    def _errand_over(self, errand: _Errand) -> None:
        errand.over()
        self.leave()

    def leave(self) -> None:
        """Have threads do what waits for one; see :class:`.Waiter`."""
        self._errands.start(self)
        if not self._errands.waiting:
            self.engine.threads.withdraw(self)

    def refused(self, errand: _Errand, error: BaseException) -> None:
        """Take note that no thread does what somebody waits for."""
        futures.fail(errand.future, threads.NoThreadError(str(error)))

    def hold(self, future: Future) -> None:
        """Let the end of the client wait for a future that ends in time."""
        self._held.add(future)
        future.add_done_callback(self._held.discard)

    def spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, typing.Any]
    ) -> asyncio.Task[typing.Any]:
        """Let a task work on its own, whoever waits for it."""
        token = _computing.set(self)
        try:
            task = asyncio.ensure_future(work)
        finally:
            _computing.reset(token)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def is_computing(self) -> bool:
        """Whether a task that works on its own runs this, or asked for it."""
        return bool(self._tasks) and _computing.get() is self

    def _over(self, task: asyncio.Task[typing.Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Who waits for it is told, and nobody else need be.
            task.exception()

    async def finish(self) -> None:
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
            if not self._tasks and not self._held:
                return
            await asyncio.wait(
                [*self._tasks, *self._held],
                timeout=max(deadline - clock.monotonic(), 0),
            )
            if clock.monotonic() >= deadline:
                if cancelled:
                    return
                cancelled = True
                deadline += self.cluster.timeout
                for task in self._tasks:
                    task.cancel()

    def end(self) -> None:
        """Leave nothing behind in the loop."""
        for lane in self.lanes.values():
            lane.end()
        self.lanes = {}

    def forsake(self) -> None:
        """Let go of what was under way, for its callers are gone."""
        for lane in self.lanes.values():
            lane.forsake()
