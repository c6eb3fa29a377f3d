"""Keys as callers write them: a pattern, or a function that returns them."""

from __future__ import annotations

import hashlib
import inspect
import re
import string
import typing
import uuid
from collections import abc

from sprockets.clients.memcached.cached_function import names

MAX_NAME = 200
"""Characters of a key that can be read as a whole; a longer one is a readable
head and a hash.  It leaves room for ``KEY_PREFIX`` in memcached's 250."""

_DIGEST = 16
_HASH = 1 + 2 * _DIGEST
_HASHED = re.compile(f'#[0-9a-f]{{{2 * _DIGEST}}}\\Z')

_LIKE_OTHERS = re.compile(
    r'-?[0-9]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
)
"""What numbers and UUIDs look like, which are put in as they are."""

_ADDRESS = re.compile(r'\bat 0x[0-9a-fA-F]+')
"""What is written of an object that has no text of its own."""


def as_key(name: str, distinct: str = '') -> str:
    """Return a key for a name, another one for each name.

    One that memcached would refuse, or that looks like what this returns for
    another one, is a readable head and a hash.

    :param str distinct: tells apart what has the same name

    """
    if (
        not distinct
        and 0 < len(name) <= MAX_NAME
        and name.isascii()
        and name.isprintable()
        and ' ' not in name
        # In fewer steps for most.
        and (name[-_HASH:][:1] != '#' or not _HASHED.search(name))
    ):
        return name
    whole = f'{name}\0{distinct}' if distinct else name
    digest = hashlib.blake2b(
        whole.encode('utf-8', 'surrogatepass'),
        digest_size=_DIGEST,
        # A name may look like another one with what tells it apart.
        person=b'distinct' if distinct else b'',
    ).hexdigest()
    head = re.sub('[^!-~]', '_', name)[: MAX_NAME - len(digest) - 1]
    return f'{head}#{digest}'


class Pattern:
    """A pattern for :meth:`str.format`, of which keys are made.

    Whatever is put in comes out again: of two calls whose texts are alike, 1
    and '1' say, or whose texts run into each other, one has a hash behind it.
    So has text with a separator of the pattern in it, which could look like
    a key of another pattern that goes on behind it.

    :param str pattern: the pattern
    :param Signature signature: of the function
    :param hidden: the parameters of which keys have a hash
    :raises ValueError: for a pattern that is none, or that names what is no
        parameter

    """

    def __init__(
        self,
        pattern: str,
        signature: inspect.Signature,
        hidden: abc.Set[str] = frozenset(),
    ) -> None:
        self._pattern = pattern
        parts = _parse(pattern)
        self.names: set[str] = set()
        """The parameters that make a difference."""
        for _, field, _, _ in parts:
            if field is None:
                continue
            self.names.add(_root(field))
        check_names(signature, sorted(self.names), f'key is {pattern!r}')
        self._hidden = {*hidden}
        if not hidden.isdisjoint(further(signature)):
            self._hidden |= self.names - signature.parameters.keys()
        self._parts = parts
        fields = [n for n, part in enumerate(parts) if part[1] is not None]
        self._ends: set[str] = set()
        self._run_together = False
        for text, _, _, _ in parts:
            self._ends |= {*re.sub(r'\w', '', text)}
        for number in fields[1:]:
            # A field must not have in it what ends it.
            self._ends |= {*parts[number][0][:1]}
            self._run_together |= not parts[number][0]

    def key(self, arguments: abc.Mapping[str, typing.Any]) -> str:
        """Return the key of a call with these arguments.

        :raises TypeError: for an argument that has no text of its own, and
            for a call without one that the pattern names

        """
        missing = self.names - arguments.keys()
        if missing:
            raise TypeError(
                f'key is {self._pattern!r}, and the call has no'
                f' {min(missing)!r}'
            )
        formatter = string.Formatter()
        texts = []
        told: list[str] = []
        plain = not self._run_together
        for text, field, spec, conversion in self._parts:
            texts.append(text)
            if field is None:
                continue
            given, _ = formatter.get_field(field, (), arguments)
            value = formatter.convert_field(given, conversion)
            put = format(value, formatter.vformat(spec or '', (), arguments))
            if type(given) is not str and _ADDRESS.search(
                value if conversion else put
            ):
                raise TypeError(
                    f'{field!r} of the key {self._pattern!r} is a'
                    f' {type(given).__qualname__}, of which it says where it'
                    ' is in memory: another one may be there later.  Name'
                    ' what tells it apart, as {user.id} does'
                )
            if _root(field) in self._hidden:
                # It is the same length, whatever it is of.
                put = names.digest_of(_tell(given, put))
                told.append(put)
            else:
                plain = plain and self._is_plain(given, put)
                told.append(_tell(given, put))
            texts.append(put)
        name = ''.join(texts)
        return as_key(name, '' if plain else '\0'.join(told))

    def _is_plain(self, value: typing.Any, put: str) -> bool:
        """Whether nothing else than this value has this text."""
        if self._ends & {*put}:
            return False
        if type(value) is str:
            return put == value and not _LIKE_OTHERS.fullmatch(put)
        return type(value) in (int, uuid.UUID) and put == str(value)


def _root(field: str) -> str:
    """Return the parameter of a field of a pattern: that of ``user.id``."""
    return re.split(r'[.[]', field, maxsplit=1)[0]


def further(signature: inspect.Signature) -> list[str]:
    """Return what further keywords are called, if they are taken."""
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.VAR_KEYWORD
    ]


def check_names(
    signature: inspect.Signature, given: abc.Iterable[str], where: str
) -> None:
    """Raise :exc:`ValueError` for names that are no parameters.

    :param str where: where they are given, for the error

    """
    kinds = {
        name: parameter.kind
        for name, parameter in signature.parameters.items()
    }
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds.values()
    for name in given:
        if name not in kinds and not (takes_any and name.isidentifier()):
            raise ValueError(
                f'{where}, and {name!r} is no parameter;'
                f' expected {", ".join(kinds) or "none"}'
            )


def _parse(
    pattern: str,
) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f'key is {pattern!r}: {error}') from None


def _tell(value: typing.Any, put: str) -> str:
    """Return what tells a value from others with the same text."""
    try:
        return names.name_argument(value)
    except TypeError:
        kind = type(value)
        return f'{kind.__module__}.{kind.__qualname__}:{put!r}'
