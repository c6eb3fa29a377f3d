"""The awaitable client: the methods of the blocking one as futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import settings
from sprockets.clients.memcached.loop import batches, calls, engines
from sprockets.clients.memcached.once import flights, leases, lookups
from sprockets.clients.memcached.requests import commands
from sprockets.clients.memcached.servers import cluster, health
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Future = asyncio.Future[typing.Any]

Observe = observers.Observe


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
        loop = engine.entered
        if loop is None or loop is not asyncio.get_running_loop():
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
                batches.tell(observer.over, health.UnavailableError(), 0, 0)
            # Not at once: who only ever awaits this must let the loop turn.
            loop.call_soon(batches.fall_back, future, default)
        else:
            lane = engine.lanes.get(endpoint) or engine.lane(endpoint)
            lane.read((encoded, future, default, hashed, (), observer, None))
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

        def finish(call: calls.Call) -> typing.Any:
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

        def finish(call: calls.Call) -> typing.Any:
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
        loop = engine.entered
        if loop is None or loop is not asyncio.get_running_loop():
            loop = engine.enter()
        # Its callers may not be typed.
        given: typing.Any = factory
        if not callable(given):
            leases.check_callable('factory', factory)
        when: int = time
        if type(time) is not int or not 0 <= time <= commands.MONTH:
            when = commands.exptime(time)
        terms = leases.USUAL
        if stale != 0 or lease != 10 or wait is not None:
            terms = leases.terms(stale, lease, wait)
            if when + terms[0] > commands.MONTH:
                # What is wrong with it is said before anything is sent.
                leases.kept(when, terms)
        how = when, terms, default, cache_none, min_compress_len
        if terms is not leases.USUAL or self._observe is not None:
            return self._look_up_key(key, factory, how)
        # Most calls are like that: as there, in fewer steps.
        encoded = engine.requests.key(key)
        if encoded is None:
            return self._look_up_key(key, factory, how)
        endpoint = engine.cluster.pick(encoded)
        if endpoint is None:
            return self._look_up_key(key, factory, how)
        future = loop.create_future()
        context = contextvars.copy_context()
        wanted = engine, context, factory, encoded, None, how
        lane = engine.lanes.get(endpoint) or engine.lane(endpoint)
        compute = lookups.compute
        lane.read((encoded, future, wanted, None, (), None, compute))
        return future

    def _look_up_key(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        how: leases.How,
    ) -> Future:
        engine = self._engine
        if type(key) is str and self._observe is None:
            # To join others takes no more than the key as it is.
            shared = engine.looks.get(key)
            if shared is not None:
                future = asyncio.get_running_loop().create_future()
                context = contextvars.copy_context()
                wanted = engine, context, factory, shared.key, None, how
                if shared.join(how[1][0], (future, wanted, None)):
                    return future
        encoded = engine.requests.key(key)
        if encoded is not None:
            return self._look_up(encoded, None, factory, how, key)
        route = engine.requests.route(key)
        return self._look_up(*route, factory, how, route)

    def _look_up(
        self,
        encoded: bytes,
        hashed: int | None,
        factory: abc.Callable[[], typing.Any],
        how: leases.How,
        what: abc.Hashable,
    ) -> Future:
        """Do what :meth:`get_or_set` does, once everything is checked.

        :param what: what those have in common who want the same

        """
        engine = self._engine
        loop = engine.entered
        if loop is None or loop is not asyncio.get_running_loop():
            loop = engine.enter()
        observer = None
        if self._observe is not None:
            observer = self._observe('get_or_set', (encoded,))
        future = loop.create_future()
        # A hit has no use for what it takes to compute a value.
        context = contextvars.copy_context()
        wanted = engine, context, factory, encoded, hashed, how
        if how[1][0]:
            lookups.look((future, wanted, observer), what, loop)
            return future
        endpoint = engine.cluster.pick(encoded, hashed)
        if endpoint is None:
            engine.unserved.fail(clock.monotonic())
            if observer is not None:
                batches.tell(observer.over, health.UnavailableError(), 0, 0)
            loop.call_soon(lookups.compute, wanted, future)
            return future
        lane = engine.lanes.get(endpoint) or engine.lane(endpoint)
        compute = lookups.compute
        lane.read((encoded, future, wanted, hashed, (), observer, compute))
        return future

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
            await calls.follow(
                engine, steps, None, self._observe, 'invalidate'
            ),
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
            await calls.follow(
                engine, steps, None, self._observe, 'mark_stale'
            ),
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
                return await calls.follow(
                    engine, steps, function, self._observe, 'update'
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
        only: health.Endpoint | None = None,
        finish: abc.Callable[[calls.Call], typing.Any] | None = None,
    ) -> Future:
        engine = self._engine
        loop = engine.enter()
        observer = self._observer(method, (route.key,))
        return calls.Call(
            engine, command, route, only, finish, observer
        ).start(loop)

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
        calls.Spread(engine, rounds, future, over).start()
        return future

    def _on_every_server(
        self,
        method: str,
        make: abc.Callable[[], protocol.Command],
        result: abc.Callable[
            [dict[health.Endpoint, protocol.Command]], typing.Any
        ],
    ) -> Future:
        engine = self._engine
        future = engine.enter().create_future()
        observer = self._observer(method, ())
        asked: dict[health.Endpoint, protocol.Command] = {}
        reached: list[health.Endpoint] = []

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

        calls.Spread(engine, rounds(), future, over).start()
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


def _nothing(call: calls.Call) -> None:
    """Return what ``noreply`` promises."""


class Scope(Methods):
    """The methods of a client for one piece of work, a request say.

    What its :meth:`~.AsyncClient.gets` saw is for its own
    :meth:`~.AsyncClient.cas` only.  It comes from :meth:`.AsyncClient.scope`.

    """

    def __init__(
        self, engine: engines.Engine, observe: Observe | None = None
    ) -> None:
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
        super().__init__(engines.Engine(prefix, executor, options))
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
