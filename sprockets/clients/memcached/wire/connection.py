"""One socket to one server: connect, exchange a batch, close on any doubt."""

from __future__ import annotations

import _socket
import contextlib
import dataclasses
import os
import select
import socket
import struct
import time
import weakref
from collections import abc

from sprockets.clients.memcached import process, settings
from sprockets.clients.memcached.wire import protocol, resolver

WINDOW = 256 * 1024
"""Bytes that are put together for one write, unless one request is larger."""

CHUNK = 256 * 1024
"""Bytes to ask for in one read while it is not known how many will come."""

SMALL_CHUNK = 64 * 1024
"""Likewise, where few are expected.  The C library gets memory for more than
128 KiB from the kernel, and gives it back, each time."""

LARGE = 4 * 1024 * 1024
"""Bytes to ask for at most in one read."""

PATIENCE = 1024 * 1024
"""Bytes that are read at a time without waiting; there may be more."""

LATE = 2
"""How often it is looked for more, once the time is over, without waiting."""

HELD_UP = 0.05
"""Seconds that the first such look may be late.  Where it is later, this
process was busy, or was stopped."""

KEEP_IDLE = 60
"""Seconds after which the kernel asks an idle connection for a sign of life.
Routers that forget connections do so after some minutes."""

KEEP_INTERVAL = 15
"""Seconds until it asks again, if there was none."""

EARLY = 0.85
"""The part of a timeout that is waited for in one step.  The kernel's clock
for reads is up to an eighth late, and whether this process was late is looked
at in the rest."""

_EARLY_MS = EARLY * 1000
_NOW = socket.MSG_DONTWAIT
_READABLE = select.POLLIN
_EITHER = select.POLLIN | select.POLLOUT
# Without it, where there is none, only a reset is seen.
_HUNG_UP = getattr(select, 'POLLRDHUP', 0)


@dataclasses.dataclass(frozen=True)
class Profile:
    """How a server is connected to: two that are equal may share."""

    address: settings.Address
    timeout: float
    """Seconds for one exchange, connecting included."""
    credentials: settings.Credentials | None = None
    """What each connection begins with, if the server asks for it."""
    tls: settings.Tls | None = None
    """How it is encrypted, None if it is not."""


def time_left(deadline: float) -> float:
    """Return the seconds until a time on :func:`time.monotonic`'s clock.

    :raises TimeoutError: if it has passed

    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError('timed out')
    return left


def time_to_ask(deadline: float) -> float:
    """Return the seconds until a deadline for what is to be asked now.

    :raises process.LateError: if it has passed

    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise process.LateError('timed out before anything was asked')
    return left


