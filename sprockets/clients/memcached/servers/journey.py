"""From server to server: where a call goes, and where next."""

from __future__ import annotations

import itertools
import queue
import time
import typing
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.servers import cluster, endpoints, workers
from sprockets.clients.memcached.wire import protocol


class Many(typing.Protocol):
    """Commands for the servers of many keys, as far as it matters here."""

    @property
    def keys(self) -> cluster.Keys:
        """All keys as they are sent."""

    def commands_for(
        self, places: abc.Sequence[int]
    ) -> abc.Sequence[protocol.Command]:
        """Return the commands for the keys at some places."""

    def late(self) -> None:
        """Take note that there is no time for the rest."""


SIDE_BY_SIDE = 100
"""Servers that one call goes to at one time, in as many threads."""

_NONE: frozenset[endpoints.Endpoint] = frozenset()


class Journey:
    """The way of one call, of one key or of many, from server to server.

    A server that could not be reached has been sent nothing, so that whatever
    was for it may go to another one, if that is what failover says.

    :param Cluster servers: the servers
    :param Endpoint only: the one server it may go to, None for any

    """

    __slots__ = ('_only', '_servers', '_turned_back')

    def __init__(
        self, servers: cluster.Cluster, only: endpoints.Endpoint | None = None
    ) -> None:
        self._servers = servers
        self._only = only
        self._turned_back: abc.Set[endpoints.Endpoint] = _NONE

    @property
    def goes_further(self) -> bool:
        """Whether it has been to a server in vain."""
        return bool(self._turned_back)

    def to(self, key: bytes, hashed: int | None) -> endpoints.Endpoint | None:
        """Return the server for a key, None if there is none to go to.

        It may be one that is down, for which a trial has to be taken.

        """
        endpoint = self._servers.pick(key, hashed, self._turned_back)
        if (
            endpoint is None
            or endpoint in self._turned_back
            or (self._only is not None and self._only is not endpoint)
        ):
            return None
        return endpoint

    def turn_back(self, endpoint: endpoints.Endpoint) -> bool:
        """Take note that a server could not be reached.

        :return: whether the call may go on to another one

        """
        self._turned_back |= {endpoint}
        return self._servers.goes_on(endpoint)

    def spread(
        self,
        keys: cluster.Keys,
        places: abc.Sequence[int],
        chosen: dict[endpoints.Endpoint, list[abc.Sequence[int]]],
    ) -> int:
        """Find the servers for the keys at some places.

        :param dict chosen: receives the places that each server has
        :return: how many of the keys have none

        """
        if len(self._servers.servers) == 1:
            endpoint = self.to(b'', None)
            if endpoint is None:
                return len(places)
            chosen.setdefault(endpoint, []).append(places)
            return 0
        pick = self._servers.pick
        turned_back = self._turned_back
        encoded, hashes = keys
        found: dict[endpoints.Endpoint, list[int]] = {}
        for place in places:
            endpoint = pick(
                encoded[place],
                None if hashes is None else hashes[place],
                turned_back,
            )
            if endpoint is not None and endpoint not in turned_back:
                if endpoint in found:
                    found[endpoint].append(place)
                else:
                    found[endpoint] = [place]
        lost = len(places)
        for endpoint, some in found.items():
            lost -= len(some)
            before = chosen.setdefault(endpoint, [])
            if before and isinstance(before[-1], list):
                before[-1].extend(some)
            else:
                before.append(some)
        return lost


def run(
    servers: cluster.Cluster,
    command: protocol.Command,
    route: tuple[bytes, int | None],
    only: endpoints.Endpoint | None = None,
    timeout: float | None = None,
) -> endpoints.Endpoint | None:
    """Run a command on the server of its key, in this thread.

    :param Route route: the key as it is sent, and the hash given with it
    :param Endpoint only: the one server it may be sent to, if not any
    :param float timeout: the seconds for it, if the client's are not less
    :return: the server that it was sent to, None if it was sent nowhere

    """
    began = time.monotonic()
    deadline = began + _seconds(servers, timeout)
    key, hashed = route
    endpoint = servers.pick(key, hashed)
    if only is not None and endpoint is not only:
        endpoint = None
    # Most calls go no further.
    if endpoint is not None and endpoint.ask(command, began, deadline):
        return endpoint
    journey = Journey(servers, only)
    while endpoint is not None and journey.turn_back(endpoint):
        endpoint = journey.to(key, hashed)
        if endpoint is not None:
            command.start_over()
            if endpoint.ask(command, time.monotonic(), deadline):
                return endpoint
    error = endpoints.UnavailableError()
    command.error = command.error or error
    return None


