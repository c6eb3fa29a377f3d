"""The awaitable client: the methods of the blocking one as futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
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
    commands,
    counters,
    flights,
    leases,
    lookups,
    observers,
    protocol,
    settings,
)

LOGGER = logging.getLogger(__name__)

JOIN = 0.1
"""Seconds to wait for idle threads to end."""

Future = asyncio.Future[typing.Any]

Observe = observers.Observe


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
        self.threads: batches.Threads = (
            batches.OwnThreads()
            if executor is None
            else batches.SharedThreads.of(executor, self.cluster)
        )
        self.flow = shared.flow
        self.tracing = shared.tracing
        self.flights: dict[cluster.Route, lookups.Flight] = {}
        self.locks: weakref.WeakValueDictionary[
            cluster.Route, asyncio.Lock
        ] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[typing.Any]] = set()
        self.counters: dict[cluster.Endpoint, counters.Counters] = {}
        self.unserved = counters.Counters()
        """Counts the calls for which no server was up."""
        self.closed = False
        """Whether calls are let in no more."""
        self.released = False
        """Whether those that were let in are over."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.lanes: dict[cluster.Endpoint, batches.Lane] = {}
        self.client: weakref.ref[Methods] | None = None
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
            self.lanes = {}
            self.flights = {}
            self.locks = weakref.WeakValueDictionary()
            self._tasks = set()
            self.loop = loop
            client = None if self.client is None else self.client()
            if client is not None:
                client._observe = self.tracing.observe()
        return loop

    def lane(self, endpoint: cluster.Endpoint) -> batches.Lane:
        """Return the way to a server."""
        lane = self.lanes.get(endpoint)
        if lane is None:
            lane = self.lanes[endpoint] = batches.Lane(
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
        key: bytes,
        waiters: list[batches.Waiter],
        unreachable: cluster.Endpoint,
        deadline: float,
    ) -> None:
        """Send reads whose server could not be reached to another one.

        :param float deadline: until when they were to be answered

        """
        for future, default, hashed, tried, observer in waiters:
            endpoint = None
            if self.cluster.goes_on(unreachable):
                if not tried:
                    give_up = functools.partial(future.set_result, default)
                    self.limit(future, deadline, give_up)
                tried += (unreachable,)
                endpoint = self.cluster.pick(key, hashed, tried)
            if endpoint is not None and endpoint not in tried:
                self.lane(endpoint).read(
                    key, (future, default, hashed, tried, observer)
                )
                continue
            self.unserved.fail(clock.monotonic())
            if not future.done():
                future.set_result(default)
            if observer is not None:
                batches.tell(observer.over, cluster.UnavailableError(), 0, 0)

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
        # After its read it goes on by itself, and takes more than one call.
        if isinstance(future, lookups.Lookup):
            return

        def over() -> None:
            if not future.done():
                give_up()

        left = deadline + batches.GRACE - clock.monotonic()
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
                            self, *step, _endpoint_of, observer
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
        self.loop = None
        self.lanes = {}
        self._tasks = set()
        if self.executor is not None:
            self.threads = batches.SharedThreads.of(
                self.executor, self.cluster
            )


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_after_fork() -> None:
    batches.SharedThreads.forget_after_fork()
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
        only: cluster.Endpoint | None,
        finish: abc.Callable[[Call], typing.Any] | None,
        observer: observers.Observer | None,
    ) -> None:
        self._engine = engine
        self._route = route
        self._only = only
        self._finish = finish
        self._observer = observer
        self._tried: list[cluster.Endpoint] = []
        self._endpoint: cluster.Endpoint | None = None
        self.command = command
        self.calls = 1
        self.size = len(command.request)
        self._future: Future

    @property
    def commands(self) -> abc.Sequence[protocol.Command]:
        return (self.command,)

    def start(
        self, loop: asyncio.AbstractEventLoop, future: Future | None = None
    ) -> Future:
        """Set out, and return the future for what the caller gets."""
        self._future = loop.create_future() if future is None else future
        self._deadline = clock.monotonic() + self._engine.cluster.timeout
        self._send()
        return self._future

    @property
    def route(self) -> cluster.Route:
        """Where the key is."""
        return self._route

    @property
    def endpoint(self) -> cluster.Endpoint | None:
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
            command.error = command.error or cluster.UnavailableError()
            engine.unserved.fail(clock.monotonic())
            self._end()
            return
        if self._tried:
            command.start_over()
        self._endpoint = endpoint
        self._tried.append(endpoint)
        engine.lane(endpoint).add(
            self, isinstance(command, protocol.Get) and command.only_reads
        )

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
            error = cluster.UnavailableError(f'{self._endpoint} is down')
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
        if self._finish is not None:
            result = self._finish(self)
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


