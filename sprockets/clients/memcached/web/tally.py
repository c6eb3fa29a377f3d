"""What the calls of one request did, and how long it waited for them."""

from __future__ import annotations

import logging
import time
import typing

from sprockets.clients.memcached import notices
from sprockets.clients.memcached.servers import endpoints
from sprockets.clients.memcached.watch import observers

LOGGER = notices.harmless(logging.getLogger(__name__))

NOTICES = notices.Notices(LOGGER)


class Hooks(typing.Protocol):
    """Who is told about each call: a handler."""

    def on_memcached_timing(self, command: str, duration: float) -> None: ...

    def on_memcached_error(
        self, command: str, error: BaseException
    ) -> None: ...

    def count_memcached(self, hits: int, misses: int) -> None: ...


class Tally:
    """The counts and times of a request's calls.

    :ivar int calls: the calls that are over
    :ivar int hits: the values that were read
    :ivar int misses: the keys that were asked for and had no value
    :ivar int errors: the calls that failed, which look like misses
    :ivar float waited: seconds in which at least one call was under way
    :ivar dict durations: seconds of all calls, by the name of the method

    :param Hooks hooks: is told about each call

    """

    def __init__(self, hooks: Hooks) -> None:
        self.calls = 0
        self.hits = 0
        self.misses = 0
        self.errors = 0
        self.waited = 0.0
        self.durations: dict[str, float] = {}
        self._hooks = hooks
        self._under_way = 0
        self._since = 0.0

    def observe(self, command: str, keys: observers.Keys) -> Observation:
        """Take note that a call begins, and return who sees it through."""
        now = time.perf_counter()
        if self._under_way == 0:
            self._since = now
        self._under_way += 1
        return Observation(self, command, now)

    def end(
        self,
        command: str,
        began: float,
        error: BaseException | None,
        hits: int,
        misses: int,
    ) -> None:
        """Take note that a call is over, and tell the hooks."""
        now = time.perf_counter()
        self._under_way -= 1
        if self._under_way == 0:
            self.waited += now - self._since
        duration = now - began
        self.calls += 1
        self.hits += hits
        self.misses += misses
        self.durations[command] = self.durations.get(command, 0.0) + duration
        try:
            if error is not None:
                self.errors += 1
                self._hooks.on_memcached_error(command, error)
            self._hooks.on_memcached_timing(command, duration)
            self._hooks.count_memcached(hits, misses)
        # Other callers' results come after this one's: they must arrive.
        except Exception as error:  # noqa: BLE001
            NOTICES.error(
                'A hook for memcached %s failed',
                command,
                error=error,
                about=(type(self._hooks), command),
            )

    def server_timing(self) -> str:
        """Return the entry for the ``Server-Timing`` header.

        ``dur`` is in milliseconds (W3C Server Timing).

        """
        return (
            f'memcached;dur={self.waited * 1000:.3f};'
            f'desc="hits={self.hits}, misses={self.misses},'
            f' errors={self.errors}"'
        )


class Observation:
    """Sees one call through."""

    __slots__ = ('_began', '_command', '_tally')

    def __init__(self, tally: Tally, command: str, began: float) -> None:
        self._tally = tally
        self._command = command
        self._began = began

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Take note, in the loop, that the call is over."""
        self._tally.end(self._command, self._began, error, hits, misses)
