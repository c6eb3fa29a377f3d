"""The decorator that caches what a function returns."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import re
import sys
import typing
import uuid
from collections import abc

from sprockets.clients.memcached import aio, client
from sprockets.clients.memcached.once import plans
from sprockets.clients.memcached.requests import encodings

_Call = tuple[encodings.Name, abc.Callable[[], typing.Any]]
"""How a call is named, and what does it."""

MAX_NAME = 200
"""Characters of a key that can be read as a whole; a longer one is a readable
head and a hash.  It leaves room for ``KEY_PREFIX`` in memcached's 250."""

_NAMES: dict[type, abc.Callable[[typing.Any], str]] = {
    str: repr,
    bytes: repr,
    int: repr,
    float: repr,
    bool: repr,
    type(None): repr,
    decimal.Decimal: 'Decimal:{}'.format,
    uuid.UUID: 'UUID:{}'.format,
    datetime.date: datetime.date.isoformat,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: lambda value: f'{value.total_seconds()}s',
    tuple: lambda value: f'({",".join(map(name_argument, value))})',
    list: lambda value: f'[{",".join(map(name_argument, value))}]',
}


PLAIN = frozenset((str, bytes, int, bool, type(None), uuid.UUID))
"""Types of which two values that are equal have the same name."""


def name_argument(value: typing.Any) -> str:
    """Return an argument as a part of a key.

    :raises TypeError: for a value that has no name of its own

    """
    if isinstance(value, enum.Enum):
        kind = type(value)
        # Flags that were put together may have no name.
        member = value.value if isinstance(value, enum.Flag) else value.name
        return f'{kind.__module__}.{kind.__qualname__}.{member}'
    # By the exact type: a subclass may look like something else.
    name = _NAMES.get(type(value))
    if name is None:
        raise TypeError(
            f'{value!r} cannot be named in a key; expected text, bytes,'
            ' numbers, dates, UUIDs, enum members, None, or tuples and lists'
            ' of them.  key= names a call in another way'
        )
    return name(value)


def _as_key(name: str) -> str:
    if len(name) <= MAX_NAME and re.fullmatch('[!-~]+', name):
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    head = re.sub('[^!-~]', '_', name)[: MAX_NAME - len(digest) - 1]
    return f'{head}#{digest}'


MAX_REMEMBERED = 1024
"""Bytes of the arguments of a call whose name is remembered."""


class _LargeCall(Exception):  # noqa: N818
    """Raised for a call with large arguments: it is not remembered."""

    def __init__(self, call: _Call) -> None:
        self.call = call


_clients: dict[tuple[type, str | None], typing.Any] = {}
"""The clients of functions that were given none, by kind and prefix."""


def _client(kind: type, prefix: str | None) -> typing.Any:
    client = _clients.get((kind, prefix))
    if client is None:
        # Making one does nothing yet: of two, one is dropped.
        client = _clients.setdefault((kind, prefix), kind(prefix))
    return client


