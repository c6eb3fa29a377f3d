"""What a process has: threads, too little of a thing, and forked children."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import typing
import weakref
from collections import abc

Thread = threading.Thread


def unsupported() -> str | None:
    """Return why the package cannot work in this process, if it cannot.

    eventlet's :func:`select.poll` is none, and its threads and sockets know
    nothing of an event loop.  gevent has all that is needed.

    """
    patcher: typing.Any = sys.modules.get('eventlet.patcher')
    if patcher is None or not any(
        map(patcher.is_monkey_patched, ('select', 'socket', 'thread'))
    ):
        return None
    return (
        'sprockets.clients.memcached does not work in a process that eventlet'
        ' has patched; use threads, asyncio or gevent'
    )


if _unsupported := unsupported():
    raise ImportError(_unsupported)


def module_name(name: str) -> str:
    """Return the own name of a module, which may be the process's program.

    That is ``__main__`` while it runs, and so is any other's.

    """
    if name not in ('__main__', '__mp_main__'):
        return name
    module = sys.modules.get(name)
    spec = getattr(module, '__spec__', None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, '__file__', None)
    if file is None:
        return name
    return str(os.path.splitext(os.path.basename(file))[0])


class ThreadError(OSError):
    """A thread could not be started: there are too many, or no memory.

    It says nothing about any server.

    """


def start_thread(
    name: str, target: abc.Callable[..., None], *args: typing.Any
) -> threading.Thread:
    """Start a daemon thread, and return it once it runs.

    Whoever keeps books of threads enters what this returns, so that nothing
    has to be undone where it raises.  They are daemons, for the end of the
    process does not wait for a server.

    :raises ThreadError: if there can be none now; nothing was begun

    """
    try:
        # An isolated interpreter has no daemons, and says so here.
        thread = threading.Thread(
            target=target, args=args, name=name, daemon=True
        )
        thread.start()
    # "can't start new thread", also at the end of the interpreter.
    except (RuntimeError, MemoryError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            # It runs: a signal came while it was waited for.
            raise error.__context__ from None
        raise ThreadError(f'no thread can be started: {error}') from None
    return thread


class LateError(TimeoutError):
    """The time is over, for this process was busy, or was stopped.

    Nothing was asked of the server yet, or it goes on with what was asked: it
    is not to blame.

    """


_SHORTAGES = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        # No port is left to connect from.
        errno.EADDRNOTAVAIL,
    }
)


def is_shortage(error: BaseException) -> bool:
    """Whether something is short here: it tells nothing about any server."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_MEMORY
    return isinstance(error, (ThreadError, LateError)) or (
        isinstance(error, OSError) and error.errno in _SHORTAGES
    )


def look_for_shortage() -> None:
    """Raise what is short here, where a library may have hidden it.

    Without a descriptor for its files a name is said to be unknown, and a
    certificate's authority likewise.

    :raises OSError: if there is no descriptor now

    """
    socket.socket(socket.AF_UNIX).close()


class Forked(typing.Protocol):
    """Something that a forked child has to make anew."""

    def forget_after_fork(self) -> None:
        """Leave to the parent what is the parent's."""


class _Register:
    """What a forked child has to make anew, for as long as it is used.

    In the order in which it was entered: what is made of other things comes
    after them.

    """

    def __init__(self) -> None:
        # A signal's handler may fork while something is entered.
        self._lock = threading.RLock()
        self._entered: dict[weakref.ref[Forked], None] = {}

    def enter(self, entry: Forked) -> None:
        """Have something made anew in each child that is forked."""
        with self._lock:
            self._entered[weakref.ref(entry, self._leave)] = None

    def _leave(self, gone: weakref.ref[Forked]) -> None:
        # Without the lock, which the thread may have that collects garbage;
        # to take one key away is one step.
        self._entered.pop(gone, None)

    def before(self) -> None:
        self._lock.acquire()

    def after_in_parent(self) -> None:
        self._lock.release()

    def after_in_child(self) -> None:
        self._lock.release()
        for entry in [reference() for reference in list(self._entered)]:
            if entry is not None:
                entry.forget_after_fork()


_register = _Register()
after_fork = _register.enter
os.register_at_fork(
    before=_register.before,
    after_in_parent=_register.after_in_parent,
    after_in_child=_register.after_in_child,
)
