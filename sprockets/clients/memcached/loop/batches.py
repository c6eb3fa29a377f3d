"""Calls to one server gathered into batches, which travel together."""

from __future__ import annotations

import asyncio
import logging
import time
import typing
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.servers import health
from sprockets.clients.memcached.watch import counters, observers
from sprockets.clients.memcached.wire import connection, protocol

LOGGER = logging.getLogger(__name__)

MAX_CALLS = 1000
"""Calls that travel in one batch at most."""

MAX_BYTES = 512 * 1024
"""Bytes of the requests of one batch, and of its replies as far as earlier
ones let expect; a single call that is larger travels alone."""

HEAVY = 64 * 1024
"""Bytes of values to deserialize that are too many for the loop."""

Future = asyncio.Future[typing.Any]

Otherwise = abc.Callable[..., None]
"""What to do about a read that has no value."""

Waiter = tuple[
    bytes,
    Future,
    typing.Any,
    int | None,
    tuple[health.Endpoint, ...],
    observers.Observer | None,
    Otherwise | None,
]
"""A caller of ``get``: its key, its future, its default, the hash that it
gave, the servers that could not be reached, its observer; and what to do
without a value, with the default and the future as arguments, None to give the
default."""


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


def fall_back(
    future: Future, default: typing.Any, otherwise: Otherwise | None = None
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
        future.set_exception(error)


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

    :param Endpoint endpoint: the server
    :param Codec codec: turns bytes into values
    :param float deadline: until when, on :func:`time.monotonic`'s clock
    :param Batch after: which has to be back before this one leaves, None if
        there is none

    """

    __slots__ = (
        '_codec',
        '_commands',
        '_endpoint',
        '_error',
        '_errors',
        '_get',
        '_hits',
        '_misses',
        '_seconds',
        '_size',
        '_values',
        'abandoned',
        'after',
        'answered',
        'begun',
        'calls',
        'deadline',
        'finished',
        'in_thread',
        'keys',
        'reading',
        'returned',
        'sent',
        'size',
        'started',
        'trial',
        'value_size',
        'waiters',
        'writing',
    )

    def __init__(
        self,
        endpoint: health.Endpoint,
        codec: values.Codec,
        deadline: float,
        after: Batch | None,
    ) -> None:
        self._endpoint = endpoint
        self._codec = codec
        self._commands: list[protocol.Command] = []
        self._get: protocol.Get | None = None
        self._values: list[typing.Any] | None = None
        self._error: BaseException | None = None
        self._hits = 0
        self._misses = 0
        self._errors = 0
        self._seconds = 0.0
        self._size = 0
        self.deadline = deadline
        self.after = after
        self.trial = endpoint.retry_at is not None
        """Whether it is to try a server that is down."""
        self.calls = 0
        self.size = 0
        """The bytes of its requests, but for the keys that are read."""
        self.writing: list[Part] = []
        self.reading: list[Part] = []
        self.keys: dict[bytes, None] = {}
        """The keys that :attr:`waiters` ask for."""
        self.waiters: list[Waiter] = []
        self.started = False
        """Whether anything was done about it."""
        self.in_thread = False
        """Whether a thread has it, and nobody else may touch it."""
        self.begun: health.Begun | None = None
        """What the loop has begun, None if it was nothing."""
        self.answered = False
        """Whether all replies are here."""
        self.finished = False
        """Whether its thread has done its part, and only the loop is late."""
        self.sent = True
        """Whether the server was reached."""
        self.returned = False
        self.abandoned = False
        self.value_size: float | None = None
        """The mean number of bytes of its values, None if it is unknown."""

    def begin(self) -> bool:
        """Set out without waiting for anything, in the loop.

        :return: False if it takes a thread

        """
        if self.size > connection.WINDOW:
            return False
        link = self._endpoint.ready()
        if link is None:
            return False
        commands = self._gather()
        self.begun = self._endpoint.begin(link, commands)
        if self.begun is None:
            return False
        self._commands = commands
        self.started = True
        return True

    def go_on(self) -> int:
        """Read what has come, in the loop, as :meth:`health.Begun.go_on`."""
        begun = self.begun
        assert begun is not None
        missing = begun.go_on()
        if missing == 0:
            self._endpoint.finish(begun)
            self._seconds = time.monotonic() - begun.began
            self.answered = True
        return missing

    def run(self) -> None:
        """Do what is left to do, however long it takes, in a thread."""
        try:
            self.started = True
            if not self.answered:
                self._exchange()
            self.unpack()
        # The callers wait in another thread and have to be told.
        except BaseException as error:
            LOGGER.exception('A batch for %s failed', self._endpoint)
            self.fail(error)
        self.finished = True

    def _gather(self) -> list[protocol.Command]:
        commands = [c for part in self.writing for c in part.commands]
        if self.waiters:
            self._get = protocol.Get(self.keys)
            commands.append(self._get)
        for part in self.reading:
            commands.extend(part.commands)
        return commands

    def _exchange(self) -> None:
        began = time.monotonic()
        if self.begun is None:
            self._commands = self._gather()
        else:
            began = self.begun.began
        self.sent = self._endpoint.exchange(
            self._commands, self.deadline, self.begun
        )
        self._seconds = time.monotonic() - began

    def unpack(self) -> None:
        """Make values of what came, in a thread."""
        get = self._get
        if get is not None and get.answered and get.error is None:
            self._values = self._decode(get.found)
        self._count_results()

    def unpack_light(self) -> bool:
        """Give what came to the callers of ``get``, in the loop.

        :return: False if there is more to do than is for the loop; whoever
            has no value yet is left to a thread

        """
        get = self._get
        if get is not None and get.answered and get.error is None:
            self.waiters = self._decode_light(get.found)
            if self.waiters:
                return False
        self._count_results()
        return True

    def _count_results(self) -> None:
        get = self._get
        for command in self._commands:
            if command.error is not None:
                self._errors += 1
        if get is not None and get.error is not None:
            self._errors += len(self.waiters) - 1
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

    def _decode(self, found: dict[bytes, protocol.Item]) -> list[typing.Any]:
        """Return the values of all who wait for one."""
        decoders = self._codec.decoders
        decode_or = self._codec.decode_or
        repeated = len(self.keys) < len(self.waiters)
        made: list[typing.Any] = []
        known: dict[bytes, typing.Any] = {}
        size = misses = 0
        for waiter in self.waiters:
            key = waiter[0]
            item = found.get(key)
            if item is None:
                misses += 1
                made.append(_MISS)
                continue
            flags, data, _ = item
            size += len(data)
            if key in known:
                made.append(known[key])
                continue
            try:
                value = decoders[flags](data)
            except Exception:  # noqa: BLE001
                # It is rare, and is looked at there.
                value = decode_or(flags, data, _MISS)
            # What can be changed is not shared by its readers.
            if repeated and flags in values.SHAREABLE:
                known[key] = value
            made.append(value)
        self._note(size, len(made), misses)
        return made

    def _decode_light(self, found: dict[bytes, protocol.Item]) -> list[Waiter]:
        """Give values to those who wait, and return whose take a thread.

        One pass for both: it is most of what a read costs.

        """
        decoders = self._codec.decoders
        decode_or = self._codec.decode_or
        plain = values.PLAIN
        shareable = values.SHAREABLE
        repeated = len(self.keys) < len(self.waiters)
        known: dict[bytes, typing.Any] = {}
        left: list[Waiter] = []
        size = heavy = misses = 0
        for waiter in self.waiters:
            key, future, default, _, _, observer, otherwise = waiter
            item = found.get(key)
            if item is None:
                misses += 1
                if observer is not None:
                    tell(observer.over, None, 0, 1, self._endpoint)
                fall_back(future, default, otherwise)
                continue
            flags, data, _ = item
            if flags not in plain:
                if heavy + len(data) > HEAVY or flags & values.COMPRESSED:
                    left.append(waiter)
                    continue
                heavy += len(data)
            size += len(data)
            # What can be changed is not shared by its readers.
            if repeated and key in known:
                value = known[key]
            else:
                try:
                    value = decoders[flags](data)
                except Exception:  # noqa: BLE001
                    # It is rare, and is looked at there.
                    value = decode_or(flags, data, _MISS)
                if repeated and flags in shareable:
                    known[key] = value
            if observer is not None:
                hit = value is not _MISS
                tell(observer.over, None, hit, not hit, self._endpoint)
            if value is _MISS:
                fall_back(future, default, otherwise)
            # A caller may have been cancelled, or have timed out.
            elif not future.done():
                future.set_result(value)
        self._note(size, len(self.waiters) - len(left), misses)
        return left

    def _note(self, size: int, count: int, misses: int) -> None:
        """Add up what reads brought.

        :param int size: the bytes of the values
        :param int count: the reads

        """
        self._misses += misses
        self._hits += count - misses
        self._size += size
        given = self._hits + self._misses
        self.value_size = self._size / given if given else None

    def fail(self, error: BaseException) -> None:
        """Let everything have failed, for a reason."""
        for part in self.writing + self.reading:
            for command in part.commands:
                command.error = command.error or error
        self._values = None
        self._error = error
        self.sent = True

    def abandon(self, error: BaseException) -> None:
        """Give every caller, in the loop, the result of a failure.

        The thread may be at work on the batch: what it writes is not touched.

        """
        self.abandoned = True
        if self.started and not self.answered:
            # It is with the server, which has had its time.
            self._endpoint.mark_down(error)
        self._give_defaults(error)
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
        if self._values is not None:
            self._give_values(self._values)
        elif self.sent:
            error = self._error
            if error is None and self._get is not None:
                error = self._get.error
            self._give_defaults(error)
        for part in self.writing:
            tell(part.back, self.sent)
        for part in self.reading:
            tell(part.back, self.sent)

    def _give_values(self, made: list[typing.Any]) -> None:
        for waiter, value in zip(self.waiters, made, strict=True):
            _, future, default, _, _, observer, otherwise = waiter
            hit = value is not _MISS
            if observer is not None:
                tell(observer.over, None, hit, not hit, self._endpoint)
            if not hit:
                fall_back(future, default, otherwise)
            # A caller may have been cancelled, or have timed out.
            elif not future.done():
                future.set_result(value)

    def _give_defaults(self, error: BaseException | None) -> None:
        for _, future, default, _, _, observer, otherwise in self.waiters:
            if observer is not None:
                tell(observer.over, error, 0, 0, self._endpoint)
            fall_back(future, default, otherwise)