class Connection:
    """A connection to a server, which is there once this is constructed.

    :param Profile profile: how to connect
    :param float deadline: until when, on :func:`time.monotonic`'s clock
    :raises OSError: if there is no connection by then, or if the server does
        not accept the credentials

    """

    tell: abc.Callable[[], None] | None = None
    """Is called when something has come, where no event loop can tell."""

    place: object = None
    """What it goes to: one of the addresses that its server's name has."""

    def __init__(self, profile: Profile, deadline: float) -> None:
        self.usable = True
        self.used_at = 0.0
        """When its last exchange began (:func:`time.monotonic`)."""
        self._window = b''
        self._late = 0
        self._held_up = False
        self._sent = 0
        self._answered = 0
        self.is_silent = True
        """Whether nothing has come yet of what was asked for."""
        self._was_answered = False
        """Whether it was closed for what the server, which is there, said."""
        self._incoming = protocol.Incoming()
        self._timeout = profile.timeout
        self._open(profile, deadline)

    def _open(self, profile: Profile, deadline: float) -> None:
        """Connect.

        :raises OSError: as the constructor

        """
        self._socket, self.place = _connect(
            profile.address, profile.timeout, deadline
        )
        try:
            self._poll = select.poll()
            self._poll.register(self._socket, _READABLE)
            self._prepare(profile, deadline)
            if profile.credentials is not None:
                self._authenticate(profile.credentials, deadline)
        except BaseException:
            self.close()
            raise

    def _prepare(self, profile: Profile, deadline: float) -> None:
        """Make the socket ready for exchanges.

        :raises OSError: if that cannot be; then it is closed

        """
        # What is polled first does not wait, but for the rest of a large
        # value, with the kernel's timeout; with Python's each read would poll
        # once more.  gevent's sockets wait for its own loop instead, which
        # knows nothing of the kernel's.
        self._socket.setblocking(
            type(self._socket).recv is _socket.socket.recv
        )
        self._limit_reads(self._timeout * EARLY)

    def _authenticate(
        self, credentials: settings.Credentials, deadline: float
    ) -> None:
        command = protocol.authenticate(credentials)
        # After a refusal it is out of step, which is no news then.
        with contextlib.suppress(protocol.OutOfStepError):
            self.exchange((command,), deadline)
        if command.error is not None:
            self.close()
            raise PermissionError(str(command.error))

    def close(self) -> None:
        """Close the socket, whatever is still under way on it."""
        self.usable = False
        self._socket.close()

    def _close_for(self, error: BaseException) -> None:
        """Close it for what has come of an exchange."""
        # Before others can see that it is closed.
        self._was_answered = isinstance(error, protocol.ProtocolError)
        self.close()

    def shut_down(self) -> None:
        """End the connection, so that whoever waits for it notices."""
        self.usable = False
        # It may have ended by itself, or be closed.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def fileno(self) -> int:
        """Return what an event loop waits for."""
        return self._socket.fileno()

    def is_quiet(self) -> bool:
        """Whether the connection, while idle, is open and has nothing to say.

        A server that closed it has ended the stream, and bytes that nobody
        asked for would be taken for the next reply.

        """
        return not self._poll.poll(0)

    def is_lost(self) -> bool:
        """Whether it is known that the server has ended the connection.

        Unlike :meth:`is_quiet` it is also for a connection in use.

        """
        poll = select.poll()
        try:
            poll.register(self._socket, _HUNG_UP)
        except ValueError:
            # It was closed here: after an answer that is none, too.
            return not self._was_answered
        return bool(poll.poll(0))

    def begin(self, commands: abc.Sequence[protocol.Command]) -> bool:
        """Send as much of the requests as goes without waiting.

        :return: whether that is all
        :raises OSError: if the connection fails; then it is closed

        """
        try:
            if len(commands) == 1:
                window = commands[0].request
            else:
                window = b''.join([c.request for c in commands])
            size = len(window)
            sent = sent_now = self._send(window)
            while sent < size and sent_now:
                sent_now = self._send(memoryview(window)[sent:])
                sent += sent_now
            self._sent = sent
            if sent < size:
                # The rest of just this: TLS may have begun to send more.
                self._window = window
                return False
            return True
        except BaseException:
            self.close()
            raise

    def go_on(self, commands: abc.Sequence[protocol.Command]) -> int:
        """Read the replies that have come, after :meth:`begin`.

        All of what has come: some event loops tell of a connection that is
        lost once, together with the last that came on it.

        :return: 0 once all are read, else the least number of bytes that are
            still to come, or more than :data:`PATIENCE` if so many came
        :raises OSError: as :meth:`exchange` does
        :raises protocol.ProtocolError: likewise

        """
        try:
            data = self._read(1)
            if not data:
                return 1
            if self.is_silent and data.endswith(protocol.NEWLINE):
                lines = data.split(protocol.NEWLINE)
                at = 0
                for command in commands:
                    at = command.take(lines, at)
                    if at < 0:
                        break
                if at == len(lines) - 1:
                    self._sent = 0
                    return 0
                for command in commands:
                    command.start_over()
            return self._read_on(commands, data)
        except BaseException as error:
            self._close_for(error)
            raise

    def _read_on(
        self, commands: abc.Sequence[protocol.Command], data: bytes
    ) -> int:
        """Read what has come, piece by piece, until there is no more."""
        incoming = self._incoming
        self.is_silent = False
        came = 0
        while True:
            incoming.feed(data)
            while True:
                missing = commands[self._answered].read(incoming)
                if missing:
                    break
                self._answered += 1
                if self._answered == len(commands):
                    if not all(command.answered for command in commands):
                        # There is more to ask, which is for a thread.
                        return PATIENCE + 1
                    self._end(commands)
                    return 0
            came += len(data)
            if came > PATIENCE:
                return max(missing, came)
            data = self._read(missing)
            if not data:
                return missing

    def _read(self, missing: int) -> bytes:
        """Return what has come, without waiting; nothing if that is none.

        :param int missing: the least that is still to come

        """
        size = SMALL_CHUNK if missing <= SMALL_CHUNK else min(missing, CHUNK)
        try:
            data = self._socket.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b''
        if not data:
            raise ConnectionResetError('closed by the server')
        return data

    def ask(
        self, command: protocol.Command, began: float, deadline: float
    ) -> bool:
        """Send a command and read its reply, each in one step if that can be.

        It is what is most usual, and said in as few steps as can be.

        :param float began: what time it is
        :return: False if nothing has come, for :meth:`exchange` to go on
            with if it :attr:`has_begun`
        :raises OSError: as :meth:`exchange` does
        :raises protocol.ProtocolError: likewise

        """
        time_left = deadline - began
        request = command.request
        sock = self._socket
        poll = self._poll.poll
        sent = 0
        try:
            if poll(0):
                return False
            sent = sock.send(request, _NOW)
            if sent == len(request) and poll(time_left * _EARLY_MS):
                data = sock.recv(SMALL_CHUNK)
                if data.endswith(protocol.NEWLINE):
                    lines = data.split(protocol.NEWLINE)
                    if command.take(lines, 0) == len(lines) - 1:
                        return True
                    command.start_over()
                elif not data:
                    raise ConnectionResetError('closed by the server')
                self.is_silent = False
                self._incoming.feed(data)
        except BlockingIOError:
            pass
        except BaseException as error:
            self._close_for(error)
            raise
        self._sent = sent
        if self.is_silent:
            return False
        # It is not all of it, or an unusual one.
        self.exchange((command,), deadline)
        return True

    @property
    def has_begun(self) -> bool:
        """Whether something was sent that is not answered yet."""
        return self._sent > 0

    def exchange(
        self, commands: abc.Sequence[protocol.Command], deadline: float
    ) -> None:
        """Send commands and read their replies, in order.

        However it ends, each command whose reply was read is ``answered``.
        The connection is closed, and not ``usable`` any more, unless all were
        read and nothing came behind them.  What :meth:`begin` has begun with
        the same commands is gone on with.

        :raises OSError: if the connection fails or the deadline passes
        :raises protocol.ProtocolError: if a reply is none, or if there are
            more than were asked for: then no command is answered

        """
        try:
            if not self._sent:
                time_to_ask(deadline)
            self._late = 0
            self._send_all(commands, deadline)
            self._read_rest(commands, deadline)
            self._end(commands)
            while left := [c for c in commands if _goes_on(c)]:
                self._send_all(left, deadline)
                self._read_rest(left, deadline)
                self._end(left)
        # Whatever it is, a signal's exception too: replies may be on the way.
        except BaseException as error:
            self._close_for(error)
            raise

    def _end(self, commands: abc.Sequence[protocol.Command]) -> None:
        """Be ready for the next exchange.

        :raises protocol.ProtocolError: if more came than was asked for

        """
        if self._incoming.unread:
            # Which of them was the one too many cannot be told.
            for command in commands:
                command.start_over()
            raise protocol.ProtocolError('more replies than requests')
        # While it is idle it need not keep what may be a large value.
        self._incoming.feed(b'')
        self._sent = self._answered = 0
        self.is_silent = True

    def _send_all(
        self, commands: abc.Sequence[protocol.Command], deadline: float
    ) -> None:
        """Send every request, and read the replies that come meanwhile.

        A server that cannot get rid of its replies stops reading requests:
        where it does not take them at once, what it sends is read.

        """
        sent = self._sent
        window, self._window = self._window, b''
        if len(commands) == 1:
            request = commands[0].request
            sent = sent or self._send(request)
            if sent == len(request):
                return
        for request in (window,) if window else _windows(commands):
            unsent = memoryview(request)[sent:]
            sent = max(sent - len(request), 0)
            while unsent:
                sent_now = self._send(unsent)
                unsent = unsent[sent_now:]
                if unsent and self._wait(_EITHER, deadline) & ~select.POLLOUT:
                    self._receive(1, deadline)
                    while (
                        self._answered < len(commands)
                        and commands[self._answered].read(self._incoming) == 0
                    ):
                        self._answered += 1

    def _read_rest(
        self, commands: abc.Sequence[protocol.Command], deadline: float
    ) -> None:
        incoming = self._incoming
        answered = self._answered
        count = len(commands)
        while answered < count:
            if incoming.unread:
                missing = commands[answered].read(incoming)
                if missing == 0:
                    answered += 1
                    continue
            else:
                missing = 1
            # What a signal interrupts Python begins anew (PEP 475): a poll
            # with the time that is left, a read with all of the kernel's.  In
            # each thread does so who is stopped and goes on.
            if not self._poll.poll(self._wait_for(deadline)):
                # A poll may be early by a part of a millisecond.
                time_left(deadline)
                continue
            try:
                self._receive(missing, deadline)
            except BlockingIOError:
                # The kernel's timeout has passed, the deadline has not.
                continue

    def _wait(self, events: int, deadline: float) -> int:
        """Wait for an event and return the events that there are.

        :raises TimeoutError: if the deadline passes

        """
        self._poll.modify(self._socket, events)
        try:
            while True:
                for _, ready in self._poll.poll(self._wait_for(deadline)):
                    return ready
                time_left(deadline)
        finally:
            self._poll.modify(self._socket, _READABLE)

    def _wait_for(self, deadline: float) -> float:
        """Return how many milliseconds are left; 0 once the time is over.

        What has come by then is looked at all the same, for it may be this
        process that was late; but not for ever.

        :raises TimeoutError: if that was looked at often enough, and each
            time there was something
        :raises process.LateError: likewise, where this process was late

        """
        left = deadline - time.monotonic()
        if left > 0:
            return left * 1000
        if not self._late:
            self._held_up = -left > HELD_UP
        self._late += 1
        if self._late > LATE:
            if self._held_up:
                raise process.LateError('timed out while the process was busy')
            raise TimeoutError('timed out')
        return 0

    def _send(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting and return how much it was."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _receive(self, missing: int, deadline: float) -> None:
        """Receive something, or all of it where many bytes are missing."""
        if missing <= CHUNK:
            data = self._recv(
                SMALL_CHUNK if missing <= SMALL_CHUNK else CHUNK, 0
            )
        else:
            self._limit_reads(self._wait_for(deadline) / 1000 * EARLY)
            try:
                data = self._recv(min(missing, LARGE), socket.MSG_WAITALL)
            finally:
                self._limit_reads(self._timeout * EARLY)
        self.is_silent = False
        self._incoming.feed(data)

    def _recv(self, size: int, flags: int) -> bytes:
        data = self._socket.recv(size, flags)
        if not data:
            raise ConnectionResetError('closed by the server')
        return data

    def _limit_reads(self, timeout: float) -> None:
        """Set the kernel's timeout for reads, in which 0 means none."""
        seconds, fraction = divmod(timeout, 1)
        self._socket.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_RCVTIMEO,
            struct.pack('ll', int(seconds), int(fraction * 1e6) or 1),
        )


