"""Where batches run that take a thread: own threads, or others' executor."""

from __future__ import annotations

import concurrent.futures
import typing
import weakref
from collections import abc

from sprockets.clients.memcached.loop import turns
from sprockets.clients.memcached.servers import cluster, health


class Lane(turns.Lane, typing.Protocol):
    """The way to a server, as far as it matters here."""

    endpoint: health.Endpoint


class Threads(typing.Protocol):
    """Where batches run that take a thread."""

    def take(self, lane: Lane, running: int) -> bool:
        """Whether there is a thread for one more of a lane's batches.

        If not, its ``leave`` is called when it may be worth another try.

        :param int running: how many of them have one

        """

    def give_back(self) -> None:
        """Take note that a thread is free again."""

    def withdraw(self, lane: Lane) -> None:
        """Take note that a lane does not wait for a thread any more."""

    def submit(
        self, endpoint: health.Endpoint, job: abc.Callable[[], None]
    ) -> None:
        """Have a thread run a batch."""


class OwnThreads:
    """The worker threads that each server has in this process."""

    def take(self, lane: Lane, running: int) -> bool:
        return True

    def give_back(self) -> None:
        """Nothing: there is one for each batch that may be in flight."""

    def withdraw(self, lane: Lane) -> None:
        """Nothing: nobody waits."""

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
        self._turns = turns.Turns(max(threads - 1, 1) if threads else 1 << 30)
        self._clusters: weakref.WeakSet[cluster.Cluster] = weakref.WeakSet()

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

    def take(self, lane: Lane, running: int) -> bool:
        servers = sum([len(c.servers) for c in list(self._clusters)])
        share = max(self._turns.limit // max(servers, 1), 1)
        # Where it has its share, one of its own comes back.
        return running < share and self._turns.take(lane)

    def give_back(self) -> None:
        self._turns.give_back()

    def withdraw(self, lane: Lane) -> None:
        self._turns.withdraw(lane)

    def submit(
        self, endpoint: health.Endpoint, job: abc.Callable[[], None]
    ) -> None:
        executor = self._executor()
        if executor is None:
            raise RuntimeError('the executor is gone')
        executor.submit(job)
