"""The value computed once: get_or_set and update, step by step.

Who may compute is settled by a lease, which is a key of its own, on the
server of the key that it is about.  memcached can also keep a lease in that
key itself (meta get with N, protocol.txt), but every other client takes it
for an empty value, ``add`` fails on it and ``incr`` is an error.  This way
there is a miss where there is no value yet, for everybody.

"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import time as clock
import typing
import uuid

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.once import (
    failures,
    generations,
    nesting,
    plans,
)
from sprockets.clients.memcached.once.plans import (
    MISS,
    NO_META,
    REFUSED,
    UNREACHABLE,
)
from sprockets.clients.memcached.once.steps import (
    Ask,
    Compute,
    Failure,
    Make,
    Pause,
    Steps,
)
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    errors,
    methods,
    tokens,
)
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import parted, protocol

MANY_LOST = 5
"""Leases in a row that were gone before their time: no chance any more."""

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two looks for a value that somebody else computes."""


_KNOWS = ('SERVER_ERROR', 'non-numeric')
"""What is in the errors of servers that know a meta command."""

_UNSENT = (endpoints.UnavailableError, endpoints.StaleError)
"""The errors of commands of which it is known that no server has them."""


class UpdateError(errors.MemcachedError):
    """An ``update`` did not come about, or it is not known whether it did."""


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


def computed_key(key: bytes) -> bytes:
    """Return the key that tells which value of a key was computed here.

    What somebody has ``set`` is as fresh as it says, though it has no more
    time left than a stale one.

    """
    return _aside(b'computed', key)


def digest(flags: int, data: bytes) -> bytes:
    """Return what tells a value from others that a key may have."""
    made = hashlib.blake2b(b'%d:' % flags, digest_size=16)
    made.update(data)
    return made.digest()


class Look(parted.MetaGet):
    """``mg`` of a value that may be stale."""

    __slots__ = ()

    def __init__(
        self, encoding: encodings.Encoding, key: bytes, stale: int
    ) -> None:
        # memcached compares with "less", in whole seconds: a value that has as
        # many left as it may be stale is stale, as it would be gone without.
        super().__init__(
            encoding.max_parts, key, recache=arguments.exptime(stale + 1)
        )


def invalidate(route: cluster.Route) -> Steps[int]:
    """Delete a key, and the lease of whoever computes its value.

    In this order: either the value is deleted, or whoever stores it finds the
    lease gone, and deletes it.  That there is a value does not say that none
    is being computed: somebody may have stored it meanwhile.

    """
    yield Ask(protocol.delete(lease_key(route.key)), route)
    command = protocol.delete(route.key)
    yield Ask(command, route)
    return typing.cast(int, command.result)


class Lease(typing.NamedTuple):
    """The right to compute, until it runs out."""

    endpoint: endpoints.Endpoint | None
    incarnation: int
    unique: int | None
    """The cas unique of a lease from a meta command."""
    token: bytes = b''
    """The value of a lease from ``add``."""
    until: float = 0.0
    """Until when it is ours for sure (:func:`time.monotonic`)."""
    is_own: bool = True
    """Whether it is ours; else it is somebody's who computes as well."""


class Stale(typing.NamedTuple):
    """A value that is there, and that another may be stored in place of."""

    endpoint: endpoints.Endpoint | None
    incarnation: int
    unique: int
    lease: Lease | None = None
    """The lease to compute it anew, where there are no meta commands."""
    value: tuple[int, bytes] | None = None
    """Its flags and bytes, if it may be one that was not computed here."""


