"""Times and numbers, as callers give them and as memcached takes them."""

from __future__ import annotations

import contextlib
import datetime
import math
import numbers
import operator
import time as clock
import typing

from sprockets.clients.memcached import words
from sprockets.clients.memcached.wire import protocol

MONTH = 60 * 60 * 24 * 30
"""Seconds up to which memcached takes an exptime for a delta
(protocol.txt, "Expiration times")."""

EARLIEST_DATE = 1_000_000_000
"""Seconds since the epoch (September 2001) from which a number is taken for
a date.  As a delta it would be more than 31 years."""

LATEST_DATE = (1 << 31) - 1
"""The latest exptime that memcached reads, in seconds since the epoch."""

MAX_DELTA = (1 << 64) - 1
"""The largest number that memcached adds or takes away."""


def exptime(time: typing.Any) -> int:
    """Return what memcached is told about when a value expires.

    :param time: seconds, or a :class:`datetime.timedelta`: a delta, unless it
        is a number that is plausible as a date in seconds since the epoch; 0
        for never
    :return: 0, up to 30 days as a delta, or seconds since the epoch
    :rtype: int
    :raises ValueError: if it is no number, or cannot be a time

    """
    if type(time) is int and 0 <= time <= MONTH:
        return time
    if isinstance(time, datetime.timedelta):
        return _from_delta(time.total_seconds())
    try:
        # A decimal is a number, but none of the real ones.
        known = isinstance(time, numbers.Number)
        seconds = float(typing.cast(typing.Any, time)) if known else math.nan
    except (TypeError, OverflowError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f'time is {words.shown(time)}; expected seconds or a timedelta'
        )
    if seconds < EARLIEST_DATE:
        return _from_delta(seconds)
    if seconds > LATEST_DATE:
        raise ValueError(
            f'time is {words.shown(time)}, too late for memcached as a date in'
            ' seconds since the epoch; milliseconds?'
        )
    return math.ceil(seconds)


def lifetime(time: typing.Any) -> int:
    """Return the exptime of a value that others are to read.

    :param time: as for :func:`exptime`
    :raises ValueError: likewise, and for less than 0, which would be over
        before anybody reads it

    """
    when = exptime(time)
    if when == protocol.EXPIRED:
        raise ValueError(
            f'time is {words.shown(time)}; expected 0 or more seconds'
        )
    return when


def seconds(name: str, value: typing.Any) -> float:
    """Return a time span in seconds.

    :param str name: the argument, for the error
    :param value: seconds, or a :class:`datetime.timedelta`
    :raises ValueError: if it is none, or less than 0

    """
    span = _span(value)
    if not 0 <= span < math.inf:
        raise ValueError(
            f'{name} is {words.shown(value)}; expected 0 or more seconds, or a'
            ' timedelta'
        )
    return span


def _span(value: typing.Any) -> float:
    """Return a time span in seconds, NaN if it is none."""
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return finite(value)


def finite(value: typing.Any) -> float:
    """Return a number as a float, NaN if it is none or too large for one."""
    # That is a number to Python.
    if isinstance(value, bool):
        return math.nan
    if isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            return float(value)
    return math.nan


def whole_seconds(name: str, value: typing.Any, least: int) -> int:
    """Return a time span in whole seconds, rounded up, up to 30 days.

    :param str name: the argument, for the error
    :param value: seconds, or a :class:`datetime.timedelta`
    :raises ValueError: if it is none, or out of bounds

    """
    span = _span(value)
    if not 0 <= span <= MONTH or math.ceil(span) < least:
        raise ValueError(
            f'{name} is {words.shown(value)}; expected {least} to {MONTH}'
            ' seconds, or a timedelta'
        )
    return math.ceil(span)


def _from_delta(seconds: float) -> int:
    if seconds < 0:
        return protocol.EXPIRED
    # A part of a second counts as one: 0 would be never.
    whole = math.ceil(seconds)
    if whole <= MONTH:
        return whole
    return min(int(clock.time()) + whole, LATEST_DATE)


def check_no_delay(time: typing.Any) -> None:
    """Refuse the delay of ``delete`` that memcached gave up in 1.4.

    :raises ValueError: if there is one, or if it is no number

    """
    if time is None or (isinstance(time, numbers.Real) and time == 0):
        return
    raise ValueError(
        f'time is {words.shown(time)}; expected None or 0, for memcached'
        ' does not delay deletions any more'
    )


def delta(value: typing.Any) -> int:
    """Return by how much a number is to change.

    :raises ValueError: if it is no whole number from 0 to 2**64 - 1

    """
    return number('delta', value)


def initial(value: typing.Any, time: typing.Any) -> int | None:
    """Return the number that a key is to have where it has none.

    :param time: when it expires then
    :return: None if it is to have none
    :raises ValueError: if it is no whole number from 0 to 2**64 - 1, and for
        a time without a number

    """
    if value is not None:
        return number('initial', value)
    if exptime(time):
        raise ValueError(
            f'time is {words.shown(time)}, and initial None; the time is that'
            ' of a number that is made, so that it takes an initial one'
        )
    return None


def number(name: str, value: typing.Any) -> int:
    """Return a number as memcached counts with it.

    :param str name: the argument, for the error
    :raises ValueError: if it is no whole number from 0 to 2**64 - 1

    """
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(
            f'{name} is {words.shown(value)}; expected a whole number'
        ) from None
    if not 0 <= whole <= MAX_DELTA:
        raise ValueError(
            f'{name} is {words.shown(value)}; expected 0 to 2**64 - 1'
        )
    return whole


def min_compress_len(value: typing.Any) -> int:
    """Return from how many bytes on a value is compressed.

    :raises ValueError: if it is no whole number, 0 or more

    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(
            f'min_compress_len is {words.shown(value)}; expected a whole'
            ' number of bytes, 0 or more'
        )
    return whole


def attempts(value: typing.Any) -> int:
    """Return how often something is tried.

    :raises ValueError: if it is no whole number, 1 or more

    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(
            f'attempts is {words.shown(value)}; expected a whole number, 1 or'
            ' more'
        )
    return whole


def items(name: str, value: typing.Any) -> list[typing.Any]:
    """Return what a caller gave to be gone through, as a list.

    :raises TypeError: if it is nothing of the kind

    """
    try:
        return list(value)
    except TypeError:
        if hasattr(type(value), '__iter__'):
            # It is its own error.
            raise
    raise TypeError(f'{name} is {words.shown(value)}; expected a list of keys')


def mapping(value: typing.Any) -> tuple[list[typing.Any], list[typing.Any]]:
    """Return the keys that a caller gave, and their values.

    :raises TypeError: if it is no mapping

    """
    if type(value) is dict:
        return [*value], [*value.values()]
    if not hasattr(type(value), '__getitem__') or isinstance(
        value, str | bytes | list | tuple
    ):
        raise TypeError(
            f'mapping is {words.shown(value)}; expected a dict of values by'
            ' their keys'
        )
    keys = [*value]
    return keys, [value[key] for key in keys]
