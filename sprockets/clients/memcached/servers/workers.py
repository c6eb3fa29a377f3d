"""Daemon threads, a bounded number, that run jobs as they come."""

from __future__ import annotations

import collections
import queue
import sys
import threading
import weakref
from collections import abc

from sprockets.clients.memcached import process

Function = abc.Callable[[], None]

MOST_IDLE = 64
"""Threads of all servers together that wait for a job.

There may be a thousand servers, of which each needs one for a moment.

"""


class Idle:
    """How many threads wait for a job.

    :param int most: how many may; with as many, one without a job ends

    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget_after_fork()
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Begin with none."""
        # No lock: garbage may be collected, and a crew ended, at any time.
        self._places = collections.deque([None] * self._most)

    def come(self) -> bool:
        """Whether one more may wait, which then has a place."""
        try:
            self._places.pop()
        except IndexError:
            return False
        return True

    def go(self) -> None:
        """Give a place back."""
        self._places.append(None)


_IDLE = Idle(MOST_IDLE)


class Job:
    """A function that a thread is to run, or that was taken back before."""

    __slots__ = ('_crew', 'function')

    def __init__(self, function: Function, crew: _Crew) -> None:
        self.function = function
        self._crew = crew

    def take_back(self) -> bool:
        """Whether no thread has taken it; then none will.

        :rtype: bool

        """
        return self._crew.take_back(self)


class Workers:
    """Up to ``limit`` threads, each started when a job finds none free.

    It is for a job that does its own error handling: what one raises is told
    to :func:`threading.excepthook`.

    :param int limit: how many threads there are at most
    :param str name: how they are named
    :param Idle idle: those that wait for a job, of all whose bound it is

    """

    def __init__(self, limit: int, name: str, idle: Idle = _IDLE) -> None:
        self.limit = limit
        self._name = name
        self._idle = idle
        self._begin()

    def _begin(self) -> None:
        self._crew = crew = _Crew(self.limit, self._name, self._idle)
        self._end = weakref.finalize(self, crew.end)
        # Daemon threads: the interpreter's exit does not wait for a server.
        self._end.atexit = False

    def submit(self, function: Function) -> Job:
        """Have a thread run a function.

        :raises ThreadError: if there is no thread, and none can be started;
            then it is not run later either
        :rtype: Job

        """
        while True:
            job = self._crew.submit(function)
            if job is not None:
                return job

    def stop(self) -> list[process.Thread]:
        """Let the threads end after the jobs that they have, and return them.

        A later job starts new ones.

        """
        ending, end = self._crew, self._end
        self._begin()
        end()
        return ending.threads

    def forget(self) -> None:
        """Begin without threads, as a forked child has to."""
        self._end.detach()
        self._begin()


class _Crew:
    """Threads and their jobs.

    It is apart from its owner, which idle threads must not keep alive.

    """

    def __init__(self, limit: int, name: str, idle: Idle) -> None:
        self._all_idle = idle
        self._limit = limit
        self._name = name
        # One that a thread may take twice: garbage is collected, and a crew
        # ended with its owner, at any time.
        self._lock = threading.RLock()
        self._jobs: collections.deque[Job] = collections.deque()
        self._threads: set[process.Thread] = set()
        self._idle = 0
        # Idle threads wait for it.  Unlike a condition it is left well by a
        # signal, whenever that comes.
        self._awake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended = False

    @property
    def threads(self) -> list[process.Thread]:
        with self._lock:
            return list(self._threads)

    def submit(self, function: Function) -> Job | None:
        """Enter a job, and see to it that there is a thread for it.

        :return: None if the crew has ended

        """
        job = Job(function, self)
        try:
            with self._lock:
                if self._ended:
                    return None
                self._jobs.append(job)
                if len(self._jobs) <= self._idle:
                    self._awake.put(None)
                elif len(self._threads) < self._limit:
                    self._start()
        # A signal's too: who submits it takes it for one that is not run.
        except BaseException:
            self.take_back(job)
            raise
        return job

    def _start(self) -> None:
        try:
            thread = process.start_thread(self._name, self._work)
        except process.ThreadError:
            if not self._threads:
                raise
            # One of the others takes it when it has done what it does.
            return
        # It does so itself too, for a signal may come in between.
        self._threads.add(thread)

    def take_back(self, job: Job) -> bool:
        with self._lock:
            try:
                self._jobs.remove(job)
            except ValueError:
                return False
            return True

    def end(self) -> None:
        """Let the threads end when there are no more jobs."""
        with self._lock:
            self._ended = True
            for _ in self._threads:
                self._awake.put(None)

    def _work(self) -> None:
        thread = threading.current_thread()
        while (job := self._next(thread)) is not None:
            try:
                job.function()
            except BaseException:  # noqa: BLE001
                what = threading.ExceptHookArgs((*sys.exc_info(), thread))
                threading.excepthook(what)
                del what
            # It holds futures and values; not until the next one comes.
            del job

    def _next(self, thread: process.Thread) -> Job | None:
        """Wait for a job; there is none any more once the crew has ended."""
        while True:
            with self._lock:
                self._threads.add(thread)
                if self._jobs:
                    return self._jobs.popleft()
                if self._ended or not self._all_idle.come():
                    self._threads.discard(thread)
                    return None
                self._idle += 1
            self._awake.get()
            with self._lock:
                self._idle -= 1
            self._all_idle.go()