class Outcome:
    """A value, for each of those who waited for it.

    :param bool is_read: whether it is what the server has; else it may be that
        what the server has makes another value

    """

    def __init__(
        self,
        codec: values.Codec,
        value: typing.Any,
        flags: int,
        data: bytes,
        is_read: bool = True,
    ) -> None:
        self._codec = codec
        self._value = value
        self._flags = flags
        self._data = data
        rewritten = flags & ~values.PACKED in values.REWRITTEN
        self.computed = rewritten and not is_read
        """Whether the value is to be made of what was written of it."""
        self._original = [] if self.computed else [value]

    @property
    def stored(self) -> tuple[int, bytes]:
        """Its flags and bytes."""
        return self._flags, self._data

    @property
    def value(self) -> typing.Any:
        """The value as it was computed, where there is no other."""
        return self._value

    @property
    def weight(self) -> int:
        """What it takes to make it once more, in bytes to deserialize."""
        if self._original or self._flags in values.SHAREABLE:
            return 0
        if self.computed and not self._flags & values.JSON:
            # It need not be made, so the loop does not wait for it.
            return values.HEAVY + 1
        return values.weight(self._flags, len(self._data))

    def take(self) -> typing.Any:
        """Return the value, which is nobody else's if it can be changed."""
        if self._flags in values.SHAREABLE:
            return self._value
        try:
            return self._original.pop()
        except IndexError:
            return self._codec.decode_or(self._flags, self._data, self._value)


def _computed(key: bytes, value: bytes, time: int) -> protocol.Line:
    """Return the command that tells which value was computed."""
    return protocol.store(protocol.SET, computed_key(key), 0, time, value)


