"""The connections to a server: idle, kept, out with an exchange, or closed.

All that changes which of these a connection is stands here.  Each step takes
it away from where it was before anything else is done, so that whatever comes
in between, a signal's exception or another thread, it is never in two places:
at worst it is in none, and closed when it is forgotten.

"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.wire import connection, protocol, tls

WAIT = 0.002
"""Seconds between two looks for an idle connection, by who cannot connect."""

SOON = 0.5
"""Seconds after an answer, at most, for which a server is the same one though
no connection to it is left."""

LINGER = 1.0
"""Seconds for which more connections are kept idle than there are to be, so
that a crowd of threads that comes again finds them."""


class Loan:
    """A connection that somebody has, and the exchange that is on it.

    Whoever has it brings it to an end, by :meth:`put_back`, :meth:`drop`, or
    :meth:`Endpoint.exchange`, which takes as long as it takes.  The first end
    counts.

    """

    __slots__ = (
        '__weakref__',
        '_connections',
        'began',
        'commands',
        'epoch',
        'failure',
        'idle_since',
        'is_idle',
        'keeper',
        'link',
    )

    def __init__(
        self, link: connection.Connection, connections: Connections, epoch: int
    ) -> None:
        self.link = link
        self._connections = connections
        self.epoch = epoch
        self.is_idle = False
        """Whether who has it has no use for it just now."""
        self.keeper: abc.Callable[[], bool] | None = None
        """Whether who keeps it while it is idle will notice that it has
        ended, and close it."""
        self.commands: abc.Sequence[protocol.Command] = ()
        self.began = time.monotonic()
        """When its exchange began."""
        self.idle_since: float | None = None
        """When the exchange before that began, None if it is the first."""
        self.failure: Exception | None = None
        """What ended the connection, None while it is well."""

    @property
    def is_out(self) -> bool:
        """Whether the connection is still with whoever took it."""
        return self in self._connections.out

    def put_back(self) -> None:
        """Let the connection be idle for others, if it is in step."""
        self._connections.put_back(self)

    def keep(self) -> bool:
        """Let the connection be idle, but for nobody else.

        :return: whether it is; if not, it was closed, or is for others

        """
        self.link.used_at = self.began
        if self._connections.wanted:
            # Somebody waits for it who cannot have a new one.
            return False
        # In this order: another thread that closes what is idle goes the
        # other way, so that one of the two sees to it.
        self.is_idle = True
        if self.link.usable and self.epoch == self._connections.epoch:
            return True
        self.drop()
        return False

    def resume(self, now: float) -> bool:
        """Have a connection that was kept for an exchange.

        :param float now: on :func:`time.monotonic`'s clock
        :return: False if it was closed, or has ended

        """
        self.is_idle = False
        connections = self._connections
        if self.epoch == connections.epoch:
            if now - self.began > connections.max_idle:
                self.drop()
                return False
            if self.link.is_quiet():
                return True
        self.lose()
        return False

    def lose(self) -> None:
        """Close an idle connection that has ended.

        If it is not this process that has ended it, the server has.

        """
        if self.epoch == self._connections.epoch and self.is_out:
            self._connections.begin_life()
        self.drop()

    def drop(self) -> None:
        """Close the connection, whatever is under way."""
        try:
            self._connections.out.remove(self)
        except KeyError:
            return
        self.link.close()

    def end(self) -> None:
        """Close the connection, or have it closed, in any thread."""
        if self.keeper is None or not self.keeper():
            self.drop()


class Connections:
    """The connections to one server.

    :param int most: how many are kept idle
    :param float max_idle: seconds for which one may be idle and be used again

    """

    def __init__(self, most: int, max_idle: float) -> None:
        self._most = most
        self.max_idle = max_idle
        self.wanted: set[object] = set()
        """Something of each thread that waits for one that is idle."""
        # No two threads get the same, which those that add 1 might.
        self._numbers = itertools.count(1)
        self.lives = 0
        """Another one for each life of the server, as far as they can be told
        apart: a new one may have begun whenever a connection was lost, and
        where there is none from before."""
        self._doubted: tuple[
            int, int, abc.Collection[connection.Connection]
        ] = (0, 0, ())
        """The life that may have ended, the one that may have begun, and the
        connections whose loss said so, which have not been read to the end."""
        self.epoch = 0
        """Another one whenever all that are idle are closed."""
        self.idle: list[connection.Connection] = []
        """Those that nobody has."""
        self.out: set[Loan] = set()
        """Those that somebody has, be it for an exchange or to keep."""
        self._answered_at = -SOON
        """When the server was known to be the same one, though what it said
        was the end of a connection (:func:`time.monotonic`)."""
        self.asked: set[connection.Connection] = set()
        """Those that :meth:`ask` has, and nobody else."""
        self._place: object = None
        """What the last one was made to; None while there was none."""

    def __len__(self) -> int:
        return len(self.idle) + len(self.out) + len(self.asked)

    def ask(
        self, command: protocol.Command, began: float, deadline: float
    ) -> Loan | None:
        """Run a command on an idle connection, if all goes well.

        Then it is ``answered``.  All else is for :meth:`Endpoint.exchange`.

        :param float began: what time it is
        :return: what was begun, if it is to go on with something, or has
            failed

        """
        epoch = self.epoch
        if not command.meant_for(self.lives):
            return None
        try:
            link = self.idle.pop()
        except IndexError:
            return None
        failure: Exception | None = None
        try:
            self.asked.add(link)
            if began - link.used_at <= self.max_idle and link.ask(
                command, began, deadline
            ):
                self.asked.remove(link)
                self._let_idle(link, epoch, began)
                return None
        except (OSError, protocol.ProtocolError) as error:
            failure = error
        # A signal's: nobody will have it.
        except BaseException:
            self._cut(link)
            raise
        self.asked.discard(link)
        if failure is None and not link.has_begun:
            # It is closed, say, or too old, which is seen where it is taken.
            self._let_idle(link, epoch, link.used_at)
            return None
        loan = Loan(link, self, epoch)
        loan.began = began
        loan.idle_since = link.used_at
        loan.commands = (command,)
        loan.failure = failure
        try:
            self.out.add(loan)
            return loan
        except BaseException:
            loan.drop()
            raise

    def count_idle(self) -> int:
        """Return how many of them are not in an exchange."""
        return len(self.idle) + sum(loan.is_idle for loan in list(self.out))

    def take(self) -> Loan | None:
        """Take an idle connection that is still good, if there is one."""
        epoch = self.epoch
        while self.idle:
            try:
                link = self.idle.pop()
            except IndexError:
                return None
            if time.monotonic() - link.used_at > self.max_idle:
                # Somewhere on the way it may be forgotten.
                link.close()
                continue
            loan = Loan(link, self, epoch)
            loan.idle_since = link.used_at
            try:
                if link.is_quiet():
                    self.out.add(loan)
                    return loan
            # A signal's: nobody will have it.
            except BaseException:
                self.out.discard(loan)
                link.close()
                raise
            self.begin_life()
            link.close()
        return None

    def connect(self, profile: connection.Profile, deadline: float) -> Loan:
        """Take a new connection.

        :raises OSError: if there is none by the deadline

        """
        link = tls.connect(profile, deadline)
        if self._place not in (None, link.place):
            # The name stands for another machine, with other values.
            self.disconnect()
            self.begin_life()
        # Behind that: whenever a signal comes, it is done before it is noted.
        self._place = link.place
        others = self._all()
        if all(other.is_lost() for other in others):
            before, life = self.lives, next(self._numbers)
            self._doubted = before, life, weakref.WeakSet(others)
            self.lives = life
            # Behind that: it may be noted at any moment, by another thread.
            if time.monotonic() - self._answered_at <= SOON:
                self.lives = before
        loan = Loan(link, self, self.epoch)
        try:
            self.out.add(loan)
            return loan
        except BaseException:
            loan.drop()
            raise

    def stand(self) -> bool:
        """Whether there are any, and the server has ended none of them."""
        links = self._all()
        return bool(links) and not any(link.is_lost() for link in links)

    def _all(self) -> list[connection.Connection]:
        links = [*self.idle]
        links += [loan.link for loan in self.out.copy()]
        links += self.asked.copy()
        return links

    def begin_life(self) -> None:
        """Take note that a new life of the server may have begun."""
        self.lives = next(self._numbers)

    def put_back(self, loan: Loan) -> None:
        """Let a connection be idle, if it is in step."""
        try:
            self.out.remove(loan)
        except KeyError:
            return
        link, epoch = loan.link, loan.epoch
        if not link.usable or link.has_begun:
            # Whoever stopped in the middle has left it out of step.
            link.close()
        else:
            self._let_idle(link, epoch, loan.began)

    def _let_idle(
        self, link: connection.Connection, epoch: int, used_at: float
    ) -> None:
        """Let a connection that is nowhere be idle.

        :param int epoch: the one in which it was idle before
        :param float used_at: when its last exchange began

        """
        if epoch != self.epoch:
            link.close()
            return
        link.used_at = used_at
        idle = self.idle
        idle.append(link)
        if len(idle) > self._most:
            _sweeper.watch(self)
        if epoch != self.epoch:
            # Idle ones were closed just now.
            self._close_idle()

    def note_answer(self, link: connection.Connection) -> None:
        """Take note that the server has just answered, with whatever.

        The connection is closed for that, and by some proxies too.  One that
        is made at once is to the same server: none is restarted so soon.

        """
        self._answered_at = time.monotonic()
        before, life, links = self._doubted
        if link in links and self.lives == life:
            # It was lost for this answer, which had not been read then.
            self.lives = before

    def disconnect(self) -> None:
        """Close the idle ones now, and those that are out once put back."""
        self.epoch = next(self._numbers)
        self._close_idle()

    def close_older(self, used_at: float) -> None:
        """Close what has been idle as long as one that has died, or longer."""
        for link in [link for link in self.idle if link.used_at <= used_at]:
            with contextlib.suppress(ValueError):
                self.idle.remove(link)
                link.close()
        for loan in self.out.copy():
            if loan.is_idle and loan.began <= used_at:
                loan.end()

    def answered_since(self, since: float) -> bool:
        """Whether something was asked since, and answered, on one of them.

        :param float since: on :func:`time.monotonic`'s clock

        """
        return any(link.used_at >= since for link in self._all())

    def wait_for_idle(self, deadline: float) -> Loan | None:
        """Take a connection as soon as one is idle.

        :return: None if there are none, or none is by the deadline

        """
        waiting = object()
        missed = 0
        try:
            self.wanted.add(waiting)
            # One may just be on its way from one place to another.
            while missed < 3 and time.monotonic() < deadline:
                loan = self.take()
                if loan is not None:
                    return loan
                missed = 0 if len(self) else missed + 1
                time.sleep(WAIT)
        finally:
            self.wanted.discard(waiting)
        return None

    def _close_idle(self) -> None:
        while self.idle:
            with contextlib.suppress(IndexError):
                self.idle.pop().close()
        for loan in self.out.copy():
            if loan.is_idle:
                loan.end()

    def close_surplus(self, before: float) -> bool:
        """Close idle ones that are too many, and were not used since.

        :param float before: on :func:`time.monotonic`'s clock
        :return: whether there are too many still

        """
        while len(self.idle) > self._most:
            # The last one that was put back is the next one to be taken.
            with contextlib.suppress(IndexError):
                if self.idle[0].used_at >= before:
                    return True
                self.idle.pop(0).close()
        return False

    def close(self) -> None:
        """Close all of them, for nobody has the server any more."""
        # What somebody puts back behind this is closed as well.
        self.epoch = next(self._numbers)
        self._close_idle()
        for loan in self.out.copy():
            loan.end()
        for link in self.asked.copy():
            self._cut(link)

    def _cut(self, link: connection.Connection) -> None:
        """Close a connection, if it is being asked."""
        if link in self.asked:
            self.asked.discard(link)
            link.close()

    def forget_after_fork(self) -> None:
        """Leave them to the parent; the child's sockets are closed."""
        self.idle.clear()
        self.out.clear()
        self.asked.clear()
        # Threads that the child has not.
        self.wanted.clear()


class _Sweeper:
    """Closes the idle connections that are too many, a while later."""

    def __init__(self) -> None:
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        """Begin without a thread."""
        self._lock = threading.RLock()
        self._watched: weakref.WeakSet[Connections] = weakref.WeakSet()
        self._thread: process.Thread | None = None

    def watch(self, connections: Connections) -> None:
        """Close what is too many once it has not been used for a while."""
        if self._thread is not None and connections in self._watched:
            return
        try:
            with self._lock:
                self._watched.add(connections)
                if self._thread is None:
                    self._thread = process.start_thread(
                        'memcached connections', self._work
                    )
        except process.ThreadError:
            with self._lock:
                self._watched.discard(connections)
            connections.close_surplus(float('inf'))

    def _work(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.current_thread()
            elif self._thread is not threading.current_thread():
                return
        while True:
            time.sleep(LINGER / 4)
            before = time.monotonic() - LINGER
            with self._lock:
                for connections in list(self._watched):
                    if not connections.close_surplus(before):
                        self._watched.discard(connections)
                if not self._watched:
                    self._thread = None
                    return


_sweeper = _Sweeper()
process.after_fork(_sweeper)
