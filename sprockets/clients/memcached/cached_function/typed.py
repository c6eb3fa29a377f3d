"""What a decorator makes of a function, for those who check types."""
# One function fits several of these, and the first one counts.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import typing
from collections import abc

from sprockets.clients.memcached.cached_function import functions, several

P = typing.ParamSpec('P')
T = typing.TypeVar('T')
K = typing.TypeVar('K')
V = typing.TypeVar('V')
M_co = typing.TypeVar('M_co', bound=several.Several, covariant=True)

_Any = typing.Any


_Coroutine = abc.Coroutine[_Any, _Any, T]


class Decorator(typing.Protocol):
    """Makes a cached function of a function."""

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, _Coroutine[T]], /
    ) -> functions.CachedCoroutine[P, T]: ...

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, abc.Awaitable[T]], /
    ) -> functions.CachedFuture[P, T]: ...

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, T], /
    ) -> functions.Cached[P, T]: ...


class AwaitedDecorator(typing.Protocol):
    """Makes a cached function of one, for an awaitable client."""

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, _Coroutine[T]], /
    ) -> functions.CachedCoroutine[P, T]: ...

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, abc.Awaitable[T]], /
    ) -> functions.CachedFuture[P, T]: ...

    @typing.overload
    def __call__(
        self, function: abc.Callable[P, T], /
    ) -> functions.CachedFuture[P, T]: ...


class BlockingDecorator(typing.Protocol):
    """Makes a cached function of one, for a blocking client."""

    def __call__(
        self, function: abc.Callable[P, T], /
    ) -> functions.Cached[P, T]: ...


class ManyMethod(typing.Protocol[M_co]):
    """A cached function of many keys that takes an object first."""

    def __get__(self, instance: object | None, owner: type) -> M_co: ...


class ManyDecorator(typing.Protocol):
    """Makes a cached function of one that takes many keys."""

    @typing.overload
    def __call__(
        self,
        function: abc.Callable[
            typing.Concatenate[list[K], P], _Coroutine[abc.Mapping[K, V]]
        ],
        /,
    ) -> several.CachedManyAwaited[K, V, P]: ...

    @typing.overload
    def __call__(
        self,
        function: abc.Callable[
            typing.Concatenate[list[K], P], abc.Mapping[K, V]
        ],
        /,
    ) -> several.CachedMany[K, V, P]: ...

    @typing.overload
    def __call__(
        self,
        function: abc.Callable[
            typing.Concatenate[_Any, list[K], P],
            _Coroutine[abc.Mapping[K, V]],
        ],
        /,
    ) -> ManyMethod[several.CachedManyAwaited[K, V, P]]: ...

    @typing.overload
    def __call__(
        self,
        function: abc.Callable[
            typing.Concatenate[_Any, list[K], P], abc.Mapping[K, V]
        ],
        /,
    ) -> ManyMethod[several.CachedMany[K, V, P]]: ...
