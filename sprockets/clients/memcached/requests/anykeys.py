"""Any text as a key: those that memcached would refuse end in a hash."""

from __future__ import annotations

import base64
import hashlib
import re
import typing
from collections import abc

import memcache

from sprockets.clients.memcached.requests import encodings

DIGEST = 24
"""Bytes of the hash: so many that nobody can find two keys with the same."""

_LENGTH = 1 + len(base64.urlsafe_b64encode(bytes(DIGEST)))
_CHANGED = re.compile(rb'#[A-Za-z0-9_-]{%d}\Z' % (_LENGTH - 1))
_REFUSED = re.compile(rb'[\x00-\x20\x7f]')


def fit(key: bytes, limit: int) -> bytes:
    """Return a key that memcached takes, another one for each key.

    One that is good is returned as it is, unless it looks like one that was
    changed: then it is changed too, so that the two cannot meet.

    :param bytes key: any bytes, an empty key too
    :param int limit: the most bytes that a key may have
    :return: the key, or a readable beginning of it, ``#``, and a hash of it

    """
    if (
        0 < len(key) <= limit
        and not _REFUSED.search(key)
        and not _CHANGED.search(key)
    ):
        return key
    head = _REFUSED.sub(b'_', key[: max(limit - _LENGTH, 0)])
    digest = hashlib.blake2b(key, digest_size=DIGEST).digest()
    # A character that was cut is of no use to a reader.
    return b'%b#%b' % (
        head.decode('utf-8', 'ignore').encode('utf-8'),
        base64.urlsafe_b64encode(digest),
    )


class Encoding(encodings.Encoding):
    """How the keys are sent of a client that takes any text for a key.

    What counts is the whole key, with all that is put before it: so the key
    of ``get`` is found by ``get_multi`` with a ``key_prefix``.

    """

    def key(self, key: typing.Any) -> bytes | None:
        encoded = super().key(key)
        if encoded is None or _CHANGED.search(encoded):
            return None
        return encoded

    def _plain_keys(
        self, originals: abc.Sequence[typing.Any], prefix: bytes
    ) -> list[bytes] | None:
        if _REFUSED.search(prefix):
            return None
        keys = super()._plain_keys(originals, prefix)
        if keys is None or any(map(_CHANGED.search, keys)):
            return None
        return keys

    def _encoded(self, key: typing.Any) -> typing.Any:
        if isinstance(key, str):
            # Half a surrogate pair is text too, and no other text's bytes.
            return key.encode('utf-8', 'surrogatepass')
        return key

    def _joined(self, prefix: bytes, key: typing.Any) -> bytes:
        encodings.check_kind(key, 'key')
        limit = self.server_max_key_length or memcache.SERVER_MAX_KEY_LENGTH
        return fit(prefix + key, limit)

    def _check_prefix(self, prefix: typing.Any) -> None:
        encodings.check_kind(prefix, 'key_prefix')
