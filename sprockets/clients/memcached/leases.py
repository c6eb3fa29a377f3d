"""The value computed once: get_or_set and update, step by step.

The functions are generators without any I/O.  They yield what is to be done
next, and are sent what came of it: so the blocking and the awaitable client
do the same.

Who may compute is settled by a lease, which is a key of its own.  memcached
can also keep a lease in the key that it is about (meta get with N,
protocol.txt), but every other client takes that for an empty value, ``add``
fails on it and ``incr`` is an error.  This way there is a miss where there is
no value yet, for everybody.

"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time as clock
import typing
import uuid
from collections import abc

from sprockets.clients.memcached import (
    cluster,
    commands,
    protocol,
    values,
)

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two looks for a value that somebody else computes."""

MISS: typing.Any = object()
"""In place of a value that is not there."""


class UpdateError(Exception):
    """An ``update`` did not come about, or it is not known whether it did."""


class Ask(typing.NamedTuple):
    """Run a command; the server that it went to is sent back."""

    command: protocol.Command
    route: cluster.Route
    only: cluster.Endpoint | None = None


class Pause(typing.NamedTuple):
    """Do nothing for some seconds."""

    seconds: float


class Compute(typing.NamedTuple):
    """Call the caller's function; what it returns is sent back."""

    arguments: tuple[typing.Any, ...] = ()


