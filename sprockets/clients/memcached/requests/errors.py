"""What went wrong, for those who want it raised."""

from __future__ import annotations

import math
import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.requests import arguments, descriptions
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

R = typing.TypeVar('R')


class MemcachedError(Exception):
    """What went wrong with memcached; the base of all that is raised for it.

    .. versionadded:: 2.0

    """


class UnavailableError(MemcachedError):
    """No server has answered: it is down, or the connection broke.

    .. versionadded:: 2.0

    """


class TimedOutError(UnavailableError, TimeoutError):
    """The server has not answered in time.

    .. versionadded:: 2.0

    """


class RefusedError(MemcachedError):
    """A server has answered with an error.

    .. versionadded:: 2.0

    """


class TooLargeError(MemcachedError):
    """A value is too large, for the client or the server; it was not stored.

    .. versionadded:: 2.0

    """


TOO_LARGE = 'object too large'
"""What is in memcached's answer where a value is too large for it."""


def of(name: str, error: BaseException) -> BaseException:
    """Return what is raised for the error of a command.

    :param str name: the method

    """
    if isinstance(error, MemcachedError) or not isinstance(error, Exception):
        return error
    kind: type[MemcachedError] = UnavailableError
    text = str(error) or type(error).__name__
    if isinstance(error, protocol.RefusedError):
        kind = TooLargeError if TOO_LARGE in text else RefusedError
    elif isinstance(error, TimeoutError):
        kind = TimedOutError
    if not text.startswith(f'{name}: '):
        text = f'{name}: {text}'
    made = kind(text)
    # Its traceback has all that was to be sent.
    made.__cause__ = error.with_traceback(None)
    return made


def about(name: str, command: protocol.Command) -> BaseException | None:
    """Return what is raised for a command that is over; None for nothing.

    :param str name: the method

    """
    if isinstance(command.error, endpoints.StaleError):
        # It does not hold that the key still has what gets saw.
        return None
    if command.error is not None:
        return of(name, command.error)
    if (
        isinstance(command, protocol.Line | protocol.Many)
        and command.verb is descriptions.DROP
    ):
        return TooLargeError(f'{name}: the value is too large')
    return None


class One(descriptions.One[R]):
    """What is asked of one key, and raises what goes wrong."""

    __slots__ = ('_inner',)

    def __init__(self, inner: descriptions.One[R]) -> None:
        super().__init__(inner.name, inner.command, inner.route, inner.only)
        self._inner = inner

    @property
    def wanted(self) -> str:  # type: ignore[override]
        return self._inner.wanted

    def note(
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> None:
        self._inner.note(command, endpoint)

    def weight(self, command: protocol.Command) -> int:
        return self._inner.weight(command)

    def unpack(self, command: protocol.Command) -> R:
        error = about(self.name, command)
        if error is not None:
            raise error
        return self._inner.unpack(command)

    @property
    def failure(self) -> R:
        if self.name == 'cas' and self.only is None:
            # The server that it is meant for is not known any more.
            return self._inner.failure
        raise TooLargeError(f'{self.name}: the value is too large')


class Many(descriptions.Many[R]):
    """What is asked of many keys, likewise."""

    def __init__(self, inner: descriptions.Many[R]) -> None:
        # Its parts are the other one's.
        super().__init__(inner.name, iter(()))
        self._inner = inner
        self._done: list[protocol.Command] = []

    def prepare(self) -> bool:
        return self._inner.prepare()

    @property
    def keys(self) -> cluster.Keys:
        return self._inner.keys

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> list[protocol.Command]:
        return self._inner.commands_for(places)

    def fit(self, places: abc.Sequence[int], size: int) -> int:
        return self._inner.fit(places, size)

    def weight(self, command: protocol.Command) -> int:
        return self._inner.weight(command)

    def unpack(self, command: protocol.Command) -> None:
        self._inner.unpack(command)
        # Other threads may do so as well.
        self._done.append(command)

    def late(self) -> None:
        self._inner.late()

    def lack(
        self, done: abc.Iterable[protocol.Command]
    ) -> BaseException | None:
        return self._inner.lack(done)

    def result(self) -> R:
        # Of many commands one may have come to nothing.
        for command in self._done:
            error = about(self.name, command)
            if error is not None:
                raise error
        error = self.lack(self._done)
        if error is not None:
            raise of(self.name, error)
        return self._inner.result()


def timeout(value: typing.Any) -> float | None:
    """Return the time that one call gets.

    :param value: seconds; None for that of the client
    :raises ValueError: if it is none

    """
    if value is None:
        return None
    seconds = arguments.finite(value)
    if not 0 < seconds < math.inf:
        raise ValueError(
            f'timeout is {words.shown(value)}; expected seconds, and more'
            ' than 0'
        )
    return seconds
