"""Values compressed with zstd, and what was put before or behind them."""

from __future__ import annotations

import importlib
import itertools
import re
import typing

from sprockets.clients.memcached.data import deflated


def _find() -> typing.Any:
    """Return the module: Python 3.14's own, or the same for those before."""
    for name in ('compression.zstd', 'backports.zstd'):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_zstd = _find()

NEEDED = (
    'Python 3.14, or backports.zstd: pip install'
    " 'sprockets.clients.memcached[zstd]'"
)
"""What it takes."""

_BEGINNING = re.compile(rb'\x28\xb5\x2f\xfd')
"""What its format begins with (RFC 8878, 3.1.1)."""

_SMALLEST_WINDOW = 10
"""The logarithm of the least that an encoder looks back (RFC 8878, 3.1.1)."""


class _OtherError(deflated.UndecodableError):
    """The bytes do not begin with a compressed value."""


def is_there() -> bool:
    """Whether this Python has zstd."""
    return _zstd is not None


def compress(data: bytes) -> bytes:
    """Return compressed bytes, with a checksum."""
    return typing.cast(
        bytes,
        _zstd.compress(
            data, options={_zstd.CompressionParameter.checksum_flag: 1}
        ),
    )


def part(data: bytes, limit: int) -> tuple[bytes, bytes, bytes]:
    """Return what is before a compressed value, its original, what is behind.

    :raises UndecodableError: as :func:`deflated.part`, and where there is no
        zstd

    """
    if _zstd is None:
        raise deflated.UndecodableError('zstd is not installed')
    try:
        return b'', *_inflate(data, limit)
    except _OtherError:
        # If it were broken, what seems to begin in it would be a part of it.
        found = _search(data, limit)
        if found is None:
            raise
        return found


def _inflate(data: bytes | memoryview, limit: int) -> tuple[bytes, bytes]:
    """Return the original of compressed bytes, and what is behind them."""
    if not _BEGINNING.match(data):
        raise _OtherError('compressed value: no zstd frame')
    # How far an encoder looked back is what a decoder has to keep.
    window = max((max(limit, 1) - 1).bit_length(), _SMALLEST_WINDOW)
    inflator = _zstd.ZstdDecompressor(
        options={_zstd.DecompressionParameter.window_log_max: window}
    )
    pieces = []
    left = limit + 1
    given: bytes | memoryview = data
    try:
        # It gives no more at a time than it has in one place.
        while left > 0 and not inflator.eof:
            piece = inflator.decompress(given, left)
            given = b''
            if not piece and inflator.needs_input:
                break
            pieces.append(piece)
            left -= len(piece)
    except _zstd.ZstdError as error:
        if 'memory' not in str(error):
            raise deflated.UndecodableError(
                f'compressed value: {error}'
            ) from error
        # It says itself how much it is.
        left = 0
    value = b''.join(pieces)
    if left <= 0:
        raise deflated.UndecodableError(
            f'compressed value inflates to over {limit} bytes'
        )
    if not inflator.eof:
        raise deflated.UndecodableError('compressed value: cut')
    return value, typing.cast(bytes, inflator.unused_data)


def _search(data: bytes, limit: int) -> tuple[bytes, bytes, bytes] | None:
    """Return the one compressed value that begins further on."""
    found: list[tuple[bytes, bytes, bytes]] = []
    start = 0
    looks = itertools.islice(_BEGINNING.finditer(data), deflated.MAX_LOOKS)
    for match in looks:
        at = match.start()
        if at < start:
            # A part of one that was found.
            continue
        try:
            value, behind = _inflate(memoryview(data)[at:], limit)
        except deflated.UndecodableError:
            continue
        if not behind:
            # What was put before may be anything.
            return data[:at], value, behind
        found.append((data[:at], value, behind))
        start = len(data) - len(behind)
    return found[0] if len(found) == 1 else None
