"""Calls to one server gathered into batches, which travel together."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import typing
from collections import abc

from sprockets.clients.memcached import notices
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import futures, links, permits
from sprockets.clients.memcached.servers import (
    connections,
    endpoints,
    health,
    journey,
)
from sprockets.clients.memcached.watch import counters, observers
from sprockets.clients.memcached.wire import protocol

LOGGER = notices.harmless(logging.getLogger(__name__))

NOTICES = notices.Notices(LOGGER)

MAX_CALLS = 1000
"""Calls that travel in one batch at most."""

MAX_BYTES = 512 * 1024
"""Bytes of the requests of one batch, and of its replies as far as earlier
ones let expect; a single call that is larger travels alone."""

GATHERING = 'gathering'
"""Calls join it."""
FULL = 'full'
"""It waits to leave, and nobody joins any more."""
IN_LOOP = 'in the loop'
"""The loop has begun its exchange, and reads what comes."""
IN_THREAD = 'in a thread'
"""A thread does its exchange, or the rest of it, or is to do so."""
ANSWERED = 'answered'
"""Its exchange is over; a thread makes what is left of its values."""
GIVEN_UP = 'given up'
"""Its callers have been answered, but a thread still has it."""
OVER = 'over'
"""Nobody has anything to do with it any more."""

TRANSITIONS: dict[str, frozenset[str]] = {
    GATHERING: frozenset((FULL, IN_LOOP, IN_THREAD, OVER)),
    FULL: frozenset((IN_LOOP, IN_THREAD, OVER)),
    IN_LOOP: frozenset((IN_THREAD, ANSWERED, OVER)),
    IN_THREAD: frozenset((ANSWERED, GIVEN_UP, OVER)),
    ANSWERED: frozenset((GIVEN_UP, OVER)),
    GIVEN_UP: frozenset((OVER,)),
    OVER: frozenset(),
}
"""The states of a batch, and those that follow each.  Only the loop moves it
from one to another."""

Otherwise = abc.Callable[..., None]
"""What to do about a read that has no value."""


class Extras(typing.NamedTuple):
    """What some callers of ``get`` have besides."""

    hashed: int | None
    """The hash that came with the key."""
    way: journey.Journey | None
    """Its journey, if it has been to a server in vain."""
    observer: observers.Observer | None

    def tell(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None,
    ) -> None:
        """Tell the observer, if there is one, that the call is over."""
        if self.observer is not None:
            tell(self.observer.over, error, hits, misses, endpoint)


Waiter = tuple[
    bytes, futures.Receiver, typing.Any, Otherwise | None, Extras | None
]
"""A caller of ``get``: its key; its future, or what gives to it; its default;
what to do without a value, with the default and the future as arguments, None
to give the default; and what few have besides."""


class Part(typing.Protocol):
    """Commands of one call that go to one server together."""

    calls: int
    """How many of a batch's calls it counts for."""
    size: int
    """The bytes of its requests."""
    steps: int
    """How many of these calls are steps of one that counts itself."""

    @property
    def commands(self) -> abc.Sequence[protocol.Command]:
        """The commands, in order."""

    def weigh(self) -> int:
        """Return what it takes to :meth:`unpack`, in bytes to deserialize."""

    def unpack(self) -> None:
        """Make values of what came; in a thread, if that is much."""

    def back(self, sent: bool) -> None:
        """Take note, in the loop, that it is over; once is enough.

        :param bool sent: False if the server could not be reached

        """

    def fail(self, error: BaseException) -> None:
        """Take note, in the loop, that nothing more will come of it.

        What would take long to :meth:`unpack` is left, for its time is over.

        """


def fall_back(
    future: futures.Receiver,
    default: typing.Any,
    otherwise: Otherwise | None = None,
) -> None:
    """Give a caller its default, or do what it wants done instead.

    A caller that was cancelled, or has timed out, gets nothing.

    """
    if future.done():
        return
    if otherwise is None:
        future.set_result(default)
        return
    try:
        otherwise(default, future)
    # So that the others are told too.
    except Exception as error:  # noqa: BLE001
        futures.fail(future, error)


def tell(whom: abc.Callable[..., None], *what: typing.Any) -> None:
    """Tell one of a batch's callers, so that the others are told too."""
    try:
        whom(*what)
    except Exception as error:  # noqa: BLE001
        _note_untaken(error)


