"""Who is told about each call, and what."""

from __future__ import annotations

import typing
from collections import abc

from sprockets.clients.memcached.servers import endpoints

Keys = abc.Sequence[bytes]
"""The keys of a call, as they are sent."""


class Observer(typing.Protocol):
    """Who wants to know how a call went."""

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Take note that the call is over.

        :param error: why it failed
        :param int hits: the values that were read
        :param int misses: the keys that had no value
        :param Endpoint endpoint: the server, where there is one and no more

        """


Observe = abc.Callable[[str, Keys], Observer]
"""Is called with the name of a method and its keys, and returns who
is told about the call."""


def type_of(error: BaseException) -> str:
    """Return the name of an error's class as OpenTelemetry has it."""
    kind = type(error)
    if kind.__module__ == 'builtins':
        return kind.__qualname__
    return f'{kind.__module__}.{kind.__qualname__}'


def both(first: Observe | None, second: Observe | None) -> Observe | None:
    """Return what tells two of each call, or one or none if that is all."""
    if first is None or second is None:
        return first or second
    return Both(first, second).observe


class Both:
    """Tells two observers of each call."""

    def __init__(self, first: Observe, second: Observe) -> None:
        self._first = first
        self._second = second

    def observe(self, method: str, keys: Keys) -> Pair:
        """Take note that a call begins."""
        return Pair(self._first(method, keys), self._second(method, keys))


class Pair:
    """Sees one call through for two."""

    __slots__ = ('_first', '_second')

    def __init__(self, first: Observer, second: Observer) -> None:
        self._first = first
        self._second = second

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Tell both; what goes wrong for one is not the other's concern."""
        try:
            self._first.over(error, hits, misses, endpoint)
        finally:
            self._second.over(error, hits, misses, endpoint)
