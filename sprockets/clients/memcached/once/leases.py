"""The value computed once: get_or_set and update, step by step.

The functions are generators without any I/O.  They yield what is to be done
next, and are sent what came of it: so the blocking and the awaitable client
do the same.

Who may compute is settled by a lease, which is a key of its own, on the
server of the key that it is about.  memcached can also keep a lease in that
key itself (meta get with N, protocol.txt), but every other client takes it
for an empty value, ``add`` fails on it and ``incr`` is an error.  This way
there is a miss where there is no value yet, for everybody.

"""

from __future__ import annotations

import enum
import functools
import hashlib
import random
import time as clock
import typing
import uuid
from collections import abc

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import commands
from sprockets.clients.memcached.servers import cluster, health
from sprockets.clients.memcached.wire import protocol

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two looks for a value that somebody else computes."""

TICK = 1
"""Seconds by which memcached may let a key expire too early: it counts whole
ones."""


class _Absent(enum.Enum):
    """What is in place of something that is not there."""

    MISS = 'MISS'
    NO_META = 'NO_META'
    UNREACHABLE = 'UNREACHABLE'

    def __repr__(self) -> str:
        return self.value


MISS: typing.Any = _Absent.MISS
"""In place of a value that is not there."""

NO_META: typing.Any = _Absent.NO_META
"""In place of a server that knows no meta commands."""

UNREACHABLE: typing.Any = _Absent.UNREACHABLE
"""In place of a lease where the server gives none."""


class UpdateError(Exception):
    """An ``update`` did not come about, or it is not known whether it did."""


class Ask(typing.NamedTuple):
    """Run a command; the server that it went to is sent back."""

    command: protocol.Command
    route: cluster.Route
    only: health.Endpoint | None = None


class Pause(typing.NamedTuple):
    """Do nothing for some seconds."""

    seconds: float


class Compute(typing.NamedTuple):
    """Call the caller's function; what it returns is sent back."""

    arguments: tuple[typing.Any, ...] = ()


Step = Ask | Pause | Compute
T = typing.TypeVar('T')
Steps = abc.Generator[Step, typing.Any, T]


class Terms(typing.NamedTuple):
    """Time spans of a ``get_or_set``, checked."""

    stale: int
    """Seconds for which a value is served after its time."""
    lease: int
    """Seconds that a computation may take before another one begins."""
    wait: float
    """Seconds to wait for a value that another process computes."""


@functools.lru_cache(maxsize=256)
def terms(stale: typing.Any, lease: typing.Any, wait: typing.Any) -> Terms:
    """Return time spans, checked; the same few come again and again.

    :raises ValueError: for what is none
    :raises TypeError: for what cannot be hashed, and so is none

    """
    seconds = commands.whole_seconds('lease', lease, 1)
    return Terms(
        commands.whole_seconds('stale', stale, 0),
        seconds,
        # So long that one who dies may be followed by another.
        2.0 * (seconds + TICK)
        if wait is None
        else commands.seconds('wait', wait),
    )


USUAL = terms(0, 10, None)
"""The time spans of a call that says nothing about them."""


def check_callable(name: str, function: typing.Any) -> None:
    """Raise :exc:`TypeError` for what cannot be called."""
    if not callable(function):
        raise TypeError(f'{name} is {function!r}; expected a function')


How = tuple[int, Terms, typing.Any, bool, int]
"""How a ``get_or_set`` is to get a value, checked: exptime, terms, default,
cache_none, min_compress_len, as in :class:`Plan`."""


class Plan(typing.NamedTuple):
    """What a ``get_or_set`` is to do: its arguments, checked."""

    route: cluster.Route
    exptime: int
    """When the value is to be computed anew; 0 for never."""
    kept: int
    """When it is dropped, as an exptime."""
    terms: Terms
    default: typing.Any
    """What to return instead of waiting; MISS to wait."""
    cache_none: bool
    min_compress_len: int

    @property
    def patience(self) -> float:
        """Seconds to wait for another caller in this process.

        That one may have to wait for another process and then compute.

        """
        return self.terms.wait + self.terms.lease


