"""What ends together: keys that have the generation of a group in them.

A group, a namespace or a tag, has a generation: random text, which is a value
of its own.  The keys of the group have it in front.  To end all of them is to
give the group another generation, after which nobody asks for the old keys
any more, and memcached drops them when it needs the room.

A generation is never made twice, so that what has lost it, by eviction or with
a server, comes to an end too.  It is on its own server or nowhere: on another
one, to which keys go while their server is down, there may be an old one.

"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import os
import re
import time
import typing
from collections import abc

import memcache

from sprockets.clients.memcached import words
from sprockets.clients.memcached.once.steps import Ask, Steps
from sprockets.clients.memcached.requests import anykeys, encodings, errors
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

ATTEMPTS = 5
"""How often others may change a generation while one is made."""

MOST = 10_000
"""Groups whose generations are remembered."""

_ONCE = protocol.SET._replace(repeatable=False)
"""Sent once more it could bring back a generation that somebody has ended
since it was sent first."""

_PLAIN = re.compile(r'[!-~]{1,100}')

Group = tuple[bytes, ...]
"""The keys of the generations that a key has to have, as they are sent."""

Tokens = tuple[bytes, ...]
"""These generations."""


def checked(name: str, value: typing.Any) -> str:
    """Return what a group is called.

    :param str name: the argument, for the error
    :raises ValueError: if it is empty, or not to be read
    :raises TypeError: if it is no text

    """
    if not isinstance(value, str):
        raise TypeError(f'{name} is {words.shown(value)}; expected text')
    if not value or not value.isprintable() or value.isspace():
        raise ValueError(
            f'{name} is {words.shown(value)}; expected text that can be'
            ' printed'
        )
    return value


def checked_tags(tags: typing.Any) -> tuple[str, ...]:
    """Return tags, each once and in order.

    :raises ValueError: for one that is empty, or not to be read
    :raises TypeError: if they are none

    """
    if isinstance(tags, (str, bytes)) or not isinstance(tags, abc.Iterable):
        raise TypeError(
            f"tags is {words.shown(tags)}; expected a tuple, as ('catalog',)"
        )
    return tuple(sorted({checked('a tag', tag) for tag in tags}))


def fresh() -> bytes:
    """Return a generation that nobody has ever had."""
    return base64.urlsafe_b64encode(os.urandom(12))


class _UnknownError(Exception):
    """A generation is not known.

    :ivar BaseException reason: what went wrong

    """

    def __init__(self, reason: BaseException | None) -> None:
        super().__init__(reason)
        self.reason = reason or endpoints.UnavailableError(
            'no server answers that knows the generation'
        )


class Known(typing.NamedTuple):
    """How the keys of a group are sent, as far as is known."""

    tokens: Tokens
    rules: object
    """The :attr:`.Encoding.rules` of the client then."""
    encoding: encodings.Encoding


class Generations:
    """The generations of a client's groups, as they were last seen.

    They are no more than a guess, which saves a round trip.

    """

    def __init__(
        self, encoding: encodings.Encoding, servers: cluster.Cluster
    ) -> None:
        self._encoding = encoding
        self._cluster = servers
        self._tokens: dict[bytes, bytes] = {}
        self._known: dict[Group, Known] = {}
        self._tags: dict[tuple[str, ...], Group] = {}
        self._owed: set[bytes] = set()
        """Those that were to be ended, and could not be."""

    def key(self, kind: str, *names: str) -> bytes:
        """Return the key of a generation, as it is sent.

        :param str names: the name, with those that it is within in front

        """
        # No name has a line feed in it.
        name = '\n'.join(names)
        if not _PLAIN.fullmatch(name):
            # Two texts that are not alike have not the same.
            made = hashlib.blake2b(name.encode('utf-8', 'surrogatepass'))
            name = made.hexdigest()[:40]
            kind = f'{kind}-hash'
        key = b'%b%b:%b' % (
            self._encoding.prefix,
            kind.encode('ascii'),
            name.encode('ascii'),
        )
        # With a long prefix there may be no room for it.
        return anykeys.fit(key, memcache.SERVER_MAX_KEY_LENGTH)

    def tags(self, tags: typing.Any) -> Group:
        """Return the group of what has some tags.

        :raises ValueError: for a tag that is empty, or not to be read
        :raises TypeError: if they are none

        """
        if type(tags) is tuple:
            # The same few come again and again.
            try:
                group = self._tags.get(tags)
            except TypeError:
                group = None
            if group is not None:
                return group
        group = tuple([self.key('tag', tag) for tag in checked_tags(tags)])
        if type(tags) is tuple:
            _put(self._tags, tags, group)
        return group

    def guess(self, group: Group) -> Known | None:
        """Return how the keys of a group are sent, if that is known."""
        known = self._known.get(group)
        if known is None or known.rules is not self._encoding.rules:
            return None
        remembered = self._tokens.get
        for key, token in zip(group, known.tokens, strict=True):
            if remembered(key) != token:
                return None
        return known

    def within(self, group: Group, tokens: Tokens) -> encodings.Encoding:
        """Return how keys are sent in some generations."""
        known = self.guess(group)
        if known is not None and known.tokens == tokens:
            return known.encoding
        rules = self._encoding.rules
        encoding = copy.copy(self._encoding)
        token = tokens[0]
        if len(tokens) > 1:
            made = hashlib.blake2b(b' '.join(tokens), digest_size=12)
            token = base64.urlsafe_b64encode(made.digest())
        encoding.prefix = b'%b%b:' % (encoding.prefix, token)
        for key, each in zip(group, tokens, strict=True):
            _put(self._tokens, key, each)
        _put(self._known, group, Known(tokens, rules, encoding))
        return encoding

    def apart(self) -> encodings.Encoding:
        """Return how keys are sent that nobody is to find."""
        encoding = copy.copy(self._encoding)
        encoding.prefix = b'%b%b:' % (encoding.prefix, fresh())
        return encoding

    def look(
        self, group: Group, method: str | None = None
    ) -> Steps[Tokens | None]:
        """Ask for the generations of a group, and make those that are not.

        :param str method: what raises what goes wrong; None not to
        :return: None where one of the servers does not answer
        :raises MemcachedError: what goes wrong, for such a method

        """
        tokens = []
        for key in group:
            try:
                token = yield from self._look(key)
            except _UnknownError as unknown:
                if method is not None:
                    raise errors.of(method, unknown.reason) from None
                return None
            tokens.append(token)
        return tuple(tokens)

    def _look(self, key: bytes) -> Steps[bytes]:
        """Ask for a generation, and make it if there is none.

        :raises _UnknownError: if it cannot be known

        """
        route = cluster.Route(key, None)
        if key in self._owed:
            yield from self._end(key)
        for _ in range(ATTEMPTS):
            read = protocol.Get((key,))
            yield from self._ask(read, route)
            item = read.found.get(key)
            if item is not None:
                _put(self._tokens, key, item[1])
                return item[1]
            # Never one that was there before: it may have been ended.
            token = fresh()
            made = protocol.store(protocol.ADD, key, 0, 0, token)
            yield from self._ask(made, route)
            if made.result:
                _put(self._tokens, key, token)
                return token
        raise _UnknownError(None)

    def end(self, key: bytes, method: str | None = None) -> Steps[int]:
        """Give a group another generation.

        :param str method: what raises what goes wrong; None not to
        :return: nonzero if that was done; if not, it is done before the group
            is used again by this client
        :raises MemcachedError: what goes wrong, for such a method

        """
        try:
            yield from self._end(key)
        except _UnknownError as unknown:
            if method is not None:
                raise errors.of(method, unknown.reason) from None
            return 0
        return 1

    def _end(self, key: bytes) -> Steps[None]:
        """Give a group another generation, now or later.

        :raises _UnknownError: if that is for later

        """
        self._tokens.pop(key, None)
        route = cluster.Route(key, None)
        until = time.monotonic() + self._cluster.timeout
        for is_last in (False, True):
            token = fresh()
            made = protocol.store(_ONCE, key, 0, 0, token)
            try:
                yield from self._ask(made, route)
                if not made.result:
                    raise _UnknownError(None)
            except _UnknownError:
                if not is_last and time.monotonic() < until:
                    continue
                if len(self._owed) < MOST:
                    self._owed.add(key)
                raise
            break
        self._owed.discard(key)
        _put(self._tokens, key, token)

    def _ask(
        self, command: protocol.Command, route: cluster.Route
    ) -> Steps[None]:
        """Run a command on its own server.

        :raises _UnknownError: if that did not

        """
        home = self._cluster.home(route.key)
        endpoint = yield Ask(command, route, home)
        if home is None:
            # Which servers there are was not known before.
            home = self._cluster.home(route.key)
        if (
            endpoint is None
            or endpoint is not home
            or not command.answered
            or command.error is not None
        ):
            raise _UnknownError(command.error)

    def is_owed(self, group: Group) -> bool:
        """Whether a group is to be ended before it is used."""
        return bool(self._owed) and not self._owed.isdisjoint(group)


def _put(
    kept: dict[typing.Any, typing.Any], key: typing.Any, value: typing.Any
) -> None:
    """Keep something, in place of what was put first if it is too much."""
    if len(kept) >= MOST and key not in kept:
        # Another thread may come in between.
        with contextlib.suppress(RuntimeError):
            kept.pop(next(iter(kept), None), None)
    kept[key] = value
