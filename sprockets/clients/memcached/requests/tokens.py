"""What ``gets`` saw, until a ``cas`` makes use of it."""

from __future__ import annotations

import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

T = typing.TypeVar('T')


class Token(typing.NamedTuple):
    """What a ``gets`` saw: a value, nothing, or no answer at all."""

    endpoint: endpoints.Endpoint | None
    """The server that answered; None if none did, or if it has no ``cas``."""
    incarnation: int
    unique: int | None
    """The cas unique of the value, None if there was no value."""


class Tokens:
    """What the ``gets`` of one scope saw, each for one ``cas``.

    Only the latest ``limit`` are kept.

    """

    limit = 10_000

    def __init__(self) -> None:
        self._tokens: dict[cluster.Route, Token] = {}
        self._expected: dict[abc.Hashable, None] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def remember(
        self,
        route: cluster.Route,
        command: protocol.Get,
        endpoint: endpoints.Endpoint | None,
    ) -> None:
        """Keep what a ``gets`` brought in place of what one before did."""
        item = command.found.get(route.key) or command.lost.get(route.key)
        unique = None if item is None else item[2]
        if not command.answered or (
            endpoint is not None and not endpoint.gives_uniques(unique)
        ):
            endpoint = None
        token = Token(endpoint, command.incarnation, unique)
        self._keep(self._tokens, route, token)

    def _keep(
        self, among: dict[typing.Any, T], key: abc.Hashable, value: T
    ) -> None:
        among.pop(key, None)
        among[key] = value
        if len(among) > self.limit:
            del among[next(iter(among))]

    def take(self, route: cluster.Route) -> Token:
        """Return what the ``gets`` of this key saw, for the last time.

        :raises RuntimeError: if there was none since the last ``cas``

        """
        try:
            return self._tokens.pop(route)
        except KeyError:
            key = route.key.decode('utf-8', 'backslashreplace')
            raise RuntimeError(
                f'cas without gets: {words.shown(key)} was not read with gets'
                ' before, or there was a cas since; expected a gets for'
                ' each cas'
            ) from None

    def expect(self, what: abc.Hashable) -> None:
        """Keep that there was a ``gets``, whatever becomes of its token.

        :param what: what tells it from others where its key does not, which
            is another one in each generation

        """
        self._keep(self._expected, what, None)

    def is_expected(self, what: abc.Hashable) -> bool:
        """Whether there was such a ``gets``; each is told for one ``cas``."""
        try:
            del self._expected[what]
        except KeyError:
            return False
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._expected.clear()