def _endpoint_of(call: Call) -> cluster.Endpoint | None:
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
        self._reached: list[cluster.Endpoint] = []

    def start(self) -> None:
        """Set out for the first servers."""
        self._step(None)

    def _step(self, reached: abc.Collection[cluster.Endpoint] | None) -> None:
        try:
            if reached is None:
                groups = next(self._rounds)
            else:
                groups = self._rounds.send(reached)
            # With no server up there is nothing to wait for.
            while not groups:
                groups = self._rounds.send(())
        except StopIteration:
            self._end()
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

    def _back(self, endpoint: cluster.Endpoint, sent: bool) -> None:
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


class Methods:
    """The methods of :class:`~sprockets.clients.memcached.Client`, awaitable.

    Arguments, results and errors are theirs.  What is wrong with an argument
    raises at once; the future has the result.

    """

    def __init__(self, engine: Engine, observe: Observe | None = None) -> None:
        self._engine = engine
        self._observe = observe

    def _tokens(self) -> commands.Tokens:
        """Return what the ``gets`` of this scope saw."""
        raise NotImplementedError

    def _observer(
        self, method: str, keys: observers.Keys
    ) -> observers.Observer | None:
        """Return who wants to know how a call goes, if anybody does."""
        return None if self._observe is None else self._observe(method, keys)

    # Reading

    def get(self, key: typing.Any, default: typing.Any = None) -> Future:
        """Awaitable :meth:`.Client.get`."""
        engine = self._engine
        loop = engine.enter()
        encoded = engine.requests.key(key)
        hashed = None
        if encoded is None:
            encoded, hashed = engine.requests.route(key)
        endpoint = engine.cluster.pick(encoded, hashed)
        future = loop.create_future()
        observer = None
        if self._observe is not None:
            observer = self._observe('get', (encoded,))
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            if observer is not None:
                batches.tell(observer.over, cluster.UnavailableError(), 0, 0)
            future.set_result(default)
        else:
            lane = engine.lanes.get(endpoint) or engine.lane(endpoint)
            lane.read(encoded, (future, default, hashed, (), observer))
        return future

    def gets(self, key: typing.Any) -> Future:
        """Awaitable :meth:`.Client.gets`, for this scope's :meth:`cas`."""
        return self._gets('gets', key, None)

    def gat(
        self, key: typing.Any, time: typing.Any, default: typing.Any = None
    ) -> Future:
        """Awaitable :meth:`.Client.gat`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        when = commands.exptime(time)
        route = engine.requests.route(key)

        def finish(call: Call) -> typing.Any:
            command = typing.cast(protocol.Get, call.command)
            item = command.found.get(route.key)
            if item is None:
                return default
            return engine.codec.decode_or(item[0], item[1], default)

        return self._call(
            'gat',
            protocol.Get((route.key,), 'gat', when),
            route,
            finish=finish,
        )

    def gats(self, key: typing.Any, time: typing.Any) -> Future:
        """Awaitable :meth:`.Client.gats`, for this scope's :meth:`cas`.

        .. versionadded:: 2.0

        """
        return self._gets('gats', key, commands.exptime(time))

    def _gets(self, name: str, key: typing.Any, exptime: int | None) -> Future:
        route = self._engine.requests.route(key)
        tokens = self._tokens()

        def finish(call: Call) -> typing.Any:
            if not call.is_wanted:
                # There may have been a later gets, which it is to be about.
                return None
            command = typing.cast(protocol.Get, call.command)
            tokens.remember(route, command, call.endpoint)
            item = command.found.get(route.key)
            if item is None:
                return None
            return self._engine.codec.decode_or(item[0], item[1], None)

        return self._call(
            name,
            protocol.Get((route.key,), name, exptime),
            route,
            finish=finish,
        )

    def get_multi(
        self, keys: abc.Iterable[typing.Any], key_prefix: typing.Any = ''
    ) -> Future:
        """Awaitable :meth:`.Client.get_multi`."""
        engine = self._engine
        originals = list(keys)
        encoded = engine.requests.keys(originals, key_prefix)
        done: list[protocol.Command] = []

        def finish() -> dict[typing.Any, typing.Any]:
            return commands.found(originals, encoded, done, engine.codec)

        return self._spread(
            'get_multi', encoded, commands.get_all(encoded), done, finish
        )

    # Writing

    def set(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.set`."""
        return self._store(protocol.SET, key, val, time, min_compress_len)

    def add(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.add`."""
        return self._store(protocol.ADD, key, val, time, min_compress_len)

    def replace(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.replace`."""
        return self._store(protocol.REPLACE, key, val, time, min_compress_len)

    def append(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.append`."""
        return self._store(protocol.APPEND, key, val, time, min_compress_len)

    def prepend(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.prepend`."""
        return self._store(protocol.PREPEND, key, val, time, min_compress_len)

    def cas(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.cas`, after this scope's :meth:`gets`."""
        requests = self._engine.requests
        route = requests.route(key)
        command, endpoint = requests.cas(
            route, val, time, min_compress_len, self._tokens()
        )
        if command is None:
            return self._result('cas', 0)
        return self._call('cas', command, route, only=endpoint)

    def set_multi(
        self,
        mapping: abc.Mapping[typing.Any, typing.Any],
        time: typing.Any = 0,
        key_prefix: typing.Any = '',
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.set_multi`."""
        made = self._engine.requests.store_all(
            mapping, time, key_prefix, min_compress_len
        )
        return self._run_made('set_multi', made, made.failed)

    # The value computed once

    def get_or_set(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        time: typing.Any = 0,
        *,
        stale: typing.Any = 0,
        lease: typing.Any = 10,
        wait: typing.Any = None,
        default: typing.Any = leases.MISS,
        cache_none: bool = True,
        min_compress_len: int = 0,
    ) -> Future:
        """Awaitable :meth:`.Client.get_or_set`.

        The factory may be a coroutine function as well.  It runs in the loop,
        in a task of its own: a caller that is cancelled leaves it to the
        others.  A stale value is computed anew in the background, so that
        nobody waits for it.

        .. versionadded:: 2.0

        """
        engine = self._engine
        loop = engine.enter()
        # Its callers may not be typed.
        given: typing.Any = factory
        if not callable(given):
            leases.check_callable('factory', factory)
        terms = leases.terms(stale, lease, wait)
        when: int = time
        if type(time) is not int or not 0 <= time <= commands.MONTH:
            when = commands.exptime(time)
        encoded = engine.requests.key(key)
        hashed = None
        if encoded is None:
            encoded, hashed = engine.requests.route(key)
        observer = None
        if self._observe is not None:
            observer = self._observe('get_or_set', (encoded,))
        lookup = lookups.Lookup(loop=loop)
        lookup.given = (
            engine,
            contextvars.copy_context(),
            factory,
            encoded,
            hashed,
            when,
            terms,
            default,
            cache_none,
            min_compress_len,
        )
        if terms.stale:
            self._look(lookup, observer)
            return lookup
        endpoint = engine.cluster.pick(encoded, hashed)
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            if observer is not None:
                batches.tell(observer.over, cluster.UnavailableError(), 0, 0)
            lookup.set_result(leases.MISS)
        else:
            lane = engine.lanes.get(endpoint) or engine.lane(endpoint)
            lane.read(encoded, (lookup, leases.MISS, hashed, (), observer))
        return lookup

    def _look(
        self, lookup: lookups.Lookup, observer: observers.Observer | None
    ) -> None:
        """Look for a value that may be stale."""
        engine = self._engine
        # What is wrong with the times is said before anything is sent.
        plan = lookup.plan()
        if engine.flow.lacks_meta():
            lookup.look()
            return

        def finish(call: Call) -> typing.Any:
            endpoint = engine.flow.asked(command, call.endpoint)
            if endpoint is leases.NO_META:
                return endpoint
            value, stale = engine.flow.seen(command, endpoint)
            if stale is not None:
                lookup.recompute(stale)
            return value

        command = protocol.MetaGet(plan.route.key, recache=plan.terms.stale)
        Call(engine, command, plan.route, None, finish, observer).start(
            engine.enter(), lookup
        )

    async def invalidate(self, key: typing.Any) -> int:
        """Awaitable :meth:`.Client.invalidate`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        engine.enter()
        route = engine.requests.route(key)
        engine.flights.pop(route, None)
        steps = leases.invalidate(route)
        return typing.cast(
            int,
            await engine.follow(steps, None, self._observe, 'invalidate'),
        )

    async def mark_stale(self, key: typing.Any, stale: typing.Any = 60) -> int:
        """Awaitable :meth:`.Client.mark_stale`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        engine.enter()
        route = engine.requests.route(key)
        seconds = commands.whole_seconds('stale', stale, 1)
        engine.flights.pop(route, None)
        steps = engine.flow.mark_stale(route, seconds)
        return typing.cast(
            int,
            await engine.follow(steps, None, self._observe, 'mark_stale'),
        )

    async def update(
        self,
        key: typing.Any,
        function: abc.Callable[[typing.Any], typing.Any],
        time: typing.Any = 0,
        *,
        attempts: int = 100,
        min_compress_len: int = 0,
    ) -> typing.Any:
        """Awaitable :meth:`.Client.update`.

        The function may be a coroutine function as well.

        .. versionadded:: 2.0

        """
        engine = self._engine
        engine.enter()
        leases.check_callable('function', function)
        route = engine.requests.route(key)
        commands.exptime(time)
        steps = engine.flow.update(route, time, min_compress_len, attempts)
        with flights.within((engine, 'update', route)):
            async with engine.locks.setdefault(route, asyncio.Lock()):
                return await engine.follow(
                    steps, function, self._observe, 'update'
                )

    # Numbers

    def incr(
        self, key: typing.Any, delta: int = 1, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.incr`."""
        return self._count(protocol.INCR, key, delta, noreply)

    def decr(
        self, key: typing.Any, delta: int = 1, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.decr`."""
        return self._count(protocol.DECR, key, delta, noreply)

    # Expiry and deletion

    def touch(
        self, key: typing.Any, time: typing.Any = 0, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.touch`."""
        when = commands.exptime(time)
        route = self._engine.requests.route(key)
        return self._call('touch', protocol.touch(route.key, when), route)

    def delete(
        self, key: typing.Any, time: typing.Any = None, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.delete`."""
        commands.check_no_delay(time)
        route = self._engine.requests.route(key)
        return self._call('delete', protocol.delete(route.key), route)

    def delete_multi(
        self,
        keys: abc.Iterable[typing.Any],
        time: typing.Any = None,
        key_prefix: typing.Any = '',
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.delete_multi`."""
        commands.check_no_delay(time)
        made = self._engine.requests.delete_all(keys, key_prefix)
        return self._run_made(
            'delete_multi', made, lambda done: int(not made.failed(done))
        )

    # Servers

    def flush_all(self) -> Future:
        """Awaitable :meth:`.Client.flush_all`."""
        return self._on_every_server(
            'flush_all', protocol.flush_all, lambda asked: None
        )

    def get_stats(self, stat_args: str | None = None) -> Future:
        """Awaitable :meth:`.Client.get_stats`."""
        return self._statistics('get_stats', stat_args, lambda pairs: pairs)

    def get_slab_stats(self) -> Future:
        """Awaitable :meth:`.Client.get_slab_stats`."""
        return self._statistics(
            'get_slab_stats', 'slabs', commands.slab_statistics
        )

    def get_slabs(self) -> Future:
        """Awaitable :meth:`.Client.get_slabs`."""
        return self._statistics('get_slabs', 'items', commands.item_statistics)

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> Future:
        """Awaitable :meth:`.Client.set_servers`; done once it returns."""
        self._engine.blocking.set_servers(servers)
        return self._result('set_servers', None)

    def forget_dead_hosts(self) -> Future:
        """Awaitable :meth:`.Client.forget_dead_hosts`; done at once."""
        self._engine.blocking.forget_dead_hosts()
        return self._result('forget_dead_hosts', None)

    def disconnect_all(self) -> Future:
        """Awaitable :meth:`.Client.disconnect_all`; done once it returns."""
        self._engine.blocking.disconnect_all()
        return self._result('disconnect_all', None)

    def quit_all(self) -> Future:
        """Awaitable :meth:`.Client.quit_all`; done once it returns."""
        return self.disconnect_all()

    def reset_cas(self) -> Future:
        """Awaitable :meth:`.Client.reset_cas`, of this scope; at once."""
        self._tokens().clear()
        return self._result('reset_cas', None)

    # The way to the engine

    def _result(self, method: str, result: typing.Any) -> Future:
        future = self._engine.enter().create_future()
        future.set_result(result)
        return future

    def _call(
        self,
        method: str,
        command: protocol.Command,
        route: cluster.Route,
        only: cluster.Endpoint | None = None,
        finish: abc.Callable[[Call], typing.Any] | None = None,
    ) -> Future:
        engine = self._engine
        loop = engine.enter()
        observer = self._observer(method, (route.key,))
        return Call(engine, command, route, only, finish, observer).start(loop)

    def _store(
        self,
        verb: protocol.Verb,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any,
        min_compress_len: int,
    ) -> Future:
        requests = self._engine.requests
        route = requests.route(key)
        command = requests.store(verb, route.key, val, time, min_compress_len)
        if command is None:
            return self._result(verb.name, 0)
        return self._call(verb.name, command, route)

    def _count(
        self,
        verb: protocol.Verb,
        key: typing.Any,
        delta: typing.Any,
        noreply: bool,
    ) -> Future:
        route = self._engine.requests.route(key)
        return self._call(
            verb.name,
            commands.count(verb, route.key, delta),
            route,
            finish=_nothing if noreply else None,
        )

    def _run_made(
        self,
        method: str,
        made: commands.Made,
        result: abc.Callable[[list[protocol.Command]], typing.Any],
    ) -> Future:
        done: list[protocol.Command] = []
        return self._spread(
            method,
            made.keys,
            made.commands_for,
            done,
            lambda: result(done),
        )

    def _spread(
        self,
        method: str,
        keys: cluster.Keys,
        make: abc.Callable[
            [abc.Sequence[int]], abc.Sequence[protocol.Command]
        ],
        done: list[protocol.Command],
        result: abc.Callable[[], typing.Any],
    ) -> Future:
        engine = self._engine
        future = engine.enter().create_future()
        observer = self._observer(method, keys.keys)

        def over() -> None:
            if not future.done():
                future.set_result(result())
            if observer is not None:
                batches.tell(observer.over, *commands.outcome(keys.keys, done))

        rounds = engine.cluster.rounds(keys, make, done)
        Spread(engine, rounds, future, over).start()
        return future

    def _on_every_server(
        self,
        method: str,
        make: abc.Callable[[], protocol.Command],
        result: abc.Callable[
            [dict[cluster.Endpoint, protocol.Command]], typing.Any
        ],
    ) -> Future:
        engine = self._engine
        future = engine.enter().create_future()
        observer = self._observer(method, ())
        asked: dict[cluster.Endpoint, protocol.Command] = {}
        reached: list[cluster.Endpoint] = []

        def rounds() -> cluster.Rounds:
            if waiting := engine.cluster.waiting():
                yield waiting
            for endpoint in engine.cluster.endpoints:
                if endpoint.available():
                    asked[endpoint] = make()
            reached.extend((yield {e: [c] for e, c in asked.items()}))

        def over() -> None:
            if not future.done():
                try:
                    future.set_result(result({e: asked[e] for e in reached}))
                except ValueError as error:
                    future.set_exception(error)
            if observer is not None:
                batches.tell(
                    observer.over, *commands.outcome((), asked.values())
                )

        Spread(engine, rounds(), future, over).start()
        return future

    def _statistics(
        self,
        method: str,
        argument: str | None,
        arrange: abc.Callable[[list[tuple[str, dict[str, str]]]], typing.Any],
    ) -> Future:
        # What is wrong with it raises here rather than for each server.
        commands.statistics(argument)
        servers = self._engine.cluster
        return self._on_every_server(
            method,
            lambda: commands.statistics(argument),
            lambda asked: arrange(
                commands.statistics_of(servers.servers, asked)
            ),
        )


def _nothing(call: Call) -> None:
    """Return what ``noreply`` promises."""


class Scope(Methods):
    """The methods of a client for one piece of work, a request say.

    What its :meth:`~.AsyncClient.gets` saw is for its own
    :meth:`~.AsyncClient.cas` only.  It comes from :meth:`.AsyncClient.scope`.

    """

    def __init__(self, engine: Engine, observe: Observe | None = None) -> None:
        super().__init__(engine, observe)
        self._saw = commands.Tokens()

    def _tokens(self) -> commands.Tokens:
        return self._saw


class AsyncClient(Methods):
    """The awaitable client.

    .. code-block:: python

        client = memcached.AsyncClient('pages')   # PAGES_MEMCACHED_SERVERS
        await client.set('front', 'Hello', time=60)
        front = await client.get('front')
        await client.close()

    Each method returns a future; those of several steps, :meth:`update`,
    :meth:`invalidate` and :meth:`mark_stale`, are coroutines.  What is called
    in the same turn of the event loop travels together, whoever calls: one
    write, one read, in a thread.  A read that is called after a write sees
    what was written.

    It can be made before there is a loop, and be used in one after another,
    but not in two at once.  A caller that is cancelled, or times out, leaves
    the others alone.  What :meth:`gets` saw is for the :meth:`cas` of the
    same task; :meth:`scope` gives the methods with a scope of their own.

    :param str prefix: the prefix of the variables, as for :class:`Client`
    :param concurrent.futures.Executor executor: runs the calls, in threads.
        One of its threads is left to others; what hangs on one server may
        hold up the others unless it has more than one thread a server.
        Default: threads of the library, up to ``max_connections`` for each
        server in this process
    :param options: the options of :class:`Client`
    :raises TypeError: for an option that there is not, or an executor that
        is none, or one of processes
    :raises ValueError: for a value that cannot be; it names the variable

    .. versionadded:: 2.0

    """

    def __init__(
        self,
        prefix: str | None = None,
        *,
        executor: concurrent.futures.Executor | None = None,
        **options: typing.Any,
    ) -> None:
        # Its callers may not be typed.
        given: typing.Any = executor
        if given is not None and (
            not isinstance(given, concurrent.futures.Executor)
            or isinstance(given, concurrent.futures.ProcessPoolExecutor)
        ):
            raise TypeError(
                f'executor is {given!r}; expected an executor of threads'
            )
        super().__init__(Engine(prefix, executor, options))
        # It looks for a tracer in each loop; a scope when it is made.
        self._engine.client = weakref.ref(self)
        self._by_task: weakref.WeakKeyDictionary[
            asyncio.Task[typing.Any], commands.Tokens
        ] = weakref.WeakKeyDictionary()

    def scope(self, observe: Observe | None = None) -> Scope:
        """Return the methods with a scope of their own for gets and cas.

        :param observe: is called with the name of each method that is
            called, and the keys, and returns who is told how the call went
        :rtype: Scope

        """
        tracing = self._engine.tracing.observe()
        return Scope(self._engine, observers.both(observe, tracing))

    async def close(self) -> None:
        """Answer what is in flight, then release threads and connections.

        A call after that raises :exc:`RuntimeError`.

        """
        await self._engine.close()

    def _tokens(self) -> commands.Tokens:
        self._engine.enter()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError(
                'gets and cas outside of a task belong to no one; use scope()'
            )
        return self._by_task.setdefault(task, commands.Tokens())
