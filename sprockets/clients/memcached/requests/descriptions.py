"""What a method asks of the servers, described: either face can run it.

A description says which commands a call consists of, where they go, and what
its result is.  It knows neither a socket nor a loop: a face sends the
commands, by way of threads or of batches.

"""

from __future__ import annotations

import itertools
import types
import typing
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import tokens
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

MAX_KEYS = 1000
"""The most keys that one command is about."""

DROP = protocol.Verb('set', {b'DELETED': 0, b'NOT_FOUND': 0}, True)
"""A ``set`` of a value that is too large: the old one is served no more."""

T = typing.TypeVar('T')
R = typing.TypeVar('R')
"""What the caller of a method gets."""


class One(typing.Generic[R]):
    """A command for the server of one key.

    :ivar name: the method
    :ivar command: None if nothing is to be sent, for it has failed already
    :ivar route: the key as it is sent
    :ivar only: the one server that it may be sent to, None for any

    """

    __slots__ = ('command', 'name', 'only', 'route')

    wanted = ''
    """The reply of which python-memcached prints all others while its
    ``debug`` is set."""

    def __init__(
        self,
        name: str,
        command: protocol.Command | None,
        route: cluster.Route,
        only: endpoints.Endpoint | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.route = route
        self.only = only

    def note(
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> None:
        """Take note of what came, if the caller still waits for it.

        It is called in the caller's thread.

        :param Endpoint endpoint: the server, None if it was sent to none

        """

    def weight(self, command: protocol.Command) -> int:
        """Return how much :meth:`unpack` has to do; see values.weight."""
        return 0

    def unpack(self, command: protocol.Command) -> R:
        """Return what the caller gets; it may be called in any thread."""
        result: R = command.result
        return result

    @property
    def failure(self) -> R:
        """What the caller gets where there is nothing to be sent."""
        return typing.cast(R, 0)


class Store(One[int]):
    """A command that stores a value, or does not."""

    __slots__ = ()

    wanted = 'STORED'


class Silent(One[int | None]):
    """A command of whose result the caller wants to know nothing."""

    __slots__ = ()

    def unpack(self, command: protocol.Command) -> None:
        """Return what ``noreply`` promises."""


class Read(One[typing.Any]):
    """A command that brings the value of its key, or the default."""

    __slots__ = ('_codec', '_default')

    def __init__(
        self,
        name: str,
        command: protocol.Get,
        route: cluster.Route,
        codec: values.Codec,
        default: typing.Any = None,
    ) -> None:
        super().__init__(name, command, route)
        self._codec = codec
        self._default = default

    def weight(self, command: protocol.Command) -> int:
        return _weight(command)

    def unpack(self, command: protocol.Command) -> typing.Any:
        item = typing.cast(protocol.Get, command).found.get(self.route.key)
        return self._codec.value_of(item, self._default)


class ReadKind(Read):
    """A read of a value that is of some type; any other is a miss."""

    __slots__ = ('_kind',)

    def __init__(
        self,
        name: str,
        command: protocol.Get,
        route: cluster.Route,
        codec: values.Codec,
        default: typing.Any,
        kind: typing.Any,
    ) -> None:
        super().__init__(name, command, route, codec, default)
        self._kind = kind

    def unpack(self, command: protocol.Command) -> typing.Any:
        value = super().unpack(command)
        return value if isinstance(value, self._kind) else self._default


class ReadForCas(Read):
    """A read after which a ``cas`` of the same scope may store a value."""

    __slots__ = ('_saw',)

    def __init__(
        self,
        name: str,
        command: protocol.Get,
        route: cluster.Route,
        codec: values.Codec,
        saw: tokens.Tokens,
    ) -> None:
        super().__init__(name, command, route, codec)
        self._saw = saw

    def note(
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> None:
        self._saw.remember(
            self.route, typing.cast(protocol.Get, command), endpoint
        )


class Many(typing.Generic[R]):
    """Commands for the servers of many keys.

    Nothing is sent before all keys, and what is stored with them, have been
    checked and encoded.  That takes long if there are many, and so it is done
    in parts: in an event loop others come in between.

    :param parts: checks and encodes one part after the other
    :ivar name: the method

    """

    def __init__(self, name: str, parts: abc.Iterator[cluster.Keys]) -> None:
        self.name = name
        self._parts = parts
        self._encoded: list[bytes] = []
        self._hashes: list[int | None] | None = None
        self._keys: cluster.Keys | None = None
        self._places: dict[protocol.Command, abc.Sequence[int]] = {}
        """Of which keys each command is."""
        self._is_late = False

    def prepare(self) -> bool:
        """Check and encode the next part.

        :return: whether there may be another one
        :raises Exception: what is wrong with an argument

        """
        if self._keys is not None:
            return False
        part = next(self._parts, None)
        if part is None:
            self._keys = cluster.Keys(self._encoded, self._hashes)
            return False
        if part.hashes is not None and self._hashes is None:
            self._hashes = [None] * len(self._encoded)
        self._encoded += part.keys
        if self._hashes is not None:
            self._hashes += part.hashes or [None] * len(part.keys)
        return True

    @property
    def keys(self) -> cluster.Keys:
        """All keys as they are sent.

        :raises Exception: what is wrong with an argument

        """
        while self._keys is None:
            self.prepare()
        return self._keys

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> list[protocol.Command]:
        """Return the commands for the keys at some places, in order.

        All of them are keys of the same server.

        """
        raise NotImplementedError

    def fit(self, places: abc.Sequence[int], size: int) -> int:
        """Return for how many of these keys one command is best.

        :param int size: the most bytes of a request, unless it is for one key

        """
        return min(len(places), MAX_KEYS)

    def weight(self, command: protocol.Command) -> int:
        """Return how much :meth:`unpack` has to do; see values.weight."""
        return 0

    def unpack(self, command: protocol.Command) -> None:
        """Take what a command brought that was sent and is over.

        It may be called in any thread, for several commands at once.

        """
        raise NotImplementedError

    def late(self) -> None:
        """Take note that there is no time for the rest."""
        self._is_late = True

    def lack(
        self, done: abc.Iterable[protocol.Command]
    ) -> BaseException | None:
        """Return why there are keys of which none of these commands is.

        :param done: commands that were sent
        :return: None if there are no such keys

        """
        # A key that was given twice is at two places.
        reached = sum([len(self._places[command]) for command in done])
        if self._keys is not None and reached >= len(self._keys.keys):
            return None
        if self._is_late:
            return TimeoutError('timed out')
        return endpoints.UnavailableError()

    def result(self) -> R:
        """Return what the caller gets, put together of what was taken."""
        raise NotImplementedError


class ReadMany(Many[dict[typing.Any, typing.Any]]):
    """Commands that bring the values of many keys.

    Each key gets a value of its own, though others share its bytes.

    :param list originals: the keys as they were given
    :param get: what reads values
    :raises TypeError: if one of them cannot be the key of a dict

    """

    def __init__(
        self,
        name: str,
        originals: abc.Sequence[typing.Any],
        parts: abc.Iterator[cluster.Keys],
        codec: values.Codec,
        get: type[protocol.Get] = protocol.Get,
    ) -> None:
        super().__init__(name, parts)
        self._get = get
        self._values: dict[typing.Any, typing.Any] = {}
        self._budget = values.Budget(codec.max_inflated_len)
        self._made: list[int] = []
        """How many values each command has brought."""
        self._originals = originals
        self._codec = codec

    def prepare(self) -> bool:
        at = len(self._encoded)
        more = super().prepare()
        part = self._originals[at : len(self._encoded)]
        # What is wrong with it as a dict's key is said before it is asked for.
        self._values.update(dict.fromkeys(part, values.MISS))
        return more

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> list[protocol.Command]:
        commands: list[protocol.Command] = []
        for some in _chunks(places):
            wanted = dict.fromkeys(_at(some, self._encoded))
            command = self._get(wanted)
            self._places[command] = some
            commands.append(command)
        return commands

    def weight(self, command: protocol.Command) -> int:
        return _weight(command)

    def unpack(self, command: protocol.Command) -> None:
        places = self._places[command]
        originals = _at(places, self._originals)
        get = typing.cast(protocol.Get, command)
        parts = get.in_order
        if parts is not None and len(parts) == len(places):
            misses = self._codec.fill_alike(
                self._values, originals, get.flags, parts, self._budget
            )
        else:
            items = map(get.found.get, _at(places, self._encoded))
            misses = self._codec.fill(
                self._values, originals, items, self._budget
            )
        self._made.append(len(originals) - misses)

    def result(self) -> dict[typing.Any, typing.Any]:
        made = self._values
        # A key that was given twice was also made twice.
        if sum(self._made) == len(made) == len(self._originals):
            return made
        # Those that come late are entered in what nobody has.
        miss = values.MISS
        return {
            original: value
            for original, value in made.items()
            if value is not miss
        }


class WriteMany(Many[R]):
    """Commands of one verb for many keys.

    :param Verb verb: what all of them are
    :param list originals: the keys as they were given
    :param list requests: the request for each key, once all is encoded
    :param set dropped: the places of the keys whose value is too large: what
        there is in its place is deleted, but nothing is stored; likewise
    :param dict alone: commands of their own in place of some of the requests,
        by their places; likewise

    """

    def __init__(
        self,
        name: str,
        originals: abc.Sequence[typing.Any],
        parts: abc.Iterator[cluster.Keys],
        verb: protocol.Verb,
        requests: abc.Sequence[bytes],
        dropped: abc.Set[int] = frozenset(),
        alone: abc.Mapping[int, protocol.Line] = types.MappingProxyType({}),
    ) -> None:
        super().__init__(name, parts)
        self._originals = originals
        self._verb = verb
        self._requests = requests
        self._dropped = dropped
        self._alone = alone
        self._succeeded: list[abc.Sequence[int]] = []

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> list[protocol.Command]:
        commands: list[protocol.Command] = []
        for some in _chunks(places):
            if self._dropped:
                dropped = [p for p in some if p in self._dropped]
                some = [p for p in some if p not in self._dropped]
                if dropped:
                    commands.append(self._many(DROP, dropped))
            if self._alone:
                alone = [p for p in some if p in self._alone]
                some = [p for p in some if p not in self._alone]
                for place in alone:
                    command = self._alone[place]
                    # It may have been to another server in vain.
                    command.start_over()
                    self._places[command] = (place,)
                    commands.append(command)
            if some:
                commands.append(self._many(self._verb, some))
        return commands

    def fit(self, places: abc.Sequence[int], size: int) -> int:
        for number, place in enumerate(places[:MAX_KEYS]):
            size -= len(self._requests[place])
            if size < 0:
                return max(number, 1)
        return min(len(places), MAX_KEYS)

    def _many(
        self, verb: protocol.Verb, places: abc.Sequence[int]
    ) -> protocol.Many:
        command = protocol.Many(verb, _at(places, self._requests))
        self._places[command] = places
        return command

    def unpack(self, command: protocol.Command) -> None:
        if isinstance(command, protocol.Line):
            if command.result:
                self._succeeded.append(self._places[command])
            return
        command = typing.cast(protocol.Many, command)
        places = self._places[command][: command.done]
        if command.failed:
            failed = {*command.failed}
            places = [p for at, p in enumerate(places) if at not in failed]
        self._succeeded.append(places)

    def failed(self) -> list[typing.Any]:
        """Return the keys, as they were given, whose command failed."""
        if sum(map(len, self._succeeded)) == len(self._originals):
            return []
        succeeded = {*itertools.chain.from_iterable(self._succeeded)}
        return [
            original
            for place, original in enumerate(self._originals)
            if place not in succeeded
        ]


class StoreMany(WriteMany[list[typing.Any]]):
    """Commands that store, whose result is what was not stored."""

    def result(self) -> list[typing.Any]:
        return self.failed()


class DeleteMany(WriteMany[int]):
    """Commands that delete, whose result is whether all succeeded."""

    def result(self) -> int:
        return int(not self.failed())


class Everywhere(typing.Generic[R]):
    """A command for every server that is up.

    :ivar name: the method
    :ivar make: returns the command, another one for each server
    :ivar result: returns what the caller gets, of the commands that were
        sent; it raises :exc:`ValueError` if a server says that the call is at
        fault

    """

    def __init__(
        self,
        name: str,
        make: abc.Callable[[], protocol.Command],
        result: abc.Callable[
            [abc.Mapping[endpoints.Endpoint, protocol.Command]], R
        ],
    ) -> None:
        self.name = name
        self.make = make
        self.result = result


def found(command: protocol.Command) -> tuple[int, int]:
    """Return the hits and the misses of a command of one key."""
    values_ = getattr(command, 'found', None)
    if values_ is None or not command.answered or command.error is not None:
        return 0, 0
    return (1, 0) if values_ else (0, 1)


def outcome(
    done: abc.Collection[protocol.Command],
    request: Many[typing.Any] | None = None,
) -> tuple[BaseException | None, int, int]:
    """Return an error if there was one, the hits, and the misses of reads.

    :param done: the commands that were sent
    :param request: what is asked of many keys, if it is that

    """
    error: BaseException | None = None
    hits = asked = 0
    for command in done:
        error = error or command.error
        if isinstance(command, protocol.Get):
            hits += len(command.found)
            asked += len(command.found)
            if command.answered:
                asked += command.missing
    if error is None and request is not None:
        error = request.lack(done)
    return error, hits, asked - hits


def _weight(command: protocol.Command) -> int:
    """Return how much work it is to make the values that a read brought."""
    get = typing.cast(protocol.Get, command)
    if get.in_order is not None:
        return values.weight(get.flags, sum(map(len, get.in_order)))
    return values.weight_of(get.found.values())


def _at(places: abc.Sequence[int], items: abc.Sequence[T]) -> abc.Sequence[T]:
    """Return the items at some places."""
    if isinstance(places, range) and places.step == 1:
        return items[places.start : places.stop]
    return [items[place] for place in places]


def _chunks(places: abc.Sequence[T]) -> abc.Iterator[abc.Sequence[T]]:
    for at in range(0, len(places), MAX_KEYS):
        yield places[at : at + MAX_KEYS]
