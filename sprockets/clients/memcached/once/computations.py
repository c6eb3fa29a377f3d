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
        self.is_over = False
        self.outcome: typing.Any = None
        """None if nothing came of it that others could use."""
        self._error: BaseException | None = None
        self._traceback: types.TracebackType | None = None
        # Held until it is over.  Unlike an event it is left well by a signal,
        # whenever that comes.
        self._latch = threading.Lock()
        self._latch.acquire()

    def end(self, outcome: typing.Any) -> None:
        """Take note of what has come of it, for those who wait."""
        self.outcome = outcome
        self._open()

    def fail(self, error: BaseException) -> None:
        """Take note that it has failed, unless it was over before."""
        # What ends the thread, as Ctrl-C does, is not the others' business.
        if not self.is_over and not isinstance(
            error, (KeyboardInterrupt, SystemExit)
        ):
            self._error, self._traceback = error, error.__traceback__
        self._open()

    def _open(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._latch.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is over, and return whether it is."""
        longest = min(seconds, threading.TIMEOUT_MAX)
        if not self.is_over and self._latch.acquire(timeout=longest):
            self._latch.release()
        return self.is_over

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
        nesting.check(work, asked_by)
        computation: Computation | None = None
        mine = Computation()
        try:
            while True:
                with self._lock:
                    computation = self._under_way.get(key)
                    # One that is over was left there by a signal.
                    if computation is None or computation.is_over:
                        computation = self._under_way[key] = mine
                if computation is mine:
                    with nesting.part_of(work, asked_by):
                        outcome = compute()
                    mine.end(outcome)
                    return outcome
                if patience is None:
                    return None
                with nesting.waiting(work, asked_by) as wait:
                    waited = computation.wait(wait.patience(patience))
                if not waited:
                    if wait.is_doubtful:
                        with nesting.part_of(work, asked_by):
                            return (compute_alone or compute)()
                    self.forget(key, computation)
                    continue
                computation.check()
                if computation.outcome is not None:
                    return computation.outcome
        # A signal's too, wherever it comes: nobody waits for this any more.
        except BaseException as error:
            mine.fail(error)
            raise
        finally:
            self.forget(key, mine)
            # It has the error, whose traceback has this frame, and both would
            # wait for the collector.
            del computation, mine

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

        Who does it for somebody who does so already, or whom that one waits
        for, goes ahead after a while where it may be in vain to wait.

        :raises RuntimeError: for the same thread once more, and for one that
            would wait for itself

        """
        work = self, 'lock', key
        asked_by = nesting.runner()
        nesting.check(work, asked_by)
        with self._lock:
            lock = self._locks.get(key)
            if lock is None:
                lock = self._locks[key] = threading.Lock()
        with nesting.waiting(work, asked_by) as wait:
            if not wait.is_doubtful:
                # A signal comes before it has the lock, or inside.
                with lock, nesting.part_of(work, asked_by):
                    wait.end()
                    yield
                return
            held = lock.acquire(timeout=nesting.PATIENCE)
        try:
            with nesting.part_of(work, asked_by):
                yield
        finally:
            if held:
                lock.release()
