"""Calls to one server gathered into batches, a few of them in flight."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
import typing
from collections import abc

from sprockets.clients.memcached import (
    counters,
    executors,
    health,
    observers,
    protocol,
    values,
)

LOGGER = logging.getLogger(__name__)

MAX_CALLS = 1000
"""Calls that travel in one batch at most."""

MAX_BYTES = 512 * 1024
"""Bytes of the requests of one batch, and of its replies as far as earlier
ones let expect; a single call that is larger travels alone."""

MAX_WAITING_CALLS = 100_000
"""Calls that may wait for one server; one more fails at once."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Bytes of requests that may wait for one server; likewise."""

GRACE = 0.1
"""Seconds after its deadline that a batch gets to come back by itself."""

Future = asyncio.Future[typing.Any]


class OverloadError(Exception):
    """So much waits for a server that a call was not let in."""


Waiter = tuple[
    Future,
    typing.Any,
    int | None,
    tuple[health.Endpoint, ...],
    observers.Observer | None,
]
"""A caller of ``get``: its future, its default, the hash that it gave, the
servers that could not be reached, its observer."""


class Otherwise(tuple[typing.Any, ...]):
    """In place of a default: what to do about a read that has no value.

    A function and its arguments, but for the last one, which is the future.

    """

    __slots__ = ()


_MISS = object()


class Part(typing.Protocol):
    """Commands of one call that go to one server together."""

    calls: int
    """How many of a batch's calls it counts for."""
    size: int
    """The bytes of its requests."""

    @property
    def commands(self) -> abc.Sequence[protocol.Command]:
        """The commands, in order."""

    def back(self, sent: bool) -> None:
        """Take note, in the loop, that it is over.

        :param bool sent: False if the server could not be reached

        """


class Chunk:
    """As many commands of one call as go into one batch."""

    __slots__ = ('_back', '_commands', 'calls', 'size')

    def __init__(
        self,
        commands: abc.Sequence[protocol.Command],
        back: abc.Callable[[bool], None],
    ) -> None:
        self._commands = commands
        self.calls = sum([command.count for command in commands])
        self.size = sum([len(command.request) for command in commands])
        self._back = back

    @property
    def commands(self) -> abc.Sequence[protocol.Command]:
        return self._commands

    def back(self, sent: bool) -> None:
        self._back(sent)


def split(
    commands: abc.Iterable[protocol.Command],
) -> abc.Iterator[list[protocol.Command]]:
    """Cut a list of commands into such as go into one batch each."""
    chunk: list[protocol.Command] = []
    calls = size = 0
    for command in commands:
        calls += command.count
        size += len(command.request)
        if chunk and (calls > MAX_CALLS or size > MAX_BYTES):
            yield chunk
            chunk = []
            calls, size = command.count, len(command.request)
        chunk.append(command)
    if chunk:
        yield chunk


def fall_back(future: Future, default: typing.Any) -> None:
    """Give a caller its default, or do what it wants done instead.

    A caller that was cancelled, or has timed out, gets nothing.

    """
    if future.done():
        return
    if type(default) is Otherwise:
        function, *arguments = default
        function(*arguments, future)
    else:
        future.set_result(default)


def tell(whom: abc.Callable[..., None], *what: typing.Any) -> None:
    """Tell one of a batch's callers, so that the others are told too."""
    try:
        whom(*what)
    except Exception:
        LOGGER.exception('A caller could not take its result')


