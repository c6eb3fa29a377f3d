"""Name look-ups that end by a deadline."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import typing

from sprockets.clients.memcached import notices, process, settings

LOGGER = notices.harmless(logging.getLogger(__name__))
NOTICES = notices.Notices(LOGGER, math.inf)

Resolved = tuple[socket.AddressFamily, typing.Any]
"""What ``socket.connect`` needs: the family and its kind of address."""

_FAMILIES = {
    '': socket.AF_UNSPEC,
    'inet': socket.AF_INET,
    'inet6': socket.AF_INET6,
}


class LateAnswerError(TimeoutError):
    """Nobody has said in time what a name stands for."""


UNKNOWN = (socket.gaierror, LateAnswerError)
"""The errors of a name that is not known just now.

They tell nothing of its server.

"""

_taken: dict[settings.Address, Resolved] = {}
"""What the last connection to a server went to."""


def taken(address: settings.Address, resolved: Resolved) -> None:
    """Take note of what a connection went to: the next ones go there too.

    Where the first address was gone for a while, those that went to the
    second one stay there, and so do new ones.

    """
    _taken[address] = resolved


class _LookUp:
    """One look-up under way, which any number of threads wait for."""

    def __init__(self, address: settings.Address) -> None:
        self.done = threading.Event()
        self.resolved: list[Resolved] = []
        self.error: OSError | None = None
        self._address = address

    def run(self) -> None:
        try:
            self.resolved = _agreed(self._address, _look_up(self._address))
        except OSError as error:
            self.error = error
        # Those who wait are in other threads.
        except Exception as error:  # noqa: BLE001
            self.error = OSError(f'the look-up failed: {error!r}')
        finally:
            _under_way.end(self._address)
            self.done.set()


class _UnderWay:
    """The look-ups under way in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_address: dict[settings.Address, _LookUp] = {}

    def begin(self, address: settings.Address) -> _LookUp:
        """Return the one look-up of an address, which may be new.

        :raises ThreadError: if it is, and there is no thread for it

        """
        with self._lock:
            look_up = self._by_address.get(address)
            if look_up is None:
                look_up = _LookUp(address)
                process.start_thread('memcached-resolver', look_up.run)
                # It cannot have ended, for which it needs the lock.
                self._by_address[address] = look_up
            return look_up

    def end(self, address: settings.Address) -> None:
        with self._lock:
            self._by_address.pop(address, None)

    def forget_after_fork(self) -> None:
        """Begin anew: a forked child has none of its parent's threads."""
        self._lock = threading.Lock()
        self._by_address = {}


_under_way = _UnderWay()
process.after_fork(_under_way)


def _look_up(address: settings.Address) -> list[Resolved]:
    try:
        return _getaddrinfo(address, 0)
    except socket.gaierror:
        process.look_for_shortage()
        raise


def _getaddrinfo(address: settings.Address, flags: int) -> list[Resolved]:
    try:
        found = socket.getaddrinfo(
            address.host,
            address.port,
            _FAMILIES[address.family],
            socket.SOCK_STREAM,
            flags=flags,
        )
    # IDNA's, for what it takes for no name.
    except ValueError as error:
        raise OSError(f'{address.host!r} is no host: {error}') from None
    # IPv4 first: it is the only kind that python-memcached connects to.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys((entry[0], entry[4]) for entry in found))


def _agreed(
    address: settings.Address, found: list[Resolved]
) -> list[Resolved]:
    """Return what a name stands for in the same order each time.

    Name servers change it from one answer to the next, and connections would
    go to one server after another.  What two names of a kind stand for is two
    servers, each with keys of its own, but they cannot be told apart here.

    """
    by_family: dict[socket.AddressFamily, list[typing.Any]] = {}
    for family, place in found:
        by_family.setdefault(family, []).append(place)
    for places in by_family.values():
        places.sort()
        if len(places) > 1:
            NOTICES.warning(
                'memcached server %s stands for %d addresses, of which one is'
                ' used at a time: %s; list each of them if they are servers',
                address,
                len(places),
                ', '.join(str(place[0]) for place in places),
                about=address,
            )
    agreed = [
        (family, place)
        for family, places in by_family.items()
        for place in places
    ]
    last = _taken.get(address)
    if last in agreed:
        agreed.remove(last)
        agreed.insert(0, last)
    return agreed


def resolve(address: settings.Address, timeout: float) -> list[Resolved]:
    """Return the addresses to try for a server, in order.

    ``getaddrinfo`` knows no timeout, so that it runs in a thread of its own.
    There is one for a name at most, however long the name server takes.

    :param Address address: the server
    :param float timeout: seconds
    :rtype: list
    :raises OSError: if there is none, or not in time

    """
    if address.family == 'unix':
        return [(socket.AF_UNIX, address.host)]
    with contextlib.suppress(socket.gaierror):
        return _getaddrinfo(address, socket.AI_NUMERICHOST)
    look_up = _under_way.begin(address)
    if not look_up.done.wait(timeout):
        raise LateAnswerError(f'the look-up of {address.host!r} timed out')
    if look_up.error is not None:
        raise look_up.error
    return look_up.resolved
