"""One computation at a time for a key, of all the threads of a process."""

from __future__ import annotations

import contextlib
import copy
import threading
import types
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.once import nesting


class Computation:
    """A computation under way, and then what came of it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.outcome: typing.Any = None
        """None if nothing came of it that others could use."""
        self._error: BaseException | None = None
        self._traceback: types.TracebackType | None = None

    def end(self, outcome: typing.Any) -> None:
        """Take note of what has come of it, for those who wait."""
        self.outcome = outcome
        self.over.set()

    def fail(self, error: BaseException) -> None:
        """Take note that it has failed."""
        # What ends the thread, as Ctrl-C does, is not the others' business.
        if not isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._error, self._traceback = error, error.__traceback__
        self.over.set()

    def check(self) -> None:
        """Raise what the computation raised, in one of those who wait."""
        if self._error is not None:
            raise _another(self._error, self._traceback)


def _another(
    error: BaseException, traceback: types.TracebackType | None
) -> BaseException:
    """Return an error to be raised once more, in another thread.

    Each gets one of its own if it can be copied, for what raises an error
    adds to its traceback.

    """
    try:
        twin = copy.copy(error)
        same = type(twin) is type(error) and twin.args == error.args
    # It is made in its own way.
    except Exception:  # noqa: BLE001
        same = False
    if not same:
        return error.with_traceback(traceback)
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(traceback)


class Computations:
    """The computations under way, by what they are for."""

    def __init__(self) -> None:
        self.forget_after_fork()
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Begin anew: a forked child has no other threads."""
        self._lock = threading.Lock()
        self._under_way: dict[abc.Hashable, Computation] = {}
        self._locks: weakref.WeakValueDictionary[
            abc.Hashable, threading.Lock
        ] = weakref.WeakValueDictionary()

    def run(
        self,
        key: abc.Hashable,
        compute: abc.Callable[[], typing.Any],
        patience: float | None,
        compute_alone: abc.Callable[[], typing.Any] | None = None,
    ) -> typing.Any:
        """Compute, or wait for who computes the same.

        :param compute: returns an outcome, None if there is none that others
            could use
        :param float patience: seconds to wait for one computation, before
            another one begins; None not to wait
        :param compute_alone: computes for a part of the computation, which
            may be waited for by it; ``compute`` if it is None
        :return: the outcome, None if there is none without waiting
        :raises BaseException: what the computation raises, in all that wait
        :raises RuntimeError: in a computation of the same

        """
        work = self, key
        asked_by = nesting.runner()
        within = nesting.is_within(work, asked_by)
        if within and patience is not None:
            patience = min(patience, nesting.PATIENCE)
        computation: Computation | None = None
        try:
            while True:
                with self._lock:
                    computation = self._under_way.get(key)
                    own = computation is None
                    if computation is None:
                        computation = self._under_way[key] = Computation()
                if own:
                    try:
                        with nesting.part_of(work, asked_by):
                            outcome = compute()
                        computation.end(outcome)
                        return outcome
                    except BaseException as error:
                        computation.fail(error)
                        raise
                    finally:
                        self.forget(key, computation)
                if patience is None:
                    return None
                if not computation.over.wait(patience):
                    if within:
                        with nesting.part_of(work, asked_by):
                            return (compute_alone or compute)()
                    self.forget(key, computation)
                    continue
                computation.check()
                if computation.outcome is not None:
                    return computation.outcome
        finally:
            # It has the error, whose traceback has this frame, and both would
            # wait for the collector.
            computation = None

    def forget(
        self, key: abc.Hashable, computation: Computation | None = None
    ) -> None:
        """Let callers from now on begin another computation.

        :param Computation computation: the one to forget, if it is not just
            any

        """
        if key in self._under_way:
            with self._lock:
                if computation in (None, self._under_way.get(key)):
                    self._under_way.pop(key, None)

    @contextlib.contextmanager
    def locked(self, key: abc.Hashable) -> abc.Iterator[None]:
        """Let one thread at a time do something to a key.

        Who does it for somebody who does so already goes ahead after a
        while, for that one may wait for it.

        :raises RuntimeError: for the same thread once more

        """
        work = self, 'lock', key
        asked_by = nesting.runner()
        within = nesting.is_within(work, asked_by)
        with self._lock:
            lock = self._locks.get(key)
            if lock is None:
                lock = self._locks[key] = threading.Lock()
        held = lock.acquire(timeout=nesting.PATIENCE if within else -1)
        try:
            with nesting.part_of(work, asked_by):
                yield
        finally:
            if held:
                lock.release()
