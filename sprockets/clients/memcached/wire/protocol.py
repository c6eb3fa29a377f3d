"""memcached's text protocol: commands to bytes, replies to results, no I/O.

The protocol is described in memcached's ``doc/protocol.txt``.  A command is
its request bytes and the way its reply is read: to add one, add a
:class:`Verb` to the table, or a class with a ``read`` of its own.

"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections import abc

from sprockets.clients.memcached import escaping, settings
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.wire import bounds

NEWLINE = b'\r\n'

TOO_MANY = b'ERROR Too many open connections'
"""What memcached says before it closes a connection that is one too many
(its option ``-c``)."""

MAX_LINE = bounds.LINE.most
"""No line of a reply is longer than this many bytes."""

MAX_ASKED = 16_000
"""No line that asks for keys is longer, in bytes.  Amazon's ElastiCache
Serverless takes 16 KB ("Supported and restricted Memcached commands")."""

MAX_FEW = 8
"""So many values, at most, are looked for that others differ from."""

PIECE = 64 * 1024
"""A value of which more bytes than these are missing is kept in pieces."""

SEVERAL = 8
"""Values that are looked for at once in what has come."""

SMALL = 4
"""Digits that the length of such a value has, at most."""

EXPIRED = 60 * 60 * 24 * 30 + 1
"""An exptime that is over: a date, in January 1970.  It is as good as -1, for
which twemproxy closes the connection."""


class ProtocolError(Exception):
    """What the server sent is no answer to what it was asked."""


class OutOfStepError(ProtocolError):
    """After this error line the next reply may belong to anything."""


class RefusedError(Exception):
    """The server answered a command with an error line."""


class OutOfBoundsError(RefusedError):
    """The server answered with what passes one of :mod:`.bounds`."""


class FullError(ProtocolError, ConnectionError):
    """The server has as many connections as it takes, and closes this one."""


class Incoming:
    """The bytes that have come from a server and are not read yet."""

    __slots__ = ('at', 'data')

    def __init__(self) -> None:
        self.data = b''
        self.at = 0

    def feed(self, received: bytes) -> None:
        """Put what was received behind what is still unread."""
        if self.at < len(self.data):
            received = self.data[self.at :] + received
        self.data = received
        self.at = 0

    @property
    def unread(self) -> int:
        """How many bytes are here that nobody has read."""
        return len(self.data) - self.at

    def line(self) -> bytes | None:
        """Return the next line without its end, None until it is whole.

        :raises ProtocolError: if it is too long for a line of a reply

        """
        end = self.data.find(NEWLINE, self.at, self.at + MAX_LINE)
        if end < 0:
            if self.unread >= MAX_LINE:
                raise ProtocolError(f'a line of more than {MAX_LINE} bytes')
            return None
        line = self.data[self.at : end]
        self.at = end + 2
        return line


class Command:
    """A request, how its reply is read, and what it told.

    ``result`` is what the command's caller gets.  Until a reply says
    otherwise it is the result of a failure; ``error`` then says of which.

    """

    __slots__ = ('answered', 'error', 'request', 'result')

    name = 'command'
    repeatable = False
    """Whether running it twice does no more than running it once."""
    is_meta = False
    """Whether it is one that old servers and some proxies do not know."""
    is_rare = False
    """Whether it is another one for which some proxies, which do not know it,
    close the connection."""
    only_reads = False
    """Whether it comes after the writes of its batch, so that it sees them."""
    writes_on = False
    """Whether it may write more once its reply is read, so that no call that
    comes later may share its batch."""
    count = 1
    """How many keys it is about."""
    is_of_a_life = False
    """Whether :meth:`meant_for` has something to say."""
    noes: abc.Collection[bytes] = ()
    """What says, without being an error, that it failed."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.is_of_a_life = cls.meant_for is not Command.meant_for

    def __init__(self, request: bytes, result: typing.Any = None) -> None:
        self.request = request
        self.result = result
        self.answered = False
        self.error: BaseException | None = None

    def read(self, incoming: Incoming) -> int:
        """Read as much of the reply as there is.

        :return: 0 once the reply is complete, else the least number of bytes
            that are still to come
        :raises ProtocolError: if this is no answer to the request

        """
        raise NotImplementedError

    def take(self, lines: list[bytes], at: int) -> int:
        """Take a whole reply in its usual form, in one step.

        :param list lines: what has come, cut at its line ends; one that is in
            a value makes it another length than it says
        :param int at: where the reply begins
        :return: where the next one begins, -1 if this is none, or not all of
            it; then it is for :meth:`read` to say what it is

        """
        return -1

    def start_over(self) -> None:
        """Forget what was read of a reply, and what it told."""
        self.answered = False
        self.error = None

    def go_on(self) -> None:
        """Forget the part of a reply that was cut, before it is sent again."""
        self.start_over()

    def proceed(self) -> bool:
        """Go on with what is to be asked once the reply is read.

        It is for a command that is read and not answered: then ``request`` is
        another one, and its reply is read next.

        :return: whether there is something

        """
        return False

    def divide(self) -> bool:
        """Ask for one key at a time from now on.

        A proxy may refuse some keys of many, and not say which.

        :return: whether that makes a difference

        """
        return False

    def meant_for(self, incarnation: int) -> bool:
        """Whether it may be sent to the server in this life of it."""
        return True

    def refused(self, line: bytes) -> int:
        """Take an error line for the answer.

        :raises ProtocolError: if the line is no error line
        :raises OutOfStepError: if the connection cannot be trusted after it

        """
        # It goes into logs, where it must not look like lines of its own.
        reason = escaping.spelt(line, bounds.ERROR.most)
        if line.startswith(TOO_MANY):
            raise FullError(reason)
        if not (_is_error(line) or line in self.noes):
            raise ProtocolError(f'{reason!r} is no answer to {self.name}')
        self.answered = True
        self.error = RefusedError(f'{self.name}: {reason}')
        if not self._in_step_after(line):
            raise OutOfStepError(str(self.error))
        return 0

    def pass_over(self, bound: bounds.Number | bounds.Size) -> int:
        """Take an answer that is out of bounds for one that says nothing."""
        self.answered = True
        self.error = OutOfBoundsError(
            f'{self.name}: {bound.name}: more than {bound}'
        )
        return 0

    def _in_step_after(self, line: bytes) -> bool:
        """Whether the next reply is sure to belong to the next command.

        With SERVER_ERROR memcached has read, or will skip, the value of a
        storage command.  With the others it may take the value for a command
        (protocol.txt, "Error strings"), so that only a request of one line is
        known to be over.

        """
        return (
            line in self.noes
            or line.startswith(b'SERVER_ERROR')
            or self.request.count(NEWLINE) == 1
        )


