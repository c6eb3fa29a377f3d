"""The connections to a server: idle, out with an exchange, or closed.

All that changes which of these a connection is stands here.  Each step takes
it away from where it was before anything else is done, so that whatever comes
in between, a signal's exception or another thread, it is never in two places:
at worst it is in none, and closed when it is forgotten.

"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import abc

from sprockets.clients.memcached import process
from sprockets.clients.memcached.wire import connection, protocol, tls

LINGER = 1.0
"""Seconds for which more connections are kept idle than there are to be, so
that a crowd of threads that comes again finds them."""


class Begun:
    """An exchange, on a connection of its own.

    Whoever has it brings it to an end: by :meth:`Endpoint.finish`, by
    :meth:`Endpoint.exchange`, which takes as long as it takes, or by
    :meth:`Endpoint.drop`.  The first end counts.

    """

    __slots__ = (
        'began',
        'commands',
        'descriptor',
        'epoch',
        'failure',
        'link',
    )

    def __init__(self, link: connection.Connection, epoch: int) -> None:
        self.link = link
        self.descriptor = link.fileno()
        """What the loop waits for; it is known when the link is closed too."""
        self.commands: abc.Sequence[protocol.Command] = ()
        self.began = time.monotonic()
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


class Connections:
    """The connections to one server.

    :param int most: how many are kept idle

    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.lives = 0
        """Counts the lives of the server, as far as they can be told apart:
        a new one may have begun whenever a connection was lost, and where
        there is none from before."""
        self._epoch = 0
        self._idle: list[connection.Connection] = []
        self._out: set[Begun] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._out)

    def take(self) -> Begun | None:
        """Take an idle connection that is still good, if there is one."""
        epoch = self._epoch
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if link.is_quiet():
                begun = Begun(link, epoch)
                try:
                    self._out.add(begun)
                    return begun
                # A signal's: nobody will have it.
                except BaseException:
                    self.drop(begun)
                    raise
            self.lives += 1
            link.close()
        return None

    def connect(self, profile: connection.Profile, deadline: float) -> Begun:
        """Take a new connection.

        :raises OSError: if there is none by the deadline

        """
        link = tls.connect(profile, deadline)
        others = [*self._idle, *[begun.link for begun in list(self._out)]]
        if all(other.is_lost() for other in others):
            self.lives += 1
        begun = Begun(link, self._epoch)
        try:
            self._out.add(begun)
            return begun
        except BaseException:
            self.drop(begun)
            raise

    def is_out(self, begun: Begun) -> bool:
        """Whether an exchange has its connection still."""
        return begun in self._out

    def put_back(self, begun: Begun) -> None:
        """Let the connection of an exchange be idle, if it is in step."""
        try:
            self._out.remove(begun)
        except KeyError:
            return
        link, epoch = begun.link, begun.epoch
        if not link.usable or epoch != self._epoch:
            link.close()
            return
        link.used_at = begun.began
        idle = self._idle
        idle.append(link)
        if len(idle) > self._most:
            _sweeper.watch(self)
        if epoch != self._epoch:
            # Idle ones were closed just now.
            self._close_idle()

    def drop(self, begun: Begun) -> None:
        """Close the connection of an exchange, whatever is under way."""
        try:
            self._out.remove(begun)
        except KeyError:
            return
        begun.link.close()

    def disconnect(self) -> None:
        """Close the idle ones now, and those that are out once put back."""
        self._epoch += 1
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def close_surplus(self, before: float) -> bool:
        """Close idle ones that are too many, and were not used since.

        :param float before: on :func:`time.monotonic`'s clock
        :return: whether there are too many still

        """
        while len(self._idle) > self._most:
            # The last one that was put back is the next one to be taken.
            with contextlib.suppress(IndexError):
                if self._idle[0].used_at >= before:
                    return True
                self._idle.pop(0).close()
        return False

    def close(self) -> None:
        """Close all of them, for nobody has the server any more."""
        self._close_idle()
        for begun in list(self._out):
            self.drop(begun)

    def forget_after_fork(self) -> None:
        """Leave them to the parent; the child's sockets are closed."""
        self._idle.clear()
        self._out.clear()


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
