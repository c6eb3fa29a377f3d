"""Awaited calls under way, and what a client and its scopes share."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import os
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import (
    batches,
    client,
    cluster,
    counters,
    executors,
    health,
    lanes,
    leases,
    lookups,
    observers,
    protocol,
    values,
)

LOGGER = logging.getLogger(__name__)

JOIN = 0.1
"""Seconds to wait for idle threads to end."""

Future = asyncio.Future[typing.Any]

Observe = observers.Observe


class Observed(typing.Protocol):
    """A client, as far as it matters here."""

    _observe: Observe | None


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
        self.flights: dict[cluster.Route, lookups.Flight] = {}
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
            raise RuntimeError(lookups.CLOSED)
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            # Another loop than the last time: its callers are gone with it.
            for lane in self.lanes.values():
                lane.forsake()
            self.lanes = {}
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

    async def follow(
        self,
        steps: leases.Steps[typing.Any],
        function: abc.Callable[..., typing.Any] | None = None,
        observe: Observe | None = None,
        method: str = '',
    ) -> typing.Any:
        """Do one step after another, and return what came of it.

        :param observe: is told about each command, by the method's name

        """
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, leases.Ask):
                        if self.released:
                            raise RuntimeError(lookups.CLOSED)
                        observer = None
                        if observe is not None:
                            observer = observe(method, (step.route.key,))
                        result: typing.Any = await Call(
                            self, *step, endpoint_of, observer
                        ).start(asyncio.get_running_loop())
                    elif isinstance(step, leases.Pause):
                        result = None
                        await asyncio.sleep(step.seconds)
                    else:
                        assert function is not None
                        result = function(*step.arguments)
                        if inspect.isawaitable(result):
                            result = await result
                # It is for the steps to clean up, or to let it pass.
                except BaseException as error:  # noqa: BLE001
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value

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


class Call:
    """One command of one caller, on its way to the server of its key."""

    __slots__ = (
        '_deadline',
        '_endpoint',
        '_engine',
        '_finish',
        '_future',
        '_observer',
        '_only',
        '_route',
        '_tried',
        'calls',
        'command',
        'size',
    )

    def __init__(
        self,
        engine: Engine,
        command: protocol.Command,
        route: cluster.Route,
        only: health.Endpoint | None,
        finish: abc.Callable[[Call], typing.Any] | None,
        observer: observers.Observer | None,
    ) -> None:
        self._engine = engine
        self._route = route
        self._only = only
        self._finish = finish
        self._observer = observer
        self._tried: list[health.Endpoint] = []
        self._endpoint: health.Endpoint | None = None
        self.command = command
        self.calls = 1
        self.size = len(command.request)
        self._future: Future

    @property
    def commands(self) -> abc.Sequence[protocol.Command]:
        return (self.command,)

    def start(self, loop: asyncio.AbstractEventLoop) -> Future:
        """Set out, and return the future for what the caller gets."""
        self._future = loop.create_future()
        self._deadline = clock.monotonic() + self._engine.cluster.timeout
        self._send()
        return self._future

    @property
    def route(self) -> cluster.Route:
        """Where the key is."""
        return self._route

    @property
    def endpoint(self) -> health.Endpoint | None:
        """The server that it was sent to, None if there is none."""
        return self._endpoint

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits for it."""
        return not self._future.done()

    def _send(self) -> None:
        engine = self._engine
        command = self.command
        endpoint = engine.cluster.pick(*self._route, self._tried)
        if (
            endpoint is None
            or endpoint in self._tried
            or (self._only is not None and endpoint is not self._only)
        ):
            command.error = command.error or health.UnavailableError()
            engine.unserved.fail(clock.monotonic())
            # Not at once: who only ever awaits this must let the loop turn.
            self._future.get_loop().call_soon(self._end)
            return
        if self._tried:
            command.start_over()
        self._endpoint = endpoint
        self._tried.append(endpoint)
        engine.lane(endpoint).add(self, command.only_reads)

    def back(self, sent: bool) -> None:
        """Come back from a server that it was sent to, or was not."""
        if sent:
            self._end()
        elif self._engine.cluster.goes_on(self._tried[-1]):
            if len(self._tried) == 1:
                self._engine.limit(self._future, self._deadline, self._give_up)
            self._endpoint = None
            self._send()
        else:
            # Nobody has tried if it went down while the call waited.
            error = health.UnavailableError(f'{self._endpoint} is down')
            self.command.error = self.command.error or error
            self._end()

    def _give_up(self) -> None:
        command = self.command
        command.error = command.error or TimeoutError('timed out')
        finish, self._finish = self._finish, None
        self._future.set_result(
            command.result if finish is None else finish(self)
        )

    def _end(self) -> None:
        command = self.command
        result = command.result
        finish = self._finish
        if finish is not None:
            # It may have this call, and both would wait for the collector.
            self._finish = None
            result = finish(self)
        # The caller may have been cancelled.
        if not self._future.done():
            self._future.set_result(result)
        if self._observer is not None:
            found = getattr(command, 'found', None)
            hits = int(bool(found))
            misses = int(command.answered and not found)
            batches.tell(
                self._observer.over,
                command.error,
                hits if found is not None else 0,
                misses if found is not None else 0,
                self._endpoint,
            )


