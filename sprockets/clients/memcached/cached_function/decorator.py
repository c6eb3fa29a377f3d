"""The decorator that caches what a function returns."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections import abc

from sprockets.clients.memcached import aio, words
from sprockets.clients.memcached import client as blocking
from sprockets.clients.memcached.cached_function import (
    calls,
    functions,
    names,
    several,
    typed,
)
from sprockets.clients.memcached.once import generations, plans
from sprockets.clients.memcached.requests import arguments
from sprockets.clients.memcached.settings import prefix_name

_Any = typing.Any

_Key = abc.Callable[..., str] | str

_Names = str | abc.Iterable[str]


class _Cached:
    """Return a decorator that caches what a function or coroutine returns.

    .. code-block:: python

        @memcached.cached(60)
        async def load_user(user_id):
            ...

        await load_user(7)
        await load_user.invalidate(7)

    It is :meth:`.Client.get_or_set` with a key made of the function's module
    and name and the arguments by their names: text, bytes, numbers, dates,
    UUIDs, enum members, None, and tuples and lists of them.  What cannot be
    told apart in this way is refused, most of it when it is decorated; the
    how-to :doc:`/howto/cached` has all of it.

    :param time: when the value is to be computed anew; see
        :meth:`.Client.get_or_set`
    :param key: how to name a call otherwise: a function that gets the
        arguments and returns a key, or a pattern for :meth:`str.format`, as
        ``'user:{user_id}'``
    :param str name: what the function is called in keys, instead of its
        module and name.  It is for this function to differ from all others
    :param hidden: the name of a parameter that is to be seen nowhere, a
        password say, or several; keys have a hash in its place
    :param str prefix: the prefix of the variables for the client, for a method
        of a handler with another one too
    :param client: the client to use, or a function that returns it;
        :class:`AsyncClient` for a coroutine function.  Without one, and
        without a prefix, it is that of the first argument, where this has one,
        as a handler's methods do; else that of the handler for whose request
        it is called; or one that all such functions of the process have in
        common
    :param stale: see :meth:`.Client.get_or_set`; likewise the others
    :param tags: names of what the results are made of: they end together, by
        :meth:`.Client.invalidate_tags`
    :raises ValueError: for what is no time, and for a pattern or ``hidden``
        that names no parameter
    :raises TypeError: for a function that cannot be told from others, or
        whose result cannot be stored, and for a coroutine function with a
        blocking client; in a call, for an argument that cannot be named

    .. versionadded:: 2.0

    """

    @typing.overload
    def __call__(
        self,
        time: _Any,
        *,
        key: _Key | None = None,
        name: str | None = None,
        hidden: _Names = (),
        prefix: str | None = None,
        client: None = None,
        stale: _Any = 0,
        lease: _Any = 10,
        wait: _Any = None,
        default: _Any = plans.MISS,
        cache_none: bool = True,
        tags: tuple[str, ...] = (),
        jitter: _Any = 0,
        when: abc.Callable[[_Any], _Any] | None = None,
    ) -> typed.Decorator: ...

    @typing.overload
    def __call__(
        self,
        time: _Any,
        *,
        key: _Key | None = None,
        name: str | None = None,
        hidden: _Names = (),
        prefix: str | None = None,
        client: blocking.Client | abc.Callable[[], blocking.Client],
        stale: _Any = 0,
        lease: _Any = 10,
        wait: _Any = None,
        default: _Any = plans.MISS,
        cache_none: bool = True,
        tags: tuple[str, ...] = (),
        jitter: _Any = 0,
        when: abc.Callable[[_Any], _Any] | None = None,
    ) -> typed.BlockingDecorator: ...

    @typing.overload
    def __call__(
        self,
        time: _Any,
        *,
        key: _Key | None = None,
        name: str | None = None,
        hidden: _Names = (),
        prefix: str | None = None,
        client: aio.Methods | abc.Callable[[], aio.Methods],
        stale: _Any = 0,
        lease: _Any = 10,
        wait: _Any = None,
        default: _Any = plans.MISS,
        cache_none: bool = True,
        tags: tuple[str, ...] = (),
        jitter: _Any = 0,
        when: abc.Callable[[_Any], _Any] | None = None,
    ) -> typed.AwaitedDecorator: ...

    def __call__(
        self,
        time: _Any,
        *,
        key: _Key | None = None,
        name: str | None = None,
        hidden: _Names = (),
        prefix: str | None = None,
        client: functions.Source | None = None,
        stale: _Any = 0,
        lease: _Any = 10,
        wait: _Any = None,
        default: _Any = plans.MISS,
        cache_none: bool = True,
        tags: tuple[str, ...] = (),
        jitter: _Any = 0,
        when: abc.Callable[[_Any], _Any] | None = None,
    ) -> _Any:
        if callable(time) and not _takes_value(time):
            raise TypeError('cached needs a time: @cached(60)')
        settings = _settings(
            plans.plan(time, stale, lease, wait, cache_none, 0, jitter, when),
            default,
            client,
            prefix,
            key,
            name,
            tags,
        )

        unseen = _hidden(hidden, key)

        def decorate(function: _Any) -> _Any:
            return _decorated(function, key, name, unseen, settings, _ONE)

        return decorate

    def many(
        self,
        time: _Any,
        *,
        key: _Key | None = None,
        name: str | None = None,
        hidden: _Names = (),
        prefix: str | None = None,
        client: functions.Source | None = None,
        cache_none: bool = True,
    ) -> typed.ManyDecorator:
        """Return a decorator that caches what a function of many keys returns.

        .. code-block:: python

            @memcached.cached.many(60)
            async def load_users(user_ids):
                return {user_id: ... for user_id in user_ids}

            await load_users([7, 8, 9])
            await load_users.invalidate([7, 8])

        The function gets the list of the keys that are missing, and returns a
        dict of their results: one read, one call, one write, as
        :meth:`.Client.get_or_set_multi` has them.  What it takes besides is
        for all keys.  In a key of memcached, one of the keys stands for the
        list.

        :param time: when the results expire; see
            :meth:`.Client.get_or_set_multi`
        :param key: see :func:`~sprockets.clients.memcached.cached`; likewise
            the others

        .. versionadded:: 2.0

        """
        # A function of a value says nothing of many.
        arguments.lifetime(time)
        settings = _settings(
            plans.plan(time, 0, 10, None, cache_none, 0),
            plans.MISS,
            client,
            prefix,
            key,
            name,
        )

        unseen = _hidden(hidden, key)

        def decorate(function: _Any) -> _Any:
            return _decorated(function, key, name, unseen, settings, _MANY)

        return decorate


_Kinds = abc.Mapping[type[functions.Function], type[functions.Function]]

_ONE: _Kinds = {
    kind: kind
    for kind in (
        functions.Cached,
        functions.CachedFuture,
        functions.CachedCoroutine,
    )
}
"""What is made of functions of each kind."""

_MANY: _Kinds = {
    functions.Cached: several.CachedMany,
    functions.CachedFuture: several.CachedManyAwaited,
    functions.CachedCoroutine: several.CachedManyAwaited,
}
"""Likewise, for those of many keys."""


def _takes_value(function: _Any) -> bool:
    """Whether a function may say the time of a value.

    One that is to be cached stands here where the time was forgotten.

    """
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
        or isinstance(function, functions.Function)
    ):
        return False
    try:
        names.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        # It does not say what it takes.
        return True
    return True


def _settings(
    plan: plans.Plan,
    default: _Any,
    client: functions.Source | None,
    prefix: str | None,
    key: _Key | None,
    name: str | None,
    tags: tuple[str, ...] = (),
) -> functions.Settings:
    if key is not None and name is not None:
        raise TypeError('cached takes a key or a name, and not both')
    if client is not None and not (
        isinstance(client, calls.CLIENTS) or callable(client)
    ):
        raise TypeError(
            f'client is {client!r}; expected a client, or a function that'
            ' returns one'
        )
    prefix_name(prefix)
    return functions.Settings(
        plan, default, client, prefix, generations.checked_tags(tags)
    )


def _hidden(hidden: _Names, key: _Key | None) -> frozenset[str]:
    """Return the names of parameters that are to be seen nowhere.

    :raises TypeError: for a key that is not made here, and for no names

    """
    given: _Any = (hidden,) if isinstance(hidden, str) else hidden
    if not isinstance(given, abc.Iterable) or isinstance(given, bytes):
        raise TypeError(f'hidden is {given!r}; expected names of parameters')
    given = [*given]
    if not all(isinstance(name, str) for name in given):
        raise TypeError(f'hidden is {given!r}; expected names of parameters')
    found = frozenset(given)
    if found and callable(key):
        raise TypeError(
            'hidden is for keys that are made here: let the key function hide'
            ' what it gets'
        )
    return found


def _decorated(
    function: _Any,
    key: _Key | None,
    name: str | None,
    hidden: abc.Set[str],
    settings: functions.Settings,
    kinds: _Kinds,
) -> _Any:
    if isinstance(function, classmethod):
        return functions.ClassMethod(
            _make(function.__func__, key, name, hidden, settings, kinds)
        )
    if isinstance(function, staticmethod):
        return functions.StaticMethod(
            _make(function.__func__, key, name, hidden, settings, kinds)
        )
    if names.takes_class(function):
        raise TypeError(
            f'{function.__qualname__} is a class method: write @cached'
            ' above @classmethod'
        )
    return _make(function, key, name, hidden, settings, kinds)


def _make(
    function: _Any,
    key: _Key | None,
    name: str | None,
    hidden: abc.Set[str],
    settings: functions.Settings,
    kinds: _Kinds,
) -> functions.Function:
    if not callable(function):
        raise TypeError(
            f'{words.shown(function)} is not a function; cached needs a time:'
            ' @cached(60)'
        )
    if isinstance(function, functions.Function):
        raise TypeError(f'{function!r} is cached already')
    kind = _kind(function, settings.source)
    known = calls.Calls(function, key, name, hidden)
    return kinds[kind](function, known, settings)


def _kind(function: _Any, source: _Any) -> type[functions.Function]:
    """Return what kind of a cached function it will be.

    :raises TypeError: for a function whose result cannot be stored, or not
        with this client

    """
    called = function
    while isinstance(called, functools.partial):
        called = called.func
    if not hasattr(called, '__qualname__'):
        # An object that can be called, which knows no more.
        called = type(called).__call__
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        called
    ):
        kind: type[functions.Function] = functions.CachedCoroutine
    elif _returns_awaitable(called):
        kind = functions.CachedFuture
    elif inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(
        called
    ):
        raise TypeError(
            f'{names.describe(function)} is a generator, which cannot be'
            ' stored; return a list'
        )
    elif isinstance(source, aio.Methods):
        kind = functions.CachedFuture
    else:
        kind = functions.Cached
    if kind.awaits and isinstance(source, blocking.Client):
        raise TypeError(
            f'{names.describe(function)} is awaited: it wants an AsyncClient'
        )
    return kind


_AWAITABLE = re.compile(r'[\'"]?(\w+\.)*(Awaitable|Coroutine|Future|Task)\b')


def _returns_awaitable(function: _Any) -> bool:
    """Whether a function that is no coroutine function is awaited."""
    if getattr(function, '__tornado_coroutine__', False):
        return True
    code = getattr(function, '__code__', None)
    if code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return True
    said = names.returned(function)
    if isinstance(said, str):
        return _AWAITABLE.match(said) is not None
    kind = typing.get_origin(said) or said
    return isinstance(kind, type) and issubclass(kind, abc.Awaitable)


cached = _Cached()
