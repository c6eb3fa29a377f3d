"""Functions whose results are cached: what :func:`.cached` makes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import typing
from collections import abc

from sprockets.clients.memcached import aio, client, current
from sprockets.clients.memcached.cached_function import calls, names
from sprockets.clients.memcached.once import plans

P = typing.ParamSpec('P')
Q = typing.ParamSpec('Q')
T = typing.TypeVar('T')
C = typing.TypeVar('C')
C_contra = typing.TypeVar('C_contra', contravariant=True)
R_co = typing.TypeVar('R_co', covariant=True)

Client = aio.Methods | client.Client

Source = Client | abc.Callable[[], Client]
"""The client of a function, or what returns it."""


class Settings(typing.NamedTuple):
    """How a function is cached."""

    plan: plans.Plan
    default: typing.Any
    source: Source | None
    prefix: str | None
    tags: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, typing.Any]:
        """The arguments of ``get_or_set``, but for those that are usual."""
        plan = self.plan
        return {
            name: value
            for name, value, usual in (
                ('stale', plan.stale, 0),
                ('lease', plan.lease, 10),
                ('wait', plan.wait, plan.usual_wait),
                ('default', self.default, plans.MISS),
                ('cache_none', plan.cache_none, True),
                ('tags', self.tags, ()),
                ('jitter', plan.jitter, 0),
                ('when', plan.when, None),
            )
            if value is not usual and value != usual
        }


class _HasClient(typing.Protocol):
    """Whose methods use a client of its own: a handler."""

    @property
    def memcached(self) -> aio.Methods: ...


class _HasBlockingClient(typing.Protocol):
    """Whose methods use a client of its own that blocks.

    It is asked for first: what python-memcached's class is like is not known
    to those who check types, to whom a client that blocks may be any other.

    """

    @property
    def memcached(self) -> client.Client: ...


Owner = typing.TypeVar('Owner', bound=_HasClient)
BlockingOwner = typing.TypeVar('BlockingOwner', bound=_HasBlockingClient)
# Whether a function is a method of a handler, or of a class, is asked where it
# is looked up in the class, by ``__get__``.  Where it is decorated, one that
# takes any object would pass for either.


class _Takes(typing.Protocol[C_contra, Q, R_co]):
    """What takes something first: a method its object, or its class."""

    def __call__(
        self, first: C_contra, /, *args: Q.args, **kwargs: Q.kwargs
    ) -> R_co: ...


class _Signature:
    """What a cached function takes: without its object, where it has one."""

    def __get__(
        self, instance: Function | None, owner: type
    ) -> inspect.Signature:
        if instance is None:
            # The class has no other than Python finds.
            raise AttributeError('__signature__')
        signature = instance._calls.signature
        parameters = list(signature.parameters.values())
        if instance._first and parameters:
            if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del parameters[0]
            signature = signature.replace(parameters=parameters)
        return signature


class Function:
    """What all cached functions have in common.

    :param function: what computes
    :param Calls known: how its calls are named
    :param Settings settings: how it is cached

    """

    __slots__ = ('__dict__', '__weakref__', '_first')

    __signature__ = _Signature()

    awaits = False
    """Whether what it does is to be awaited."""

    def __init__(
        self,
        function: abc.Callable[..., typing.Any],
        known: calls.Calls,
        settings: Settings,
    ) -> None:
        functools.update_wrapper(typing.cast(typing.Any, self), function)
        self._first: tuple[typing.Any, ...] = ()
        self._calls = known
        self._source = settings.source
        self._prefix = settings.prefix
        self._plan = settings.plan
        self._default = settings.default
        self._tags = settings.tags
        self._options = settings.options
        # For those that use it in turn.
        self.__memcached_function__ = function

    def __get__(
        self, instance: typing.Any, owner: type | None = None
    ) -> typing.Any:
        """Return the method of an object."""
        return self if instance is None else self.bound(instance)

    @property
    def __self__(self) -> typing.Any:
        """The object, or the class, whose method it is."""
        if not self._first:
            raise AttributeError('__self__')
        return self._first[0]

    def bound(self, instance: typing.Any) -> typing.Any:
        """Return the method of an object, or of a class."""
        kind = type(self)
        bound = kind.__new__(kind)
        # All but the object is the same, now and later.
        bound.__dict__ = self.__dict__
        bound._first = (instance,)
        return bound

    def __reduce__(self) -> typing.Any:
        # By name, as functions are.
        name: str | None = self.__dict__.get('__qualname__')
        if name is None:
            raise pickle.PicklingError(f'{self!r} has no name to be found by')
        if self._first:
            return getattr, (self._first[0], name.rpartition('.')[2])
        return name

    def __repr__(self) -> str:
        kind = 'method' if self._first else 'function'
        what = names.describe_fully(kind, self.__memcached_function__)
        return f'<cached {what}>'

    def _do(self, args: tuple[typing.Any, ...], kwargs: _Kwargs) -> typing.Any:
        """Return what the function returned before, or call it."""
        args = self._first + args
        name, factory = self._calls.of(args, kwargs)
        return self._client(args).get_or_set(
            name.key, factory, self._plan.time, **self._options
        )

    def _key(self, args: tuple[typing.Any, ...], kwargs: _Kwargs) -> str:
        self._calls.look()
        return self._calls.named(self._first + args, kwargs).key

    def _refresh(
        self, args: tuple[typing.Any, ...], kwargs: _Kwargs
    ) -> typing.Any:
        args = self._first + args
        name, factory = self._calls.of(args, kwargs)
        return self._with(
            args,
            'refresh',
            lambda source: source._refresh(name.key, factory, self._plan),
            plans.MISS,
        )

    def _put(
        self,
        value: typing.Any,
        args: tuple[typing.Any, ...],
        kwargs: _Kwargs,
    ) -> typing.Any:
        key = self._key(args, kwargs)
        return self._with(
            self._first + args,
            'set',
            lambda source: source._put(key, value, self._plan),
            0,
        )

    def _mark(
        self, args: tuple[typing.Any, ...], kwargs: _Kwargs
    ) -> typing.Any:
        key = self._key(args, kwargs)
        stale = self._plan.stale or 60
        return self._with(
            self._first + args,
            'mark_stale',
            lambda source: source.mark_stale(key, stale),
            0,
        )

    def _on_key(
        self, name: str, args: tuple[typing.Any, ...], kwargs: _Kwargs
    ) -> typing.Any:
        """Call a method of the client with the key of a call."""
        key = self._key(args, kwargs)
        return self._with(
            self._first + args,
            name,
            lambda source: getattr(source, name)(key),
            None if name == 'get' else 0,
        )

    def _with(
        self,
        args: tuple[typing.Any, ...],
        method: str,
        call: abc.Callable[[typing.Any], typing.Any],
        failure: typing.Any,
    ) -> typing.Any:
        """Call something with the client for a call, and for its tags."""
        source = self._client(args)
        if not self._tags:
            return call(source)
        return source._with_tags(self._tags, method, call, failure)

    def _client(self, args: tuple[typing.Any, ...]) -> typing.Any:
        """Return the client for a call."""
        source = self._source
        if isinstance(source, calls.CLIENTS):
            return source
        if source is not None:
            source = source()
            wanted = (aio.Methods,) if self.awaits else calls.CLIENTS
            if not isinstance(source, wanted):
                raise TypeError(
                    f'client returned {source!r}; expected'
                    f' {"an AsyncClient" if self.awaits else "a client"}'
                )
            return source
        awaits = self.awaits
        own = calls.own_client(args[0]) if args else None
        if own is not None:
            if awaits and not isinstance(own, aio.Methods):
                raise TypeError(
                    f'{names.describe(self.__memcached_function__)} is'
                    ' awaited: it wants an AsyncClient, and the one of'
                    f' its {type(args[0]).__qualname__} is a Client'
                )
            if self._prefix is None:
                return own
            awaits = isinstance(own, aio.Methods)
        if awaits:
            return current.awaitable(self._prefix)
        return current.blocking(self._prefix)


_Kwargs = dict[str, typing.Any]


class Cached(Function, typing.Generic[P, T]):
    """A function whose results are cached.

    It is called as the function is.  As a method it is bound to its object,
    and so are its own methods.

    """

    __slots__ = ()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returned before, or call it."""
        return typing.cast(T, self._do(args, kwargs))

    if typing.TYPE_CHECKING:
        __wrapped__: abc.Callable[..., T]

        @typing.overload
        def __get__(
            self: Cached[typing.Concatenate[BlockingOwner, Q], T],
            instance: BlockingOwner,
            owner: type | None = None,
        ) -> Cached[Q, T]: ...

        @typing.overload
        def __get__(
            self: Cached[typing.Concatenate[Owner, Q], T],
            instance: Owner,
            owner: type | None = None,
        ) -> CachedFuture[Q, T]: ...

        @typing.overload
        def __get__(
            self: _Takes[type[C], Q, T],
            instance: object,
            owner: type[C],
        ) -> Cached[Q, T]: ...

        @typing.overload
        def __get__(self, instance: None, owner: type) -> Cached[P, T]: ...

        @typing.overload
        def __get__(
            self: _Takes[C, Q, T],
            instance: C,
            owner: type | None = None,
        ) -> Cached[Q, T]: ...

        @typing.overload
        def __get__(
            self, instance: object, owner: type | None = None
        ) -> Cached[P, T]: ...

        def __get__(
            self, instance: typing.Any, owner: type | None = None
        ) -> typing.Any: ...

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call with these arguments.

        :rtype: str
        :raises TypeError: for an argument that cannot be named, or that the
            function does not take

        """
        return self._key(args, kwargs)

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Delete the result of a call with these arguments.

        What is being computed for them just now is not stored either.

        :return: nonzero if there was one

        """
        return typing.cast(int, self._on_key('invalidate', args, kwargs))

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function, store its result, and return it.

        The result that there is, is served until then, and stays if the
        function raises.

        """
        return typing.cast(T, self._refresh(args, kwargs))

    def set(self, value: T, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Store a result that is known already.

        :param value: the result; then the arguments of the call
        :return: nonzero if it was stored

        """
        return typing.cast(int, self._put(value, args, kwargs))

    def mark_stale(self, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Have a result computed anew, though its time has not passed.

        With ``stale`` one caller does that while it is served on, for as long
        as that says.  Without, it is served for another minute at most, and
        computed when that is over; :meth:`invalidate` ends it at once.

        :return: nonzero if there was one

        """
        return typing.cast(int, self._mark(args, kwargs))

    def get(self, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return the result that there is; None if there is none.

        The function is not called.

        """
        return typing.cast('T | None', self._on_key('get', args, kwargs))


class _Awaited(Function, typing.Generic[P, T]):
    """What the two have in common whose results are awaited."""

    __slots__ = ()

    awaits = True

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call; see :meth:`Cached.key`."""
        return self._key(args, kwargs)

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Delete the result of a call; see :meth:`Cached.invalidate`."""
        return typing.cast(int, await self._on_key('invalidate', args, kwargs))

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and store; see :meth:`Cached.refresh`."""
        return typing.cast(T, await self._refresh(args, kwargs))

    async def set(self, value: T, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Store a result; see :meth:`Cached.set`."""
        return typing.cast(int, await self._put(value, args, kwargs))

    async def mark_stale(self, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Have a result computed anew; see :meth:`Cached.mark_stale`."""
        return typing.cast(int, await self._mark(args, kwargs))

    async def get(self, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return the result that there is; see :meth:`Cached.get`."""
        return typing.cast('T | None', await self._on_key('get', args, kwargs))


class CachedFuture(_Awaited[P, T]):
    """A function whose results are cached, and awaited: likewise."""

    __slots__ = ()

    def __call__(
        self, /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Return what the function returned before, or call it."""
        return typing.cast('asyncio.Future[T]', self._do(args, kwargs))

    if typing.TYPE_CHECKING:
        __wrapped__: abc.Callable[..., typing.Any]

        @typing.overload
        def __get__(
            self: _Takes[type[C], Q, asyncio.Future[T]],
            instance: object,
            owner: type[C],
        ) -> CachedFuture[Q, T]: ...

        @typing.overload
        def __get__(
            self, instance: None, owner: type
        ) -> CachedFuture[P, T]: ...

        @typing.overload
        def __get__(
            self: _Takes[C, Q, asyncio.Future[T]],
            instance: C,
            owner: type | None = None,
        ) -> CachedFuture[Q, T]: ...

        @typing.overload
        def __get__(
            self, instance: object, owner: type | None = None
        ) -> CachedFuture[P, T]: ...

        def __get__(
            self, instance: typing.Any, owner: type | None = None
        ) -> typing.Any: ...


class CachedCoroutine(_Awaited[P, T]):
    """A coroutine function whose results are cached: likewise."""

    __slots__ = ()

    def __init__(
        self,
        function: abc.Callable[..., typing.Any],
        known: calls.Calls,
        settings: Settings,
    ) -> None:
        super().__init__(function, known, settings)
        if hasattr(inspect, 'markcoroutinefunction'):
            inspect.markcoroutinefunction(self)
        self._is_ours = _is_ours(self._source)
        self._remembered = known.remembered if known.is_steady else None

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returned before, or call it."""
        # What was a coroutine function stays one: it can be made a task of,
        # and be called where no loop runs yet.
        given: tuple[typing.Any, ...] = args
        if self._first:
            given = self._first + args
        remembered = self._remembered
        if remembered is None or kwargs or self._first:
            name, factory = self._calls.of(given, kwargs)
        else:
            # Most calls are like that: what that does, in fewer steps.
            for value in args:
                if type(value) not in names.PLAIN:
                    name, factory = self._calls.of(args, kwargs)
                    break
            else:
                try:
                    name, factory = remembered(*args)
                except calls.LargeCall as large:
                    name, factory = large.call
        source: typing.Any = self._source
        if not self._is_ours:
            source = self._client(given)
            if not _is_ours(source):
                # It may count, or log.
                return typing.cast(
                    T,
                    await source.get_or_set(
                        name.key, factory, self._plan.time, **self._options
                    ),
                )
        plan = self._plan
        rules, sent = name.sent
        known: bytes | None = sent
        if rules is not source._engine.encoding.rules:
            known = source._engine.encoding.encoded_name(name)
        if self._tags:
            group = source._engine.flow.generations.tags(self._tags)
            found = source._get_grouped(
                group, name.key, factory, plan, self._default
            )
        elif known is None or plan.stale:
            found = source._look_up(
                name.key, factory, plan, self._default, known
            )
        else:
            found = source._read(name.key, known, factory, plan, self._default)
        result: T = await found
        return result

    if typing.TYPE_CHECKING:
        __wrapped__: abc.Callable[
            ..., abc.Coroutine[typing.Any, typing.Any, T]
        ]

        @typing.overload
        def __get__(
            self: _Takes[type[C], Q, abc.Coroutine[typing.Any, typing.Any, T]],
            instance: object,
            owner: type[C],
        ) -> CachedCoroutine[Q, T]: ...

        @typing.overload
        def __get__(
            self, instance: None, owner: type
        ) -> CachedCoroutine[P, T]: ...

        @typing.overload
        def __get__(
            self: _Takes[C, Q, abc.Coroutine[typing.Any, typing.Any, T]],
            instance: C,
            owner: type | None = None,
        ) -> CachedCoroutine[Q, T]: ...

        @typing.overload
        def __get__(
            self, instance: object, owner: type | None = None
        ) -> CachedCoroutine[P, T]: ...

        def __get__(
            self, instance: typing.Any, owner: type | None = None
        ) -> typing.Any: ...


def _is_ours(source: typing.Any) -> bool:
    """Whether a client does what ``get_or_set`` does here, and no more."""
    method = getattr(type(source), 'get_or_set', None)
    return method is aio.Methods.get_or_set


F = typing.TypeVar('F', bound=Function)


class ClassMethod(typing.Generic[F]):
    """A cached class method: bound to the class that it is called on."""

    def __init__(self, function: F) -> None:
        self.function = function

    def __get__(self, instance: typing.Any, owner: type) -> F:
        return typing.cast(F, self.function.bound(owner))


class StaticMethod(typing.Generic[F]):
    """A cached static method: the function, wherever it is called."""

    def __init__(self, function: F) -> None:
        self.function = function

    def __get__(self, instance: typing.Any, owner: type | None = None) -> F:
        return self.function
