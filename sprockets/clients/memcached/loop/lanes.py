"""The way to one server: which batch leaves when, and who brings it back."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import abc

from sprockets.clients.memcached import notices
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import (
    batches,
    futures,
    halves,
    jobs,
    links,
    threads,
)
from sprockets.clients.memcached.servers import endpoints
from sprockets.clients.memcached.watch import counters
from sprockets.clients.memcached.wire import connection, protocol

LOGGER = notices.harmless(logging.getLogger(__name__))

MAX_WAITING_CALLS = 100_000
"""Calls that may wait for one server; one more fails at once."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Bytes of requests that may wait for one server; likewise."""

GRACE = 0.1
"""Seconds after its deadline that a batch gets to come back by itself."""

STEP = 0.01
"""Seconds by which calls may differ that share a deadline in a batch."""

FEW = 2
"""So many reads at once travel each alone: that takes less than a batch of
two, and the server has one while the loop has the other."""

ALONE = 8
"""After so many batches in a row, and no more reads at once than these few,
the next read does not wait for the end of the turn."""

SMALL = batches.MAX_BYTES / batches.MAX_CALLS
"""Bytes of a value of which as many fit in a batch as there may be calls."""


class OverloadError(Exception):
    """So much waits for a server that a call was not let in."""


class Lane:
    """The way of one client's calls to one server, in one loop.

    A batch leaves at the end of the turn of the loop in which its first call
    was made, or when one of those in flight comes back if there are as many
    as there may be.  Where there are many reads at once, half of them leave
    as soon as they are there, for the server to begin with.  Where there are
    only a few, each leaves alone, and at once.

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
    :param read: what reads values

    """

    def __init__(
        self,
        endpoint: endpoints.Endpoint,
        codec: values.Codec,
        timeout: float,
        threads: threads.Threads,
        counters: counters.Counters,
        redirect: abc.Callable[
            [list[batches.Waiter], endpoints.Endpoint, float], None
        ],
        read: type[protocol.Get] = protocol.Get,
    ) -> None:
        self.endpoint = endpoint
        self._read = read
        self.codec = codec
        self.timeout = timeout
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self._links = links.of(self.loop, endpoint)
        self._links.enter(self)
        self.permits = self._links.permits
        self._threads = threads
        self._redirect = redirect
        self._in_flight: set[batches.Batch] = set()
        self._exchanges = jobs.Crew(
            threads, functools.partial(threads.exchange, endpoint)
        )
        self._values = jobs.Crew(threads.for_values, threads.make_values)
        self._notices = notices.Notices(LOGGER)
        # Lists, for most lanes are idle, and an empty deque takes ten times
        # as much.
        self._dropped: list[tuple[batches.Batch, Exception | None]] = []
        self.forming: batches.Batch | None = None
        """The batch that the next call goes into, None if it begins one or
        joins one that waits."""
        self._held: batches.Batch | None = None
        """What nobody joins any more, though its turn is not over."""
        self._waiting: list[batches.Batch] = []
        self._timer: asyncio.TimerHandle | None = None
        self.max_calls = batches.MAX_CALLS
        """The calls that go into one batch."""
        self._is_full = False
        """Whether so many calls wait that no other is let in."""
        self._mean_size = 0.0
        self._drained: list[futures.Future] = []
        self._in_line = False
        """Whether it may wait for a permit, or for a thread."""
        self._one_reads: list[batches.OneRead] = []
        """What is used again and again for reads that travel alone."""
        self._alone = 0
        """So many batches in a row were of few reads at once."""
        self._halves = halves.Halves()
        self._room = batches.MAX_CALLS
        """With so many calls a batch, or its half, is to leave."""
        self._at_once: list[batches.Batch] = []
        """What was in flight when the first call of this turn came, and all
        batches that were begun since."""

    # Calls come in

    def read(self, waiter: batches.Waiter) -> None:
        """Let a call wait for the value of a key."""
        batch = self.forming
        if batch is not None and batch.calls >= self._room:
            batch = self._make_room(batch)
        if batch is None:
            if (
                self._alone >= ALONE
                and len(self._in_flight) < FEW
                and not self._waiting
                and self.endpoint.retry_at is None
                and self._read_at_once(waiter)
            ):
                return
            batch = self._next(0)
            if batch is None:
                self._turn_away(waiter)
                return
        batch.calls += 1
        batch.waiters.append(waiter)

    def _make_room(self, batch: batches.Batch) -> batches.Batch | None:
        """Send the first half of the reads, now that others come.

        Once in a turn, and not if the server has two batches already or the
        rest would have no connection.  A call that follows in this turn must
        not overtake a write.

        :return: what the next read joins, None if that is another batch

        """
        self._room = self.max_calls
        if batch.calls >= self.max_calls:
            return None
        if (
            not batch.writing
            and batch.after is None
            and batch is self._waiting[0]
            and len(self._in_flight) < 2
            and self.permits.free > 1
            and not self._in_line
            and self.endpoint.retry_at is None
        ):
            self.forming = None
            self.leave()
        return self.forming

    def _read_at_once(self, waiter: batches.Waiter) -> bool:
        """Send a read alone, if that can be.

        It waits for no others: lately there were few.

        """
        batch = (
            self._one_reads.pop()
            if self._one_reads
            else batches.OneRead(self.endpoint, self.codec, self._read)
        )
        if self.permits.take_again(batch.own_permit):
            now = time.monotonic()
            batch.ask(waiter, now + self.timeout)
            if self._timer is None:
                self._watch(batch.deadline)
            try:
                if self._begin(batch, now):
                    return True
                batch.release()
                batch.waiters = []
            # A signal's: nobody knows what was sent.
            except BaseException as error:
                self._abort(batch, error)
                raise
        self._one_reads.append(batch)
        return False

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
                self.counters.fail(time.monotonic(), part.calls, part.steps)
                self.loop.call_soon(part.back, True)
                return
        batch.calls += part.calls
        batch.size += part.size
        batch.steps += part.steps
        (batch.reading if reads else batch.writing).append(part)
        for command in part.commands:
            if command.writes_on:
                # No call that comes later may be done before that.
                batch.become(batches.FULL)
                self.forming = None
                self._held = batch
                break

    def _next(self, size: int) -> batches.Batch | None:
        """Return a batch to join, unless too much waits already."""
        if self._is_full:
            return None
        deadline = time.monotonic() + self.timeout
        # First: a signal may come in between, and a batch has to leave.
        self.loop.call_soon(self._end_of_turn)
        if self._timer is None:
            self._watch(deadline)
        last = self._waiting[-1] if self._waiting else None
        after = None
        if last is not None:
            if (
                last.state is batches.GATHERING
                and last is not self.forming
                and last.calls < self.max_calls
                and last.size + size <= batches.MAX_BYTES
            ):
                if deadline - last.deadline > STEP:
                    last.prolong(deadline)
                self.forming = last
                return last
            # No call may overtake a write that was called before it.
            after = last if last.writing else last.after
            if last.state is batches.GATHERING:
                last.become(batches.FULL)
            self.forming = None
            if self._is_overloaded(size):
                return None
        batch = batches.Batch(
            self.endpoint, self.codec, deadline, after, self._read
        )
        self._waiting.append(batch)
        if not self._at_once:
            self._at_once.extend(self._in_flight)
        self._at_once.append(batch)
        self.forming = batch
        return batch

    def _is_overloaded(self, size: int) -> bool:
        """Whether so much waits that a call is not let in."""
        calls = sum([batch.calls for batch in self._waiting])
        bytes_ = sum([batch.size for batch in self._waiting])
        if calls < MAX_WAITING_CALLS and bytes_ + size <= MAX_WAITING_BYTES:
            return False
        self._is_full = calls >= MAX_WAITING_CALLS
        self._notices.warning(
            'memcached server %s: %d calls wait, more are refused',
            self.endpoint,
            calls,
        )
        return True

    def _turn_away(self, waiter: batches.Waiter) -> None:
        _, future, default, otherwise, extras = waiter
        self.counters.fail(time.monotonic())
        self.loop.call_soon(batches.fall_back, future, default, otherwise)
        if extras is not None:
            error = OverloadError(str(self.endpoint))
            extras.tell(error, 0, 0, self.endpoint)

    def _send_all_on(self, batch: batches.Batch) -> None:
        """Send calls to other servers that could not reach this one."""
        try:
            for waiters, deadline in batch.by_deadline():
                self._redirect(waiters, self.endpoint, deadline)
        # A signal's: whoever was sent on already may be so twice.
        except BaseException:
            self.loop.call_soon(self._send_all_on, batch)
            raise

    # Batches leave

    def _end_of_turn(self) -> None:
        # Who joins it later has a deadline of its own.
        self.forming = self._held = None
        at_once = self._at_once
        if at_once:
            if self._halves.size or at_once[-1].calls > halves.LEAST:
                # What is back already counts too: some loops read before a
                # turn ends.  Where there is a write as well, they do not leave
                # early anyway.
                self._halves.note(
                    sum([batch.calls for batch in at_once if batch.only_gets])
                )
            at_once.clear()
        self._room = min(self._halves.size or self.max_calls, self.max_calls)
        try:
            self.leave()
        # A signal's: what has not left must not wait for the next call.
        except BaseException:
            self.loop.call_soon(self.leave)
            raise

    def leave(self) -> None:
        """Send batches on their way, as many as may be in flight."""
        if self._exchanges.waiting or self._values.waiting:
            self._in_line = True
            self._exchanges.start(self)
            self._values.start(self)
        while self._waiting:
            batch = self._waiting[0]
            if not batch.calls:
                # A signal has kept its first call from joining it.
                self._take_out(batch)
                batch.drop_exchange()
                batch.become(batches.OVER)
                continue
            if self.endpoint.retry_at is not None and batch.trial is None:
                batch.trial = self.endpoint.try_again()
                # It may have come up meanwhile.
                if batch.trial is None and self.endpoint.retry_at is not None:
                    self._drop(batch)
                    continue
            if batch.after is not None and not batch.after.is_back:
                break
            if batch.writing and batch in (self.forming, self._held):
                # What is called behind a write in this turn travels with it,
                # or behind it.
                return
            try:
                if not self._send(batch):
                    self._in_line = True
                    return
            # A signal's: nobody knows what was sent.
            except BaseException as error:
                self._abort(batch, error)
                raise
            batch.after = None
        if self._in_line:
            self._leave_line()

    def _send(self, batch: batches.Batch) -> bool:
        """Send a batch on its way.

        :return: False if there is no permit for it, or no thread

        """
        if not self.permits.take(self, batch):
            return False
        if (
            batch.trial is None
            and batch.size < connection.WINDOW
            and self._begin(batch, time.monotonic())
        ):
            return True
        job = self._exchange_of(batch)
        try:
            if not self._exchanges.take(self, job):
                batch.release()
                return False
            self._links.lend(self.loop)
            self._in_flight.add(batch)
            self._take_out(batch)
            batch.become(batches.IN_THREAD)
            self._exchanges.run(self, job)
        # A signal's: nobody may know of the job.
        except BaseException:
            job.release()
            raise
        return True

    def _exchange_of(self, batch: batches.Batch) -> jobs.Job[batches.Batch]:
        return jobs.Job(
            self, self._exchanges, batch, batch.exchange, self._exchanged
        )

    def _leave_line(self) -> None:
        """Wait for no permit that there is no use for."""
        self.permits.withdraw(self)
        if not self._exchanges.waiting and not self._values.waiting:
            self._in_line = False
            self._threads.withdraw(self)

    def _abort(self, batch: batches.Batch, error: BaseException) -> None:
        """Give up a batch that the loop was about to send.

        The server is not to blame.

        """
        if batch.job is None:
            self._take_out(batch)
            self._give_up(batch, error)

    def _take_out(self, batch: batches.Batch) -> None:
        """Take a batch from those that wait."""
        self._is_full = False
        if self._waiting and self._waiting[0] is batch:
            del self._waiting[0]
        elif batch in self._waiting:
            self._waiting.remove(batch)
        if batch is self.forming:
            self.forming = None

    # The loop has them

    def _begin(self, batch: batches.Batch, now: float) -> bool:
        """Send a batch on a connection that is idle, if there is one."""
        link = self._links.take(self.endpoint, self.loop, now)
        if link is None:
            return False
        try:
            if not batch.prepare():
                self._links.put_back(link, self.loop)
                return False
            link.lane = self
            link.exchange = batch
            is_sent = batch.begin(link, now)
            self._in_flight.add(batch)
        # A signal's: nobody knows what was sent.
        except BaseException:
            batch.link = None
            self._links.drop(link, self.loop)
            raise
        if self._waiting:
            self._take_out(batch)
        if not is_sent:
            self._to_thread(batch)
        return True

    def go_on(self, batch: batches.Batch) -> None:
        """Read what has come for a batch, without waiting."""
        link = batch.link
        assert link is not None
        loan = link.loan
        try:
            missing = loan.link.go_on(loan.commands)
        except Exception as error:  # noqa: BLE001
            loan.failure = error
            self._to_thread(batch)
            return
        # A signal's: its connection is closed, and others may be let down.
        except BaseException:
            loan.failure = ConnectionAbortedError('interrupted')
            self._to_thread(batch)
            raise
        if missing:
            if missing > connection.PATIENCE:
                self._to_thread(batch)
            return
        batch.link = None
        try:
            self._links.put_back(link, self.loop)
            now = time.monotonic()
            batch.seconds = now - loan.began
            if isinstance(batch, batches.OneRead):
                if self._give_at_once(batch, now):
                    return
            elif (
                batch.calls + len(self._in_flight) <= FEW + 1
                and batch.only_gets
            ):
                self._alone += 1
            else:
                self._alone = 0
            for command in loan.commands:
                if command.error is not None:
                    self.endpoint.log_refused((command,))
        # A signal's: it has come all the same.
        except BaseException:
            self._one_reads.clear()
            self.loop.call_soon(self._answered, batch)
            raise
        self._answered(batch)

    def _give_at_once(self, batch: batches.OneRead, now: float) -> bool:
        """Give a caller what came, if it is a plain value or a miss."""
        if not batch.give_plain(self.counters, now):
            return False
        self.permits.take_back(batch.own_permit)
        self._in_flight.discard(batch)
        batch.become(batches.OVER)
        self._one_reads.append(batch)
        if self._waiting or self._in_line or len(self._in_flight) >= FEW:
            # There are others to travel with.
            self._alone = 0
            self.leave()
        if self._drained:
            self._tell_if_idle()
        return True

    # Threads have them

    def _to_thread(self, batch: batches.Batch) -> None:
        """Have a thread do the rest of what the loop has begun."""
        self._stop_reading(batch)
        batch.become(batches.IN_THREAD)
        self._exchanges.put(self, self._exchange_of(batch))

    def _stop_reading(self, batch: batches.Batch) -> None:
        link = batch.link
        assert link is not None
        batch.loan, batch.link = link.loan, None
        self._links.give_away(link, self.loop)

    def _exchanged(self, batch: batches.Batch) -> None:
        """Take a batch back whose exchange a thread has ended."""
        if batch.state is batches.GIVEN_UP:
            batch.release()
            self._over(batch)
        else:
            self._answered(batch)

    def refused(self, batch: batches.Batch, error: BaseException) -> None:
        """Give up a batch for which no thread is to be had."""
        self._notices.warning(
            'memcached server %s: no thread takes its calls: %s',
            self.endpoint,
            str(error) or type(error).__name__,
        )
        self._give_up(batch, threads.NoThreadError(str(error)))

    # Batches come back

    def _answered(self, batch: batches.Batch) -> None:
        """Give what came to those who wait, and let the next batch leave."""
        if batch.state is batches.OVER:
            # A signal came when it had just been.
            return
        if batch.permit is not None:
            batch.permit.release()
        try:
            is_over = batch.give_light()
        # A signal's: those who are still to be told must not be left out.
        except BaseException as error:
            self.loop.call_soon(self._give_up, batch, error)
            raise
        if is_over:
            self._over(batch)
        else:
            batch.become(batches.ANSWERED)
            job = jobs.Job(
                self, self._values, batch, batch.make_values, self._made
            )
            self._values.put(self, job)
            self.leave()

    def _made(self, batch: batches.Batch) -> None:
        """Take a batch back whose values a thread has made."""
        if batch.state is batches.ANSWERED:
            batch.give_heavy()
        self._over(batch)

    def _over(self, batch: batches.Batch) -> None:
        """Take note that nothing is left to be done for a batch."""
        is_given_up = batch.state is batches.GIVEN_UP
        if not is_given_up:
            batch.count(self.counters)
        batch.become(batches.OVER)
        self._in_flight.discard(batch)
        size = batch.value_size
        if size is not None and (size > SMALL or self._mean_size > SMALL):
            self._note_size(size)
        if not batch.reached and not is_given_up:
            self._send_all_on(batch)
        if (
            self._waiting
            or self._in_line
            or self._exchanges.waiting
            or self._values.waiting
        ):
            self.leave()
        if self._drained:
            self._tell_if_idle()

    def _note_size(self, size: float) -> None:
        """Bound the calls of a batch by the size that values have had."""
        self._mean_size += (size - self._mean_size) / 8
        expected = max(self._mean_size, 1)
        self.max_calls = int(
            min(max(batches.MAX_BYTES / expected, 8), batches.MAX_CALLS)
        )
        self._room = min(self._room, self.max_calls)

    # Batches that do not come back

    def _give_up(self, batch: batches.Batch, error: BaseException) -> None:
        """End a batch that nobody works at, with the result of a failure."""
        if batch.state is batches.OVER:
            return
        if batch.link is not None:
            self._stop_reading(batch)
        batch.drop_exchange()
        batch.release()
        batch.count_failed(self.counters)
        batch.fail(error)
        batch.become(batches.OVER)
        self._in_flight.discard(batch)
        self.leave()
        self._tell_if_idle()

    def _drop(
        self, batch: batches.Batch, error: Exception | None = None
    ) -> None:
        """Give up a batch that has not left, not all of them in one turn.

        :param error: why it fails; without one it may go to other servers

        """
        self._take_out(batch)
        self._dropped.append((batch, error))
        if len(self._dropped) == 1:
            self.loop.call_soon(self._drop_next)

    def _drop_next(self) -> None:
        batch, error = self._dropped[0]
        try:
            if error is None:
                batch.drop_exchange()
                batch.turn_back()
                batch.become(batches.OVER)
                self._send_all_on(batch)
            else:
                self._give_up(batch, error)
        except BaseException as interrupted:
            self.loop.call_soon(self._give_up, batch, interrupted)
            raise
        # Whatever comes in between: the others are waiting too.
        finally:
            del self._dropped[0]
            if self._dropped:
                self.loop.call_soon(self._drop_next)
            self._tell_if_idle()

    # Time

    def _watch(self, due: float) -> None:
        left = due - time.monotonic()
        self._timer = self.loop.call_later(max(left, 0), self._look)

    def _look(self) -> None:
        """End what is over by its deadline."""
        now = time.monotonic()
        error = TimeoutError('timed out')
        try:
            self._timer = None
            for batch in list(self._waiting):
                batch.expire(now, error, self.counters)
                self._is_full = False
                if batch.deadline <= now:
                    self._drop(batch, TimeoutError('no turn came in time'))
            for batch in list(self._in_flight):
                batch.expire(now, error, self.counters)
                if self._ends_at(batch) <= now:
                    self._time_out(batch, error)
        # Whatever comes in between: the others have deadlines too.
        finally:
            due = [min(b.due, b.deadline) for b in self._waiting]
            due += [min(b.due, self._ends_at(b)) for b in self._in_flight]
            if due and min(due) < float('inf'):
                self._watch(min(due))
        self._tell_if_idle()

    def _ends_at(self, batch: batches.Batch) -> float:
        """Return when the loop ends a batch, on the monotonic clock."""
        if batch.state is batches.IN_LOOP:
            return batch.deadline
        if batch.state is batches.GIVEN_UP:
            return float('inf')
        return batch.deadline + GRACE

    def _time_out(self, batch: batches.Batch, error: TimeoutError) -> None:
        if batch.state is batches.IN_LOOP and batch.link is not None:
            # It may be the loop that was late.
            self.go_on(batch)
            if batch.state is not batches.IN_LOOP:
                return
            self._stop_reading(batch)
            loan = batch.loan
            assert loan is not None
            loan.link.close()
            loan.failure = error
            # With no time left there is nothing in it that waits.
            batch.exchange()
            self._answered(batch)
        elif batch.job is None or batch.job.take_back():
            self._give_up(batch, error)
        elif batch.job.is_over:
            # Only the loop is late.
            batch.job.end()
        else:
            batch.count_failed(self.counters)
            batch.fail(error)
            batch.become(batches.GIVEN_UP)

    # The end

    @property
    def busy(self) -> bool:
        """Whether anybody waits for this server."""
        return bool(
            self._waiting
            or self._dropped
            or any(
                batch.state is not batches.GIVEN_UP
                for batch in self._in_flight
            )
        )

    def _tell_if_idle(self) -> None:
        if self._drained and not self.busy:
            drained, self._drained = self._drained, []
            for future in drained:
                if not future.done():
                    future.set_result(None)

    async def drain(self) -> None:
        """Wait until everything that was called is answered."""
        while self.busy:
            # One for each who waits: one may be cancelled.
            future = self.loop.create_future()
            self._drained.append(future)
            await future

    def end(self) -> None:
        """Leave nothing behind in the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._links.let_go(self, self.loop)

    def forsake(self) -> None:
        """Let go of what is under way, if its loop is closed.

        One that only rests goes on with it when it runs again.

        """
        if not self.loop.is_closed():
            return
        for batch in (*self._waiting, *self._in_flight):
            if batch.job is None or batch.job.take_back():
                if batch.link is not None:
                    self._stop_reading(batch)
                batch.drop_exchange()
        self._links.let_go(self, self.loop)
        self._threads.withdraw(self)