def kept(exptime: int, terms: Terms) -> int:
    """Return when a value is dropped, as an exptime.

    :raises ValueError: if it would have to be kept too long

    """
    if terms.stale and exptime > 0:
        return commands.exptime(exptime + terms.stale)
    return exptime


def plan(
    route: cluster.Route,
    exptime: int,
    terms: Terms,
    default: typing.Any,
    cache_none: bool,
    min_compress_len: int,
) -> Plan:
    """Return the plan for these arguments.

    :raises ValueError: if the value would have to be kept too long

    """
    return Plan(
        route,
        exptime,
        kept(exptime, terms),
        terms,
        default,
        cache_none,
        min_compress_len,
    )


def _aside(purpose: bytes, key: bytes) -> bytes:
    """Return a key of our own that goes with a caller's."""
    digest = hashlib.blake2b(key, digest_size=16).hexdigest()
    return b'%b:%b' % (purpose, digest.encode('ascii'))


def lease_key(key: bytes) -> bytes:
    """Return the key that whoever computes the value of a key holds."""
    return _aside(b'lease', key)


def fresh_key(key: bytes) -> bytes:
    """Return the key that is there while a value need not be computed anew.

    It is for servers without meta commands, which do not tell how much time
    a value has left.

    """
    return _aside(b'fresh', key)


def invalidate(route: cluster.Route) -> Steps[int]:
    """Delete a key, and the lease of whoever computes its value.

    In this order: either the value is deleted, or whoever stores it finds the
    lease gone, and deletes it.

    """
    command = protocol.delete(route.key)
    yield Ask(command, route)
    if command.answered and not command.result:
        # There is no value: perhaps it is being computed.
        yield Ask(protocol.delete(lease_key(route.key)), route)
        command = protocol.delete(route.key)
        yield Ask(command, route)
    return typing.cast(int, command.result)


class Lease(typing.NamedTuple):
    """The right to compute, until it runs out."""

    endpoint: health.Endpoint
    incarnation: int
    unique: int | None
    """The cas unique of a lease from a meta command."""
    token: bytes
    """The value of a lease from ``add``."""
    until: float
    """Until when it is ours for sure (:func:`time.monotonic`)."""


class Stale(typing.NamedTuple):
    """A value that is there, and that another may be stored in place of."""

    endpoint: health.Endpoint
    incarnation: int
    unique: int
    lease: Lease | None = None
    """The lease to compute it anew, where there are no meta commands."""


class Outcome:
    """A value, for each of those who waited for it."""

    def __init__(
        self,
        codec: values.Codec,
        value: typing.Any,
        flags: int,
        data: bytes,
    ) -> None:
        self._codec = codec
        self._value = value
        self._flags = flags
        self._data = data
        self._original = [value]

    def take(self) -> typing.Any:
        """Return the value, which is nobody else's if it can be changed."""
        if self._flags in values.SHAREABLE:
            return self._value
        try:
            return self._original.pop()
        except IndexError:
            return self._codec.decode_or(self._flags, self._data, self._value)


