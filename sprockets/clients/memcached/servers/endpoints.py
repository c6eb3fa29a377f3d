"""Servers as the whole process knows them: the one way to the wire."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import notices, process, settings
from sprockets.clients.memcached.servers import events, health, workers
from sprockets.clients.memcached.servers.connections import (
    Connections,
    Loan,
)
from sprockets.clients.memcached.wire import connection, protocol, resolver

LOGGER = notices.harmless(logging.getLogger(__name__))

PROBE = b'sprockets.clients.memcached.probe'
"""It is read to see whether a server is well."""


class UnavailableError(Exception):
    """There is no server to send a command to, or it failed just now."""

    def __init__(self, text: str = 'no server is up') -> None:
        super().__init__(text)


class StaleError(Exception):
    """A cas unique was given out by the server in an earlier life of it."""


class Identity(typing.NamedTuple):
    """What clients must agree on to share a server's state."""

    profile: connection.Profile
    dead_retry: float
    max_connections: int
    flush_on_reconnect: bool
    max_idle: float


class User(typing.Protocol):
    """A client's cluster, as far as it matters here."""

    listeners: list[events.Listener]


class Endpoint(health.Health):
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
        super().__init__(str(self), identity.dead_retry, self.timeout)
        self.notices = notices.Notices(LOGGER)
        """What is logged of its answers."""
        self.max_connections = identity.max_connections
        self.workers = workers.Workers(
            identity.max_connections, f'memcached {self.address}'
        )
        self.knows_meta: bool | None = None
        """Whether it has meta commands, as old servers and some proxies have
        not; None while nobody has asked."""
        self.single_until = 0.0
        """Until when it is asked for one key at a time, on
        :func:`time.monotonic`'s clock; 0 if it is not."""
        self._full_until = 0.0
        """Until when no new connection is tried where there are others, on
        :func:`time.monotonic`'s clock."""
        self._is_unknown = False
        """Whether that is for its name, of which nobody has told in time."""
        self._babbled_at = float('-inf')
        """When a new connection began with what was no answer."""
        self._profile = identity.profile
        self._flush_on_reconnect = identity.flush_on_reconnect
        self._connections = Connections(
            self.max_connections, identity.max_idle
        )
        self._users: weakref.WeakSet[User] = weakref.WeakSet()
        weakref.finalize(self, self._connections.close).atexit = False
        process.after_fork(self)

    def __str__(self) -> str:
        return self.address.text

    @property
    def connections(self) -> int:
        """How many connections there are, in use or idle."""
        return len(self._connections)

    def seems_up(self) -> bool:
        """Whether there is nothing that tells that the server is down.

        Nothing is sent for that: there are connections, all are open, and
        what was last asked over them was answered.

        """
        return self.down_since is None and self._connections.stand()

    @property
    def idle_connections(self) -> int:
        """How many of them nobody has a use for just now."""
        return self._connections.count_idle()

    @property
    def incarnation(self) -> int:
        """Another one for each life of the server, as far as can be told."""
        return self._connections.lives

    def mark_down(
        self, reason: BaseException, trial: health.Trial | None = None
    ) -> None:
        """Let nobody wait for this server until ``dead_retry`` has passed.

        Of one that is down already this is no news, but from its trial.

        """
        super().mark_down(reason, trial)
        if self._flush_on_reconnect:
            # A connection that outlived it would do without the flush.
            self.disconnect()

    def _came_back(self) -> None:
        # It may be another version of the server.
        self.knows_meta = None

    def ready(self) -> Loan | None:
        """Take a connection that is idle, if there is one.

        It does not wait.  To a server that is down there is none: to try it
        takes a thread.

        """
        if self.retry_at is not None:
            return None
        return self._connections.take()

    def finish(self, loan: Loan) -> None:
        """Take note that everything was answered."""
        loan.put_back()
        self.log_refused(loan.commands)

    def ask(
        self, command: protocol.Command, began: float, deadline: float
    ) -> bool:
        """Run one command on the server, which is tried if it is down.

        It is :meth:`exchange`, which has no part in it where all goes well.

        :param float began: what time it is

        """
        if self.retry_at is not None:
            trial = self.try_again()
            return self.exchange((command,), deadline, trial=trial)
        loan = None
        try:
            if began < deadline and not self.single_until:
                loan = self._connections.ask(command, began, deadline)
            if loan is not None or not command.answered:
                return self.exchange((command,), deadline, loan)
            if command.error is not None:
                self.log_refused((command,))
            return True
        # A signal's: nobody has it any more.
        except BaseException:
            if loan is not None:
                loan.drop()
            raise

    def exchange(
        self,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        loan: Loan | None = None,
        trial: health.Trial | None = None,
    ) -> bool:
        """Run commands on the server: the one way to the wire.

        Each command is ``answered``, or has an ``error`` and the result of a
        failure.  Where a connection breaks, what is harmless to do twice is
        tried once more on a new one.

        What is short in this process, a thread or a descriptor, fails the
        commands, and is no fault of the server.

        :param float deadline: until when, on :func:`time.monotonic`'s clock
        :param Loan loan: what an event loop has begun with them
        :param Trial trial: that of a server that is down; however this ends,
            it is used up or given back
        :return: False if the server could not be reached and none of them
            was sent, so that another server may be tried
        :rtype: bool

        """
        try:
            return self._exchange(commands, deadline, loan, trial)
        finally:
            if trial is not None:
                trial.give_back()

    def _exchange(
        self,
        commands: abc.Sequence[protocol.Command],
        deadline: float,
        loan: Loan | None,
        trial: health.Trial | None,
    ) -> bool:
        began = time.monotonic()
        if loan is not None:
            began = loan.began
        elif began >= deadline:
            fail(commands, TimeoutError('timed out before it was sent'))
            return True
        pending = commands
        last = 2
        for attempt in itertools.count(1):
            reused = loan is not None
            try:
                if loan is None:
                    if self.retry_at is not None and trial is None:
                        # It went down while the call waited.
                        fail(pending, UnavailableError(f'{self} is down'))
                        return attempt > 1
                    # What a trial is to show, an old one may not.
                    if attempt == 1 and trial is None:
                        loan = self._connections.take()
                        reused = loan is not None
                    if loan is None:
                        try:
                            if trial is None:
                                self._look_whether_full()
                            loan = self._connect(deadline)
                        except OSError as error:
                            if not (
                                isinstance(error, protocol.FullError)
                                or self._lacks_name(error, trial)
                            ):
                                raise
                            loan = self._wait_for_idle(error, deadline)
                            reused = True
                    if self.single_until:
                        self.divide(pending)
                    pending = loan.commands = self._meant(pending)
                idle_since = loan.idle_since
                is_silent, failure = self._run(loan, deadline)
                if (
                    isinstance(failure, protocol.FullError)
                    and not reused
                    and not any(c.answered for c in pending)
                ):
                    # It was not read, so all of them may go again.
                    loan = self._wait_for_idle(failure, deadline)
                    reused = True
                    idle_since = loan.idle_since
                    pending = loan.commands = self._meant(pending)
                    is_silent, failure = self._run(loan, deadline)
            except (OSError, protocol.ProtocolError) as error:
                fail(pending, error)
                if (
                    isinstance(error, protocol.FullError)
                    and not self._is_to_be_flushed
                ):
                    self._praise(trial)
                    return True
                if process.is_shortage(error) or self._lets_new_ones_wait(
                    error, _given(began, deadline), trial
                ):
                    return True
                self._blame(error, _given(began, deadline), trial)
                return attempt > 1
            # A signal's: nobody has it any more.
            except BaseException:
                if loan is not None:
                    loan.drop()
                raise
            loan = None
            if failure is None:
                self._praise(trial)
                break
            out_of_step = isinstance(failure, protocol.OutOfStepError)
            pending = [c for c in pending if not c.answered]
            if self._refused_meta(
                pending, failure, deadline
            ) or self._closed_for_rare(pending, failure, reused, deadline):
                pending = [c for c in pending if not c.answered]
                out_of_step = True
            if out_of_step and self._refused_part(pending):
                last = attempt + 1
                pending = [c for c in pending if not c.answered]
            again = [c for c in pending if c.repeatable]
            lost = isinstance(failure, OSError) and not isinstance(
                failure, TimeoutError
            )
            if attempt < last and again and (lost or out_of_step):
                fail([c for c in pending if not c.repeatable], failure)
                pending = again
                for command in again:
                    command.go_on()
                continue
            fail(pending, failure)
            if out_of_step or self._is_passing(failure, reused, trial):
                self._praise(trial)
            elif process.is_shortage(failure):
                pass
            elif reused and is_silent and isinstance(failure, TimeoutError):
                self._doubt(failure, _given(began, deadline), idle_since)
            elif not (lost and reused) and (
                reused
                or not self._lets_new_ones_wait(
                    failure, _given(began, deadline), trial
                )
            ):
                self._blame(failure, _given(began, deadline), trial)
            break
        self.log_refused(commands)
        return True

    def divide(self, commands: abc.Sequence[protocol.Command]) -> None:
        """Ask for one key at a time, for as long as some are refused."""
        if time.monotonic() >= self.single_until:
            self.single_until = 0.0
            return
        for command in commands:
            command.divide()

    def _refused_part(self, pending: abc.Sequence[protocol.Command]) -> bool:
        """Whether an error line may be about some keys of a command only.

        Then it asks for them one by one from now on: a proxy that has lost a
        server says so for each.

        """
        if not pending or pending[0].error is None or not pending[0].divide():
            return False
        self.single_until = time.monotonic() + self.identity.dead_retry
        return True

    def log_refused(self, commands: abc.Sequence[protocol.Command]) -> None:
        """Say which commands were answered by an error line."""
        for command in commands:
            if isinstance(command.error, protocol.RefusedError):
                if self.single_until:
                    now = time.monotonic()
                    self.single_until = now + self.identity.dead_retry
                # What is behind its first words may differ each time.
                self.notices.warning(
                    'memcached server %s: %s',
                    self,
                    command.error,
                    about=tuple(str(command.error).split()[:3]),
                )

    def gives_uniques(self, unique: int | None) -> bool:
        """Whether a cas unique that it gave is one; with ``-C`` all are 0."""
        if unique != 0:
            return True
        self.notices.warning(
            'memcached server %s gives no cas uniques, as with its option -C:'
            ' there is no cas, no update, and nothing stale is renewed',
            self,
        )
        return False

    def log_lost_leases(self) -> None:
        """Say that what only the one that takes it deletes is gone."""
        if self.address.family == 'none':
            # It keeps nothing, as it is told to.
            return
        self.notices.warning(
            'memcached server %s loses leases: values that get_or_set computes'
            ' are not kept. Behind a proxy that copies what is stored to'
            ' several servers that is so, see "Run behind a proxy"',
            self,
        )

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
            # Others may have found out meanwhile.
            or self.knows_meta
            or not isinstance(failure, ConnectionError)
            or not self._closes_for_meta(deadline)
        ):
            return False
        # The first has closed it, so that no other was run.
        for command in pending:
            if command.is_meta:
                command.answered = True
                command.error = protocol.RefusedError(
                    f'{command.name}: {failure}'
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
        self._log_closed_for(command.request.split()[0].decode('ascii'))
        command.answered = True
        command.error = ConnectionError(str(failure))
        return True

    def _log_closed_for(self, name: str) -> None:
        self.notices.warning(
            'memcached server %s closes connections on %s',
            self,
            name,
            about=name,
        )

    def _is_passing(
        self, failure: Exception, reused: bool, trial: health.Trial | None
    ) -> bool:
        """Whether what was no answer is the end of its connection only.

        A server that says nothing else from the beginning of a connection,
        and again on the next one, does not speak the protocol.

        """
        if trial is not None or not isinstance(
            failure, protocol.ProtocolError
        ):
            return False
        if not reused:
            now = time.monotonic()
            before, self._babbled_at = self._babbled_at, now
            if now - before < self.timeout:
                return False
        self.notices.warning(
            'memcached server %s: %s', self, failure, about='no answer'
        )
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
            loan = self._connect(deadline)
        except (OSError, protocol.ProtocolError):
            return if_unreachable
        try:
            loan.link.exchange([probe], deadline)
        except (ConnectionError, protocol.ProtocolError):
            return True
        except OSError:
            return if_unreachable
        finally:
            loan.put_back()
        return probe.error is not None

    def _blame(
        self, failure: Exception, given: float, trial: health.Trial | None
    ) -> None:
        """Mark the server down, unless it was given too little time.

        A call that waited elsewhere may reach a healthy server with nothing
        left of its deadline.

        """
        if not isinstance(failure, TimeoutError) or given > self.timeout / 2:
            self.mark_down(failure, trial)

    def _doubt(
        self, failure: Exception, given: float, idle_since: float | None
    ) -> None:
        """Find out whether the server hangs, or a connection has died.

        Where something on the way has forgotten one that was idle, it has
        forgotten all that were idle as long.  A new one shows what is so;
        until then nobody waits for the server.

        """
        if given <= self.timeout / 2:
            return
        if idle_since is not None:
            self._connections.close_older(idle_since)
        self._have_found_out(failure)

    def _have_found_out(
        self, failure: Exception, loan: Loan | None = None
    ) -> None:
        """Let a thread find out what a failure means, unless one does.

        :param Loan loan: a connection to ask on, None for a new one

        """
        trial = self.doubt(failure)
        try:
            if trial is not None:
                self.workers.submit(
                    functools.partial(self._find_out, failure, trial, loan)
                )
                loan = None
        except process.ThreadError:
            self.mark_down(failure, trial)
        finally:
            if loan is not None:
                loan.put_back()

    def _find_out(
        self, failure: Exception, trial: health.Trial, given: Loan | None
    ) -> None:
        """Mark the server up or down, in a thread, by a connection."""
        deadline = time.monotonic() + self.timeout
        probe = protocol.Get((PROBE,))
        try:
            loan = given or self._connect(deadline)
            try:
                loan.link.exchange([probe], deadline)
            finally:
                loan.put_back()
            if given is not None:
                self._use_those_there_are()
            self.mark_up(trial)
        except protocol.FullError:
            self.mark_up(trial)
        except (OSError, protocol.ProtocolError) as error:
            if not process.is_shortage(error):
                self.mark_down(failure, trial)
        finally:
            trial.give_back()

    def _log_full(self) -> None:
        self.notices.warning(
            'memcached server %s takes no more connections: its limit (-c)'
            ' is too small',
            self,
        )

    def _lets_new_ones_wait(
        self, failure: Exception, given: float, trial: health.Trial | None
    ) -> bool:
        """Whether it may be a new connection only that was not answered.

        Some servers and proxies say nothing to connections that are too many.
        If none of the others was answered meanwhile, an idle one is tried.
        Nor is there an answer where nobody has said what to connect to.

        """
        half = self.timeout / 2
        if self._lacks_name(failure, trial):
            now = time.monotonic()
            if (
                isinstance(failure, TimeoutError)
                and given > half
                and now >= self._full_until
            ):
                self._full_until = now + self.identity.dead_retry
                self._is_unknown = True
            return True
        if (
            trial is not None
            or not isinstance(failure, TimeoutError)
            or given <= half
        ):
            return False
        if self._connections.answered_since(time.monotonic() - half):
            self._use_those_there_are()
            return True
        loan = self._connections.take()
        if loan is None:
            return False
        try:
            self._have_found_out(failure, loan)
            return True
        # A signal's: nobody has it any more.
        except BaseException:
            loan.drop()
            raise

    def _use_those_there_are(self) -> None:
        self._full_until = time.monotonic() + self.identity.dead_retry
        self._is_unknown = False
        self._log_full()

    def _look_whether_full(self) -> None:
        """Find out whether it is known that a new connection is no use.

        :raises FullError: if so
        :raises LateAnswerError: if so, for its name

        """
        if time.monotonic() < self._full_until and len(self._connections):
            if self._is_unknown:
                raise resolver.LateAnswerError('the look-up timed out')
            raise protocol.FullError('new connections are not answered')

    def _lacks_name(
        self, failure: Exception, trial: health.Trial | None
    ) -> bool:
        """Whether only its name is not known, which connections do without."""
        return (
            trial is None
            and isinstance(failure, resolver.UNKNOWN)
            and len(self._connections) > 0
        )

    def _wait_for_idle(self, error: Exception, deadline: float) -> Loan:
        """Take one of the connections that the server has taken, once idle.

        :param Exception error: why there is no new one
        :raises Exception: this one, if there is none

        """
        if isinstance(error, resolver.UNKNOWN):
            self.notices.warning(
                'memcached server %s cannot be looked up: %s; the connections'
                ' that there are serve on',
                self,
                error,
            )
        else:
            self._log_full()
        if not self._is_to_be_flushed:
            loan = self._connections.wait_for_idle(deadline)
            if loan is not None:
                return loan
        raise error

    def _praise(self, trial: health.Trial | None) -> None:
        """Mark the server up if this was its trial."""
        if trial is not None:
            self.mark_up(trial)

    def _run(
        self, loan: Loan, deadline: float
    ) -> tuple[bool, Exception | None]:
        """Exchange on a connection, and put it back if it is in step.

        :return: whether nothing came, and how it failed, None if it has not

        """
        try:
            if loan.failure is not None:
                raise loan.failure
            if not loan.is_out:
                # A signal came when it had ended.
                if all(command.answered for command in loan.commands):
                    return False, None
                raise ConnectionAbortedError('interrupted')
            loan.link.exchange(loan.commands, deadline)
        except protocol.ProtocolError as error:
            self._connections.note_answer(loan.link)
            return False, error
        except OSError as error:
            self._connections.begin_life()
            return loan.link.is_silent, error
        finally:
            loan.put_back()
        return False, None

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

    @property
    def _is_to_be_flushed(self) -> bool:
        """Whether nothing else may be asked on a new connection before."""
        return self._flush_on_reconnect and self.down_since is not None

    def _connect(self, deadline: float) -> Loan:
        loan = self._connections.connect(self._profile, deadline)
        # Nothing is called here, where a signal's exception would lose it.
        if not self._flush_on_reconnect or self.down_since is None:
            return loan
        # The keys that moved meanwhile would be read in their old state.
        flush = protocol.flush_all()
        try:
            loan.link.exchange([flush], deadline)
        except protocol.FullError:
            loan.drop()
            raise
        except ConnectionError:
            # A proxy that does not know it, or a server that fails.
            loan.drop()
            loan = self._connections.connect(self._profile, deadline)
            self._log_closed_for('flush_all')
        except BaseException:
            loan.drop()
            raise
        self.log_refused([flush])
        return loan

    def _tell(
        self, kind: str, reason: str | None, seconds: float | None
    ) -> None:
        event = events.ServerEvent(kind, str(self), reason, seconds)
        for user in list(self._users):
            events.tell(user.listeners, event)

    def enter(self, user: User) -> None:
        """Take note of a client's cluster that uses the server."""
        self._users.add(user)
        # Its log is another one's.
        self.notices = notices.Notices(LOGGER)

    def let_go(self, user: User) -> bool:
        """Take note that it does so no more, and return whether nobody does.

        :rtype: bool

        """
        self._users.discard(user)
        return not self._users

    def disconnect(self) -> None:
        """Close the idle connections now, and those in use once returned."""
        self._connections.disconnect()

    def forget_after_fork(self) -> None:
        """Leave to the parent of a forked child what is the parent's."""
        super().forget_after_fork()
        self._connections.forget_after_fork()
        self.workers.forget()


def _given(began: float, deadline: float) -> float:
    """Return how long a server was waited for, by the deadline.

    What came after that is this process's own time, which was late.

    """
    return min(time.monotonic(), deadline) - began


def fail(
    commands: abc.Iterable[protocol.Command], error: BaseException
) -> None:
    """Let commands have failed, for a reason."""
    # Its traceback has the commands, and would keep them.
    error = error.with_traceback(None)
    error.__context__ = None
    for command in commands:
        command.error = error


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
        """Begin with a lock that no thread has."""
        self._lock = threading.Lock()


_known = _Endpoints()
get = _known.get
mark_up = _known.mark_up
process.after_fork(_known)
