"""Which of several servers a key lives on."""

from __future__ import annotations

import bisect
import hashlib
import struct
import typing
from collections import abc

import memcache

from sprockets.clients.memcached import clock, settings
from sprockets.clients.memcached.servers import health

try:
    # It takes half the time of OpenSSL's for so few bytes, and is there where
    # OpenSSL was told that MD5 is not for secrets.
    from _md5 import md5  # type: ignore[import-not-found]
except ImportError:
    md5 = hashlib.md5

POINTS = 160
"""Points on the continuum for each server, on an average (libmemcached's)."""

FEW = 20
"""Servers of a continuum that are so few that their points are looked at, and
not the points of all."""


class Endpoint(typing.Protocol):
    """A server, as far as it matters here."""

    retry_at: float | None
    """When it is tried again (:func:`time.monotonic`), None while it is up."""

    def usable(self) -> bool:
        """Whether to send something to it now."""


E = typing.TypeVar('E', bound=Endpoint)
Servers = abc.Sequence[tuple[settings.Address, int, E]]
"""Where each server listens, its weight, and the server."""


class Pick(typing.Protocol[E]):
    """Finds the server for a key, without any I/O or other effect."""

    def __call__(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[E] = (),
        /,
    ) -> E | None:
        """Return the server for a key, None if there is none that is usable.

        It may be one that is down, whose trial is to be taken.

        :param bytes key: the key
        :param int hashed: the hash to use instead of the key's own
        :param tried: servers that could not be reached just now

        """


class Distribution(typing.Protocol[E]):
    """How keys are spread over some servers."""

    @property
    def pick(self) -> Pick[E]:
        """What finds the server for a key."""

    def home(self, key: bytes) -> E | None:
        """Return the server for a key, whether it is up or not."""


def make(kind: str, servers: Servers[E], failover: bool) -> Distribution[E]:
    """Return what finds the servers for keys.

    :param str kind: ``'modula'`` or ``'ketama'``
    :param servers: each with its address and weight
    :param bool failover: whether a dead server's keys go to the others

    """
    if not servers:
        return Nothing()
    if len({endpoint for _, _, endpoint in servers}) == 1:
        return Single(servers[0][2])
    if kind == 'ketama':
        return Ketama(servers, failover)
    return Modula(servers, failover)


class Nothing:
    """No server at all."""

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[typing.Any] = (),
        /,
    ) -> None:
        """Find no server, for there is none."""

    def home(self, key: bytes) -> None:
        """Find no server, likewise."""


def _may_try(endpoint: E, tried: abc.Container[E]) -> bool:
    return endpoint not in tried and endpoint.usable()


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

    def home(self, key: bytes) -> E:
        return self._endpoint


class _Usable(typing.Generic[E]):
    """Those of many servers that are usable, looked for after changes only.

    A key of one that is down would have to look at them all where most are.

    :param servers: each once

    """

    def __init__(self, servers: abc.Iterable[E]) -> None:
        self._servers = list(servers)
        self._seen: tuple[object, float, frozenset[E]] = (None, 0, frozenset())

    def now(self) -> frozenset[E]:
        """Return those that are usable: the same object until they change."""
        last, until, usable = self._seen
        if last is health.changes.last and clock.now() < until:
            return usable
        # Before the servers: what changes meanwhile is looked at next time.
        last = health.changes.last
        now = clock.now()
        found = []
        until = float('inf')
        for server in self._servers:
            retry_at = server.retry_at
            if retry_at is None or retry_at <= now:
                found.append(server)
            elif retry_at < until:
                until = retry_at
        if len(found) != len(usable) or not usable.issuperset(found):
            usable = frozenset(found)
        self._seen = last, until, usable
        return usable


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
        self._usable = _Usable(dict.fromkeys(self._buckets))
        self._places: tuple[frozenset[E], list[int]] = (frozenset(), [])

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

    def home(self, key: bytes) -> E:
        hashed: int = memcache.serverHashFunction(key)
        return self._buckets[hashed % self._size]

    def _another(self, hashed: int, tried: abc.Container[E]) -> E | None:
        usable = self._usable.now()
        if not usable:
            return None
        # python-memcached hashes anew, and after ten tries it gives up.
        for attempt in range(memcache.Client._SERVER_RETRIES - 1):
            hashed = memcache.serverHashFunction(
                f'{hashed}{attempt}'.encode('ascii')
            )
            endpoint = self._buckets[hashed % self._size]
            if endpoint in usable and endpoint not in tried:
                return endpoint
        places = self._places_of(usable)
        at = bisect.bisect_left(places, hashed % self._size)
        for step in range(len(places)):
            endpoint = self._buckets[places[(at + step) % len(places)]]
            if endpoint not in tried:
                return endpoint
        return None

    def _places_of(self, usable: frozenset[E]) -> list[int]:
        """Return the buckets of some servers."""
        known, places = self._places
        if known is not usable:
            places = [
                place
                for place, endpoint in enumerate(self._buckets)
                if endpoint in usable
            ]
            self._places = usable, places
        return places


