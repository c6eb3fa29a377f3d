"""Numbers that are made where there is none, and counted on, in one step."""

from __future__ import annotations

import typing

from sprockets.clients.memcached.once import leases
from sprockets.clients.memcached.once.plans import NO_META
from sprockets.clients.memcached.once.steps import Ask, Steps
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
)
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

ATTEMPTS = 10
"""How often somebody else may make or delete a number in between."""


class Count(typing.NamedTuple):
    """What a number is to become."""

    verb: protocol.Verb
    route: cluster.Route
    delta: int
    initial: int
    """What it is where there was none."""
    exptime: int
    """When that expires."""


class Counted(typing.NamedTuple):
    """What has become of a number."""

    number: int | None
    """None if there is none, and where the server does not answer."""
    seconds: int | None = None
    """How long it is kept; -1 for ever, None if that is not known."""


def check(
    encoding: encodings.Encoding,
    verb: protocol.Verb,
    key: typing.Any,
    delta: typing.Any,
    initial: typing.Any,
    time: typing.Any,
) -> Count | None:
    """Return what is asked of a number, None if it need not be made.

    :raises memcache.Client.MemcachedKeyError: what is wrong with the key
    :raises ValueError: for what is no number and no time

    """
    first = arguments.initial(initial, time)
    if first is None:
        return None
    return Count(
        verb,
        encoding.route(key),
        arguments.delta(delta),
        first,
        arguments.lifetime(time),
    )


class Direct(descriptions.One[int | None]):
    """The one command, where the servers are known to know it.

    Should one be another by now, which does not, that is known for the next.

    """

    __slots__ = ('_flow',)

    def __init__(self, flow: leases.Flow, asked: Count) -> None:
        command = protocol.meta_count(
            asked.verb,
            asked.route.key,
            asked.delta,
            asked.initial,
            asked.exptime,
        )
        super().__init__(asked.verb.name, command, asked.route)
        self._flow = flow

    def note(
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> None:
        self._flow.asked(command, endpoint)


def count(flow: leases.Flow, asked: Count) -> Steps[Counted]:
    """Count, and begin where there is no number.

    Whoever counts at the same time counts on from there: one command does
    both, and where a server does not know it, ``add`` lets one begin.

    """
    verb, route, delta, initial, exptime = asked
    command = protocol.meta_count(verb, route.key, delta, initial, exptime)
    endpoint = yield from flow.ask_meta(command, route)
    if endpoint is not NO_META:
        return Counted(command.result, command.seconds)
    for _ in range(ATTEMPTS):
        plain = protocol.count(verb, route.key, delta)
        yield Ask(plain, route)
        if plain.result is not None:
            return Counted(plain.result)
        if not plain.answered or plain.error is not None:
            break
        # As the other command makes it: digits, and no flags.
        made = protocol.store(
            protocol.ADD, route.key, 0, exptime, b'%d' % initial
        )
        yield Ask(made, route)
        if made.result:
            return Counted(initial)
        if not made.answered or made.error is not None:
            break
    return Counted(None)


def number(flow: leases.Flow, asked: Count) -> Steps[int | None]:
    """Count likewise, and return the number alone."""
    counted = yield from count(flow, asked)
    return counted.number