Step = Ask | Pause | Compute
T = typing.TypeVar('T')
Steps = abc.Generator[Step, typing.Any, T]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a ``get_or_set`` is to do: its arguments, checked."""

    route: cluster.Route
    exptime: int
    """When the value is to be computed anew; 0 for never."""
    stale: int
    """Seconds for which it is served after that."""
    lease: int
    """Seconds that a computation may take before another one begins."""
    wait: float
    """Seconds to wait for a value that somebody else computes."""
    default: typing.Any
    """What to return instead of waiting; MISS to wait."""
    cache_none: bool
    min_compress_len: int

    @property
    def kept(self) -> int:
        """When the value is dropped, as an exptime."""
        return self.exptime and commands.exptime(self.exptime + self.stale)

    @property
    def lease_route(self) -> cluster.Route:
        """The key of the lease."""
        return _aside(b'lease', self.route)

    @property
    def fresh_route(self) -> cluster.Route:
        """The key that is there while the value need not be computed anew.

        It is for servers without meta commands, which do not tell how much
        time a value has left.

        """
        return _aside(b'fresh', self.route)


def _aside(purpose: bytes, route: cluster.Route) -> cluster.Route:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(b'%r ' % route.hash)
    digest.update(route.key)
    return cluster.Route(
        b'%b:%b' % (purpose, digest.hexdigest().encode('ascii')), None
    )


class Lease(typing.NamedTuple):
    """The right to compute, until it runs out."""

    endpoint: cluster.Endpoint
    unique: int | None
    """The cas unique of a lease from a meta command."""
    token: bytes
    """The value of a lease from ``add``."""


def check_callable(name: str, function: typing.Any) -> None:
    """Raise :exc:`TypeError` for what cannot be called."""
    if not callable(function):
        raise TypeError(f'{name} is {function!r}; expected a function')


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

    def plan(
        self,
        key: typing.Any,
        time: typing.Any,
        *,
        stale: typing.Any,
        lease: typing.Any,
        wait: typing.Any,
        default: typing.Any,
        cache_none: bool,
        min_compress_len: int,
    ) -> Plan:
        """Return the arguments of a ``get_or_set``, checked.

        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for what is no time

        """
        seconds = commands.whole_seconds('lease', lease, 1)
        return Plan(
            self._requests.route(key),
            commands.exptime(time),
            commands.whole_seconds('stale', stale, 0),
            seconds,
            seconds if wait is None else commands.seconds('wait', wait),
            default,
            cache_none,
            min_compress_len,
        )

    def stale_plan(self, key: typing.Any, stale: typing.Any) -> Plan:
        """Return the arguments of a ``mark_stale``, checked."""
        return self.plan(
            key,
            0,
            stale=commands.whole_seconds('stale', stale, 1),
            lease=1,
            wait=None,
            default=MISS,
            cache_none=True,
            min_compress_len=0,
        )

    # get_or_set

    def compute_once(self, plan: Plan) -> Steps[typing.Any]:
        """Return a value that was not there: somebody's, or one's own.

        :raises Exception: what the factory raises

        """
        until = clock.monotonic() + plan.wait
        pause = FIRST_PAUSE
        lease = yield from self._take_lease(plan)
        while lease is None:
            if plan.default is not MISS:
                return plan.default
            if clock.monotonic() >= until:
                return (yield from self._compute(plan, None))
            yield Pause(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, LONGEST_PAUSE)
            value = yield from self.read(plan)
            if value is not MISS:
                return value
            lease = yield from self._take_lease(plan)
        if lease is not UNREACHABLE:
            # Whoever had the lease before may have stored the value since
            # it was looked for.
            value = yield from self.read(plan)
            if value is not MISS:
                yield from self._give_back(plan, lease)
                return value
        return (yield from self._compute(plan, lease))

    def look(self, plan: Plan) -> Steps[tuple[typing.Any, Stale | None]]:
        """Look for a value that may be stale.

        :return: the value or MISS, and what is to be given to
            :meth:`recompute` if it is for this caller to compute it anew

        """
        command = protocol.MetaGet(plan.route.key, recache=plan.stale)
        endpoint = yield from self._ask_meta(command, plan.route)
        if endpoint is NO_META:
            return (yield from self._look_without_meta(plan))
        value = self._decode(command.item)
        if value is MISS or not command.won or endpoint is None:
            return value, None
        unique = command.item[2] if command.item else None
        return value, Stale(
            endpoint, command.incarnation, typing.cast(int, unique), None
        )

    def recompute(self, plan: Plan, stale: Stale) -> Steps[typing.Any]:
        """Return a new value, stored unless somebody else has stored one.

        :raises Exception: what the factory raises; then it is for the next
            caller to compute

        """
        try:
            value = yield Compute()
        except GeneratorExit:
            raise
        except BaseException:
            if stale.lease is not None:
                yield from self._give_back(plan, stale.lease)
            else:
                command = protocol.meta_delete(
                    plan.route.key, stale.unique, invalidate=True
                )
                yield Ask(command, plan.route, stale.endpoint)
            raise
        store = self._store(plan, protocol.CAS, value, stale)
        if store is not None:
            yield Ask(store, plan.route, stale.endpoint)
        if stale.lease is not None:
            yield from self._mark_fresh(plan)
            yield from self._give_back(plan, stale.lease)
        return value

    def mark_stale(self, plan: Plan) -> Steps[int]:
        """Have a value computed anew though its time has not passed."""
        command: protocol.Line = protocol.meta_delete(
            plan.route.key, None, invalidate=True, exptime=plan.stale
        )
        endpoint = yield from self._ask_meta(command, plan.route)
        if endpoint is not NO_META:
            return typing.cast(int, command.result)
        yield Ask(protocol.delete(plan.fresh_route.key), plan.fresh_route)
        command = protocol.touch(plan.route.key, plan.stale)
        yield Ask(command, plan.route)
        return typing.cast(int, command.result)

    def _compute(self, plan: Plan, lease: Lease | None) -> Steps[typing.Any]:
        held = lease if lease is not UNREACHABLE else None
        try:
            value = yield Compute()
        except GeneratorExit:
            raise
        except BaseException:
            if held is not None:
                yield from self._give_back(plan, held)
            raise
        # Not over what somebody has stored meanwhile, which is newer.
        store = self._store(plan, protocol.ADD, value, None)
        if store is not None:
            yield Ask(store, plan.route)
            if plan.stale and store.result and self._lacks_meta():
                yield from self._mark_fresh(plan)
        if held is not None:
            yield from self._give_back(plan, held)
        return value

    def read(self, plan: Plan) -> Steps[typing.Any]:
        """Return the value, or MISS."""
        command = protocol.Get((plan.route.key,))
        yield Ask(command, plan.route)
        return self._decode(command.found.get(plan.route.key))

    def _decode(self, item: protocol.Item | None) -> typing.Any:
        if item is None:
            return MISS
        return self._codec.decode_or(item[0], item[1], MISS)

    def _store(
        self,
        plan: Plan,
        verb: protocol.Verb,
        value: typing.Any,
        stale: Stale | None,
    ) -> protocol.Line | None:
        if value is None and not plan.cache_none:
            return None
        key = plan.route.key
        if stale is None:
            return self._requests.store(
                verb, key, value, plan.kept, plan.min_compress_len
            )
        return self._requests.store_over(
            key,
            value,
            plan.kept,
            plan.min_compress_len,
            stale.unique,
            stale.incarnation,
        )

    # Leases

    def _take_lease(self, plan: Plan) -> Steps[typing.Any]:
        """Return the lease, None if it is taken, or UNREACHABLE."""
        route = plan.lease_route
        command = protocol.MetaGet(route.key, vivify=plan.lease)
        endpoint = yield from self._ask_meta(command, route)
        if endpoint is NO_META:
            return (yield from self._add_lease(plan))
        if endpoint is None or not command.answered or command.item is None:
            return UNREACHABLE
        if not command.won:
            return None
        return Lease(endpoint, command.item[2], b'')

    def _add_lease(self, plan: Plan) -> Steps[typing.Any]:
        route = plan.lease_route
        token = uuid.uuid4().bytes
        command = protocol.store(protocol.ADD, route.key, 0, plan.lease, token)
        endpoint = yield Ask(command, route)
        if endpoint is None or not command.answered or command.error:
            return UNREACHABLE
        if not command.result:
            return None
        return Lease(endpoint, None, token)

    def _give_back(self, plan: Plan, lease: Lease) -> Steps[None]:
        """Delete the lease, unless it has run out and is another one's."""
        route = plan.lease_route
        if lease.unique is not None:
            command: protocol.Command = protocol.meta_delete(
                route.key, lease.unique
            )
            yield Ask(command, route, lease.endpoint)
            return
        look = protocol.Get((route.key,), 'gets')
        yield Ask(look, route, lease.endpoint)
        item = look.found.get(route.key)
        if item is None or item[1] != lease.token or item[2] is None:
            return
        # To expire at once is to be deleted, which knows no cas unique.
        yield Ask(
            protocol.compare_and_swap(
                route.key, 0, -1, b'', item[2], look.incarnation
            ),
            route,
            lease.endpoint,
        )

    def _ask_meta(
        self, command: protocol.Command, route: cluster.Route
    ) -> Steps[typing.Any]:
        """Run a meta command.

        :return: the server that it went to; NO_META if there are servers
            that know no such commands, in which case it may not have run

        """
        if self._lacks_meta():
            return NO_META
        endpoint = yield Ask(command, route)
        refused = isinstance(command.error, protocol.RefusedError)
        if endpoint is not None and command.answered:
            endpoint.knows_meta = not refused
        return NO_META if refused else endpoint

    def _lacks_meta(self) -> bool:
        return any(e.knows_meta is False for e in self._cluster.endpoints)

    # Stale values on servers without meta commands

    def _look_without_meta(
        self, plan: Plan
    ) -> Steps[tuple[typing.Any, Stale | None]]:
        command = protocol.Get((plan.route.key,), 'gets')
        endpoint = yield Ask(command, plan.route)
        item = command.found.get(plan.route.key)
        value = self._decode(item)
        if value is MISS or item is None or endpoint is None:
            return value, None
        fresh = protocol.Get((plan.fresh_route.key,))
        yield Ask(fresh, plan.fresh_route)
        if not fresh.answered or fresh.found:
            return value, None
        lease = yield from self._add_lease(plan)
        if lease is None or lease is UNREACHABLE:
            return value, None
        return value, Stale(
            endpoint, command.incarnation, typing.cast(int, item[2]), lease
        )

    def _mark_fresh(self, plan: Plan) -> Steps[None]:
        yield Ask(
            protocol.store(
                protocol.SET, plan.fresh_route.key, 0, plan.exptime, b''
            ),
            plan.fresh_route,
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
            old = self._decode(read.found.get(route.key))
            value = yield Compute((None if old is MISS else old,))
            command, only = self._requests.cas(
                route, value, time, min_compress_len, tokens
            )
            if command is None:
                raise UpdateError('the new value is too large')
            yield Ask(command, route, only)
            if command.result:
                return value
            if command.error is not None and not isinstance(
                command.error, cluster.StaleError
            ):
                raise UpdateError(
                    f'it is not known whether it was stored: {command.error}'
                )
            yield Pause(random.random() * min(0.001 * 2**attempt, 0.05))
        raise UpdateError(f'{attempts} attempts, and each time another came')


class Stale(typing.NamedTuple):
    """A value that it is for this caller to compute anew."""

    endpoint: cluster.Endpoint
    incarnation: int
    unique: int
    lease: Lease | None
    """The lease, where the server has no meta commands."""


NO_META: typing.Any = object()
"""In place of a server that knows no meta commands."""

UNREACHABLE: typing.Any = object()
"""In place of a lease where the server gives none."""
