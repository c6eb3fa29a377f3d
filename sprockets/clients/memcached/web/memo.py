"""What a request has read, it reads again for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import typing
from collections import abc

from sprockets.clients.memcached import aio
from sprockets.clients.memcached.loop import futures
from sprockets.clients.memcached.once import limits, plans
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    methods,
)
from sprockets.clients.memcached.servers import cluster

MOST = 1000
"""Reads of a request that are remembered; the others ask each time."""

_MISS = plans.MISS

_UNCHANGING = {str, bytes, int, float, bool, type(None), type(_MISS)}

_Read = asyncio.Future[typing.Any]


class Memo(aio.Scope):
    """The methods for one request, which remembers what it has read.

    What it writes goes to the servers as ever, and is forgotten: a read of
    that key that is called afterwards asks.  Each who reads a value that can
    be changed has a copy of his own.

    """

    def __init__(self, *args: typing.Any) -> None:
        super().__init__(*args)
        self._reads: dict[cluster.Route, _Read] = {}
        self._computed: dict[cluster.Route, _Read] = {}

    # Reading

    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: type[typing.Any] | None = None,
    ) -> aio.Future:
        if timeout is not None or kind is not None:
            # What is remembered may take longer, or be of another type.
            return super().get(key, default, timeout=timeout, kind=kind)
        route = self._encoding.route(key)
        read = self._reads.get(route)
        if read is None:
            if self._strict:
                # Not by way of what may write.
                request = methods.get(self._encoding, key, _MISS)
                read = super()._one(request)
            else:
                read = super().get(key, _MISS)
            _remember(self._reads, route, read)
        return _given(read, default)

    def get_multi(
        self,
        keys: abc.Iterable[typing.Any],
        key_prefix: typing.Any = '',
        *,
        timeout: float | None = None,
    ) -> aio.Future:
        if timeout is not None:
            return super().get_multi(keys, key_prefix, timeout=timeout)
        originals = arguments.items('keys', keys)
        sent = self._encoding.keys(originals, key_prefix)
        hashes = sent.hashes or [None] * len(originals)
        routes = list(map(cluster.Route, sent.keys, hashes))
        known = {
            original: self._reads[route]
            for original, route in zip(originals, routes, strict=True)
            if route in self._reads
        }
        loop = asyncio.get_running_loop()
        asked = {
            original: route
            for original, route in zip(originals, routes, strict=True)
            if original not in known
        }
        if asked:
            reads = {route: loop.create_future() for route in asked.values()}
            for route, read in reads.items():
                _remember(self._reads, route, read)
            found = super().get_multi(list(asked), key_prefix)
            found.add_done_callback(lambda done: _share(done, asked, reads))
            for original, route in asked.items():
                known[original] = reads[route]
        return loop.create_task(_gathered(known))

    def _read(
        self,
        key: typing.Any,
        encoded: bytes,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
    ) -> aio.Future:
        return self._look_up(key, factory, plan, default, encoded)

    def _look_up(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
        encoded: bytes | None,
    ) -> aio.Future:
        route = self._encoding.route(key)
        if default is not _MISS:
            # It may be no value of the key, or make one.
            self.forget(route)
            found = super()._look_up(key, factory, plan, default, encoded)
            return self._then_forget(found, route)
        for reads in (self._reads, self._computed):
            read = reads.get(route)
            if read is not None and _has_value(read):
                return _given(read, None)
        read = self._computed.get(route)
        if read is None:
            # It was not there, but will be.
            self._reads.pop(route, None)
            read = super()._look_up(key, factory, plan, default, encoded)
            _remember(self._computed, route, read)
            # Others may read meanwhile that there is none.
            read.add_done_callback(lambda _: self._reads.pop(route, None))
        return _given(read, None)

    # Writing

    def forget(self, route: cluster.Route | None = None) -> None:
        """Ask anew for a key, or for all of them."""
        if route is None:
            self._reads.clear()
            self._computed.clear()
        else:
            self._reads.pop(route, None)
            self._computed.pop(route, None)

    def _one(
        self,
        request: descriptions.One[typing.Any],
        timeout: float | None = None,
    ) -> aio.Future:
        self.forget(request.route)
        return self._then_forget(super()._one(request, timeout), request.route)

    def _many(
        self,
        request: descriptions.Many[typing.Any],
        timeout: float | None = None,
    ) -> aio.Future:
        if isinstance(request, descriptions.ReadMany):
            return super()._many(request, timeout)
        self.forget()
        return self._then_forget(super()._many(request, timeout))

    def _everywhere(
        self, request: descriptions.Everywhere[typing.Any]
    ) -> aio.Future:
        self.forget()
        return self._then_forget(super()._everywhere(request))

    def _task(
        self,
        work: abc.Callable[..., abc.Coroutine[typing.Any, typing.Any, aio.T]],
        *args: typing.Any,
    ) -> asyncio.Future[aio.T]:
        self.forget()
        return self._then_forget(super()._task(work, *args))

    def _then_forget(
        self,
        written: asyncio.Future[aio.T],
        route: cluster.Route | None = None,
    ) -> asyncio.Future[aio.T]:
        """Forget once more when it is written: others read meanwhile."""
        # It is called before whoever awaits the future goes on.
        written.add_done_callback(lambda _: self.forget(route))
        return written

    @contextlib.contextmanager
    def _writes(self, key: typing.Any = None) -> abc.Iterator[None]:
        """Forget a key, or all of them, before it is written and after that.

        What else is at work may read the old value meanwhile.

        """
        route = None if key is None else self._encoding.route(key)
        self.forget(route)
        try:
            yield
        finally:
            self.forget(route)

    async def _refresh(self, key: typing.Any, *args: typing.Any) -> typing.Any:
        with self._writes(key):
            return await super()._refresh(key, *args)

    async def _put(self, key: typing.Any, *args: typing.Any) -> int:
        with self._writes(key):
            return await super()._put(key, *args)

    async def get_or_set_multi(
        self,
        keys: abc.Iterable[typing.Any],
        *args: typing.Any,
        **options: typing.Any,
    ) -> dict[typing.Any, typing.Any]:
        with self._writes():
            return await super().get_or_set_multi(keys, *args, **options)

    async def invalidate_tags(self, *tags: str) -> int:
        with self._writes():
            return await super().invalidate_tags(*tags)

    async def invalidate(self, key: typing.Any) -> int:
        with self._writes(key):
            return await super().invalidate(key)

    async def mark_stale(self, key: typing.Any, stale: typing.Any = 60) -> int:
        with self._writes(key):
            return await super().mark_stale(key, stale)

    async def limit(
        self, key: typing.Any, *args: typing.Any, **options: typing.Any
    ) -> limits.Allowance:
        with self._writes(key):
            return await super().limit(key, *args, **options)

    async def update(
        self, key: typing.Any, *args: typing.Any, **options: typing.Any
    ) -> typing.Any:
        with self._writes(key):
            return await super().update(key, *args, **options)


def _remember(
    reads: dict[cluster.Route, _Read], route: cluster.Route, read: _Read
) -> None:
    """Remember a read, unless it fails."""
    if len(reads) >= MOST:
        return
    reads[route] = read

    def look(done: _Read) -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed and reads.get(route) is done:
            del reads[route]

    read.add_done_callback(look)


def _has_value(read: _Read) -> bool:
    return (
        read.done()
        and not read.cancelled()
        and read.exception() is None
        and read.result() is not _MISS
    )


def _given(read: _Read, default: typing.Any) -> aio.Future:
    """Return a future of one's own for what was read."""
    future: aio.Future = asyncio.get_running_loop().create_future()

    def give(done: _Read) -> None:
        if done.cancelled():
            future.cancel()
        else:
            futures.settle(future, _own, done, default)

    if read.done():
        give(read)
    else:
        read.add_done_callback(give)
    return future


def _own(read: _Read, default: typing.Any) -> typing.Any:
    """Return what was read, which nobody else can change."""
    value = read.result()
    if value is _MISS:
        return default
    return value if type(value) in _UNCHANGING else copy.deepcopy(value)


def _share(
    done: _Read,
    asked: abc.Mapping[typing.Any, cluster.Route],
    reads: abc.Mapping[cluster.Route, _Read],
) -> None:
    """Give each of several reads what came for it."""
    for original, route in asked.items():
        read = reads[route]
        if read.done():
            continue
        if done.cancelled():
            read.cancel()
        else:
            futures.settle(read, _part, done, original)


def _part(done: _Read, original: typing.Any) -> typing.Any:
    return done.result().get(original, _MISS)


async def _gathered(
    known: abc.Mapping[typing.Any, _Read],
) -> dict[typing.Any, typing.Any]:
    found = {}
    for original, read in known.items():
        value = await _given(read, _MISS)
        if value is not _MISS:
            found[original] = value
    return found