class Batch:
    """Calls that travel together: one write, one read.

    First the writes and the rest, in the order of the calls, then the reads:
    a read that was called after a write sees it.

    """

    __slots__ = (
        '_errors',
        '_hits',
        '_lane',
        '_missed',
        '_misses',
        '_observed',
        '_results',
        '_seconds',
        '_started',
        'abandoned',
        'after',
        'calls',
        'deadline',
        'finished',
        'reading',
        'returned',
        'sent',
        'shared',
        'size',
        'trial',
        'waiting',
        'writing',
    )

    def __init__(self, lane: Lane, after: Batch | None) -> None:
        self._lane = lane
        self._results: list[tuple[Future, typing.Any]] = []
        self._missed: list[tuple[Future, typing.Any]] = []
        self._observed: list[
            tuple[observers.Observer, BaseException | None, int, int]
        ] = []
        self._hits = 0
        self._misses = 0
        self._errors = 0
        self._seconds = 0.0
        self._started = False
        self.finished = False
        """Whether its thread has done its part, and only the loop is late."""
        self.sent = True
        self.after = after
        self.calls = 0
        self.size = 0
        self.deadline = time.monotonic() + lane.timeout
        self.trial = lane.endpoint.retry_at is not None
        self.returned = False
        self.abandoned = False
        self.writing: list[Part] = []
        self.waiting: dict[bytes, list[Waiter]] = {}
        self.reading: list[Part] = []
        self.shared: dict[abc.Hashable, typing.Any] = {}
        """What callers of the same may join until the batch leaves."""

    def run(self) -> None:
        """Exchange with the server, in a thread, and go back to the loop."""
        self._started = True
        try:
            self._exchange()
        # The callers wait in another thread and have to be told.
        except BaseException as error:
            LOGGER.exception('A batch for %s failed', self._lane.endpoint)
            self._fail(error)
        self.finished = True
        try:
            self._lane.loop.call_soon_threadsafe(self._lane.come_back, self)
        except RuntimeError:
            LOGGER.debug('The loop was closed while a batch was in flight')

    def _exchange(self) -> None:
        commands = [c for part in self.writing for c in part.commands]
        get = None
        if self.waiting:
            get = protocol.Get(self.waiting)
            commands.append(get)
        for part in self.reading:
            commands.extend(part.commands)
        began = time.monotonic()
        self.sent = self._lane.endpoint.exchange(commands, self.deadline)
        self._seconds = time.monotonic() - began
        for command in commands:
            if command.error is not None:
                self._errors += 1
        if get is not None and get.error is not None:
            self._errors += sum(map(len, self.waiting.values())) - 1
        for part in self.reading:
            for command in part.commands:
                if not command.answered:
                    continue
                if isinstance(command, protocol.Get):
                    self._hits += len(command.found)
                    self._misses += len(command.keys) - len(command.found)
                elif isinstance(command, protocol.MetaGet):
                    self._hits += part.calls if command.found else 0
                    self._misses += 0 if command.found else part.calls
        if get is None or not self.sent:
            return
        if get.answered and get.error is None:
            self._decode(get.found)
        else:
            self._give_defaults(get.error)

    def _decode(self, found: dict[bytes, protocol.Item]) -> None:
        decode = self._lane.codec.decode_or
        put = self._results.append
        put_missed = self._missed.append
        size = 0
        for key, waiters in self.waiting.items():
            item = found.get(key)
            if item is None:
                value = _MISS
                self._misses += len(waiters)
            else:
                self._hits += len(waiters)
                flags, data, _ = item
                size += len(data)
                value = decode(flags, data, _MISS)
            again = False
            for future, default, _, _, observer in waiters:
                # What can be changed is not shared by its readers.
                if again and flags not in values.SHAREABLE:
                    value = decode(flags, data, _MISS)
                again = item is not None
                hit = value is not _MISS
                if hit:
                    put((future, value))
                else:
                    put_missed((future, default))
                if observer is not None:
                    self._observed.append((observer, None, hit, not hit))
        self._lane.note_size(size / len(self.waiting))

    def _give_defaults(self, error: BaseException | None) -> None:
        for waiters in self.waiting.values():
            for future, default, _, _, observer in waiters:
                self._missed.append((future, default))
                if observer is not None:
                    self._observed.append((observer, error, 0, 0))

    def _fail(self, error: BaseException) -> None:
        for part in self.writing + self.reading:
            for command in part.commands:
                command.error = command.error or error
        self._results.clear()
        self._missed.clear()
        self._observed.clear()
        self.sent = True
        self._give_defaults(error)

    def abandon(self, error: BaseException) -> None:
        """Give every caller, in the loop, the result of a failure.

        The thread may be at work on the batch: what it writes is not touched.

        """
        self.abandoned = True
        self._lane.counters.fail(time.monotonic(), self.calls)
        if self._started:
            # It is with the server, which has had its time.
            self._lane.endpoint.mark_down(error)
        for waiters in self.waiting.values():
            for future, default, _, _, observer in waiters:
                if observer is not None:
                    tell(observer.over, error, 0, 0, self._lane.endpoint)
                fall_back(future, default)
        for part in self.writing + self.reading:
            for command in part.commands:
                command.error = command.error or error
            tell(part.back, True)

    def count(self, counters: counters.Counters) -> None:
        """Add up, in the loop, what the batch did."""
        now = time.monotonic()
        if now >= counters.until:
            counters.turn(now)
        counters.batches += 1
        counters.seconds += self._seconds
        if self.abandoned:
            return
        counters.calls += self.calls
        counters.hits += self._hits
        counters.misses += self._misses
        counters.errors += self._errors

    def settle(self) -> None:
        """Give every caller, in the loop, what the batch brought for it."""
        if self.abandoned:
            return
        for observer, error, hits, misses in self._observed:
            tell(observer.over, error, hits, misses, self._lane.endpoint)
        for future, value in self._results:
            # A caller may have been cancelled, or have timed out.
            if not future.done():
                future.set_result(value)
        for future, default in self._missed:
            fall_back(future, default)
        for part in self.writing:
            tell(part.back, self.sent)
        for part in self.reading:
            tell(part.back, self.sent)


