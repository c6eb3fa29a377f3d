"""The awaitable client: the methods of the blocking one as futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import core, settings
from sprockets.clients.memcached.loop import (
    batches,
    calls,
    engines,
    state,
    threads,
)
from sprockets.clients.memcached.once import (
    computing,
    counts,
    leases,
    lookups,
    missing,
    nesting,
    plans,
    steps,
)
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    methods,
    tokens,
)
from sprockets.clients.memcached.servers import endpoints
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Future = asyncio.Future[typing.Any]

Observe = observers.Observe

T = typing.TypeVar('T')


class Methods:
    """The methods of :class:`~sprockets.clients.memcached.Client`, awaitable.

    Arguments, results and errors are theirs.  What is wrong with an argument
    raises at once; the future has the result.

    """

    def __init__(
        self, engine: engines.Engine, observe: Observe | None = None
    ) -> None:
        self._engine = engine
        self._observe = observe

    def _tokens(self) -> tokens.Tokens:
        """Return what the ``gets`` of this scope saw."""
        raise NotImplementedError

    # Reading

    def get(self, key: typing.Any, default: typing.Any = None) -> Future:
        """Awaitable :meth:`.Client.get`."""
        engine = self._engine
        here = engine.entered
        if here is None or here.loop is not asyncio.get_running_loop():
            here = engine.enter()
        encoded = engine.encoding.key(key)
        if encoded is None or self._observe is not None:
            return self._get(here, key, default)
        future: Future = asyncio.Future(loop=here.loop)
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
        self, here: state.LoopState, key: typing.Any, default: typing.Any
    ) -> Future:
        """Get the value of any key, and tell who observes."""
        engine = self._engine
        encoded, hashed = engine.encoding.route(key)
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

    def gets(self, key: typing.Any) -> Future:
        """Awaitable :meth:`.Client.gets`, for this scope's :meth:`cas`."""
        return self._one(methods.gets(self._encoding, key, self._tokens()))

    def gat(
        self, key: typing.Any, time: typing.Any, default: typing.Any = None
    ) -> Future:
        """Awaitable :meth:`.Client.gat`.

        .. versionadded:: 2.0

        """
        return self._one(methods.gat(self._encoding, key, time, default))

    def gats(self, key: typing.Any, time: typing.Any) -> Future:
        """Awaitable :meth:`.Client.gats`, for this scope's :meth:`cas`.

        .. versionadded:: 2.0

        """
        return self._one(
            methods.gats(self._encoding, key, time, self._tokens())
        )

    def get_multi(
        self, keys: abc.Iterable[typing.Any], key_prefix: typing.Any = ''
    ) -> Future:
        """Awaitable :meth:`.Client.get_multi`."""
        return self._many(methods.get_multi(self._encoding, keys, key_prefix))

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
        return self._one(
            methods.store(
                protocol.SET,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            )
        )

    def add(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.add`."""
        return self._one(
            methods.store(
                protocol.ADD,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            )
        )

    def replace(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.replace`."""
        return self._one(
            methods.store(
                protocol.REPLACE,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            )
        )

    def append(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.append`."""
        return self._one(
            methods.store(
                protocol.APPEND,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            )
        )

    def prepend(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.prepend`."""
        return self._one(
            methods.store(
                protocol.PREPEND,
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
            )
        )

    def cas(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.cas`, after this scope's :meth:`gets`."""
        return self._one(
            methods.cas(
                self._encoding,
                key,
                val,
                time,
                min_compress_len,
                self._tokens(),
            )
        )

    def set_multi(
        self,
        mapping: abc.Mapping[typing.Any, typing.Any],
        time: typing.Any = 0,
        key_prefix: typing.Any = '',
        min_compress_len: int = 0,
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.set_multi`."""
        return self._many(
            methods.set_multi(
                self._encoding, mapping, time, key_prefix, min_compress_len
            )
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
        ):
            plan = plans.USUAL[time]
            encoded = self._engine.encoding.key(key)
            if encoded is not None:
                return self._read(key, encoded, factory, plan, default)
        else:
            plan = plans.plan(
                time, stale, lease, wait, cache_none, min_compress_len
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
                missing.complete(here.computing.flow, wanted, found),
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
        future: Future = asyncio.Future(loop=here.loop)
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
        if stale and observe is None and type(key) is str:
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
            encoded = engine.encoding.key(key)
            if encoded is None:
                encoded, hashed = name = engine.encoding.route(key)
        observer = None
        if observe is not None:
            observer = observe('get_or_set', (encoded,))
        future = asyncio.Future(loop=here.loop)
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
        want = plans.Want(self._encoding.route(key), plan, plans.MISS)
        runner = computing.Runner(here, self._observe, 'refresh')
        with nesting.part_of((here.computing, want.route), nesting.runner()):
            outcome = await steps.follow_awaited(
                here.computing.flow.refresh(want), runner, factory
            )
        future = here.loop.create_future()
        computing.give(here, future, outcome, plan.patience)
        return await future

    async def _put(
        self, key: typing.Any, value: typing.Any, plan: plans.Plan
    ) -> int:
        """Store a value as if it had been computed."""
        here = self._engine.enter()
        want = plans.Want(self._encoding.route(key), plan, plans.MISS)
        runner = computing.Runner(here, self._observe, 'set')
        return await steps.follow_awaited(
            here.computing.flow.put(want, value), runner
        )

    async def invalidate(self, key: typing.Any) -> int:
        """Awaitable :meth:`.Client.invalidate`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        here = engine.enter()
        route = engine.encoding.route(key)
        here.computing.forget(route)
        runner = computing.Runner(here, self._observe, 'invalidate')
        return await steps.follow_awaited(leases.invalidate(route), runner)

    async def mark_stale(self, key: typing.Any, stale: typing.Any = 60) -> int:
        """Awaitable :meth:`.Client.mark_stale`.

        .. versionadded:: 2.0

        """
        engine = self._engine
        here = engine.enter()
        route = engine.encoding.route(key)
        seconds = arguments.whole_seconds('stale', stale, 1)
        here.computing.forget(route)
        runner = computing.Runner(here, self._observe, 'mark_stale')
        return await steps.follow_awaited(
            here.computing.flow.mark_stale(route, seconds), runner
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
        route = engine.encoding.route(key)
        arguments.exptime(time)
        runner = computing.Runner(here, self._observe, 'update')
        async with here.computing.locked(route):
            return await steps.follow_awaited(
                here.computing.flow.update(
                    route, time, min_compress_len, attempts
                ),
                runner,
                function,
            )

    # Numbers

    def incr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
    ) -> Future:
        """Awaitable :meth:`.Client.incr`."""
        return self._count(protocol.INCR, key, delta, noreply, initial, time)

    def decr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
    ) -> Future:
        """Awaitable :meth:`.Client.decr`."""
        return self._count(protocol.DECR, key, delta, noreply, initial, time)

    def _count(
        self,
        verb: protocol.Verb,
        key: typing.Any,
        delta: int,
        noreply: bool,
        initial: int | None,
        time: typing.Any,
    ) -> Future:
        asked = counts.check(self._encoding, verb, key, delta, initial, time)
        if asked is None:
            return self._one(
                methods.count(verb, self._encoding, key, delta, noreply)
            )
        return self._task(self._counted, verb.name, asked, noreply)

    async def _counted(
        self,
        here: state.LoopState,
        name: str,
        asked: counts.Count,
        noreply: bool,
    ) -> int | None:
        number = await steps.follow_awaited(
            counts.number(here.computing.flow, asked),
            computing.Runner(here, self._observe, name),
        )
        return None if noreply else number

    # Expiry and deletion

    def touch(
        self, key: typing.Any, time: typing.Any = 0, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.touch`."""
        return self._one(methods.touch(self._encoding, key, time))

    def delete(
        self, key: typing.Any, time: typing.Any = None, noreply: bool = False
    ) -> Future:
        """Awaitable :meth:`.Client.delete`."""
        return self._one(methods.delete(self._encoding, key, time))

    def delete_multi(
        self,
        keys: abc.Iterable[typing.Any],
        time: typing.Any = None,
        key_prefix: typing.Any = '',
        noreply: bool = False,
    ) -> Future:
        """Awaitable :meth:`.Client.delete_multi`."""
        return self._many(
            methods.delete_multi(self._encoding, keys, time, key_prefix)
        )

    # Servers

    def flush_all(self) -> Future:
        """Awaitable :meth:`.Client.flush_all`."""
        return self._everywhere(methods.flush_all())

    def get_stats(self, stat_args: str | None = None) -> Future:
        """Awaitable :meth:`.Client.get_stats`."""
        return self._everywhere(
            methods.get_stats(self._engine.cluster, stat_args)
        )

    def get_slab_stats(self) -> Future:
        """Awaitable :meth:`.Client.get_slab_stats`."""
        return self._everywhere(methods.get_slab_stats(self._engine.cluster))

    def get_slabs(self) -> Future:
        """Awaitable :meth:`.Client.get_slabs`."""
        return self._everywhere(methods.get_slabs(self._engine.cluster))

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> Future:
        """Awaitable :meth:`.Client.set_servers`.

        Done once it returns, unless there are so many servers that a thread
        has to find the places of keys; those of before are used until then.

        """
        servers = settings.hide_servers(servers)
        return self._engine.set_servers(servers)

    def forget_dead_hosts(self) -> Future:
        """Awaitable :meth:`.Client.forget_dead_hosts`; done at once."""
        self._engine.core.forget_dead_hosts()
        return self._done()

    def disconnect_all(self) -> Future:
        """Awaitable :meth:`.Client.disconnect_all`; done once it returns."""
        self._engine.core.disconnect_all()
        return self._done()

    def quit_all(self) -> Future:
        """Awaitable :meth:`.Client.quit_all`; done once it returns."""
        return self.disconnect_all()

    def reset_cas(self) -> Future:
        """Awaitable :meth:`.Client.reset_cas`, of this scope; at once."""
        self._tokens().clear()
        return self._done()

    # The way to the engine

    @property
    def _encoding(self) -> encodings.Encoding:
        return self._engine.encoding

    def _one(self, request: descriptions.One[typing.Any]) -> Future:
        # In another loop there may be another observer.
        here = self._engine.enter()
        return calls.one(here, request, self._observe)

    def _many(self, request: descriptions.Many[typing.Any]) -> Future:
        here = self._engine.enter()
        return calls.many(here, request, self._observe)

    def _everywhere(
        self, request: descriptions.Everywhere[typing.Any]
    ) -> Future:
        here = self._engine.enter()
        return calls.everywhere(here, request, self._observe)

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

    def _done(self) -> Future:
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
        self, engine: engines.Engine, observe: Observe | None = None
    ) -> None:
        super().__init__(engine, observe)
        self._saw = tokens.Tokens()

    def _tokens(self) -> tokens.Tokens:
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
    write, one read.  A read that is called after a write sees what was
    written.

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
        core.hide(options)
        if executor is not None:
            threads.check(executor)
        belongings = core.Core(prefix, options)
        flow = leases.Flow(belongings.encoding, belongings.cluster)
        make = functools.partial(computing.Computing, flow)
        super().__init__(engines.Engine(belongings, executor, make))
        # It looks for a tracer in each loop; a scope when it is made.
        self._engine.client = weakref.ref(self)
        self._by_task: weakref.WeakKeyDictionary[
            asyncio.Task[typing.Any], tokens.Tokens
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

    def _tokens(self) -> tokens.Tokens:
        self._engine.enter()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError(
                'gets and cas outside of a task belong to no one; use scope()'
            )
        return self._by_task.setdefault(task, tokens.Tokens())
