"""Which server a key lives on, each server's health, its idle connections."""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import (
    connection,
    discovery,
    distribution,
    protocol,
    settings,
    tls,
    workers,
)

LOGGER = logging.getLogger(__name__)


PROBE = b'sprockets.clients.memcached.probe'
"""It is read to see whether a server is well."""


class UnavailableError(Exception):
    """There is no server to send a command to, or it failed just now."""


class StaleError(Exception):
    """A cas unique was given out by the server in an earlier life of it."""


def words(reason: BaseException) -> str:
    """Return why a server failed, without what it sent: that may be a value.

    :rtype: str

    """
    if isinstance(reason, OSError):
        return reason.strerror or str(reason) or type(reason).__name__
    if isinstance(reason, protocol.ProtocolError):
        return 'what it sent was no answer'
    return type(reason).__name__


class Identity(typing.NamedTuple):
    """What clients must agree on to share a server's state."""

    profile: connection.Profile
    dead_retry: float
    max_connections: int
    flush_on_reconnect: bool


class Endpoint:
    """A server as the whole process knows it.

    All clients of the process that connect to it in the same way share its
    health, its idle connections and its worker threads.

    """

    stands_in = False
    """Whether it only stands in for servers that are not known yet."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.address = identity.profile.address
        self.timeout = identity.profile.timeout
        self.max_connections = identity.max_connections
        self.workers = workers.Workers(
            identity.max_connections, f'memcached {self.address}'
        )
        self.incarnation = 0
        """Counts the lives of the server, as far as they can be told apart:
        a new one may have begun whenever a connection was lost, and where
        there is none from before."""
        self.knows_meta: bool | None = None
        """Whether it has meta commands, as old servers and some proxies have
        not; None while nobody has asked."""
        self.down_since: float | None = None
        """When it went down (:func:`time.time`), None while it is up."""
        self.up_since: float | None = None
        """When it came back (:func:`time.time`), None if it never went."""
        self.retry_at: float | None = None
        """When it is tried again (:func:`time.monotonic`), None while up."""
        self.reason = ''
        """Why it is down, in :func:`words`."""
        """Why it is down, empty while it is up."""
        self._profile = identity.profile
        self._dead_retry = identity.dead_retry
        self._flush_on_reconnect = identity.flush_on_reconnect
        self._down_at = 0.0
        self._epoch = 0
        self._lock = threading.Lock()
        self._idle: list[connection.Connection] = []
        self._open: set[connection.Connection] = set()
        weakref.finalize(self, _close_all, self._open).atexit = False

    def __str__(self) -> str:
        return self.address.text

    @property
    def connections(self) -> int:
        """How many connections there are, in use or idle."""
        return len(self._open)

    def available(self) -> bool:
        """Whether to send something to the server, as far as is known.

        It does no I/O.  While the server is down, True is for one caller
        after each ``dead_retry``: the one that tries it.

        """
        return self.retry_at is None or self._try_again()

    def _try_again(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if self.retry_at is not None:
                if now < self.retry_at:
                    return False
                # The others go on failing fast while this one finds out.
                self.retry_at = now + max(self._dead_retry, self.timeout)
            return True

    def mark_down(self, reason: BaseException) -> None:
        """Let nobody wait for this server until ``dead_retry`` has passed."""
        with self._lock:
            was_up = self.retry_at is None
            now = time.monotonic()
            self.retry_at = now + self._dead_retry
            # In words: the error's traceback has all that was to be sent.
            self.reason = words(reason)
            self._down_at = now
            if was_up:
                self.down_since = time.time()
        if self._flush_on_reconnect:
            # A connection that outlived it would do without the flush.
            self.disconnect()
        if was_up:
            LOGGER.warning(
                'memcached server %s is down: %s',
                self,
                str(reason) or type(reason).__name__,
            )

    def mark_up(self) -> None:
        """Let everybody use this server again."""
        with self._lock:
            down_since = self.down_since
            if down_since is not None:
                # It may be another version of the server.
                self.knows_meta = None
            if down_since is not None:
                self.up_since = time.time()
            self.retry_at = None
            self.down_since = None
            self.reason = ''
        if down_since is not None:
            LOGGER.info(
                'memcached server %s is up after %.1f seconds',
                self,
                time.time() - down_since,
            )

    def exchange(
        self, commands: abc.Sequence[protocol.Command], deadline: float
    ) -> bool:
        """Run commands on the server: the one way to the wire.

        Each command is ``answered``, or has an ``error`` and the result of a
        failure.  Where a connection breaks, what is harmless to do twice is
        tried once more on a new one.

        :param float deadline: until when, on :func:`time.monotonic`'s clock
        :return: False if the server could not be reached and none of them
            was sent, so that another server may be tried
        :rtype: bool

        """
        began = time.monotonic()
        if began >= deadline:
            self._give_back(began)
            _fail(commands, TimeoutError('timed out before it was sent'))
            return True
        pending = commands
        for attempt in (1, 2):
            link = self._take() if attempt == 1 else None
            reused = link is not None
            try:
                if link is None:
                    link = self._connect(deadline)
            except (OSError, protocol.ProtocolError) as error:
                self._blame(error, began)
                _fail(pending, error)
                return attempt > 1
            pending = self._meant(pending)
            failure = self._run(link, pending, deadline)
            if failure is None:
                self._praise(began)
                break
            out_of_step = isinstance(failure, protocol.OutOfStepError)
            pending = [c for c in pending if not c.answered]
            if self._refused_meta(
                pending, failure, deadline
            ) or self._closed_for_rare(pending, failure, reused, deadline):
                pending = pending[1:]
                out_of_step = True
            again = [c for c in pending if c.repeatable]
            lost = isinstance(failure, OSError) and not isinstance(
                failure, TimeoutError
            )
            if attempt == 1 and again and (lost or out_of_step):
                _fail([c for c in pending if not c.repeatable], failure)
                pending = again
                for command in again:
                    command.go_on()
                continue
            _fail(pending, failure)
            if out_of_step:
                self._praise(began)
            elif lost and reused:
                self._give_back(began)
            else:
                self._blame(failure, began)
            break
        for command in commands:
            if isinstance(command.error, protocol.RefusedError):
                LOGGER.warning('memcached server %s: %s', self, command.error)
        return True

    def _refused_meta(
        self,
        pending: abc.Sequence[protocol.Command],
        failure: Exception,
        deadline: float,
    ) -> bool:
        """Whether a meta command was refused by closing the connection.

        It is what some proxies do with a command that they do not know.

        """
        if (
            not pending
            or not pending[0].is_meta
            or self.knows_meta is not None
            or not isinstance(failure, ConnectionError)
            or not self._closes_for_meta(deadline)
        ):
            return False
        pending[0].answered = True
        pending[0].error = protocol.RefusedError(
            f'{pending[0].name}: {failure}'
        )
        return True

    def _closed_for_rare(
        self,
        pending: abc.Sequence[protocol.Command],
        failure: Exception,
        reused: bool,
        deadline: float,
    ) -> bool:
        """Whether another command was, by a server that is well otherwise."""
        if (
            reused
            or not pending
            or not pending[0].is_rare
            or not isinstance(failure, ConnectionError)
            or self._closes_for(protocol.Get((PROBE,)), deadline)
        ):
            return False
        command = pending[0]
        LOGGER.warning(
            'memcached server %s closes connections on %s',
            self,
            command.request.split()[0].decode('ascii'),
        )
        command.answered = True
        command.error = ConnectionError(str(failure))
        return True

    def _closes_for_meta(self, deadline: float) -> bool:
        """Whether it accepts connections, but no meta commands on them."""
        return self._closes_for(protocol.meta_noop(), deadline, False)

    def _closes_for(
        self,
        probe: protocol.Command,
        deadline: float,
        if_unreachable: bool = True,
    ) -> bool:
        """Whether a new connection is closed, or refused, for a command.

        :param bool if_unreachable: what to return if that cannot be told

        """
        try:
            link = self._connect(deadline)
        except (OSError, protocol.ProtocolError):
            return if_unreachable
        epoch = self._epoch
        try:
            link.exchange([probe], deadline)
        except (ConnectionError, protocol.ProtocolError):
            return True
        except OSError:
            return if_unreachable
        finally:
            self._put_back(link, epoch)
        return probe.error is not None

    def _blame(self, failure: Exception, began: float) -> None:
        """Mark the server down, unless it was given too little time.

        A call that waited elsewhere may reach a healthy server with nothing
        left of its deadline.

        """
        given = time.monotonic() - began
        if not isinstance(failure, TimeoutError) or given > self.timeout / 2:
            self.mark_down(failure)
        else:
            self._give_back(began)

    def _praise(self, began: float) -> None:
        """Mark the server up, unless it was marked down since."""
        if self.retry_at is not None and began >= self._down_at:
            self.mark_up()

    def _give_back(self, began: float) -> None:
        """Let another caller try a server of which this one told nothing."""
        with self._lock:
            if self.retry_at is not None and began >= self._down_at:
                self.retry_at = time.monotonic()

    def _run(
        self,
        link: connection.Connection,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
    ) -> Exception | None:
        """Exchange on a connection, and put it back if it is in step."""
        epoch = self._epoch
        try:
            link.exchange(commands, deadline)
        except (OSError, protocol.ProtocolError) as error:
            self.incarnation += 1
            return error
        finally:
            self._put_back(link, epoch)
        return None

    def _meant(
        self, commands: abc.Sequence[protocol.Command]
    ) -> abc.Sequence[protocol.Command]:
        """Leave out what was meant for an earlier life of the server."""
        incarnation = self.incarnation
        for command in commands:
            if not command.meant_for(incarnation):
                break
        else:
            return commands
        stale = [c for c in commands if not c.meant_for(incarnation)]
        _fail(stale, StaleError(f'{self} may have been restarted since gets'))
        return [c for c in commands if c not in stale]

    def _take(self) -> connection.Connection | None:
        """Take an idle connection that is still good, if there is one."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if link.is_quiet():
                return link
            self.incarnation += 1
            link.close()
            self._open.discard(link)
        return None

    def _connect(self, deadline: float) -> connection.Connection:
        link = tls.connect(self._profile, deadline)
        if all(other.is_lost() for other in list(self._open)):
            self.incarnation += 1
        if self._flush_on_reconnect and self.retry_at is not None:
            # The keys that moved meanwhile would be read in their old state.
            flush = protocol.flush_all()
            link.exchange([flush], deadline)
            if flush.error is not None:
                LOGGER.warning('memcached server %s: %s', self, flush.error)
        self._open.add(link)
        return link

    def _put_back(self, link: connection.Connection, epoch: int) -> None:
        if (
            link.usable
            and epoch == self._epoch
            and len(self._idle) < self.max_connections
        ):
            self._idle.append(link)
        else:
            link.close()
            self._open.discard(link)

    def disconnect(self) -> None:
        """Close the idle connections now, and those in use once returned."""
        self._epoch += 1
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return
            link.close()
            self._open.discard(link)

    def forget_after_fork(self) -> None:
        """Close a forked child's copies of its parent's connections."""
        _close_all(self._open)
        self._open.clear()
        self._idle.clear()
        self._lock = threading.Lock()
        self.workers.forget()


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
        self, commands: abc.Sequence[protocol.Command], deadline: float
    ) -> bool:
        if self._source.wait(deadline):
            return False
        _fail(commands, UnavailableError('the servers are not known'))
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


