"""Which server a key lives on, and the servers that there are."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import settings
from sprockets.clients.memcached.servers import discovery, distribution, health
from sprockets.clients.memcached.wire import connection, protocol


class StandIn(health.Endpoint):
    """In place of the servers while they are not known yet.

    Its calls wait until they are, in its threads, and then go on to them.

    """

    stands_in = True

    def __init__(
        self, identity: health.Identity, source: discovery.Discovery
    ) -> None:
        super().__init__(identity)
        self._source = source

    def exchange(
        self,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        begun: health.Begun | None = None,
    ) -> bool:
        if self._source.wait(deadline):
            return False
        health.fail(
            commands, health.UnavailableError('the servers are not known')
        )
        return True

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[health.Endpoint] = (),
        /,
    ) -> health.Endpoint | None:
        """Return itself, None if nothing is to be had here."""
        return None if self._source.failing or self in tried else self


class Server:
    """A server in a client's list, with the attributes of python-memcached's.

    :ivar weight: how many times it is in the buckets

    """

    def __init__(
        self,
        endpoint: health.Endpoint,
        weight: int,
        cluster: Cluster,
    ) -> None:
        self.endpoint = endpoint
        self.weight = weight
        # A server must not keep its client alive.
        self._cluster = weakref.ref(cluster)

    def __str__(self) -> str:
        dead = self.deaduntil
        state = f' (dead until {dead:.0f})' if dead else ''
        kind = {
            socket.AF_UNIX: '',
            socket.AF_INET6: 'inet6:',
            socket.AF_INET: 'inet:',
        }[self.family]
        return f'{kind}{self.endpoint}{state}'

    @property
    def family(self) -> socket.AddressFamily:
        """The kind of socket; a name counts as IPv4."""
        if self.endpoint.address.family == 'unix':
            return socket.AF_UNIX
        if self.endpoint.address.family == 'inet6':
            return socket.AF_INET6
        return socket.AF_INET

    @property
    def ip(self) -> str:
        """The host as it was given."""
        return self.endpoint.address.host

    @property
    def port(self) -> int:
        """The port."""
        return self.endpoint.address.port

    @property
    def address(self) -> str | tuple[str, int]:
        """The path of a unix socket, or host and port."""
        if self.endpoint.address.family == 'unix':
            return self.ip
        return self.ip, self.port

    @property
    def name(self) -> str:
        """How ``get_stats`` names it: address and weight."""
        return f'{self.endpoint} ({self.weight})'

    @property
    def deaduntil(self) -> float:
        """When it is tried again, in seconds since the epoch; 0 if up."""
        retry_at = self.endpoint.retry_at
        if retry_at is None:
            return 0
        return time.time() + retry_at - time.monotonic()

    @deaduntil.setter
    def deaduntil(self, value: float) -> None:
        if value > time.time():
            raise ValueError('deaduntil can be set to 0 only')
        self.endpoint.mark_up()

    def connect(self) -> int:
        """Return 1 if the server answers, else 0."""
        if not self.endpoint.available():
            return 0
        version = protocol.Version()
        deadline = time.monotonic() + self.endpoint.timeout
        self.endpoint.exchange([version], deadline)
        return int(version.answered)

    def mark_dead(self, reason: str) -> None:
        """Let this client not use the server until ``dead_retry`` has passed.

        What is marked by hand holds for this client, what was seen holds for
        the process.

        """
        self.endpoint = health.Endpoint(self.endpoint.identity)
        self.endpoint.mark_down(OSError(reason))
        cluster = self._cluster()
        if cluster is not None:
            cluster.debuglog(f'MemCache: {self}: {reason}.  Marking dead.')
            cluster.renew()

    def close_socket(self) -> None:
        """Close the connections to the server."""
        self.endpoint.disconnect()


class Route(typing.NamedTuple):
    """A key as it is sent, and the hash given with it, if one was."""

    key: bytes
    hash: int | None


class Keys(typing.NamedTuple):
    """The keys of one call as they are sent, and the hashes given with them.

    ``hashes`` is None if there was none.

    """

    keys: abc.Sequence[bytes]
    hashes: abc.Sequence[int | None] | None


Groups = dict[health.Endpoint, abc.Sequence[protocol.Command]]
Rounds = abc.Generator[Groups, abc.Collection[health.Endpoint], None]


class Cluster:
    """The servers of a client.

    :param Settings options: the client's options

    """

    def __init__(self, options: settings.Settings) -> None:
        self.timeout = options.socket_timeout
        self.dead_retry = options.dead_retry
        self.debug: typing.Any = 0
        self.failover = options.failover
        self.flush_on_reconnect = False
        self._options = options
        self.servers: list[Server] = []
        self.buckets: list[health.Endpoint] = []
        self.pick: distribution.Pick[health.Endpoint]
        self.changed: weakref.WeakMethod[abc.Callable[[], None]] | None = None
        """Is called, in any thread, when there are other servers."""
        self.stand_in: StandIn | None = None
        """Where calls go while the servers are not known."""
        self._source: discovery.Discovery | None = None
        self._lock = threading.Lock()
        self.set_servers(options.servers)

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> None:
        """Use these servers from now on.

        :raises ValueError: for a server that cannot be one

        """
        servers = list(servers)
        address = settings.discovered(servers)
        if address is None:
            chosen = self._choose(servers)
            self.close()
            self._source = None
            self._use(chosen)
        elif self._source is None or self._source.profile.address != address:
            identity = self._identity(address)
            self.close()
            self._discover(identity)

    def _identity(self, address: settings.Address) -> health.Identity:
        return health.Identity(
            connection.Profile(
                address,
                self.timeout,
                self._options.credentials,
                self._options.tls_for(address),
            ),
            self.dead_retry,
            self._options.max_connections,
            self.flush_on_reconnect,
        )

    def _choose(
        self, servers: abc.Iterable[settings.Weighted]
    ) -> list[Server]:
        chosen = []
        for server in servers:
            text, weight = (server, 0) if isinstance(server, str) else server
            address, _, own_weight = settings.parse_server(text)
            endpoint = health.get(self._identity(address))
            chosen.append(Server(endpoint, weight or own_weight, self))
        return chosen

    def _use(self, chosen: list[Server]) -> None:
        with self._lock:
            self.servers = chosen
            self.stand_in = None
            self.renew()
        changed = self.changed and self.changed()
        if changed is not None:
            changed()

    # Servers that are not listed

    def _discover(self, identity: health.Identity) -> None:
        with self._lock:
            self.servers = []
            self.buckets = []
            self._source = discovery.Discovery(
                identity.profile, self.dead_retry, self._use_discovered
            )
            self.stand_in = StandIn(identity, self._source)
            self.pick = self._pick_at_first
        _discovering.add(self)

    def _use_discovered(self, servers: list[str]) -> None:
        self._use(self._choose(servers))

    def _pick_at_first(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[health.Endpoint] = (),
        /,
    ) -> health.Endpoint | None:
        self.begin()
        return self.pick(key, hashed, tried)

    def begin(self) -> None:
        """Ask for the servers from now on, if they are not listed."""
        with self._lock:
            source = self._source
            if source is None or self.pick != self._pick_at_first:
                return
            if self.stand_in is not None:
                self.pick = self.stand_in.pick
            else:
                self.renew()
        source.start()

    def waiting(self) -> Groups:
        """Return what to run first, where the servers are not known yet."""
        self.begin()
        stand_in = self.stand_in
        return {} if stand_in is None else {stand_in: [protocol.Version()]}

    def goes_on(self, endpoint: health.Endpoint) -> bool:
        """Whether what did not reach a server may go to another one."""
        return self.failover or endpoint.stands_in

    def close(self) -> None:
        """Ask for servers no more."""
        if self._source is not None:
            self._source.stop()

    def forget_after_fork(self) -> None:
        """Ask anew in a forked child, where it uses the client."""
        self._lock = threading.Lock()
        if self._source is not None:
            self._source.forget_after_fork()
            self.pick = self._pick_at_first

    def renew(self) -> None:
        """Spread keys over the servers as they are now."""
        servers = self.servers
        self.buckets = [
            server.endpoint for server in servers for _ in range(server.weight)
        ]
        # All at once, so that a thread goes on with the old ones or these.
        self.pick = distribution.make(
            self._options.distribution,
            [(s.endpoint.address, s.weight, s.endpoint) for s in servers],
            self.failover,
        )

    @property
    def endpoints(self) -> list[health.Endpoint]:
        """Each server once."""
        return list(dict.fromkeys(s.endpoint for s in self.servers))

    def debuglog(self, text: str) -> None:
        """Print what python-memcached prints, for whoever set ``debug``."""
        if self.debug:
            sys.stderr.write(f'MemCached: {text}\n')

    def run(
        self,
        command: protocol.Command,
        route: Route,
        only: health.Endpoint | None = None,
    ) -> health.Endpoint | None:
        """Run a command on the server of its key.

        :param Endpoint only: the one server it may be sent to, if not any
        :return: the server that it was sent to, None if it was sent nowhere

        """
        deadline = time.monotonic() + self.timeout
        tried: list[health.Endpoint] = []
        while True:
            endpoint = self.pick(route.key, route.hash, tried)
            if (
                endpoint is None
                or endpoint in tried
                or (only is not None and endpoint is not only)
            ):
                if endpoint is not None:
                    endpoint.leave()
                error = health.UnavailableError('no server is up')
                command.error = command.error or error
                return None
            if tried:
                command.start_over()
            if endpoint.exchange((command,), deadline):
                return endpoint
            if not self.goes_on(endpoint):
                return None
            tried.append(endpoint)

    def rounds(
        self,
        keys: Keys,
        make: abc.Callable[
            [abc.Sequence[int]], abc.Sequence[protocol.Command]
        ],
        done: list[protocol.Command],
    ) -> Rounds:
        """Spread keys over the servers, and again where one turns out down.

        A generator: it gives the commands for each server, wants to be sent
        the servers that could be reached, and ends when nothing is left.

        :param make: makes the commands for the keys at some places
        :param list done: receives the commands that were sent

        """
        tried: set[health.Endpoint] = set()
        places: abc.Sequence[int] = range(len(keys.keys))
        while places:
            chosen = self._spread(keys, places, tried)
            groups: Groups = {
                endpoint: make(some) for endpoint, some in chosen.items()
            }
            reached = yield groups
            places = []
            for endpoint, commands in groups.items():
                if endpoint in reached:
                    done.extend(commands)
                elif self.goes_on(endpoint):
                    tried.add(endpoint)
                    places.extend(chosen[endpoint])

    def _spread(
        self,
        keys: Keys,
        places: abc.Sequence[int],
        tried: abc.Container[health.Endpoint],
    ) -> abc.Mapping[health.Endpoint, abc.Sequence[int]]:
        """Return the places of the keys that each server has."""
        if len(self.servers) == 1:
            endpoint = self.pick(b'', None, tried)
            if endpoint is None or endpoint in tried:
                return {}
            return {endpoint: places}
        chosen: dict[health.Endpoint, list[int]] = {}
        for place in places:
            hashed = None if keys.hashes is None else keys.hashes[place]
            endpoint = self.pick(keys.keys[place], hashed, tried)
            if endpoint is not None and endpoint not in tried:
                chosen.setdefault(endpoint, []).append(place)
        return chosen

    def run_rounds(self, rounds: Rounds) -> None:
        """Run commands on several servers at once, under one deadline."""
        deadline = time.monotonic() + self.timeout
        try:
            groups = next(rounds)
            while True:
                groups = rounds.send(exchange_all(groups, deadline))
        except StopIteration:
            return


_discovering: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _forget_discoveries_after_fork() -> None:
    for cluster in list(_discovering):
        cluster.forget_after_fork()


os.register_at_fork(after_in_child=_forget_discoveries_after_fork)


def exchange_all(
    groups: Groups, deadline: float
) -> abc.Collection[health.Endpoint]:
    """Run commands on their servers, side by side.

    :return: the servers that could be reached and were done in time

    """
    if len(groups) == 1:
        ((endpoint, commands),) = groups.items()
        return [endpoint] if endpoint.exchange(commands, deadline) else []
    done: queue.SimpleQueue[tuple[health.Endpoint, bool]] = queue.SimpleQueue()
    for endpoint, commands in groups.items():
        endpoint.workers.submit(_Job(endpoint, commands, deadline, done))
    reached = []
    for _ in groups:
        try:
            left = max(deadline - time.monotonic(), 0)
            endpoint, sent = done.get(timeout=left)
        except queue.Empty:
            break
        if sent:
            reached.append(endpoint)
    return reached


class _Job:
    def __init__(
        self,
        endpoint: health.Endpoint,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        done: queue.SimpleQueue[tuple[health.Endpoint, bool]],
    ) -> None:
        self._arguments = (commands, deadline)
        self._endpoint = endpoint
        self._done = done

    def __call__(self) -> None:
        sent = False
        try:
            sent = self._endpoint.exchange(*self._arguments)
        finally:
            self._done.put((self._endpoint, sent))
