"""One computation at a time for a key, of all the threads of a process."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import typing
import weakref
from collections import abc

_within: contextvars.ContextVar[tuple[abc.Hashable, ...]] = (
    contextvars.ContextVar('memcached_within', default=())
)


@contextlib.contextmanager
def within(work: abc.Hashable) -> abc.Iterator[None]:
    """Let what runs inside know what it is a part of.

    :raises RuntimeError: if it is a part of that already, for which it would
        have to wait

    """
    outer = _within.get()
    if work in outer:
        raise RuntimeError(
            'a function asks for the value that it is to return itself'
        )
    token = _within.set((*outer, work))
    try:
        yield
    finally:
        _within.reset(token)


class Flight:
    """A computation under way, and then what came of it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.outcome: typing.Any = None
        """None if nothing came of it that others could use."""
        self.error: Exception | None = None

    def run(self, compute: abc.Callable[[], typing.Any]) -> typing.Any:
        """Compute, for the others too."""
        try:
            self.outcome = compute()
        # What ends the thread, as Ctrl-C does, is not the others' business.
        except Exception as error:
            self.error = error
            raise
        finally:
            self.over.set()
        return self.outcome


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
        patience: float | None,
    ) -> typing.Any:
        """Compute, or wait for who computes the same.

        :param compute: returns an outcome, None if there is none that others
            could use
        :param float patience: seconds to wait for one computation, before
            another one begins; None not to wait
        :return: the outcome, None if there is none without waiting
        :raises Exception: what the computation raises, in all that wait
        :raises RuntimeError: in a computation of the same

        """
        with within((self, key)):
            while True:
                with self._lock:
                    flight = self._flights.get(key)
                    own = flight is None
                    if flight is None:
                        flight = self._flights[key] = Flight()
                if own:
                    try:
                        return flight.run(compute)
                    finally:
                        self.forget(key, flight)
                if patience is None:
                    return None
                if not flight.over.wait(patience):
                    self.forget(key, flight)
                elif flight.error is not None:
                    raise flight.error
                elif flight.outcome is not None:
                    return flight.outcome

    def forget(self, key: abc.Hashable, flight: Flight | None = None) -> None:
        """Let callers from now on begin another computation.

        :param Flight flight: the one to forget, if it is not just any

        """
        if key in self._flights:
            with self._lock:
                if flight in (None, self._flights.get(key)):
                    self._flights.pop(key, None)

    @contextlib.contextmanager
    def turn(self, key: abc.Hashable) -> abc.Iterator[None]:
        """Let one thread at a time do something to a key.

        :raises RuntimeError: for the same thread once more

        """
        with within((self, 'turn', key)):
            with self._lock:
                lock = self._locks.get(key)
                if lock is None:
                    lock = self._locks[key] = threading.Lock()
            with lock:
                yield


_all: weakref.WeakSet[Flights] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for flights in list(_all):
        flights.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
