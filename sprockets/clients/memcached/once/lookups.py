"""get_or_set awaited: a read, and where it was a miss the way to a value."""

from __future__ import annotations

import asyncio
import contextvars
import typing
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import (
    batches,
    calls,
    engines,
    futures,
    lanes,
    state,
)
from sprockets.clients.memcached.once import (
    computing,
    leases,
    nesting,
    plans,
    steps,
)
from sprockets.clients.memcached.requests import descriptions
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

Future = asyncio.Future[typing.Any]

Wanted = tuple[
    state.LoopState,
    contextvars.Context,
    abc.Callable[[], typing.Any],
    bytes,
    int | None,
    plans.Plan,
    typing.Any,
]
"""What a caller of ``get_or_set`` wants: what its client has in the loop, the
context in which to compute, what computes the value, key, hash, plan and
default."""


class Lookup:
    """A ``get_or_set`` that found no value, or looks for one that is stale.

    :param Future future: what the caller awaits
    :param Whole whole: the call, if it is not counted already

    """

    __slots__ = (
        '_context',
        '_factory',
        '_here',
        '_runner',
        '_whole',
        'future',
        'want',
    )

    def __init__(
        self,
        wanted: Wanted,
        future: Future,
        whole: computing.Whole | None = None,
    ) -> None:
        # The answer does not come in the caller's context.
        here, context, factory, key, hashed, plan, default = wanted
        self._runner = computing.Runner(here)
        self._whole = whole
        self._here = here
        self._context = context
        self._factory = factory
        self.future = future
        self.want = plans.Want(cluster.Route(key, hashed), plan, default)

    def compute(self) -> None:
        """Get a value that was not there."""
        self._spawn(self._settle, self._get).add_done_callback(self._told)

    def look(self) -> None:
        """Look for a value that may be stale, step by step."""
        task = self._spawn(self._settle, self._get_stale)
        task.add_done_callback(self._told)

    def won(self, stale: leases.Stale, outcome: leases.Outcome) -> None:
        """Give an old value, and compute a new one if it is to be."""
        task = self._spawn(self._give_won, stale, outcome)
        task.add_done_callback(self._told)

    def _spawn(
        self,
        work: abc.Callable[..., abc.Coroutine[typing.Any, typing.Any, None]],
        *args: typing.Any,
    ) -> asyncio.Task[typing.Any]:
        return self._context.run(self._here.spawn, work(*args))

    def _told(self, task: asyncio.Task[typing.Any]) -> None:
        """See to it that the caller is told, whatever ended its task."""
        if not self.future.done():
            if task.cancelled():
                self.future.cancel()
            else:
                error = task.exception() or asyncio.CancelledError()
                futures.fail(self.future, error)

    async def _settle(
        self, get: abc.Callable[[], abc.Awaitable[typing.Any]]
    ) -> None:
        """Give the caller what comes of some work."""
        task = asyncio.current_task()
        try:
            value = await get()
        except asyncio.CancelledError:
            if not self.future.done():
                if self._here.engine.closed:
                    self.future.set_exception(RuntimeError(engines.CLOSED))
                else:
                    self.future.cancel()
            raise
        except BaseException as error:
            if steps.is_collected(task):
                raise
            self._fail(error)
        else:
            if isinstance(value, steps.Failure):
                self._fail(value.take())
            elif not self.future.done():
                self.future.set_result(value)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        else:
            self._here.computing.flow.failures.log(
                'The factory failed, and nobody waits', error
            )

    async def _get_stale(self) -> typing.Any:
        here = self._here
        whole, self._whole = self._whole, None
        value: typing.Any = plans.MISS
        try:
            value, stale = await steps.follow_awaited(
                here.computing.flow.look(self.want),
                computing.Runner(here, whole),
            )
        finally:
            if whole is not None:
                hit = value is not plans.MISS
                whole.over(None, int(hit), int(not hit))
        if stale is not None and await self._is_stale(stale):
            here.spawn(self._recompute(stale))
        return value if value is not plans.MISS else await self._get()

    async def _is_stale(self, stale: leases.Stale) -> bool:
        return await steps.follow_awaited(
            self._here.computing.flow.is_stale(self.want, stale), self._runner
        )

    async def _give_won(
        self, stale: leases.Stale, outcome: leases.Outcome
    ) -> None:
        here = self._here
        if await self._is_stale(stale):
            # It begins before the caller goes on.
            here.spawn(self._recompute(stale))
        if not self.future.done():
            patience = self.want.plan.patience
            computing.give(here, self.future, outcome, patience)

    async def _recompute(self, stale: leases.Stale) -> None:
        task = asyncio.current_task()
        flow = self._here.computing.flow
        work = self._here.computing, self.want.route
        try:
            # Nobody waits for it, whoever has asked.
            with nesting.part_of(work, nesting.runner()):
                await steps.follow_awaited(
                    flow.recompute(self.want, stale),
                    self._runner,
                    self._factory,
                )
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if steps.is_collected(task):
                raise
            flow.failures.log(
                'A stale value could not be computed anew', error
            )

    async def _get(self) -> typing.Any:
        """Return a value that was not there, or a failure to get it."""
        here, want = self._here, self.want
        under_way = here.computing.under_way
        patience = want.plan.patience
        work = here.computing, want.route
        nesting.check(work)
        while True:
            task = under_way.get(want.route)
            own = task is None
            if task is None:
                task = here.spawn(
                    self._compute(here.computing.flow.compute_once(want))
                )
                here.computing.begin(want.route, task)
            elif want.default is not plans.MISS:
                return want.default
            is_doubtful = False
            if own:
                await asyncio.wait((task,))
            else:
                with nesting.waiting(work) as wait:
                    is_doubtful = wait.is_doubtful
                    seconds = wait.patience(patience)
                    await asyncio.wait((task,), timeout=seconds)
            if not task.done():
                if is_doubtful:
                    alone = await self._compute(
                        here.computing.flow.compute_alone(want)
                    )
                    if isinstance(alone, leases.Outcome):
                        return await self._taken(alone)
                    return alone
                here.computing.forget(want.route, task)
                continue
            if task.cancelled():
                if own:
                    raise asyncio.CancelledError
                continue
            error = task.exception()
            if error is not None:
                return steps.Failure(error)
            outcome = task.result()
            if isinstance(outcome, steps.Failure):
                if own:
                    return outcome
                # What ends a caller is not the others' business.
            elif outcome is not None:
                return await self._taken(outcome)
            elif want.default is not plans.MISS:
                return want.default

    async def _taken(self, outcome: leases.Outcome) -> typing.Any:
        """Return a value that others have too, or a failure to get it."""
        future = self._here.loop.create_future()
        computing.give(self._here, future, outcome, self.want.plan.patience)
        return await future

    def _compute(
        self,
        work: steps.Steps[leases.Outcome | steps.Failure | None],
    ) -> abc.Coroutine[typing.Any, typing.Any, computing.Result]:
        return _follow(
            (self._here.computing, self.want.route),
            work,
            self._runner,
            self._factory,
        )


