"""What a server tells of itself: that it answers, how fast, its statistics."""

from __future__ import annotations

import datetime
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.servers import endpoints, health, workers
from sprockets.clients.memcached.wire import bounds, protocol

KEY = b'sprockets.clients.memcached.check'
"""It is read to see whether a server is up, which is whether reads are
answered; nobody stores it."""

PATIENCE = 300
"""Seconds before a server that refused a command is asked again."""


SIDE_BY_SIDE = 32
"""Servers that are looked at at one time, however many there are."""


class _Lookers:
    """The threads that look at servers, for as long as there is one to see."""

    def __init__(self) -> None:
        self._workers = workers.Workers(
            SIDE_BY_SIDE, 'memcached check', workers.Idle(0)
        )

    def submit(self, job: abc.Callable[[], None]) -> None:
        """Have a thread look at a server, when it is its turn.

        :raises ThreadError: if there is no thread, and none can be started

        """
        self._workers.submit(job)

    def forget_after_fork(self) -> None:
        """Begin without threads, and with nothing to look at."""
        self._workers.forget()


_lookers = _Lookers()
submit = _lookers.submit
process.after_fork(_lookers)


class Finding(typing.NamedTuple):
    """What was seen of a server."""

    error: str | None
    """Why it is down, None if it answered."""
    round_trip: float | None = None
    """Seconds for a question and its answer."""
    version: str | None = None
    statistics: abc.Mapping[str, str] = {}


class _Version(protocol.Version):
    """``version``, asked where it is not known whether it is answered."""

    __slots__ = ()

    # A proxy that does not know it may close the connection.  On one that was
    # used before, that is taken for no fault of the server's if it is not
    # tried again.
    repeatable = False


class _Statistics(protocol.Statistics):
    """``stats``, likewise."""

    __slots__ = ()

    repeatable = False


_learned: weakref.WeakKeyDictionary[endpoints.Endpoint, dict[str, float]] = (
    weakref.WeakKeyDictionary()
)
"""When to ask a server that refused a command again (:func:`time.monotonic`);
0 for one that it knows."""


def check(endpoint: endpoints.Endpoint, deadline: float) -> Finding:
    """Ask a server for its version and statistics, and wait for them.

    It is the same way to the server that calls go, so that what turns out is
    known to them as well.

    :param float deadline: until when, on :func:`time.monotonic`'s clock
    :rtype: Finding

    """
    learned = _learned.setdefault(endpoint, {})
    now = time.monotonic()

    def ask() -> protocol.Command:
        command = protocol.Get((KEY,))
        trial = endpoint.try_again()
        endpoint.exchange((command,), deadline, trial=trial)
        return command

    connected = endpoint.connections > 0
    began = time.perf_counter()
    answer = ask()
    if not connected and answer.error is None:
        # The time that it takes to connect is no round trip.
        began = time.perf_counter()
        answer = ask()
    round_trip = time.perf_counter() - began
    if answer.error is not None:
        learned.clear()
        reason = None if answer.answered else endpoint.reason
        return Finding(reason or health.words(answer.error))
    answers: dict[str, typing.Any] = {}
    for command in (_Version(), _Statistics()):
        name = command.name
        if learned.get(name, 0) <= now:
            if not endpoint.connections:
                # The one that was there is closed after an unknown command.
                ask()
            endpoint.exchange((command,), deadline)
            learned[name] = 0 if command.error is None else now + PATIENCE
            answers[name] = command.result
    return Finding(
        None, round_trip, answers.get('version'), answers.get('stats') or {}
    )


def in_vain(endpoint: endpoints.Endpoint, begun: bool) -> Finding:
    """Return what is seen of a server where nothing came in time.

    :param bool begun: whether its turn has come

    """
    if begun:
        return Finding(f'no answer within {endpoint.timeout:g} seconds')
    return Finding('not asked: too many others do not answer')


def describe(
    endpoint: endpoints.Endpoint, seen: Finding
) -> dict[str, typing.Any]:
    """Return a server's state as it is shown: what is not known is None.

    :rtype: dict

    """
    number = _numbers(seen.statistics)
    hits, misses = number('get_hits'), number('get_misses')
    up = seen.error is None
    return {
        'address': str(endpoint),
        'up': up,
        'since': _date(
            _up_since(endpoint, number) if up else endpoint.down_since
        ),
        'reason': seen.error,
        'version': seen.version,
        'round_trip': seen.round_trip and round(seen.round_trip, 6),
        'hit_rate': rate(hits, misses),
        'items': number('curr_items'),
        'memory': number('bytes'),
        'memory_limit': number('limit_maxbytes'),
        'evictions': number('evictions'),
        'connections': number('curr_connections'),
        'uptime': number('uptime'),
    }


def rate(hits: int | None, misses: int | None) -> float | None:
    """Return the part of the reads that were hits, None if there were none."""
    if hits is None or misses is None or not hits + misses:
        return None
    return round(hits / (hits + misses), 4)


def _numbers(
    statistics: abc.Mapping[str, str],
) -> abc.Callable[[str], int | None]:
    def number(name: str) -> int | None:
        return bounds.STATISTIC.read(statistics.get(name, ''))

    return number


def _up_since(
    endpoint: endpoints.Endpoint, number: abc.Callable[[str], int | None]
) -> float | None:
    """Return when it was started, or was seen to come back if that is later.

    The time is that of the server's clock, or of this machine's.

    """
    now, uptime = number('time'), number('uptime')
    if now is None or uptime is None or not uptime <= now <= bounds.TIME.most:
        return endpoint.up_since
    return max(float(now - uptime), endpoint.up_since or 0.0)


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    date = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return date.strftime('%Y-%m-%dT%H:%M:%SZ')
