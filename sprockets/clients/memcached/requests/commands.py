"""What the methods' arguments become: checked, encoded, ready to be sent."""

from __future__ import annotations

import datetime
import logging
import math
import numbers
import operator
import re
import time as clock
import typing
from collections import abc

import memcache

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.servers import cluster, health
from sprockets.clients.memcached.wire import protocol

LOGGER = logging.getLogger(__name__)

MONTH = 60 * 60 * 24 * 30
"""Seconds up to which memcached takes an exptime for a delta
(protocol.txt, "Expiration times")."""

EARLIEST_DATE = 1_000_000_000
"""Seconds since the epoch (September 2001) from which a number is taken for
a date.  As a delta it would be more than 31 years."""

LATEST_DATE = (1 << 31) - 1
"""The latest exptime that memcached reads, in seconds since the epoch."""

MAX_DELTA = (1 << 64) - 1
"""The largest number that memcached adds or takes away."""

MAX_KEYS = 1000
"""The most keys that one ``get`` asks for."""

T = typing.TypeVar('T')

_KEY_CHARACTERS = re.compile(rb'[\x21-\x7e\x80-\xff]+')


def exptime(time: typing.Any) -> int:
    """Return what memcached is told about when a value expires.

    :param time: seconds, or a :class:`datetime.timedelta`: a delta, unless it
        is a number that is plausible as a date in seconds since the epoch; 0
        for never
    :return: 0, up to 30 days as a delta, or seconds since the epoch
    :rtype: int
    :raises ValueError: if it is no number, or cannot be a time

    """
    if type(time) is int and 0 <= time <= MONTH:
        return time
    if isinstance(time, datetime.timedelta):
        return _from_delta(time.total_seconds())
    try:
        # A decimal is a number, but none of the real ones.
        known = isinstance(time, numbers.Number)
        seconds = float(typing.cast(typing.Any, time)) if known else math.nan
    except (TypeError, OverflowError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f'time is {time!r}; expected seconds or a timedelta')
    if seconds < EARLIEST_DATE:
        return _from_delta(seconds)
    if seconds > LATEST_DATE:
        raise ValueError(
            f'time is {time!r}, too late for memcached as a date in seconds'
            ' since the epoch; milliseconds?'
        )
    return math.ceil(seconds)


def seconds(name: str, value: typing.Any) -> float:
    """Return a time span in seconds.

    :param str name: the argument, for the error
    :param value: seconds, or a :class:`datetime.timedelta`
    :raises ValueError: if it is none, or less than 0

    """
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(
            f'{name} is {value!r}; expected seconds or a timedelta'
        )
    return float(value)


def whole_seconds(name: str, value: typing.Any, least: int) -> int:
    """Return a time span in whole seconds, rounded up, up to 30 days.

    :param str name: the argument, for the error
    :param value: seconds, or a :class:`datetime.timedelta`
    :raises ValueError: if it is none, or out of bounds

    """
    whole = math.ceil(seconds(name, value))
    if not least <= whole <= MONTH:
        raise ValueError(
            f'{name} is {value!r}; expected {least} to {MONTH} seconds'
        )
    return whole


def _from_delta(seconds: float) -> int:
    if seconds < 0:
        return protocol.EXPIRED
    # A part of a second counts as one: 0 would be never.
    whole = math.ceil(seconds)
    if whole <= MONTH:
        return whole
    return min(int(clock.time()) + whole, LATEST_DATE)


def check_no_delay(time: typing.Any) -> None:
    """Refuse the delay of ``delete`` that memcached gave up in 1.4.

    :raises ValueError: if there is one, or if it is no number

    """
    if time is None or (isinstance(time, numbers.Real) and time == 0):
        return
    raise ValueError(
        f'time is {time!r}; memcached does not delay deletions any more, None'
        ' or 0 expected'
    )


class Token(typing.NamedTuple):
    """What a ``gets`` saw: a value, nothing, or no answer at all."""

    endpoint: health.Endpoint | None
    """The server that answered; None if none did."""
    incarnation: int
    unique: int | None
    """The cas unique of the value, None if there was no value."""


