"""Python values to flags and bytes, and back, as python-memcached does it."""

from __future__ import annotations

import enum
import functools
import io
import logging
import pickle
import re
import typing
import zlib
from collections import abc

from sprockets.clients.memcached import escaping, notices
from sprockets.clients.memcached.data import deflated, frames, serializers
from sprockets.clients.memcached.data.deflated import (
    MAX_INFLATED,
    UndecodableError,
    inflate,
)

LOGGER = notices.harmless(logging.getLogger(__name__))

# python-memcached's flags (memcache.Client._FLAG_*).
PICKLE = 1
INTEGER = 2
LONG = 4
COMPRESSED = 8
TEXT = 16

# Ours: python-memcached knows no more than those.
JSON = 32
CUSTOM = 64
"""What a serializer of the user's own has made."""

ZSTD = 128
"""It is compressed with zstd."""

PARTED = 0x50415201
"""It is in parts, and this is their head; see :mod:`..wire.parted`.

No other client has these flags.  To python-memcached they are a pickle's, and
what cannot be unpickled is a miss.

"""

PACKED = COMPRESSED | ZSTD
"""The flags of values that are compressed, in one way or another."""

PLAIN = frozenset((0, INTEGER, LONG, TEXT))
"""The flags of values that are read as they are."""

SEPARATE = frozenset((PICKLE, JSON))
"""Those of values that cannot be joined: two are read as one, or as none."""

QUICK = PLAIN - {TEXT}
"""Those of values for which it makes no difference how long they are."""

SHAREABLE = frozenset(
    kind | compressed for kind in PLAIN for compressed in (0, COMPRESSED, ZSTD)
)
"""The flags of values that nobody can change, so that callers may share."""

REWRITTEN = frozenset((JSON, CUSTOM))
"""The flags of values that may come back as something else: a tuple as a
list."""

MAX_LENGTH = 1024 * 1024
"""Bytes of the largest value that memcached stores unless told otherwise."""

HEAVY = 64 * 1024
"""The weight from which on values are made in a thread; see :func:`weight`."""


LARGE = 4 * MAX_LENGTH
"""Bytes of the values of a batch for which a loop has time to check texts."""


class _Absent(enum.Enum):
    """What is in place of something that is not there."""

    MISS = 'MISS'

    def __repr__(self) -> str:
        return self.value


MISS: typing.Any = _Absent.MISS
"""In place of the value of a key that has none."""

K = typing.TypeVar('K')

Item = tuple[int, bytes, int | None]
"""What the server holds for a key: its flags, its bytes, its cas unique."""


def weight(flags: int, size: int) -> int:
    """Return how much work it is to make a value, in bytes to deserialize.

    An event loop has time for values that weigh no more than :data:`HEAVY`
    all together; the rest is for a thread.

    :param int flags: the flags that are stored with it
    :param int size: how many bytes are stored

    """
    if flags in PLAIN:
        # Text is checked, which is quick; the rest is there as it is.
        return size >> 4 if flags == TEXT else 0
    if flags & PACKED:
        # Nobody knows what a few bytes inflate to.
        return HEAVY + 1
    return size


def weight_of(items: abc.Iterable[Item]) -> int:
    """Return how much work it is to make the values of some items."""
    return sum([weight(item[0], len(item[1])) for item in items])


class Budget:
    """How much the values of one call, or of one batch, may inflate to.

    It is more than what is compressed as usual inflates to, and less than
    what a few kilobytes can be made to.

    :param int largest: what one value alone may inflate to

    """

    __slots__ = ('_left',)

    def __init__(self, largest: int = 0) -> None:
        self._left = max(FREE, largest)

    def limit(self, size: int) -> int:
        """Return what a value of so many bytes may inflate to now."""
        self._left += size * RATIO
        return max(self._left, 0)

    def use(self, size: int) -> None:
        """Take note of what was inflated for a value, if there is one."""
        self._left -= size


FREE = 64 << 20
"""Bytes to which the values of a call may inflate, however small they were;
more where one of them may."""

RATIO = 20
"""Bytes more for each byte that came."""

ENDS = (KeyboardInterrupt, SystemExit)
"""What may come while a value is made, and is not about the value."""


