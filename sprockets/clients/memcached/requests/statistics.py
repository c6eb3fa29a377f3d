"""What servers tell of themselves, as ``get_stats`` and its like return it."""

from __future__ import annotations

import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

Pairs = list[tuple[str, dict[str, str]]]
"""Servers by name, and the statistics of each."""

BySlab = list[tuple[str, dict[str, typing.Any]]]
"""The same; those of a slab in a dict of their own, by its number."""


def argument(given: typing.Any) -> bytes:
    """Return what is sent behind ``stats``, which may be nothing.

    :raises ValueError: if it is no plain text

    """
    if not given:
        return b''
    if isinstance(given, bytes):
        given = given.decode('latin-1')
    if not (
        isinstance(given, str) and given.isascii() and given.isprintable()
    ):
        raise ValueError(
            f'stat_args is {words.shown(given)}, which is no argument of'
            " stats; expected plain text, such as 'items'"
        )
    return given.encode('ascii')


def of(
    servers: abc.Iterable[cluster.Server],
    asked: abc.Mapping[endpoints.Endpoint, protocol.Command],
) -> Pairs:
    """Return pairs of a server's name and its statistics."""
    return [
        (server.name, asked[server.endpoint].result)
        for server in servers
        if server.endpoint in asked
        and asked[server.endpoint].result is not None
    ]


def of_argument(
    servers: abc.Iterable[cluster.Server],
    asked: abc.Mapping[endpoints.Endpoint, protocol.Command],
) -> Pairs:
    """Return the same, where a caller has said which statistics.

    :raises ValueError: if a server refused the argument

    """
    for command in asked.values():
        if isinstance(command.error, protocol.RefusedError) and not isinstance(
            command.error, protocol.OutOfBoundsError
        ):
            # Without an argument, or with this answer, it is the server's
            # fault and not the caller's.
            has_argument = command.request != protocol.Statistics().request
            if has_argument and 'SERVER_ERROR' not in str(command.error):
                raise ValueError(
                    f'memcached refuses {command.error}; expected a stat_args'
                    " that it knows, such as 'items'"
                )
    return of(servers, asked)


def by_slab(pairs: Pairs) -> BySlab:
    """Arrange ``stats slabs`` by the number that begins a name: ``1:name``."""
    return [(name, _arranged(texts, 0)) for name, texts in pairs]


def items_by_slab(pairs: Pairs) -> BySlab:
    """Arrange ``stats items`` by the number in ``items:1:name``."""
    return [(name, _arranged(texts, 1)) for name, texts in pairs]


def _arranged(
    texts: abc.Mapping[str, str], place: int
) -> dict[str, typing.Any]:
    """Return texts with those of a slab in a dict of their own.

    What would take the place of another one stays under its whole name.

    :param int place: where in a name the slab is

    """
    result: dict[str, typing.Any] = {}
    names = {name: name.split(':') for name in texts}
    alone = {name for name, parts in names.items() if len(parts) <= place + 1}
    for name, text in texts.items():
        parts = names[name]
        if name in alone or parts[place] in alone:
            result[name] = text
            continue
        slab = result.setdefault(parts[place], {})
        rest = ':'.join(parts[place + 1 :])
        if rest in slab:
            result[name] = text
        else:
            slab[rest] = text
    return result
