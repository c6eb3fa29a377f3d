"""Keys and values, checked, as they are sent."""

from __future__ import annotations

import itertools
import logging
import re
import typing
from collections import abc

import memcache

from sprockets.clients.memcached import notices, settings, words
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.wire import bounds, parted, protocol

LOGGER = notices.harmless(logging.getLogger(__name__))

_KEY_CHARACTERS = re.compile(rb'[\x21-\x7e\x80-\xff]+')

_CONTROLS = bytes(range(0x20)) + b'\x7f'

_PLAIN = {str, int}
"""Types of keys of which the text is what is sent."""

_JOINED = (protocol.APPEND.name, protocol.PREPEND.name)

_tuple = tuple.__new__

MAX_KNOWN = 1024
"""Plain keys that are remembered as they are sent: most caches have some that
are asked for again and again, and to find one is quicker than to check it."""

_noted = itertools.cycle((True, *[False] * 7))
"""Which of the keys that are not known is remembered: the more often one is
asked for, the sooner it is.  To remember all takes longer than to check them,
where each is another one."""

PART = 1000
"""Keys of a call that are encoded at a time: for less than a millisecond."""


class Name:
    """A key that is used again and again, and what it is on the wire.

    :param str key: the key

    """

    __slots__ = ('key', 'sent')

    def __init__(self, key: str) -> None:
        self.key = key
        self.sent: tuple[object, bytes] = (None, b'')
        """The :attr:`Encoding.rules` by which it was last encoded, and what
        it was then."""


