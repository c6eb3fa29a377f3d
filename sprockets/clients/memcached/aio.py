"""The awaitable client: the methods of the blocking one as futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import time as clock
import types
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import core, settings
from sprockets.clients.memcached.loop import (
    batches,
    calls,
    engines,
    futures,
    state,
    threads,
)
from sprockets.clients.memcached.once import (
    computing,
    confirming,
    counts,
    generations,
    leases,
    limits,
    locks,
    lookups,
    missing,
    namespaces,
    nesting,
    plans,
    steps,
)
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    errors,
    methods,
    tokens,
)
from sprockets.clients.memcached.servers import endpoints, events
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Future = asyncio.Future[typing.Any]

Observe = observers.Observe

T = typing.TypeVar('T')
D = typing.TypeVar('D')

READY_PAUSE = 0.05
"""Seconds between two looks whether all servers answer."""

NEVER_STRICT = frozenset(('limit', 'refresh', 'update'))
"""Methods of several steps that have something to return, or an error of their
own, whatever becomes of a step."""


class Methods:
    """The methods of :class:`~sprockets.clients.memcached.Client`, awaitable.

    Arguments, results and errors are theirs.  What is wrong with an argument
    raises at once, and the future has the result; a coroutine has both.

    """

    _group: generations.Group = ()
    """The generations that its keys have to have: a namespace's."""

    def __init__(
        self, engine: engines.Engine, observe: Observe | None = None
    ) -> None:
        self._engine = engine
        self._encoding = engine.encoding
        self._observe = observe
        self._strict = engine.core.strict

    def _tokens(self) -> tokens.Tokens:
        """Return what the ``gets`` of this scope saw."""
        raise NotImplementedError

    # Reading

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: None = None,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> asyncio.Future[T | None]: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: D,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> asyncio.Future[T | D]: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: None = None,
    ) -> Future: ...

    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: type[typing.Any] | None = None,
    ) -> Future:
        """Awaitable :meth:`.Client.get`."""
        engine = self._engine
        here = engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = engine.enter()
        encoded = self._encoding.key(key)
        if (
            encoded is None
            or self._observe is not None
            or timeout is not None
            or kind is not None
            or self._strict
        ):
            return self._get(here, key, default, timeout, kind)
        future: Future = asyncio.Future()
        endpoint = engine.cluster.pick(encoded)
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            # Not at once: who only ever awaits this must let the loop turn.
            here.loop.call_soon(batches.fall_back, future, default)
            return future
        try:
            lane = here.lanes[endpoint]
        except KeyError:
            lane = here.lane(endpoint)
        lane.read((encoded, future, default, None, None))
        return future

    def _get(
        self,
        here: state.LoopState,
        key: typing.Any,
        default: typing.Any,
        timeout: float | None,
        kind: type[typing.Any] | None,
    ) -> Future:
        """Get the value of any key, and tell who observes."""
        if timeout is not None or kind is not None or self._strict:
            request = methods.get(self._encoding, key, default, kind)
            return self._one(request, timeout)
        engine = self._engine
        encoded, hashed = self._encoding.route(key)
        observer = None
        if self._observe is not None:
            observer = self._observe('get', (encoded,))
        extras = batches.Extras(hashed, None, observer)
        endpoint = engine.cluster.pick(encoded, hashed)
        future = here.loop.create_future()
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            extras.tell(endpoints.UnavailableError(), 0, 0, None)
            here.loop.call_soon(batches.fall_back, future, default)
        else:
            lane = here.lanes.get(endpoint) or here.lane(endpoint)
            lane.read((encoded, future, default, None, extras))
        return future

    def gets(
        self,
        key: typing.Any,
        *,
        timeout: float | None = None,
    ) -> Future:
        """Awaitable :meth:`.Client.gets`, for this scope's :meth:`cas`."""
        return self._one(
            methods.gets(self._encoding, key, self._tokens()), timeout
        )

    def gat(
        self,
        key: typing.Any,
        time: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
    ) -> Future:
        """Awaitable :meth:`.Client.gat`.

        .. versionadded:: 2.0

        """
        return self._one(
            methods.gat(self._encoding, key, time, default), timeout
        )

    def gats(
        self,
        key: typing.Any,
        time: typing.Any,
        *,
        timeout: float | None = None,
    ) -> Future:
        """Awaitable :meth:`.Client.gats`, for this scope's :meth:`cas`.

        .. versionadded:: 2.0

        """
        return self._one(
            methods.gats(self._encoding, key, time, self._tokens()), timeout
        )

    def get_multi(
        self,
        keys: abc.Iterable[typing.Any],
        key_prefix: typing.Any = '',
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[dict[typing.Any, typing.Any]]:
        """Awaitable :meth:`.Client.get_multi`."""
        return self._many(
            methods.get_multi(self._encoding, keys, key_prefix), timeout
        )

    # Writing

    def set(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.set`."""
        return self._one(
            methods.store(
                protocol.SET,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def add(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.add`."""
        return self._one(
            methods.store(
                protocol.ADD,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def replace(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.replace`."""
        return self._one(
            methods.store(
                protocol.REPLACE,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def append(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.append`."""
        return self._one(
            methods.store(
                protocol.APPEND,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def prepend(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.prepend`."""
        return self._one(
            methods.store(
                protocol.PREPEND,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def cas(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.cas`, after this scope's :meth:`gets`."""
        return self._one(
            methods.cas(
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
                self._tokens(),
            ),
            timeout,
        )

    def set_multi(
        self,
        mapping: abc.Mapping[typing.Any, typing.Any],
        time: typing.Any = 0,
        key_prefix: typing.Any = '',
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[list[typing.Any]]:
        """Awaitable :meth:`.Client.set_multi`.

        What takes more than some milliseconds to serialize is serialized in
        turns, and sent when all is: do not change the values before then.

        """
        return self._many(
            methods.set_multi(
                self._encoding, mapping, time, key_prefix, min_compress_len
            ),
            timeout,
        )

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
        default: typing.Any = plans.MISS,
        cache_none: bool = True,
        min_compress_len: int = 0,
        tags: tuple[str, ...] = (),
        jitter: typing.Any = 0,
        when: abc.Callable[[typing.Any], typing.Any] | None = None,
    ) -> Future:
        """Awaitable :meth:`.Client.get_or_set`.

        The factory may be a coroutine function as well.  It runs in the loop,
        in a task of its own: a caller that is cancelled leaves it to the
        others.  A stale value is computed anew in the background, so that
        nobody waits for it.

        .. versionadded:: 2.0

        """
        # Its callers may not be typed.
        given: typing.Any = factory
        if not callable(given):
            plans.check_callable('factory', factory)
        if (
            type(time) is int
            and stale == 0
            and lease == 10
            and wait is None
            and cache_none is True
            and min_compress_len == 0
            and jitter == 0
            and when is None
        ):
            plan = plans.USUAL[time]
            if tags != ():
                group = self._engine.flow.generations.tags(tags)
                if group:
                    return self._get_grouped(
                        group, key, factory, plan, default
                    )
            encoded = self._encoding.key(key)
            if encoded is not None:
                return self._read(key, encoded, factory, plan, default)
        else:
            plan = plans.plan(
                time,
                stale,
                lease,
                wait,
                cache_none,
                min_compress_len,
                jitter,
                when,
            )
            if tags != ():
                group = self._engine.flow.generations.tags(tags)
                if group:
                    return self._get_grouped(
                        group, key, factory, plan, default
                    )
        return self._look_up(key, factory, plan, default, None)

    async def get_or_set_multi(
        self,
        keys: abc.Iterable[typing.Any],
        factory: abc.Callable[
            [list[typing.Any]], abc.Mapping[typing.Any, typing.Any]
        ]
        | abc.Callable[
            [list[typing.Any]],
            abc.Awaitable[abc.Mapping[typing.Any, typing.Any]],
        ],
        time: typing.Any = 0,
        *,
        key_prefix: typing.Any = '',
        cache_none: bool = True,
        min_compress_len: int = 0,
    ) -> dict[typing.Any, typing.Any]:
        """Awaitable :meth:`.Client.get_or_set_multi`.

        The factory may be a coroutine function as well.

        .. versionadded:: 2.0

        """
        here = self._engine.enter()
        wanted = missing.want(
            self._encoding,
            keys,
            factory,
            time,
            key_prefix,
            cache_none,
            min_compress_len,
        )
        found = await calls.many(here, wanted.read, self._observe)
        if len(found) != len(wanted.read.originals):
            found = await steps.follow_awaited(
                missing.complete(wanted, found),
                computing.Runner(here),
                factory,
            )
        return typing.cast('dict[typing.Any, typing.Any]', found)

    def _read(
        self,
        key: typing.Any,
        encoded: bytes,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
    ) -> Future:
        """Read a value that is not served stale, or compute it.

        It is what :meth:`_look_up` does for most keys, in fewer steps.

        """
        engine = self._engine
        here = engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = engine.enter()
        if self._observe is not None:
            # It may be another one since the loop was entered.
            return self._look_up(key, factory, plan, default, encoded)
        # A hit has no use for what it takes to compute a value.
        context = contextvars.copy_context()
        if here.computing.under_way:
            nesting.note(context)
        future: Future = asyncio.Future()
        wanted = here, context, factory, encoded, None, plan, default
        endpoint = engine.cluster.pick(encoded)
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            here.loop.call_soon(lookups.compute, wanted, future)
            return future
        try:
            lane = here.lanes[endpoint]
        except KeyError:
            lane = here.lane(endpoint)
        lane.read((encoded, future, wanted, lookups.compute, None))
        return future

    def _look_up(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
        encoded: bytes | None,
    ) -> Future:
        """Do what :meth:`get_or_set` does, once its arguments are checked.

        :param bytes encoded: the key as it is sent, None if it is not known

        """
        engine = self._engine
        here = engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = engine.enter()
        # A hit has no use for what it takes to compute a value.
        context = contextvars.copy_context()
        if here.computing.under_way:
            nesting.note(context)
        wanted: lookups.Wanted
        future: Future
        stale = plan.stale
        observe = self._observe
        is_own = self._encoding is not engine.encoding
        if stale and observe is None and type(key) is str and not is_own:
            # To join others takes no more than the key as it is.
            read = here.computing.reads.get(key)
            if read is not None:
                future = here.loop.create_future()
                wanted = (
                    here,
                    context,
                    factory,
                    read.key,
                    None,
                    plan,
                    default,
                )
                if read.join(stale, (future, wanted, None)):
                    return future
        hashed = None
        name = key
        if encoded is None:
            encoded = self._encoding.key(key)
            if encoded is None:
                encoded, hashed = name = self._encoding.route(key)
            if is_own:
                # Of other generations there is the same key.
                name = encoded
        observer = None
        if observe is not None:
            observer = observe('get_or_set', (encoded,))
        future = asyncio.Future()
        wanted = here, context, factory, encoded, hashed, plan, default
        if stale and not here.computing.flow.failures.are_recent(
            (encoded, hashed)
        ):
            lookups.look((future, wanted, observer), name)
            return future
        endpoint = engine.cluster.pick(encoded, hashed)
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            if observer is not None:
                batches.tell(observer.over, endpoints.UnavailableError(), 0, 0)
            here.loop.call_soon(lookups.compute, wanted, future)
            return future
        lane = here.lanes.get(endpoint) or here.lane(endpoint)
        extras = None
        if hashed is not None or observer is not None:
            extras = batches.Extras(hashed, None, observer)
        lane.read((encoded, future, wanted, lookups.compute, extras))
        return future

    async def _refresh(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
    ) -> typing.Any:
        """Compute a value anew, though there may be one."""
        here = self._engine.enter()
        route = self._encoding.route(key)
        whole = self._whole(here, 'refresh', at_first=True)
        work, asked_by = (here.computing, route), nesting.runner()
        nesting.check(work, asked_by)
        here.computing.forget(route)
        want = plans.Want(route, plan, plans.MISS)
        with nesting.part_of(work, asked_by):
            outcome = await whole.follow(
                here.computing.flow.refresh(want), factory
            )
        future = here.loop.create_future()
        computing.give(here, future, outcome, plan.patience)
        return await future

    async def _put(
        self, key: typing.Any, value: typing.Any, plan: plans.Plan
    ) -> int:
        """Store a value as if it had been computed."""
        here = self._engine.enter()
        route = self._encoding.route(key)
        here.computing.forget(route)
        want = plans.Want(route, plan, plans.MISS)
        whole = self._whole(here, 'set')
        return await whole.follow(here.computing.flow.put(want, value))

    async def _as_read(self, computed: missing.Found) -> missing.Found:
        """Return what was computed as it is when it is read the next time."""
        codec = self._encoding.codec
        return await self._unobserved(missing.as_read(codec, computed))

    async def invalidate(self, key: typing.Any) -> int:
        """Awaitable :meth:`.Client.invalidate`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        here = engine.enter()
        route = self._encoding.route(key)
        here.computing.forget(route)
        whole = self._whole(here, 'invalidate')
        return await whole.follow(leases.invalidate(route))

    async def mark_stale(self, key: typing.Any, stale: typing.Any = 60) -> int:
        """Awaitable :meth:`.Client.mark_stale`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        here = engine.enter()
        route = self._encoding.route(key)
        seconds = arguments.whole_seconds('stale', stale, 1)
        here.computing.forget(route)
        whole = self._whole(here, 'mark_stale')
        return await whole.follow(
            here.computing.flow.mark_stale(route, seconds)
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
        here = engine.enter()
        plans.check_callable('function', function)
        route = self._encoding.route(key)
        arguments.exptime(time)
        arguments.attempts(attempts)
        arguments.min_compress_len(min_compress_len)
        async with here.computing.locked(route):
            whole = self._whole(here, 'update')
            return await whole.follow(
                here.computing.flow.update(
                    route, time, min_compress_len, attempts
                ),
                function,
            )

    # What ends together

    def namespace(self, name: str) -> AsyncNamespace:
        """Return these methods for keys that end together.

        .. code-block:: python

            user = client.namespace('user:7')
            await user.set('cart', cart, time=3600)
            await user.get('cart')
            await user.invalidate()     # nothing of it is found any more

        See :meth:`.Client.namespace`.

        :rtype: AsyncNamespace

        .. versionadded:: 2.0

        """
        generations.checked('name', name)
        return AsyncNamespace(self, (), (name,))

    async def invalidate_tags(self, *tags: str) -> int:
        """Awaitable :meth:`.Client.invalidate_tags`.

        .. versionadded:: 2.0

        """
        group = self._flow.generations.tags(tags)
        return await self._end(group, 'invalidate_tags')

    async def _look(
        self, group: generations.Group, method: str | None = None
    ) -> generations.Tokens | None:
        """Return the generations, None where a server does not answer.

        :param str method: what raises that, if it is strict; None for what
            goes on

        """
        raises = method if self._strict else None
        look = self._flow.generations.look
        return await self._unobserved(look(group, raises))

    def _within(
        self,
        group: generations.Group,
        known: generations.Tokens,
        saw: tokens.Tokens | None = None,
    ) -> _Within:
        encoding = self._flow.generations.within(group, known)
        return _Within(self, encoding, saw)

    async def _with_tags(
        self,
        tags: tuple[str, ...],
        method: str,
        call: abc.Callable[[Methods], typing.Any],
        failure: typing.Any,
    ) -> typing.Any:
        """Call something with the methods for what has some tags.

        :param str method: what it is
        :param failure: what to return where these are not known; MISS to call
            it with those for what nobody is to find

        """
        group = self._group + self._flow.generations.tags(tags)
        goes_on = failure is plans.MISS
        known = await self._look(group, None if goes_on else method)
        if known is not None:
            return await call(self._within(group, known))
        if not goes_on:
            return failure
        return await call(_Within(self, self._flow.generations.apart()))

    def _get_grouped(
        self,
        group: generations.Group,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
    ) -> Future:
        """Do what :meth:`get_or_set` does, in the generations of a group."""
        here = self._engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = self._engine.enter()
        context = contextvars.copy_context()
        if here.computing.under_way:
            nesting.note(context)
        known = self._engine.flow.generations
        args = here, context, group, key, factory, plan, default
        if self._observe is None and not plan.stale:
            turn = confirming.turn(here, known, group)
            if turn is not None:
                again = self._get_grouped_again
                future = confirming.read(
                    here, turn, (key, None, _missed), again, args
                )
                if future is not None:
                    return future
        # What is wrong with it is said before anything is sent.
        known.apart().route(key)
        return context.run(here.spawn, self._get_surely(*args))

    def _get_grouped_again(
        self, read: confirming.Read, *args: typing.Any
    ) -> None:
        here, context, *_ = args
        task = context.run(here.spawn, self._get_surely(*args))
        task.add_done_callback(read.settle)

    async def _get_surely(
        self,
        here: state.LoopState,
        context: contextvars.Context,
        group: generations.Group,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
    ) -> typing.Any:
        found = await self._look(group)
        if found is not None:
            within = self._within(group, found)
        else:
            # Nobody will find it, as without a server.
            within = _Within(self, self._flow.generations.apart())
        return await within._look_up(key, factory, plan, default, None)

    async def _end(self, group: generations.Group, method: str) -> int:
        """Give groups other generations; return whether all of them have.

        :param str method: what is called, for errors

        """
        here = self._engine.enter()
        end = self._flow.generations.end
        raises = method if self._strict else None
        ended = await asyncio.gather(
            *[
                self._whole(here, 'invalidate').follow(end(key, raises))
                for key in group
            ],
            # The others are to end all the same.
            return_exceptions=True,
        )
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        return int(all(ended))

    # What processes have in common

    def lock(
        self, name: str, time: typing.Any, *, wait: typing.Any = None
    ) -> locks.AsyncLock:
        """Return a lock that processes have in common.

        .. code-block:: python

            async with client.lock('import', time=30) as held:
                if held:
                    ...

        See :meth:`.Client.lock`.

        :rtype: AsyncLock

        .. versionadded:: 2.0

        """
        claim = locks.Claim(self._flow, name, time, wait)
        return locks.AsyncLock(claim, self._unobserved)

    async def limit(
        self,
        key: typing.Any,
        calls: int,
        seconds: typing.Any,
        *,
        default: bool = True,
    ) -> limits.Allowance:
        """Awaitable :meth:`.Client.limit`.

        .. versionadded:: 2.0

        """
        here = self._engine.enter()
        limit = limits.check(self._encoding, key, calls, seconds, default)
        whole = self._whole(here, 'limit')
        return await whole.follow(limits.take(self._flow, limit))

    async def _unobserved(self, work: steps.Steps[T]) -> T:
        """Do one step after another, of which nobody is told."""
        here = self._engine.enter()
        return await steps.follow_awaited(work, computing.Runner(here))

    # Numbers

    def incr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
        timeout: float | None = None,
    ) -> asyncio.Future[int | None]:
        """Awaitable :meth:`.Client.incr`."""
        return self._count(
            protocol.INCR, key, delta, noreply, initial, time, timeout
        )

    def decr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
        timeout: float | None = None,
    ) -> asyncio.Future[int | None]:
        """Awaitable :meth:`.Client.decr`."""
        return self._count(
            protocol.DECR, key, delta, noreply, initial, time, timeout
        )

    def _count(
        self,
        verb: protocol.Verb,
        key: typing.Any,
        delta: int,
        noreply: bool,
        initial: int | None,
        time: typing.Any,
        timeout: float | None,
    ) -> asyncio.Future[int | None]:
        asked = counts.check(self._encoding, verb, key, delta, initial, time)
        if asked is None:
            return self._one(
                methods.count(verb, self._encoding, key, delta, noreply),
                timeout,
            )
        if self._flow.knows_meta() and not noreply:
            # It takes no more than that.
            return self._one(counts.Direct(self._flow, asked), timeout)
        seconds = errors.timeout(timeout)
        task = self._task(self._counted, verb.name, asked, noreply)
        if seconds is None:
            return task
        return self._bounded(task, verb.name, seconds, None)

    async def _counted(
        self,
        here: state.LoopState,
        name: str,
        asked: counts.Count,
        noreply: bool,
    ) -> int | None:
        whole = self._whole(here, name)
        number = await whole.follow(counts.number(here.computing.flow, asked))
        return None if noreply else number

    # Expiry and deletion

    def touch(
        self,
        key: typing.Any,
        time: typing.Any = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.touch`."""
        return self._one(methods.touch(self._encoding, key, time), timeout)

    def delete(
        self,
        key: typing.Any,
        time: typing.Any = None,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.delete`."""
        return self._one(methods.delete(self._encoding, key, time), timeout)

    def delete_multi(
        self,
        keys: abc.Iterable[typing.Any],
        time: typing.Any = None,
        key_prefix: typing.Any = '',
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Awaitable :meth:`.Client.delete_multi`."""
        return self._many(
            methods.delete_multi(self._encoding, keys, time, key_prefix),
            timeout,
        )

    # Servers

    def flush_all(self) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.flush_all`."""
        return self._everywhere(methods.flush_all())

    def get_stats(
        self, stat_args: str | None = None
    ) -> asyncio.Future[list[tuple[str, dict[str, str]]]]:
        """Awaitable :meth:`.Client.get_stats`."""
        return self._everywhere(
            methods.get_stats(self._engine.cluster, stat_args)
        )

    def get_slab_stats(
        self,
    ) -> asyncio.Future[list[tuple[str, dict[str, typing.Any]]]]:
        """Awaitable :meth:`.Client.get_slab_stats`."""
        return self._everywhere(methods.get_slab_stats(self._engine.cluster))

    def get_slabs(
        self,
    ) -> asyncio.Future[list[tuple[str, dict[str, typing.Any]]]]:
        """Awaitable :meth:`.Client.get_slabs`."""
        return self._everywhere(methods.get_slabs(self._engine.cluster))

    def ping(self) -> asyncio.Future[bool]:
        """Awaitable :meth:`.Client.ping`.

        .. versionadded:: 2.0

        """
        return self._everywhere(methods.ping(self._engine.cluster))

    def version(self) -> asyncio.Future[dict[str, str]]:
        """Awaitable :meth:`.Client.version`.

        .. versionadded:: 2.0

        """
        return self._everywhere(methods.version(self._engine.cluster))

    async def wait_until_ready(self, seconds: typing.Any) -> bool:
        """Awaitable :meth:`.Client.wait_until_ready`.

        .. versionadded:: 2.0

        """
        here = self._engine.enter()
        until = clock.monotonic() + arguments.seconds('seconds', seconds)
        request = methods.ping(here.cluster)
        while True:
            for endpoint in here.cluster.endpoints:
                endpoint.try_soon()
            asked = calls.everywhere(here, request, None)
            left = max(until - clock.monotonic(), 0.001)
            await asyncio.wait((asked,), timeout=left)
            if asked.done() and asked.result():
                return True
            if clock.monotonic() + READY_PAUSE >= until:
                return False
            await asyncio.sleep(READY_PAUSE)

    def __repr__(self) -> str:
        name = type(self).__name__
        if not hasattr(self, '_engine'):
            # A debugger may ask while it is made.
            return f'<{name}>'
        return self._engine.core.describe(name)

    def set_servers(
        self, servers: abc.Iterable[settings.Weighted]
    ) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.set_servers`.

        Done once it returns, unless there are so many servers that a thread
        has to find the places of keys; those of before are used until then.

        """
        servers = settings.hide_servers(servers)
        return self._engine.set_servers(servers)

    def watch_servers(self, callback: events.Listener) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.watch_servers`; done once it returns.

        The function is called in the event loop that the client is used in.

        .. versionadded:: 2.0

        """
        plans.check_callable('callback', callback)
        self._engine.watch_servers(callback)
        return self._done()

    def forget_dead_hosts(self) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.forget_dead_hosts`; done at once."""
        self._engine.core.forget_dead_hosts()
        return self._done()

    def disconnect_all(self) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.disconnect_all`; done once it returns."""
        self._engine.core.disconnect_all()
        return self._done()

    def quit_all(self) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.quit_all`; done once it returns."""
        return self.disconnect_all()

    def reset_cas(self) -> asyncio.Future[None]:
        """Awaitable :meth:`.Client.reset_cas`, of this scope; at once."""
        self._tokens().clear()
        return self._done()

    # The way to the engine

    @property
    def _flow(self) -> leases.Flow:
        flow: leases.Flow = self._engine.flow
        return flow

    def _one(
        self,
        request: descriptions.One[T],
        timeout: float | None = None,
    ) -> asyncio.Future[T]:
        seconds = None if timeout is None else errors.timeout(timeout)
        here = self._engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            # There, there may be another observer.
            here = self._engine.enter()
        if self._strict:
            request = errors.One(request)
        return calls.one(here, request, self._observe, seconds)

    def _many(
        self,
        request: descriptions.Many[T],
        timeout: float | None = None,
    ) -> asyncio.Future[T]:
        seconds = errors.timeout(timeout)
        here = self._engine.enter()
        if self._strict:
            request = errors.Many(request)
        return calls.many(here, request, self._observe, seconds)

    def _everywhere(
        self, request: descriptions.Everywhere[T]
    ) -> asyncio.Future[T]:
        here = self._engine.enter()
        return calls.everywhere(here, request, self._observe)

    def _whole(
        self, here: state.LoopState, name: str, at_first: bool = False
    ) -> computing.Whole:
        """Return a call of several steps, which is to be done.

        :param bool at_first: see :class:`.Whole`

        """
        return computing.Whole(
            here,
            observe=self._observe,
            method=name,
            at_first=at_first,
            strict=self._strict and name not in NEVER_STRICT,
        )

    def _bounded(
        self,
        task: Future,
        name: str,
        seconds: float,
        failure: typing.Any,
    ) -> Future:
        """Return the future of what has less time than the client's calls.

        :param failure: what it is when the time is over

        """
        here = self._engine.enter()
        future = here.loop.create_future()

        def give_up() -> None:
            if self._strict:
                error = TimeoutError('timed out')
                futures.fail(future, errors.of(name, error))
            else:
                future.set_result(failure)

        def over(task: Future) -> None:
            if task.cancelled():
                future.cancel()
            else:
                futures.settle(future, task.result)

        task.add_done_callback(over)
        here.within(future, seconds, give_up)
        return future

    def _task(
        self,
        work: abc.Callable[..., abc.Coroutine[typing.Any, typing.Any, T]],
        *args: typing.Any,
    ) -> asyncio.Future[T]:
        """Return the future of what takes several steps.

        It is done whether or not somebody waits for it.

        :param work: is given what the client has in the loop, and the rest

        """
        here = self._engine.enter()
        return here.spawn(work(here, *args))

    def _done(self) -> asyncio.Future[None]:
        """Return the future of what is done already."""
        future = self._engine.enter().loop.create_future()
        future.set_result(None)
        return future


class Scope(Methods):
    """The methods of a client for one piece of work, a request say.

    What its :meth:`~.AsyncClient.gets` saw is for its own
    :meth:`~.AsyncClient.cas` only.  It comes from :meth:`.AsyncClient.scope`.

    """

    def __init__(
        self,
        engine: engines.Engine,
        observe: Observe | None = None,
        strict: bool | None = None,
    ) -> None:
        super().__init__(engine, observe)
        self._saw = tokens.Tokens()
        if strict is not None:
            self._strict = core.strict(strict)

    def _tokens(self) -> tokens.Tokens:
        return self._saw


class _Within(Methods):
    """The methods of another client, in some generation.

    :param saw: what the ``gets`` of the caller saw, where that matters

    """

    def __init__(
        self,
        parent: Methods,
        encoding: encodings.Encoding,
        saw: tokens.Tokens | None = None,
    ) -> None:
        super().__init__(parent._engine, parent._observe)
        self._strict = parent._strict
        self._encoding = encoding
        self._parent = parent
        self._saw = saw

    def _tokens(self) -> tokens.Tokens:
        return self._parent._tokens() if self._saw is None else self._saw


class AsyncNamespace(Methods):
    """The methods of a client for keys that end together.

    It comes from :meth:`.AsyncClient.namespace`.

    """

    def __init__(
        self,
        parent: Methods,
        outer: generations.Group,
        names: tuple[str, ...],
    ) -> None:
        super().__init__(parent._engine, parent._observe)
        self._strict = parent._strict
        self._parent = parent
        self._names = names
        own = self._flow.generations.key('namespace', *names)
        self._group = (*outer, own)

    def _tokens(self) -> tokens.Tokens:
        return self._parent._tokens()

    def __repr__(self) -> str:
        return self._engine.core.describe(type(self).__name__, *self._names)

    def namespace(self, name: str) -> AsyncNamespace:
        """Return a namespace within this one, with which it ends."""
        generations.checked('name', name)
        return AsyncNamespace(self._parent, self._group, (*self._names, name))

    def lock(
        self, name: str, time: typing.Any, *, wait: typing.Any = None
    ) -> locks.AsyncLock:
        """Return a lock; see :meth:`.Client.lock`.

        It is this namespace's, and does not end with it.

        """
        claim = locks.Claim(self._flow, name, time, wait, self._names)
        return locks.AsyncLock(claim, self._unobserved)

    async def invalidate(self, key: typing.Any = namespaces.WHOLE) -> int:
        """Let nothing be found any more; with a key, delete that alone.

        :param str key: text, bytes, or ``(hash, key)``
        :return: nonzero if that was done, or there was such a key

        """
        if key is namespaces.WHOLE:
            return await self._end(self._group[-1:], 'invalidate')
        self._check(Methods.invalidate, (key,), {})
        done = await self._sure(Methods.invalidate, (key,), {})
        return typing.cast(int, done)

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: None = None,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> asyncio.Future[T | None]: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: D,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> asyncio.Future[T | D]: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: None = None,
    ) -> Future: ...

    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: type[typing.Any] | None = None,
    ) -> Future:
        here = self._engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = self._engine.enter()
        plain = timeout is None and kind is None and not self._strict
        if plain and self._observe is None:
            turn = confirming.turn(here, self._flow.generations, self._group)
            if turn is not None:
                future = confirming.read(
                    here,
                    turn,
                    (key, default, None),
                    self._get_again,
                    (key, default),
                )
                if future is not None:
                    return future
        more = {'timeout': timeout, 'kind': kind}
        return self._call(Methods.get, (key, default), more)

    def _get_again(
        self, read: confirming.Read, key: typing.Any, default: typing.Any
    ) -> None:
        work = self._sure(Methods.get, (key, default), {})
        task = self._engine.enter().spawn(work)
        task.add_done_callback(read.settle)

    def get_or_set(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        time: typing.Any = 0,
        *,
        stale: typing.Any = 0,
        lease: typing.Any = 10,
        wait: typing.Any = None,
        default: typing.Any = plans.MISS,
        cache_none: bool = True,
        min_compress_len: int = 0,
        tags: tuple[str, ...] = (),
        jitter: typing.Any = 0,
        when: abc.Callable[[typing.Any], typing.Any] | None = None,
    ) -> Future:
        plans.check_callable('factory', factory)
        plan = plans.plan(
            time,
            stale,
            lease,
            wait,
            cache_none,
            min_compress_len,
            jitter,
            when,
        )
        group = self._group
        if tags != ():
            group += self._flow.generations.tags(tags)
        return self._get_grouped(group, key, factory, plan, default)

    async def _refresh(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
    ) -> typing.Any:
        return await self._with_tags(
            (),
            'refresh',
            lambda within: within._refresh(key, factory, plan),
            plans.MISS,
        )

    async def _put(
        self, key: typing.Any, value: typing.Any, plan: plans.Plan
    ) -> int:
        stored = await self._with_tags(
            (), 'set', lambda within: within._put(key, value, plan), 0
        )
        return typing.cast(int, stored)

    async def _sure(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
        saw: tokens.Tokens | None = None,
    ) -> typing.Any:
        """Call a method once the generations are known."""
        try:
            known = await self._look(self._group, _raising(method))
        except errors.MemcachedError:
            # What the caller got wrong is said all the same.
            await self._checked(method, args, kwargs)
            raise
        if known is not None:
            within = self._within(self._group, known, saw)
        elif method in (Methods.get_or_set, Methods.get_or_set_multi):
            # Nobody will find it, as without a server.
            within = _Within(self._parent, self._flow.generations.apart())
        else:
            await self._checked(method, args, kwargs)
            return self._failure(method, args, kwargs)
        return await method(within, *args, **kwargs)

    async def _checked(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> None:
        """Say what is wrong with a call for which no server answers."""
        apart = self._flow.generations.apart()
        for _ in namespaces.checked(apart, method, args, kwargs):
            await asyncio.sleep(0)

    async def _unseen(self) -> int:
        """Store nothing, for what gets saw was in another generation."""
        if self._strict:
            await self._look(self._group, 'cas')
        return 0

    async def _at_once(
        self,
        guess: generations.Known,
        guessed: Future,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
        saw: tokens.Tokens | None,
    ) -> typing.Any:
        """Take what came, if the generations were what they were taken for."""
        try:
            known = await self._look(self._group, _raising(method))
        finally:
            # Nobody else is to hear of it.
            guessed.add_done_callback(_forget)
        if known == guess.tokens:
            return await guessed
        if known is None or method is Methods.cas:
            return self._failure(method, args, kwargs)
        within = self._within(self._group, known, saw)
        return await method(within, *args, **kwargs)

    def _failure(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> typing.Any:
        apart = self._flow.generations.apart()
        return namespaces.failure(apart, method, args, kwargs)

    def _check(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> None:
        apart = self._flow.generations.apart()
        namespaces.check(apart, method, args, kwargs)

    def _call(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> Future:
        """Call a method in the same batch in which generations are read."""
        seconds = errors.timeout(kwargs.get('timeout'))
        args, kwargs = namespaces.taken(method, args, kwargs)
        if seconds is None:
            return self._begin(method, args, kwargs)
        return self._bounded(
            self._begin(method, args, kwargs),
            method.__name__,
            seconds,
            self._failure(method, args, kwargs),
        )

    def _begin(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> Future:
        here = self._engine.enter()
        saw = None
        seen = False
        if method in _WITH_TOKENS:
            # They are the caller's, who is not who goes on.
            saw = self._parent._tokens()
            key = namespaces.key_of(method, args, kwargs)
            what = self._group, self._encoding.route(key)
            if method is Methods.cas:
                seen = saw.is_expected(what)
            else:
                # One that raises has seen nothing.
                self._check(method, args, kwargs)
                saw.expect(what)
        found = self._flow.generations
        guess = found.guess(self._group)
        if guess is None or found.is_owed(self._group):
            self._check(method, args, kwargs)
            if method is Methods.cas and seen:
                # What gets saw was in another generation.
                return here.spawn(self._unseen())
            return here.spawn(self._sure(method, args, kwargs, saw))
        within = _Within(self._parent, guess.encoding, saw)
        try:
            guessed = method(within, *args, **kwargs)
        except RuntimeError:
            if method is Methods.cas and seen:
                # Likewise.
                return here.spawn(self._unseen())
            raise
        return here.spawn(
            self._at_once(guess, guessed, method, args, kwargs, saw)
        )

    def _steps(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> abc.Coroutine[typing.Any, typing.Any, typing.Any]:
        """Call a method of several steps."""
        self._check(method, args, kwargs)
        return self._sure(method, args, kwargs)


def _missed(value: typing.Any, read: confirming.Read) -> None:
    """Get a value that was not there, in the generations as they are."""
    read.again(read, *read.args)


_WITH_TOKENS = (Methods.gets, Methods.gats, Methods.cas)


def _raising(method: abc.Callable[..., typing.Any]) -> str | None:
    """Return the name of a method, None if it goes on without a server."""
    name = method.__name__
    return None if name in namespaces.GOING_ON else name


def _forget(future: Future) -> None:
    if not future.cancelled():
        future.exception()


def _in_namespace(
    name: str, call: abc.Callable[..., typing.Any]
) -> abc.Callable[..., typing.Any]:
    """Return a method of a namespace."""
    method = getattr(Methods, name)

    @functools.wraps(method)
    def within(
        self: AsyncNamespace, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        return call(self, method, args, kwargs)

    return within


for _name in namespaces.AGAIN:
    setattr(AsyncNamespace, _name, _in_namespace(_name, AsyncNamespace._call))
for _name in namespaces.STEPS:
    setattr(AsyncNamespace, _name, _in_namespace(_name, AsyncNamespace._steps))


class AsyncClient(Methods):
    """The awaitable client.

    .. code-block:: python

        client = memcached.AsyncClient('pages')   # PAGES_MEMCACHED_SERVERS
        await client.set('front', 'Hello', time=60)
        front = await client.get('front')
        await client.close()

    Most methods return a future, and the call has begun by then.  These are
    coroutines, which begin when they are awaited: :meth:`get_or_set_multi`,
    :meth:`invalidate`, :meth:`invalidate_tags`, :meth:`limit`,
    :meth:`mark_stale`, :meth:`update`, :meth:`wait_until_ready` and
    :meth:`close`.

    What is called in the same turn of the event loop travels together,
    whoever calls: one write, one read.  A read that is called after a write
    sees what was written.

    It can be made before there is a loop, and be used in one after another,
    but not in two at once.  A caller that is cancelled, or times out, leaves
    the others alone.  What :meth:`gets` saw is for the :meth:`cas` of the
    same task; :meth:`scope` gives the methods with a scope of their own.

    :param str prefix: the prefix of the variables, as for :class:`Client`
    :param concurrent.futures.Executor executor: runs, in threads, what may
        block: connecting, trying again, large values, TLS.  One of its
        threads is left to others; what hangs on one server may hold up the
        others unless it has more than one thread a server.
        Default: threads of the library, up to ``max_connections`` for each
        server in this process, and four for values that take long to make
    :param options: the options of :class:`Client`, ``strict`` as well
    :raises TypeError: for an option that there is not, and for what is no
        executor of threads
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
        core.hide(options)
        if executor is not None:
            threads.check(executor)
        belongings = core.Core(prefix, options)
        flow = leases.Flow(belongings.encoding, belongings.cluster)
        make = functools.partial(computing.Computing, flow)
        super().__init__(engines.Engine(belongings, executor, make))
        self._engine.flow = flow
        # It looks for a tracer in each loop; a scope when it is made.
        self._engine.client = weakref.ref(self)
        self._by_task: weakref.WeakKeyDictionary[
            asyncio.Task[typing.Any], tokens.Tokens
        ] = weakref.WeakKeyDictionary()

    def scope(
        self, observe: Observe | None = None, *, strict: bool | None = None
    ) -> Scope:
        """Return the methods with a scope of their own for gets and cas.

        :param observe: is called with the name of each method that is
            called, and the keys, and returns who is told how the call went
        :param bool strict: whether its calls raise what goes wrong; None for
            what the client does
        :rtype: Scope

        """
        tracing = self._engine.tracing.observe()
        both = observers.both(observe, tracing)
        return Scope(self._engine, both, strict)

    async def close(self) -> None:
        """Answer what is in flight, then release threads and connections.

        A call after that raises :exc:`RuntimeError`.

        """
        await self._engine.close()

    async def __aenter__(self) -> typing.Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        await self.close()

    def _tokens(self) -> tokens.Tokens:
        self._engine.enter()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError(
                'gets and cas outside of a task belong to no one; use scope()'
            )
        return self._by_task.setdefault(task, tokens.Tokens())
