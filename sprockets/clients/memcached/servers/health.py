"""Whether a server is up, and who tries one that is down."""

from __future__ import annotations

import logging
import threading
import time

from sprockets.clients.memcached import clock, notices
from sprockets.clients.memcached.servers import events
from sprockets.clients.memcached.wire import protocol

LOGGER = notices.harmless(logging.getLogger(__name__))

QUIET = 10.0
"""Seconds in which one server that goes down again and again is logged once;
see :mod:`.notices`."""


def words(reason: BaseException) -> str:
    """Return why a server failed, without what it sent: that may be a value.

    :rtype: str

    """
    if isinstance(reason, OSError):
        return reason.strerror or str(reason) or type(reason).__name__
    if isinstance(reason, protocol.ProtocolError):
        return 'what it sent was no answer'
    return type(reason).__name__


class _Changes:
    """Tells whether any server's health has changed since one looked."""

    def __init__(self) -> None:
        self.last = object()
        """Another one after each change."""

    def note(self) -> None:
        """Take note of a change that was just made."""
        self.last = object()


changes = _Changes()


class Trial:
    """The one try of a server that is down.

    Whoever holds it uses it up, by :meth:`Endpoint.exchange`, or gives it
    back.  One that is lost, with the loop of its holder say, stands in the
    way until the server could have been tried, and no longer.

    """

    __slots__ = ('endpoint',)

    def __init__(self, endpoint: Health) -> None:
        self.endpoint = endpoint

    def give_back(self) -> None:
        """Let the next caller try the server, unless this was used up."""
        self.endpoint._take_back(self)


class Health:
    """Whether a server is up, as far as the whole process knows.

    :param str name: what it is called in the log
    :param float dead_retry: seconds until one that is down is tried again
    :param float timeout: seconds that a trial may take

    """

    def __init__(self, name: str, dead_retry: float, timeout: float) -> None:
        self.retry_at: float | None = None
        """When it is tried again (:func:`time.monotonic`), None while up."""
        self.down_since: float | None = None
        """When it went down (:func:`time.time`), None while it is up."""
        self.up_since: float | None = None
        """When it came back (:func:`time.time`), None if it never went."""
        self._down_at = 0.0
        """When it went down last (:func:`time.monotonic`), for the clock may
        be set meanwhile."""
        self.reason = ''
        """Why it is down, in :func:`words`; empty while it is up."""
        self._name = name
        self._dead_retry = dead_retry
        self._patience = max(dead_retry, timeout)
        self._trial: Trial | None = None
        self._lock = threading.Lock()
        self._notices = notices.Notices(LOGGER, QUIET)
        self._said = True
        """Whether the log says that it is down, or no more of it."""

    def usable(self) -> bool:
        """Whether to send something to the server, as far as is known.

        It is up, or it is time for its trial, which nobody has.  It may not
        be so any more when it is sent: the trial is for who is first.

        """
        retry_at = self.retry_at
        return retry_at is None or self._is_over(retry_at)

    def _is_over(self, retry_at: float) -> bool:
        """Whether a time has come, or can be none of this clock's."""
        return not 0 < retry_at - clock.now() < self._patience + 1

    def try_again(self) -> Trial | None:
        """Take the trial of the server, if it is down and there is one."""
        if self.down_since is None:
            return None
        now = clock.now()
        with self._lock:
            if self.retry_at is None or not self._is_over(self.retry_at):
                return None
            # The others go on failing fast while this one finds out.
            self.retry_at = now + self._patience
            changes.note()
            self._trial = Trial(self)
            return self._trial

    def try_soon(self) -> None:
        """Let a server that is down be tried by whoever is next."""
        with self._lock:
            if self.retry_at is not None and self._trial is None:
                self.retry_at = min(self.retry_at, clock.now())
                changes.note()

    def doubt(self, reason: BaseException) -> Trial | None:
        """Let nobody use a server that is up until a trial is over.

        :return: the trial, None if it is down, or in doubt already

        """
        with self._lock:
            if self.retry_at is not None:
                return None
            self.retry_at = clock.now() + self._patience
            self.reason = words(reason)
            changes.note()
            self._trial = Trial(self)
            return self._trial

    def _take_back(self, trial: Trial) -> None:
        with self._lock:
            if self._trial is trial:
                self._trial = None
                # One that was only doubted is up.
                is_down = self.down_since is not None
                self.retry_at = clock.now() if is_down else None
                self.reason = self.reason if is_down else ''
                changes.note()

    def mark_down(
        self, reason: BaseException, trial: Trial | None = None
    ) -> None:
        """Let nobody wait for this server until ``dead_retry`` has passed.

        Of one that is down already this is no news, but from its trial.

        """
        with self._lock:
            if self.retry_at is not None and (
                trial is None or self._trial is not trial
            ):
                return
            was_up = self.down_since is None
            self._trial = None
            self.retry_at = clock.now() + self._dead_retry
            changes.note()
            # In words: the error's traceback has all that was to be sent.
            self.reason = words(reason)
            if was_up:
                self.down_since = time.time()
                self._down_at = clock.now()
            told = self.reason
        if was_up or not self._said:
            # What was left out is said when that turns out to last.
            self._said = self._notices.warning(
                'memcached server %s is down: %s',
                self._name,
                str(reason) or type(reason).__name__,
            )
        if was_up:
            self._tell(events.DOWN, told, None)

    def mark_up(self, trial: Trial | None = None) -> None:
        """Let everybody use this server again.

        :param Trial trial: what has shown it; without one it is so anyhow

        """
        with self._lock:
            if trial is not None and self._trial is not trial:
                return
            was_down = self.down_since is not None
            seconds = clock.now() - self._down_at
            if was_down:
                self.up_since = time.time()
                self._came_back()
            self._trial = None
            self.retry_at = None
            changes.note()
            self.down_since = None
            self.reason = ''
        if was_down and self._said:
            LOGGER.info(
                'memcached server %s is up after %.1f seconds',
                self._name,
                seconds,
            )
        if was_down:
            self._tell(events.UP, None, seconds)

    def _tell(
        self, kind: str, reason: str | None, seconds: float | None
    ) -> None:
        """Tell whoever wants to know that it is down, or up."""

    def _came_back(self) -> None:
        """Forget what may be another in its next life."""

    def forget_after_fork(self) -> None:
        """Have a forked child wait for no trial of its parent's."""
        self._lock = threading.Lock()
        if self._trial is not None:
            self._take_back(self._trial)
