"""TLS contexts, made of files, and made anew when these change."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import typing
from collections import abc

from sprockets.clients.memcached import notices, process

LOGGER = notices.harmless(logging.getLogger(__name__))


class Files(typing.NamedTuple):
    """Paths of what a client trusts, and of what it proves itself with."""

    ca_file: str | None
    """Certificates of authorities; None for those that the system trusts."""
    cert_file: str | None
    key_file: str | None
    """The key of the certificate; None if it is in the same file."""


Stamps = tuple[tuple[int, int, int], ...]


class _Contexts:
    """The contexts of this process, each with what its files were then."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Files, tuple[Stamps, ssl.SSLContext]] = {}
        self._said: dict[Files, tuple[Stamps, str]] = {}
        """What was logged of new files that are not used yet."""

    def get(self, files: Files) -> ssl.SSLContext:
        stamps = _stamps(files)
        with self._lock:
            made = self._made.get(files)
            if made is not None and made[0] == stamps:
                return made[1]
            try:
                context = _make(files)
            except OSError as error:
                if made is None:
                    raise
                # A certificate and its key are not replaced at once.  They are
                # looked at again, changed or not: what was wrong may have been
                # that nobody could read them.
                said = stamps, str(error)
                if self._said.get(files) != said:
                    self._said[files] = said
                    LOGGER.warning('New TLS files are not used yet: %s', error)
                return made[1]
            self._made[files] = stamps, context
            self._said.pop(files, None)
            return context

    def forget_after_fork(self) -> None:
        self._begin()


_contexts = _Contexts()
process.after_fork(_contexts)


def context(files: Files) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names.

    It is the same one until one of the files changes.  New files that are no
    good are logged, and the context before them is used until they are.

    :raises OSError: if a file cannot be read, or holds nothing that fits

    """
    return _contexts.get(files)


def check(files: Files) -> None:
    """Say what is wrong with files.

    :raises OSError: that names the file

    """
    _load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    if files.ca_file is not None:
        _trusting(files)


def _make(files: Files) -> ssl.SSLContext:
    context = _trusting(files)
    # In TLS 1.2 it would have a write wait for a read and the reverse.
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_identity(context, files)
    return context


def _trusting(files: Files) -> ssl.SSLContext:
    ca_file, ca_folder = files.ca_file, None
    if ca_file is None:
        # Left to itself OpenSSL trusts nobody where it cannot read them, and
        # does not say so.
        paths = ssl.get_default_verify_paths()
        ca_file, ca_folder = paths.cafile, paths.capath
    with _naming(ca_file):
        context = ssl.create_default_context(cafile=ca_file, capath=ca_folder)
    # Some systems' Pythons leave it to OpenSSL's configuration.
    context.minimum_version = max(
        context.minimum_version, ssl.TLSVersion.TLSv1_2
    )
    return context


def _load_identity(context: ssl.SSLContext, files: Files) -> None:
    if files.cert_file is not None:
        with _naming(files.cert_file, files.key_file):
            context.load_cert_chain(
                files.cert_file, files.key_file, _no_passphrase
            )


def _no_passphrase() -> typing.NoReturn:
    # Without this OpenSSL would ask at the terminal, and wait.
    raise OSError('the key is encrypted')


@contextlib.contextmanager
def _naming(*paths: str | None) -> abc.Iterator[None]:
    """Make an error say which files it is about."""
    try:
        yield
    except OSError as error:
        if process.is_shortage(error):
            # It is not about them.
            raise
        names = ', '.join(path for path in paths if path is not None)
        raise OSError(f'{names}: {error.strerror or error}') from None


def _stamps(files: Files) -> Stamps:
    stamps = []
    for path in files:
        if path is not None:
            with _naming(path):
                status = os.stat(path)
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)
