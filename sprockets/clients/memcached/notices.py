"""What is logged once in a while, with a count of what was left out.

Here too is what makes logged text harmless, wherever it is from.

"""

from __future__ import annotations

import logging
import threading
import typing
from collections import abc

from sprockets.clients.memcached import clock, escaping, process

QUIET = 60.0
"""Seconds in which an event of one kind is logged once."""

MOST = 100
"""Kinds of events that are told apart."""


class _Harmless(logging.Filter):
    """Makes each argument of a message printable, and cuts it.

    A server, a value or a certificate may have chosen it.

    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_harmless, record.args))
        return True


def _harmless(argument: object) -> object:
    if isinstance(argument, int | float):
        return argument
    return escaping.printable(str(argument))


_HARMLESS = _Harmless()


def harmless(logger: logging.Logger) -> logging.Logger:
    """Return a logger, all of whose messages are printable lines.

    Each logger of the package is one; tracebacks are as they are.

    """
    # The same one is added once.
    logger.addFilter(_HARMLESS)
    return logger


class _Lock:
    """Held for a moment, by whoever counts an event."""

    def __init__(self) -> None:
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        # What is logged may be that of a finalizer, or of a signal's handler.
        self.held = threading.RLock()


_lock = _Lock()
process.after_fork(_lock)


class _Kind:
    """Events of a kind, since one of them was logged."""

    __slots__ = ('said_at', 'unsaid')

    def __init__(self) -> None:
        self.said_at: float | None = None
        self.unsaid = 0

    def count(self, quiet: float) -> int | None:
        """Return how many were left out, None if this one is, too."""
        now = clock.now()
        if self.said_at is not None and now < self.said_at + quiet:
            self.unsaid += 1
            return None
        unsaid, self.unsaid = self.unsaid, 0
        self.said_at = now
        return unsaid


class Notices:
    """Logs events that may come in floods.

    Of one kind, an event is logged at most once in a while, and the next one
    says how many were left out.

    :param logging.Logger logger: where they are logged
    :param float quiet: for how many seconds one of a kind is enough

    """

    __slots__ = ('_kinds', '_logger', '_quiet')

    def __init__(self, logger: logging.Logger, quiet: float = QUIET) -> None:
        self._logger = harmless(logger)
        self._quiet = quiet
        self._kinds: dict[abc.Hashable, _Kind] = {}

    def warning(
        self, text: str, *args: typing.Any, about: abc.Hashable = None
    ) -> bool:
        """Log a warning, unless there was one of its kind.

        :param str text: what is logged, with ``args``
        :param about: what makes events of one text different kinds: of which
            server it is, say
        :return: whether it was logged

        """
        return self._log(logging.WARNING, text, args, about, None)

    def error(
        self,
        text: str,
        *args: typing.Any,
        error: BaseException,
        about: abc.Hashable = None,
    ) -> bool:
        """Log an error with its traceback, likewise."""
        return self._log(logging.ERROR, text, args, about, error)

    def _log(
        self,
        level: int,
        text: str,
        args: tuple[typing.Any, ...],
        about: abc.Hashable,
        error: BaseException | None,
    ) -> bool:
        if not self._logger.isEnabledFor(level):
            return False
        with _lock.held:
            kind = self._kinds.get((text, about))
            if kind is None:
                # What there are too many kinds of is one kind.
                key = (text, about) if len(self._kinds) < MOST else text
                kind = self._kinds.setdefault(key, _Kind())
            unsaid = kind.count(self._quiet)
        if unsaid is None:
            return False
        if unsaid:
            text = f'{text} (%d more since the last time)'
            args = (*args, unsaid)
        # By its own line, and not by this one.
        self._logger.log(level, text, *args, exc_info=error, stacklevel=3)
        return True
