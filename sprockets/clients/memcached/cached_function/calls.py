"""How the calls of a function are named, and what does them."""

from __future__ import annotations

import functools
import inspect
import struct
import sys
import types
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import aio, client
from sprockets.clients.memcached.cached_function import names, patterns
from sprockets.clients.memcached.requests import encodings

Call = tuple[encodings.Name, abc.Callable[[], typing.Any]]
"""How a call is named, and what does it."""

CLIENTS = (aio.Methods, client.Client)
"""What a function may ask: a client, or its methods for a request."""

MAX_REMEMBERED = 1024
"""Bytes of the arguments of a call whose name is remembered."""

REMEMBERED = 1024
"""Calls whose names are remembered."""

KEY: typing.Any = object()
"""In place of the argument in which calls differ."""


class LargeCall(Exception):  # noqa: N818
    """Raised for a call with large arguments: it is not remembered."""

    def __init__(self, call: Call) -> None:
        self.call = call


class Calls:
    """The calls of one function.

    :param function: what is called
    :param key: a function that gets the arguments and returns a key, or a
        pattern of one; None for the names of function and arguments
    :param str name: what the function is called in keys; None for its own
    :param hidden: the parameters of which keys have a hash
    :raises TypeError: for a function that cannot be told from others
    :raises ValueError: for a pattern or a name that is none

    """

    def __init__(
        self,
        function: abc.Callable[..., typing.Any],
        key: abc.Callable[..., str] | str | None,
        name: str | None,
        hidden: abc.Set[str] = frozenset(),
    ) -> None:
        self.function = function
        self.signature = _signature(function, callable(key))
        self._hidden = hidden
        patterns.check_names(
            self.signature, sorted(hidden), f'hidden is {sorted(hidden)}'
        )
        self._key = key if callable(key) else None
        self._pattern: patterns.Pattern | None = None
        self._function_name: names.FunctionName | None = None
        self._tells_owner = False
        self.name = ''
        if isinstance(key, str):
            self._pattern = patterns.Pattern(key, self.signature, hidden)
        elif name is not None:
            given: typing.Any = name
            if not isinstance(given, str) or not given:
                raise ValueError(f'name is {name!r}; expected text')
            self.name = name
            self._check_defaults()
        elif key is None:
            self._function_name = names.FunctionName(function)
            self.name = self._function_name.now()
            self._tells_owner = True
            self._check_defaults()
        elif self._key is None:
            raise TypeError(
                f'key is {key!r}; expected a function or a pattern'
            )
        self.remembered = self._fresh()
        """Returns the call with some plain arguments; None if the names of
        calls are to be found anew each time."""

    def _fresh(self) -> typing.Any:
        """Return what remembers calls, with none in it."""
        # What is hidden is not kept, either.
        if (
            self._key is not None
            or self._hidden
            or not self._defaults_are_plain()
        ):
            return None
        # Naming the arguments takes longer than the rest of a hit.  It must
        # not have this, or both would wait for the collector.
        namer = self._namer()
        make = functools.partial(_make_call, self.function, namer)
        made: typing.Any = functools.lru_cache(REMEMBERED, typed=True)(make)
        made.name = namer.name
        return made

    def _namer(self) -> _Namer:
        return _Namer(
            self.signature,
            self._pattern,
            self.name,
            self._tells_owner,
            self._hidden,
        )

    def of(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> Call:
        """Return the name of a call, and what does it.

        :raises TypeError: for an argument that has no name, or that the
            function does not take

        """
        self.look()
        if self.remembered is not None:
            for value in (*args, *kwargs.values()) if kwargs else args:
                if type(value) not in names.PLAIN:
                    break
            else:
                try:
                    return typing.cast(Call, self.remembered(*args, **kwargs))
                except LargeCall as large:
                    return large.call
        return (
            self.named(args, kwargs),
            functools.partial(self.function, *args, **kwargs),
        )

    @property
    def is_steady(self) -> bool:
        """Whether the function is always called the same."""
        return self._function_name is None or not self._function_name.changes

    def look(self) -> None:
        """See whether the function is called otherwise by now."""
        known = self._function_name
        if known is not None and known.changes:
            now = known.now()
            remembered = self.remembered
            # Of two threads that do this one may have left what is older.
            if now != self.name or (
                remembered is not None and remembered.name != now
            ):
                self.name = now
                self.remembered = self._fresh()

    def named(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> encodings.Name:
        """Return the name of a call; likewise."""
        if self._key is not None:
            key = self._key(*args, **kwargs)
            if not isinstance(key, str):
                raise TypeError(f'key returned {key!r}; expected text')
            return encodings.Name(patterns.as_key(key))
        if args and type(args[0]) not in names.PLAIN:
            args = (self._first(args[0]), *args[1:])
        if self.remembered is not None:
            for value in (*args, *kwargs.values()):
                kind = type(value)
                if kind not in names.PLAIN and kind is not names.Owner:
                    break
            else:
                try:
                    call = typing.cast(Call, self.remembered(*args, **kwargs))
                    return call[0]
                except LargeCall as large:
                    return large.call[0]
        return encodings.Name(self._namer()(*args, **kwargs))

    def keys(
        self,
        keys: abc.Iterable[typing.Any],
        first: tuple[typing.Any, ...],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> dict[str, typing.Any]:
        """Return how calls are named that differ in one argument.

        :param keys: that argument of each call
        :param tuple first: the object in front of it, if there is one
        :param tuple args: what comes behind it
        :return: the arguments by the names, as far as these differ
        :raises TypeError: likewise; and for one that no dict can have
        :raises ValueError: for two that are the same to a dict, and different
            arguments, as 1 and True are

        """
        around = self._around(first, args, kwargs)
        found = {}
        for key in keys:
            if around is not None and type(key) in names.PLAIN:
                before, after = around
                name = patterns.as_key(
                    f'{before}{names.name_argument(key)}{after}'
                )
            else:
                name = self.named((*first, key, *args), kwargs).key
            found[name] = key
        _check_keys(found.values())
        return found

    def _around(
        self,
        first: tuple[typing.Any, ...],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> tuple[str, str] | None:
        """Return what is before and behind an argument in a name.

        :return: None if that depends on the argument

        """
        if self._key is not None or self._pattern is not None:
            return None
        first = tuple(
            value if type(value) in names.PLAIN else self._first(value)
            for value in first
        )
        return self._namer().around((*first, KEY, *args), kwargs)

    def _first(self, value: typing.Any) -> typing.Any:
        """Return what stands for the first argument in a name."""
        if self._pattern is not None:
            first = next(iter(self.signature.parameters), None)
            return value if first in self._pattern.names else names.ANYBODY
        if isinstance(value, type) or own_client(value) is not None:
            if not self._tells_owner and (
                names.takes_class(self.function) or not isinstance(value, type)
            ):
                return names.ANYBODY
            if isinstance(value, type):
                return names.owner(value)
            _check_owner(value)
            return names.owner(type(value))
        return value

    def _check_defaults(self) -> None:
        for parameter in self.signature.parameters.values():
            if parameter.default is not parameter.empty:
                try:
                    names.name_argument(parameter.default)
                except TypeError as error:
                    raise TypeError(
                        f'the default of {parameter.name!r} in'
                        f' {names.describe(self.function)}: {error}'
                    ) from None

    def _defaults_are_plain(self) -> bool:
        """Whether no default may be another value the next time."""
        return all(
            type(parameter.default) not in (list, tuple)
            for parameter in self.signature.parameters.values()
        )


class _Namer:
    """Makes the keys of calls."""

    def __init__(
        self,
        signature: inspect.Signature,
        pattern: patterns.Pattern | None,
        name: str,
        tells_owner: bool,
        hidden: abc.Set[str],
    ) -> None:
        self._hidden = hidden
        self._signature = signature
        self._pattern = pattern
        self.name = name
        self._owner = (
            name.partition('[')[0].rpartition('.')[0] if tells_owner else None
        )
        self._variable = patterns.further(signature)
        self._hides_variable = not hidden.isdisjoint(self._variable)

    def __call__(self, /, *args: typing.Any, **kwargs: typing.Any) -> str:
        arguments, more = self._bind(args, kwargs)
        if self._pattern is not None:
            for keywords in more:
                arguments = {**keywords, **arguments}
            return self._pattern.key(arguments)
        owner, told = self._tell(arguments, more)
        return patterns.as_key(f'{self.name}{owner}({",".join(told)})')

    def around(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> tuple[str, str] | None:
        """Return what is before and behind the argument KEY in a name.

        :return: None if it is not there as it is

        """
        arguments, more = self._bind(args, kwargs)
        where = [name for name, value in arguments.items() if value is KEY]
        if not where or where[0] in self._hidden:
            return None
        arguments[where[0]] = None
        owner, told = self._tell(arguments, more)
        at = told.index(f'{where[0]}=None')
        before = ','.join([*told[:at], f'{where[0]}='])
        after = ','.join(['', *told[at + 1 :]])
        return f'{self.name}{owner}({before}', f'{after})'

    def _bind(
        self, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> tuple[dict[str, typing.Any], list[dict[str, typing.Any]]]:
        """Return the arguments by their names, and further ones."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        return arguments, [arguments.pop(name) for name in self._variable]

    def _tell(
        self,
        arguments: dict[str, typing.Any],
        more: list[dict[str, typing.Any]],
    ) -> tuple[str, list[str]]:
        """Return whose method it is, and what is told of each argument."""
        told = []
        owner = ''
        for name, value in arguments.items():
            if type(value) is names.Owner:
                if value.text not in ('', self._owner):
                    owner = f'[{value.text}]'
                continue
            told.append(f'{name}={self._name_argument(name, value)}')
        # Their names may be any text, and those of parameters too.
        hides = self._hides_variable
        told += [
            f'**{name!r}={self._name_argument(name, value, hides)}'
            for keywords in more
            for name, value in sorted(keywords.items())
        ]
        return owner, told

    def _name_argument(
        self, name: str, value: typing.Any, hides: bool = False
    ) -> str:
        if hides or name in self._hidden:
            return names.hide_argument(name, value)
        return names.name_argument(value)


def _make_call(
    function: abc.Callable[..., typing.Any],
    namer: abc.Callable[..., str],
    /,
    *args: typing.Any,
    **kwargs: typing.Any,
) -> Call:
    call = (
        encodings.Name(namer(*args, **kwargs)),
        functools.partial(function, *args, **kwargs),
    )
    if sum(map(sys.getsizeof, (*args, *kwargs.values()))) > MAX_REMEMBERED:
        raise LargeCall(call)
    return call


def _signature(
    function: abc.Callable[..., typing.Any], is_named: bool
) -> inspect.Signature:
    try:
        return _with_defaults(names.signature(function), function)
    except (TypeError, ValueError) as error:
        if is_named:
            return inspect.signature(_anything)
        raise TypeError(
            f'{names.describe(function)} does not say what it takes, so that'
            f' its calls cannot be named ({error}): give a function as key='
        ) from None


def _with_defaults(
    signature: inspect.Signature, function: typing.Any
) -> inspect.Signature:
    """Return a signature with the defaults that a call gets.

    Those of a decorator come before those of the function below.

    """
    defaults: dict[str, typing.Any] = {}
    while type(function) is types.FunctionType and not hasattr(
        function, '__signature__'
    ):
        own = names.signature(function, follow_wrapped=False)
        for name, parameter in own.parameters.items():
            defaults.setdefault(name, parameter.default)
        function = getattr(function, '__wrapped__', None)
    return signature.replace(
        parameters=[
            parameter.replace(default=defaults[name])
            if parameter.default is not parameter.empty
            and defaults.get(name, parameter.empty) is not parameter.empty
            else parameter
            for name, parameter in signature.parameters.items()
        ]
    )


def _anything(*args: typing.Any, **kwargs: typing.Any) -> None:
    """Take any arguments."""


def _check_keys(keys: abc.Collection[typing.Any]) -> None:
    """Refuse keys of which a dict of results could not have each.

    :raises TypeError: for one that no dict can have
    :raises ValueError: for two of which it has one

    """
    try:
        known = {key: key for key in reversed([*keys])}
    except TypeError:
        for key in keys:
            if not isinstance(key, abc.Hashable):
                raise TypeError(
                    f'a {type(key).__qualname__} is among the keys; expected'
                    ' what can be a key of a dict'
                ) from None
        raise
    if len(known) == len(keys):
        return
    for key in keys:
        if known[key] is not key:
            # They may be hidden.
            kinds = type(known[key]).__qualname__, type(key).__qualname__
            raise ValueError(
                f'two keys, of types {" and ".join(kinds)}, are one to a dict'
                ' of results, and two to the function: ask for one of them'
            )


# Whose method it is


def own_client(value: typing.Any) -> aio.Methods | client.Client | None:
    """Return the client that a first argument has, as a handler does."""
    if type(value) in names.PLAIN:
        return None
    own = getattr(value, 'memcached', None)
    return own if isinstance(own, CLIENTS) else None


def _check_owner(value: typing.Any) -> None:
    """Refuse an object that may make a difference, and has no name.

    A handler is there for one request.

    :raises TypeError: if it has more than its client

    """
    web: typing.Any = sys.modules.get('tornado.web')
    if web is not None and isinstance(value, web.RequestHandler):
        return
    clients: list[typing.Any] = []
    for name, part in _parts(value).items():
        is_client = isinstance(part, CLIENTS)
        if is_client and not any(part is client for client in clients):
            clients.append(part)
        # Of several it may ask any.
        if not is_client or len(clients) > 1:
            raise TypeError(
                f'a {type(value).__qualname__} has {name!r} besides its'
                f' client, of which a key cannot tell: {names.ADVICE}'
            )


Slots = list[types.MemberDescriptorType]

_slots: weakref.WeakKeyDictionary[type, Slots | None] = (
    weakref.WeakKeyDictionary()
)


def _parts(value: typing.Any) -> dict[str, typing.Any]:
    """Return what an object has, wherever it has it, by its name."""
    parts = dict(getattr(value, '__dict__', {}))
    kind = type(value)
    if kind not in _slots:
        _slots[kind] = _slots_of(kind)
    slots = _slots[kind]
    if slots is None:
        return {'contents': value, **parts}
    for slot in slots:
        try:
            parts[slot.__name__] = slot.__get__(value)
        except AttributeError:
            # Nothing is in it.
            continue
    return parts


def _slots_of(kind: type) -> Slots | None:
    """Return the slots that the objects of a class have.

    :return: None if these have more than slots and a dict, as a list does

    """
    slots = [
        part
        for base in kind.__mro__
        for name, part in vars(base).items()
        if isinstance(part, types.MemberDescriptorType) and name != '__dict__'
    ]
    pointers = len(slots)
    pointers += kind.__dictoffset__ > 0
    pointers += kind.__weakrefoffset__ > 0
    known = object.__basicsize__ + pointers * struct.calcsize('P')
    if kind.__itemsize__ or kind.__basicsize__ > known:
        return None
    return slots