class Flow:
    """The steps of one client's calls.

    :param Encoding encoding: how the client's keys and values are sent

    """

    def __init__(
        self, encoding: encodings.Encoding, servers: cluster.Cluster
    ) -> None:
        self.encoding = encoding
        self._codec: values.Codec = encoding.codec
        self._cluster = servers
        self.failures = failures.Failures()
        self._lost = 0
        """How many leases in a row were gone before their time."""
        self.generations = generations.Generations(encoding, servers)

    # get_or_set

    def compute_once(
        self, want: plans.Want, anew: bool = False
    ) -> Steps[Outcome | Failure | None]:
        """Get a value that was not there: somebody's, or one's own.

        :param bool anew: whether what is there by now may have been computed
            before this was asked for
        :return: None if another process computes it, and there is a
            default
        :raises BaseException: what the factory raises

        """
        lease = yield from self._take_lease(want)
        if lease is None:
            if want.default is not MISS:
                return None
            lease, found = yield from self._wait_for_lease(want)
            if found is not None:
                return found
        if lease is None or lease is UNREACHABLE:
            lease = yield from self._others_lease(want)
        elif lease is REFUSED:
            lease = None
        outcome: Outcome | Failure | None
        command: protocol.Line | None = None
        try:
            # Whoever had the lease before may have stored the value since
            # it was looked for.
            if anew:
                outcome, old = None, (yield from self._there(want))
            else:
                outcome, old = yield from self._read(want)
            if outcome is None:
                want, made = self._planned(want, (yield Compute()))
                outcome, command = self._made(want, made, old)
                if command is not None:
                    yield Ask(command, want.route)
                    if command.result and isinstance(outcome, Outcome):
                        yield from self._note(want, outcome)
            lost = yield from self._end(want, lease, command)
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                yield from self.over(command)
            yield from self._end(want, lease, command)
            raise
        self._count_lost(lease, lost)
        return outcome

    def _wait_for_lease(
        self, want: plans.Want
    ) -> Steps[tuple[typing.Any, Outcome | None]]:
        """Wait for who has the lease, and return it, or what that one stores.

        :return: neither, where it takes too long

        """
        pause = FIRST_PAUSE
        with nesting.waiting_for_lease() as wait:
            until = clock.monotonic() + wait.patience(want.plan.wait)
            while clock.monotonic() < until:
                yield Pause(pause * (0.5 + random.random()))
                pause = min(pause * 1.5, LONGEST_PAUSE)
                found, _ = yield from self._read(want)
                if found is not None:
                    return None, found
                lease = yield from self._take_lease(want)
                if lease is not None:
                    return lease, None
        return None, None

    def _others_lease(self, want: plans.Want) -> Steps[Lease]:
        """Return the lease that somebody else has.

        Whoever computes without one goes by that: as long as it is there,
        nobody has deleted the value.

        """
        key = lease_key(want.route.key)
        look = protocol.Get((key,), 'gets')
        endpoint = yield Ask(look, want.route)
        item = look.found.get(key)
        unique = None if item is None else item[2]
        return Lease(endpoint, look.incarnation, unique, is_own=False)

    def _end(
        self,
        want: plans.Want,
        lease: Lease | None,
        command: protocol.Line | None,
    ) -> Steps[bool]:
        """Give a lease back, and delete what must not stay.

        :param Line command: what was to store the value, if it was sent
        :return: whether the lease may have been taken away

        """
        may_be_stored = command is not None and (
            bool(command.result)
            or not (command.answered or isinstance(command.error, _UNSENT))
        )
        lost = False
        if lease is not None and lease.is_own:
            lost = yield from self._give_back(want, lease)
        elif lease is not None and may_be_stored:
            lost = (
                lease.unique is None
                or (yield from self._others_lease(want)) != lease
            )
        if lost and may_be_stored:
            # Whoever deletes the value deletes the lease: what was computed
            # from before that must not stay.
            yield Ask(protocol.delete(want.route.key), want.route)
        return lost

    def over(self, command: protocol.Command | None) -> Steps[None]:
        """Wait until what was sent, and nobody waits for, is over."""
        until = clock.monotonic() + self.timeout
        while (
            command is not None
            and not command.answered
            and command.error is None
            and clock.monotonic() < until
        ):
            yield Pause(FIRST_PAUSE)

    def _count_lost(self, lease: Lease | None, lost: bool) -> None:
        """Take note of how a lease ended, and say what cannot be chance."""
        if lease is None or lease.endpoint is None or not lease.is_own:
            return
        self._lost = self._lost + 1 if lost else 0
        if self._lost >= MANY_LOST:
            self._lost = 0
            lease.endpoint.log_lost_leases()

    def compute_alone(self, want: plans.Want) -> Steps[Outcome | Failure]:
        """Compute a value for one caller, while another computes it for all.

        :raises BaseException: what the factory raises

        """
        want, made = self._planned(want, (yield Compute()))
        outcome, _ = self._made(want, made, None)
        return outcome

    def look(self, want: plans.Want) -> Steps[tuple[typing.Any, Stale | None]]:
        """Look for a value that may be stale.

        :return: the value or MISS, and what is to be given to
            :meth:`recompute` if it is for this caller to compute it anew

        """
        command = Look(self.encoding, want.route.key, want.plan.stale)
        endpoint = yield from self.ask_meta(command, want.route)
        if endpoint is NO_META:
            return (yield from self._look_without_meta(want))
        value = yield from self._value_of(command.item)
        if value is MISS:
            return MISS, None
        return value, self.won(command, endpoint)

    def won(
        self, command: Look, endpoint: endpoints.Endpoint | None
    ) -> Stale | None:
        """Return what is to be computed anew by whom a server told so."""
        item = command.item
        if item is None or endpoint is None or not command.won:
            return None
        endpoint.gives_uniques(item[2])
        return Stale(
            endpoint,
            command.incarnation,
            typing.cast(int, item[2]),
            value=None if command.marked else item[:2],
        )

    def value_of(self, command: protocol.MetaGet) -> typing.Any:
        """Return the value that was answered, MISS if there is none."""
        item = command.item
        if item is None:
            return MISS
        return self._codec.decode_or(item[0], item[1], MISS)

    def is_stale(self, want: plans.Want, stale: Stale) -> Steps[bool]:
        """Return whether a value is one that is to be computed anew."""
        if stale.value is None:
            return True
        made = yield from self._digest(*stale.value)
        key = computed_key(want.route.key)
        found = yield from self._read_aside(want, key)
        return found is None or found.get(key) == made

    def recompute(
        self, want: plans.Want, stale: Stale
    ) -> Steps[Outcome | Failure]:
        """Compute a value, and store it unless somebody else has stored one.

        :raises BaseException: what the factory raises; then it is for the
            next caller to compute

        """
        want, made = self._planned(want, (yield Compute()))
        outcome, command = self._made(want, made, stale)
        if isinstance(outcome, Failure):
            yield from self._leave_stale(want, stale)
            return outcome
        yield from self._replace(want, outcome, command, stale)
        if (yield from self._give_back(want, stale.lease)):
            # Whoever marks a value stale deletes the lease: what was computed
            # from before that is not fresh.
            yield Ask(protocol.delete(fresh_key(want.route.key)), want.route)
        return outcome

    def _replace(
        self,
        want: plans.Want,
        outcome: Outcome,
        command: protocol.Line | None,
        old: Stale,
    ) -> Steps[None]:
        """Store a value in place of an old one, unless that is gone."""
        self.failures.forget(want.route)
        if command is not None:
            yield Ask(command, want.route, old.endpoint)
            if command.result:
                yield from self._note(want, outcome)
        if command is None or isinstance(command.error, protocol.RefusedError):
            # The old value is not to be served in place of this one.
            yield from self.delete_if(
                want.route.key, want.route, old, old.lease is None
            )

    def refresh(self, want: plans.Want) -> Steps[Outcome | Failure | None]:
        """Compute a value anew, though there may be one that is fresh.

        That one is there until then, and stays if this fails, or if somebody
        has changed it meanwhile.  What others have begun to compute before is
        older, and does not stay.

        """
        yield Ask(protocol.delete(lease_key(want.route.key)), want.route)
        yield from self._renew(want.route)
        old = yield from self._there(want)
        if old is None:
            return (yield from self.compute_once(want, anew=True))
        want, made = self._planned(want, (yield Compute()))
        outcome, command = self._made(want, made, old)
        if isinstance(outcome, Outcome):
            yield from self._replace(want, outcome, command, old)
            if command is not None and command.error is not None:
                yield from self._drop(want, old)
        return outcome

    def _drop(self, want: plans.Want, old: Stale) -> Steps[None]:
        """Delete a value if it is there still, or again.

        Whether the newer one was stored is not known, or the server may have
        been another when the old one was looked at.

        """
        there = yield from self._there(want)
        if there is not None and there.value == old.value:
            yield from self.delete_if(want.route.key, want.route, there, False)

    def _renew(self, route: cluster.Route) -> Steps[None]:
        """Let nobody replace a value who has read it before.

        It becomes another one to memcached, though it has the same bytes.

        """
        verb = protocol.APPEND_NOTHING
        yield Ask(protocol.store(verb, route.key, 0, 0, b''), route)

    def put(self, want: plans.Want, value: typing.Any) -> Steps[int]:
        """Store a value as if it had been computed.

        One that would not be stored then takes away what there is.

        """
        want = want._replace(plan=want.plan.of(value))
        plan, key = want.plan, want.route.key
        encoded = self.encoding.encoded(
            protocol.SET, value, plan.min_compress_len
        )
        self.failures.forget(want.route)
        if encoded is None or not plan.stores(value):
            # What is computed just now is older, as for :func:`invalidate`.
            yield Ask(protocol.delete(lease_key(key)), want.route)
            request = protocol.delete_request(key)
            drop = protocol.Line(descriptions.DROP, request)
            yield Ask(drop, want.route)
            return 0
        command = self.encoding.store(
            protocol.SET, key, encoded[0], plan.kept, encoded[1]
        )
        yield Ask(command, want.route)
        if command.result:
            outcome = Outcome(self._codec, value, *encoded)
            yield from self._note(want, outcome)
        return typing.cast(int, command.result)

    def _leave_stale(self, want: plans.Want, stale: Stale) -> Steps[None]:
        """Let another caller compute a value anew, but not at once."""
        self.failures.add(want.route)
        if stale.lease is None:
            again = protocol.meta_delete(
                want.route.key,
                stale.unique,
                stale.incarnation,
                invalidate=True,
            )
            yield Ask(again, want.route, stale.endpoint)
        yield from self._give_back(want, stale.lease)

    def mark_stale(self, route: cluster.Route, stale: int) -> Steps[int]:
        """Have a value computed anew though its time has not passed."""
        self.failures.forget(route)
        lease = protocol.delete(lease_key(route.key))
        yield Ask(lease, route)
        if not lease.answered:
            return 0
        command: protocol.Line = protocol.meta_delete(
            route.key, None, None, invalidate=True, exptime=stale
        )
        endpoint = yield from self.ask_meta(command, route)
        if endpoint is not NO_META:
            return typing.cast(int, command.result)
        yield from self._renew(route)
        # Whatever is there is to be taken for one that was computed.
        look = self.encoding.get((route.key,))
        yield Ask(look, route)
        item = look.found.get(route.key)
        if item is not None:
            made = yield from self._digest(*item[:2])
            yield Ask(_computed(route.key, made, stale), route)
        yield Ask(protocol.delete(fresh_key(route.key)), route)
        command = self.encoding.touch(route.key, stale)
        yield Ask(command, route)
        return typing.cast(int, command.result)

    def _there(self, want: plans.Want) -> Steps[Stale | None]:
        """Return what there is to be replaced, whatever it is."""
        look = self.encoding.get((want.route.key,), 'gets')
        endpoint = yield Ask(look, want.route)
        item = look.found.get(want.route.key) or look.lost.get(want.route.key)
        if item is None:
            return None
        return Stale(
            endpoint,
            look.incarnation,
            typing.cast(int, item[2]),
            value=item[:2],
        )

    def _read(
        self, want: plans.Want
    ) -> Steps[tuple[Outcome | None, Stale | None]]:
        """Return a value, or what there is that is none."""
        command = self.encoding.get((want.route.key,), 'gets')
        endpoint = yield Ask(command, want.route)
        item = command.found.get(want.route.key)
        value = yield from self._value_of(item)
        item = item or command.lost.get(want.route.key)
        if item is None:
            return None, None
        if value is MISS:
            unique = typing.cast(int, item[2])
            return None, Stale(endpoint, command.incarnation, unique)
        return Outcome(self._codec, value, item[0], item[1]), None

    def _value_of(self, item: protocol.Item | None) -> Steps[typing.Any]:
        """Make a value of what there is, MISS if it is none."""
        if item is None:
            return MISS
        flags, data, _ = item
        return (
            yield Make(
                functools.partial(self._codec.decode_or, flags, data, MISS),
                values.weight(flags, len(data)),
            )
        )

    def _digest(self, flags: int, data: bytes) -> Steps[bytes]:
        """Return what tells a value from others that a key may have."""
        # It takes as long as to check a text.
        weight = values.weight(values.TEXT, len(data))
        made = yield Make(functools.partial(digest, flags, data), weight)
        return typing.cast(bytes, made)

    def _planned(
        self, want: plans.Want, value: typing.Any
    ) -> tuple[plans.Want, typing.Any]:
        """Return what is wanted of a value, and the value.

        :param value: a failure if there is none; what the caller's functions
            raise is another one

        """
        if isinstance(value, Failure) or not want.plan.depends:
            return want, value
        try:
            return want._replace(plan=want.plan.of(value)), value
        # It is the caller's own code.
        except BaseException as error:  # noqa: BLE001
            return want, Failure(error)

    def _made(
        self, want: plans.Want, value: typing.Any, old: Stale | None
    ) -> tuple[Outcome | Failure, protocol.Line | None]:
        """Return a value for its callers, and the command that stores it.

        It leaves alone what somebody has stored meanwhile, which is newer.

        :param value: a failure if there is none; what cannot be serialized
            is another one
        :param Stale old: what it takes the place of
        :return: no command if it is not to be stored, or too large

        """
        if isinstance(value, Failure):
            return value, None
        plan, key = want.plan, want.route.key
        try:
            encoded = self.encoding.encoded(
                protocol.ADD, value, plan.min_compress_len
            )
            outcome = Outcome(
                self._codec,
                value,
                *(encoded or self._codec.encode(value)),
                is_read=False,
            )
        # It is the value's own code that serializes it.
        except BaseException as error:  # noqa: BLE001
            return Failure(error), None
        if encoded is None or not plan.stores(value):
            return outcome, None
        flags, data = encoded
        if old is None:
            return outcome, self.encoding.store(
                protocol.ADD, key, flags, plan.kept, data
            )
        return outcome, self.encoding.compare_and_swap(
            key, flags, plan.kept, data, old.unique, old.incarnation
        )

    # Leases

    def _take_lease(self, want: plans.Want) -> Steps[typing.Any]:
        """Return the lease, None if it is taken, UNREACHABLE, or REFUSED."""
        key = lease_key(want.route.key)
        until = clock.monotonic() + want.plan.lease
        command = protocol.MetaGet(key, vivify=want.plan.lease_kept)
        try:
            endpoint = yield from self.ask_meta(command, want.route)
        except asyncio.CancelledError:
            yield from self.over(command)
            if command.won and command.item is not None:
                unique = command.item[2]
                lease = Lease(None, command.incarnation, unique)
                yield from self._give_back(want, lease)
            raise
        if endpoint is NO_META:
            return (yield from self._add_lease(want))
        if not command.answered:
            return UNREACHABLE
        if command.item is None:
            return REFUSED
        if not command.won:
            return None
        return Lease(
            endpoint, command.incarnation, command.item[2], b'', until
        )

    def _add_lease(self, want: plans.Want) -> Steps[typing.Any]:
        until = clock.monotonic() + want.plan.lease
        token = uuid.uuid4().bytes
        command = protocol.store(
            protocol.ADD,
            lease_key(want.route.key),
            0,
            want.plan.lease_kept,
            token,
        )
        try:
            endpoint = yield Ask(command, want.route)
        except asyncio.CancelledError:
            yield from self.over(command)
            yield from self._give_back(want, Lease(None, 0, None, token))
            raise
        if not command.answered:
            return UNREACHABLE
        if command.error is not None:
            return REFUSED
        if not command.result:
            return None
        return Lease(endpoint, 0, None, token, until)

    def _give_back(self, want: plans.Want, lease: Lease | None) -> Steps[bool]:
        """Delete the lease, unless it is another one's by now.

        :return: whether it may have been taken away before it ran out

        """
        if lease is None:
            return False
        key = lease_key(want.route.key)
        if lease.unique is not None:
            held = Stale(lease.endpoint, lease.incarnation, lease.unique)
            deleted = yield from self.delete_if(key, want.route, held, True)
        else:
            look = protocol.Get((key,), 'gets')
            yield Ask(look, want.route, lease.endpoint)
            item = look.found.get(key)
            deleted = False
            if item is not None and item[1] == lease.token:
                unique = typing.cast(int, item[2])
                held = Stale(lease.endpoint, look.incarnation, unique)
                deleted = yield from self.delete_if(
                    key, want.route, held, False
                )
        return not deleted and clock.monotonic() < lease.until

    def delete_if(
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

    def ask_meta(
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
        self, command: protocol.Command, endpoint: endpoints.Endpoint | None
    ) -> typing.Any:
        """Take note of whether a server knows meta commands.

        :return: the server, or NO_META

        """
        if endpoint is None or not command.answered:
            return endpoint
        if not isinstance(command.error, protocol.RefusedError):
            endpoint.knows_meta = True
        # It can be short of memory for one command, or have no number to count
        # with, and know it all the same.
        elif not any(word in str(command.error) for word in _KNOWS):
            endpoint.knows_meta = False
            return NO_META
        return endpoint

    @property
    def timeout(self) -> float:
        """Seconds after which a command is over, however it went."""
        return self._cluster.timeout

    def home(self, key: bytes) -> endpoints.Endpoint | None:
        """Return the one server that a key is on, whether it is up or not.

        :return: None if there is none, or if that is not known yet

        """
        return self._cluster.home(key)

    def lacks_meta(self) -> bool:
        """Whether there is a server that knows no meta commands."""
        # One for all: a key may move to another server.
        for server in self._cluster.servers:
            if server.endpoint.knows_meta is False:
                return True
        return False

    def knows_meta(self) -> bool:
        """Whether every server is known to know meta commands."""
        for server in self._cluster.servers:
            if not server.endpoint.knows_meta:
                return False
        return bool(self._cluster.servers)

    # Stale values on servers without meta commands

    def _look_without_meta(
        self, want: plans.Want
    ) -> Steps[tuple[typing.Any, Stale | None]]:
        key = want.route.key
        command = self.encoding.get((key,), 'gets')
        endpoint = yield Ask(command, want.route)
        item = command.found.get(key)
        value = yield from self._value_of(item)
        if value is MISS or item is None:
            return value, None
        fresh, computed = fresh_key(key), computed_key(key)
        found = yield from self._read_aside(want, fresh, computed)
        if found is None or fresh in found:
            return value, None
        made = yield from self._digest(*item[:2])
        if found.get(computed) != made:
            return value, None
        lease = yield from self._add_lease(want)
        if lease is None or lease is UNREACHABLE or lease is REFUSED:
            return value, None
        return value, Stale(
            endpoint, command.incarnation, typing.cast(int, item[2]), lease
        )

    def _read_aside(
        self, want: plans.Want, *keys: bytes
    ) -> Steps[dict[bytes, bytes] | None]:
        """Return what there is of keys of our own; None if nobody answers."""
        command = protocol.Get(keys)
        yield Ask(command, want.route)
        if not command.answered or command.error is not None:
            return None
        return {key: item[1] for key, item in command.found.items()}

    def _note(self, want: plans.Want, outcome: Outcome) -> Steps[None]:
        """Take note of a value that was stored, if it may become stale."""
        if not want.plan.stale:
            return
        key = want.route.key
        if want.plan.exptime:
            made = yield from self._digest(*outcome.stored)
            yield Ask(_computed(key, made, want.plan.kept), want.route)
        if self.lacks_meta():
            fresh = fresh_key(key)
            yield Ask(
                protocol.store(protocol.SET, fresh, 0, want.plan.exptime, b''),
                want.route,
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
        saw = tokens.Tokens()
        for attempt in range(attempts):
            read = self.encoding.get((route.key,), 'gets')
            endpoint = yield Ask(read, route)
            if endpoint is None or not read.answered or read.error:
                raise UpdateError(f'no server answers: {read.error}')
            saw.remember(route, read, endpoint)
            item = read.found.get(route.key)
            there = item or read.lost.get(route.key)
            if there is not None and not endpoint.gives_uniques(there[2]):
                raise UpdateError(f'{endpoint} gives no cas uniques')
            old = yield from self._value_of(item)
            if item is not None and old is MISS:
                raise UpdateError('what is stored cannot be decoded')
            value = yield Compute((None if old is MISS else old,))
            if isinstance(value, Failure):
                return value
            request = methods.cas_of(
                self.encoding, route, value, time, min_compress_len, saw
            )
            command = request.command
            if command is None:
                raise UpdateError('the new value is too large')
            yield Ask(command, route, request.only)
            if command.result:
                return value
            if isinstance(command.error, protocol.RefusedError):
                raise UpdateError(f'the server refuses {command.error}')
            if command.error is not None and not isinstance(
                command.error, endpoints.StaleError
            ):
                raise UpdateError(
                    f'it is not known whether it was stored: {command.error}'
                )
            yield Pause(random.random() * min(0.001 * 2**attempt, 0.05))
        raise UpdateError(f'{attempts} attempts, and each time another came')
