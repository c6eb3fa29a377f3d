"""A connection that is encrypted, to a server whose certificate is good."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl

from sprockets.clients.memcached import certificates, process
from sprockets.clients.memcached.wire import connection, memory, protocol

RECORD = 16 * 1024
"""Bytes that a TLS record holds at most.  With as many asked for, nothing that
was decrypted stays behind, where polling the socket would not tell of it."""

HEAD = 5
"""Bytes that the head of a record has.  OpenSSL reads no more at first."""

TICKETS = 10
"""Reads of what is not data while a connection is idle.  A server that has
more than that to say is not waited for."""


def connect(
    profile: connection.Profile, deadline: float
) -> connection.Connection:
    """Return a connection, encrypted if the profile says so.

    :raises OSError: if there is none by the deadline

    """
    if profile.address.family in memory.STORES:
        return memory.Connection(profile, deadline)
    kind = connection.Connection if profile.tls is None else Connection
    return kind(profile, deadline)


def _wrap(
    context: ssl.SSLContext, plain: socket.socket, name: str
) -> ssl.SSLSocket:
    """Encrypt a socket, for a server of a name.

    :raises OSError: if that cannot be a name

    """
    try:
        # As it does, but while the socket is not yet its own to close.
        name.encode('idna')
        return context.wrap_socket(
            plain, do_handshake_on_connect=False, server_hostname=name
        )
    except OSError:
        raise
    # IDNA's, among others.
    except ValueError as error:
        raise OSError(f'{name!r} is no host: {error}') from None


class Connection(connection.Connection):
    """A connection with TLS.

    :param Profile profile: how to connect, its ``tls`` included
    :param float deadline: until when, on :func:`time.monotonic`'s clock
    :raises OSError: as without TLS, and if the certificate is not good

    """

    _socket: ssl.SSLSocket

    def _prepare(self, profile: connection.Profile, deadline: float) -> None:
        assert profile.tls is not None
        plain: socket.socket = self._socket
        try:
            plain.setblocking(False)
            between = connection.Descriptor(plain)
            self._socket = _wrap(
                certificates.context(profile.tls.files),
                plain,
                profile.tls.server_name
                # Which interface it is behind is no part of the address.
                or profile.address.host.partition('%')[0],
            )
            connection.opened(self._socket)
            del between
            self._shake_hands(deadline)
        except BaseException:
            plain.close()
            self.close()
            raise

    def _shake_hands(self, deadline: float) -> None:
        try:
            while True:
                try:
                    self._socket.do_handshake()
                    return
                except ssl.SSLCertVerificationError:
                    process.look_for_shortage()
                    raise
                except ssl.SSLWantReadError:
                    self._wait(select.POLLIN, deadline)
                except ssl.SSLWantWriteError:
                    self._wait(select.POLLOUT, deadline)
        except TimeoutError:
            raise TimeoutError('timed out in the TLS handshake') from None
        except ssl.SSLError:
            self._look_for_refusal()
            raise

    def _look_for_refusal(self) -> None:
        """Find out whether memcached has said, in clear, that it is full.

        :raises FullError: if so

        """
        rest = b''
        # It may have ended, or said no more.
        with contextlib.suppress(OSError):
            rest = os.read(self._socket.fileno(), connection.SMALL_CHUNK)
        # OpenSSL has read the head of a record.
        if rest.startswith(protocol.TOO_MANY[HEAD:]):
            raise protocol.FullError(protocol.TOO_MANY.decode('ascii'))

    def is_quiet(self) -> bool:
        # A server may send session tickets when it likes, which are not data.
        for _ in range(TICKETS):
            if super().is_quiet():
                return True
            try:
                self._socket.recv(1)
            except ssl.SSLWantReadError:
                continue
            except OSError:
                return False
            return False
        return False

    def _send(self, data: bytes | memoryview) -> int:
        if len(data) > RECORD:
            # memcached (1.6.18) waits for bytes on the socket though OpenSSL
            # has decrypted some that it has not read, for ever if those were
            # the last.  The end in a record of its own wakes it up.
            data = memoryview(data)[:-1]
        # After a 0 the same bytes have to come again, as they do: OpenSSL may
        # have encrypted, and sent, a part of them.
        try:
            return self._socket.send(data)
        except ssl.SSLWantWriteError:
            return 0

    def ask(
        self, command: protocol.Command, began: float, deadline: float
    ) -> bool:
        # What can be read may be a part of a record, which is nothing yet.
        return False

    def _read(self, missing: int) -> bytes:
        parts = []
        try:
            while True:
                parts.append(self._recv(RECORD, 0))
                if not self._socket.pending():
                    break
        except ssl.SSLWantReadError:
            # A part of a record is nothing yet.
            return b''.join(parts)
        return parts[0] if len(parts) == 1 else b''.join(parts)

    def _receive(self, missing: int, deadline: float) -> None:
        """Receive something, or all of it where many bytes are missing.

        A part of a record is nothing yet.

        """
        parts: list[bytes] = []
        left = min(missing, connection.LARGE)
        while left > 0:
            try:
                part = self._recv(RECORD, 0)
            except ssl.SSLWantReadError:
                if missing <= connection.CHUNK:
                    break
                self._wait(select.POLLIN, deadline)
                continue
            parts.append(part)
            left -= len(part)
        if parts:
            self.is_silent = False
            self._incoming.feed(b''.join(parts))
