"""get_or_set awaited: a read, and where it was a miss the way to a value."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import typing
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import batches, calls, engines, lanes
from sprockets.clients.memcached.once import flights, leases
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

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

    __slots__ = (
        '_batch',
        '_lane',
        '_rules',
        '_stale',
        '_waiting',
        '_what',
        'key',
    )

    command: protocol.MetaGet

    def __init__(self, looking: engines.Looking, what: abc.Hashable) -> None:
        engine, _, _, self.key, hashed, how = looking[1]
        self._stale = how[1].stale
        self._rules = engine.requests.rules
        command = protocol.MetaGet(self.key, recache=self._stale)
        route = cluster.Route(self.key, hashed)
        super().__init__(engine, command, route, None, None, None)
        self._what = what
        self._waiting = [looking]
        self._lane: lanes.Lane | None = None
        self._batch: batches.Batch | None = None

    def open(self) -> None:
        """Let others join until the batch leaves."""
        if self.endpoint is None:
            return
        self._lane = self._engine.lane(self.endpoint)
        self._batch = self._lane.forming
        self._engine.looks[self._what] = self

    def join(self, stale: int, looking: engines.Looking) -> bool:
        lane, batch = self._lane, self._batch
        if (
            lane is None
            or batch is None
            # A write that was called meanwhile goes into that one or after.
            or lane.forming is not batch
            or batch.calls >= lane.max_calls
            or stale != self._stale
            or self._engine.requests.rules is not self._rules
            # To try a server that went down is for who picks it.
            or lane.endpoint.retry_at is not None
        ):
            return False
        batch.calls += 1
        self.calls += 1
        self._waiting.append(looking)
        return True

    def _give_up(self) -> None:
        command = self.command
        command.error = command.error or TimeoutError('timed out')
        self._end()

    def _end(self) -> None:
        # It may come back when it was given up.
        if self._future.done():
            return
        self._future.set_result(None)
        looks = self._engine.looks
        if looks.get(self._what) is self:
            del looks[self._what]
        # It has this look, and both would wait for the collector.
        self._batch = None
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
        for future, _, observer in self._waiting:
            if observer is not None:
                self._tell(observer)
            # A caller may have been cancelled, or have timed out.
            if not future.done():
                if own and used:
                    value, _ = flow.seen(command, endpoint)
                used = True
                future.set_result(value)
        if stale is not None:
            future, wanted, _ = self._waiting[0]
            Lookup(wanted, future).recompute(stale)

    def _go_on(self, lacks_meta: bool) -> None:
        """Get for everybody what this did not bring."""
        for future, wanted, observer in self._waiting:
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
    looking: engines.Looking,
    what: abc.Hashable,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Look for a value that may be stale, with whoever does so just then.

    :param what: what those have in common who look for the same

    """
    future, wanted, _ = looking
    engine, *_, how = wanted
    shared = engine.looks.get(what)
    if shared is not None and shared.join(how[1].stale, looking):
        return
    if engine.flow.lacks_meta():
        Lookup(wanted, future).look()
        return
    shared = Look(looking, what)
    shared.start(loop)
    shared.open()