class Encoding:
    """How one client's keys and values are sent.

    The attributes are the constructor arguments of :class:`memcache.Client`
    of the same name.

    :param Codec codec: turns values into bytes
    :param bytes prefix: put before every key
    :param int max_parts: in how many parts a value is stored that is too large
        for one

    """

    def __init__(
        self, codec: values.Codec, prefix: bytes = b'', max_parts: int = 1
    ) -> None:
        self._known: dict[str, bytes] = {}
        """Plain keys that were asked for lately."""
        self._longest = 0
        self.max_parts = max_parts
        self.get = parted.reads(max_parts)
        """What reads values, as :class:`protocol.Get` does."""
        self.rules = object()
        """Another one each time that keys may be encoded in another way."""
        self.codec = codec
        self.prefix = prefix
        self.do_check_key = True
        self.key_encoder: abc.Callable[[typing.Any], typing.Any] | None = None
        self.server_max_key_length = memcache.SERVER_MAX_KEY_LENGTH
        self._notices = notices.Notices(LOGGER)

    def __setattr__(self, name: str, value: typing.Any) -> None:
        # What was remembered of keys does not count any more.
        super().__setattr__(name, value)
        super().__setattr__('rules', object())
        super().__setattr__('_longest', self._longest_plain())
        super().__setattr__('_known', {})

    def _longest_plain(self) -> int:
        """Return how many characters a key may have that is just encoded.

        None may where they take a closer look: 0 and None mean other things.

        """
        known = self.__dict__
        if known.get('key_encoder') is not None:
            return 0
        longest: int = known.get('server_max_key_length') or 0
        return longest - len(known.get('prefix', b''))

    def key(self, key: typing.Any) -> bytes | None:
        """Return the bytes of a plain key, None if it wants a closer look."""
        if type(key) is not str:
            return None
        # Before anything else is read: what another thread changes meanwhile
        # begins with another one.
        known = self._known
        encoded = known.get(key)
        if encoded is not None:
            return encoded
        if (
            key
            and len(key) <= self._longest
            and key.isascii()
            and key.isprintable()
            and ' ' not in key
        ):
            encoded = self.prefix + key.encode()
            if next(_noted):
                if len(known) >= MAX_KNOWN:
                    known.clear()
                known[key] = encoded
        return encoded

    def route(self, key: typing.Any) -> cluster.Route:
        """Return the key as it is sent, and the hash that came with it.

        :param key: text, bytes, or a tuple of a hash and one of them
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key

        """
        encoded = self.key(key)
        if encoded is not None:
            # In half the steps of Route().
            return _tuple(cluster.Route, (encoded, None))
        key, hashed = self._split(key)
        return cluster.Route(
            self._joined(self.prefix, self._encoded(key)), hashed
        )

    def encoded_name(self, name: Name) -> bytes | None:
        """Return what :meth:`key` does, and remember it with the name.

        What a ``key_encoder`` makes of a key may differ the next time.

        """
        rules = self.rules
        encoded = self.key(name.key)
        if encoded is not None:
            # Both at once, for the sake of other threads.
            name.sent = rules, encoded
        return encoded

    def keys(
        self, originals: abc.Sequence[typing.Any], key_prefix: typing.Any
    ) -> cluster.Keys:
        """Return the keys of a ``*_multi`` method as they are sent.

        Here a key may be anything, a number say: its ``str()`` is sent.

        :raises memcache.Client.MemcachedKeyError: what is wrong with a key

        """
        prefix = self._encoded(key_prefix)
        if prefix != b'':
            self._check_prefix(prefix)
        prefix = self.prefix + prefix
        keys = self._plain_keys(originals, prefix)
        if keys is not None:
            return cluster.Keys(keys, None)
        keys = []
        hashes = []
        for original in originals:
            key, hashed = self._split(original)
            encoded = self._encoded(key)
            if encoded is not None and not isinstance(encoded, bytes):
                encoded = str(encoded).encode('utf-8')
            keys.append(self._joined(prefix, encoded))
            hashes.append(hashed)
        return cluster.Keys(keys, hashes)

    def parts(
        self,
        originals: abc.Sequence[typing.Any],
        key_prefix: typing.Any,
        size: int = PART,
    ) -> abc.Iterator[cluster.Keys]:
        """Yield what :meth:`keys` returns, for some keys after the others.

        It is at least one part, for the prefix may be wrong as well.

        """
        for at in range(0, len(originals) or 1, size):
            yield self.keys(originals[at : at + size], key_prefix)

    def _plain_keys(
        self, originals: abc.Sequence[typing.Any], prefix: bytes
    ) -> list[bytes] | None:
        """Return the bytes of keys if all are plain, as :meth:`key` does.

        They are looked at as one text, for which Python needs no loop.

        """
        if self.key_encoder is not None:
            return None
        texts = originals
        try:
            text = ' '.join(texts)
        except TypeError:
            if {*map(type, originals)} - _PLAIN:
                return None
            texts = [*map(str, originals)]
            text = ' '.join(texts)
        limit = self.server_max_key_length - len(prefix)
        # Each blank is between two keys.
        if (
            not text.isascii()
            or '  ' in f' {text} '
            or text.count(' ') != len(texts) - 1
            or not _no_longer(text, limit)
        ):
            return None
        encoded = text.encode('ascii')
        if len(encoded.translate(None, _CONTROLS)) != len(encoded):
            return None
        if prefix:
            encoded = prefix + encoded.replace(b' ', b' ' + prefix)
        return encoded.split(b' ')

    def _split(self, key: typing.Any) -> tuple[typing.Any, int | None]:
        """Return what ``key_encoder`` makes of a key, and the hash for it.

        Either may be a tuple with a hash; the encoder's is the last word.

        """
        key, hashed = _split(key)
        if self.key_encoder is not None:
            key = self.key_encoder(key)
            if isinstance(key, tuple):
                return _split(key)
        return key, hashed

    def _encoded(self, key: typing.Any) -> typing.Any:
        if not isinstance(key, str):
            return key
        try:
            return key.encode('utf-8')
        except UnicodeEncodeError:
            raise memcache.Client.MemcachedKeyCharacterError(
                f'key={words.shown(key)} has half a surrogate pair; expected'
                ' text that UTF-8 can hold'
            ) from None

    def _check_prefix(self, prefix: typing.Any) -> None:
        self._checked(prefix, len(self.prefix), 'key_prefix')

    def _joined(self, prefix: bytes, key: typing.Any) -> bytes:
        """Return a key with what goes before it, as it is sent."""
        return prefix + self._checked(key, len(prefix))

    def _checked(
        self, key: typing.Any, extra: int, name: str = 'key'
    ) -> bytes:
        limit = self.server_max_key_length
        if (
            type(key) is bytes
            and len(key) + extra <= limit
            and _KEY_CHARACTERS.fullmatch(key)
        ):
            # As most are, in fewer steps.
            return key
        checked = check_kind(key, name)
        if self.do_check_key and limit and len(checked) + extra > limit:
            before = f' and {extra} before them' if extra else ''
            raise memcache.Client.MemcachedKeyLengthError(
                f'{name}={_text(checked)} has {len(checked)} bytes{before};'
                f' expected {limit} at most; HASH_BAD_KEYS allows any'
            )
        # Also where python-memcached's check lets it pass: a newline at the
        # end would end the command and begin another.
        if not _KEY_CHARACTERS.fullmatch(checked):
            raise memcache.Client.MemcachedKeyCharacterError(
                f'{name}={_text(checked)} is empty, or has blanks or control'
                ' characters; expected others; HASH_BAD_KEYS allows any'
            )
        return checked

    def encoded(
        self, verb: protocol.Verb, value: typing.Any, min_compress_len: int
    ) -> tuple[int, bytes] | None:
        """Return the flags and the bytes of a value, None if it is too large.

        :raises TypeError: for what is to become a part of another value, and
            would not be read as one
        :raises Exception: what pickling raises for what cannot be pickled

        """
        codec = self.codec
        # What is appended becomes a part of another value.
        joined = verb.name in _JOINED
        encoded = codec.encode(value, -1 if joined else min_compress_len)
        if joined and encoded[0] in values.SEPARATE:
            raise TypeError(
                f'{words.shown(value)} is a {type(value).__qualname__};'
                f' {verb.name} expects str, bytes or int'
            )
        limit = codec.max_length
        size = len(encoded[1])
        if limit and size > limit and self.is_too_large(size, joined):
            self.log_too_large(size, joined)
            return None
        return encoded

    @property
    def room(self) -> int:
        """How many bytes of a value are in a part; 0 if there are no parts."""
        if self.max_parts > 1:
            limit = self.codec.max_length or 0
            if limit >= settings.LEAST_PARTED:
                return limit - parted.OVERHEAD
        return 0

    def is_too_large(self, size: int, alone: bool = False) -> bool:
        """Whether a value of so many bytes is not to be stored.

        :param bool alone: whether it is not to be stored in parts

        """
        limit = self.codec.max_length
        if not limit or size <= limit:
            return False
        most = min(self.room * self.max_parts, bounds.VALUE.most)
        return alone or size > most

    def store(
        self,
        verb: protocol.Verb,
        key: bytes,
        flags: int,
        exptime: int,
        data: bytes,
    ) -> protocol.Line:
        """Return the command that stores a value, in parts if it is large.

        :param Verb verb: SET, ADD or REPLACE, and what puts something before
            or behind a value, which is never in parts

        """
        if (
            self.max_parts < 2
            or not self.is_in_parts(data)
            or verb.name in _JOINED
        ):
            return protocol.store(verb, key, flags, exptime, data)
        parts = parted.split(key, flags, exptime, data, self.room)
        head = protocol.store(
            verb, key, values.PARTED, exptime, parts.head.written()
        )
        return parted.Store(head, key, parts)

    def compare_and_swap(
        self,
        key: bytes,
        flags: int,
        exptime: int,
        data: bytes,
        unique: int,
        incarnation: int,
    ) -> protocol.Line:
        """Return the command that does if nobody else has since, likewise."""
        swap = protocol.compare_and_swap
        if not self.is_in_parts(data):
            return swap(key, flags, exptime, data, unique, incarnation)
        parts = parted.split(key, flags, exptime, data, self.room)
        text = parts.head.written()
        head = swap(key, values.PARTED, exptime, text, unique, incarnation)
        return parted.Store(head, key, parts)

    def is_in_parts(self, data: bytes) -> bool:
        """Whether a value is stored in parts.

        What has no more room than a part is in two as well: memcached would
        refuse it.

        """
        return len(data) > self.room > 0

    def touch(self, key: bytes, exptime: int) -> protocol.Line:
        """Return the command that gives a key another time to expire."""
        if self.max_parts > 1:
            return parted.Touch(self.max_parts, key, exptime)
        return protocol.touch(key, exptime)

    def log_too_large(self, size: int, alone: bool = False) -> None:
        """Say that a value of so many bytes is not stored."""
        most = self.codec.max_length
        if not alone:
            most = self.room * self.max_parts or most
        self._notices.warning(
            'A value of %d bytes is not stored, %d are the limit',
            size,
            most,
        )


