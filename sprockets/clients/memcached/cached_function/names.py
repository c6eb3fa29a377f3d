"""What tells functions, and their arguments, apart: the names in keys."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import sys
import types
import typing
import uuid
import weakref
from collections import abc

from sprockets.clients.memcached import process, words

LOCAL = '<locals>'
"""In the qualified name of what is made inside of a function."""

ADVICE = 'give key=, or name= if a name says all that makes a difference'

_MADE = 1 << 9
"""The flag of classes that are made while a program runs, as those of Python
are: ``Py_TPFLAGS_HEAPTYPE``."""

PLAIN = frozenset((str, bytes, int, bool, type(None), uuid.UUID))
"""Types of which two values that are equal have the same name."""


# Arguments


def _name_datetime(value: datetime.datetime | datetime.time) -> str:
    zone = value.tzinfo
    name = f'{value.isoformat()}{"+fold" if value.fold else ""}'
    if zone is None:
        return name
    if isinstance(zone, datetime.timezone):
        called = zone.tzname(None)
        # It may have another name than its offset, which strftime tells.
        usual = datetime.timezone(zone.utcoffset(None)).tzname(None)
        return name if called == usual else f'{name}[{called!r}]'
    # In two zones with the same offset just then, a day later may differ.
    # It takes long, and who has one of its zones has it already.
    import zoneinfo

    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key is not None:
        return f'{name}[{zone.key}]'
    raise TypeError(
        f'{zone!r} cannot be named in a key; expected a zone of zoneinfo or'
        f' datetime.timezone.  Or {ADVICE}'
    )


def _name_span(value: datetime.timedelta) -> str:
    return f'{value.days}d{value.seconds}s{value.microseconds}us'


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
    datetime.datetime: _name_datetime,
    datetime.time: _name_datetime,
    datetime.timedelta: _name_span,
    tuple: lambda value: f'({",".join(map(name_argument, value))})',
    list: lambda value: f'[{",".join(map(name_argument, value))}]',
}


def name_argument(value: typing.Any) -> str:
    """Return an argument as a part of a key.

    :raises TypeError: for a value that has no name of its own

    """
    # By the exact type: a subclass may look like something else.
    name = _NAMES.get(type(value))
    if name is not None:
        return name(value)
    if isinstance(value, enum.Enum):
        # Flags that were put together may have no name.
        member = value.value if isinstance(value, enum.Flag) else value.name
        if type(member) is str and not member.isidentifier():
            # Where it was made of data, it may be any text.
            member = repr(member)
        return f'{name_class(type(value))}.{member}'
    raise TypeError(
        f'{words.shown(value)} cannot be named in a key; expected text, bytes,'
        ' numbers, dates, UUIDs, enum members, None, or tuples and lists'
        ' of them.  key= names a call in another way'
    )


def hide_argument(name: str, value: typing.Any) -> str:
    """Return a hash of an argument, in which it is not to be seen.

    :param str name: that of the parameter
    :raises TypeError: for a value that has no name of its own

    """
    told = _name_or_none(value)
    if told is None:
        raise TypeError(
            f'{name} cannot be named in a key, as an object of'
            f' {type(value).__qualname__}; expected text, bytes, numbers,'
            ' dates, UUIDs, enum members, None, or tuples and lists of them'
        )
    return digest_of(told)


def _name_or_none(value: typing.Any) -> str | None:
    # The error has the value.
    try:
        return name_argument(value)
    except TypeError:
        return None


def digest_of(told: str) -> str:
    """Return a hash in place of what was told of an argument."""
    data = told.encode('utf-8', 'surrogatepass')
    digest = hashlib.blake2b(data, digest_size=16, person=b'hidden')
    return f'hidden-{digest.hexdigest()}'


def name_class(kind: type) -> str:
    """Return what a class is called in keys.

    :raises TypeError: for one that is made inside of a function, for each call
        of that makes another one; and for one that its module does not have
        by its name, for there may be another one

    """
    if LOCAL in kind.__qualname__:
        raise TypeError(
            f'{kind.__qualname__} is made inside of a function, and so cannot'
            f' be named in a key: {ADVICE}'
        )
    if _is_made_by_call(kind):
        raise TypeError(
            f'{kind.__module__} has another {kind.__qualname__}, or none, as'
            ' where type() made it, and so it cannot be named in a key:'
            f' {ADVICE}'
        )
    return f'{module_of(kind)}.{kind.__qualname__}'


def _is_made_by_call(kind: type) -> bool:
    """Whether a class is not the one of its name, as far as is known."""
    if kind.__module__ not in sys.modules or not kind.__flags__ & _MADE:
        return False
    found = _named(kind)
    # Where it is no class, a decorator has put something else in its place.
    return (
        found is not kind
        and (found is None or isinstance(found, type))
        and not _is_within_body(kind)
    )


def _is_within_body(kind: type) -> bool:
    """Whether the body of a class that it is in is still being run.

    Its module has that class when it is made, or another one until then.

    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            outer = frame.f_locals.get('__qualname__')
            if (
                frame.f_globals.get('__name__') == kind.__module__
                and type(outer) is str
                and kind.__qualname__.startswith(f'{outer}.')
            ):
                return True
        frame = frame.f_back
    return False


