"""The way to one server: which batch leaves when, and who brings it back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import batches, executors, turns
from sprockets.clients.memcached.servers import health
from sprockets.clients.memcached.watch import counters

LOGGER = logging.getLogger(__name__)

MAX_WAITING_CALLS = 100_000
"""Calls that may wait for one server; one more fails at once."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Bytes of requests that may wait for one server; likewise."""

LARGE = 1024 * 1024
"""Bytes of a reply that, if they are still to come, a thread waits for."""

GRACE = 0.1
"""Seconds after its deadline that a batch gets to come back by itself."""

Future = asyncio.Future[typing.Any]


class OverloadError(Exception):
    """So much waits for a server that a call was not let in."""


_turns: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop,
    weakref.WeakKeyDictionary[health.Endpoint, turns.Turns],
] = weakref.WeakKeyDictionary()


def _turns_of(
    loop: asyncio.AbstractEventLoop, endpoint: health.Endpoint
) -> turns.Turns:
    """Return what bounds a loop's batches in flight to one server.

    It is one for all the clients of the loop, for they share its connections.

    """
    of_loop = _turns.setdefault(loop, weakref.WeakKeyDictionary())
    if endpoint not in of_loop:
        of_loop[endpoint] = turns.Turns(endpoint.max_connections)
    return of_loop[endpoint]


