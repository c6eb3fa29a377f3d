"""What ``gets`` saw, until a ``cas`` makes use of it."""

from __future__ import annotations

import typing

from sprockets.clients.memcached import words
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol


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
        self._tokens.pop(route, None)
        self._tokens[route] = Token(endpoint, command.incarnation, unique)
        if len(self._tokens) > self.limit:
            del self._tokens[next(iter(self._tokens))]

    def take(self, route: cluster.Route) -> Token:
        """Return what the ``gets`` of this key saw, for the last time.

        :raises RuntimeError: if there was none since the last ``cas``

        """
        try:
            return self._tokens.pop(route)
        except KeyError:
            raise RuntimeError(
                f'cas without gets: {words.shown(route.key.decode("latin-1"))}'
                ' was not read with gets before, or there was a cas since;'
                ' expected a gets for each cas'
            ) from None

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