class Flow:
    """The steps of one client's calls.

    :param Requests requests: makes the client's commands

    """

    def __init__(
        self, requests: commands.Requests, servers: cluster.Cluster
    ) -> None:
        self._requests = requests
        self._codec: values.Codec = requests.codec
        self._cluster = servers

    # get_or_set

    def compute_once(self, plan: Plan) -> Steps[Outcome | None]:
        """Get a value that was not there: somebody's, or one's own.

        :return: None if another process computes it, and the plan has a
            default
        :raises Exception: what the factory raises

        """
        until = clock.monotonic() + plan.terms.wait
        pause = FIRST_PAUSE
        lease = yield from self._take_lease(plan)
        while lease is None:
            if plan.default is not MISS:
                return None
            if clock.monotonic() >= until:
                break
            yield Pause(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, LONGEST_PAUSE)
            outcome, _ = yield from self._read(plan)
            if outcome is not None:
                return outcome
            lease = yield from self._take_lease(plan)
        if lease is UNREACHABLE:
            lease = None
        stored = False
        try:
            # Whoever had the lease before may have stored the value since
            # it was looked for.
            outcome, broken = yield from self._read(plan)
            if outcome is None:
                value = yield Compute()
                outcome, command = self._store(plan, value, broken)
                if command is not None:
                    yield Ask(command, plan.route)
                    stored = bool(command.result)
                if stored and plan.terms.stale and self.lacks_meta():
                    yield from self._mark_fresh(plan)
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._give_back(plan, lease)
            raise
        lost = yield from self._give_back(plan, lease)
        if lost and stored:
            # Whoever deletes the value deletes the lease: what was computed
            # from before that must not stay.
            yield Ask(protocol.delete(plan.route.key), plan.route)
        return outcome

    def look(self, plan: Plan) -> Steps[tuple[typing.Any, Stale | None]]:
        """Look for a value that may be stale.

        :return: the value or MISS, and what is to be given to
            :meth:`recompute` if it is for this caller to compute it anew

        """
        command = protocol.MetaGet(plan.route.key, recache=plan.terms.stale)
        endpoint = yield from self._ask_meta(command, plan.route)
        if endpoint is NO_META:
            return (yield from self._look_without_meta(plan))
        return self.seen(command, endpoint)

    def seen(
        self, command: protocol.MetaGet, endpoint: health.Endpoint | None
    ) -> tuple[typing.Any, Stale | None]:
        """Return what a server answered to a look for a stale value."""
        item = command.item
        value = self._decode(item)
        if value is MISS or item is None or endpoint is None:
            return MISS, None
        if not command.won:
            return value, None
        return value, Stale(
            endpoint, command.incarnation, typing.cast(int, item[2])
        )

    def recompute(self, plan: Plan, stale: Stale) -> Steps[Outcome]:
        """Compute a value, and store it unless somebody else has stored one.

        :raises Exception: what the factory raises; then it is for the next
            caller to compute

        """
        try:
            value = yield Compute()
            outcome, command = self._store(plan, value, stale)
        except GeneratorExit:
            raise
        except BaseException:
            if stale.lease is None:
                again = protocol.meta_delete(
                    plan.route.key,
                    stale.unique,
                    stale.incarnation,
                    invalidate=True,
                )
                yield Ask(again, plan.route, stale.endpoint)
            yield from self._give_back(plan, stale.lease)
            raise
        if command is not None:
            yield Ask(command, plan.route, stale.endpoint)
        if command is None or isinstance(command.error, protocol.RefusedError):
            # The old value is not to be served in place of this one.
            yield from self._delete_if(
                plan.route.key, plan.route, stale, stale.lease is None
            )
        if stale.lease is not None:
            yield from self._mark_fresh(plan)
        yield from self._give_back(plan, stale.lease)
        return outcome

    def mark_stale(self, route: cluster.Route, stale: int) -> Steps[int]:
        """Have a value computed anew though its time has not passed."""
        yield Ask(protocol.delete(lease_key(route.key)), route)
        command: protocol.Line = protocol.meta_delete(
            route.key, None, None, invalidate=True, exptime=stale
        )
        endpoint = yield from self._ask_meta(command, route)
        if endpoint is not NO_META:
            return typing.cast(int, command.result)
        yield Ask(protocol.delete(fresh_key(route.key)), route)
        command = protocol.touch(route.key, stale)
        yield Ask(command, route)
        return typing.cast(int, command.result)

    def _read(self, plan: Plan) -> Steps[tuple[Outcome | None, Stale | None]]:
        """Return a value, or what there is that is none."""
        command = protocol.Get((plan.route.key,), 'gets')
        endpoint = yield Ask(command, plan.route)
        item = command.found.get(plan.route.key)
        value = self._decode(item)
        if item is None:
            return None, None
        if value is MISS:
            unique = typing.cast(int, item[2])
            return None, Stale(endpoint, command.incarnation, unique)
        return Outcome(self._codec, value, item[0], item[1]), None

    def _decode(self, item: protocol.Item | None) -> typing.Any:
        if item is None:
            return MISS
        return self._codec.decode_or(item[0], item[1], MISS)

    def _store(
        self, plan: Plan, value: typing.Any, old: Stale | None
    ) -> tuple[Outcome, protocol.Line | None]:
        """Return a value for its callers, and the command that stores it.

        It leaves alone what somebody has stored meanwhile, which is newer.

        :param Stale old: what it takes the place of
        :return: no command if it is not to be stored, or too large
        :raises Exception: what pickling raises for what cannot be pickled

        """
        key = plan.route.key
        encoded = self._requests.encoded(
            protocol.ADD, value, plan.min_compress_len
        )
        if encoded is None:
            return Outcome(
                self._codec, value, *self._codec.encode(value)
            ), None
        outcome = Outcome(self._codec, value, *encoded)
        if value is None and not plan.cache_none:
            return outcome, None
        flags, data = encoded
        if old is None:
            return outcome, protocol.store(
                protocol.ADD, key, flags, plan.kept, data
            )
        return outcome, protocol.compare_and_swap(
            key, flags, plan.kept, data, old.unique, old.incarnation
        )

    # Leases

    def _take_lease(self, plan: Plan) -> Steps[typing.Any]:
        """Return the lease, None if it is taken, or UNREACHABLE."""
        key = lease_key(plan.route.key)
        until = clock.monotonic() + plan.terms.lease
        seconds = plan.terms.lease + TICK
        command = protocol.MetaGet(key, vivify=seconds)
        endpoint = yield from self._ask_meta(command, plan.route)
        if endpoint is NO_META:
            return (yield from self._add_lease(plan))
        if not command.answered or command.item is None:
            return UNREACHABLE
        if not command.won:
            return None
        return Lease(
            endpoint, command.incarnation, command.item[2], b'', until
        )

    def _add_lease(self, plan: Plan) -> Steps[typing.Any]:
        until = clock.monotonic() + plan.terms.lease
        token = uuid.uuid4().bytes
        command = protocol.store(
            protocol.ADD,
            lease_key(plan.route.key),
            0,
            plan.terms.lease + TICK,
            token,
        )
        endpoint = yield Ask(command, plan.route)
        if not command.answered or command.error is not None:
            return UNREACHABLE
        if not command.result:
            return None
        return Lease(endpoint, 0, None, token, until)

    def _give_back(self, plan: Plan, lease: Lease | None) -> Steps[bool]:
        """Delete the lease, unless it is another one's by now.

        :return: whether it may have been taken away before it ran out

        """
        if lease is None:
            return False
        key = lease_key(plan.route.key)
        if lease.unique is not None:
            held = Stale(lease.endpoint, lease.incarnation, lease.unique)
            deleted = yield from self._delete_if(key, plan.route, held, True)
        else:
            look = protocol.Get((key,), 'gets')
            yield Ask(look, plan.route, lease.endpoint)
            item = look.found.get(key)
            deleted = False
            if item is not None and item[1] == lease.token:
                unique = typing.cast(int, item[2])
                held = Stale(lease.endpoint, look.incarnation, unique)
                deleted = yield from self._delete_if(
                    key, plan.route, held, False
                )
        return not deleted and clock.monotonic() < lease.until

    def _delete_if(
        self, key: bytes, route: cluster.Route, held: Stale, meta: bool
    ) -> Steps[bool]:
        """Delete a key, and return whether it had not been stored anew."""
        command: protocol.Line
        if meta:
            command = protocol.meta_delete(key, held.unique, held.incarnation)
        else:
            # To expire at once is to be deleted, which knows no cas unique.
            command = protocol.compare_and_swap(
                key,
                0,
                protocol.EXPIRED,
                b'',
                held.unique,
                held.incarnation,
            )
        yield Ask(command, route, held.endpoint)
        return bool(command.result)

    def _ask_meta(
        self, command: protocol.Command, route: cluster.Route
    ) -> Steps[typing.Any]:
        """Run a meta command.

        :return: the server that it went to; NO_META if there are servers
            that know no such commands, in which case it may not have run

        """
        if self.lacks_meta():
            return NO_META
        endpoint = yield Ask(command, route)
        return self.asked(command, endpoint)

    def asked(
        self, command: protocol.Command, endpoint: health.Endpoint | None
    ) -> typing.Any:
        """Take note of whether a server knows meta commands.

        :return: the server, or NO_META

        """
        if endpoint is None or not command.answered:
            return endpoint
        if not isinstance(command.error, protocol.RefusedError):
            endpoint.knows_meta = True
        # It can be short of memory for one command, and know it all the same.
        elif 'SERVER_ERROR' not in str(command.error):
            endpoint.knows_meta = False
            return NO_META
        return endpoint

    def lacks_meta(self) -> bool:
        """Whether there is a server that knows no meta commands."""
        # One for all: a key may move to another server.
        for server in self._cluster.servers:
            if server.endpoint.knows_meta is False:
                return True
        return False

    # Stale values on servers without meta commands

    def _look_without_meta(
        self, plan: Plan
    ) -> Steps[tuple[typing.Any, Stale | None]]:
        key = plan.route.key
        command = protocol.Get((key,), 'gets')
        endpoint = yield Ask(command, plan.route)
        item = command.found.get(key)
        value = self._decode(item)
        if value is MISS or item is None:
            return value, None
        fresh = protocol.Get((fresh_key(key),))
        yield Ask(fresh, plan.route)
        if not fresh.answered or fresh.error is not None or fresh.found:
            return value, None
        lease = yield from self._add_lease(plan)
        if lease is None or lease is UNREACHABLE:
            return value, None
        return value, Stale(
            endpoint, command.incarnation, typing.cast(int, item[2]), lease
        )

    def _mark_fresh(self, plan: Plan) -> Steps[None]:
        key = fresh_key(plan.route.key)
        yield Ask(
            protocol.store(protocol.SET, key, 0, plan.exptime, b''),
            plan.route,
        )

    # update

    def update(
        self,
        route: cluster.Route,
        time: typing.Any,
        min_compress_len: int,
        attempts: int,
    ) -> Steps[typing.Any]:
        """Read, change and write until nobody came in between.

        :raises UpdateError: if that did not come about

        """
        tokens = commands.Tokens()
        for attempt in range(attempts):
            read = protocol.Get((route.key,), 'gets')
            endpoint = yield Ask(read, route)
            if endpoint is None or not read.answered or read.error:
                raise UpdateError(f'no server answers: {read.error}')
            tokens.remember(route, read, endpoint)
            item = read.found.get(route.key)
            old = self._decode(item)
            if item is not None and old is MISS:
                raise UpdateError('what is stored cannot be decoded')
            value = yield Compute((None if old is MISS else old,))
            command, only = self._requests.cas(
                route, value, time, min_compress_len, tokens
            )
            if command is None:
                raise UpdateError('the new value is too large')
            yield Ask(command, route, only)
            if command.result:
                return value
            if isinstance(command.error, protocol.RefusedError):
                raise UpdateError(f'the server refuses {command.error}')
            if command.error is not None and not isinstance(
                command.error, health.StaleError
            ):
                raise UpdateError(
                    f'it is not known whether it was stored: {command.error}'
                )
            yield Pause(random.random() * min(0.001 * 2**attempt, 0.05))
        raise UpdateError(f'{attempts} attempts, and each time another came')
