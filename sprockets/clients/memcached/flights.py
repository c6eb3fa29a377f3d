"""One computation at a time for a key, of all the threads of a process."""

from __future__ import annotations

import os
import threading
import typing
import weakref
from collections import abc


class Flight:
    """A computation under way, and then what came of it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._result: typing.Any = None
        self._error: BaseException | None = None

    def run(self, compute: abc.Callable[[], typing.Any]) -> typing.Any:
        """Compute, for the others too."""
        try:
            self._result = compute()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._over.set()
        return self._result

    def wait(self) -> typing.Any:
        """Return what came of it.

        :raises Exception: what the computation raised

        """
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Flights:
    """The computations under way, by what they are for."""

    def __init__(self) -> None:
        self.forget_after_fork()
        _all.add(self)

    def forget_after_fork(self) -> None:
        """Begin anew: a forked child has no other threads."""
        self._lock = threading.Lock()
        self._flights: dict[abc.Hashable, Flight] = {}
        self._locks: weakref.WeakValueDictionary[
            abc.Hashable, threading.Lock
        ] = weakref.WeakValueDictionary()

    def run(
        self,
        key: abc.Hashable,
        compute: abc.Callable[[], typing.Any],
        default: typing.Any,
        missing: typing.Any,
    ) -> typing.Any:
        """Compute, or wait for who computes the same.

        :param default: what to return rather than wait
        :param missing: the default that means to wait
        :raises Exception: what the computation raises, in all that wait

        """
        with self._lock:
            flight = self._flights.get(key)
            own = flight is None
            if flight is None:
                flight = self._flights[key] = Flight()
        if not own:
            return flight.wait() if default is missing else default
        try:
            return flight.run(compute)
        finally:
            with self._lock:
                del self._flights[key]

    def lock(self, key: abc.Hashable) -> threading.Lock:
        """Return the lock of a key, which is there while somebody has it."""
        with self._lock:
            lock = self._locks.get(key)
            if lock is None:
                lock = self._locks[key] = threading.Lock()
            return lock


_all: weakref.WeakSet[Flights] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for flights in list(_all):
        flights.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