class Cached:
    """A function whose results are cached: what :func:`cached` makes."""

    _kind: type = client.Client
    """Of clients, for a function that was given none."""

    def __init__(
        self,
        function: abc.Callable[..., typing.Any],
        plan: plans.Plan,
        key: abc.Callable[..., str] | str | None,
        source: typing.Any,
        prefix: str | None,
        options: dict[str, typing.Any],
    ) -> None:
        functools.update_wrapper(self, function)
        if inspect.iscoroutinefunction(function):
            if isinstance(source, client.Client):
                raise TypeError('a coroutine function wants an AsyncClient')
            if hasattr(inspect, 'markcoroutinefunction'):
                inspect.markcoroutinefunction(self)
        self._function = function
        self._signature = inspect.signature(function)
        self._name = f'{function.__module__}.{function.__qualname__}'
        # Naming the arguments takes longer than the rest of a hit.
        self._plain_call = functools.lru_cache(maxsize=1024, typed=True)(
            self._make_call
        )
        self._plan = plan
        self._key = key
        self._names_calls = callable(key)
        self._source = source
        self._prefix = prefix
        self._options = options

    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Return what the function returned before, or call it."""
        name, factory = self._call(args, kwargs)
        return self._get(self._cache(args), name, factory)

    def _get(
        self,
        source: typing.Any,
        name: encodings.Name,
        factory: abc.Callable[[], typing.Any],
    ) -> typing.Any:
        return source.get_or_set(
            name.key, factory, self._plan.time, **self._options
        )

    def _call(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> _Call:
        """Return the name of a call, and what does it."""
        if not self._names_calls:
            for value in (*args, *kwargs.values()) if kwargs else args:
                if type(value) not in PLAIN:
                    break
            else:
                try:
                    return self._plain_call(*args, **kwargs)
                except _LargeCall as large:
                    return large.call
        return (
            self._name_call(args, kwargs),
            functools.partial(self._function, *args, **kwargs),
        )

    def __get__(
        self, instance: typing.Any, owner: type | None = None
    ) -> typing.Any:
        return self if instance is None else _Bound(self, instance)

    def invalidate(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """Delete the result of a call with these arguments.

        What is being computed for them just now is not stored either.

        :return: nonzero if there was one; to be awaited where calls are

        """
        return self._cache(args).invalidate(self.key(*args, **kwargs))

    def key(self, *args: typing.Any, **kwargs: typing.Any) -> str:
        """Return the key of a call with these arguments.

        :rtype: str
        :raises TypeError: for an argument that cannot be named, or that the
            function does not take

        """
        return self._name_call(args, kwargs).key

    def _name_call(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> encodings.Name:
        if callable(self._key):
            return encodings.Name(_as_key(self._key(*args, **kwargs)))
        if args and _is_handler(args[0]):
            # What makes no difference to the key: any is as good.
            args = (_HANDLER, *args[1:])
        for value in (*args, *kwargs.values()):
            if type(value) not in PLAIN and value is not _HANDLER:
                return encodings.Name(self._make_key(*args, **kwargs))
        try:
            return self._plain_call(*args, **kwargs)[0]
        except _LargeCall as large:
            return large.call[0]

    def _make_call(self, *args: typing.Any, **kwargs: typing.Any) -> _Call:
        call = (
            encodings.Name(self._make_key(*args, **kwargs)),
            functools.partial(self._function, *args, **kwargs),
        )
        if sum(map(sys.getsizeof, (*args, *kwargs.values()))) > MAX_REMEMBERED:
            raise _LargeCall(call)
        return call

    def _make_key(self, *args: typing.Any, **kwargs: typing.Any) -> str:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {
            name: value
            for name, value in bound.arguments.items()
            if value is not _HANDLER
        }
        more = {
            name: arguments.pop(name)
            for name, parameter in self._signature.parameters.items()
            if parameter.kind is inspect.Parameter.VAR_KEYWORD
        }
        if isinstance(self._key, str):
            for keywords in more.values():
                arguments = {**keywords, **arguments}
            return _as_key(self._key.format(**arguments))
        names = [
            f'{name}={name_argument(value)}'
            for name, value in arguments.items()
        ]
        # Their names may be any text, and those of parameters too.
        names += [
            f'**{name!r}={name_argument(value)}'
            for keywords in more.values()
            for name, value in sorted(keywords.items())
        ]
        return _as_key(f'{self._name}({",".join(names)})')

    def _cache(self, args: tuple[typing.Any, ...]) -> typing.Any:
        if self._source is not None:
            return self._source
        if args and _is_handler(args[0]):
            return args[0].memcached
        return _client(self._kind, self._prefix)


class CachedCoroutine(Cached):
    """A coroutine function whose results are cached, likewise."""

    _kind = aio.AsyncClient

    def __init__(self, *args: typing.Any) -> None:
        super().__init__(*args)
        self._default = self._options.get('default', plans.MISS)
        self._is_ours = _is_ours(self._source)

    async def __call__(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """Return what the function returned before, or call it."""
        # What was a coroutine function stays one: it can be made a task of,
        # and be called where no loop runs yet.
        if self._names_calls:
            name, factory = self._call(args, kwargs)
        else:
            # Most calls are like that: what _call does, in fewer steps.
            for value in (*args, *kwargs.values()) if kwargs else args:
                if type(value) not in PLAIN:
                    name, factory = self._call(args, kwargs)
                    break
            else:
                try:
                    name, factory = self._plain_call(*args, **kwargs)
                except _LargeCall as large:
                    name, factory = large.call
        source = self._source
        if source is None:
            source = self._cache(args)
        if not self._is_ours and not _is_ours(source):
            return await self._get(source, name, factory)
        encoding = source._engine.encoding
        rules, encoded = name.sent
        if rules is not encoding.rules:
            encoded = encoding.encoded_name(name)
        return await source._look_up(
            name.key, factory, self._plan, self._default, encoded
        )


class _Bound:
    """A cached method of one instance."""

    def __init__(self, method: Cached, instance: typing.Any) -> None:
        functools.update_wrapper(self, method)
        self._method = method
        self._instance = instance

    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        return self._method(self._instance, *args, **kwargs)

    def invalidate(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """Delete the result of a call with these arguments."""
        return self._method.invalidate(self._instance, *args, **kwargs)

    def key(self, *args: typing.Any, **kwargs: typing.Any) -> str:
        """Return the key of a call with these arguments."""
        return self._method.key(self._instance, *args, **kwargs)


_HANDLER: typing.Any = object()
"""In place of a handler among the arguments."""


def _is_ours(source: typing.Any) -> bool:
    """Whether a client does what ``get_or_set`` does here, and no more."""
    method = getattr(type(source), 'get_or_set', None)
    return method is aio.Methods.get_or_set


def _is_handler(value: typing.Any) -> bool:
    if type(value) in PLAIN:
        return False
    return isinstance(getattr(value, 'memcached', None), aio.Methods)


def cached(
    time: typing.Any,
    *,
    key: abc.Callable[..., str] | str | None = None,
    prefix: str | None = None,
    client: typing.Any = None,
    stale: typing.Any = 0,
    lease: typing.Any = 10,
    wait: typing.Any = None,
    default: typing.Any = plans.MISS,
    cache_none: bool = True,
) -> abc.Callable[[abc.Callable[..., typing.Any]], Cached]:
    """Return a decorator that caches what a function or coroutine returns.

    .. code-block:: python

        @memcached.cached(60)
        async def load_user(user_id):
            ...

        await load_user(7)
        await load_user.invalidate(7)

    It is :meth:`.Client.get_or_set` with a key made of the function's module
    and name and the arguments by their names: text, bytes, numbers, dates,
    UUIDs, enum members, None, and tuples and lists of them.  A method of a
    handler with :class:`MemcachedMixin` uses the handler's client, and the
    handler is no part of the key.

    :param time: when the value is to be computed anew; see
        :meth:`.Client.set`
    :param key: how to name a call otherwise: a function that gets the
        arguments and returns a key, or a pattern for :meth:`str.format`, as
        ``'user:{user_id}'``
    :param str prefix: the prefix of the variables for a client of its own
    :param client: the client to use; :class:`AsyncClient` for a coroutine
        function
    :param stale: see :meth:`.Client.get_or_set`; likewise the others
    :raises ValueError: for what is no time
    :raises TypeError: for a coroutine function with a blocking client; in a
        call, for an argument that cannot be named

    .. versionadded:: 2.0

    """
    if callable(time):
        raise TypeError('cached needs a time: @cached(60)')
    plan = plans.plan(time, stale, lease, wait, cache_none, 0)
    # What is as usual need not be passed on each time.
    options = {
        name: value
        for name, value, usual in (
            ('stale', stale, 0),
            ('lease', lease, 10),
            ('wait', wait, None),
            ('default', default, plans.MISS),
            ('cache_none', cache_none, True),
        )
        if value is not usual
    }

    def decorate(function: abc.Callable[..., typing.Any]) -> Cached:
        coroutine = inspect.iscoroutinefunction(function)
        kind = CachedCoroutine if coroutine else Cached
        return kind(function, plan, key, client, prefix, options)

    return decorate