class Ketama(typing.Generic[E]):
    """The next point on a continuum, as libmemcached's ketama_weighted.

    Each server owns about 160 points of a circle, and a key belongs to the
    owner of the first one from its hash on.  So most keys stay where they are
    when a server comes or goes.  The keys of one that is dead go to the owner
    of the next point, each as if that server were not there.

    """

    def __init__(self, servers: Servers[E], failover: bool) -> None:
        self._points, self._owners = _continuum(servers)
        self._size = len(self._points)
        # Behind the last point comes the first one.
        self._owners.append(self._owners[0])
        self._usable = _Usable(dict.fromkeys(self._owners))
        self._places: dict[E, list[int]] = {}
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

    def home(self, key: bytes) -> E:
        (hashed,) = _first_word(md5(key, usedforsecurity=False).digest())
        owner: E = self._owners[bisect.bisect_left(self._points, hashed)]
        return owner

    def _another(self, at: int, tried: abc.Container[E]) -> E | None:
        usable = self._usable.now()
        if not usable:
            return None
        if len(usable) <= FEW:
            return self._nearest(at, [e for e in usable if e not in tried])
        owners, size = self._owners, self._size
        refused: set[E] = set()
        for step in range(size):
            endpoint = owners[(at + step) % size]
            if endpoint not in usable or endpoint in refused:
                continue
            if endpoint not in tried:
                return endpoint
            refused.add(endpoint)
            if len(refused) == len(usable):
                break
        return None

    def _nearest(self, at: int, servers: abc.Iterable[E]) -> E | None:
        """Return the one of some servers that has the first point."""
        nearest, least = None, self._size
        for endpoint in servers:
            places = self._places_of(endpoint)
            place = places[bisect.bisect_left(places, at) % len(places)]
            distance = (place - at) % self._size
            if distance < least:
                nearest, least = endpoint, distance
        return nearest

    def _places_of(self, endpoint: E) -> list[int]:
        """Return where the points of a server are, in order."""
        if not self._places:
            # For all at once, and where so many are down only.
            places: dict[E, list[int]] = {}
            for place in range(self._size):
                places.setdefault(self._owners[place], []).append(place)
            self._places = places
        return self._places[endpoint]


_four_words = struct.Struct('<4I').unpack


def _continuum(servers: Servers[E]) -> tuple[list[int], list[E]]:
    """Return the points of a continuum, in order, and the owner of each.

    It takes a second for some thousand servers, and is made of small steps,
    so that other threads go on.

    """
    total = sum(weight for _, weight, _ in servers)
    named = {
        _name(address): (_hashes(weight, total, len(servers)), endpoint)
        for address, weight, endpoint in servers
    }
    owner_of: dict[int, E] = {}
    for name, (hashes, endpoint) in named.items():
        for number in range(hashes):
            data = f'{name}-{number}'.encode()
            for point in _four_words(
                md5(data, usedforsecurity=False).digest()
            ):
                # Of two with the same point the later one has it.
                owner_of[point] = endpoint
    # To sort them all is one step.
    parts: list[list[int]] = [[] for _ in range(256)]
    for point in owner_of:
        parts[point >> 24].append(point)
    points: list[int] = []
    for part in parts:
        part.sort()
        points += part
    return points, [owner_of[point] for point in points]


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
