"""Turns at what only so many may use at once: connections, threads."""

from __future__ import annotations

import asyncio
import logging
import threading
import typing
import weakref

LOGGER = logging.getLogger(__name__)


class Lane(typing.Protocol):
    """The way to a server, as far as it matters here."""

    loop: asyncio.AbstractEventLoop

    def leave(self) -> None:
        """Send batches on their way, as many as may be in flight."""


class Turns:
    """So many turns, which lanes take first come, first served.

    :param int limit: how many there are at once

    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._lock = threading.Lock()
        # A lane that nobody has any more waits for nothing.
        self._waiting: dict[weakref.ref[Lane], None] = {}

    def take(self, lane: Lane) -> bool:
        """Whether a lane has a turn now.

        If not, its ``leave`` is called when it is worth another try.

        """
        with self._lock:
            if not self._waiting and self._free:
                self._free -= 1
                return True
            if not self._free or self._first() not in (None, lane):
                self._waiting[weakref.ref(lane)] = None
                return False
            self._free -= 1
            self._waiting.pop(weakref.ref(lane), None)
        self._wake()
        return True

    def give_back(self) -> None:
        """Take note that a turn is over."""
        with self._lock:
            self._free += 1
            if not self._waiting:
                return
        self._wake()

    def withdraw(self, lane: Lane) -> None:
        """Take note that a lane does not wait for a turn any more."""
        if self._waiting:
            with self._lock:
                self._waiting.pop(weakref.ref(lane), None)
            self._wake()

    def _first(self) -> Lane | None:
        """Return the lane that waits longest, with the lock held."""
        for waiting in list(self._waiting):
            lane = waiting()
            if lane is not None:
                return lane
            del self._waiting[waiting]
        return None

    def _wake(self) -> None:
        """Have the first that waits try again, if there is a turn for it."""
        while True:
            with self._lock:
                lane = self._first() if self._free else None
            if lane is None:
                return
            try:
                lane.loop.call_soon_threadsafe(lane.leave)
                return
            except RuntimeError:
                LOGGER.debug('The loop was closed while its calls waited')
                with self._lock:
                    self._waiting.pop(weakref.ref(lane), None)
