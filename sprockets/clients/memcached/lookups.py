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
    health,
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
    leases.How,
]
"""What a caller of ``get_or_set`` wants: the client's engine, the context in
which to compute, what computes the value, key, hash, and how it is to be got.
"""


class Lookup:
    """A ``get_or_set`` that found no value, or looks for one that is stale.

    :param Future future: what the caller awaits

    """

    __slots__ = ('_context', '_engine', '_factory', 'future', 'plan')

    def __init__(self, wanted: Wanted, future: Future) -> None:
        # The answer does not come in the caller's context.
        engine, context, factory, key, hashed, how = wanted
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


class Look(calls.Call):
    """A look for a value that may be stale, for all who want it just then.

    Who computes it anew is told by the server, and is one of them.

    """

    __slots__ = ('stale', 'waiting')

    command: protocol.MetaGet

    def __init__(
        self,
        engine: engines.Engine,
        key: bytes,
        hashed: int | None,
        stale: int,
    ) -> None:
        command = protocol.MetaGet(key, recache=stale)
        route = cluster.Route(key, hashed)
        super().__init__(engine, command, route, None, None, None)
        self.stale = stale
        self.waiting: list[batches.Looking] = []

    def start_at(
        self,
        endpoint: health.Endpoint,
        what: abc.Hashable,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Set out for a server, and let others join until the batch leaves."""
        self._begin(loop)
        self._go_to(endpoint)
        self._engine.lane(endpoint).share(what, self)

    def _give_up(self) -> None:
        command = self.command
        command.error = command.error or TimeoutError('timed out')
        self._end()

    def _end(self) -> None:
        # It may come back when it was given up.
        if self._future.done():
            return
        self._future.set_result(None)
        command, flow = self.command, self._engine.flow
        endpoint = flow.asked(command, self.endpoint)
        value: typing.Any = leases.MISS
        stale = None
        if endpoint is not leases.NO_META:
            value, stale = flow.seen(command, endpoint)
        if value is leases.MISS:
            self._go_on(endpoint is leases.NO_META)
            return
        item = command.item
        assert item is not None
        # What can be changed is not shared by its readers.
        own = item[0] not in values.SHAREABLE
        used = False
        for future, _, observer in self.waiting:
            if observer is not None:
                self._tell(observer)
            # A caller may have been cancelled, or have timed out.
            if not future.done():
                if own and used:
                    value, _ = flow.seen(command, endpoint)
                used = True
                future.set_result(value)
        if stale is not None:
            future, wanted, _ = self.waiting[0]
            Lookup(wanted, future).recompute(stale)

    def _go_on(self, lacks_meta: bool) -> None:
        """Get for everybody what this did not bring."""
        for future, wanted, observer in self.waiting:
            if observer is not None:
                self._tell(observer)
            if future.done():
                continue
            if lacks_meta:
                Lookup(wanted, future).look()
            else:
                Lookup(wanted, future).compute()

    def _tell(self, observer: observers.Observer) -> None:
        command = self.command
        batches.tell(
            observer.over,
            command.error,
            int(command.item is not None),
            int(command.answered and command.item is None),
            self.endpoint,
        )


def look(
    looking: batches.Looking,
    endpoint: health.Endpoint,
    what: abc.Hashable,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Look for a value that may be stale, where nobody does so just then.

    :param Endpoint endpoint: the server that was picked for it
    :param what: what those have in common who may join

    """
    future, wanted, _ = looking
    engine, _, _, key, hashed, how = wanted
    if engine.flow.lacks_meta():
        endpoint.leave()
        Lookup(wanted, future).look()
        return
    shared = Look(engine, key, hashed, how[1].stale)
    shared.waiting.append(looking)
    shared.start_at(endpoint, what, loop)