class Codec:
    """Turns values into what a server stores, and back.

    Everything that python-memcached stored is read, and what this stores is
    read by python-memcached.  Its attributes are the constructor arguments of
    :class:`memcache.Client` of the same meaning.

    :param int min_compress_len: compress from this many bytes; 0 for never
    :param int max_inflated_len: the most bytes to inflate a value to
    :param serializer: ``'pickle'``, ``'json'``, or a :class:`Serializer`;
        with any but the first nothing is ever unpickled
    :param str compression: ``'zlib'``, or ``'zstd'``, which python-memcached
        does not read

    """

    def __init__(
        self,
        min_compress_len: int = 0,
        max_inflated_len: int = MAX_INFLATED,
        serializer: typing.Literal['pickle', 'json']
        | serializers.Serializer = 'pickle',
        compression: str = 'zlib',
    ) -> None:
        self.min_compress_len = min_compress_len
        self.max_inflated_len = max_inflated_len
        self.max_length = MAX_LENGTH
        # Protocol 0, python-memcached's, makes values 57% larger.
        self.pickle_protocol = pickle.DEFAULT_PROTOCOL
        self.pickler: typing.Any = pickle.Pickler
        self.unpickler: typing.Any = pickle.Unpickler
        self.persistent_id: abc.Callable[[typing.Any], typing.Any] | None = (
            None
        )
        self.persistent_load: abc.Callable[[typing.Any], typing.Any] | None = (
            None
        )
        self.compressor: abc.Callable[[bytes], bytes] = (
            frames.compress if compression == 'zstd' else zlib.compress
        )
        self.decompressor: abc.Callable[[bytes], bytes] = functools.partial(
            inflate, limit=max_inflated_len
        )
        self._ours = self.decompressor
        self.decoders: dict[int, abc.Callable[[bytes], typing.Any]] = {
            0: bytes,
            TEXT: bytes.decode,
            INTEGER: _number,
            LONG: _number,
            # Whatever is written: there is no harm in it.
            JSON: _structure,
        }
        """What makes values of bytes, by the flags that are stored."""
        self._serialize: abc.Callable[[typing.Any], bytes]
        if serializer == 'pickle':
            self._kind = PICKLE
            self._serialize = self._pickle
            self.decoders[PICKLE] = self._unpickle
        elif serializer == 'json':
            self._kind = JSON
            self._serialize = _written
        else:
            self._kind = CUSTOM
            self._serialize = functools.partial(_as_bytes, serializer.dumps)
            self.decoders[CUSTOM] = serializer.loads
        self._notices = notices.Notices(LOGGER)

    def encode(
        self, value: typing.Any, min_compress_len: int = 0
    ) -> tuple[int, bytes]:
        """Return the flags and the bytes of a value.

        :param value: any value that can be serialized
        :param int min_compress_len: compress from this many bytes; 0 for what
            the client is set to, -1 for never
        :raises Exception: what serializing raises for what it cannot do

        """
        # The exact type: a subclass is pickled, and comes back as itself.
        kind = type(value)
        if kind is str:
            flags, data = TEXT, value.encode()
        elif kind is bytes:
            flags, data = 0, value
        elif kind is int:
            return INTEGER, b'%d' % value
        else:
            flags, data = self._kind, self._serialize(value)
        threshold = min_compress_len or self.min_compress_len
        if threshold <= 0:
            return flags, data
        # What would not be inflated again is not compressed.
        if threshold <= len(data) <= self.max_inflated_len:
            compressed = self.compressor(data)
            if len(compressed) < len(data):
                is_ours = self.compressor is frames.compress
                return flags | (ZSTD if is_ours else COMPRESSED), compressed
        return flags, data

    @property
    def rewrites(self) -> bool:
        """Whether values may come back as something else."""
        return self._kind in REWRITTEN

    def rewritten(self, values: dict[K, typing.Any]) -> dict[K, typing.Any]:
        """Return values as they come back when they have been stored.

        :raises Exception: what serializing raises for what it cannot do

        """
        made = {}
        for key, value in values.items():
            flags, data = self.encode(value, -1)
            made[key] = (
                self.decode_or(flags, data, value)
                if flags in REWRITTEN
                else value
            )
        return made

    def decode(
        self, flags: int, data: bytes, budget: Budget | None = None
    ) -> typing.Any:
        """Return the value that was stored.

        :param Budget budget: what others that came with it leave to it
        :raises UndecodableError: if there is none in these bytes

        """
        try:
            if flags in self.decoders:
                return self.decoders[flags](data)
            kind = flags & ~PACKED
            if kind in self.decoders and flags & PACKED != PACKED:
                whole = self._inflated(flags, data, budget)
                return self.decoders[kind](whole)
        except UndecodableError:
            raise
        except ENDS:
            raise
        # Unpickling runs what the value says, which may raise anything.
        except BaseException as error:
            # The rest of a message may be a part of the value.
            reason = type(error).__name__
            if isinstance(error, ImportError | AttributeError):
                # The value says which name there is not.
                reason = escaping.printable(f'{reason}: {error}', 200)
            raise UndecodableError(f'flags {flags}: {reason}') from error
        if flags == PARTED:
            raise UndecodableError(
                'it is in parts, and in more than MAX_PARTS, or its head is'
                ' broken'
            )
        if flags & ~PACKED == PICKLE:
            raise UndecodableError('it is pickled, and not to be unpickled')
        raise UndecodableError(f'unknown flags {flags}')

    def _inflated(
        self, flags: int, data: bytes, budget: Budget | None
    ) -> bytes:
        if flags & COMPRESSED and self.decompressor is not self._ours:
            # Only its maker knows where it ends.
            return self.decompressor(data)
        limit = self.max_inflated_len
        if budget is not None:
            limit = min(limit, budget.limit(len(data)))
            if limit < self.max_inflated_len:
                limit = _step_down(limit)
        part = deflated.part if flags & COMPRESSED else frames.part
        meter = deflated.Meter()
        try:
            before, value, behind = part(data, limit, meter)
        finally:
            if budget is not None:
                budget.use(meter.inflated)
        # What is no text has none added to it, as where it is not compressed.
        is_plain = flags & ~PACKED in PLAIN
        return before + value + behind if is_plain else value

    def decode_or(
        self,
        flags: int,
        data: bytes,
        default: typing.Any,
        budget: Budget | None = None,
    ) -> typing.Any:
        """Return the value, or the default if it is undecodable.

        The first of each reason is logged at WARNING, the rest at DEBUG.

        """
        try:
            return self.decoders[flags](data)
        except ENDS:
            raise
        except BaseException:  # noqa: BLE001
            # It is rare: compressed, or broken, and decode() says which.
            return self._decode_or_report(flags, data, default, budget)

    def value_of(self, item: Item | None, default: typing.Any) -> typing.Any:
        """Return the value of an item.

        :param item: None where the server has none
        :param default: for that, and for what is undecodable

        """
        if item is None:
            return default
        return self.decode_or(item[0], item[1], default)

    def fill(
        self,
        values: abc.MutableMapping[K, typing.Any],
        keys: abc.Iterable[K],
        items: abc.Iterable[Item | None],
        budget: Budget | None = None,
    ) -> int:
        """Make values of items, and enter each as soon as it is made.

        :param values: is to have them by their keys; of a key that has none
            it keeps what it has
        :param items: what the server has for each key, None for nothing
        :param Budget budget: what they may inflate to
        :return: how many keys have no value

        """
        decoders = self.decoders
        misses = 0
        for key, item in zip(keys, items, strict=True):
            if item is None:
                misses += 1
                continue
            try:
                values[key] = decoders[item[0]](item[1])
            except ENDS:
                raise
            except BaseException:  # noqa: BLE001
                # It is rare, and is looked at there.
                value = self._decode_or_report(item[0], item[1], MISS, budget)
                if value is MISS:
                    misses += 1
                else:
                    values[key] = value
        return misses

    def fill_alike(
        self,
        values: abc.MutableMapping[K, typing.Any],
        keys: abc.Iterable[K],
        flags: int,
        parts: abc.Iterable[bytes],
        budget: Budget | None = None,
    ) -> int:
        """Make values of bytes that have the same flags, as :meth:`fill`."""
        decode = self.decoders.get(flags)
        if decode is None:
            items = ((flags, data, None) for data in parts)
            return self.fill(values, keys, items, budget)
        misses = 0
        for key, data in zip(keys, parts, strict=True):
            try:
                values[key] = decode(data)
            except ENDS:
                raise
            except BaseException:  # noqa: BLE001
                # It is rare, and is looked at there.
                value = self._decode_or_report(flags, data, MISS, budget)
                if value is MISS:
                    misses += 1
                else:
                    values[key] = value
        return misses

    def _decode_or_report(
        self,
        flags: int,
        data: bytes,
        default: typing.Any,
        budget: Budget | None = None,
    ) -> typing.Any:
        try:
            return self.decode(flags, data, budget)
        except UndecodableError as error:
            reason = str(error)
            if not self._notices.warning(
                'A value is taken for a miss: %s', reason, about=reason
            ):
                LOGGER.debug('A value is taken for a miss: %s', reason)
            return default

    def _pickle(self, value: typing.Any) -> bytes:
        if self.pickler is pickle.Pickler and self.persistent_id is None:
            return pickle.dumps(value, self.pickle_protocol)
        file = io.BytesIO()
        kind = _with_hook(self.pickler, 'persistent_id', self.persistent_id)
        try:
            pickler = kind(file, protocol=self.pickle_protocol)
        except TypeError:
            # A pickler of python-memcached's users may know no keywords.
            pickler = kind(file, self.pickle_protocol)
        pickler.dump(value)
        return file.getvalue()

    def _unpickle(self, data: bytes) -> typing.Any:
        if self.unpickler is pickle.Unpickler and self.persistent_load is None:
            return pickle.loads(data)
        kind = _with_hook(
            self.unpickler, 'persistent_load', self.persistent_load
        )
        return kind(io.BytesIO(data)).load()