def _note_untaken(error: Exception) -> None:
    NOTICES.error('A caller could not take its result', error=error)


class Job(typing.Protocol):
    """Something that a thread is to do for a batch, as far as it matters."""

    @property
    def is_over(self) -> bool:
        """Whether it is done."""

    def take_back(self) -> bool:
        """Whether no thread has it, nor ever will."""

    def end(self) -> None:
        """Take note, in the loop, that it is done."""


class Joined(typing.NamedTuple):
    """Those who joined a batch by some moment, and until when they wait."""

    deadline: float
    waiters: int
    writing: int
    reading: int


class Batch:
    """Calls that travel together: one write, one read.

    First the writes and the rest, in the order of the calls, then the reads:
    a read that was called after a write sees it.

    :param Endpoint endpoint: the server
    :param Codec codec: turns bytes into values
    :param float deadline: until when those wait who join it now, on
        :func:`time.monotonic`'s clock
    :param Batch after: which has to be back before this one leaves, None if
        there is none
    :param read: what reads values

    """

    __slots__ = (
        '_bytes',
        '_codec',
        '_commands',
        '_early',
        '_errors',
        '_get',
        '_heavy_parts',
        '_hits',
        '_misses',
        '_read',
        '_some_expired',
        '_values',
        'after',
        'calls',
        'deadline',
        'endpoint',
        'error',
        'job',
        'keys',
        'link',
        'loan',
        'permit',
        'reached',
        'reading',
        'seconds',
        'size',
        'state',
        'steps',
        'trial',
        'waiters',
        'writing',
    )

    def __init__(
        self,
        endpoint: endpoints.Endpoint,
        codec: values.Codec,
        deadline: float,
        after: Batch | None,
        read: type[protocol.Get] = protocol.Get,
    ) -> None:
        self.endpoint = endpoint
        self._codec = codec
        self._read = read
        self._commands: abc.Sequence[protocol.Command] = ()
        self._get: protocol.Get | None = None
        self._values: abc.Sequence[tuple[Waiter, typing.Any]] = ()
        self._heavy_parts: abc.Sequence[Part] = ()
        self._early: abc.Sequence[Joined] = ()
        self._some_expired = False
        """Whether some of its callers were answered before the others."""
        self._hits = self._misses = self._errors = self._bytes = 0
        self.seconds = 0.0
        """What its exchange took."""
        self.state = GATHERING
        self.deadline = deadline
        """Until when the last of its callers waits."""
        self.after = after
        self.calls = self.size = self.steps = 0
        """How many there are, the bytes of their requests, but for the keys
        that are read, and how many of them are steps of a call."""
        self.writing: list[Part] = []
        self.reading: list[Part] = []
        self.keys: abc.Collection[bytes] = ()
        """The keys that :attr:`waiters` ask for, once it has left."""
        self.waiters: list[Waiter] = []
        self.permit: permits.Permit | None = None
        """Leave to be with the server, until the connection is idle again."""
        self.trial: health.Trial | None = None
        """What lets it try a server that is down."""
        self.link: links.Link | None = None
        """What the loop does its exchange on, while it does."""
        self.loan: connections.Loan | None = None
        """What the loop has begun, and a thread is to end."""
        self.job: Job | None = None
        """What a thread is to do for it."""
        self.reached = True
        """Whether it came to the server, so far as is known."""
        self.error: BaseException | None = None
        """Why nothing came of it, if that is known."""

    @property
    def value_size(self) -> float | None:
        """The mean number of bytes of its values, None if it is unknown."""
        given = self._hits + self._misses
        return self._bytes / given if given else None

    def become(self, state: str) -> None:
        """Go over to another state.

        :raises RuntimeError: if none leads there; see :data:`TRANSITIONS`

        """
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f'a batch {self.state} cannot be {state}')
        self.state = state

    def release(self) -> None:
        """Let another batch be with the server."""
        if self.permit is not None:
            self.permit.release()

    @property
    def is_back(self) -> bool:
        """Whether its writes are done, as far as anybody will know."""
        return self.state in (ANSWERED, GIVEN_UP, OVER)

    @property
    def only_gets(self) -> bool:
        """Whether all of its calls are ``get``."""
        return not self.writing and not self.reading

    # Who waits, and until when

    def prolong(self, deadline: float) -> None:
        """Let those who join from now on wait longer than those before."""
        joined = Joined(
            self.deadline,
            len(self.waiters),
            len(self.writing),
            len(self.reading),
        )
        self._early = (*self._early, joined)
        self.deadline = deadline

    @property
    def due(self) -> float:
        """When the time of the first of its callers is over.

        Infinite where that is none but the last.

        """
        return self._early[0].deadline if self._early else float('inf')

    def by_deadline(self) -> abc.Iterator[tuple[list[Waiter], float]]:
        """Yield those who wait for a value, and until when."""
        before = 0
        for joined in self._early:
            yield self.waiters[before : joined.waiters], joined.deadline
            before = joined.waiters
        yield self.waiters[before:], self.deadline

    def expire(
        self, now: float, error: BaseException, counters: counters.Counters
    ) -> None:
        """Answer those whose time is over, while others still wait.

        They are counted here, and not with the batch.

        """
        while self._early and self._early[0].deadline <= now:
            _, waiters, writing, reading = self._early[0]
            self._some_expired = True
            over = self.waiters[:waiters]
            parts = self.writing[:writing] + self.reading[:reading]
            # New lists: a thread may be reading the old ones.
            self.waiters = self.waiters[waiters:]
            self.writing = self.writing[writing:]
            self.reading = self.reading[reading:]
            self._early = [
                Joined(
                    joined.deadline,
                    joined.waiters - waiters,
                    joined.writing - writing,
                    joined.reading - reading,
                )
                for joined in self._early[1:]
            ]
            calls = waiters + sum([part.calls for part in parts])
            steps = sum([part.steps for part in parts])
            self.calls -= calls
            self.steps -= steps
            counters.fail(now, calls, steps)
            _give_defaults(over, self.endpoint, error)
            for part in parts:
                tell(part.fail, error)

    # The exchange

    def prepare(self) -> bool:
        """Gather what is to be sent.

        :return: whether it may be sent on a connection that there is

        """
        self._commands = commands = self._gather()
        endpoint = self.endpoint
        if endpoint.single_until:
            endpoint.divide(commands)
        life = endpoint.incarnation
        # Not with all(): for one command that takes a generator.
        for command in commands:
            if command.is_of_a_life and not command.meant_for(life):
                return False
        return True

    def begin(self, link: links.Link, now: float) -> bool:
        """Set out on a connection, in the loop.

        :param float now: the time, on :func:`time.monotonic`'s clock
        :return: whether it is to wait for the replies; if not, a thread has
            to go on

        """
        self.link = link
        loan = link.loan
        loan.commands = self._commands
        loan.idle_since, loan.began = loan.began, now
        self.become(IN_LOOP)
        try:
            return loan.link.begin(self._commands)
        except OSError as error:
            loan.failure = error
            return False

    def exchange(self) -> None:
        """Bring the exchange to an end, however long it takes."""
        loan, trial = self.loan, self.trial
        self.loan = self.trial = None
        began = time.monotonic() if loan is None else loan.began
        try:
            if loan is None:
                self._commands = self._gather()
            self.reached = self.endpoint.exchange(
                self._commands, self.deadline, loan, trial
            )
        # The callers wait in another thread and have to be told.
        except BaseException as error:  # noqa: BLE001
            NOTICES.error(
                'A batch for %s failed',
                self.endpoint,
                error=error,
                about=str(self.endpoint),
            )
            self.error = error
        self.seconds = time.monotonic() - began

    def drop_exchange(self) -> None:
        """End what is begun, and let another call try the server."""
        loan, trial = self.loan, self.trial
        self.loan = self.trial = None
        if loan is not None:
            loan.drop()
        if trial is not None:
            trial.give_back()

    def _gather(self) -> list[protocol.Command]:
        if not self.writing and not self.reading:
            self._get = self._read(self._keys())
            return [self._get]
        commands = [c for part in self.writing for c in part.commands]
        if self.waiters:
            self._get = self._read(self._keys())
            commands.append(self._get)
        for part in self.reading:
            commands.extend(part.commands)
        return commands

    def _keys(self) -> dict[bytes, None]:
        self.keys = keys = {waiter[0]: None for waiter in self.waiters}
        return keys

    # What it brought

    def give_light(self) -> bool:
        """Give callers what came for them, in the loop.

        :return: False if there is more to do than is for the loop; whoever
            has no value yet is left to :meth:`make_values`

        """
        if self.error is not None:
            self.fail(self.error)
            return True
        get = self._get
        left: list[Waiter] = []
        heavy = 0
        if get is None:
            pass
        elif get.answered and get.error is None:
            if not self._give_in_order(get):
                left, heavy = self._give_values(get, self.waiters)
        elif get.answered and len(get.refused_keys) < len(self.keys):
            refused = get.refused_keys
            told = [w for w in self.waiters if w[0] in refused]
            self._errors += len(told) - 1
            _give_defaults(told, self.endpoint, get.error)
            left, heavy = self._give_values(
                get, [w for w in self.waiters if w[0] not in refused]
            )
        else:
            self._errors += len(self.waiters)
            if self.reached:
                _give_defaults(self.waiters, self.endpoint, get.error)
        if self.writing or self.reading:
            self._count_parts()
            self._give_parts(heavy)
        if left or self._early or self._heavy_parts:
            if self.reached:
                self._keep(left)
            return not left and not self._heavy_parts
        if self.reached:
            self.waiters = left
        return True

    def turn_back(self) -> None:
        """Tell the calls of a batch that did not leave where they stand.

        Those that :attr:`waiters` are for are left to whoever sends them on.

        """
        self.reached = False
        for part in self.writing + self.reading:
            tell(part.back, False)

    def make_values(self) -> None:
        """Make what takes long, in a thread."""
        try:
            get = self._get
            if get is not None:
                self._values = self._make(get.found)
            for part in self._heavy_parts:
                part.unpack()
        # The callers wait in another thread and have to be told.
        except BaseException as error:  # noqa: BLE001
            NOTICES.error(
                'What %s answered is lost',
                self.endpoint,
                error=error,
                about=str(self.endpoint),
            )
            self.error = error

    def give_heavy(self) -> None:
        """Give callers, in the loop, what :meth:`make_values` made."""
        if self.error is not None:
            self.fail(self.error)
            return
        made = self._values
        if self._some_expired:
            # They have been told.
            left = {*map(id, self.waiters)}
            made = [each for each in made if id(each[0]) in left]
        for waiter, value in made:
            _, future, default, otherwise, extras = waiter
            hit = value is not values.MISS
            if extras is not None:
                extras.tell(None, hit, not hit, self.endpoint)
            if not hit:
                fall_back(future, default, otherwise)
            # A caller may have been cancelled, or have timed out.
            elif not future.done():
                future.set_result(value)
        for part in self._heavy_parts:
            tell(part.back, True)

    def fail(self, error: BaseException) -> None:
        """Give everybody who waits, in the loop, the result of a failure."""
        _give_defaults(self.waiters, self.endpoint, error)
        parts: abc.Sequence[Part] = self.writing + self.reading
        if self.state is ANSWERED:
            parts = self._heavy_parts
        for part in parts:
            tell(part.fail, error)

    def _keep(self, left: list[Waiter]) -> None:
        """Let only these wait on, each until its own time is over."""
        if self._early and left:
            kept = {id(waiter) for waiter in left}
            self._early = [
                joined._replace(
                    waiters=sum(
                        id(waiter) in kept
                        for waiter in self.waiters[: joined.waiters]
                    )
                )
                for joined in self._early
            ]
        self.waiters = left

    def _give_parts(self, heavy: int) -> None:
        """Let calls take what came for them, but for what is a thread's.

        :param int heavy: what it took to make values already

        """
        left: list[Part] = []
        for parts in (self.writing, self.reading):
            for part in parts:
                weight = part.weigh()
                if weight and heavy + weight > values.HEAVY:
                    left.append(part)
                    continue
                heavy += weight
                # What tell() does, in fewer steps: for each write there is.
                try:
                    part.back(self.reached)
                except Exception as error:  # noqa: BLE001
                    _note_untaken(error)
        self._heavy_parts = left

    def _count_parts(self) -> None:
        for command in self._commands:
            if command.error is not None:
                parts = self.writing + self.reading
                self._errors += sum(map(_failed, parts))
                break
        for part in self.reading:
            if part.steps:
                continue
            if _is_unknown(part):
                # It is asked in another way.
                self.steps += part.calls
                continue
            for command in part.commands:
                if not command.answered or command.error is not None:
                    continue
                if isinstance(command, protocol.Get):
                    self._hits += len(command.found)
                    self._misses += command.missing
                elif isinstance(command, protocol.MetaGet):
                    self._hits += part.calls if command.found else 0
                    self._misses += 0 if command.found else part.calls

    def _give_values(
        self, get: protocol.Get, waiters: list[Waiter]
    ) -> tuple[list[Waiter], int]:
        """Give values to those who wait for one.

        One pass for both, to make them and to give them: it is most of what
        a read costs.

        :return: those whose value is for a thread to make, and what it took
            to make the others, in bytes to deserialize

        """
        decoders = self._codec.decoders
        decode_or = self._codec.decode_or
        plain = values.PLAIN if get.size <= values.LARGE else values.QUICK
        limit = values.HEAVY
        miss = values.MISS
        found = get.found
        repeated = len(self.keys) < len(waiters)
        known: dict[bytes, typing.Any] = {}
        left: list[Waiter] = []
        heavy = misses = 0
        for waiter in waiters:
            key, future, default, otherwise, extras = waiter
            item = found.get(key)
            if item is None:
                misses += 1
                if extras is not None:
                    extras.tell(None, 0, 1, self.endpoint)
                fall_back(future, default, otherwise)
                continue
            flags, data, _ = item
            if flags not in plain:
                if heavy + len(data) > limit or flags & values.PACKED:
                    left.append(waiter)
                    continue
                heavy += len(data)
            # What can be changed is not shared by its readers.
            if repeated and key in known:
                value = known[key]
            else:
                try:
                    value = decoders[flags](data)
                except values.ENDS:
                    raise
                except BaseException:  # noqa: BLE001
                    # It is rare, and is looked at there.
                    value = decode_or(flags, data, values.MISS)
                if repeated and flags in values.SHAREABLE:
                    known[key] = value
            if extras is not None:
                hit = value is not miss
                extras.tell(None, hit, not hit, self.endpoint)
            if value is miss:
                misses += 1
                fall_back(future, default, otherwise)
                continue
            try:
                future.set_result(value)
            except asyncio.InvalidStateError:
                # A caller may have been cancelled, or have timed out.
                continue
        self._note(get.size, len(waiters) - len(left), misses)
        return left, heavy

    def _give_in_order(self, get: protocol.Get) -> bool:
        """Give plain values to those who wait, if each of them has one.

        It is what is most usual, and said in as few steps as can be.

        :return: False if it is something else, and for :meth:`_give_values`

        """
        if self._some_expired:
            # The values are in the order of those who were there once.
            return False
        found = get.in_order
        waiters = self.waiters
        decoders = self._codec.decoders
        decoding: abc.Iterator[abc.Callable[[bytes], typing.Any]]
        if found is not None:
            if get.flags not in values.PLAIN:
                return False
            decoding = itertools.repeat(decoders[get.flags])
        elif get.mixed is not None:
            flags, found = get.mixed
            if not values.PLAIN.issuperset(flags):
                return False
            decoding = map(decoders.__getitem__, flags)
        else:
            return False
        if len(found) != len(waiters):
            return False
        miss = values.MISS
        for waiter, data, decode in zip(
            waiters, found, decoding, strict=False
        ):
            key, future, default, otherwise, extras = waiter
            try:
                value = decode(data)
            # It is rare, and is looked at there.
            except Exception:  # noqa: BLE001
                kind = get.found[key][0]
                value = self._codec.decode_or(kind, data, miss)
                if value is miss:
                    self._misses += 1
                    if extras is not None:
                        extras.tell(None, 0, 1, self.endpoint)
                    fall_back(future, default, otherwise)
                    continue
            if extras is not None:
                extras.tell(None, 1, 0, self.endpoint)
            try:
                future.set_result(value)
            except asyncio.InvalidStateError:
                # A caller may have been cancelled, or have timed out.
                continue
        self._hits = len(waiters) - self._misses
        self._bytes = get.size
        return True

    def _make(
        self, found: dict[bytes, protocol.Item]
    ) -> list[tuple[Waiter, typing.Any]]:
        """Return all who still wait for a value, each with its own."""
        decode_or = self._codec.decode_or
        budget = values.Budget(self._codec.max_inflated_len)
        made: list[tuple[Waiter, typing.Any]] = []
        known: dict[bytes, typing.Any] = {}
        misses = 0
        for waiter in self.waiters:
            key = waiter[0]
            flags, data, _ = found[key]
            if key in known:
                made.append((waiter, known[key]))
                continue
            value = decode_or(flags, data, values.MISS, budget)
            misses += value is values.MISS
            # What can be changed is not shared by its readers.
            if flags in values.SHAREABLE:
                known[key] = value
            made.append((waiter, value))
        self._note(0, len(made), misses)
        return made

    def _note(self, size: int, count: int, misses: int) -> None:
        """Add up what reads brought.

        :param int size: the bytes of the values
        :param int count: the reads

        """
        self._misses += misses
        self._hits += count - misses
        self._bytes += size

    def count(self, counters: counters.Counters) -> None:
        """Add up, in the loop, what the batch did.

        Calls that go on to another server count there.

        """
        now = time.monotonic()
        if now >= counters.until:
            counters.turn(now)
        if not self.reached:
            return
        counters.batches += 1
        counters.seconds += self.seconds
        counters.calls += self.calls - self.steps
        counters.steps += self.steps
        counters.hits += self._hits
        counters.misses += self._misses
        counters.errors += self._errors

    def count_failed(self, counters: counters.Counters) -> None:
        """Add up that nothing comes any more for those who wait."""
        if self.state is ANSWERED:
            self._errors += len(self.waiters)
            self.count(counters)
        else:
            counters.fail(time.monotonic(), self.calls, self.steps)


