"""Servers as the whole process knows them: the one way to the wire."""

from __future__ import annotations

import logging
import os
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import settings
from sprockets.clients.memcached.servers import workers
from sprockets.clients.memcached.wire import connection, protocol, tls

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


class Begun:
    """An exchange that an event loop has begun, on a connection of its own.

    Whoever has it brings it to an end: by :meth:`Endpoint.finish`, by
    :meth:`Endpoint.exchange`, which takes as long as it takes, or by
    :meth:`Endpoint.drop`.

    """

    __slots__ = (
        'began',
        'commands',
        'descriptor',
        'epoch',
        'failure',
        'link',
    )

    def __init__(
        self,
        link: connection.Connection,
        commands: abc.Sequence[protocol.Command],
        began: float,
        epoch: int,
    ) -> None:
        self.link = link
        self.descriptor = link.fileno()
        """What the loop waits for; it is known when the link is closed too."""
        self.commands = commands
        self.began = began
        self.epoch = epoch
        self.failure: Exception | None = None
        """What ended the connection, None while it is well."""

    def go_on(self) -> int:
        """Read what has come, without waiting.

        :return: 0 once it is all, else the least number of bytes that are
            still to come; -1 if the connection failed

        """
        try:
            return self.link.go_on(self.commands)
        except Exception as error:  # noqa: BLE001
            self.failure = error
            return -1


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
        """Why it is down, in :func:`words`; empty while it is up."""
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

    def leave(self) -> None:
        """Let another caller try the server: this one will not."""
        if self.retry_at is not None:
            self._give_back(time.monotonic())

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

    def ready(self) -> connection.Connection | None:
        """Take a connection for :meth:`begin`, if one is idle.

        It does not wait.  To a server that is down there is none: to try it
        takes a thread.

        """
        if self.retry_at is not None or self._profile.tls is not None:
            return None
        return self._take()

    def begin(
        self,
        link: connection.Connection,
        commands: abc.Sequence[protocol.Command],
    ) -> Begun | None:
        """Begin an exchange without waiting for it.

        :param Connection link: what :meth:`ready` gave
        :return: None if it takes a thread; then nothing was sent

        """
        epoch = self._epoch
        incarnation = self.incarnation
        for command in commands:
            if not command.meant_for(incarnation):
                self._put_back(link, epoch)
                return None
        begun = Begun(link, commands, time.monotonic(), epoch)
        try:
            link.begin(commands)
        except OSError as error:
            begun.failure = error
        except BaseException:
            self.drop(begun)
            raise
        return begun

    def finish(self, begun: Begun) -> None:
        """Take note that everything was answered."""
        self._put_back(begun.link, begun.epoch)
        self._praise(begun.began)
        self._log_refused(begun.commands)

    def drop(self, begun: Begun) -> None:
        """Give up an exchange of which nobody waits for the end."""
        begun.link.close()
        self._open.discard(begun.link)

    def exchange(
        self,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        begun: Begun | None = None,
    ) -> bool:
        """Run commands on the server: the one way to the wire.

        Each command is ``answered``, or has an ``error`` and the result of a
        failure.  Where a connection breaks, what is harmless to do twice is
        tried once more on a new one.

        :param float deadline: until when, on :func:`time.monotonic`'s clock
        :param Begun begun: what an event loop has begun with them
        :return: False if the server could not be reached and none of them
            was sent, so that another server may be tried
        :rtype: bool

        """
        began = time.monotonic()
        if begun is not None:
            began = begun.began
        elif began >= deadline:
            self._give_back(began)
            fail(commands, TimeoutError('timed out before it was sent'))
            return True
        pending = commands
        for attempt in (1, 2):
            reused = begun is not None
            if begun is None:
                link = self._take() if attempt == 1 else None
                reused = link is not None
                try:
                    if link is None:
                        link = self._connect(deadline)
                except (OSError, protocol.ProtocolError) as error:
                    self._blame(error, began)
                    fail(pending, error)
                    return attempt > 1
                pending = self._meant(pending)
                begun = Begun(link, pending, began, self._epoch)
            failure = self._run(begun, deadline)
            begun = None
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
                fail([c for c in pending if not c.repeatable], failure)
                pending = again
                for command in again:
                    command.go_on()
                continue
            fail(pending, failure)
            if out_of_step:
                self._praise(began)
            elif lost and reused:
                self._give_back(began)
            else:
                self._blame(failure, began)
            break
        self._log_refused(commands)
        return True

    def _log_refused(self, commands: abc.Sequence[protocol.Command]) -> None:
        for command in commands:
            if isinstance(command.error, protocol.RefusedError):
                LOGGER.warning('memcached server %s: %s', self, command.error)

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

    def _run(self, begun: Begun, deadline: float) -> Exception | None:
        """Exchange on a connection, and put it back if it is in step."""
        try:
            if begun.failure is not None:
                raise begun.failure
            begun.link.exchange(begun.commands, deadline)
        except (OSError, protocol.ProtocolError) as error:
            self.incarnation += 1
            return error
        finally:
            self._put_back(begun.link, begun.epoch)
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
        fail(stale, StaleError(f'{self} may have been restarted since gets'))
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


def fail(
    commands: abc.Iterable[protocol.Command], error: BaseException
) -> None:
    """Let commands have failed, for a reason."""
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


_known = _Endpoints()
get = _known.get
mark_up = _known.mark_up
os.register_at_fork(after_in_child=_known.forget_after_fork)
