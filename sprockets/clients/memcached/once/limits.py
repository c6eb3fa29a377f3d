"""How often something may be done: so many calls in so many seconds."""

from __future__ import annotations

import operator
import typing

from sprockets.clients.memcached import words
from sprockets.clients.memcached.once import counts, leases
from sprockets.clients.memcached.once.steps import Steps
from sprockets.clients.memcached.requests import arguments, encodings
from sprockets.clients.memcached.wire import protocol


class Allowance(typing.NamedTuple):
    """Whether a call is within its limit: true if it is."""

    allowed: bool
    """Whether it is; the default where that is not known."""
    left: int | None
    """How many calls are left; None if it is not known, for memcached does
    not answer."""
    seconds: int
    """Seconds until the limit begins anew, at most."""

    def __bool__(self) -> bool:
        return self.allowed


class Limit(typing.NamedTuple):
    """What is asked of a limit, checked."""

    asked: counts.Count
    calls: int
    seconds: int
    default: bool

    @property
    def unknown(self) -> Allowance:
        """What is said where memcached does not answer."""
        return Allowance(self.default, None, self.seconds)


def check(
    encoding: encodings.Encoding,
    key: typing.Any,
    calls: typing.Any,
    seconds: typing.Any,
    default: typing.Any,
) -> Limit:
    """Return what is asked of a limit.

    :raises memcache.Client.MemcachedKeyError: what is wrong with the key
    :raises ValueError: for no calls, and for no time

    """
    try:
        most = operator.index(calls)
    except TypeError:
        raise ValueError(
            f'calls is {words.shown(calls)}; expected a whole number'
        ) from None
    if not 1 <= most < arguments.MAX_DELTA:
        raise ValueError(
            f'calls is {words.shown(calls)}; expected 1 to'
            f' {arguments.MAX_DELTA - 1}'
        )
    whole = arguments.whole_seconds('seconds', seconds, 1)
    count = counts.Count(protocol.INCR, encoding.route(key), 1, 1, whole)
    return Limit(count, most, whole, bool(default))


def take(flow: leases.Flow, limit: Limit) -> Steps[Allowance]:
    """Count a call, and say whether it is within its limit.

    The count begins with the first call and ends with its expiry: no clock but
    memcached's has a say.

    """
    number, left = yield from counts.count(flow, limit.asked)
    if number is None:
        return limit.unknown
    seconds = limit.seconds
    if left is not None and left >= 0:
        seconds = left
    return Allowance(
        number <= limit.calls, max(limit.calls - number, 0), seconds
    )