class Tokens:
    """What the ``gets`` of one scope saw, each for one ``cas``.

    Only the latest ``limit`` are kept.

    """

    limit = 10_000

    def __init__(self) -> None:
        self._tokens: dict[cluster.Route, Token] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def remember(
        self,
        route: cluster.Route,
        command: protocol.Get,
        endpoint: health.Endpoint | None,
    ) -> None:
        """Keep what a ``gets`` brought in place of what one before did."""
        item = command.found.get(route.key)
        self._tokens.pop(route, None)
        self._tokens[route] = Token(
            endpoint if command.answered else None,
            command.incarnation,
            None if item is None else item[2],
        )
        if len(self._tokens) > self.limit:
            del self._tokens[next(iter(self._tokens))]

    def take(self, route: cluster.Route) -> Token:
        """Return what the ``gets`` of this key saw, for the last time.

        :raises RuntimeError: if there was none since the last ``cas``

        """
        try:
            return self._tokens.pop(route)
        except KeyError:
            raise RuntimeError(
                'cas without gets: this key was not read with gets before, or'
                ' there was a cas since then'
            ) from None

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()


class Name:
    """A key that is used again and again, and what it is on the wire.

    :param str key: the key

    """

    __slots__ = ('key', 'sent')

    def __init__(self, key: str) -> None:
        self.key = key
        self.sent: tuple[object, bytes] = (None, b'')
        """The :attr:`Requests.rules` by which it was last encoded, and what
        it was then."""


_DROP = protocol.Verb('set', {b'DELETED': 0, b'NOT_FOUND': 0}, True)
"""A ``set`` of a value that is too large: the old one is served no more."""