class OneRead(Batch):
    """One ``get`` that travels alone; used again and again, for it is cheap.

    As long as all goes well it needs little of what a batch is.

    """

    __slots__ = ('_request', 'own_permit')

    def __init__(
        self,
        endpoint: endpoints.Endpoint,
        codec: values.Codec,
        read: type[protocol.Get] = protocol.Get,
    ) -> None:
        super().__init__(endpoint, codec, 0.0, None, read)
        self.calls = 1
        self._get = self._request = read(())
        self._commands = (self._request,)
        self.own_permit = permits.Permit(None)
        """What it takes for leave to be with the server."""

    def ask(self, waiter: Waiter, deadline: float) -> None:
        """Be another read, which has not left."""
        request = self._request
        key = waiter[0]
        self.waiters = [waiter]
        self.keys = request.keys = (key,)
        request.request = b'get ' + key + protocol.NEWLINE
        request.answered = False
        self.deadline = deadline
        self.state = GATHERING
        self.permit = self.own_permit

    def prepare(self) -> bool:
        # It may be sent in any life of the server, and brings no unique.
        return True

    def give_plain(self, counters: counters.Counters, now: float) -> bool:
        """Give the caller what came, if it is a plain value or a miss.

        :return: False if it is for :meth:`give_light` to give

        """
        request = self._request
        _, future, default, otherwise, extras = self.waiters[0]
        if extras is not None or request.error is not None:
            return False
        if now >= counters.until:
            counters.turn(now)
        if request.in_order is not None:
            flags, data = request.flags, request.in_order[0]
            if flags not in values.PLAIN:
                return False
            try:
                value = self._codec.decoders[flags](data)
            # It is rare, and is looked at there.
            except Exception:  # noqa: BLE001
                return False
            counters.hits += 1
            # A caller may have been cancelled, or have timed out.
            if not future.done():
                future.set_result(value)
            request.forget()
        elif request.found:
            # It came in pieces.
            return False
        else:
            counters.misses += 1
            fall_back(future, default, otherwise)
        counters.batches += 1
        counters.calls += 1
        counters.seconds += self.seconds
        # Nothing of it is kept.
        self.waiters = []
        return True


def _failed(part: Part) -> int:
    """Return how many of the calls of a part have failed."""
    if part.steps or _is_unknown(part):
        return 0
    failed = 0
    for command in part.commands:
        if command.error is not None:
            failed += 1 if command.answered else command.count
    return part.calls if failed and len(part.commands) == 1 else failed


def _is_unknown(part: Part) -> bool:
    """Whether a part is a meta command that the server does not know."""
    command = part.commands[0]
    return (
        command.is_meta
        and isinstance(command.error, protocol.RefusedError)
        and 'SERVER_ERROR' not in str(command.error)
    )


def _give_defaults(
    waiters: abc.Iterable[Waiter],
    endpoint: endpoints.Endpoint,
    error: BaseException | None,
) -> None:
    for _, future, default, otherwise, extras in waiters:
        # Also of one who was cancelled: that call is over only now.
        if extras is not None:
            extras.tell(error, 0, 0, endpoint)
        fall_back(future, default, otherwise)
