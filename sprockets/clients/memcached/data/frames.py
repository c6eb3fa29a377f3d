"""Values compressed with zstd, and what was put before or behind them."""

from __future__ import annotations

import importlib
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


def part(
    data: bytes, limit: int, meter: deflated.Meter | None = None
) -> tuple[bytes, bytes, bytes]:
    """Return what is before a compressed value, its original, what is behind.

    :raises UndecodableError: as :func:`deflated.part`, and where there is no
        zstd

    """
    if _zstd is None:
        raise deflated.UndecodableError('zstd is not installed')
    meter = meter or deflated.Meter()
    try:
        return b'', *deflated.taken(_Inflator(data, limit), limit, meter)
    except _OtherError:
        # If it were broken, what seems to begin in it would be a part of it.
        found = deflated.search(
            data,
            limit,
            meter,
            _BEGINNING,
            lambda some: _Inflator(some, limit),
        )
        if found is None:
            raise
        return found


class _Inflator:
    """What inflates what zstd has compressed."""

    def __init__(self, data: bytes | memoryview, limit: int) -> None:
        # How far an encoder looked back is what a decoder has to keep.
        window = (max(limit, 1) - 1).bit_length()
        parameter = _zstd.DecompressionParameter.window_log_max
        least, most = parameter.bounds()
        self._inflator = _zstd.ZstdDecompressor(
            options={parameter: min(max(window, least), most)}
        )
        self._left = data

    @property
    def ended(self) -> bool:
        return typing.cast(bool, self._inflator.eof)

    @property
    def behind(self) -> bytes:
        return typing.cast(bytes, self._inflator.unused_data)

    def read(self, size: int) -> bytes | None:
        given, self._left = self._left, b''
        if given and not _BEGINNING.match(given):
            raise _OtherError('compressed value: no zstd frame')
        try:
            return typing.cast(bytes, self._inflator.decompress(given, size))
        except _zstd.ZstdError as error:
            # It says itself how much it is.
            if 'memory' in str(error):
                return None
            raise deflated.UndecodableError(
                f'compressed value: {error}'
            ) from error
