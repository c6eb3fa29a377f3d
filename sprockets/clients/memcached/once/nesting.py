"""What a computation is a part of, so that none waits for itself."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import typing
from collections import abc

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
