"""Values that could not be computed anew: when that is tried again."""

from __future__ import annotations

import logging
import threading
from collections import abc

from sprockets.clients.memcached import clock, notices, process

LOGGER = notices.harmless(logging.getLogger(__name__))

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds before a value that could not be computed anew is tried again: twice
as many each time."""

MOST = 1000
"""Keys whose pauses are known."""


class Failures:
    """What could not be computed of late, by one client in one process.

    A value that is stale is served on meanwhile: to ask its source for each
    reader is to keep it from getting well.

    """

    def __init__(self) -> None:
        self._pauses: dict[abc.Hashable, tuple[float, float]] = {}
        self._notices = notices.Notices(LOGGER)
        self.forget_after_fork()
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Go on with a lock that no thread has."""
        self._lock = threading.Lock()

    def are_recent(self, key: abc.Hashable) -> bool:
        """Whether a value is not to be computed anew for the time being."""
        pause = self._pauses.get(key) if self._pauses else None
        return pause is not None and clock.now() < pause[0]

    def add(self, key: abc.Hashable) -> None:
        """Take note that a value could not be computed anew."""
        with self._lock:
            _, seconds = self._pauses.pop(key, (0, FIRST_PAUSE / 2))
            seconds = min(2 * seconds, LONGEST_PAUSE)
            if len(self._pauses) >= MOST:
                # The one that has not failed for longest.
                del self._pauses[next(iter(self._pauses))]
            self._pauses[key] = clock.now() + seconds, seconds

    def forget(self, key: abc.Hashable) -> None:
        """Let a value be computed anew at once, when it is to be."""
        if key in self._pauses:
            with self._lock:
                self._pauses.pop(key, None)

    def log(self, words: str, error: BaseException) -> None:
        """Log a failure that no caller is told of, if it is not one of many.

        :param str words: what could not be done

        """
        self._notices.error('%s', words, error=error, about=words)