NOES = frozenset((b'NOT_STORED', b'EXISTS', b'NOT_FOUND'))
"""What says no to a command that changes something.  Some servers say it in
other places than memcached; in none does it mean that something was done."""

META_NOES = frozenset((b'NS', b'EX', b'NF'))
"""Likewise, to a meta command."""


def _is_error(line: bytes) -> bool:
    return line == b'ERROR' or line.startswith(
        (b'SERVER_ERROR', b'CLIENT_ERROR')
    )


class Verb(typing.NamedTuple):
    """A command that is answered by one line, and what each line means."""

    name: str
    replies: dict[bytes, typing.Any]
    repeatable: bool
    failure: typing.Any = 0
    noes: abc.Collection[bytes] = NOES


_STORAGE = {b'STORED': True, b'NOT_STORED': False}

SET = Verb('set', _STORAGE, True)
REPLACE = Verb('replace', _STORAGE, True)
ADD = Verb('add', _STORAGE, False)
APPEND = Verb('append', _STORAGE, False)
APPEND_NOTHING = APPEND._replace(repeatable=True)
"""One that only gives a value another cas unique."""
PREPEND = Verb('prepend', _STORAGE, False)
CAS = Verb('cas', _STORAGE | {b'EXISTS': False, b'NOT_FOUND': False}, False)
DELETE = Verb('delete', {b'DELETED': 1, b'NOT_FOUND': 0}, True)
DELETE_ANY = DELETE._replace(replies={b'DELETED': 1, b'NOT_FOUND': 1})
"""A deletion that succeeds if there is no value, however that came about."""
TOUCH = Verb('touch', {b'TOUCHED': 1, b'NOT_FOUND': 0}, True)
INCR = Verb('incr', {b'NOT_FOUND': None}, False, None)
DECR = Verb('decr', {b'NOT_FOUND': None}, False, None)
META_DELETE = Verb('md', {b'HD': 1, b'NF': 0, b'EX': 0}, False, noes=META_NOES)
META_NOOP = Verb('mn', {b'MN': 1}, True, noes=())
FLUSH_ALL = Verb('flush_all', {b'OK': 1}, True, noes=())
VERSION = Verb('version', {}, True, None, ())
AUTHENTICATE = Verb('authentication', {b'STORED': True}, False, noes=())


class Line(Command):
    """A command that is answered by one line, the ``reply``."""

    __slots__ = ('reply', 'verb')

    def __init__(self, verb: Verb, request: bytes) -> None:
        self.verb = verb
        self.reply = b''
        self.request = request
        self.result = verb.failure
        self.answered = False
        self.error = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.verb.name

    @property
    def repeatable(self) -> bool:  # type: ignore[override]
        return self.verb.repeatable

    @property
    def is_rare(self) -> bool:  # type: ignore[override]
        return self.verb is FLUSH_ALL or self.verb is VERSION

    @property
    def noes(self) -> abc.Collection[bytes]:  # type: ignore[override]
        return self.verb.noes

    def start_over(self) -> None:
        super().start_over()
        self.result = self.verb.failure

    def take(self, lines: list[bytes], at: int) -> int:
        line = lines[at]
        try:
            self.result = self.verb.replies[line]
        except KeyError:
            return -1
        self.reply = line
        self.answered = True
        return at + 1

    def read(self, incoming: Incoming) -> int:
        line = incoming.line()
        if line is None:
            return 1
        self.reply = line
        try:
            self.result = self.verb.replies[line]
        except KeyError:
            return self.other(line)
        self.answered = True
        return 0

    def other(self, line: bytes) -> int:
        """Read a line that the table does not hold."""
        if self.verb.replies is _STORAGE:
            # python-memcached compares the line with STORED.
            self.result = False
        return self.refused(line)


