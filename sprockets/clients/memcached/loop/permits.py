"""Leave to do what only so many may do at once: connections, threads."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import typing
import weakref

from sprockets.clients.memcached import notices

LOGGER = notices.harmless(logging.getLogger(__name__))

LOOK_AGAIN = 0.05
"""Seconds after which one who let another go first looks whether that one's
loop still runs."""


class Waiter(typing.Protocol):
    """Who may have to wait for a permit."""

    loop: asyncio.AbstractEventLoop

    def leave(self) -> None:
        """Try again, in its loop: there may be a permit."""


class Holder(typing.Protocol):
    """Who has a permit, or waits for one."""

    permit: Permit | None


class Permit:
    """Leave to do something, until it is released.

    Whoever ends what it was taken for releases it, in any thread; that it is
    released once more makes no difference.

    """

    __slots__ = ('_permits',)

    def __init__(self, permits: Permits | None) -> None:
        self._permits = permits

    def release(self) -> None:
        """Let the next one have it."""
        permits = self._permits
        if permits is None:
            return
        with permits._lock:
            self._permits = None
            permits._held.discard(self)
            if not permits._waiting:
                return
        permits._tell()


class Permits:
    """So many permits, which are had first come, first served.

    Nobody stands back for who waits in a loop that does not run just then, or
    that does not turn.

    :param int limit: how many there are

    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: set[Permit] = set()
        self._lock = threading.Lock()
        # By who waits, when it was told that there may be one.
        self._waiting: dict[weakref.ref[Waiter], float | None] = {}

    @property
    def free(self) -> int:
        """How many are to be had."""
        return self.limit - len(self._held)

    def take(self, waiter: Waiter, holder: Holder) -> bool:
        """Give somebody a permit, if there is one for this waiter now.

        If not, the waiter's ``leave`` is called when it is worth another try.

        :return: whether the holder has one

        """
        permit = Permit(self)
        with self._lock:
            # Its holder first: whenever a signal comes, somebody has it who
            # can release it.
            holder.permit = permit
            if not self._waiting and len(self._held) < self.limit:
                self._held.add(permit)
                return True
            this = weakref.ref(waiter)
            ahead = self.free > 0 and self._first() not in (None, waiter)
            if ahead or not self.free:
                self._waiting[this] = None
                if ahead:
                    waiter.loop.call_later(LOOK_AGAIN, self._look_again, this)
                holder.permit = None
                return False
            self._held.add(permit)
            self._waiting.pop(this, None)
        self._tell()
        return True

    def take_again(self, permit: Permit) -> bool:
        """Give out a permit that was released, if nobody waits for one.

        It is for permits that are taken and released in one thread.

        """
        held = self._held
        if self._waiting or len(held) >= self.limit:
            return False
        permit._permits = self
        held.add(permit)
        return True

    def take_back(self, permit: Permit) -> None:
        """Let the next one have a permit, likewise."""
        permit._permits = None
        self._held.discard(permit)
        if self._waiting:
            self._tell()

    def withdraw(self, waiter: Waiter) -> None:
        """Take note that somebody does not wait any more."""
        if self._waiting:
            with self._lock:
                self._waiting.pop(weakref.ref(waiter), None)
            self._tell()

    def _first(self) -> Waiter | None:
        """Return who waits longest and may come, with the lock held."""
        late = time.monotonic() - LOOK_AGAIN
        for reference, told_at in self._waiting.items():
            waiter = reference()
            # One whose loop rests, or is busy, comes when it does.
            if (
                waiter is not None
                and waiter.loop.is_running()
                and (told_at is None or told_at > late)
            ):
                return waiter
        return None

    def _tell(self) -> None:
        """Have the first of each loop try again, if there is a permit."""
        told: dict[asyncio.AbstractEventLoop, weakref.ref[Waiter]] = {}
        with self._lock:
            if not self.free:
                return
            for reference in list(self._waiting):
                waiter = reference()
                if waiter is None:
                    # What nobody has any more waits for nothing.
                    del self._waiting[reference]
                elif waiter.loop not in told:
                    told[waiter.loop] = reference
            known = {r for r in told.values() if self._waiting[r] is not None}
            now = time.monotonic()
            for reference in told.values():
                if reference not in known:
                    self._waiting[reference] = now
        for loop, reference in told.items():
            if reference in known:
                continue
            try:
                loop.call_soon_threadsafe(self._look_again, reference)
            except RuntimeError:
                LOGGER.debug('The loop was closed while its calls waited')
                with self._lock:
                    self._waiting.pop(reference, None)

    def _look_again(self, reference: weakref.ref[Waiter]) -> None:
        waiter = reference()
        if waiter is None:
            self._tell()
        else:
            waiter.leave()
