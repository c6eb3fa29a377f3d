"""Where batches run: threads of their own, or an executor of others."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import logging
import threading
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import cluster, health

LOGGER = logging.getLogger(__name__)


class Lane(typing.Protocol):
    """The way to a server, as far as it matters here."""

    endpoint: health.Endpoint
    loop: asyncio.AbstractEventLoop

    def leave(self) -> None:
        """Send batches on their way, as many as may be in flight."""


class Threads(typing.Protocol):
    """Where batches run."""

    def take(self, lane: Lane, in_flight: int) -> bool:
        """Whether a lane may have one more batch in flight.

        If not, its ``leave`` is called when it may be worth another try.

        """

    def give_back(self) -> None:
        """Take note that a batch has come back."""

    def submit(
        self, endpoint: health.Endpoint, job: abc.Callable[[], None]
    ) -> None:
        """Have a thread run a batch."""


class OwnThreads:
    """The worker threads that each server has in this process."""

    def take(self, lane: Lane, in_flight: int) -> bool:
        return in_flight < lane.endpoint.max_connections

    def give_back(self) -> None:
        """Nothing: a lane that gets a batch back looks for the next."""

    def submit(
        self, endpoint: health.Endpoint, job: abc.Callable[[], None]
    ) -> None:
        endpoint.workers.submit(job)


class SharedThreads:
    """The executor that a client was given, and that others may use too.

    One of its threads is left to them, and each server gets a share of the
    rest, so that one that hangs does not stop the others.  The account is
    kept for the executor, whichever clients use it.

    :param Executor executor: runs the batches

    """

    _of: typing.ClassVar[
        weakref.WeakKeyDictionary[concurrent.futures.Executor, SharedThreads]
    ] = weakref.WeakKeyDictionary()

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = weakref.ref(executor)
        # None of its own for an executor that does not say: no bound but
        # each server's.
        threads = getattr(executor, '_max_workers', None)
        self._free = max(threads - 1, 1) if threads else 1 << 30
        self._all = self._free
        self._clusters: weakref.WeakSet[cluster.Cluster] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._turned_away: collections.OrderedDict[Lane, None] = (
            collections.OrderedDict()
        )

    @classmethod
    def of(
        cls, executor: concurrent.futures.Executor, servers: cluster.Cluster
    ) -> SharedThreads:
        """Return the one account of an executor, and let servers use it."""
        threads = cls._of.get(executor)
        if threads is None:
            threads = cls._of[executor] = cls(executor)
        threads._clusters.add(servers)
        return threads

    @classmethod
    def forget_after_fork(cls) -> None:
        """Keep new accounts: what the parent has in flight is not ours."""
        cls._of.clear()

    def take(self, lane: Lane, in_flight: int) -> bool:
        with self._lock:
            servers = sum([len(c.servers) for c in self._clusters])
            share = max(self._all // max(servers, 1), 1)
            if in_flight >= min(lane.endpoint.max_connections, share):
                return False
            if self._free:
                self._free -= 1
                return True
            self._turned_away[lane] = None
            return False

    def give_back(self) -> None:
        with self._lock:
            self._free += 1
            if not self._turned_away:
                return
            lane, _ = self._turned_away.popitem(last=False)
        try:
            lane.loop.call_soon_threadsafe(lane.leave)
        except RuntimeError:
            LOGGER.debug('The loop was closed while its calls waited')

    def submit(
        self, endpoint: health.Endpoint, job: abc.Callable[[], None]
    ) -> None:
        executor = self._executor()
        if executor is None:
            raise RuntimeError('the executor is gone')
        executor.submit(job)
