"""Functions of many keys, whose results are cached for each of them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections import abc

from sprockets.clients.memcached import aio, words
from sprockets.clients.memcached.cached_function import functions, names
from sprockets.clients.memcached.once import steps
from sprockets.clients.memcached.requests import errors

P = typing.ParamSpec('P')
K = typing.TypeVar('K')
V = typing.TypeVar('V')

Args = tuple[typing.Any, ...]
Kwargs = dict[str, typing.Any]


class Named(typing.NamedTuple):
    """A call: the keys as they were given, and what they are called."""

    args: Args
    """What there is besides the keys, with the object in front."""
    kwargs: Kwargs
    keys: dict[str, typing.Any]


class Several(functions.Function):
    """What both kinds have in common; see :class:`CachedMany`."""

    __slots__ = ()

    def _names(
        self, keys: abc.Iterable[typing.Any], args: Args, kwargs: Kwargs
    ) -> Named:
        """Return how the results for some keys are named.

        :raises TypeError: for keys that are none, or that have no name

        """
        if isinstance(keys, (str, bytes)) or not isinstance(
            keys, abc.Iterable
        ):
            raise TypeError(
                f'{self!r} takes a list of keys first, and not'
                f' {words.shown(keys)}'
            )
        self._calls.look()
        named = self._calls.keys(keys, self._first, args, kwargs)
        return Named(args, kwargs, named)

    def _name(self, key: typing.Any, args: Args, kwargs: Kwargs) -> str:
        return self._calls.named((*self._first, key, *args), kwargs).key

    def _factory(self, named: Named) -> abc.Callable[..., typing.Any]:
        """Return what computes the results for the names of some keys."""
        call = _call_awaited if self.awaits else _call
        function = functools.partial(call, self._calls.function, self._first)
        return functools.partial(function, named)

    def _of(self, named: Named) -> typing.Any:
        """Return the client for a call.

        :raises TypeError: for one that is not for such a function

        """
        source = self._client((*self._first, None, *named.args))
        if not self.awaits and isinstance(source, aio.Methods):
            raise TypeError(
                f'{names.describe(self.__memcached_function__)} is not'
                ' awaited: it wants a blocking Client, or "async def"'
            )
        return source

    def _parted(
        self, named: Named, made: dict[str, typing.Any]
    ) -> tuple[dict[str, typing.Any], list[str]]:
        """Return what is to be stored, and the names of what is not."""
        kept = made
        if not self._plan.cache_none:
            kept = {name: v for name, v in made.items() if v is not None}
        return kept, [name for name in named.keys if name not in kept]

    def _arguments(self) -> dict[str, typing.Any]:
        return {
            'time': self._plan.time,
            'cache_none': self._plan.cache_none,
        }


def _call(
    function: abc.Callable[..., typing.Any],
    first: Args,
    named: Named,
    missing: list[str],
) -> typing.Any:
    keys = {named.keys[name]: name for name in missing}
    made = function(*first, [*keys], *named.args, **named.kwargs)
    if inspect.isawaitable(made):
        # It is for the caller to await, or to refuse.
        return made
    return _by_name(function, keys, made)


async def _call_awaited(
    function: abc.Callable[..., typing.Any],
    first: Args,
    named: Named,
    missing: list[str],
) -> typing.Any:
    found = _call(function, first, named, missing)
    if inspect.isawaitable(found):
        keys = {named.keys[name]: name for name in missing}
        found = _by_name(function, keys, await found)
    return found


def _by_name(
    function: abc.Callable[..., typing.Any],
    keys: dict[typing.Any, str],
    made: typing.Any,
) -> dict[str, typing.Any]:
    if not isinstance(made, abc.Mapping):
        raise TypeError(
            f'{names.describe(function)} returned {words.shown(made)};'
            ' expected a dict of the results by their keys'
        )
    return {name: made[key] for key, name in keys.items() if key in made}


def _by_key(named: Named, found: dict[str, V]) -> dict[typing.Any, V]:
    return {
        key: found[name] for name, key in named.keys.items() if name in found
    }


class CachedMany(Several, typing.Generic[K, V, P]):
    """A function of many keys, whose results are cached for each of them.

    It is called with the keys, and whatever else the function takes, and
    returns a dict of their results.

    """

    __slots__ = ()

    if typing.TYPE_CHECKING:
        __wrapped__: abc.Callable[..., abc.Mapping[K, V]]

        # A method that takes an object first is another kind to them.
        def __get__(
            self, instance: object, owner: type | None = None
        ) -> typing.Self: ...

    def __call__(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[K, V]:
        """Return the results that there are, and compute the others."""
        named = self._names(keys, args, kwargs)
        found = self._of(named).get_or_set_multi(
            named.keys, self._factory(named), **self._arguments()
        )
        return _by_key(named, found)

    def key(self, key: K, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return what the result for one of the keys is called."""
        self._calls.look()
        return self._name(key, args, kwargs)

    def refresh(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[K, V]:
        """Compute the results for all of the keys, and store them.

        What the function leaves out, or is not to be stored, takes the old
        result away.

        """
        named = self._names(keys, args, kwargs)
        made = steps.not_awaited(self._factory(named)([*named.keys]))
        if isinstance(made, steps.Failure):
            raise made.take()
        kept, gone = self._parted(named, made)
        source = self._of(named)
        # They are computed, whether or not they can be stored.
        with contextlib.suppress(errors.MemcachedError):
            source.set_multi(kept, self._plan.time)
        if gone:
            with contextlib.suppress(errors.MemcachedError):
                source.delete_multi(gone)
        return _by_key(named, {**made, **source._as_read(kept)})

    def invalidate(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> int:
        """Delete the results for some keys.

        :return: 1 if that was done, whether there were any or not, else 0

        """
        named = self._names(keys, args, kwargs)
        done: int = self._of(named).delete_multi([*named.keys])
        return done


class CachedManyAwaited(Several, typing.Generic[K, V, P]):
    """A function of many keys that is awaited: likewise."""

    __slots__ = ()

    if typing.TYPE_CHECKING:
        __wrapped__: abc.Callable[..., typing.Any]

        def __get__(
            self, instance: object, owner: type | None = None
        ) -> typing.Self: ...

    awaits = True

    async def __call__(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[K, V]:
        """Return the results that there are, and compute the others."""
        named = self._names(keys, args, kwargs)
        found = await self._of(named).get_or_set_multi(
            named.keys, self._factory(named), **self._arguments()
        )
        return _by_key(named, found)

    def key(self, key: K, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return what the result for one of the keys is called."""
        self._calls.look()
        return self._name(key, args, kwargs)

    async def refresh(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[K, V]:
        """Compute and store; see :meth:`CachedMany.refresh`."""
        named = self._names(keys, args, kwargs)
        made = await self._factory(named)([*named.keys])
        kept, gone = self._parted(named, made)
        source = self._of(named)
        # Likewise.
        with contextlib.suppress(errors.MemcachedError):
            await source.set_multi(kept, self._plan.time)
        if gone:
            with contextlib.suppress(errors.MemcachedError):
                await source.delete_multi(gone)
        return _by_key(named, {**made, **await source._as_read(kept)})

    async def invalidate(
        self, keys: abc.Iterable[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> int:
        """Delete results; see :meth:`CachedMany.invalidate`."""
        named = self._names(keys, args, kwargs)
        done: int = await self._of(named).delete_multi([*named.keys])
        return done
