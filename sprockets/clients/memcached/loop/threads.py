"""Threads for what the loop does not do: one's own, or an executor's."""

from __future__ import annotations

import concurrent.futures
import threading
import typing
import weakref

from sprockets.clients.memcached import process
from sprockets.clients.memcached.loop import permits
from sprockets.clients.memcached.servers import cluster, endpoints, workers

EXCHANGES = 256
"""Threads of servers that a client has do something at one time.  With a
thousand servers that hang it would be a thousand."""

VALUES = 4
"""Threads that a client has of its own to make values in."""


class NoThreadError(Exception):
    """There was no thread for what a call needs one for."""


def check(executor: typing.Any) -> None:
    """Raise :exc:`TypeError` for what is no executor of threads."""
    # A job cannot get to another process, or to another interpreter, whose
    # executor (Python 3.14) calls itself one of threads.
    kinds = tuple(
        getattr(concurrent.futures, name)
        for name in ('ProcessPoolExecutor', 'InterpreterPoolExecutor')
        if hasattr(concurrent.futures, name)
    )
    if not isinstance(executor, concurrent.futures.Executor) or isinstance(
        executor, kinds
    ):
        raise TypeError(
            f'executor is {executor!r}; expected an executor of threads'
        )


class Job(typing.Protocol):
    """Something to do, once."""

    def __call__(self) -> None:
        """Do it, in a thread; it does its own error handling."""

    def note(self, future: concurrent.futures.Future[None]) -> None:
        """Take note, in any thread, that an executor is done with it."""


class Source(typing.Protocol):
    """Where there are threads for jobs of one kind."""

    def take(
        self, lane: permits.Waiter, job: permits.Holder, running: int
    ) -> bool:
        """Whether there is a thread for another job of a lane.

        The job holds the permit for it, where one is needed.  If there is no
        thread, the lane's ``leave`` is called when it may be worth another
        try.

        :param int running: how many jobs of this kind have one

        """

    def withdraw(self, lane: permits.Waiter) -> None:
        """Take note that a lane does not wait for a thread any more."""


class Threads(Source, typing.Protocol):
    """Where a client has its threads from: those that may wait for a server.

    :ivar for_values: those that make values

    """

    for_values: Source

    def exchange(self, endpoint: endpoints.Endpoint, job: Job) -> None:
        """Have a thread do what may wait for a server.

        :raises Exception: if none will do it

        """

    def make_values(self, job: Job) -> None:
        """Have a thread do what takes long to compute.

        :raises Exception: if none will do it

        """

    def stop(self) -> list[process.Thread]:
        """Let threads that are the client's own end, and return them."""


class _Enough:
    """Threads for whose jobs there is a queue."""

    def take(
        self, lane: permits.Waiter, job: permits.Holder, running: int
    ) -> bool:
        return True

    def withdraw(self, lane: permits.Waiter) -> None:
        """Nothing: nobody waits."""


class OwnThreads:
    """The threads that each server has in this process, and some for values.

    Those for values are apart: what hangs while a value is made keeps nobody
    from a server.

    """

    def __init__(self) -> None:
        self.for_values: Source = _Enough()
        self._permits = permits.Permits(EXCHANGES)
        self._values = workers.Workers(VALUES, 'memcached values')

    def take(
        self, lane: permits.Waiter, job: permits.Holder, running: int
    ) -> bool:
        # A server has one for each batch that may be in flight.
        return self._permits.take(lane, job)

    def withdraw(self, lane: permits.Waiter) -> None:
        self._permits.withdraw(lane)

    def exchange(self, endpoint: endpoints.Endpoint, job: Job) -> None:
        endpoint.workers.submit(job)

    def make_values(self, job: Job) -> None:
        self._values.submit(job)

    def stop(self) -> list[process.Thread]:
        return self._values.stop()


class SharedThreads:
    """The executor that a client was given, and that others may use too.

    One of its threads is left to them, and each server gets a share of the
    rest, so that one that hangs does not stop the others.  The account is
    kept for the executor, whichever clients use it, in whatever loops.

    :param Executor executor: runs the jobs

    """

    _of: typing.ClassVar[
        weakref.WeakKeyDictionary[concurrent.futures.Executor, SharedThreads]
    ] = weakref.WeakKeyDictionary()
    _making = threading.Lock()

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self.for_values: Source = self
        self._executor = weakref.ref(executor)
        # None of its own for an executor that does not say: no bound but
        # each server's.
        threads = getattr(executor, '_max_workers', None)
        self._permits = permits.Permits(
            max(threads - 1, 1) if threads else 1 << 30
        )
        self._lock = threading.Lock()
        self._clusters: weakref.WeakSet[cluster.Cluster] = weakref.WeakSet()

    @classmethod
    def of(
        cls, executor: concurrent.futures.Executor, servers: cluster.Cluster
    ) -> SharedThreads:
        """Return the one account of an executor, and let servers use it."""
        with cls._making:
            threads = cls._of.get(executor)
            if threads is None:
                threads = cls._of[executor] = cls(executor)
        with threads._lock:
            threads._clusters.add(servers)
        return threads

    @classmethod
    def forget_after_fork(cls) -> None:
        """Keep new accounts: what the parent has in flight is not ours."""
        cls._making = threading.Lock()
        cls._of.clear()

    def take(
        self, lane: permits.Waiter, job: permits.Holder, running: int
    ) -> bool:
        # Where it has its share, one of its own comes back.
        return running < self._share() and self._permits.take(lane, job)

    def _share(self) -> int:
        with self._lock:
            servers = sum([len(c.servers) for c in self._clusters])
        return max(self._permits.limit // max(servers, 1), 1)

    def withdraw(self, lane: permits.Waiter) -> None:
        self._permits.withdraw(lane)

    def stop(self) -> list[process.Thread]:
        # They are the executor's.
        return []

    def exchange(self, endpoint: endpoints.Endpoint, job: Job) -> None:
        self.make_values(job)

    def make_values(self, job: Job) -> None:
        executor = self._executor()
        if executor is None:
            raise RuntimeError('the executor is gone')
        executor.submit(job).add_done_callback(job.note)


process.after_fork(SharedThreads)