class Requests:
    """Makes the commands of one client from the arguments of its methods.

    Whatever is wrong with an argument raises here, before anything is sent.
    The attributes are the constructor arguments of :class:`memcache.Client`
    of the same name.

    :param Codec codec: turns values into bytes
    :param bytes prefix: put before every key

    """

    def __init__(self, codec: values.Codec, prefix: bytes = b'') -> None:
        self.rules = object()
        """Another one each time that keys may be encoded in another way."""
        self.codec = codec
        self.prefix = prefix
        self.do_check_key = True
        self.key_encoder: abc.Callable[[typing.Any], typing.Any] | None = None
        self.server_max_key_length = memcache.SERVER_MAX_KEY_LENGTH

    def __setattr__(self, name: str, value: typing.Any) -> None:
        # What was remembered of keys does not count any more.
        super().__setattr__(name, value)
        super().__setattr__('rules', object())

    def key(self, key: typing.Any) -> bytes | None:
        """Return the bytes of a plain key, None if it wants a closer look."""
        if (
            type(key) is str
            and key.isascii()
            and key.isprintable()
            and ' ' not in key
            and self.key_encoder is None
        ):
            encoded = self.prefix + key.encode()
            if len(key) > 0 and len(encoded) <= self.server_max_key_length:
                return encoded
        return None

    def route(self, key: typing.Any) -> cluster.Route:
        """Return the key as it is sent, and the hash that came with it.

        :param key: text, bytes, or a tuple of a hash and one of them
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key

        """
        encoded = self.key(key)
        if encoded is not None:
            return cluster.Route(encoded, None)
        key, hashed = self._split(key)
        return cluster.Route(
            self._joined(self.prefix, self._encoded(key)), hashed
        )

    def route_of(self, name: Name) -> cluster.Route:
        """Return what :meth:`route` does, and remember it with the name.

        What a ``key_encoder`` makes of a key may differ the next time.

        :raises memcache.Client.MemcachedKeyError: what is wrong with the key

        """
        rules = self.rules
        encoded = self.key(name.key)
        if encoded is None:
            return self.route(name.key)
        # Both at once, for the sake of other threads.
        name.sent = rules, encoded
        return cluster.Route(encoded, None)

    def keys(
        self, originals: abc.Sequence[typing.Any], key_prefix: typing.Any
    ) -> cluster.Keys:
        """Return the keys of a ``*_multi`` method as they are sent.

        Here a key may be anything, a number say: its ``str()`` is sent.

        :raises memcache.Client.MemcachedKeyError: what is wrong with a key

        """
        prefix = self._encoded(key_prefix)
        if prefix != b'':
            self._check_prefix(prefix)
        prefix = self.prefix + prefix
        keys = self._plain_keys(originals, prefix)
        if keys is not None:
            return cluster.Keys(keys, None)
        keys = []
        hashes = []
        for original in originals:
            key, hashed = self._split(original)
            encoded = self._encoded(key)
            if encoded is not None and not isinstance(encoded, bytes):
                encoded = str(encoded).encode('utf-8')
            keys.append(self._joined(prefix, encoded))
            hashes.append(hashed)
        return cluster.Keys(keys, hashes)

    def _plain_keys(
        self, originals: abc.Sequence[typing.Any], prefix: bytes
    ) -> list[bytes] | None:
        """Return the bytes of keys if all are plain, as :meth:`key` does.

        They are looked at as one text, for which Python needs no loop.

        """
        if self.key_encoder is not None or {*map(type, originals)} != {str}:
            return None
        sizes = {*map(len, originals)}
        text = ''.join(originals)
        if (
            not text.isascii()
            or not text.isprintable()
            or ' ' in text
            or 0 in sizes
            or len(prefix) + max(sizes) > self.server_max_key_length
        ):
            return None
        start = prefix.decode('latin-1')
        between = f' {start}'
        encoded = f'{start}{between.join(originals)}'.encode('latin-1')
        return encoded.split(b' ')

    def _split(self, key: typing.Any) -> tuple[typing.Any, int | None]:
        """Return what ``key_encoder`` makes of a key, and the hash for it.

        Either may be a tuple with a hash; the encoder's is the last word.

        """
        key, hashed = _split(key)
        if self.key_encoder is not None:
            key = self.key_encoder(key)
            if isinstance(key, tuple):
                return _split(key)
        return key, hashed

    def _encoded(self, key: typing.Any) -> typing.Any:
        return key.encode('utf-8') if isinstance(key, str) else key

    def _check_prefix(self, prefix: typing.Any) -> None:
        self._checked(prefix, len(self.prefix))

    def _joined(self, prefix: bytes, key: typing.Any) -> bytes:
        """Return a key with what goes before it, as it is sent."""
        return prefix + self._checked(key, len(prefix))

    def _checked(self, key: typing.Any, extra: int) -> bytes:
        if self.do_check_key or not isinstance(key, bytes):
            memcache.Client.check_key(self, key, extra)
        # check_key lets a newline at the end pass, which would end the
        # command and begin another.
        if not _KEY_CHARACTERS.fullmatch(key):
            raise memcache.Client.MemcachedKeyCharacterError(
                f'Control/space characters not allowed (key={key!r})'
            )
        return typing.cast(bytes, key)

    def store(
        self,
        verb: protocol.Verb,
        key: bytes,
        value: typing.Any,
        time: typing.Any,
        min_compress_len: int,
    ) -> protocol.Line | None:
        """Return the command that stores a value.

        :return: None if the value is too large for anything to be done
        :raises ValueError: if the time is none
        :raises Exception: what pickling raises for what cannot be pickled

        """
        when = exptime(time)
        data = self.encoded(verb, value, min_compress_len)
        if data is None:
            if verb is not protocol.SET:
                return None
            return protocol.Line(_DROP, b'delete %b\r\n' % key)
        return protocol.store(verb, key, data[0], when, data[1])

    def cas(
        self,
        route: cluster.Route,
        value: typing.Any,
        time: typing.Any,
        min_compress_len: int,
        tokens: Tokens,
    ) -> tuple[protocol.Line | None, health.Endpoint | None]:
        """Return the command of a ``cas``, and the one server it is for.

        :return: no command if it cannot succeed any more
        :raises RuntimeError: if there was no ``gets``
        :raises ValueError: if the time is none
        :raises Exception: what pickling raises for what cannot be pickled

        """
        when = exptime(time)
        data = self.encoded(protocol.CAS, value, min_compress_len)
        endpoint, incarnation, unique = tokens.take(route)
        if data is None or endpoint is None:
            return None, None
        if unique is None:
            return (
                protocol.store(
                    protocol.ADD, route.key, data[0], when, data[1]
                ),
                endpoint,
            )
        return (
            protocol.compare_and_swap(
                route.key, data[0], when, data[1], unique, incarnation
            ),
            endpoint,
        )

    def store_all(
        self,
        mapping: abc.Mapping[typing.Any, typing.Any],
        time: typing.Any,
        key_prefix: typing.Any,
        min_compress_len: int,
    ) -> Made:
        """Return the commands of a ``set_multi``, all values serialized.

        :raises ValueError: if the time is none
        :raises Exception: what pickling raises, with a note of the key

        """
        when = exptime(time)
        originals = list(mapping)
        keys = self.keys(originals, key_prefix)
        made = Made(protocol.SET, originals, keys)
        put = made.requests.append
        for place, key in enumerate(keys.keys):
            try:
                data = self.encoded(
                    protocol.SET, mapping[originals[place]], min_compress_len
                )
            except Exception as error:
                _name_key(error, originals[place])
                raise
            if data is None:
                made.too_large.add(place)
                put(protocol.delete_request(key))
            else:
                flags, value = data
                put(
                    b'set %b %d %d %d\r\n%b\r\n'
                    % (key, flags, when, len(value), value)
                )
        return made

    def delete_all(
        self, keys: abc.Iterable[typing.Any], key_prefix: typing.Any
    ) -> Made:
        """Return the commands of a ``delete_multi``."""
        originals = list(keys)
        encoded = self.keys(originals, key_prefix)
        made = Made(protocol.DELETE_ANY, originals, encoded)
        made.requests.extend(map(protocol.delete_request, encoded.keys))
        return made

    def encoded(
        self, verb: protocol.Verb, value: typing.Any, min_compress_len: int
    ) -> tuple[int, bytes] | None:
        """Return the flags and the bytes of a value, None if it is too large.

        :raises Exception: what pickling raises for what cannot be pickled

        """
        flags, data = self.codec.encode(
            value,
            # What is appended becomes a part of another value.
            -1
            if verb is protocol.APPEND or verb is protocol.PREPEND
            else min_compress_len,
        )
        limit = self.codec.max_length
        if limit and len(data) > limit:
            LOGGER.warning(
                'A value of %d bytes is not stored, %d are the limit',
                len(data),
                limit,
            )
            return None
        return flags, data