def _fail(
    commands: abc.Iterable[protocol.Command], error: BaseException
) -> None:
    # Its traceback has the commands, and would keep them.
    error = error.with_traceback(None)
    error.__context__ = None
    for command in commands:
        command.error = error


def _close_all(connections: abc.Iterable[connection.Connection]) -> None:
    for link in connections:
        link.close()


class _Endpoints:
    """The servers that this process knows, for as long as a client does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_identity: weakref.WeakValueDictionary[Identity, Endpoint] = (
            weakref.WeakValueDictionary()
        )

    def get(self, identity: Identity) -> Endpoint:
        """Return the one endpoint for an identity, which may be new."""
        with self._lock:
            endpoint = self._by_identity.get(identity)
            if endpoint is None:
                endpoint = Endpoint(identity)
                self._by_identity[identity] = endpoint
            return endpoint

    def mark_up(self, address: settings.Address) -> None:
        """Take a server for one that is up, however it is connected to."""
        with self._lock:
            endpoints = list(self._by_identity.values())
        for endpoint in endpoints:
            if endpoint.address == address:
                endpoint.mark_up()

    def forget_after_fork(self) -> None:
        """Leave the parent's connections and threads to the parent."""
        self._lock = threading.Lock()
        for endpoint in list(self._by_identity.values()):
            endpoint.forget_after_fork()


