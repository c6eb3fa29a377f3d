"""Daemon threads, a bounded number, that run jobs as they come."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import abc

Job = abc.Callable[[], None]


class Workers:
    """Up to ``limit`` threads, each started when a job finds none free.

    It is for a job that does its own error handling: one that raises ends
    its thread, loudly.

    :param int limit: how many threads there are at most
    :param str name: how they are named

    """

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._unfinished = [0]
        self._end = weakref.finalize(self, _stop, self._jobs, self.limit)
        # Daemon threads: the interpreter's exit does not wait for a server.
        self._end.atexit = False

    def submit(self, job: Job) -> None:
        """Have a thread run the job."""
        with self._lock:
            self._unfinished[0] += 1
            self._jobs.put(job)
            if len(self._threads) < min(self._unfinished[0], self.limit):
                thread = threading.Thread(
                    target=_work,
                    args=(self._jobs, self._lock, self._unfinished),
                    name=self._name,
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()

    def stop(self) -> list[threading.Thread]:
        """Let the threads end after the jobs that they have, and return them.

        A later job starts new ones.

        """
        with self._lock:
            ending = self._threads
            self._end()
            self._begin()
        return ending

    def forget(self) -> None:
        """Begin without threads, as a forked child has to."""
        self._end.detach()
        self._begin()


def _work(
    jobs: queue.SimpleQueue[Job | None],
    lock: threading.Lock,
    unfinished: list[int],
) -> None:
    # Not a method: a thread that is idle must not keep its owner alive.
    while True:
        job = jobs.get()
        if job is None:
            return
        job()
        # A job holds its futures and values; not until the next one comes.
        del job
        with lock:
            unfinished[0] -= 1


def _stop(jobs: queue.SimpleQueue[Job | None], threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