# Functions

_REMEMBERS = type(functools.lru_cache(lambda: None))


def module_of(thing: typing.Any) -> str:
    """Return the module of a function or class, by its own name.

    :raises TypeError: if it has none

    """
    name = getattr(thing, '__module__', None)
    if name is None:
        # A method that is written in C.
        kind = getattr(thing, '__objclass__', None)
        if kind is None and hasattr(thing, '__self__'):
            kind = type(thing.__self__)
        if kind is None:
            raise TypeError(
                f'{describe(thing)} is of no module, as where exec made it,'
                f' and so cannot be named in a key: {ADVICE}'
            )
        return str(kind.__module__)
    return process.module_name(str(name))


def describe(function: typing.Any) -> str:
    """Return what a function is called in an error."""
    name = getattr(function, '__qualname__', None)
    return repr(function) if name is None else str(name)


def describe_fully(kind: str, function: typing.Any) -> str:
    """Return what a function is, and what it is called, with its module.

    :param str kind: what it is, if it is a function

    """
    if isinstance(function, functools.partial):
        return f'partial of {describe_fully(kind, function.func)}'
    if not hasattr(function, '__qualname__'):
        kind, function = 'object of', type(function)
    module = getattr(function, '__module__', None)
    if module is None and type(function) is types.FunctionType:
        return f'{kind} {function.__qualname__}'
    return f'{kind} {module or module_of(function)}.{function.__qualname__}'


def signature(
    function: typing.Any, *, follow_wrapped: bool = True
) -> inspect.Signature:
    """Return what a function takes, as :func:`inspect.signature` does.

    What its annotations name need not be there.  Since Python 3.14 they are
    evaluated when somebody asks: it may be imported for type checkers alone.

    """
    how: dict[str, typing.Any] = {'follow_wrapped': follow_wrapped}
    if sys.version_info >= (3, 14):
        import annotationlib

        how['annotation_format'] = annotationlib.Format.FORWARDREF
    return inspect.signature(function, **how)


def returned(function: typing.Any) -> typing.Any:
    """Return what a function is said to return, None if nothing is said.

    :return: text, where that names what is not there

    """
    if sys.version_info < (3, 14):
        said = getattr(function, '__annotations__', {}).get('return')
    else:
        import annotationlib

        said = annotationlib.get_annotations(
            function, format=annotationlib.Format.FORWARDREF
        ).get('return')
    if isinstance(said, typing.ForwardRef):
        return said.__forward_arg__
    return said


class FunctionName:
    """What a function is called in keys, as long as it stays what it is.

    That of a function that is made inside of another one has what it uses
    from there.

    :raises TypeError: if it cannot be told from others; it says what to write

    """

    def __init__(self, function: typing.Any) -> None:
        self._function = function
        self._signed = _innermost(function, _has_signature)
        """The one of whose parameters the arguments of a call are."""
        naming = _Naming(self._signed)
        text = naming.name(function)
        self.changes = naming.changes
        """Whether it may be another one at the next call."""
        _claim(text, function, naming.opaque)

    def now(self) -> str:
        """Return the name as it is at the moment."""
        # Several threads may ask at the same time.
        return _Naming(self._signed).name(self._function)


