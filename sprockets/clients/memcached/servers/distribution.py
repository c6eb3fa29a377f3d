"""Which of several servers a key lives on."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import struct
import typing
from collections import abc

import memcache
import uhashring

from sprockets.clients.memcached import settings

try:
    # It takes half the time of OpenSSL's for so few bytes, and is there where
    # OpenSSL was told that MD5 is not for secrets.
    from _md5 import md5  # type: ignore[import-not-found]
except ImportError:
    md5 = hashlib.md5

POINTS = 160
"""Points on the continuum for each server, on an average (libmemcached's)."""


class Endpoint(typing.Protocol):
    """A server, as far as it matters here."""

    retry_at: float | None
    """None while it is up."""

    def available(self) -> bool:
        """Whether to send something to it now."""


E = typing.TypeVar('E', bound=Endpoint)
Servers = abc.Sequence[tuple[settings.Address, int, E]]
"""Where each server listens, its weight, and the server."""


class Pick(typing.Protocol[E]):
    """Finds the server for a key, without any I/O."""

    def __call__(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[E] = (),
        /,
    ) -> E | None:
        """Return the server for a key, None if there is none that is up.

        :param bytes key: the key
        :param int hashed: the hash to use instead of the key's own
        :param tried: servers that could not be reached just now

        """


def make(kind: str, servers: Servers[E], failover: bool) -> Pick[E]:
    """Return what finds the server for a key.

    :param str kind: ``'modula'`` or ``'ketama'``
    :param servers: each with its address and weight
    :param bool failover: whether a dead server's keys go to the others

    """
    if not servers:
        return _none
    if len({endpoint for _, _, endpoint in servers}) == 1:
        return Single(servers[0][2]).pick
    if kind == 'ketama':
        return Ketama(servers, failover).pick
    return Modula(servers, failover).pick


def _none(
    key: bytes,
    hashed: int | None = None,
    tried: abc.Container[typing.Any] = (),
    /,
) -> None:
    """Find no server, for there is none."""


def _may_try(endpoint: E, tried: abc.Container[E]) -> bool:
    # In this order: available() may say yes to one caller only.
    return endpoint not in tried and endpoint.available()


class Single(typing.Generic[E]):
    """The one server there is."""

    def __init__(self, endpoint: E) -> None:
        self._endpoint = endpoint

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[E] = (),
        /,
    ) -> E | None:
        endpoint = self._endpoint
        if endpoint.retry_at is None or _may_try(endpoint, tried):
            return endpoint
        return None


class Modula(typing.Generic[E]):
    """The remainder of the key's hash, as python-memcached does it.

    It finds the server that python-memcached finds, and where that gives up
    it finds one all the same.

    """

    def __init__(self, servers: Servers[E], failover: bool) -> None:
        self._buckets = [
            endpoint for _, weight, endpoint in servers for _ in range(weight)
        ]
        self._size = len(self._buckets)
        self._failover = failover

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[E] = (),
        /,
    ) -> E | None:
        if hashed is None:
            hashed = memcache.serverHashFunction(key)
        endpoint = self._buckets[hashed % self._size]
        if endpoint.retry_at is None or _may_try(endpoint, tried):
            return endpoint
        return self._another(hashed, tried) if self._failover else None

    def _another(self, hashed: int, tried: abc.Container[E]) -> E | None:
        # python-memcached hashes anew, and after ten tries it gives up.
        for attempt in range(memcache.Client._SERVER_RETRIES - 1):
            hashed = memcache.serverHashFunction(
                f'{hashed}{attempt}'.encode('ascii')
            )
            endpoint = self._buckets[hashed % self._size]
            if _may_try(endpoint, tried):
                return endpoint
        for step in range(self._size):
            endpoint = self._buckets[(hashed + step) % self._size]
            if _may_try(endpoint, tried):
                return endpoint
        return None


class Ketama(typing.Generic[E]):
    """The next point on a continuum, as libmemcached's ketama_weighted.

    Each server owns about 160 points of a circle, and a key belongs to the
    owner of the first one from its hash on.  So most keys stay where they are
    when a server comes or goes.  The keys of one that is dead go to the owner
    of the next point, each as if that server were not there.

    """

    def __init__(self, servers: Servers[E], failover: bool) -> None:
        total = sum(weight for _, weight, _ in servers)
        # Weights are 1 for uhashring: its rounding is not libmemcached's.
        ring = uhashring.HashRing(
            {
                _name(address): {
                    'instance': endpoint,
                    'vnodes': _hashes(weight, total, len(servers)),
                }
                for address, weight, endpoint in servers
            },
            hash_fn='ketama',
        )
        # Its own look-up takes ten times as long, and a key whose hash is a
        # point goes to the one behind it, unlike in libmemcached.
        points = ring.get_points()
        self._points = [point for point, _ in points]
        self._owners: list[E] = [
            ring.conf[name]['instance'] for _, name in points
        ]
        # Behind the last point comes the first one.
        self._owners.append(self._owners[0])
        self._count = len(set(self._owners))
        self._failover = failover

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[E] = (),
        /,
    ) -> E | None:
        if hashed is None:
            (hashed,) = _first_word(md5(key, usedforsecurity=False).digest())
        else:
            hashed &= 0xFFFFFFFF
        at = bisect.bisect_left(self._points, hashed)
        endpoint = self._owners[at]
        if endpoint.retry_at is None or _may_try(endpoint, tried):
            return endpoint
        return self._another(at, tried) if self._failover else None

    def _another(self, at: int, tried: abc.Container[E]) -> E | None:
        refused: set[E] = set()
        for endpoint in itertools.chain(self._owners[at:], self._owners[:at]):
            if endpoint in refused:
                continue
            if _may_try(endpoint, tried):
                return endpoint
            refused.add(endpoint)
            if len(refused) == self._count:
                break
        return None


_first_word = struct.Struct('<I').unpack_from


def _name(address: settings.Address) -> str:
    """Return what libmemcached hashes for a server."""
    if address.port == settings.DEFAULT_PORT:
        return address.host
    return f'{address.host}:{address.port}'


def _hashes(weight: int, total: int, servers: int) -> int:
    """Return how many hashes a server has, each of which gives four points.

    The steps and the single precision are libmemcached's: any other
    arithmetic is off by one for some weights, and then some keys are.

    """
    share = _single(_single(weight) / _single(total))
    hashes = _single(_single(_single(share * POINTS) / 4) * servers)
    return int(_single(hashes + 1e-10))


def _single(number: float) -> float:
    """Round to single precision."""
    return float(struct.unpack('f', struct.pack('f', number))[0])
