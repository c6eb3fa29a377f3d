"""Which server a key lives on, and the servers that there are."""

from __future__ import annotations

import socket
import sys
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import clock, process, settings
from sprockets.clients.memcached.servers import (
    connections,
    discovery,
    distribution,
    events,
    health,
)
from sprockets.clients.memcached.servers.endpoints import (
    Endpoint,
    Identity,
    UnavailableError,
    fail,
)
from sprockets.clients.memcached.servers.endpoints import get as endpoint_for
from sprockets.clients.memcached.wire import connection, protocol

_BY_NAME = ('unix', *settings.IN_PROCESS)
"""Kinds of addresses that have no port."""

MANY = 20
"""Servers, if there are more, that are not for an event loop to set."""


class StandIn(Endpoint):
    """In place of the servers while they are not known yet.

    Its calls wait until they are, in its threads, and then go on to them.

    """

    stands_in = True

    def __init__(
        self, identity: Identity, source: discovery.Discovery
    ) -> None:
        super().__init__(identity)
        self._source = source

    def exchange(
        self,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        loan: connections.Loan | None = None,
        trial: health.Trial | None = None,
    ) -> bool:
        if self._source.wait(deadline):
            return False
        fail(commands, UnavailableError('the servers are not known'))
        return True

    def pick(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[Endpoint] = (),
        /,
    ) -> Endpoint | None:
        """Return itself, None if nothing is to be had here."""
        return None if self._source.failing or self in tried else self