class Many(Command):
    """Commands of one verb, each of which is answered by one line.

    ``done`` says how many were answered, and ``failed`` has the places, from
    0 on, of those among them that did not succeed.

    :param Verb verb: what all of them are
    :param list requests: the request of each

    """

    __slots__ = ('_requests', 'count', 'done', 'failed', 'others', 'verb')

    def __init__(self, verb: Verb, requests: abc.Sequence[bytes]) -> None:
        super().__init__(b''.join(requests))
        self.verb = verb
        self.count = len(requests)
        self.done = 0
        self.failed: list[int] = []
        self.others: list[bytes] = []
        """The replies that are not the first one of the verb."""
        self._requests = requests

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.verb.name

    @property
    def repeatable(self) -> bool:  # type: ignore[override]
        return self.verb.repeatable

    @property
    def noes(self) -> abc.Collection[bytes]:  # type: ignore[override]
        return self.verb.noes

    @property
    def wanted(self) -> str:
        """The reply that is hoped for."""
        return next(iter(self.verb.replies)).decode('ascii')

    def start_over(self) -> None:
        super().start_over()
        self.request = b''.join(self._requests)
        self.done = 0
        self.failed.clear()
        self.others.clear()

    def go_on(self) -> None:
        self.request = b''.join(self._requests[self.done :])

    def take(self, lines: list[bytes], at: int) -> int:
        replies = self.verb.replies
        first = next(iter(replies))
        end = at + self.count
        if (
            self.done
            or not replies[first]
            or lines[at:end].count(first) < self.count
        ):
            return -1
        self.done = self.count
        self.answered = True
        return end

    def read(self, incoming: Incoming) -> int:
        replies = self.verb.replies
        first = next(iter(replies))
        if self.done == 0:
            # The first reply for all of them is usual, and one comparison.
            all_of_them = (first + NEWLINE) * self.count
            if replies[first] and incoming.data.startswith(
                all_of_them, incoming.at
            ):
                incoming.at += len(all_of_them)
                self.done = self.count
        while self.done < self.count:
            line = incoming.line()
            if line is None:
                return 1
            if line != first:
                self.others.append(line)
            if not replies.get(line):
                self.failed.append(self.done)
            self.done += 1
            if line not in replies:
                self.refused(line)
        self.answered = True
        return 0

    def refused(self, line: bytes) -> int:
        super().refused(line)
        self.answered = False
        return 0

    def _in_step_after(self, line: bytes) -> bool:
        return (
            line in self.noes
            or line.startswith(b'SERVER_ERROR')
            # The one that it answers, whichever of them were sent.
            or self._requests[self.done - 1].count(NEWLINE) == 1
        )


class Number(Line):
    """``incr`` and ``decr``, answered by the new number."""

    __slots__ = ()

    def take(self, lines: list[bytes], at: int) -> int:
        line = lines[at]
        number = bounds.COUNT.read(line)
        if number is None:
            return super().take(lines, at)
        self.reply = line
        self.result = number
        self.answered = True
        return at + 1

    def other(self, line: bytes) -> int:
        if not line.isdigit():
            return self.refused(line)
        self.result = bounds.COUNT.read(line)
        if self.result is None:
            return self.pass_over(bounds.COUNT)
        self.answered = True
        return 0


_LENGTHS = {b'%d' % length for length in range(1, 21)}
"""How many digits a number may have."""


class MetaNumber(Command):
    """``ma``: ``incr`` and ``decr`` that make the number if there is none.

    ``result`` is the new number, and ``seconds`` how long it is kept: -1 for
    ever, None as long as nothing is known.

    """

    __slots__ = ('seconds',)

    name = 'ma'
    is_meta = True

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.seconds: int | None = None

    def start_over(self) -> None:
        super().start_over()
        self.result = self.seconds = None

    def read(self, incoming: Incoming) -> int:
        at = incoming.at
        line = incoming.line()
        if line is None:
            return 1
        word, *rest = line.split(b' ')
        if line in (b'NF', b'NS'):
            self.answered = True
            return 0
        # No number is longer than that.
        if word != b'VA' or not rest or rest[0] not in _LENGTHS:
            return self.refused(line)
        value = incoming.line()
        if value is None:
            incoming.at = at
            return 1
        if not value.isdigit() or rest[0] != b'%d' % len(value):
            raise ProtocolError(f'a malformed {self.name} reply')
        for flag in rest[1:]:
            if flag == b't-1':
                self.seconds = -1
            elif flag[:1] == b't':
                self.seconds = bounds.SECONDS.read(flag[1:])
        self.result = bounds.COUNT.read(value)
        if self.result is None:
            return self.pass_over(bounds.COUNT)
        self.answered = True
        return 0


