"""What a ``get_or_set`` is asked to do: its arguments, checked once."""

from __future__ import annotations

import datetime
import enum
import functools
import inspect
import random
import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import arguments
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.wire import protocol

TICK = 1
"""Seconds by which memcached may let a key expire too early: it counts whole
ones."""


MOST_USUAL = 1000
"""Times whose plans are kept."""


class _Absent(enum.Enum):
    """What is in place of something that is not there."""

    NO_META = 'NO_META'
    REFUSED = 'REFUSED'
    UNREACHABLE = 'UNREACHABLE'

    def __repr__(self) -> str:
        return self.value


MISS = values.MISS
"""In place of a value that is not there."""

NO_META: typing.Any = _Absent.NO_META
"""In place of a server that knows no meta arguments."""

UNREACHABLE: typing.Any = _Absent.UNREACHABLE
"""In place of a lease where no server answers."""

REFUSED: typing.Any = _Absent.REFUSED
"""In place of a lease where the server gives none."""


class Plan(typing.NamedTuple):
    """How a value is got that is not there."""

    time: typing.Any
    """When it is to be computed anew, as the caller has said it."""
    stale: int
    """Seconds for which it is served after that."""
    lease: int
    """Seconds that a computation may take before another one begins."""
    wait: float
    """Seconds to wait for a value that another process computes."""
    cache_none: bool
    min_compress_len: int
    jitter: float = 0.0
    """Seconds by which it is computed anew sooner, at most."""
    when: abc.Callable[[typing.Any], typing.Any] | None = None
    """Says of a value whether it is stored; None for any."""

    @property
    def depends(self) -> bool:
        """Whether it is another one for each value."""
        return bool(self.jitter or self.when or callable(self.time))

    def of(self, value: typing.Any) -> Plan:
        """Return the plan for a value that was computed.

        :raises ValueError: if what says its time says none
        :raises TypeError: if that is to be awaited
        :raises Exception: what the caller's functions raise

        """
        time, jitter = self.time, self.jitter
        if callable(time):
            time = _told('time', time(value))
            if arguments.exptime(time) == protocol.EXPIRED:
                # The value is over already.
                return self._replace(time=time, jitter=0.0, when=_never)
            if jitter:
                check_jitter(jitter, time)
        if jitter:
            if isinstance(time, datetime.timedelta):
                time = time.total_seconds()
            time = float(time) - random.random() * jitter
        stores = self.when is None or _told('when', self.when(value))
        when = None if stores else _never
        plan = self._replace(time=time, jitter=0.0, when=when)
        # What is wrong with it is the caller's.
        _ = plan.kept
        return plan

    def stores(self, value: typing.Any) -> bool:
        """Whether the value that it is for is stored."""
        return self.when is None and (value is not None or self.cache_none)

    @property
    def exptime(self) -> int:
        """When the value is to be computed anew; 0 for never."""
        # A long time is sent as a date, another one each time.
        return arguments.exptime(self.time)

    @property
    def kept(self) -> int:
        """When the value is dropped, as an exptime.

        :raises ValueError: if it would have to be kept too long

        """
        exptime = self.exptime
        if self.stale and exptime > 0:
            return arguments.exptime(exptime + self.stale)
        return exptime

    @property
    def lease_kept(self) -> int:
        """When a lease is dropped that is taken now, as an exptime."""
        return arguments.exptime(self.lease + TICK)

    @property
    def usual_wait(self) -> float:
        """Seconds to wait for another process unless told otherwise.

        So long that one who dies may be followed by another.

        """
        return 2.0 * (self.lease + TICK)

    @property
    def patience(self) -> float:
        """Seconds to wait for another caller in this process.

        That one may have to wait for another process and then compute.

        """
        return self.wait + self.lease


def _never(value: typing.Any) -> bool:
    return False


def _told(name: str, said: typing.Any) -> typing.Any:
    """Return what a caller's function said of a value."""
    if inspect.isawaitable(said):
        if inspect.iscoroutine(said):
            # Nobody will await it, which Python would say.
            said.close()
        raise TypeError(
            f'{name} returned a {type(said).__qualname__}; expected a plain'
            ' function'
        )
    return said


def check_jitter(jitter: float, time: typing.Any) -> None:
    """Refuse a jitter that is longer than the time that it is taken from.

    :raises ValueError: if it is

    """
    exptime = arguments.exptime(time)
    if isinstance(time, datetime.timedelta):
        time = time.total_seconds()
    if exptime <= 0 or jitter > time:
        raise ValueError(
            f'jitter is {jitter:g}, which is more than the time, {time!r}'
        )


class Want(typing.NamedTuple):
    """What is wanted: the value of a key."""

    route: cluster.Route
    plan: Plan
    default: typing.Any
    """What to return instead of waiting for somebody; MISS to wait."""


def _plan(
    time: typing.Any,
    stale: typing.Any,
    lease: typing.Any,
    wait: typing.Any,
    cache_none: typing.Any,
    min_compress_len: typing.Any,
    jitter: typing.Any = 0,
    when: typing.Any = None,
) -> Plan:
    seconds = arguments.whole_seconds('lease', lease, 1)
    plan = Plan(
        time,
        arguments.whole_seconds('stale', stale, 0),
        seconds,
        # So long that one who dies may be followed by another.
        2.0 * (seconds + TICK)
        if wait is None
        else arguments.seconds('wait', wait),
        cache_none,
        arguments.min_compress_len(min_compress_len),
        arguments.seconds('jitter', jitter),
        when,
    )
    # What is wrong with it is said before anything is sent.
    if when is not None:
        check_callable('when', when)
    if not callable(time):
        arguments.lifetime(time)
        _ = plan.kept
        if plan.jitter:
            check_jitter(plan.jitter, time)
    return plan


remembered = functools.lru_cache(maxsize=1024, typed=True)(_plan)
"""Return the plan for these arguments of ``get_or_set``: the same few come
again and again.

:raises ValueError: for what is no time
:raises TypeError: for what cannot be hashed; :func:`plan` takes it

"""


def plan(
    time: typing.Any,
    stale: typing.Any,
    lease: typing.Any,
    wait: typing.Any,
    cache_none: typing.Any,
    min_compress_len: typing.Any,
    jitter: typing.Any = 0,
    when: typing.Any = None,
) -> Plan:
    """Return the plan for these arguments of ``get_or_set``.

    :raises ValueError: for what is no time
    :raises TypeError: for a time span that cannot be hashed, and so is none

    """
    given = time, stale, lease, wait, cache_none, min_compress_len
    if when is not None or callable(time):
        # It may be another function each time.
        return _plan(*given, jitter, when)
    try:
        return remembered(*given, jitter)
    except TypeError:
        spans = {'stale': stale, 'lease': lease, 'wait': wait}
        for name, value in {**spans, 'jitter': jitter}.items():
            # A time span can be hashed.
            if not isinstance(value, abc.Hashable):
                raise TypeError(
                    f'{name} is {words.shown(value)}; expected seconds or a'
                    ' timedelta'
                ) from None
        return _plan(*given, jitter)


class _Usual(dict[int, Plan]):
    """The plans of calls that say nothing but the time, by the time."""

    def __missing__(self, time: int) -> Plan:
        made = _plan(time, 0, 10, None, True, 0)
        if len(self) < MOST_USUAL:
            self[time] = made
        return made


USUAL = _Usual()


def check_callable(name: str, function: typing.Any) -> None:
    """Raise :exc:`TypeError` for what cannot be called."""
    if not callable(function):
        raise TypeError(
            f'{name} is {words.shown(function)}; expected a function'
        )
