"""A memcached in this process: it answers what is sent, and has no socket.

It speaks the commands that clients send (protocol.txt), so that all that is
above the wire does not know the difference.

"""

from __future__ import annotations

import itertools
import math
import os
import re
import select
import threading
import time
import typing
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.wire import connection, protocol

LIMIT = 64 * 1024 * 1024
"""Bytes of all values with their keys; memcached's own default (``-m``)."""

MAX_VALUE = 1024 * 1024
"""Bytes of a value with its key; memcached's own default (``-I``)."""

OVERHEAD = 50
"""Bytes that memcached needs for a value, besides."""

MAX_KEY = 250

MONTH = 60 * 60 * 24 * 30
"""Seconds up to which an exptime is a delta."""

_BAD_FORMAT = b'CLIENT_ERROR bad command line format\r\n'
_BAD_CHUNK = b'CLIENT_ERROR bad data chunk\r\n'
_BAD_DELTA = b'CLIENT_ERROR invalid numeric delta argument\r\n'
_BAD_EXPTIME = b'CLIENT_ERROR invalid exptime argument\r\n'
_BAD_FLAG = b'CLIENT_ERROR invalid flag\r\n'
_BAD_TOKEN = b'CLIENT_ERROR bad token in command line format\r\n'
_NO_NUMBER = (
    b'CLIENT_ERROR cannot increment or decrement non-numeric value\r\n'
)
_TOO_LARGE = b'SERVER_ERROR object too large for cache\r\n'

_NO_STATISTICS = {b'items', b'slabs', b'sizes', b'settings', b'conns'}
"""What there is nothing to say of."""

_Words = list[bytes]

_NUMBER = re.compile(rb'\s*([0-9]+)(?:\s|\Z)')

_META = {
    b'STORED\r\n': b'HD',
    b'NOT_STORED\r\n': b'NS',
    b'EXISTS\r\n': b'EX',
    b'NOT_FOUND\r\n': b'NF',
}

_MODES = {
    b's': b'set',
    b'set': b'set',
    b'e': b'add',
    b'a': b'append',
    b'p': b'prepend',
    b'r': b'replace',
}

_MAY_BE_SILENT = {b'incr', b'decr', b'delete', b'touch', b'flush_all'}

_STORAGE = {b'set', b'add', b'replace', b'append', b'prepend', b'cas'}


class Item:
    """What is stored for a key."""

    __slots__ = (
        'expires',
        'flags',
        'is_stale',
        'is_won',
        'kind',
        'unique',
        'value',
    )

    def __init__(
        self, flags: bytes, value: bytes, expires: float, unique: int
    ) -> None:
        self.flags = flags
        self.kind = int(flags)
        """The flags as a number."""
        self.value = value
        self.expires = expires
        """When it is gone, on :func:`time.monotonic`'s clock; 0 for never."""
        self.unique = unique
        self.is_stale = False
        self.is_won = False
        """Whether somebody was told to compute it anew."""

    def left(self, now: float) -> int:
        """Return how many seconds it has left, -1 if it does not expire.

        A second that has begun is one, as for memcached, which counts whole
        ones.

        """
        return math.ceil(self.expires - now) if self.expires else -1


