"""get_or_set awaited: a read, and where it was a miss the way to a value."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import typing
from collections import abc

from sprockets.clients.memcached import cluster, flights, leases

LOGGER = logging.getLogger(__name__)

CLOSED = 'the memcached client is closed'

Flight = asyncio.Task[leases.Outcome | None]


Wanted = tuple[
    typing.Any,
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

    def __init__(
        self, wanted: Wanted, future: asyncio.Future[typing.Any]
    ) -> None:
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
                    self.future.set_exception(RuntimeError(CLOSED))
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
        value, stale = await engine.follow(engine.flow.look(self.plan))
        if stale is not None:
            engine.spawn(self._recompute(stale))
        return value if value is not leases.MISS else await self._get()

    async def _recompute(self, stale: leases.Stale) -> None:
        steps = self._engine.flow.recompute(self.plan, stale)
        try:
            await self._engine.follow(steps, self._factory)
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
                        engine.follow(
                            engine.flow.compute_once(plan), self._factory
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


def compute(wanted: Wanted, future: asyncio.Future[typing.Any]) -> None:
    """Get a value that was not there."""
    Lookup(wanted, future).compute()


def look(wanted: Wanted, future: asyncio.Future[typing.Any]) -> None:
    """Look for a value that may be stale."""
    Lookup(wanted, future).look()


def recompute(
    stale: leases.Stale,
    wanted: Wanted,
    future: asyncio.Future[typing.Any],
) -> None:
    """Compute a value anew, while the old one is served."""
    Lookup(wanted, future).recompute(stale)