def _no_longer(text: str, limit: int) -> bool:
    """Whether none of the words of a text is longer than that."""
    start = 0
    while len(text) - start > limit:
        # In so many characters and one more there is the end of a word.
        end = text.rfind(' ', start, start + limit + 1)
        if end < 0:
            return False
        start = end + 1
    return True


def _split(key: typing.Any) -> tuple[typing.Any, int | None]:
    """Return the key and the hash of a ``(hash, key)``."""
    if not isinstance(key, tuple):
        return key, None
    if len(key) != 2 or not isinstance(key[0], int):
        raise memcache.Client.MemcachedKeyTypeError(
            f'key={words.shown(key)}; expected text, bytes, or a tuple of'
            ' a whole number and one of these'
        )
    return key[1], key[0]


def check_kind(key: typing.Any, name: str) -> bytes:
    """Return what is to be sent if it is bytes.

    :raises memcache.Client.MemcachedKeyError: if it is none

    """
    if isinstance(key, bytes):
        return key
    error = memcache.Client.MemcachedKeyTypeError
    if key is None:
        error = memcache.Client.MemcachedKeyNoneError
    raise error(
        f'{name}={words.shown(key)} is no string; expected text or bytes'
    )


def _text(key: bytes) -> str:
    """Return a key as its caller has most likely written it."""
    try:
        return words.shown(key.decode('utf-8'))
    except UnicodeDecodeError:
        return words.shown(key)
