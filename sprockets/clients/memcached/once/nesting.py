"""What a computation is a part of, so that none waits for itself."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import typing
from collections import abc

from sprockets.clients.memcached import process

PATIENCE = 0.5
"""Seconds to wait for a computation that one is a part of.

A task or a thread that a computation has started may wait for it like
everybody else, unless the computation waits for that one in turn, which
nobody can see.

"""

Runner = tuple[int, int]
"""A thread, and the task that it is running, 0 if it is none."""


def runner() -> Runner:
    """Return who is running this."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), 0 if task is None else id(task)


class Part:
    """A computation that some code is a part of.

    It says no more once the computation is over: what that has started may
    outlive it.

    """

    __slots__ = ('asked_by_outer', 'outer', 'runner', 'work')

    def __init__(
        self, work: abc.Hashable, outer: Part | None, asked_by_outer: bool
    ) -> None:
        self.work: abc.Hashable | None = work
        """None once it is over."""
        self.outer = outer
        self.runner: Runner | None = runner()
        self.asked_by_outer = asked_by_outer
        """Whether the outer computation itself asked for it, and not a task
        or a thread that the outer one has started."""


_part: contextvars.ContextVar[Part | None] = contextvars.ContextVar(
    'memcached_part'
)
_asked_by: contextvars.ContextVar[Runner | None] = contextvars.ContextVar(
    'memcached_asked_by'
)


def note(context: contextvars.Context) -> None:
    """Take note of who asks for a value that is computed in this context."""
    # Who does so for somebody else is not who waits.
    if context.get(_part) is not None and context.get(_asked_by) is None:
        context.run(_asked_by.set, runner())


@contextlib.contextmanager
def part_of(
    work: abc.Hashable, asked_by: Runner | None = None
) -> abc.Iterator[None]:
    """Let what runs inside know what it is a part of.

    :param asked_by: who asked for it; None if it was noted in this context

    """
    outer = _part.get(None)
    while outer is not None and outer.work is None:
        outer = outer.outer
    asked_by = asked_by or _asked_by.get(None)
    part = Part(work, outer, outer is not None and outer.runner == asked_by)
    tokens: list[contextvars.Token[typing.Any]] = []
    # A signal may come as soon as it is set.  Where it comes before that is
    # noted, what stays behind is over, and is passed over.
    try:
        tokens.append(_part.set(part))
        tokens.append(_asked_by.set(None))
        yield
    finally:
        # No call, which a signal could come before.
        part.work = part.runner = None
        # In a task that is collected with its loop it is another context.
        with contextlib.suppress(ValueError):
            for token in tokens:
                token.var.reset(token)


class _Waits:
    """By a computation, what somebody else computes that it waits for."""

    def __init__(self) -> None:
        self.forget_after_fork()
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Begin without any: a forked child has not the threads of these."""
        self.lock = threading.Lock()
        self.by_who_waits: dict[abc.Hashable, list[Wait]] = {}

    def come_back(
        self,
        work: abc.Hashable,
        parts: abc.Container[abc.Hashable],
        surely: bool,
    ) -> bool:
        """Whether a computation waits, at last, for one of some others.

        :param bool surely: whether to leave out where only a task or a thread
            waits that a computation has started

        """
        seen: set[abc.Hashable] = set()
        left = [work]
        while left:
            at = left.pop()
            if at in parts:
                return True
            if at in seen:
                continue
            seen.add(at)
            left += [
                wait.work
                for wait in self.by_who_waits.get(at, ())
                if at in wait.parts or not surely
            ]
        return False


_waits = _Waits()


class Wait:
    """A wait for somebody's computation, while it lasts.

    :param work: what is computed
    :param parts: the computations that go on with who waits, and not before
    :param starters: those that perhaps do, for they have started the task or
        the thread that waits

    """

    __slots__ = ('is_doubtful', 'parts', 'starters', 'work')

    def __init__(
        self,
        work: abc.Hashable,
        parts: abc.Sequence[abc.Hashable],
        starters: abc.Sequence[abc.Hashable],
    ) -> None:
        self.work = work
        self.parts = parts
        self.starters = starters
        self.is_doubtful = False
        """Whether that computation may wait for who waits for it."""

    def __enter__(self) -> typing.Self:
        """Begin to wait.

        :raises RuntimeError: if that computation waits for who waits for it,
            by way of others as well

        """
        if not self.parts and not self.starters:
            return self
        try:
            with _waits.lock:
                for part in (*self.parts, *self.starters):
                    _waits.by_who_waits.setdefault(part, []).append(self)
                # In the same step: of two, one sees the other.
                if _waits.come_back(self.work, self.parts, True):
                    raise RuntimeError(
                        'two functions ask for each other: each waits for the'
                        ' value that the other one is to return'
                    )
                self.is_doubtful = _waits.come_back(
                    self.work, (*self.parts, *self.starters), False
                )
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Take note that nobody waits any more."""
        parts = *self.parts, *self.starters
        if not parts:
            return
        with _waits.lock:
            for part in parts:
                waits = _waits.by_who_waits.get(part, [])
                if self in waits:
                    waits.remove(self)
                if not waits:
                    _waits.by_who_waits.pop(part, None)

    def patience(self, seconds: float) -> float:
        """Return for how long to wait that would wait for so many seconds."""
        return min(seconds, PATIENCE) if self.is_doubtful else seconds


def waiting(work: abc.Hashable, asked_by: Runner | None = None) -> Wait:
    """Return a wait for somebody's computation.

    :param asked_by: likewise

    """
    part = _part.get(None)
    if part is None:
        return Wait(work, (), ())
    asked_by = asked_by or _asked_by.get(None)
    return _wait(work, part, part.runner == asked_by)


def waiting_for_lease() -> Wait:
    """Return a wait for who computes the same, in this process or another.

    It is never known to be for oneself: that one may be in another process.

    """
    part = _part.get(None)
    if part is None:
        return Wait(None, (), ())
    wait = _wait(part.work, part.outer, part.asked_by_outer)
    wait.starters, wait.parts = (*wait.parts, *wait.starters), ()
    return wait


def _wait(work: abc.Hashable, part: Part | None, itself: bool) -> Wait:
    """Return a wait in a part; whether it is the part itself that waits."""
    parts: list[abc.Hashable] = []
    starters: list[abc.Hashable] = []
    while part is not None:
        if part.work is not None:
            (parts if itself else starters).append(part.work)
        itself = itself and part.asked_by_outer
        part = part.outer
    return Wait(work, parts, starters)


def check(work: abc.Hashable, asked_by: Runner | None = None) -> None:
    """Refuse to compute something for who computes it.

    :param asked_by: likewise
    :raises RuntimeError: if it is who computes it that asks, and so would wait
        for itself; or if what that has started asks for the second time

    """
    part = _part.get(None)
    if part is None:
        return
    asked_by = asked_by or _asked_by.get(None)
    itself = part.runner is not None and part.runner == asked_by
    times = 0
    while part is not None:
        if part.work == work:
            times += 1
            if itself or times > 1:
                raise RuntimeError(
                    'a function asks for the value that it is to return itself'
                )
        itself = itself and part.asked_by_outer
        part = part.outer