def _goes_on(command: protocol.Command) -> bool:
    """Whether there is more to ask for a command whose reply was read."""
    return not command.answered and command.proceed()


def _windows(
    commands: abc.Sequence[protocol.Command],
) -> abc.Iterator[bytes]:
    """Put requests together for writing, so many that memory is bounded."""
    window: list[bytes] = []
    size = 0
    for command in commands:
        window.append(command.request)
        size += len(command.request)
        if size >= WINDOW:
            yield _joined(window)
            window.clear()
            size = 0
    if window:
        yield _joined(window)


def _joined(window: list[bytes]) -> bytes:
    # One alone stays what it is, so that a protocol.Hidden is not shown.
    return window[0] if len(window) == 1 else b''.join(window)


def _keep_alive(sock: socket.socket, timeout: float) -> None:
    """Have the kernel notice, where it can, that nobody is there any more."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ('TCP_KEEPIDLE', KEEP_IDLE),
        ('TCP_KEEPINTVL', KEEP_INTERVAL),
        # What was sent and not even received by then is waited for no more.
        ('TCP_USER_TIMEOUT', max(int(timeout * 1000), 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _connect(
    address: settings.Address, timeout: float, deadline: float
) -> tuple[socket.socket, resolver.Resolved]:
    """Return a socket that is connected, and what it is connected to."""
    resolved = resolver.resolve(address, time_to_ask(deadline))
    error: OSError | None = None
    for tried, (family, place) in enumerate(resolved):
        left = time_left(deadline) if tried else time_to_ask(deadline)
        share = left / (len(resolved) - tried)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened(sock)
            sock.settimeout(share)
            sock.connect(place)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _keep_alive(sock, timeout)
            # The only one, too: another may stand before it the next time.
            resolver.taken(address, (family, place))
            return sock, (family, place)
        except OSError as failure:
            sock.close()
            # What another address has said tells more than that this host
            # has no address of its kind.
            if error is None or not process.is_shortage(failure):
                error = failure
        except BaseException:
            sock.close()
            raise
    raise error or OSError(f'{address} has no address')


class Descriptor:
    """A socket while one object gives it to another.

    In between neither has it, and a child that is forked just then would keep
    it open.

    """

    def __init__(self, sock: socket.socket) -> None:
        self._number = sock.fileno()
        opened(self)

    def close(self) -> None:
        """Close it, in a child; one of the objects may have done so."""
        with contextlib.suppress(OSError):
            os.close(self._number)


class _Sockets:
    """The sockets of this process, from before they are connected."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket | Descriptor]
        self._sockets = weakref.WeakSet()
        self.enter = self._sockets.add

    def forget_after_fork(self) -> None:
        """Close a forked child's copies of what its parent goes on with."""
        for sock in list(self._sockets):
            sock.close()
        self._sockets.clear()


_sockets = _Sockets()
opened = _sockets.enter
process.after_fork(_sockets)