class Version(Line):
    """``version``, answered by the version as text."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(VERSION, b'version\r\n')

    def other(self, line: bytes) -> int:
        if not line.startswith(b'VERSION '):
            return self.refused(line)
        # It goes to terminals and pages.
        self.result = escaping.spelt(line[8:], bounds.VERSION.most)
        self.answered = True
        return 0


class MetaDelete(Line):
    """``md``, which deletes a key or marks its value as stale.

    :param int incarnation: the life of the server that it is meant for, None
        for any; see :class:`CompareAndSwap`

    """

    __slots__ = ('incarnation',)

    is_meta = True

    def __init__(self, request: bytes, incarnation: int | None) -> None:
        super().__init__(META_DELETE, request)
        self.incarnation = incarnation

    def meant_for(self, incarnation: int) -> bool:
        return self.incarnation in (None, incarnation)


class CompareAndSwap(Line):
    """``cas``: a store that is meant for one life of the server only.

    The cas unique is a counter of the server process.  One that was given out
    before a restart may be that of another value after it.

    """

    __slots__ = ('incarnation',)

    def __init__(self, request: bytes, incarnation: int) -> None:
        super().__init__(CAS, request)
        self.incarnation = incarnation

    def meant_for(self, incarnation: int) -> bool:
        return incarnation == self.incarnation


Item = values.Item
"""What the server holds for a key: its flags, its bytes, its cas unique."""


def _lines(keys: abc.Iterable[bytes]) -> abc.Iterator[dict[bytes, None]]:
    """Yield keys in groups of which each has room in one line."""
    # Whether a key is one of many is asked for each value.
    group: dict[bytes, None] = {}
    # For the command, its time, and the line's end.
    size = before = 32
    for key in keys:
        size += len(key) + 1
        if group and size > MAX_ASKED:
            yield group
            group = {}
            size = before + len(key) + 1
        group[key] = None
    yield group


# Values of one kind and length are common.
@functools.lru_cache(maxsize=512)
def _numbers(text: bytes, words: int) -> tuple[int, int, int | None]:
    """Read the flags, the length, and the cas unique of ``gets``.

    :raises ValueError: if they are not that

    """
    numbers = text.split(b' ')
    if len(numbers) != words or not b''.join(numbers).isdigit():
        raise ValueError(text)
    if len(text) > SHORT:
        length = bounds.VALUE.read(numbers[1])
        if length is None or not all(numbers):
            raise ValueError(text)
        unique = _unique(numbers[2]) if words == 3 else None
        return _flags(numbers[0]), length, unique
    # One that is empty is none for int() either.
    unique = int(numbers[2]) if words == 3 else None
    return int(numbers[0]), int(numbers[1]), unique


@functools.lru_cache(maxsize=512)
def _usual(text: bytes, words: int) -> tuple[int, int, int | None]:
    """Read them likewise, if that is all that is to be read.

    :raises ValueError: also for a value that is in parts

    """
    numbers = _numbers(text, words)
    if numbers[0] == values.PARTED:
        raise ValueError(text)
    return numbers


def _flags_if_alike(
    heads: list[bytes], keys: abc.Iterable[bytes], sizes: list[int]
) -> int | None:
    """Return the flags in these lines, if all are alike but for their keys.

    They are looked at as one text, for which Python needs no loop.

    :return: None if they are not
    :raises ValueError: if the values have other sizes than they say, and for
        what :func:`_usual` does not read

    """
    _, _, after = heads[0].split(b' ', 2)
    alike = (b' %b\r\nVALUE ' % after).join(keys)
    if NEWLINE.join(heads) != b'VALUE %b %b' % (alike, after):
        return None
    flags, length, _ = _usual(after, 2)
    if sizes.count(length) < len(sizes):
        raise ValueError(heads)
    return flags


SHORT = bounds.DIGITS + 2
"""Where there are several numbers in so many bytes, none is out of bounds."""

FLAGGED = 1 + bounds.DIGITS
"""The bytes of a number behind a letter, as meta commands have it."""


def _flags(digits: bytes) -> int:
    flags = bounds.FLAGS.read(digits)
    return bounds.UNKNOWN_FLAGS if flags is None else flags


def _unique(digits: bytes) -> int:
    unique = bounds.UNIQUE.read(digits)
    return bounds.UNKNOWN_UNIQUE if unique is None else unique


@dataclasses.dataclass
class _Cut:
    """A large value of which a part has come.

    Its pieces are put together once, when all are there.

    """

    key: bytes
    flags: int
    unique: int | None
    pieces: list[bytes]
    missing: int


class Get(Command):
    """``get``, ``gets``, ``gat`` or ``gats`` of any number of keys.

    ``found`` has an :data:`Item` for each key that the server holds, once the
    whole reply is read: before its end there is no telling whether a value is
    one.

    Where the keys are too many for one line it is several commands, and where
    some of the keys were refused one for each of them: its parts.

    """

    __slots__ = (
        '_coming',
        '_cut',
        '_exptime',
        '_found',
        '_is_divided',
        '_kept',
        '_parts',
        'flags',
        'in_order',
        'incarnation',
        'keys',
        'mixed',
        'name',
        'only_reads',
        'refused_keys',
        'size',
        'words',
    )

    repeatable = True

    def __init__(
        self,
        keys: abc.Collection[bytes],
        name: str = 'get',
        exptime: int | None = None,
    ) -> None:
        self.name = name
        if name == 'get':
            self.request = b'get %b\r\n' % b' '.join(keys)
        else:
            head = name if exptime is None else f'{name} {exptime}'
            self.request = b'%b %b\r\n' % (head.encode(), b' '.join(keys))
        self.result = None
        self.answered = False
        self.error = None
        self.keys = keys
        self.words = 3 if name in ('gets', 'gats') else 2
        self.in_order: list[bytes] | None = None
        """The values of all keys, where all are there and have the same
        flags; :attr:`found` has them in any case."""
        self.flags = 0
        """Their flags."""
        self.mixed: tuple[list[int], list[bytes]] | None = None
        """The flags and the values of all keys, where all are there and have
        not the same flags."""
        self.size = 0
        """The bytes of its values."""
        self.refused_keys: abc.Collection[bytes] = ()
        """Those that were answered by an error line; then ``error`` is the
        first of these."""
        self._found: dict[bytes, Item] | None = {}
        self._coming: dict[bytes, Item] = {}
        self._cut: _Cut | None = None
        self._exptime = exptime
        self._parts: list[Get] | None = None
        self._kept: dict[bytes, Item] = {}
        """What other parts have brought."""
        self._is_divided = False
        self.incarnation = 0
        self.only_reads = exptime is None
        if len(self.request) > MAX_ASKED and len(keys) > 1:
            self._ask_in_parts(map(self._part, _lines(keys)))

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.keys)

    @property
    def is_rare(self) -> bool:  # type: ignore[override]
        return not self.only_reads

    def start_over(self) -> None:
        super().start_over()
        self.forget()
        self._coming = {}
        self._cut = None
        self.refused_keys = ()
        if self._parts is not None:
            for part in self._parts:
                part.start_over()
            self._ask_in_parts(self._parts)

    def go_on(self) -> None:
        if self._parts is None:
            self.start_over()
            return
        self.answered = False
        self.error = None
        for part in self._parts:
            if part.answered:
                self._kept.update(part.found)
            else:
                part.start_over()
        self._ask_in_parts([part for part in self._parts if not part.answered])

    def divide(self) -> bool:
        if self._is_divided or len(self.keys) == 1:
            return False
        self._is_divided = True
        kept = self._kept = self._coming
        for part in self._parts or ():
            kept.update(part.found if part.answered else part._coming)
        left = [key for key in self.keys if key not in kept]
        self._ask_in_parts(self._part([key]) for key in left)
        self._coming = {}
        self._cut = None
        self.answered = False
        self.error = None
        if not left:
            self._end_parts([])
        return True

    def _part(self, keys: abc.Collection[bytes]) -> Get:
        return Get(keys, self.name, self._exptime)

    def _ask_in_parts(self, parts: abc.Iterable[Get]) -> None:
        self._parts = [*parts]
        self.request = b''.join([part.request for part in self._parts])

    def meant_for(self, incarnation: int) -> bool:
        # The cas uniques that it brings are those of this life.
        self.incarnation = incarnation
        return True

    def forget(self) -> None:
        """Keep nothing of what came."""
        self._found = {}
        self.in_order = self.mixed = None

    @property
    def found(self) -> dict[bytes, Item]:
        """What the server holds, by key."""
        found = self._found
        if found is None:
            flags: abc.Iterable[int]
            if self.mixed is not None:
                flags, came = self.mixed
            else:
                assert self.in_order is not None
                flags, came = itertools.repeat(self.flags), self.in_order
            items = zip(flags, came, itertools.repeat(None), strict=False)
            found = self._found = dict(zip(self.keys, items, strict=True))
        return found

    @property
    def lost(self) -> abc.Mapping[bytes, Item]:
        """What the server holds of values that are not there as a whole."""
        return {}

    @property
    def missing(self) -> int:
        """How many keys the server does not hold, of those it answered."""
        return len(self.keys) - len(self.found) - len(self.refused_keys)

    def take(self, lines: list[bytes], at: int) -> int:
        if self._parts is not None:
            return self._take_parts(self._parts, lines, at)
        end = at + len(self.keys) * 2
        if end >= len(lines) or lines[end] != b'END':
            end = at
            while lines[end] != b'END':
                end += 2
                if end >= len(lines):
                    return -1
        try:
            if end == at + 2 and self.words == 2:
                self._take_one(lines[at], lines[at + 1])
            elif end == at + len(self.keys) * 2 and self.words == 2:
                self._take_all(lines[at:end:2], lines[at + 1 : end : 2])
            else:
                self._take_some(lines[at:end:2], lines[at + 1 : end : 2])
        # It is said of what is wrong where it is read in steps.
        except ValueError:
            return -1
        self.answered = True
        return end + 1

    def _take_one(self, head: bytes, value: bytes) -> None:
        """Take a reply that has one value.

        :raises ValueError: if it is something else

        """
        keys = self.keys
        word, key, after = head.split(b' ', 2)
        flags, length, _ = _usual(after, 2)
        if len(value) != length or key not in keys or word != b'VALUE':
            raise ValueError(head)
        self.size = length
        if len(keys) == 1:
            self.flags = flags
            self.in_order = [value]
            self._found = None
        else:
            self._found = {key: (flags, value, None)}

    def _take_all(self, heads: list[bytes], found: list[bytes]) -> None:
        """Take a reply that has a value for each key, likewise."""
        sizes = [*map(len, found)]
        # Values of one kind and length are common.
        flags = _flags_if_alike(heads, self.keys, sizes)
        if flags is None:
            every = self._flags_of_two(heads, sizes)
            if every is None:
                every = self._flags_of_all(heads, sizes)
            if every is None:
                self._take_some(heads, found)
                return
            flags = every[0]
            if every.count(flags) < len(every):
                self.size = sum(sizes)
                self.mixed = every, found
                self._found = None
                return
        self.size = sum(sizes)
        self.flags = flags
        self.in_order = found
        self._found = None

    def _flags_of_two(
        self, heads: list[bytes], sizes: list[int]
    ) -> list[int] | None:
        """Return the flags of a few values, and of many others behind them.

        They are those of generations, and of what is read in these.

        :return: None if it is something else
        :raises ValueError: likewise

        """
        _, _, after = heads[0].split(b' ', 2)
        few = 1
        while heads[few].endswith(after):
            few += 1
            if few == len(heads) or few > MAX_FEW:
                return None
        keys = [*self.keys]
        first = _flags_if_alike(heads[:few], keys[:few], sizes[:few])
        if first is None:
            return None
        second = _flags_if_alike(heads[few:], keys[few:], sizes[few:])
        if second is None:
            return None
        return [first] * few + [second] * (len(heads) - few)

    def _flags_of_all(
        self, heads: list[bytes], sizes: list[int]
    ) -> list[int] | None:
        """Return the flags in these lines, if they are of all keys, in order.

        :return: None if they are not, or say other sizes
        :raises ValueError: if one says no size, or flags that are none

        """
        count = len(heads)
        # No line has a line end in it, so that each has as many words.
        words = b' \r\n '.join(heads).split(b' ')
        lengths = words[3::5]
        if not (
            len(words) == count * 5 - 1
            and words[4::5].count(NEWLINE) == count - 1
            and words[0::5].count(b'VALUE') == count
            and words[1::5] == [*self.keys]
            and b''.join(lengths).isdigit()
            and [*map(int, lengths)] == sizes
        ):
            return None
        flags = words[2::5]
        # There are few kinds of values.
        known = {each: _usual(b'%b 0' % each, 2)[0] for each in set(flags)}
        return [*map(known.__getitem__, flags)]

    def _take_some(self, heads: list[bytes], values: list[bytes]) -> None:
        """Take values of some of the keys, likewise."""
        keys = self.keys
        found: dict[bytes, Item] = {}
        size = 0
        for head, value in zip(heads, values, strict=True):
            word, key, after = head.split(b' ', 2)
            flags, length, unique = _usual(after, self.words)
            if len(value) != length or key not in keys or word != b'VALUE':
                raise ValueError(head)
            found[key] = flags, value, unique
            size += length
        if len(found) != len(heads):
            raise ValueError('a value came twice')
        self.size = size
        self._found = found

    def read(self, incoming: Incoming) -> int:
        if self._parts is not None:
            return self._read_parts(self._parts, incoming)
        if self._cut is not None:
            missing = self._read_on(self._cut, incoming)
            if missing:
                return missing
        left = len(self.keys) - len(self._coming)
        if left >= SEVERAL:
            self._read_usual(incoming, left)
        data = incoming.data
        at = incoming.at
        size = len(data)
        keys = self.keys
        found = self._coming
        find = data.find
        while True:
            end = find(NEWLINE, at, at + MAX_LINE)
            space = find(b' ', at + 6, end)
            if end < 0 or space < 0 or not data.startswith(b'VALUE ', at):
                incoming.at = at
                line = incoming.line()
                if line is None:
                    return 1
                if line != b'END':
                    return self.refused(line)
                self._found = found
                self.size = sum([len(data) for _, data, _ in found.values()])
                self.answered = True
                return 0
            flags, length, unique = self._numbers(data[space + 1 : end])
            key = data[at + 6 : space]
            if key not in keys or key in found:
                raise ProtocolError('a value of a key that was not asked for')
            start = end + 2
            stop = start + length
            if stop + 2 > size:
                if length > bounds.VALUE.most:
                    raise ProtocolError(f'a value of {length} bytes')
                if stop - size <= PIECE:
                    incoming.at = at
                    return stop + 2 - size
                self._cut = _Cut(
                    key, flags, unique, [data[start:]], stop - size
                )
                incoming.at = size
                return self._cut.missing
            if not data.startswith(NEWLINE, stop):
                raise ProtocolError('a value of another length than it says')
            found[key] = (flags, data[start:stop], unique)
            at = stop + 2

    def _read_usual(self, incoming: Incoming, left: int) -> None:
        """Read the values at the front that have come as a whole.

        All that is not as usual is left, and what comes behind it.

        :param int left: how many values are still to come, at most

        """
        head = incoming.data[incoming.at : incoming.at + MAX_LINE]
        words = head.partition(NEWLINE)[0].split(b' ')
        if len(words) < 4 or len(words[3]) > SMALL:
            # It is not worth a copy of all that has come.
            return
        lines = incoming.data[incoming.at :].split(NEWLINE, left * 2)
        # What is behind the last line end is no line yet, or another's.
        del lines[-1]
        keys = self.keys
        found = self._coming
        at = incoming.at
        for head, value in zip(lines[::2], lines[1::2], strict=False):
            try:
                word, key, after = head.split(b' ', 2)
                flags, length, unique = _numbers(after, self.words)
            except ValueError:
                break
            if (
                len(value) != length
                or key not in keys
                or key in found
                or word != b'VALUE'
            ):
                break
            found[key] = flags, value, unique
            at += len(head) + length + 4
        incoming.at = at

    def _read_parts(self, parts: list[Get], incoming: Incoming) -> int:
        for part in parts:
            if not part.answered:
                missing = part.read(incoming)
                if missing:
                    return missing
        self._end_parts(parts)
        return 0

    def _take_parts(
        self, parts: list[Get], lines: list[bytes], at: int
    ) -> int:
        for part in parts:
            at = part.take(lines, at)
            if at < 0:
                return -1
        self._end_parts(parts)
        return at

    def _end_parts(self, parts: abc.Sequence[Get]) -> None:
        """Put together what the parts have brought."""
        in_order: list[bytes] = []
        for part in parts:
            if part.in_order is None or part.flags != parts[0].flags:
                break
            in_order += part.in_order
        if in_order and len(in_order) == len(self.keys):
            # Nothing was kept, for that would be too many.
            self.flags = parts[0].flags
            self.size = sum([part.size for part in parts])
            self.in_order = in_order
            self._found = None
            self.answered = True
            return
        found = self._kept.copy()
        refused: dict[bytes, BaseException] = {}
        for part in parts:
            found.update(part.found)
            if part.error is not None:
                refused.update(dict.fromkeys(part.keys, part.error))
        self._found = found
        self.size = sum([len(data) for _, data, _ in found.values()])
        self.refused_keys = refused
        self.error = next(iter(refused.values()), None)
        self.answered = True

    def _read_on(self, cut: _Cut, incoming: Incoming) -> int:
        """Read the rest of a large value, as :meth:`read` does."""
        if cut.missing:
            stop = min(incoming.at + cut.missing, len(incoming.data))
            piece = incoming.data[incoming.at : stop]
            incoming.at = stop
            cut.pieces.append(piece)
            cut.missing -= len(piece)
            if cut.missing:
                return cut.missing
        if incoming.unread < 2:
            return 2 - incoming.unread
        if not incoming.data.startswith(NEWLINE, incoming.at):
            raise ProtocolError('a value of another length than it says')
        incoming.at += 2
        value = b''.join(cut.pieces)
        self._coming[cut.key] = (cut.flags, value, cut.unique)
        self._cut = None
        return 0

    def _numbers(self, text: bytes) -> tuple[int, int, int | None]:
        try:
            return _numbers(text, self.words)
        except ValueError:
            raise ProtocolError(f'a malformed {self.name} reply') from None

    def refused(self, line: bytes) -> int:
        try:
            return super().refused(line)
        finally:
            # Which of them it is about is not said.
            if len(self.keys) > 1:
                self.answered = False
            elif self.answered:
                self.refused_keys = self.keys

    def _in_step_after(self, line: bytes) -> bool:
        # Behind an error line for one of several keys a proxy may send the
        # values of others, and an end, and a server sends neither.
        return len(self.keys) == 1 and not self._coming


class Probe(Get):
    """A read that shows whether reads are answered.

    Whether there is such a key is nothing to anybody, and so no hit or miss.

    """

    __slots__ = ()

    @property
    def found(self) -> dict[bytes, Item]:
        return {}

    @property
    def missing(self) -> int:
        return 0


class MetaGet(Command):
    """``mg`` of one key, which also says whose turn it is to compute it.

    ``item`` is what the server holds, None for a miss; ``won`` is whether it
    told this caller, of all who ask, to compute the value, and ``marked``
    whether that was marked as stale (protocol.txt, "Meta Get", flags W, Z and
    X).

    :param bytes key: the key
    :param int vivify: make an empty item where there is none, with this
        exptime, and let the first caller win it
    :param int recache: let the first caller win that has less time left than
        this, which is an exptime as well

    """

    __slots__ = ('incarnation', 'item', 'key', 'marked', 'only_reads', 'won')

    name = 'mg'
    is_meta = True

    def __init__(
        self, key: bytes, vivify: int | None = None, recache: int | None = None
    ) -> None:
        request = b'mg %b k v f c' % key
        if vivify is not None:
            request += b' N%d' % vivify
        if recache is not None:
            request += b' R%d' % recache
        super().__init__(request + NEWLINE)
        self.key = key
        self.item: Item | None = None
        self.won = self.marked = False
        self.incarnation = 0
        self.only_reads = vivify is None

    @property
    def found(self) -> dict[bytes, Item]:
        """What there is, as in :class:`Get`."""
        return {} if self.item is None else {self.key: self.item}

    def start_over(self) -> None:
        super().start_over()
        self.item = None
        self.won = self.marked = False

    def meant_for(self, incarnation: int) -> bool:
        self.incarnation = incarnation
        return True

    def take(self, lines: list[bytes], at: int) -> int:
        words = lines[at].split(b' ')
        # What is behind the last line end is no line: an empty value of which
        # the end is missing would be one.
        if words[0] != b'VA' or len(words) < 5 or at + 2 >= len(lines):
            return -1
        _, length, key, flags, unique, *rest = words
        value = lines[at + 1]
        if (
            key != b'k' + self.key
            or length != b'%d' % len(value)
            or flags[:1] != b'f'
            or unique[:1] != b'c'
            or not flags[1:].isdigit()
            or not unique[1:].isdigit()
            or len(flags) > FLAGGED
            or len(unique) > FLAGGED
        ):
            return -1
        self.item = int(flags[1:]), value, int(unique[1:])
        self.won = b'W' in rest
        self.marked = b'X' in rest
        self.answered = True
        return at + 2

    def read(self, incoming: Incoming) -> int:
        at = incoming.at
        line = incoming.line()
        if line is None:
            return 1
        words = line.split(b' ')
        # memcached 1.6.18 says the key of a miss too.
        if line in (b'EN', b'EN k' + self.key):
            self.answered = True
            return 0
        if words[0] != b'VA' or len(words) < 2:
            return self.refused(line)
        length = bounds.VALUE.read(words[1])
        if length is None:
            raise ProtocolError('a value of a length that there is not')
        start = incoming.at
        stop = start + length
        missing = stop + 2 - len(incoming.data)
        if missing > 0:
            incoming.at = at
            return missing
        if incoming.data[stop : stop + 2] != NEWLINE:
            raise ProtocolError('a value of another length than it says')
        if b'k' + self.key not in words:
            raise ProtocolError('a value of a key that was not asked for')
        # A server leaves out the flags of a value that has none.
        numbers = {b'f': b'0', b'c': b'0'}
        for word in words[2:]:
            if word[:1] in numbers and word[1:].isdigit():
                numbers[word[:1]] = word[1:]
        self.item = (
            _flags(numbers[b'f']),
            incoming.data[start:stop],
            _unique(numbers[b'c']),
        )
        self.won = b'W' in words
        self.marked = b'X' in words
        incoming.at = stop + 2
        self.answered = True
        return 0


class Statistics(Command):
    """``stats`` and what it takes: pairs of a name and a text.

    ``result`` is a dict, or None if the server refused the argument.

    """

    __slots__ = ('pairs', 'size')

    name = 'stats'
    repeatable = True
    is_rare = True

    def __init__(self, argument: bytes = b'') -> None:
        request = b'stats %b' % argument if argument else b'stats'
        super().__init__(request + NEWLINE)
        self.pairs: dict[str, str] = {}
        self.size = 0
        """The bytes that have come."""

    def start_over(self) -> None:
        super().start_over()
        self.result = None
        self.pairs = {}
        self.size = 0

    def read(self, incoming: Incoming) -> int:
        while (line := incoming.line()) is not None:
            if line in (b'END', b'RESET', b'OK'):
                self.result = self.pairs
                self.answered = True
                return 0
            # STAT name text; ITEM key [...] of cachedump; PREFIX of detail.
            words = line.decode('latin-1').split(' ', 2)
            if len(words) < 2 or words[0] not in ('STAT', 'ITEM', 'PREFIX'):
                return self.refused(line)
            self.pairs[words[1]] = words[2] if len(words) > 2 else ''
            self.size += len(line)
            for size, bound in (
                (self.size, bounds.STATISTICS),
                (len(self.pairs), bounds.STATISTICS_NAMES),
            ):
                if size > bound.most:
                    self.pairs = {}
                    self.pass_over(bound)
                    raise OutOfStepError(str(self.error))
        return 1

    def _in_step_after(self, line: bytes) -> bool:
        # In the place of one of several, the others may come behind it.
        return not self.pairs


def store_request(
    verb: Verb, key: bytes, flags: int, exptime: int, value: bytes
) -> bytes:
    """Return what stores a value: the request of ``set`` and its like."""
    return b'%b %b %d %d %d\r\n%b\r\n' % (
        verb.name.encode(),
        key,
        flags,
        exptime,
        len(value),
        value,
    )


class Configuration(Command):
    """``config get cluster``, which ElastiCache's servers answer.

    ``result`` is what the configuration consists of.

    """

    __slots__ = ()

    name = 'config'
    repeatable = True

    def __init__(self) -> None:
        super().__init__(b'config get cluster\r\n')

    def read(self, incoming: Incoming) -> int:
        start = incoming.at
        line = incoming.line()
        if line is None:
            return 1
        words = line.split(b' ')
        if words[:2] != [b'CONFIG', b'cluster']:
            return self.refused(line)
        length = None
        if len(words) == 4:
            length = bounds.CONFIGURATION.read(words[3])
        if length is None:
            raise ProtocolError('a configuration of no length, or too long')
        end = incoming.at + length
        missing = end + 7 - len(incoming.data)
        if missing > 0:
            incoming.at = start
            return missing
        if incoming.data[end : end + 7] != b'\r\nEND\r\n':
            raise ProtocolError('a configuration of another length')
        self.result = incoming.data[incoming.at : end]
        incoming.at = end + 7
        self.answered = True
        return 0


def store(
    verb: Verb, key: bytes, flags: int, exptime: int, value: bytes
) -> Line:
    """Return the command that stores a value: ``set``, ``add`` and so on."""
    return Line(verb, store_request(verb, key, flags, exptime, value))


def compare_and_swap(
    key: bytes,
    flags: int,
    exptime: int,
    value: bytes,
    unique: int,
    incarnation: int,
) -> CompareAndSwap:
    """Return the command that stores a value if nobody else has since."""
    return CompareAndSwap(
        b'cas %b %d %d %d %d\r\n%b\r\n'
        % (key, flags, exptime, len(value), unique, value),
        incarnation,
    )


def count(verb: Verb, key: bytes, delta: int) -> Number:
    """Return the command that adds to a number or takes from it."""
    return Number(verb, b'%b %b %d\r\n' % (verb.name.encode(), key, delta))


def meta_count(
    verb: Verb, key: bytes, delta: int, initial: int, exptime: int
) -> MetaNumber:
    """Return the command that counts, and begins where there is no number.

    :param Verb verb: INCR or DECR
    :param int initial: the number that is made then, as it is
    :param int exptime: when that expires

    """
    return MetaNumber(
        b'ma %b N%d J%d D%d M%b t v\r\n'
        % (key, exptime, initial, delta, b'D' if verb is DECR else b'I')
    )


def delete_request(key: bytes) -> bytes:
    """Return the request of ``delete``."""
    return b'delete %b\r\n' % key


def delete(key: bytes) -> Line:
    """Return the command that deletes a key."""
    return Line(DELETE, delete_request(key))


def meta_delete(
    key: bytes,
    unique: int | None,
    incarnation: int | None,
    invalidate: bool = False,
    exptime: int | None = None,
) -> MetaDelete:
    """Return the command that deletes a key, or marks its value as stale.

    :param int unique: only if this is still the value's cas unique
    :param int incarnation: the life of the server that gave it out
    :param bool invalidate: keep the value, and let the next meta get win
    :param int exptime: when a value that is invalidated is dropped

    """
    request = b'md %b' % key
    if unique is not None:
        request += b' C%d' % unique
    if invalidate:
        request += b' I'
    if exptime is not None:
        request += b' T%d' % exptime
    return MetaDelete(request + NEWLINE, incarnation)


def meta_noop() -> Line:
    """Return the command that only servers with meta commands know."""
    return Line(META_NOOP, b'mn\r\n')


def touch(key: bytes, exptime: int) -> Line:
    """Return the command that gives a key another time to expire."""
    return Line(TOUCH, b'touch %b %d\r\n' % (key, exptime))


def flush_all() -> Line:
    """Return the command that makes every value expire."""
    return Line(FLUSH_ALL, b'flush_all\r\n')


class Hidden(bytes):
    """A request that no traceback shows, for there is a password in it."""

    def __repr__(self) -> str:
        return "b'***'"

    __str__ = __repr__


def authenticate(credentials: settings.Credentials) -> Line:
    """Return what a connection to ``memcached -Y`` has to begin with.

    Key, flags and time are there for the form only (protocol.txt,
    "Authentication").  To a server that asks for nothing it is a value, which
    expires at once: nobody can read the password from there.

    """
    token = Hidden(
        f'{credentials.username} {credentials.password.value}'.encode(
            'utf-8', 'surrogateescape'
        )
    )
    return Line(
        AUTHENTICATE,
        Hidden(
            b'set sprockets:authentication 0 %d %d\r\n%b\r\n'
            % (EXPIRED, len(token), token)
        ),
    )
