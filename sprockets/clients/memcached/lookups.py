"""get_or_set awaited: a read, and where it was a miss the way to a value."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import typing
from collections import abc

from sprockets.clients.memcached import (
    batches,
    calls,
    cluster,
    engines,
    flights,
    leases,
    observers,
    protocol,
    values,
)

LOGGER = logging.getLogger(__name__)

Future = asyncio.Future[typing.Any]

Wanted = tuple[
    engines.Engine,
    contextvars.Context,
    abc.Callable[[], typing.Any],
    bytes,
    int | None,
    int,
    leases.Terms,
    typing.Any,
    bool,
    int,
]
"""What a caller of ``get_or_set`` wants: the client's engine, the context in
which to compute, what computes the value, and what :func:`.leases.plan` takes:
key, hash, exptime, terms, default, cache_none, min_compress_len."""


class Lookup:
    """A ``get_or_set`` that found no value, or looks for one that is stale.

    :param Future future: what the caller awaits

    """

    __slots__ = ('_context', '_engine', '_factory', 'future', 'plan')

    def __init__(self, wanted: Wanted, future: Future) -> None:
        # The answer does not come in the caller's context.
        engine, context, factory, key, hashed, *how = wanted
        self._engine = engine
        self._context = context
        self._factory = factory
        self.future = future
        self.plan = leases.plan(cluster.Route(key, hashed), *how)

    def compute(self) -> None:
        """Get a value that was not there."""
        self._spawn(self._settle(self._get()))

    def look(self) -> None:
        """Look for a value that may be stale, step by step."""
        self._spawn(self._settle(self._get_stale()))

    def recompute(self, stale: leases.Stale) -> None:
        """Compute a value anew, while the old one is served."""
        self._spawn(self._recompute(stale))

    def _spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, None]
    ) -> None:
        self._context.run(self._engine.spawn, work)

    async def _settle(
        self, work: abc.Coroutine[typing.Any, typing.Any, typing.Any]
    ) -> None:
        """Give the caller what comes of some work."""
        try:
            value = await work
        except asyncio.CancelledError:
            if not self.future.done():
                if self._engine.closed:
                    self.future.set_exception(RuntimeError(engines.CLOSED))
                else:
                    self.future.cancel()
            raise
        except Exception as error:
            if self.future.done():
                LOGGER.exception('The factory failed, and nobody waits')
            else:
                self.future.set_exception(error)
        else:
            if not self.future.done():
                self.future.set_result(value)

    async def _get_stale(self) -> typing.Any:
        engine = self._engine
        value, stale = await calls.follow(engine, engine.flow.look(self.plan))
        if stale is not None:
            engine.spawn(self._recompute(stale))
        return value if value is not leases.MISS else await self._get()

    async def _recompute(self, stale: leases.Stale) -> None:
        steps = self._engine.flow.recompute(self.plan, stale)
        try:
            await calls.follow(self._engine, steps, self._factory)
        except Exception:
            LOGGER.exception('A stale value could not be computed anew')

    async def _get(self) -> typing.Any:
        """Return a value that was not there.

        :raises Exception: what the factory raises

        """
        engine, plan = self._engine, self.plan
        with flights.within((engine, plan.route)):
            while True:
                flight = engine.flights.get(plan.route)
                own = flight is None
                if flight is None:
                    flight = engine.spawn(
                        calls.follow(
                            engine,
                            engine.flow.compute_once(plan),
                            self._factory,
                        )
                    )
                    engine.flights[plan.route] = flight
                elif plan.default is not leases.MISS:
                    return plan.default
                await asyncio.wait(
                    (flight,), timeout=None if own else plan.patience
                )
                if engine.flights.get(plan.route) is flight:
                    del engine.flights[plan.route]
                if not flight.done():
                    continue
                if flight.cancelled():
                    if own:
                        raise asyncio.CancelledError
                    continue
                outcome = flight.result()
                if outcome is not None:
                    return outcome.take()
                if plan.default is not leases.MISS:
                    return plan.default


def compute(wanted: Wanted, future: Future) -> None:
    """Get a value that was not there."""
    Lookup(wanted, future).compute()


Wanting = tuple[Future, Wanted, observers.Observer | None]
"""A caller of ``get_or_set``: its future, what it wants, its observer."""


class Look:
    """A look for a value that may be stale, for all who want it just then.

    Who computes it anew is told by the server, and is one of them.

    """

    __slots__ = ('_call', '_command', '_engine', '_wanting')

    def __init__(
        self,
        engine: engines.Engine,
        key: bytes,
        hashed: int | None,
        stale: int,
    ) -> None:
        self._engine = engine
        self._command = protocol.MetaGet(key, recache=stale)
        route = cluster.Route(key, hashed)
        self._call = calls.Call(
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

    def _finish(self, call: calls.Call) -> None:
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
                Lookup(wanted, future).look()
            elif value is leases.MISS or item is None:
                Lookup(wanted, future).compute()
            else:
                # What can be changed is not shared by its readers.
                if used and item[0] not in values.SHAREABLE:
                    value, _ = flow.seen(command, endpoint)
                used = True
                future.set_result(value)
        if stale is not None:
            future, wanted, _ = self._wanting[0]
            Lookup(wanted, future).recompute(stale)


def look(
    engine: engines.Engine,
    what: tuple[bytes, int | None, int],
    wanting: Wanting,
) -> None:
    """Look for a value that may be stale, with whoever does so just then.

    :param what: the key, the hash given with it, and for how many seconds a
        value is served after its time

    """
    if engine.flow.lacks_meta():
        future, wanted, _ = wanting
        Lookup(wanted, future).look()
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