async def _follow(
    what: abc.Hashable,
    work: steps.Steps[leases.Outcome | steps.Failure | None],
    runner: computing.Runner,
    factory: abc.Callable[[], typing.Any],
) -> computing.Result:
    # It knows no look-up: that has a future which may get the error, whose
    # traceback has this frame, and all would wait for the collector.
    with nesting.part_of(what):
        try:
            return await steps.follow_awaited(work, runner, factory)
        # It is the caller's, whose task ends the loop if it does not mind.
        except (KeyboardInterrupt, SystemExit) as error:
            return steps.Failure(error)


def compute(wanted: Wanted, future: Future) -> None:
    """Get a value that was not there."""
    Lookup(wanted, future).compute()


class _Look(descriptions.One[typing.Any]):
    """A look for a value that may be stale; MISS if there is none."""

    __slots__ = ('_flow', 'endpoint')

    def __init__(
        self,
        flow: leases.Flow,
        command: protocol.MetaGet,
        route: cluster.Route,
    ) -> None:
        super().__init__('get_or_set', command, route)
        self._flow = flow
        self.endpoint: typing.Any = None
        """The server, or NO_META."""

    def note(
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> None:
        self.endpoint = self._flow.asked(command, endpoint)

    def weight(self, command: protocol.Command) -> int:
        item = typing.cast(protocol.MetaGet, command).item
        return 0 if item is None else values.weight(item[0], len(item[1]))

    def unpack(self, command: protocol.Command) -> typing.Any:
        return self._flow.value_of(typing.cast(protocol.MetaGet, command))


class StaleRead:
    """A read of a value that may be stale, for all who want it just then.

    Who computes it anew is told by the server, and is one of them.

    :param name: what those have in common who want the same

    """

    __slots__ = (
        '_askers',
        '_batch',
        '_call',
        '_here',
        '_lane',
        '_look',
        '_name',
        '_rules',
        '_stale',
        'key',
    )

    def __init__(self, asker: computing.Asker, name: abc.Hashable) -> None:
        here, _, _, self.key, hashed, plan, _ = asker[1]
        self._here: state.LoopState = here
        self._stale = plan.stale
        self._rules = here.engine.core.encoding.rules
        self._name = name
        self._askers = [asker]
        self._lane: lanes.Lane | None = None
        self._batch: batches.Batch | None = None
        encoding = here.engine.core.encoding
        command = leases.Look(encoding, self.key, self._stale)
        self._look = _Look(
            here.computing.flow, command, cluster.Route(self.key, hashed)
        )
        self._call = calls.OneCall(here, command, self._look, None)

    def start(self) -> None:
        """Set out, and let others join until the batch leaves."""
        self._call.start().add_done_callback(self._give)
        endpoint = self._call.endpoint
        if endpoint is not None:
            self._lane = self._here.lane(endpoint)
            self._batch = self._lane.forming
            self._here.computing.reads[self._name] = self

    def join(self, stale: int, asker: computing.Asker) -> bool:
        lane, batch = self._lane, self._batch
        if (
            lane is None
            or batch is None
            # A write that was called meanwhile goes into that one or after.
            or lane.forming is not batch
            or batch.calls >= lane.max_calls
            or stale != self._stale
            or self._here.engine.core.encoding.rules is not self._rules
            # To try a server that went down is for who picks it.
            or lane.endpoint.retry_at is not None
        ):
            return False
        batch.calls += 1
        self._call.calls += 1
        self._askers.append(asker)
        return True

    def _give(self, done: Future) -> None:
        """Give everybody what came, whatever comes in between."""
        try:
            self._give_all(done)
        except BaseException as error:
            for future, _, _ in self._askers:
                futures.fail(future, error)
            raise

    def _give_all(self, done: Future) -> None:
        reads = self._here.computing.reads
        if reads.get(self._name) is self:
            del reads[self._name]
        # It has the call, and both would wait for the collector.
        self._batch = None
        command = typing.cast(leases.Look, self._look.command)
        if self._look.endpoint is plans.NO_META:
            for asker in self._askers:
                # A caller may have been cancelled, or have timed out.
                if not asker[0].done():
                    _look_alone(asker)
                elif asker[2] is not None:
                    batches.tell(asker[2].over, None, 0, 0)
            return
        error = done.exception()
        self._tell(command, error is None and done.result() is plans.MISS)
        if error is not None:
            for future, _, _ in self._askers:
                futures.fail(future, error)
            return
        value = done.result()
        if value is plans.MISS:
            for future, wanted, _ in self._askers:
                if not future.done():
                    compute(wanted, future)
            return
        item = command.item
        assert item is not None
        outcome = leases.Outcome(
            self._here.engine.core.codec, value, item[0], item[1]
        )
        stale = self._here.computing.flow.won(command, self._look.endpoint)
        rest = iter(self._askers)
        if stale is not None:
            future, wanted, _ = next(rest)
            Lookup(wanted, future).won(stale, outcome)
        for future, wanted, _ in rest:
            # A caller may have been cancelled, or have timed out.
            if not future.done():
                patience = wanted[5].patience
                computing.give(self._here, future, outcome, patience)

    def _tell(self, command: protocol.MetaGet, is_missing: bool) -> None:
        """Tell those who observe what came, and count it."""
        endpoint = self._call.endpoint
        hits, misses = descriptions.found(command)
        if hits and is_missing:
            # What is there is no value.
            hits, misses = 0, 1
            self._here.counters_of(endpoint).lose(len(self._askers))
        for _, _, observer in self._askers:
            if observer is not None:
                batches.tell(
                    observer.over, command.error, hits, misses, endpoint
                )


def _look_alone(asker: computing.Asker) -> None:
    """Look for a value that may be stale, step by step."""
    future, wanted, observer = asker
    Lookup(wanted, future, computing.Whole(wanted[0], observer)).look()


def look(asker: computing.Asker, name: abc.Hashable) -> None:
    """Look for a value that may be stale, with whoever does so just then.

    :param name: what those have in common who want the same

    """
    wanted = asker[1]
    here: state.LoopState = wanted[0]
    read = here.computing.reads.get(name)
    if read is not None and read.join(wanted[5].stale, asker):
        return
    if here.computing.flow.lacks_meta():
        _look_alone(asker)
    else:
        StaleRead(asker, name).start()