def _step_down(limit: int) -> int:
    """Return a limit of which there are few, for it is in messages."""
    return 1 << limit.bit_length() >> 1


_json = serializers.Json()


def _as_bytes(
    dumps: abc.Callable[[typing.Any], bytes | str], value: typing.Any
) -> bytes:
    data = dumps(value)
    if isinstance(data, str):
        return data.encode('utf-8')
    if not isinstance(data, bytes):
        raise TypeError(f'dumps returned {type(data).__name__}, not bytes')
    return data


_NUMBER = re.compile(rb'-?[0-9]+ *')
"""A number as clients write it, and as memcached does: where ``decr`` has made
it shorter, it has blanks at its end (protocol.txt, "Increment/Decrement")."""


def _number(data: bytes) -> int:
    """Return a number, and nothing that Python alone takes for one.

    What others put under these flags may be text, ``2024_11`` say.

    :raises ValueError: if it is none

    """
    if not data.isdigit() and not _NUMBER.fullmatch(data):
        raise ValueError('no number')
    return int(data)


OURS = b' '
"""What is before text and numbers that are written as JSON, whose types are
of their own: enum members, say."""


def _written(value: typing.Any) -> bytes:
    """Return a value as JSON.

    :raises TypeError: if JSON cannot hold it

    """
    data = _json.dumps(value)
    if isinstance(value, str | int) and type(value) is not bool:
        return OURS + data
    return data


def _structure(data: bytes) -> typing.Any:
    """Return what is written as JSON, if it may be this package's.

    Text and numbers have flags of their own here: with those of JSON they are
    another client's text, which looks like JSON by chance.

    :raises ValueError: if it is none

    """
    value = _json.loads(data)
    if type(value) in (str, int) and not data.startswith(OURS):
        raise ValueError('text with the flags of JSON')
    return value


@functools.lru_cache(maxsize=16)
def _with_hook(
    kind: typing.Any, name: str, hook: abc.Callable[..., typing.Any] | None
) -> typing.Any:
    """Return a pickler's class with a method of its own.

    Since Python 3.13 an instance does not take it as an attribute.

    """
    if hook is None:
        return kind
    if isinstance(kind, type):
        return type(kind.__name__, (kind,), {name: staticmethod(hook)})

    def make(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        made = kind(*args, **kwargs)
        setattr(made, name, hook)
        return made

    return make