class Store:
    """What one server holds.

    :param bool keeps: whether it does; if not, all that is stored is forgotten
        at once

    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self.lock = threading.Lock()
        self.items: dict[bytes, Item] = {}
        self._bytes = 0
        self._uniques = itertools.count(1)
        self._flush_at = 0.0
        self._hits = 0
        self._began = time.time()
        self.counts: dict[bytes, int] = dict.fromkeys(
            (
                b'cmd_get',
                b'cmd_set',
                b'cmd_flush',
                b'get_hits',
                b'get_misses',
                b'evictions',
            ),
            0,
        )
        self._commands: dict[bytes, abc.Callable[[_Words], bytes]] = {
            b'get': self._get,
            b'gets': self._gets,
            b'gat': self._gat,
            b'gats': self._gats,
            b'incr': self._incr,
            b'decr': self._decr,
            b'delete': self._delete,
            b'touch': self._touch,
            b'flush_all': self._flush_all,
            b'verbosity': lambda _: b'OK\r\n',
            b'version': lambda _: b'VERSION in this process\r\n',
            b'stats': self._stats,
            b'mg': self._meta_get,
            b'md': self._meta_delete,
            b'ma': self._meta_arithmetic,
            b'mn': lambda _: b'MN\r\n',
        }
        process.after_fork(self)

    def forget_after_fork(self) -> None:
        """Go on in a forked child with a copy, and a lock of its own."""
        self.lock = threading.Lock()

    def answer(self, words: _Words) -> bytes:
        """Return the reply to a command that brings no value."""
        command = self._commands.get(words[0])
        if command is None:
            return b'ERROR\r\n'
        self._flush_if_due()
        try:
            reply = command(words)
        except ValueError:
            return _BAD_FORMAT
        if words[-1] == b'noreply' and words[0] in _MAY_BE_SILENT:
            return b''
        return reply

    # What there is

    def look(self, key: bytes, now: float) -> Item | None:
        """Return what is stored for a key and has not expired."""
        item = self.items.get(key)
        if item is not None and item.expires and item.expires <= now:
            self.drop(key, item)
            return None
        return item

    def find(self, key: bytes, now: float) -> Item | None:
        """Return it for who reads it, who is counted."""
        self._flush_if_due()
        item = self.look(key, now)
        counts = self.counts
        counts[b'cmd_get'] += 1
        if item is None:
            counts[b'get_misses'] += 1
            return None
        counts[b'get_hits'] += 1
        if self._bytes > LIMIT // 2:
            # It is the last one now to make room for others.
            self.items[key] = self.items.pop(key)
        return item

    def hit(self, key: bytes, now: float) -> Item | None:
        """Return what is stored for a key, in fewer steps.

        :return: None if there is nothing, or if it is for :meth:`find` to say

        """
        with self.lock:
            item = self.items.get(key)
            if (
                item is None
                or (item.expires and item.expires <= now)
                or self._flush_at
                or self._bytes > LIMIT // 2
            ):
                return None
            self._hits += 1
            return item

    def uncount(self) -> None:
        """Take back a :meth:`hit` that is read once more, and counted then."""
        with self.lock:
            self._hits -= 1

    def drop(self, key: bytes, item: Item) -> None:
        """Let go of what is stored for a key."""
        del self.items[key]
        self._bytes -= len(key) + len(item.value) + OVERHEAD

    def _put(
        self, key: bytes, flags: bytes, value: bytes, expires: float
    ) -> Item:
        before = self.items.get(key)
        if before is not None:
            self.drop(key, before)
        item = Item(flags, value, expires, next(self._uniques))
        if self.keeps:
            self.items[key] = item
            self._bytes += len(key) + len(value) + OVERHEAD
            while self._bytes > LIMIT:
                oldest = next(iter(self.items))
                self.drop(oldest, self.items[oldest])
                self.counts[b'evictions'] += 1
        return item

    def _change(
        self, item: Item, value: bytes, in_place: bool = False
    ) -> None:
        """Let an item have another value, and the rest as it was.

        :param bool in_place: whether it is the same one for memcached; of
            another one nobody has said that it is stale

        """
        if not in_place:
            item.is_stale = item.is_won = False
        self._bytes += len(value) - len(item.value)
        item.value = value
        item.unique = next(self._uniques)

    def clear(self) -> None:
        """Hold nothing any more."""
        with self.lock:
            self._clear()

    def _clear(self) -> None:
        self._flush_at = 0.0
        self.items.clear()
        self._bytes = 0

    def _flush_if_due(self) -> None:
        if self._flush_at and time.monotonic() >= self._flush_at:
            self._clear()

    # Reading

    def _get(self, words: _Words) -> bytes:
        now = time.monotonic()
        found = []
        for key in _keys(words[1:]):
            item = self.find(key, now)
            if item is not None:
                value = item.value
                found.append(
                    b'VALUE %b %b %d\r\n%b\r\n'
                    % (key, item.flags, len(value), value)
                )
        found.append(b'END\r\n')
        return b''.join(found)

    def _gets(self, words: _Words) -> bytes:
        return self._with_uniques(words[1:], None)

    def _gat(self, words: _Words) -> bytes:
        expires = expiry(words[1])
        # What is over by then is read once more.
        found = self._get(words[1:])
        now = time.monotonic()
        for key in words[2:]:
            item = self.look(key, now)
            if item is not None:
                item.expires = expires
        return found

    def _gats(self, words: _Words) -> bytes:
        return self._with_uniques(words[2:], expiry(words[1]))

    def _with_uniques(self, keys: _Words, expires: float | None) -> bytes:
        now = time.monotonic()
        found = []
        for key in _keys(keys):
            item = self.find(key, now)
            if item is None:
                continue
            if expires is not None:
                item.expires = expires
            found.append(
                b'VALUE %b %b %d %d\r\n%b\r\n'
                % (key, item.flags, len(item.value), item.unique, item.value)
            )
        found.append(b'END\r\n')
        return b''.join(found)

    # Writing

    def store(
        self,
        verb: bytes,
        key: bytes,
        flags: bytes,
        expires: float,
        value: bytes,
        unique: int | None = None,
    ) -> bytes:
        """Store a value, and return the reply."""
        self._flush_if_due()
        self.counts[b'cmd_set'] += 1
        now = time.monotonic()
        item = self.look(key, now)
        if len(key) + len(value) + OVERHEAD > MAX_VALUE:
            if item is not None and verb == b'set':
                # It is not to be read in place of what was refused.
                self.drop(key, item)
            return _TOO_LARGE
        if unique is not None or verb == b'cas':
            if item is None:
                return b'NOT_FOUND\r\n'
            if item.unique != unique:
                return b'EXISTS\r\n'
        if verb == b'add' and item is not None:
            return b'NOT_STORED\r\n'
        if verb in (b'replace', b'append', b'prepend'):
            if item is None:
                return b'NOT_STORED\r\n'
            if verb != b'replace':
                both = item.value, value
                whole = b''.join(both if verb == b'append' else both[::-1])
                if len(key) + len(whole) + OVERHEAD > MAX_VALUE:
                    return b'SERVER_ERROR out of memory storing object\r\n'
                self._change(item, whole)
                return b'STORED\r\n'
        self._put(key, flags, value, expires)
        return b'STORED\r\n'

    def _incr(self, words: _Words) -> bytes:
        return self._count(words, 1)

    def _decr(self, words: _Words) -> bytes:
        return self._count(words, -1)

    def _count(self, words: _Words, sign: int) -> bytes:
        _, key, delta, *_ = words
        _check(key)
        if not delta.isdigit() or int(delta) >= 1 << 64:
            return _BAD_DELTA
        item = self.look(key, time.monotonic())
        if item is None:
            return b'NOT_FOUND\r\n'
        number = self._add(item, sign * int(delta))
        return _NO_NUMBER if number is None else b'%b\r\n' % number

    def _add(self, item: Item, delta: int) -> bytes | None:
        """Add to a number and return it; None if it is none."""
        match = _NUMBER.match(item.value)
        text = match[1] if match is not None else b''
        if not text or len(text) > 20 or int(text) >= 1 << 64:
            return None
        number = int(text) + delta
        changed = b'%d' % (max(number, 0) if delta < 0 else number % (1 << 64))
        # A number that is shorter than before has blanks behind it.
        fits = len(changed) <= len(item.value)
        whole = changed.ljust(len(item.value)) if fits else changed
        self._change(item, whole, fits)
        return changed

    def _delete(self, words: _Words) -> bytes:
        _, key, *more = words
        _check(key)
        if more and more[0] not in (b'0', b'noreply'):
            return (
                b'CLIENT_ERROR bad command line format.  Usage: delete <key>'
                b' [noreply]\r\n'
            )
        item = self.look(key, time.monotonic())
        if item is None:
            return b'NOT_FOUND\r\n'
        self.drop(key, item)
        return b'DELETED\r\n'

    def _touch(self, words: _Words) -> bytes:
        _, key, exptime, *_ = words
        _check(key)
        if not exptime.removeprefix(b'-').isdigit():
            return _BAD_EXPTIME
        item = self.look(key, time.monotonic())
        if item is None:
            return b'NOT_FOUND\r\n'
        item.expires = expiry(exptime)
        return b'TOUCHED\r\n'

    def _flush_all(self, words: _Words) -> bytes:
        self.counts[b'cmd_flush'] += 1
        delay = int(words[1]) if words[1:2] not in ([], [b'noreply']) else 0
        self._flush_at = time.monotonic() + max(delay, 0)
        self._flush_if_due()
        return b'OK\r\n'

    def _stats(self, words: _Words) -> bytes:
        for name in (b'cmd_get', b'get_hits'):
            self.counts[name] += self._hits
        self._hits = 0
        argument = b' '.join(words[1:])
        if argument == b'reset':
            self.counts = dict.fromkeys(self.counts, 0)
            return b'RESET\r\n'
        if argument in (b'detail on', b'detail off'):
            return b'OK\r\n'
        if argument in _NO_STATISTICS:
            return b'END\r\n'
        if argument:
            return b'CLIENT_ERROR no such statistics\r\n'
        pairs: dict[bytes, float] = {
            b'pid': os.getpid(),
            b'uptime': time.time() - self._began,
            b'time': time.time(),
            b'curr_items': len(self.items),
            b'bytes': self._bytes,
            b'limit_maxbytes': LIMIT if self.keeps else 0,
            b'curr_connections': 0,
            **self.counts,
        }
        lines = [b'STAT %b %d\r\n' % pair for pair in pairs.items()]
        return b'%bEND\r\n' % b''.join(lines)

    # Meta commands

    def _meta_get(self, words: _Words) -> bytes:
        _, key, *flags = words
        _check(key)
        given = _flags(flags)
        now = time.monotonic()
        item = self.find(key, now)
        won = False
        if item is None:
            if b'N' not in given:
                return b'' if b'q' in given else b'EN\r\n'
            item = self._put(key, b'0', b'', expiry(given[b'N']))
            won = True
        if b'R' in given and not item.is_won and item.expires:
            won = won or item.left(now) < _delta(given[b'R'])
        if b'T' in given:
            item.expires = expiry(given[b'T'])
        line = self._meta_line(key, item, given)
        if item.is_won:
            line += b' Z'
        if item.is_stale:
            line += b' X'
            won = won or not item.is_won
        if won:
            line += b' W'
            item.is_won = True
        if b'v' in given:
            return b'VA %d%b\r\n%b\r\n' % (len(item.value), line, item.value)
        return b'HD%b\r\n' % line

    def _meta_line(
        self,
        key: bytes,
        item: Item,
        given: abc.Mapping[bytes, bytes],
    ) -> bytes:
        """Return what is asked for of an item."""
        line = b''
        # By now it may have another time.
        now = time.monotonic()
        for name, token in given.items():
            if name == b'k':
                line += b' k%b' % key
            elif name == b'O':
                line += b' O%b' % token
            elif name == b'f':
                line += b' f%b' % item.flags
            elif name == b'c':
                line += b' c%d' % item.unique
            elif name == b's':
                line += b' s%d' % len(item.value)
            elif name == b't':
                line += b' t%d' % item.left(now)
        return line

    def meta_set(
        self, key: bytes, given: abc.Mapping[bytes, bytes], value: bytes
    ) -> bytes:
        """Store a value, and return the reply to ``ms``."""
        mode = _MODES.get(given.get(b'M', b'S').lower())
        if mode is None:
            return b'CLIENT_ERROR invalid mode for ms\r\n'
        unique = given.get(b'C')
        reply = self.store(
            mode,
            key,
            given.get(b'F', b'0'),
            expiry(given.get(b'T', b'0')),
            value,
            None if unique is None else int(unique),
        )
        status = _META.get(reply)
        if status is None:
            return reply
        if status == b'HD' and b'q' in given:
            return b''
        return b'%b%b\r\n' % (status, _echo(key, given))

    def _meta_delete(self, words: _Words) -> bytes:
        _, key, *flags = words
        _check(key)
        given = _flags(flags)
        item = self.look(key, time.monotonic())
        echo = _echo(key, given)
        if item is None:
            return b'' if b'q' in given else b'NF%b\r\n' % echo
        if b'C' in given and int(given[b'C']) != item.unique:
            return b'EX%b\r\n' % echo
        if b'I' in given:
            if b'T' in given:
                item.expires = expiry(given[b'T'])
            item.is_stale = True
            item.is_won = False
            item.unique = next(self._uniques)
        else:
            self.drop(key, item)
        return b'' if b'q' in given else b'HD%b\r\n' % echo

    def _meta_arithmetic(self, words: _Words) -> bytes:
        _, key, *flags = words
        _check(key)
        given = _flags(flags)
        delta = given.get(b'D', b'1')
        if not delta.isdigit() or int(delta) >= 1 << 64:
            return _BAD_DELTA
        mode = given.get(b'M', b'I')[:1].lower()
        if mode not in (b'i', b'+', b'd', b'-'):
            return b'CLIENT_ERROR invalid mode for ma M token\r\n'
        now = time.monotonic()
        item = self.look(key, now)
        if item is None:
            if b'N' not in given:
                return b'' if b'q' in given else b'NF\r\n'
            first = b'%d' % int(given.get(b'J', b'0'))
            item = self._put(key, b'0', first, expiry(given[b'N']))
        elif b'C' in given and int(given[b'C']) != item.unique:
            return b'EX%b\r\n' % _echo(key, given)
        else:
            sign = 1 if mode in (b'i', b'+') else -1
            if self._add(item, sign * int(delta)) is None:
                return _NO_NUMBER
            if b'T' in given:
                item.expires = expiry(given[b'T'])
        line = self._meta_line(key, item, given)
        number = item.value.rstrip(b' ')
        if b'v' in given:
            return b'VA %d%b\r\n%b\r\n' % (len(number), line, number)
        return b'' if b'q' in given else b'HD%b\r\n' % line


def _echo(key: bytes, given: abc.Mapping[bytes, bytes]) -> bytes:
    """Return what is said of a request that has no item."""
    line = b' O%b' % given[b'O'] if b'O' in given else b''
    return b' k%b%b' % (key, line) if b'k' in given else line


def _flags(words: _Words) -> dict[bytes, bytes]:
    """Return the tokens of meta flags, by the flag."""
    return {word[:1]: word[1:] for word in words}


def _check(key: bytes) -> None:
    """Refuse a key that cannot be one.

    :raises ValueError: if it is too long

    """
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError


def _keys(keys: _Words) -> _Words:
    if not keys or len(max(keys, key=len)) > MAX_KEY:
        raise ValueError
    return keys


def expiry(exptime: bytes) -> float:
    """Return when something is gone, on :func:`time.monotonic`'s clock.

    :return: 0 for never
    :raises ValueError: for what is no number

    """
    if not int(exptime):
        return 0.0
    return time.monotonic() + max(_delta(exptime), 0)


def _delta(exptime: bytes) -> int:
    """Return in how many seconds that is; less than 0 if it is over."""
    seconds = int(exptime)
    return seconds - int(time.time()) if seconds > MONTH else seconds


class _Value(typing.NamedTuple):
    """A command whose value is still to come."""

    words: _Words
    size: int


class Session:
    """What comes on one connection, which may be cut anywhere."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._rest = b''
        self._value: _Value | None = None

    def answer(self, data: bytes) -> bytes:
        """Return the replies to what has come as a whole by now."""
        with self.store.lock:
            if not self._rest and self._value is None:
                # As most come: one command, or several, and no value.
                lines = data.split(b'\r\n')
                if len(lines) == 2 and not lines[1]:
                    words = lines[0].split(b' ')
                    if words[0] in (b'get', b'mg'):
                        return self.store.answer(words)
            return b''.join(self._replies(data))

    def _replies(self, data: bytes) -> abc.Iterator[bytes]:
        data = self._rest + data
        at = 0
        while True:
            if self._value is not None:
                end = at + self._value.size
                if len(data) < end + 2:
                    break
                (words, _), self._value = self._value, None
                if data[end : end + 2] == b'\r\n':
                    yield self._store(words, data[at:end])
                else:
                    yield _BAD_CHUNK
                at = end + 2
                continue
            end = data.find(b'\n', at)
            if end < 0:
                break
            words = data[at:end].removesuffix(b'\r').split()
            at = end + 1
            if not words:
                yield b'ERROR\r\n'
            elif words[0] in _STORAGE or words[0] == b'ms':
                refusal = self._expect(words)
                if refusal:
                    yield refusal
            else:
                yield self.store.answer(words)
        self._rest = data[at:]

    def _expect(self, words: _Words) -> bytes:
        """Wait for a value.

        :return: why it is not to come, nothing if it is

        """
        try:
            if words[0] == b'ms':
                size = int(words[2])
            else:
                size = int(words[4])
                if not words[2].isdigit() or int(words[2]) >= 1 << 32:
                    return _BAD_FORMAT
                int(words[3])
                if words[0] == b'cas':
                    int(words[5])
            if size < 0 or len(words[1]) > MAX_KEY:
                return _BAD_FORMAT
        except ValueError:
            return _BAD_FORMAT
        except IndexError:
            return b'ERROR\r\n'
        self._value = _Value(words, size)
        return b''

    def _store(self, words: _Words, value: bytes) -> bytes:
        verb, key, *more = words
        store = self.store
        if verb == b'ms':
            try:
                return store.meta_set(key, _flags(more[1:]), value)
            except ValueError:
                return _BAD_TOKEN
        unique = int(more[3]) if verb == b'cas' else None
        reply = store.store(verb, key, more[0], expiry(more[1]), value, unique)
        return b'' if more[-1] == b'noreply' else reply


