"""Compressed values, and what was put before or behind them."""

from __future__ import annotations

import itertools
import re
import typing
import zlib
from collections import abc

MAX_INFLATED = 16 * 1024 * 1024
"""Bytes at which the inflating of a compressed value stops."""

_BEGINNING = re.compile(rb'x[\x01^\x9c\xda]')
"""What zlib's format begins with, by levels (RFC 1950)."""

MAX_LOOKS = 10_000
"""Places at which a compressed value may begin that are looked at."""


MOST = 1 << 30
"""Bytes that are inflated at a time, whatever the limit is."""

PIECE = 16 * 1024
"""Likewise, of what may be no value."""


class UndecodableError(Exception):
    """The bytes that the server holds are no value."""


class _OtherError(UndecodableError):
    """The bytes do not begin with a compressed value."""


class Meter:
    """How many bytes were made by inflating, whatever came of it."""

    __slots__ = ('inflated',)

    def __init__(self) -> None:
        self.inflated = 0


class Inflator(typing.Protocol):
    """What inflates bytes that may be a compressed value, piece by piece."""

    @property
    def ended(self) -> bool:
        """Whether the value is over."""

    @property
    def behind(self) -> bytes:
        """What is behind it then."""

    def read(self, size: int) -> bytes | None:
        """Return what comes next, so many bytes at most; None for too much.

        :raises UndecodableError: if this is no compressed value

        """


class _Inflator:
    """What inflates what zlib has compressed."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._inflator = zlib.decompressobj()
        self._left = data

    @property
    def ended(self) -> bool:
        return self._inflator.eof

    @property
    def behind(self) -> bytes:
        return self._inflator.unused_data

    def read(self, size: int) -> bytes:
        try:
            piece = self._inflator.decompress(self._left, size)
        except zlib.error as error:
            # One with a wrong checksum is broken; others never were any.
            is_broken = 'data check' in str(error)
            kind = UndecodableError if is_broken else _OtherError
            raise kind(f'compressed value: {error}') from error
        self._left = self._inflator.unconsumed_tail
        return piece


def inflate(data: bytes, limit: int = MAX_INFLATED) -> bytes:
    """Return the original of compressed bytes.

    :raises UndecodableError: if they are none, or inflate beyond the limit

    """
    value, behind = taken(_Inflator(data), limit, Meter())
    if behind:
        raise UndecodableError('compressed value: followed by other bytes')
    return value


def taken(
    inflator: Inflator, limit: int, meter: Meter, size: int = MOST
) -> tuple[bytes, bytes]:
    """Return the original of compressed bytes, and what is behind them.

    :param int size: how many bytes to inflate at a time
    :raises UndecodableError: if there is none, or if it inflates beyond the
        limit

    """
    pieces: list[bytes] = []
    # One byte more, for the end of exactly as many is behind them.
    left = limit + 1
    while left > 0 and not inflator.ended:
        piece = inflator.read(min(left, size))
        if piece is None:
            left = 0
            break
        pieces.append(piece)
        left -= len(piece)
        meter.inflated += len(piece)
        if not piece:
            break
    if left <= 0:
        raise UndecodableError(
            f'compressed value inflates to over {limit} bytes'
        )
    if not inflator.ended:
        raise UndecodableError('compressed value: cut')
    return b''.join(pieces), inflator.behind


def part(
    data: bytes, limit: int, meter: Meter | None = None
) -> tuple[bytes, bytes, bytes]:
    """Return what is before a compressed value, its original, what is behind.

    memcached appends and prepends bytes as they are, compressed or not.  A
    compressed value says where it ends, and has a checksum.

    :param Meter meter: is to count what is inflated
    :raises UndecodableError: if there is none, if it inflates beyond the
        limit, or if there are several, so that nobody knows which it is

    """
    meter = meter or Meter()
    try:
        return b'', *taken(_Inflator(data), limit, meter)
    except _OtherError:
        # If it were broken, what seems to begin in it would be a part of it.
        found = search(data, limit, meter, _BEGINNING, _Inflator)
        if found is None:
            raise
        return found


def search(
    data: bytes,
    limit: int,
    meter: Meter,
    beginning: re.Pattern[bytes],
    make: abc.Callable[[memoryview], Inflator],
) -> tuple[bytes, bytes, bytes] | None:
    """Return the one compressed value that begins further on.

    Nothing more is looked at when what was has inflated to twice the limit,
    and one of it is kept.

    :param beginning: what its format begins with
    :param make: returns what inflates it

    """
    found: tuple[bytes, bytes, bytes] | None = None
    is_one = True
    start = 0
    most = meter.inflated + 2 * limit
    for match in itertools.islice(beginning.finditer(data), MAX_LOOKS):
        at = match.start()
        if at < start:
            # A part of one that was found.
            continue
        if meter.inflated > most:
            return None
        inflator = make(memoryview(data)[at:])
        try:
            value, behind = taken(inflator, limit, meter, PIECE)
        except UndecodableError:
            continue
        if not behind:
            # What was put before may be anything.
            return data[:at], value, behind
        is_one = is_one and found is None
        found = (data[:at], value, behind) if is_one else None
        start = len(data) - len(behind)
    return found