class Lane:
    """The way of one client's calls to one server, in one loop.

    A batch leaves at the end of the turn of the loop in which its first call
    was made, or when one of those in flight comes back if there are as many
    as there may be.

    Over a connection that is idle the loop itself sends it, and reads what
    comes back.  What may take longer than that is done by a thread: to
    connect, to try again, to send or read much, to inflate, to unpickle much.

    :param Endpoint endpoint: the server
    :param Codec codec: turns bytes into values
    :param float timeout: seconds for a call
    :param Threads threads: where there are threads
    :param Counters counters: count what is done
    :param redirect: is called with the callers of ``get``, the server and
        their deadline when the server could not be reached

    """

    def __init__(
        self,
        endpoint: health.Endpoint,
        codec: values.Codec,
        timeout: float,
        threads: executors.Threads,
        counters: counters.Counters,
        redirect: abc.Callable[
            [list[batches.Waiter], health.Endpoint, float], None
        ],
    ) -> None:
        self.endpoint = endpoint
        self.codec = codec
        self.timeout = timeout
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self._turns = _turns_of(self.loop, endpoint)
        self._threads = threads
        self._in_threads = 0
        self._redirect = redirect
        self._in_flight: set[batches.Batch] = set()
        self._for_threads: collections.deque[batches.Batch] = (
            collections.deque()
        )
        self._begun: set[health.Begun] = set()
        # A loop may end, or be left, in the middle of an exchange.
        weakref.finalize(self, _drop, endpoint, self._begun).atexit = False
        self._dropped: collections.deque[
            tuple[batches.Batch, Exception | None]
        ] = collections.deque()
        self.forming: batches.Batch | None = None
        """The batch that the next call goes into, None if it begins one."""
        self._full: collections.deque[batches.Batch] = collections.deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self.max_calls = batches.MAX_CALLS
        """The calls that go into one batch."""
        self._waiting_calls = 0
        self._waiting_bytes = 0
        self._overloaded = False
        self._mean_size = 0.0
        self._idle: Future | None = None

    # Calls come in

    def read(self, waiter: batches.Waiter) -> None:
        """Let a call wait for the value of a key."""
        batch = self.forming
        if batch is None or batch.calls >= self.max_calls:
            batch = self._next(0)
            if batch is None:
                self._turn_away(waiter)
                return
        if self.endpoint.retry_at is not None:
            # It is the one call that is to try the server.
            batch.trial = True
        batch.calls += 1
        batch.keys[waiter[0]] = None
        batch.waiters.append(waiter)

    def add(self, part: batches.Part, reads: bool = False) -> None:
        """Let a call wait for the replies to its commands.

        :param bool reads: whether they only read, and so come after the rest

        """
        batch = self.forming
        if (
            batch is None
            or batch.calls >= self.max_calls
            or batch.size + part.size > batches.MAX_BYTES
        ):
            batch = self._next(part.size)
            if batch is None:
                error = OverloadError(str(self.endpoint))
                for command in part.commands:
                    command.error = error
                self.counters.fail(time.monotonic(), part.calls)
                self.loop.call_soon(part.back, True)
                return
        if self.endpoint.retry_at is not None:
            batch.trial = True
        batch.calls += part.calls
        batch.size += part.size
        (batch.reading if reads else batch.writing).append(part)

    def _next(self, size: int) -> batches.Batch | None:
        """Begin another batch, unless too much waits already."""
        after = None
        full = self.forming
        if full is not None:
            # No call may overtake a write that was called before it.
            after = full if full.writing else full.after
            self._waiting_calls += full.calls
            self._waiting_bytes += full.size
            self._full.append(full)
            self.forming = None
        if (
            self._waiting_calls >= MAX_WAITING_CALLS
            or self._waiting_bytes + size > MAX_WAITING_BYTES
        ):
            if not self._overloaded:
                self._overloaded = True
                LOGGER.warning(
                    'memcached server %s: %d calls wait, more are refused',
                    self.endpoint,
                    self._waiting_calls,
                )
            return None
        # First: a signal may come in between, and a batch has to leave.
        if not self._scheduled:
            self.loop.call_soon(self._end_of_turn)
            self._scheduled = True
        batch = self.forming = batches.Batch(
            self.endpoint, self.codec, time.monotonic() + self.timeout, after
        )
        return batch

    def _turn_away(self, waiter: batches.Waiter) -> None:
        _, future, default, _, _, observer, otherwise = waiter
        self.counters.fail(time.monotonic())
        self.loop.call_soon(batches.fall_back, future, default, otherwise)
        if observer is not None:
            error = OverloadError(str(self.endpoint))
            batches.tell(observer.over, error, 0, 0, self.endpoint)

    # Batches leave

    def _end_of_turn(self) -> None:
        self._scheduled = False
        try:
            self.leave()
        # A signal's: what has not left must not wait for the next call.
        except BaseException:
            self.loop.call_soon(self.leave)
            raise

    def leave(self) -> None:
        """Send batches on their way, as many as may be in flight."""
        while self._for_threads and self._take_thread():
            self._run(self._for_threads.popleft())
        while self._full or self.forming is not None:
            batch = self._first()
            if self.endpoint.retry_at is not None and not batch.trial:
                # The server went down while the batch waited.
                self._take_out()
                self._drop(batch)
                continue
            if self._timer is None:
                self._watch(batch.deadline)
            if batch.after is not None and not batch.after.returned:
                break
            if not self._turns.take(self):
                if not self._for_threads:
                    self._threads.withdraw(self)
                return
            try:
                begun = batch.begin()
                if begun:
                    self._take_out()
                    self._in_flight.add(batch)
                    self._attend(batch)
            # A signal's: nobody knows what was sent.
            except BaseException as error:
                self._abort(batch, error)
                raise
            if not begun:
                if not self._take_thread():
                    self._turns.give_back()
                    return
                self._take_out()
                self._in_flight.add(batch)
                self._run(batch)
            batch.after = None
        self._turns.withdraw(self)
        if not self._for_threads:
            self._threads.withdraw(self)

    def _abort(self, batch: batches.Batch, error: BaseException) -> None:
        """Give up a batch that the loop was about to send.

        The server is not to blame.

        """
        if batch.in_thread or batch in self._for_threads:
            return
        if batch is self.forming or batch in self._full:
            self._take_out()
        begun = batch.begun
        if begun is not None:
            self.loop.remove_reader(begun.descriptor)
            self._begun.discard(begun)
            self.endpoint.drop(begun)
        self._in_flight.discard(batch)
        self._turns.give_back()
        batch.started = False
        batch.returned = True
        self._give_up(batch, error)

    def _take_out(self) -> None:
        if not self._full:
            self.forming = None
            return
        batch = self._full.popleft()
        self._waiting_calls -= batch.calls
        self._waiting_bytes -= batch.size
        self._overloaded = False

    # The loop has them

    def _attend(self, batch: batches.Batch) -> None:
        """Read the replies to a batch when they come."""
        begun = batch.begun
        assert begun is not None
        self._begun.add(begun)
        if begun.failure is not None:
            self._to_thread(batch)
            return
        self.loop.add_reader(begun.descriptor, self._go_on, batch)

    def _go_on(self, batch: batches.Batch) -> None:
        begun = batch.begun
        assert begun is not None
        try:
            missing = batch.go_on()
        # A signal's: its connection is closed, and others may be let down.
        except BaseException:
            self.loop.remove_reader(begun.descriptor)
            begun.failure = ConnectionAbortedError('interrupted')
            self._to_thread(batch)
            raise
        if 0 < missing <= LARGE:
            return
        self.loop.remove_reader(begun.descriptor)
        if missing == 0:
            self._begun.discard(begun)
            if batch.unpack_light():
                self.come_back(batch)
                return
        self._to_thread(batch)

    # Threads have them

    def _to_thread(self, batch: batches.Batch) -> None:
        """Have a thread do the rest of what the loop has begun."""
        self._for_threads.append(batch)
        if self._take_thread():
            self._run(self._for_threads.popleft())

    def _take_thread(self) -> bool:
        return self._threads.take(self, self._in_threads)

    def _run(self, batch: batches.Batch) -> None:
        self._in_threads += 1
        batch.in_thread = True
        if batch.begun is not None:
            self._begun.discard(batch.begun)
        try:
            self._threads.submit(
                self.endpoint, functools.partial(self._work, batch)
            )
        except RuntimeError as error:
            LOGGER.warning('The executor takes no more: %s', error)
            self._give_up(batch, error)
            self.loop.call_soon(self._come_back_from_thread, batch)

    def _work(self, batch: batches.Batch) -> None:
        """Run a batch, in a thread, and go back to the loop."""
        batch.run()
        try:
            self.loop.call_soon_threadsafe(self._come_back_from_thread, batch)
        except RuntimeError:
            LOGGER.debug('The loop was closed while a batch was in flight')
            self._threads.give_back()

    def _come_back_from_thread(self, batch: batches.Batch) -> None:
        self._in_threads -= 1
        self._threads.give_back()
        self.come_back(batch)

    # Batches come back

    def come_back(self, batch: batches.Batch) -> None:
        """Take a batch back, and let the next one leave."""
        self._in_flight.discard(batch)
        self._turns.give_back()
        batch.returned = True
        batch.settle()
        batch.count(self.counters)
        if batch.value_size is not None:
            self._note_size(batch.value_size)
        if not batch.sent and not batch.abandoned:
            self._redirect_all(batch)
        self.leave()
        self._tell_if_idle()

    def _note_size(self, size: float) -> None:
        """Bound the calls of a batch by the size that values have had."""
        self._mean_size += (size - self._mean_size) / 8
        expected = max(self._mean_size, 1)
        self.max_calls = int(
            min(max(batches.MAX_BYTES / expected, 8), batches.MAX_CALLS)
        )

    def _redirect_all(self, batch: batches.Batch) -> None:
        self._redirect(batch.waiters, self.endpoint, batch.deadline)

    def _drop(
        self, batch: batches.Batch, error: Exception | None = None
    ) -> None:
        """Give up a batch that has not left, not all of them in one turn.

        :param error: why it fails; without one it may go to other servers

        """
        self._dropped.append((batch, error))
        if len(self._dropped) == 1:
            self.loop.call_soon(self._drop_next)

    def _drop_next(self) -> None:
        batch, error = self._dropped.popleft()
        batch.returned = True
        if error is None:
            batch.sent = False
            batch.settle()
            self._redirect_all(batch)
        else:
            self._give_up(batch, error)
        if self._dropped:
            self.loop.call_soon(self._drop_next)
        self._tell_if_idle()

    # Batches that do not come back

    def _give_up(self, batch: batches.Batch, error: BaseException) -> None:
        self.counters.fail(time.monotonic(), batch.calls)
        batch.abandon(error)

    def _watch(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        self._timer = self.loop.call_later(max(left, 0), self._look)

    def _look(self) -> None:
        """Answer for batches whose thread, or whose turn, does not come."""
        self._timer = None
        now = time.monotonic()
        for batch in list(self._in_flight):
            if self._due(batch) <= now:
                self._time_out(batch)
        while (self._full or self.forming is not None) and self._due(
            self._first()
        ) <= now:
            batch = self._first()
            self._take_out()
            self._drop(batch, TimeoutError('no turn came in time'))
        due = [self._due(batch) for batch in self._in_flight]
        if self._full or self.forming is not None:
            due.append(self._due(self._first()))
        if due and min(due) < float('inf'):
            self._watch(min(due))
        self._tell_if_idle()

    def _due(self, batch: batches.Batch) -> float:
        """Return when the loop ends a batch, on the monotonic clock."""
        if batch.finished or batch.abandoned:
            return float('inf')
        if batch.begun is not None and not batch.in_thread:
            return batch.deadline
        return batch.deadline + GRACE

    def _time_out(self, batch: batches.Batch) -> None:
        error = TimeoutError('timed out')
        begun = batch.begun
        if begun is None or batch.in_thread:
            self._give_up(batch, error)
            return
        if begun in self._begun and batch not in self._for_threads:
            # It may be the loop that was late.
            self._go_on(batch)
            if batch.returned or batch.in_thread:
                return
            if batch not in self._for_threads:
                self.loop.remove_reader(begun.descriptor)
        with contextlib.suppress(ValueError):
            self._for_threads.remove(batch)
        self._begun.discard(begun)
        if batch.answered:
            self._give_up(batch, error)
        else:
            begun.link.close()
            begun.failure = begun.failure or error
            # With no time left there is nothing in it that waits.
            batch.run()
        self.come_back(batch)

    def _first(self) -> batches.Batch:
        batch = self._full[0] if self._full else self.forming
        assert batch is not None
        return batch

    # The end

    @property
    def busy(self) -> bool:
        """Whether anybody waits for this server."""
        return bool(
            self._full
            or self._dropped
            or self.forming is not None
            or any(not batch.abandoned for batch in self._in_flight)
        )

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not self.busy:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    async def drain(self) -> None:
        """Wait until everything that was called is answered."""
        while self.busy:
            if self._idle is None:
                self._idle = self.loop.create_future()
            await self._idle

    def end(self) -> None:
        """Leave nothing behind in the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forsake(self) -> None:
        """Let go of what is under way, if its loop is closed.

        One that only rests goes on with it when it runs again.

        """
        if self.loop.is_closed():
            _drop(self.endpoint, self._begun)
            self._threads.withdraw(self)


def _drop(endpoint: health.Endpoint, begun: set[health.Begun]) -> None:
    while begun:
        endpoint.drop(begun.pop())