Wanting = tuple[Future, lookups.Wanted, observers.Observer | None]
"""A caller of ``get_or_set``: its future, what it wants, its observer."""


class Look:
    """A look for a value that may be stale, for all who want it just then.

    Who computes it anew is told by the server, and is one of them.

    """

    __slots__ = ('_call', '_command', '_engine', '_wanting')

    def __init__(
        self, engine: Engine, key: bytes, hashed: int | None, stale: int
    ) -> None:
        self._engine = engine
        self._command = protocol.MetaGet(key, recache=stale)
        route = cluster.Route(key, hashed)
        self._call = Call(
            engine, self._command, route, None, self._finish, None
        )
        self._wanting: list[Wanting] = []

    def join(self, wanting: Wanting) -> None:
        """Let a caller wait for it."""
        self._wanting.append(wanting)
        self._call.calls = len(self._wanting)

    def start(self, what: abc.Hashable) -> None:
        """Set out, and let others join until the batch leaves."""
        self._call.start(self._engine.enter())
        endpoint = self._call.endpoint
        if endpoint is not None:
            self._engine.lane(endpoint).share(what, self)

    def _finish(self, call: Call) -> None:
        command = self._command
        flow = self._engine.flow
        endpoint = flow.asked(command, call.endpoint)
        item = command.item
        value: typing.Any = leases.MISS
        stale = None
        if endpoint is not leases.NO_META:
            value, stale = flow.seen(command, endpoint)
        used = False
        for future, wanted, observer in self._wanting:
            if observer is not None:
                batches.tell(
                    observer.over,
                    command.error,
                    int(item is not None),
                    int(command.answered and item is None),
                    call.endpoint,
                )
            if future.done():
                # The caller was cancelled, or has timed out.
                continue
            if endpoint is leases.NO_META:
                lookups.look(wanted, future)
            elif value is leases.MISS or item is None:
                lookups.compute(wanted, future)
            else:
                # What can be changed is not shared by its readers.
                if used and item[0] not in values.SHAREABLE:
                    value, _ = flow.seen(command, endpoint)
                used = True
                future.set_result(value)
        if stale is not None:
            future, wanted, _ = self._wanting[0]
            lookups.recompute(stale, wanted, future)


def look(
    engine: Engine, what: tuple[bytes, int | None, int], wanting: Wanting
) -> None:
    """Look for a value that may be stale, with whoever does so just then.

    :param what: the key, the hash given with it, and for how many seconds a
        value is served after its time

    """
    if engine.flow.lacks_meta():
        future, wanted, _ = wanting
        lookups.look(wanted, future)
        return
    key, hashed, _ = what
    endpoint = engine.cluster.pick(key, hashed)
    lane = None if endpoint is None else engine.lanes.get(endpoint)
    shared: Look | None = None if lane is None else lane.find(what)
    if shared is not None:
        shared.join(wanting)
        return
    shared = Look(engine, *what)
    shared.join(wanting)
    shared.start(what)


def endpoint_of(call: Call) -> health.Endpoint | None:
    return call.endpoint


class Spread:
    """The commands of one call for several servers."""

    def __init__(
        self,
        engine: Engine,
        rounds: cluster.Rounds,
        future: Future,
        over: abc.Callable[[], None],
    ) -> None:
        self._engine = engine
        self._future = future
        self._deadline = clock.monotonic() + engine.cluster.timeout
        self._rounds = rounds
        self._over = over
        self._left = 0
        self._first = True
        self._ended = False
        self._reached: list[health.Endpoint] = []

    def start(self) -> None:
        """Set out for the first servers."""
        self._step(None)

    def _step(self, reached: abc.Collection[health.Endpoint] | None) -> None:
        try:
            if reached is None:
                groups = next(self._rounds)
            else:
                groups = self._rounds.send(reached)
            # With no server up there is nothing to wait for.
            while not groups:
                groups = self._rounds.send(())
        except StopIteration:
            # Not at once, as in Call.
            self._future.get_loop().call_soon(self._end)
            return
        self._reached = []
        chunks = [
            (endpoint, chunk)
            for endpoint, commands in groups.items()
            for chunk in batches.split(commands)
        ]
        self._left = len(chunks)
        for endpoint, chunk in chunks:
            self._engine.lane(endpoint).add(
                batches.Chunk(chunk, functools.partial(self._back, endpoint)),
                isinstance(chunk[0], protocol.Get),
            )

    def _back(self, endpoint: health.Endpoint, sent: bool) -> None:
        if sent:
            self._reached.append(endpoint)
        self._left -= 1
        if self._left == 0 and not self._ended:
            if self._first:
                self._first = False
                self._engine.limit(self._future, self._deadline, self._end)
            self._step(self._reached)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over()
