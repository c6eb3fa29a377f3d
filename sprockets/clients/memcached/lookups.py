"""get_or_set awaited: a read, and where it was a miss the way to a value."""

from __future__ import annotations

import asyncio
import logging
import typing
from collections import abc

from sprockets.clients.memcached import (
    cluster,
    flights,
    leases,
)

LOGGER = logging.getLogger(__name__)

CLOSED = 'the memcached client is closed'

Flight = asyncio.Task[leases.Outcome | None]


class Lookup(asyncio.Future[typing.Any]):
    """The future of a read that does not end with a miss.

    A hit costs hardly more than any other read's: there is no coroutine, and
    what is for a miss only is done after one.

    """

    __slots__ = ('given',)

    given: tuple[typing.Any, ...]
    """The client's engine, the caller's context, in which the answer
    does not come, the factory, the key and its hash, and what else
    :func:`.leases.plan` takes."""

    def set_result(self, value: typing.Any) -> None:
        """Take what was read."""
        if value is leases.MISS:
            self._spawn(self._settle(self._get()))
        elif value is leases.NO_META:
            self.look()
        else:
            _set_result(self, value)

    def look(self) -> None:
        """Look for a value that may be stale, step by step."""
        self._spawn(self._settle(self._get_stale()))

    def recompute(self, stale: leases.Stale) -> None:
        """Compute a value anew, while the old one is served."""
        self._spawn(self._recompute(stale))

    def _spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, None]
    ) -> None:
        engine, context = self.given[:2]
        context.run(engine.spawn, work)

    def plan(self) -> leases.Plan:
        """Return what is to be done."""
        _, _, _, key, hashed, *rest = self.given
        return leases.plan(cluster.Route(key, hashed), *rest)

    async def _settle(
        self, work: abc.Coroutine[typing.Any, typing.Any, typing.Any]
    ) -> None:
        """Give the caller what comes of some work."""
        try:
            value = await work
        except asyncio.CancelledError:
            if not self.done():
                if self.given[0].closed:
                    self.set_exception(RuntimeError(CLOSED))
                else:
                    self.cancel()
            raise
        except Exception as error:
            if self.done():
                LOGGER.exception('The factory failed, and nobody waits')
            else:
                self.set_exception(error)
        else:
            if not self.done():
                _set_result(self, value)

    async def _get_stale(self) -> typing.Any:
        engine = self.given[0]
        value, stale = await engine.follow(engine.flow.look(self.plan()))
        if stale is not None:
            engine.spawn(self._recompute(stale))
        return value if value is not leases.MISS else await self._get()

    async def _recompute(self, stale: leases.Stale) -> None:
        engine, _, factory = self.given[:3]
        steps = engine.flow.recompute(self.plan(), stale)
        try:
            await engine.follow(steps, factory)
        except Exception:
            LOGGER.exception('A stale value could not be computed anew')

    async def _get(self) -> typing.Any:
        """Return a value that was not there.

        :raises Exception: what the factory raises

        """
        engine, _, factory = self.given[:3]
        plan = self.plan()
        with flights.within((engine, plan.route)):
            while True:
                flight = engine.flights.get(plan.route)
                own = flight is None
                if flight is None:
                    flight = engine.spawn(
                        engine.follow(engine.flow.compute_once(plan), factory)
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


_set_result = asyncio.Future.set_result