class _Naming:
    """Finds once what a function is called.

    :param signed: the one of whose parameters the arguments of a call are

    """

    def __init__(self, signed: typing.Any) -> None:
        self._signed = signed
        self._named: dict[int, tuple[int, typing.Any]] = {}
        """What was named so far, by its id, and in which place."""
        self.changes = False
        """Whether it may be another one at the next call."""
        self.opaque = False
        """Whether the name does not say all that it uses."""

    def name(self, function: typing.Any) -> str:
        """Return what a function is called."""
        # As long as it is there nothing else has its id.
        self._named.setdefault(id(function), (len(self._named), function))
        if type(function) is functools.partial:
            return self.name(function.func) + self._given(function)
        if isinstance(function, type):
            return name_class(function)
        if isinstance(function, _REMEMBERS):
            # It returns what the function does.
            return self.name(function.__wrapped__)
        if inspect.ismethod(function):
            owner = self._captured(function.__self__)
            return f'{self.name(function.__func__)}[{owner}]'
        qualname = getattr(function, '__qualname__', None)
        if qualname is None:
            raise TypeError(
                f'an object of {type(function).__qualname__} has no name of'
                f' its own: {ADVICE}'
            )
        if '<lambda>' in qualname:
            raise TypeError(
                f'a lambda has no name of its own ({qualname}): {ADVICE}'
            )
        owner = qualname.rpartition('.')[0]
        if (
            LOCAL in owner
            and not owner.endswith(LOCAL)
            and _first(function) in ('self', 'cls')
        ):
            raise TypeError(
                f'{qualname} is a method of a class that is made inside of a'
                f' function, which may make several: {ADVICE}'
            )
        name = f'{module_of(function)}.{qualname}'
        bound_to = getattr(function, '__self__', None)
        if not isinstance(bound_to, types.ModuleType | None):
            # One of those that are written in C.
            name = f'{name}[{self._captured(bound_to)}]'
        if name.startswith('__main__.'):
            # In a notebook, where another's may have the same name.
            name += f'#{_digest(function)}'
        if _is_object(function):
            self._look_at(function)
            function = getattr(function, '__wrapped__', None)
        return name + self._uses(function)

    def _look_at(self, function: typing.Any) -> None:
        """Take note of an object that is called in place of a function.

        What it does besides may be anything, and it has that one's name.

        :raises TypeError: if there may be several

        """
        if LOCAL in function.__qualname__:
            raise TypeError(
                f'{function.__qualname__} is called by a'
                f' {type(function).__qualname__}, and a key cannot tell one'
                f' of these from another: {ADVICE}'
            )
        if not _is_global(function):
            # A decorator's, which is applied once.
            self.opaque = True

    def _given(self, function: functools.partial[typing.Any]) -> str:
        given = [self._captured(value) for value in function.args]
        given += [
            f'{name}={self._captured(value)}'
            for name, value in sorted(function.keywords.items())
        ]
        return f'[{",".join(given)}]' if given else ''

    def _uses(self, function: typing.Any) -> str:
        """Return what a function has of the one that it is made in."""
        used = []
        for name, value in [*self._cells(function), *self._own(function)]:
            try:
                used.append(f'{name}={self._captured(value)}')
            except TypeError as error:
                if LOCAL in function.__qualname__:
                    raise TypeError(
                        f'{function.__qualname__} uses {name!r} of the'
                        f' function that it is made in.  {error}'
                    ) from None
                # A decorator's, which is applied once.
                self.opaque = True
        return f'[{",".join(used)}]' if used else ''

    def _cells(
        self, function: typing.Any
    ) -> abc.Iterator[tuple[str, typing.Any]]:
        """Return what it uses from there, as it is at the moment."""
        cells = getattr(function, '__closure__', None)
        if not cells:
            return
        for name, cell in zip(
            function.__code__.co_freevars, cells, strict=True
        ):
            if name == '__class__':
                # Its name is in the function's.
                continue
            self.changes = True
            try:
                yield name, cell.cell_contents
            except ValueError:
                # It is made later, as the function itself is.
                continue

    def _own(
        self, function: typing.Any
    ) -> abc.Iterator[tuple[str, typing.Any]]:
        """Return its defaults, if no call has them as arguments."""
        code = getattr(function, '__code__', None)
        if code is None or function is self._signed:
            return
        # Of another one there is one only.
        if LOCAL in getattr(code, 'co_qualname', ''):
            defaults = function.__defaults__ or ()
            named = code.co_varnames[: code.co_argcount]
            yield from zip(
                named[len(named) - len(defaults) :], defaults, strict=True
            )
            yield from (function.__kwdefaults__ or {}).items()

    def _captured(self, value: typing.Any) -> str:
        """Return the name of what is a part of a function.

        :raises TypeError: for what has none, or may change

        """
        function = getattr(value, '__memcached_function__', None)
        if function is not None:
            owner = getattr(value, '__self__', None)
            if owner is not None:
                return f'{self._captured(function)}[{self._captured(owner)}]'
            value = function
        if id(value) in self._named:
            # What it uses is told once, however many use it.
            place, _ = self._named[id(value)]
            return f'again{place}'
        if isinstance(value, types.ModuleType):
            return str(value.__name__)
        if isinstance(value, type):
            return name_class(value)
        if callable(value) and (
            hasattr(value, '__qualname__')
            or isinstance(value, functools.partial)
        ):
            return self.name(value)
        if isinstance(value, tuple) and type(value) is tuple:
            return f'({",".join(map(self._captured, value))})'
        if isinstance(value, enum.Enum) or (
            type(value) in _NAMES and type(value) is not list
        ):
            return name_argument(value)
        raise TypeError(
            f'A key cannot tell one {type(value).__qualname__} from another:'
            f' {ADVICE}'
        )


