"""What is computed, and looked up, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import (
    batches,
    calls,
    engines,
    futures,
    state,
    threads,
)
from sprockets.clients.memcached.once import leases, nesting, steps
from sprockets.clients.memcached.requests import errors
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Asker = tuple[
    asyncio.Future[typing.Any], typing.Any, observers.Observer | None
]
"""A caller that shares a read with others: its future, what it wants, its
observer."""


class SharedRead(typing.Protocol):
    """A read of a value that may be stale, which others may join."""

    key: bytes

    def join(self, stale: int, asker: Asker) -> bool:
        """Let another caller share it, unless it has left.

        :param int stale: for how many seconds it serves a stale value
        :return: False if it is too late, or another read than this

        """


Result = leases.Outcome | steps.Failure | None
"""What comes of a computation: a failure is one that ends its caller."""

Task = asyncio.Task[Result]

T = typing.TypeVar('T')


class Computing:
    """What a client computes in one loop: made anew for another one.

    :param Flow flow: the steps of the client's calls

    """

    def __init__(self, flow: leases.Flow) -> None:
        self.flow = flow
        self.reads: dict[abc.Hashable, SharedRead] = {}
        """What callers of the same may join, until it leaves."""
        self.under_way: dict[cluster.Route, Task] = {}
        """The one computation of each value."""
        self.turns: dict[tuple[bytes, ...], typing.Any] = {}
        """The reads of groups that others may join, in this turn."""
        self._locks: weakref.WeakValueDictionary[
            cluster.Route, asyncio.Lock
        ] = weakref.WeakValueDictionary()

    def begin(self, route: cluster.Route, task: Task) -> None:
        """Let others wait for a computation, until it is over."""
        self.under_way[route] = task
        task.add_done_callback(lambda task: self.forget(route, task))

    def forget(self, route: cluster.Route, task: Task | None = None) -> None:
        """Let callers from now on begin another computation.

        :param task: the one to forget, if it is not just any

        """
        if task in (None, self.under_way.get(route)):
            self.under_way.pop(route, None)

    @contextlib.asynccontextmanager
    async def locked(self, route: cluster.Route) -> abc.AsyncIterator[None]:
        """Let one task at a time do something to a key.

        Who does it for somebody who does so already, or whom that one waits
        for, goes ahead after a while where it may be in vain to wait.

        :raises RuntimeError: for the same task once more, and for one that
            would wait for itself

        """
        work = self, 'lock', route
        asked_by = nesting.runner()
        nesting.check(work, asked_by)
        loop = asyncio.get_running_loop()
        lock = self._locks.setdefault(route, asyncio.Lock())
        held = True
        with nesting.waiting(work, asked_by) as wait:
            if wait.is_doubtful:
                try:
                    await asyncio.wait_for(lock.acquire(), nesting.PATIENCE)
                except TimeoutError:
                    held = False
            else:
                await lock.acquire()
        try:
            with nesting.part_of(work, asked_by):
                yield
        finally:
            # Where a loop was closed in the middle nobody waits for it.
            if held and not loop.is_closed():
                lock.release()


class Whole:
    """A call of several steps, which counts as one.

    :param LoopState here: what the client has in the loop
    :param Observer observer: is told about it, once
    :param observe: begins to observe it with its first command, if nobody
        does so yet
    :param str method: by this name
    :param bool at_first: whether all there is to tell is known when the first
        of its commands is over, and what comes then takes time of its own
    :param bool strict: whether to raise what goes wrong with the last of its
        commands, which does what the others are for

    """

    def __init__(
        self,
        here: state.LoopState,
        observer: observers.Observer | None = None,
        *,
        observe: observers.Observe | None = None,
        method: str = '',
        at_first: bool = False,
        strict: bool = False,
    ) -> None:
        self._here = here
        self._observer = observer
        self._observe = observe
        self._method = method
        self._at_first = at_first
        self._strict = strict
        self._is_over = False
        self._error: BaseException | None = None
        self._last: protocol.Command | None = None
        self._endpoint: endpoints.Endpoint | None = None

    def begin(self, key: bytes) -> None:
        """Take note that a command is sent."""
        observe, self._observe = self._observe, None
        if observe is not None:
            self._observer = observe(self._method, (key,))

    def took(self, call: calls.Call) -> endpoints.Endpoint | None:
        """Take note of a command, and return the server it went to."""
        self._last = call.command
        self._error = call.command.error
        self._endpoint = call.endpoint
        if self._at_first:
            self.over()
        return call.endpoint

    def over(
        self,
        error: BaseException | None = None,
        hits: int = 0,
        misses: int = 0,
    ) -> None:
        """Count the call, and tell of it, once.

        It has failed if the last of its commands has, for that is the one
        that does what the others are for; but not if there is a value.

        """
        if self._is_over:
            return
        self._is_over = True
        if not hits:
            error = error or self._error
        if error is not None:
            misses = 0
        self._here.counters_of(self._endpoint).count(
            clock.monotonic(), error is not None, hits, misses
        )
        if self._observer is not None:
            batches.tell(
                self._observer.over, error, hits, misses, self._endpoint
            )

    async def follow(
        self,
        work: steps.Steps[T | steps.Failure],
        function: steps.Function | None = None,
    ) -> T:
        """Do one step after another, and return what came of it."""
        try:
            result = await steps.follow_awaited(
                work, Runner(self._here, self), function
            )
            if self._strict and self._last is not None:
                error = errors.about(self._method, self._last)
                if error is not None:
                    raise error
            return result
        except leases.UpdateError as error:
            self.over(error)
            raise
        finally:
            self.over()


class Runner:
    """Runs commands, and makes values, for what takes several steps.

    :param LoopState here: what the client has in the loop
    :param Whole whole: the call that the steps are of, if it is not one that
        is counted already

    """

    def __init__(
        self, here: state.LoopState, whole: Whole | None = None
    ) -> None:
        self._here = here
        self._whole = whole
        self._took = calls.endpoint_of if whole is None else whole.took

    def ask(self, step: steps.Ask) -> futures.Future:
        """Run a command, and return a future for the server it went to."""
        if self._here.engine.released:
            raise RuntimeError(engines.CLOSED)
        if self._whole is not None:
            self._whole.begin(step.route.key)
        call = calls.Step(self._here, *step, self._took, None)
        return call.start()

    def ask_many(self, step: steps.AskMany) -> futures.Future:
        """Run what is described, of many keys."""
        if self._here.engine.released:
            raise RuntimeError(engines.CLOSED)
        return calls.many(self._here, step.request, None, is_step=True)

    def spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, T]
    ) -> asyncio.Task[T]:
        """Let a task work on its own, whoever waits for it."""
        return self._here.spawn(work)

    async def make(self, step: steps.Make) -> typing.Any:
        """Return a value; MISS if it cannot be made in the time of a call."""
        if step.weight <= values.HEAVY:
            return step.function()
        try:
            return await self._here.in_thread(
                step.function, self._here.cluster.timeout
            )
        except (threads.NoThreadError, TimeoutError):
            return values.MISS


def give(
    here: state.LoopState,
    future: futures.Future,
    outcome: leases.Outcome,
    patience: float,
) -> None:
    """Give a caller a value, which is nobody else's if it can be changed.

    :param float patience: seconds to wait for it to be made once more; then
        the caller gets :exc:`TimeoutError`, or what was computed just now

    """
    if outcome.weight <= values.HEAVY:
        futures.settle(future, outcome.take)
        return
    if outcome.computed:
        # There is something else to give.
        patience = min(patience, here.cluster.timeout)
    made = here.in_thread(outcome.take, patience)

    def end(made: futures.Future) -> None:
        error = made.exception()
        if isinstance(error, threads.NoThreadError):
            # To hold the loop up is better than to have nothing.
            futures.settle(future, outcome.take)
        elif isinstance(error, TimeoutError) and outcome.computed:
            futures.settle(future, lambda: outcome.value)
        else:
            futures.settle(future, made.result)

    made.add_done_callback(end)