def count(
    verb: protocol.Verb, key: bytes, delta: typing.Any
) -> protocol.Number:
    """Return the command that adds to a number or takes from it.

    :raises ValueError: if the delta is no whole number from 0 to 2**64 - 1

    """
    try:
        value = operator.index(delta)
    except TypeError:
        raise ValueError(
            f'delta is {delta!r}; expected a whole number'
        ) from None
    if not 0 <= value <= MAX_DELTA:
        raise ValueError(f'delta is {delta!r}; expected 0 to 2**64 - 1')
    return protocol.count(verb, key, value)


def statistics(argument: typing.Any) -> protocol.Statistics:
    """Return the command that asks for statistics.

    :raises ValueError: if the argument is no plain text

    """
    if not argument:
        return protocol.Statistics()
    if isinstance(argument, bytes):
        argument = argument.decode('latin-1')
    if not (
        isinstance(argument, str)
        and argument.isascii()
        and argument.isprintable()
    ):
        raise ValueError(f'{argument!r} is no argument of stats')
    return protocol.Statistics(argument.encode('ascii'))


def _name_key(error: Exception, key: typing.Any) -> None:
    """Make an error say which key's value it is about."""
    if isinstance(error, UnicodeEncodeError):
        error.reason += f', in the value of {key!r}'
    elif error.args and isinstance(error.args[0], str):
        error.args = (f'value of {key!r}: {error.args[0]}', *error.args[1:])
    elif hasattr(error, 'add_note'):
        error.add_note(f'This was the value of {key!r}.')


def _split(key: typing.Any) -> tuple[typing.Any, int | None]:
    """Return the key and the hash of a ``(hash, key)``."""
    if not isinstance(key, tuple):
        return key, None
    if len(key) != 2 or not isinstance(key[0], int):
        raise memcache.Client.MemcachedKeyTypeError(
            f'{key!r} is not a tuple of a whole number and a key'
        )
    return key[1], key[0]


class Made:
    """The requests of a ``*_multi`` method that writes.

    :param Verb verb: what all of them are, but for those that delete a value
        in place of which there is one that is too large
    :param list originals: the keys as they were given
    :param Keys keys: the keys as they are sent

    """

    def __init__(
        self,
        verb: protocol.Verb,
        originals: abc.Sequence[typing.Any],
        keys: cluster.Keys,
    ) -> None:
        self.keys = keys
        self.requests: list[bytes] = []
        self.too_large: set[int] = set()
        self._verb = verb
        self._originals = originals
        self._places: dict[protocol.Command, abc.Sequence[int]] = {}

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> list[protocol.Command]:
        """Return the commands for the keys at some places, in order."""
        commands: list[protocol.Command] = []
        for some in _chunks(places):
            if self.too_large:
                dropped = [p for p in some if p in self.too_large]
                some = [p for p in some if p not in self.too_large]
                if dropped:
                    commands.append(self._many(_DROP, dropped))
            if some:
                commands.append(self._many(self._verb, some))
        return commands

    def _many(
        self, verb: protocol.Verb, places: abc.Sequence[int]
    ) -> protocol.Many:
        command = protocol.Many(verb, _at(places, self.requests))
        self._places[command] = places
        return command

    def failed(self, done: abc.Iterable[protocol.Command]) -> list[typing.Any]:
        """Return the keys, as they were given, whose command did not succeed.

        :param list done: the commands that were sent and are over

        """
        done = list(done)
        if sum([c.count for c in done if c.answered]) == len(
            self.requests
        ) and not any(c.failed for c in done if isinstance(c, protocol.Many)):
            return []
        failed = dict.fromkeys(range(len(self.requests)))
        for command in done:
            if isinstance(command, protocol.Many):
                places = self._places[command]
                succeeded = set(places[: command.done])
                succeeded.difference_update(
                    [places[at] for at in command.failed]
                )
                for place in succeeded:
                    del failed[place]
        return [self._originals[place] for place in failed]


