"""Compressed values, and what was put before or behind them."""

from __future__ import annotations

import itertools
import re
import zlib

MAX_INFLATED = 16 * 1024 * 1024
"""Bytes at which the inflating of a compressed value stops."""

_BEGINNING = re.compile(rb'x[\x01^\x9c\xda]')
"""What zlib's format begins with, by levels (RFC 1950)."""

MAX_LOOKS = 10_000
"""Places at which a compressed value may begin that are looked at."""


class UndecodableError(Exception):
    """The bytes that the server holds are no value."""


class _OtherError(UndecodableError):
    """The bytes do not begin with a compressed value."""


def inflate(data: bytes, limit: int = MAX_INFLATED) -> bytes:
    """Return the original of compressed bytes.

    :raises UndecodableError: if they are none, or inflate beyond the limit

    """
    value, behind = _inflate(data, limit)
    if behind:
        raise UndecodableError('compressed value: followed by other bytes')
    return value


def _inflate(data: bytes | memoryview, limit: int) -> tuple[bytes, bytes]:
    """Return the original of compressed bytes, and what is behind them."""
    inflator = zlib.decompressobj()
    try:
        # One byte more, for the end of exactly as many is behind them.
        value = inflator.decompress(data, limit + 1)
    except zlib.error as error:
        # One with a wrong checksum is broken; others never were any.
        kind = (
            _OtherError if 'data check' not in str(error) else UndecodableError
        )
        raise kind(f'compressed value: {error}') from error
    if len(value) > limit:
        raise UndecodableError(
            f'compressed value inflates to over {limit} bytes'
        )
    if not inflator.eof:
        raise UndecodableError('compressed value: cut')
    return value, inflator.unused_data


def part(data: bytes, limit: int) -> tuple[bytes, bytes, bytes]:
    """Return what is before a compressed value, its original, what is behind.

    memcached appends and prepends bytes as they are, compressed or not.  A
    compressed value says where it ends, and has a checksum.

    :raises UndecodableError: if there is none, if it inflates beyond the
        limit, or if there are several, so that nobody knows which it is

    """
    try:
        return b'', *_inflate(data, limit)
    except _OtherError:
        # If it were broken, what seems to begin in it would be a part of it.
        found = _search(data, limit)
        if found is None:
            raise
        return found


def _search(data: bytes, limit: int) -> tuple[bytes, bytes, bytes] | None:
    """Return the one compressed value that begins further on."""
    found: list[tuple[bytes, bytes, bytes]] = []
    start = 0
    for match in itertools.islice(_BEGINNING.finditer(data), MAX_LOOKS):
        at = match.start()
        if at < start:
            # A part of one that was found.
            continue
        try:
            value, behind = _inflate(memoryview(data)[at:], limit)
        except UndecodableError:
            continue
        if not behind:
            # What was put before may be anything.
            return data[:at], value, behind
        found.append((data[:at], value, behind))
        start = len(data) - len(behind)
    return found[0] if len(found) == 1 else None