_endpoints = _Endpoints()
mark_up = _endpoints.mark_up
os.register_at_fork(after_in_child=_endpoints.forget_after_fork)


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
        self.endpoint = Endpoint(self.endpoint.identity)
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


Groups = dict[Endpoint, abc.Sequence[protocol.Command]]
Rounds = abc.Generator[Groups, abc.Collection[Endpoint], None]


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
        self.buckets: list[Endpoint] = []
        self.pick: distribution.Pick[Endpoint]
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
        )

    def _choose(
        self, servers: abc.Iterable[settings.Weighted]
    ) -> list[Server]:
        chosen = []
        for server in servers:
            text, weight = (server, 0) if isinstance(server, str) else server
            address, _, own_weight = settings.parse_server(text)
            endpoint = _endpoints.get(self._identity(address))
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

    def _discover(self, identity: Identity) -> None:
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
        tried: abc.Container[Endpoint] = (),
        /,
    ) -> Endpoint | None:
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

    def goes_on(self, endpoint: Endpoint) -> bool:
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
    def endpoints(self) -> list[Endpoint]:
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
        only: Endpoint | None = None,
    ) -> Endpoint | None:
        """Run a command on the server of its key.

        :param Endpoint only: the one server it may be sent to, if not any
        :return: the server that it was sent to, None if it was sent nowhere

        """
        deadline = time.monotonic() + self.timeout
        tried: list[Endpoint] = []
        while True:
            endpoint = self.pick(route.key, route.hash, tried)
            if (
                endpoint is None
                or endpoint in tried
                or (only is not None and endpoint is not only)
            ):
                error = UnavailableError('no server is up')
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
        tried: set[Endpoint] = set()
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
        tried: abc.Container[Endpoint],
    ) -> abc.Mapping[Endpoint, abc.Sequence[int]]:
        """Return the places of the keys that each server has."""
        if len(self.servers) == 1:
            endpoint = self.pick(b'', None, tried)
            if endpoint is None or endpoint in tried:
                return {}
            return {endpoint: places}
        chosen: dict[Endpoint, list[int]] = {}
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


def exchange_all(groups: Groups, deadline: float) -> abc.Collection[Endpoint]:
    """Run commands on their servers, side by side.

    :return: the servers that could be reached and were done in time

    """
    if len(groups) == 1:
        ((endpoint, commands),) = groups.items()
        return [endpoint] if endpoint.exchange(commands, deadline) else []
    done: queue.SimpleQueue[tuple[Endpoint, bool]] = queue.SimpleQueue()
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
        endpoint: Endpoint,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        done: queue.SimpleQueue[tuple[Endpoint, bool]],
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