STORES = {'memory': Store(), 'none': Store(keeps=False)}
"""The servers of this process, by the family of their address."""


class _Poll:
    """Tells whether there is a reply, as :func:`select.poll` does."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def poll(self, timeout: float = 0) -> list[tuple[int, int]]:
        if self._link.replies:
            return [(-1, select.POLLIN)]
        # Nobody else brings one.
        time.sleep(timeout / 1000)
        return []

    def modify(self, sock: object, events: int) -> None:
        """There is only one thing to wait for."""


class Connection(connection.Connection):
    """A connection to a server in this process: it waits for nothing."""

    def __init__(self, profile: connection.Profile, deadline: float) -> None:
        self.replies: list[bytes] = []
        super().__init__(profile, deadline)

    def _open(self, profile: connection.Profile, deadline: float) -> None:
        self._session = Session(STORES[profile.address.family])
        self._poll: typing.Any = _Poll(self)

    def close(self) -> None:
        self.usable = False
        self.replies.clear()

    def shut_down(self) -> None:
        self.usable = False

    def fileno(self) -> int:
        return -1

    def is_quiet(self) -> bool:
        return self.usable

    def is_lost(self) -> bool:
        return not self.usable

    def ask(
        self, command: protocol.Command, began: float, deadline: float
    ) -> bool:
        if not self.usable:
            return False
        try:
            data = self._session.answer(command.request)
            lines = data.split(protocol.NEWLINE)
            if command.take(lines, 0) == len(lines) - 1:
                return True
            command.start_over()
            self.is_silent = False
            self._incoming.feed(data)
        except BaseException:
            self.close()
            raise
        self._sent = len(command.request)
        self.exchange((command,), deadline)
        return True

    def _send(self, data: bytes | memoryview) -> int:
        if not self.usable:
            raise ConnectionResetError('closed')
        reply = self._session.answer(bytes(data))
        if reply:
            self.replies.append(reply)
            if self.tell is not None:
                self.tell()
        return len(data)

    def _take_replies(self) -> bytes:
        replies = self.replies
        data = replies[0] if len(replies) == 1 else b''.join(replies)
        replies.clear()
        return data

    def _read(self, missing: int) -> bytes:
        if not self.usable:
            raise ConnectionResetError('closed')
        return self._take_replies()

    def _receive(self, missing: int, deadline: float) -> None:
        self.is_silent = False
        self._incoming.feed(self._take_replies())
