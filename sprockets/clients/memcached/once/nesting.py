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
    if context.get(_part) is not None:
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
    """By a computation, the one of somebody else that it waits for."""

    def __init__(self) -> None:
        self.forget_after_fork()
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Begin without any: a forked child has not the threads of these."""
        self.by_who_waits: dict[abc.Hashable, abc.Hashable] = {}

    def come_back(
        self, work: abc.Hashable, parts: abc.Sequence[abc.Hashable]
    ) -> bool:
        """Whether a computation waits, at last, for one of some others."""
        seen: set[abc.Hashable] = set()
        at: abc.Hashable | None = work
        while at is not None and at not in seen:
            if at in parts:
                return True
            seen.add(at)
            at = self.by_who_waits.get(at)
        return False


_waits = _Waits()


@contextlib.contextmanager
def waiting(
    work: abc.Hashable, asked_by: Runner | None = None
) -> abc.Iterator[None]:
    """Wait for somebody's computation, unless that waits for this one.

    :param asked_by: likewise
    :raises RuntimeError: if it does, by way of others as well

    """
    parts = _parts_of(asked_by or _asked_by.get(None))
    waits = _waits.by_who_waits
    try:
        waits.update(dict.fromkeys(parts, work))
        # Behind that: of two at the same time, one at least sees the other.
        if parts and _waits.come_back(work, parts):
            raise RuntimeError(
                'two functions ask for each other: each waits for the value'
                ' that the other one is to return'
            )
        yield
    finally:
        for part in parts:
            waits.pop(part, None)


def _parts_of(asked_by: Runner | None) -> list[abc.Hashable]:
    """Return the computations that go on with who asks, and not before."""
    found = []
    part = _part.get(None)
    itself = part is not None and part.runner == asked_by
    while part is not None and itself:
        if part.work is not None:
            found.append(part.work)
        itself = part.asked_by_outer
        part = part.outer
    return found


def is_within(work: abc.Hashable, asked_by: Runner | None = None) -> bool:
    """Whether whoever asks for something was started by who computes it.

    :param asked_by: likewise
    :raises RuntimeError: if it is who computes it, and so would wait for
        itself; or if it has been told that once, and asks again

    """
    part = _part.get(None)
    if part is None:
        return False
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
    return times > 0