def _at(places: abc.Sequence[int], items: abc.Sequence[T]) -> abc.Sequence[T]:
    """Return the items at some places."""
    if places == range(len(items)):
        return items
    return [items[place] for place in places]


def _chunks(places: abc.Sequence[T]) -> abc.Iterator[abc.Sequence[T]]:
    for at in range(0, len(places), MAX_KEYS):
        yield places[at : at + MAX_KEYS]


def get_all(
    keys: cluster.Keys,
) -> abc.Callable[[abc.Sequence[int]], list[protocol.Command]]:
    """Return what makes the commands that read the keys at some places."""
    encoded = keys.keys

    def make(places: abc.Sequence[int]) -> list[protocol.Command]:
        wanted = dict.fromkeys(_at(places, encoded))
        if len(wanted) <= MAX_KEYS:
            return [protocol.Get(wanted)]
        return [
            protocol.Get(dict.fromkeys(some)) for some in _chunks([*wanted])
        ]

    return make


def found(
    originals: abc.Iterable[typing.Any],
    keys: cluster.Keys,
    done: abc.Iterable[protocol.Command],
    codec: values.Codec,
) -> dict[typing.Any, typing.Any]:
    """Return the values that were read, by the keys as they were given.

    Each key gets a value of its own, though others share its bytes.

    """
    items: dict[bytes, protocol.Item] = {}
    for command in done:
        if isinstance(command, protocol.Get):
            items = {**items, **command.found} if items else command.found
    find = items.get
    decode = codec.decode_or
    result = {}
    for original, key in zip(originals, keys.keys, strict=True):
        item = find(key)
        if item is not None:
            value = decode(item[0], item[1], _MISS)
            if value is not _MISS:
                result[original] = value
    return result


_MISS = object()


def statistics_of(
    servers: abc.Iterable[cluster.Server],
    asked: abc.Mapping[health.Endpoint, protocol.Command],
) -> list[tuple[str, dict[str, str]]]:
    """Return pairs of a server's name and its statistics.

    :raises ValueError: if a server refused the argument

    """
    result = []
    for server in servers:
        command = asked.get(server.endpoint)
        if command is None:
            continue
        if isinstance(command.error, protocol.RefusedError):
            # Without an argument, or with this answer, it is the server's
            # fault and not the caller's.
            argument = command.request != statistics(None).request
            if argument and 'SERVER_ERROR' not in str(command.error):
                raise ValueError(f'memcached refuses {command.error}')
        if command.result is not None:
            result.append((server.name, command.result))
    return result


BySlab = list[tuple[str, dict[str, typing.Any]]]


def slab_statistics(pairs: abc.Iterable[tuple[str, dict[str, str]]]) -> BySlab:
    """Arrange ``stats slabs`` by the number that begins a name: ``1:name``."""
    return [(name, _by_slab(statistics, 0)) for name, statistics in pairs]


def item_statistics(pairs: abc.Iterable[tuple[str, dict[str, str]]]) -> BySlab:
    """Arrange ``stats items`` by the number in ``items:1:name``."""
    return [(name, _by_slab(statistics, 1)) for name, statistics in pairs]


def _by_slab(
    statistics: abc.Mapping[str, str], place: int
) -> dict[str, typing.Any]:
    result: dict[str, typing.Any] = {}
    for name, text in statistics.items():
        parts = name.split(':')
        if len(parts) > place + 1:
            slab = result.setdefault(parts[place], {})
            slab[':'.join(parts[place + 1 :])] = text
        else:
            result[name] = text
    return result


def outcome(
    keys: abc.Sequence[bytes],
    done: abc.Iterable[protocol.Command],
) -> tuple[BaseException | None, int, int]:
    """Return an error if there was one, the hits, and the misses of reads."""
    error: BaseException | None = None
    hits = asked = reached = 0
    for command in done:
        error = error or command.error
        reached += command.count
        if isinstance(command, protocol.Get):
            hits += len(command.found)
            asked += (
                len(command.keys) if command.answered else len(command.found)
            )
    # Keys that were given twice are read once.
    if reached < len(keys) and reached < len({*keys}):
        error = error or health.UnavailableError('no server is up')
    return error, hits, asked - hits
