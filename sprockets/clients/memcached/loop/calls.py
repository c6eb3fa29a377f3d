"""Awaited calls under way, to one server and to several."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time as clock
import typing
from collections import abc

from sprockets.clients.memcached.loop import batches, engines
from sprockets.clients.memcached.once import leases
from sprockets.clients.memcached.servers import cluster, health
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Future = asyncio.Future[typing.Any]


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
        engine: engines.Engine,
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
            if endpoint is not None:
                endpoint.leave()
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


def endpoint_of(call: Call) -> health.Endpoint | None:
    return call.endpoint


async def follow(
    engine: engines.Engine,
    steps: leases.Steps[typing.Any],
    function: abc.Callable[..., typing.Any] | None = None,
    observe: observers.Observe | None = None,
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
                    if engine.released:
                        raise RuntimeError(engines.CLOSED)
                    observer = None
                    if observe is not None:
                        observer = observe(method, (step.route.key,))
                    result: typing.Any = await Call(
                        engine, *step, endpoint_of, observer
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


class Spread:
    """The commands of one call for several servers."""

    def __init__(
        self,
        engine: engines.Engine,
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