def _innermost(
    function: typing.Any,
    stop: abc.Callable[[typing.Any], bool] = lambda function: False,
) -> typing.Any:
    """Return the function that others are put around.

    :param stop: whether to go no further than some function

    """
    seen: set[int] = set()
    while id(function) not in seen and not stop(function):
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = getattr(function, '__wrapped__', function)
    return function


def _has_signature(function: typing.Any) -> bool:
    return hasattr(function, '__signature__')


def _is_object(function: typing.Any) -> bool:
    """Whether it is an object with the name of a function that it calls."""
    return type(function) is not types.FunctionType and (
        hasattr(function, '__wrapped__')
        or isinstance(type(function).__call__, types.FunctionType)
    )


def _is_global(function: typing.Any) -> bool:
    """Whether it is what its name says, in its module."""
    return _named(function) is function


def _named(thing: typing.Any) -> typing.Any:
    """Return what a module has by the name of something of it."""
    found: typing.Any = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split('.'):
        found = getattr(found, name, None)
    return found


def _first(function: typing.Any) -> str | None:
    """Return the name of the first parameter."""
    code = getattr(_innermost(function), '__code__', None)
    return code.co_varnames[0] if code and code.co_argcount else None


def is_in_class(function: typing.Any) -> bool:
    """Whether a function is defined in the body of a class."""
    owner = getattr(function, '__qualname__', '').rpartition('.')[0]
    return bool(owner) and not owner.endswith(LOCAL)


def takes_class(function: typing.Any) -> bool:
    """Whether a function is one for :class:`classmethod`."""
    return (
        isinstance(function, types.FunctionType)
        and is_in_class(function)
        and _first(function) == 'cls'
    )


def _digest(function: typing.Any) -> str:
    """Return a digest of what a function does."""
    code = getattr(_innermost(function), '__code__', None)
    text = repr(_code(code)) if code is not None else ''
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _code(value: typing.Any) -> typing.Any:
    """Return what a code object does, without where it stands."""
    if isinstance(value, types.CodeType):
        return (
            value.co_code,
            value.co_names,
            value.co_varnames,
            value.co_freevars,
            [_code(constant) for constant in value.co_consts],
        )
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return value


# Who has a name


class _Claim(typing.NamedTuple):
    """Which function has a name."""

    function: weakref.ref[typing.Any]
    where: tuple[str, int]
    code: types.CodeType
    spec: object
    module: weakref.ref[types.ModuleType] | None
    """The module that it is in; None if that is not to be found."""


_claims: dict[str, _Claim] = {}
"""The functions that are cached, by their names."""


def _claim(name: str, function: typing.Any, opaque: bool) -> None:
    """Take note of who has a name.

    :param bool opaque: whether the name does not say all that it uses
    :raises TypeError: if another function has it, in the same module

    """
    original = _innermost(function)
    code = getattr(original, '__code__', None)
    if code is None or '#' in name:
        return
    names = original.__globals__
    module = sys.modules.get(names.get('__name__', ''))
    if module is not None and vars(module) is not names:
        module = None

    def forget(gone: weakref.ref[typing.Any]) -> None:
        # There may be any number of those that are made by a function.
        claim = _claims.get(name)
        if claim is not None and claim.function is gone and '[' in name:
            del _claims[name]

    claim = _Claim(
        weakref.ref(function, forget),
        (code.co_filename, code.co_firstlineno),
        code,
        # Another one each time that a module is run.
        names.get('__spec__'),
        None if module is None else weakref.ref(module),
    )
    before = _claims.get(name)
    if before is not None and before.spec is claim.spec:
        other = before.function()
        # What exec makes is always in the first line.
        same_place = before.where == claim.where and before.code == code
        if other is None:
            # What it has stored is there still.
            is_other = (
                not same_place
                and module is not None
                and before.module is not None
                and before.module() is module
            )
        else:
            in_class = is_in_class(function) and LOCAL not in name
            is_other = (
                other is not function
                and _innermost(other).__globals__ is names
                and (not same_place or opaque or in_class)
            )
        if is_other:
            raise TypeError(
                f'two cached functions are called {name} (lines'
                f' {before.where[1]} and {claim.where[1]}): give one of them'
                ' another name with name='
            )
    _claims[name] = claim


# Whose method it is


class Owner:
    """In place of an object, or a class, whose method is called.

    :ivar text: what its class is called

    """

    __slots__ = ('text',)

    def __init__(self, text: str) -> None:
        self.text = text


ANYBODY = Owner('')
"""In place of one who makes no difference to the name."""

_owners: weakref.WeakKeyDictionary[type, Owner] = weakref.WeakKeyDictionary()


def owner(kind: type) -> Owner:
    """Return what stands for a class, or for an object of it, in a call.

    :raises TypeError: for a class that has no name

    """
    found = _owners.get(kind)
    if found is None:
        found = _owners.setdefault(kind, Owner(name_class(kind)))
    return found