class Server:
    """A server in a client's list, with the attributes of python-memcached's.

    :ivar weight: how many times it is in the buckets

    """

    def __init__(
        self,
        endpoint: Endpoint,
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
        if self.endpoint.address.family in _BY_NAME:
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
        if self.endpoint.address.family in _BY_NAME:
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
        return time.time() + retry_at - clock.now()

    @deaduntil.setter
    def deaduntil(self, value: float) -> None:
        if value > time.time():
            raise ValueError('deaduntil can be set to 0 only')
        self.endpoint.mark_up()

    def connect(self) -> int:
        """Return 1 if the server answers, else 0."""
        endpoint = self.endpoint
        version = protocol.Version()
        deadline = time.monotonic() + endpoint.timeout
        endpoint.exchange([version], deadline, trial=endpoint.try_again())
        return int(version.answered)

    def mark_dead(self, reason: str) -> None:
        """Let this client not use the server until ``dead_retry`` has passed.

        What is marked by hand holds for this client, what was seen holds for
        the process.

        """
        before = self.endpoint
        self.endpoint = Endpoint(before.identity)
        self.endpoint.mark_down(OSError(reason))
        cluster = self._cluster()
        if cluster is not None:
            before.let_go(cluster)
            self.endpoint.enter(cluster)
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


Groups = abc.Mapping[Endpoint, abc.Sequence[protocol.Command]]


class Change(typing.NamedTuple):
    """A change of a client's servers, which takes place once it is made.

    With ketama and many servers that takes long, so that it is for a thread:
    any thread, and no lock is held meanwhile that a call needs.

    """

    cluster: Cluster
    number: int
    listed: abc.Sequence[tuple[settings.Address, int]]
    source: Identity | None = None

    @property
    def takes_long(self) -> bool:
        """Whether to make it would hold up an event loop."""
        return len(self.listed) > MANY

    def make(self) -> None:
        """Use the servers, unless others were told of meanwhile."""
        self.cluster.make_change(self.number, self.listed, self.source)


class Spreading(typing.NamedTuple):
    """How keys are spread over some servers.

    With ketama and many servers it takes long to make, so that it is kept
    where the servers are still the same ones.

    """

    failover: bool
    servers: abc.Sequence[tuple[Endpoint, int]]
    """Each with its weight."""
    pick: distribution.Pick[Endpoint]
    """Finds the server of a key."""
    home: abc.Callable[[bytes], Endpoint | None]
    """Finds the one that is it while all are up."""

    @property
    def buckets(self) -> list[Endpoint]:
        """Each server as many times as its weight says."""
        return [
            endpoint
            for endpoint, weight in self.servers
            for _ in range(weight)
        ]


class Cluster:
    """The servers of a client.

    :param Settings options: the client's options
    :param flush_on_reconnect: whether a server that was down is flushed; see
        :class:`memcache.Client`

    """

    def __init__(
        self,
        options: settings.Settings,
        flush_on_reconnect: typing.Any = False,
    ) -> None:
        self.timeout = options.socket_timeout
        self.dead_retry = options.dead_retry
        self.debug: typing.Any = 0
        self.failover = options.failover
        self.flush_on_reconnect = flush_on_reconnect
        self._options = options
        self.servers: list[Server] = []
        self.buckets: list[Endpoint] = []
        self.pick: distribution.Pick[Endpoint]
        """Finds the server of a key."""
        self._found: distribution.Pick[Endpoint]
        """Likewise, once it is asked which servers there are."""
        self._spreading: Spreading | None = None
        """Where both are from, None while the servers are not known."""
        self.changed: weakref.WeakMethod[abc.Callable[[], None]] | None = None
        """Is called, in any thread, when there are other servers."""
        self.stand_in: StandIn | None = None
        """Where calls go while the servers are not known."""
        self._source: discovery.Discovery | None = None
        self._lock = threading.Lock()
        self.listeners: list[events.Listener] = []
        """Who is told what happens to the servers, in any thread."""
        self._change = 0
        """Counts what was told about servers, of which the last counts."""
        self.set_servers(options.servers)
        process.after_fork(self)

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> None:
        """Use these servers from now on.

        :raises ValueError: for a server that cannot be one

        """
        self.change(servers).make()

    def change(self, servers: abc.Iterable[settings.Weighted]) -> Change:
        """Return a change of the servers, which takes place once it is made.

        :raises ValueError: for a server that cannot be one
        :rtype: Change

        """
        if isinstance(servers, settings.Secret):
            servers = settings.reveal_servers(servers)
        servers = settings.listed(servers)
        address = settings.discovered(servers)
        if address is not None:
            return Change(self, self._next(), [], self._identity(address))
        parsed = []
        for server in servers:
            text, weight = (
                (server, 0)
                if isinstance(server, str)
                else settings.weighted(server)
            )
            address, _, own_weight = settings.parse_server(text)
            parsed.append((address, weight or own_weight))
        return Change(self, self._next(), parsed)

    def _next(self) -> int:
        with self._lock:
            self._change += 1
            return self._change

    def make_change(
        self,
        number: int,
        listed: abc.Sequence[tuple[settings.Address, int]],
        source: Identity | None,
    ) -> None:
        """Make a change, unless there was another one since it was begun."""
        if source is None:
            self._use(self._choose(listed), number)
        elif (
            self._source is None
            or self._source.profile.address != source.profile.address
        ):
            self._discover(source, number)

    def _identity(self, address: settings.Address) -> Identity:
        return Identity(
            connection.Profile(
                address,
                self.timeout,
                self._options.credentials,
                self._options.tls_for(address),
            ),
            self.dead_retry,
            self._options.max_connections,
            self.flush_on_reconnect,
            self._options.max_idle,
        )

    def _choose(
        self, listed: abc.Iterable[tuple[settings.Address, int]]
    ) -> list[Server]:
        return [
            Server(endpoint_for(self._identity(address)), weight, self)
            for address, weight in listed
        ]

    def _use(
        self,
        chosen: list[Server],
        number: int | None,
        source: discovery.Discovery | None = None,
    ) -> None:
        """Use servers, unless others were told of since.

        :param int number: the change that brings them, None if it is none
        :param Discovery source: who has found them, None if they were listed

        """
        # Without the lock, for it may take long, and calls need that.
        spreading = self._spread(chosen)
        with self._lock:
            before = self._source
            if number != self._change if source is None else source != before:
                return
            self._source = source
            gone = self.endpoints
            self.servers = chosen
            self.stand_in = None
            self.buckets = spreading.buckets
            self._spreading = spreading
            # All at once, so that a thread goes on with the old ones or these.
            self.pick = self._found = spreading.pick
            # Here: those of the next change are entered behind these.
            for endpoint in gone:
                endpoint.let_go(self)
            for endpoint in self.endpoints:
                endpoint.enter(self)
        if before is not None and before is not source:
            before.stop()
        changed = self.changed and self.changed()
        if changed is not None:
            changed()
        if self.listeners:
            self._tell_of(gone)

    def _tell_of(self, before: abc.Sequence[Endpoint]) -> None:
        """Tell who listens which servers are new, and which are gone."""
        now = self.endpoints
        for kind, these, those in (
            (events.DISCOVERED, now, before),
            (events.GONE, before, now),
        ):
            for endpoint in these:
                if endpoint not in those:
                    event = events.ServerEvent(kind, str(endpoint))
                    events.tell(self.listeners, event)

    def _spread(self, servers: abc.Sequence[Server]) -> Spreading:
        """Return how keys are spread over servers."""
        weighted = [(server.endpoint, server.weight) for server in servers]
        before = self._spreading
        if before is not None and before[:2] == (self.failover, weighted):
            return before
        found = distribution.make(
            self._options.distribution,
            [(each.address, weight, each) for each, weight in weighted],
            self.failover,
        )
        return Spreading(self.failover, weighted, found.pick, found.home)

    def renew(self) -> None:
        """Spread keys over the servers as they are now."""
        while True:
            with self._lock:
                number, servers = self._change, self.servers
                endpoints = [server.endpoint for server in servers]
            spreading = self._spread(servers)
            with self._lock:
                if number == self._change and endpoints == [
                    server.endpoint for server in self.servers
                ]:
                    self.buckets = spreading.buckets
                    self._spreading = spreading
                    self._found = spreading.pick
                    if self.pick != self._pick_at_first:
                        self.pick = spreading.pick
                    return

    def home(self, key: bytes) -> Endpoint | None:
        """Return the server of a key, whether it is up or not.

        :return: None if there is none, or if that is not known yet

        """
        spreading = self._spreading
        return None if spreading is None else spreading.home(key)

    @property
    def only(self) -> Endpoint | None:
        """The server, None if there are several."""
        servers = self.servers
        return servers[0].endpoint if len(servers) == 1 else None

    @property
    def endpoints(self) -> list[Endpoint]:
        """Each server once."""
        return list(dict.fromkeys(s.endpoint for s in self.servers))

    # Servers that are not listed

    def _discover(self, identity: Identity, number: int) -> None:
        source = discovery.Discovery(
            identity.profile,
            self.dead_retry,
            self._use_discovered,
            self._options.max_discovered,
        )
        stand_in = StandIn(identity, source)
        with self._lock:
            if number != self._change:
                return
            before, self._source = self._source, source
            gone = self.endpoints
            self.servers = []
            self.buckets = []
            self.stand_in = stand_in
            self._spreading = None
            self._found = stand_in.pick
            self.pick = self._pick_at_first
            for endpoint in gone:
                endpoint.let_go(self)
        if before is not None:
            before.stop()

    def _use_discovered(
        self, source: discovery.Discovery, servers: list[str]
    ) -> None:
        listed = []
        for text in servers:
            address, _, weight = settings.parse_server(text)
            listed.append((address, weight))
        self._use(self._choose(listed), None, source)

    def _pick_at_first(
        self,
        key: bytes,
        hashed: int | None = None,
        tried: abc.Container[Endpoint] = (),
        /,
    ) -> Endpoint | None:
        return self.begin()(key, hashed, tried)

    def begin(self) -> distribution.Pick[Endpoint]:
        """Ask for the servers from now on, if they are not listed.

        :return: what finds a server meanwhile

        """
        with self._lock:
            source, found = self._source, self._found
            if source is None or self.pick != self._pick_at_first:
                return found
            self.pick = found
        if not source.start():
            with self._lock:
                # Unless there is something else by now.
                if self.pick is found:
                    self.pick = self._pick_at_first
        return found

    def waiting(self) -> Groups:
        """Return what to run first, where the servers are not known yet."""
        self.begin()
        stand_in = self.stand_in
        return {} if stand_in is None else {stand_in: [protocol.Version()]}

    def goes_on(self, endpoint: Endpoint) -> bool:
        """Whether what did not reach a server may go to another one."""
        return self.failover or endpoint.stands_in

    def close(self) -> list[process.Thread]:
        """Ask for servers no more, and release what nobody else uses.

        :return: the threads that end when they have done what they do

        """
        if self._source is not None:
            self._source.stop()
        ending = []
        for endpoint in self.endpoints:
            # Idle ones are no loss to another client, unlike connections.
            ending += endpoint.workers.stop()
            if endpoint.let_go(self):
                endpoint.disconnect()
        return ending

    def forget_after_fork(self) -> None:
        """Ask anew in a forked child, where it uses the client."""
        self._lock = threading.Lock()
        if self._source is not None:
            self._source.forget_after_fork()
            self.pick = self._pick_at_first

    def debuglog(self, text: str) -> None:
        """Print what python-memcached prints, for whoever set ``debug``."""
        if self.debug:
            sys.stderr.write(f'MemCached: {text}\n')