def _seconds(servers: cluster.Cluster, timeout: float | None) -> float:
    """Return the seconds that a call has."""
    if timeout is None or timeout > servers.timeout:
        return servers.timeout
    return timeout


def run_many(
    servers: cluster.Cluster, many: Many, timeout: float | None = None
) -> list[protocol.Command]:
    """Run commands on the servers of many keys, side by side.

    :param float timeout: the seconds for it, if the client's are not less
    :return: the commands that were sent

    """
    deadline = time.monotonic() + _seconds(servers, timeout)
    journey = Journey(servers)
    done: list[protocol.Command] = []
    left: list[abc.Sequence[int]] = [range(len(many.keys.keys))]
    while any(left):
        chosen: dict[endpoints.Endpoint, list[abc.Sequence[int]]] = {}
        for places in left:
            journey.spread(many.keys, places, chosen)
        groups = {
            endpoint: [c for some in places for c in many.commands_for(some)]
            for endpoint, places in chosen.items()
        }
        reached = exchange_all(groups, deadline)
        if len(reached) < len(groups) and time.monotonic() >= deadline:
            many.late()
        left = []
        for endpoint, commands in groups.items():
            if endpoint in reached:
                done.extend(commands)
            elif journey.turn_back(endpoint):
                left.extend(chosen[endpoint])
    return done


def exchange_all(
    groups: cluster.Groups, deadline: float
) -> abc.Collection[endpoints.Endpoint]:
    """Run commands on their servers, side by side.

    :return: the servers that could be reached and were done in time

    """
    if len(groups) == 1:
        ((endpoint, commands),) = groups.items()
        return [endpoint] if _run_on(endpoint, commands, deadline) else []
    done: queue.SimpleQueue[tuple[endpoints.Endpoint, bool]] = (
        queue.SimpleQueue()
    )
    jobs = []
    own = []
    functions = [
        _Job(endpoint, commands, deadline, done)
        for endpoint, commands in groups.items()
    ]
    later = iter(functions[SIDE_BY_SIDE:])
    for function in functions[:SIDE_BY_SIDE]:
        try:
            jobs.append(function.submit())
        except process.ThreadError:
            own.append(function)
    # One after another is better than not at all.
    for function in own:
        function()
    reached = []
    for _ in groups:
        try:
            left = max(deadline - time.monotonic(), 0)
            endpoint, sent = done.get(timeout=left)
        except queue.Empty:
            for job in jobs:
                # What was not begun has failed, and is not to come later.
                job.take_back()
            break
        if sent:
            reached.append(endpoint)
        for function in itertools.islice(later, 1):
            try:
                jobs.append(function.submit())
            except process.ThreadError:
                function()
    return reached


def _run_on(
    endpoint: endpoints.Endpoint,
    commands: abc.Sequence[protocol.Command],
    deadline: float,
) -> bool:
    """Run commands on a server, which is tried if it is down.

    :return: False if it could not be reached

    """
    if len(commands) == 1:
        return endpoint.ask(commands[0], time.monotonic(), deadline)
    trial = endpoint.try_again()
    return endpoint.exchange(commands, deadline, trial=trial)


class _Job:
    """The exchange of one server's commands, in a thread of its own."""

    def __init__(
        self,
        endpoint: endpoints.Endpoint,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        done: queue.SimpleQueue[tuple[endpoints.Endpoint, bool]],
    ) -> None:
        self._commands = commands
        self._deadline = deadline
        self._endpoint = endpoint
        self._done = done

    def submit(self) -> workers.Job:
        """Have a thread of the server do it.

        :raises ThreadError: if there is none

        """
        return self._endpoint.workers.submit(self)

    def __call__(self) -> None:
        sent = False
        try:
            sent = _run_on(self._endpoint, self._commands, self._deadline)
        finally:
            self._done.put((self._endpoint, sent))