class Lane:
    """The way of one client's calls to one server, in one loop.

    A batch leaves at the end of the turn of the loop in which its first call
    was made, or when one of those in flight comes back if there are as many
    as there may be.

    :param Endpoint endpoint: the server
    :param Codec codec: turns bytes into values
    :param float timeout: seconds for a call
    :param Threads threads: where batches run
    :param Counters counters: count what is done
    :param redirect: is called with a key, its waiters, the server and their
        deadline when the server could not be reached

    """

    def __init__(
        self,
        endpoint: health.Endpoint,
        codec: values.Codec,
        timeout: float,
        threads: executors.Threads,
        counters: counters.Counters,
        redirect: abc.Callable[
            [bytes, list[Waiter], health.Endpoint, float], None
        ],
    ) -> None:
        self.endpoint = endpoint
        self.codec = codec
        self.timeout = timeout
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self._threads = threads
        self._redirect = redirect
        self._in_flight: set[Batch] = set()
        self._dropped: collections.deque[tuple[Batch, Exception | None]] = (
            collections.deque()
        )
        self._forming: Batch | None = None
        self._full: collections.deque[Batch] = collections.deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._max_calls = MAX_CALLS
        self._waiting_calls = 0
        self._waiting_bytes = 0
        self._overloaded = False
        self._mean_size = 0.0
        self._idle: Future | None = None

    # Calls come in

    def read(self, key: bytes, waiter: Waiter) -> None:
        """Let a call wait for the value of a key."""
        batch = self._forming
        if batch is None or batch.calls >= self._max_calls:
            batch = self._next(0)
            if batch is None:
                self._turn_away(waiter)
                return
        if self.endpoint.retry_at is not None:
            # It is the one call that is to try the server.
            batch.trial = True
        batch.calls += 1
        waiting = batch.waiting
        if key in waiting:
            waiting[key].append(waiter)
        else:
            waiting[key] = [waiter]

    def add(self, part: Part, reads: bool = False) -> None:
        """Let a call wait for the replies to its commands.

        :param bool reads: whether they only read, and so come after the rest

        """
        batch = self._forming
        if (
            batch is None
            or batch.calls >= self._max_calls
            or batch.size + part.size > MAX_BYTES
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

    def find(self, what: abc.Hashable) -> typing.Any:
        """Return what another call may join, None if there is nothing.

        The call is counted as one of the batch's.

        """
        batch = self._forming
        if batch is None or batch.calls >= self._max_calls:
            return None
        shared = batch.shared.get(what)
        if shared is not None:
            batch.calls += 1
        return shared

    def share(self, what: abc.Hashable, shared: typing.Any) -> None:
        """Let others join what was added last, until its batch leaves."""
        if self._forming is not None:
            self._forming.shared[what] = shared

    def _next(self, size: int) -> Batch | None:
        """Begin another batch, unless too much waits already."""
        after = None
        full = self._forming
        if full is not None:
            # No call may overtake a write that was called before it.
            after = full if full.writing else full.after
            self._waiting_calls += full.calls
            self._waiting_bytes += full.size
            self._full.append(full)
            self._forming = None
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
        batch = self._forming = Batch(self, after)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._end_of_turn)
        return batch

    def _turn_away(self, waiter: Waiter) -> None:
        future, default, _, _, observer = waiter
        self.counters.fail(time.monotonic())
        self.loop.call_soon(fall_back, future, default)
        if observer is not None:
            error = OverloadError(str(self.endpoint))
            tell(observer.over, error, 0, 0, self.endpoint)

    # Batches leave

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self.leave()

    def leave(self) -> None:
        """Send batches on their way, as many as may be in flight."""
        while self._full or self._forming is not None:
            batch = self._first()
            if self.endpoint.retry_at is not None and not batch.trial:
                # The server went down while the batch waited.
                self._take_out()
                self._drop(batch)
                continue
            if batch.after is not None and not batch.after.returned:
                return
            if not self._threads.take(self, len(self._in_flight)):
                if self._timer is None:
                    self._watch(batch.deadline)
                return
            self._take_out()
            batch.after = None
            self._in_flight.add(batch)
            if self._timer is None:
                self._watch(batch.deadline)
            try:
                self._threads.submit(self.endpoint, batch.run)
            except RuntimeError as error:
                LOGGER.warning('The executor takes no more: %s', error)
                self._threads.give_back()
                self._in_flight.discard(batch)
                batch.returned = True
                batch.abandon(error)

    def _take_out(self) -> None:
        if not self._full:
            self._forming = None
            return
        batch = self._full.popleft()
        self._waiting_calls -= batch.calls
        self._waiting_bytes -= batch.size
        self._overloaded = False

    # Batches come back

    def come_back(self, batch: Batch) -> None:
        """Take a batch back, and let the next one leave."""
        self._in_flight.discard(batch)
        self._threads.give_back()
        batch.returned = True
        batch.settle()
        batch.count(self.counters)
        if not batch.sent and not batch.abandoned:
            self._redirect_all(batch)
        self.leave()
        self._tell_if_idle()

    def note_size(self, size: float) -> None:
        """Bound the calls of a batch by the size that values have had.

        :param float size: the mean number of bytes of a batch's values

        """
        self._mean_size += (size - self._mean_size) / 8
        expected = max(self._mean_size, 1)
        self._max_calls = int(min(max(MAX_BYTES / expected, 8), MAX_CALLS))

    def _redirect_all(self, batch: Batch) -> None:
        for key, waiters in batch.waiting.items():
            self._redirect(key, waiters, self.endpoint, batch.deadline)

    def _drop(self, batch: Batch, error: Exception | None = None) -> None:
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
            batch.abandon(error)
        if self._dropped:
            self.loop.call_soon(self._drop_next)
        self._tell_if_idle()

    # Batches that do not come back

    def _watch(self, deadline: float) -> None:
        left = deadline + GRACE - time.monotonic()
        self._timer = self.loop.call_later(max(left, 0), self._look)

    def _look(self) -> None:
        """Answer for batches whose thread, or whose turn, does not come."""
        self._timer = None
        now = time.monotonic()
        for batch in list(self._in_flight):
            if batch.finished or batch.abandoned:
                continue
            if batch.deadline + GRACE <= now:
                batch.abandon(TimeoutError('timed out'))
        while (
            self._full or self._forming is not None
        ) and self._first().deadline + GRACE <= now:
            batch = self._first()
            self._take_out()
            self._drop(batch, TimeoutError('no thread was free in time'))
        pending = [
            batch.deadline
            for batch in self._in_flight
            if not batch.abandoned and not batch.finished
        ]
        if self._full or self._forming is not None:
            pending.append(self._first().deadline)
        if pending:
            self._watch(min(pending))
        self._tell_if_idle()

    def _first(self) -> Batch:
        batch = self._full[0] if self._full else self._forming
        assert batch is not None
        return batch

    # The end

    @property
    def busy(self) -> bool:
        """Whether anybody waits for this server."""
        return bool(
            self._full
            or self._dropped
            or self._forming is not None
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
