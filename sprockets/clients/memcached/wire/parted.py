"""Values that are stored in parts, for they are too large to be one item.

What is stored under the key itself is the *head*: it names a mark that
nothing else has, how many parts there are, and how long they are together.
Each part has a key that is derived from the key and the mark, and begins with
the mark.  So whoever stores a value overwrites no part of another one: it
takes the place of the old one when its head does, at once, or not at all.

"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import types
import typing
import uuid
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.wire import bounds, protocol

OVERHEAD = 512
"""Bytes that are left to the mark and to what memcached needs for an item, its
key among it, so that a part has room where a value of the limit has none."""

_HEAD = re.compile(rb'<parts ([0-9a-f]{32}) ([0-9]+) ([0-9]+) ([0-9]+)>')
"""Text, so that ``incr`` refuses it, of which no pickle begins with the first
character: to clients that take the flags for a pickle's it is a broken one."""


class Head(typing.NamedTuple):
    """What stands for a value that is in parts."""

    mark: bytes
    parts: int
    length: int
    """The bytes of all parts together, but for the marks."""
    flags: int
    """The flags of the value."""
    before: bytes = b''
    behind: bytes = b''
    """What was put before and behind the value by prepend and append."""

    def written(self) -> bytes:
        """Return it as it is stored."""
        return b'<parts %b %d %d %d>' % self[:4]

    def keys(self, key: bytes) -> list[bytes]:
        """Return the keys of the parts of a key's value."""
        made = hashlib.blake2b(b'%b %b' % (self.mark, key), digest_size=16)
        name = made.hexdigest().encode('ascii')
        return [b'part:%b:%d' % (name, place) for place in range(self.parts)]

    def places(self) -> list[slice]:
        """Return where in the value each part is: all are of one length, but
        for the last."""
        size = -(-self.length // self.parts)
        return [
            slice(start, min(start + size, self.length))
            for start in range(0, self.length, size)
        ]


def read_head(data: bytes, most: int) -> Head | None:
    """Return the head that is stored, None if it is none.

    :param int most: how many parts it may name

    """
    found = [*_HEAD.finditer(data)]
    if len(found) != 1:
        return None
    (match,) = found
    mark, *texts = match.groups()
    count = bounds.PARTS.read(texts[0])
    length = bounds.VALUE.read(texts[1])
    flags = bounds.FLAGS.read(texts[2])
    if not count or count > most or not length or flags is None:
        return None
    before, behind = data[: match.start()], data[match.end() :]
    head = Head(mark, count, length, flags, before, behind)
    # Fewer bytes than parts are none that anybody has stored.
    if count > length or len(head.places()) != count or flags == values.PARTED:
        return None
    return head


class Split(typing.NamedTuple):
    """A value as it is stored in parts."""

    head: Head
    keys: list[bytes]
    pieces: list[bytes | memoryview]
    """Of the requests that store them."""


def split(
    key: bytes, flags: int, exptime: int, data: bytes, room: int
) -> Split:
    """Return a value in as few parts as hold it.

    :param int room: the most bytes of a part, without its mark

    """
    mark = uuid.uuid4().hex.encode('ascii')
    head = Head(mark, -(-len(data) // room), len(data), flags)
    keys = head.keys(key)
    whole = memoryview(data)
    pieces: list[bytes | memoryview] = []
    for name, place in zip(keys, head.places(), strict=True):
        size = len(mark) + place.stop - place.start
        pieces.append(b'set %b 0 %d %d\r\n' % (name, exptime, size))
        pieces += mark, whole[place], protocol.NEWLINE
    return Split(head, keys, pieces)


class _Sought:
    """The parts of some values, whose heads are known.

    :param heads: the head of each key, and the item that it is

    """

    def __init__(
        self,
        heads: abc.Mapping[bytes, tuple[Head, protocol.Item]],
        name: str = 'get',
        exptime: int | None = None,
    ) -> None:
        self._heads = heads
        self._keys = {key: head.keys(key) for key, (head, _) in heads.items()}
        keys = dict.fromkeys(itertools.chain(*self._keys.values()))
        self.command = protocol.Get(keys, name, exptime)

    def items(
        self,
    ) -> tuple[dict[bytes, protocol.Item], dict[bytes, protocol.Item]]:
        """Return the values of which all parts came, and the other heads."""
        whole: dict[bytes, protocol.Item] = {}
        lost: dict[bytes, protocol.Item] = {}
        for key, (head, item) in self._heads.items():
            data = self._joined(key, head)
            if data is None:
                lost[key] = item
            else:
                whole[key] = head.flags, data, item[2]
        return whole, lost

    def _joined(self, key: bytes, head: Head) -> bytes | None:
        found = self.command.found
        start = len(head.mark)
        pieces: list[bytes | memoryview] = [head.before]
        for name, place in zip(self._keys[key], head.places(), strict=True):
            item = found.get(name)
            if (
                item is None
                or not item[1].startswith(head.mark)
                or len(item[1]) != start + place.stop - place.start
            ):
                return None
            pieces.append(memoryview(item[1])[start:])
        pieces.append(head.behind)
        return b''.join(pieces)


class Get(protocol.Get):
    """A read that goes on with the parts of the values that are in parts.

    To make one takes no more than a :class:`protocol.Get`: what most have no
    use for is the class's until there is something else.

    """

    most = 1
    """How many parts a value may have."""
    _asked = b''
    _sought: _Sought | None = None
    _lost: abc.Mapping[bytes, protocol.Item] = types.MappingProxyType({})

    @property
    def lost(self) -> abc.Mapping[bytes, protocol.Item]:
        return self._lost

    def start_over(self) -> None:
        if self._asked:
            self.request, self._asked = self._asked, b''
        self._lost = Get._lost
        self._sought = None
        super().start_over()

    def go_on(self) -> None:
        if self._sought is not None:
            self.start_over()
        else:
            super().go_on()

    def divide(self) -> bool:
        # They are asked for once more, with the rest.
        for part in (self, *(self._parts or ())):
            for kept in (part._coming, part._found or {}):
                for key in [k for k, i in kept.items() if _is_head(i)]:
                    del kept[key]
        return super().divide()

    def read(self, incoming: protocol.Incoming) -> int:
        sought = self._sought
        if sought is None:
            missing = super().read(incoming)
            if not missing and self.answered:
                self._take_heads()
            return missing
        missing = sought.command.read(incoming)
        if not missing:
            whole, self._lost = sought.items()
            found = {**self.found, **whole}
            self._found = found
            self.size = sum([len(data) for _, data, _ in found.values()])
            self.error = self.error or sought.command.error
            self.answered = True
        return missing

    def _take_heads(self) -> None:
        """Set the heads apart, of whose parts nothing is known yet."""
        heads = {}
        for key, item in self.found.items():
            head = read_head(item[1], self.most) if _is_head(item) else None
            if head is not None:
                heads[key] = head, item
        if heads:
            self._found = {
                key: item
                for key, item in self.found.items()
                if key not in heads
            }
            name = 'get' if self.only_reads else 'gat'
            self._sought = _Sought(heads, name, self._exptime)
            self.answered = False

    def proceed(self) -> bool:
        if self._sought is None or self._asked:
            return False
        self._asked = self.request
        self.request = self._sought.command.request
        return True


@functools.lru_cache(maxsize=16)
def reads(most: int) -> type[protocol.Get]:
    """Return what reads values of which each has so many parts at most."""
    return type('Get', (Get,), {'most': most}) if most > 1 else protocol.Get


class MetaGet(protocol.MetaGet):
    """Likewise, of one key by a meta command.

    :param int most: how many parts a value may have

    """

    __slots__ = ('_asked', '_most', '_sought')

    def __init__(
        self,
        most: int,
        key: bytes,
        vivify: int | None = None,
        recache: int | None = None,
    ) -> None:
        super().__init__(key, vivify, recache)
        self._most = most
        self._asked = self.request
        self._sought: _Sought | None = None

    def start_over(self) -> None:
        super().start_over()
        self.request = self._asked
        self._sought = None

    def take(self, lines: list[bytes], at: int) -> int:
        end = super().take(lines, at)
        if self.item is not None and _is_head(self.item):
            return -1
        return end

    def read(self, incoming: protocol.Incoming) -> int:
        sought = self._sought
        if sought is None:
            missing = super().read(incoming)
            if self.item is not None and _is_head(self.item):
                head = read_head(self.item[1], self._most)
                if head is not None:
                    self._sought = _Sought({self.key: (head, self.item)})
                    self.item = None
                    self.answered = False
            return missing
        missing = sought.command.read(incoming)
        if not missing:
            self.item = sought.items()[0].get(self.key)
            self.error = sought.command.error
            self.answered = True
        return missing

    def proceed(self) -> bool:
        if self._sought is None or self.request is not self._asked:
            return False
        self.request = self._sought.command.request
        return True


class Store(protocol.Line):
    """A command that stores a value in parts, and then their head.

    What stores it in any case is one request.  What may leave an old value
    where it is asks for the head once all parts are there: else the old value
    would be lost for parts that the server refuses.  Where it comes to
    nothing the parts are deleted again.

    :param Line head: what stores the head
    :param bytes key: the key of the value

    """

    __slots__ = (
        '_cleaning',
        '_head',
        '_is_asked',
        '_is_refused',
        '_key',
        '_left',
        '_parts',
        '_request',
        '_spares',
    )

    writes_on = True

    def __init__(self, head: protocol.Line, key: bytes, parts: Split) -> None:
        self._spares = head.verb is not protocol.SET
        # A reader never finds a head whose parts are still to come.
        pieces = parts.pieces
        if not self._spares:
            pieces = [*pieces, head.request]
        request = b''.join(pieces)
        super().__init__(head.verb, request)
        self._request = request
        self._head = head
        self._is_asked = not self._spares
        """Whether the head is asked for."""
        self._is_refused = False
        """Whether one of the parts was; an error may also say that nobody
        waits any more."""
        self._key = key
        self._parts = parts.keys
        self._left = len(parts.keys)
        """How many of the parts have no reply yet."""
        self._cleaning: protocol.Many | None = None

    def meant_for(self, incarnation: int) -> bool:
        return self._head.meant_for(incarnation)

    def start_over(self) -> None:
        super().start_over()
        self.request = self._request
        self._head.start_over()
        self._is_asked = not self._spares
        self._is_refused = False
        self._left = len(self._parts)
        self._cleaning = None

    def take(self, lines: list[bytes], at: int) -> int:
        end = at + len(self._parts)
        if (
            self._spares
            or lines[at:end] != [b'STORED'] * len(self._parts)
            or lines[end : end + 1] != [b'STORED']
        ):
            return -1
        return super().take(lines, end)

    def read(self, incoming: protocol.Incoming) -> int:
        if self._cleaning is not None:
            missing = self._cleaning.read(incoming)
            self.answered = not missing
            return missing
        while self._left:
            line = incoming.line()
            if line is None:
                return 1
            self._left -= 1
            if line != b'STORED' and not self._is_refused:
                self._is_refused = True
                self.refused(line)
                self.answered = False
        if not self._is_asked:
            return 0
        missing = self._head.read(incoming)
        if missing:
            return missing
        self.reply = self._head.reply
        self.error = self.error or self._head.error
        if self._head.result and not self._is_refused:
            self.result = self._head.result
            self.answered = True
        return 0

    def proceed(self) -> bool:
        if self._left or self._cleaning is not None:
            return False
        if not self._is_asked and not self._is_refused:
            self._is_asked = True
            self.request = self._head.request
            return True
        keys = self._parts
        if self._head.result:
            # It stands for parts of which one was refused.
            keys = [self._key, *keys]
        requests = [*map(protocol.delete_request, keys)]
        self._cleaning = protocol.Many(protocol.DELETE_ANY, requests)
        self.request = self._cleaning.request
        return True


class Touch(protocol.Line):
    """``touch`` of a key, and of its parts if its value is in parts.

    Which they are says the value, so that it is read.

    :param int most: how many parts a value may have

    """

    __slots__ = ('_exptime', '_key', '_look', '_most', '_request', '_touching')

    def __init__(self, most: int, key: bytes, exptime: int) -> None:
        self._look = protocol.Get((key,))
        first = protocol.touch(key, exptime)
        super().__init__(first.verb, first.request + self._look.request)
        self._request = self.request
        self._key = key
        self._exptime = exptime
        self._most = most
        self._touching: protocol.Many | None = None

    def start_over(self) -> None:
        super().start_over()
        self.reply = b''
        self.request = self._request
        self._look.start_over()
        self._touching = None

    def take(self, lines: list[bytes], at: int) -> int:
        at = super().take(lines, at)
        return -1 if at < 0 else self._look.take(lines, at)

    def read(self, incoming: protocol.Incoming) -> int:
        if self._touching is not None:
            missing = self._touching.read(incoming)
            if not missing:
                self.result = int(not self._touching.failed)
                self.error = self.error or self._touching.error
                self.answered = True
            return missing
        if not self.reply:
            missing = super().read(incoming)
            if missing:
                return missing
            self.answered = False
        missing = self._look.read(incoming)
        if missing:
            return missing
        item = self._look.found.get(self._key)
        head = None
        if item is not None and _is_head(item):
            head = read_head(item[1], self._most)
        if head is None or not self.result:
            self.answered = True
        else:
            requests = [
                protocol.touch(name, self._exptime).request
                for name in head.keys(self._key)
            ]
            self._touching = protocol.Many(protocol.TOUCH, requests)
        return 0

    def proceed(self) -> bool:
        if self._touching is None or self.request is not self._request:
            return False
        self.request = self._touching.request
        return True

    def _in_step_after(self, line: bytes) -> bool:
        # There is no value in either of its requests.
        return True


def _is_head(item: protocol.Item) -> bool:
    return item[0] == values.PARTED
