"""Which servers there are, as an AWS ElastiCache cluster tells itself."""

from __future__ import annotations

import logging
import threading
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import escaping, notices, process, settings
from sprockets.clients.memcached.wire import (
    bounds,
    connection,
    protocol,
    tls,
)

LOGGER = notices.harmless(logging.getLogger(__name__))

INTERVAL = 60.0
"""Seconds from one question to the next."""

LEAST_PAUSE = 0.1
"""Seconds to the next one at least, where nobody has answered."""

Use = abc.Callable[['Discovery', list[str]], None]


SHOWN = 20
"""Servers that are listed in the log."""


def parse(data: bytes, most: int = settings.MAX_DISCOVERED) -> list[str]:
    """Return the servers of a configuration, in the order of their names.

    It is the number of its version, and behind a newline ``host|ip|port`` of
    each node, with blanks between them.

    :param int most: how many servers there may be
    :raises ValueError: if it is none, or has more

    """
    version, _, nodes = data.decode('ascii', 'replace').partition('\n')
    if bounds.CONFIGURATION_VERSION.read(version.strip()) is None:
        raise ValueError(f'it begins with {_cut(version)}, not its version')
    # No more are looked at than there may be.
    named = nodes.split(maxsplit=most)
    if len(named) > most:
        raise ValueError(f'it names more than {most} servers (MAX_DISCOVERED)')
    servers = {_server(node) for node in named}
    if not servers:
        raise ValueError('it names no server')
    return sorted(servers)


def _server(node: str) -> str:
    """Return the server of a node, ``host|ip|port``.

    :raises ValueError: if it is none

    """
    host, ip, port = (*node.split('|', 2), '', '')[:3]
    name = host or ip
    server = f'[{name}]:{port}' if ':' in name else f'{name}:{port}'
    if len(node) <= MAX_NODE:
        try:
            address, _, _ = settings.parse_server(server)
            if address.family != 'unix' and address.text == server:
                return server
        except ValueError:
            pass
    raise ValueError(f'{_cut(node)} is no node: host|ip|port')


MAX_NODE = 512
"""Characters of a node: names of hosts have no more than 253, IPv6 addresses
and ports less."""


def _cut(text: str) -> str:
    return repr(escaping.printable(text, 100))


def _listed(servers: abc.Sequence[str]) -> str:
    """Return servers as the log has them, the first of many."""
    text = ', '.join(servers[:SHOWN])
    more = len(servers) - SHOWN
    return f'{text} and {more} more' if more > 0 else text


class Discovery:
    """Asks for the servers now and then, in a thread of its own.

    :param Profile profile: how to connect to whoever knows them
    :param float retry: seconds until it is asked again, while none is known
    :param int most: how many servers there may be
    :param use: is called with this and the servers when they are known, and
        when they have changed; a method, whose object this does not keep alive

    """

    def __init__(
        self,
        profile: connection.Profile,
        retry: float,
        use: Use,
        most: int = settings.MAX_DISCOVERED,
    ) -> None:
        self.profile = profile
        self._most = most
        self.known = False
        self.failing = False
        """Whether it was asked in vain the last time."""
        self._retry = min(max(retry, LEAST_PAUSE), INTERVAL)
        self._use = weakref.WeakMethod(typing.cast(typing.Any, use))
        self._servers: list[str] = []
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        """Begin without a thread, and with what is known."""
        self._thread: process.Thread | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        weakref.finalize(self, self._stop.set).atexit = False

    def start(self) -> bool:
        """Ask from now on.

        :return: False if there is no thread for that now; then it fails, and
            is to be started again

        """
        with self._changed:
            if self._thread is not None or self._stop.is_set():
                return True
            try:
                # It enters itself too, for a signal may come in between.
                self._thread = process.start_thread(
                    f'memcached discovery {self.profile.address}',
                    _work,
                    weakref.ref(self),
                    self._stop,
                )
                self.failing = False
                return True
            except process.ThreadError as error:
                failure = error
        self._fail(failure)
        return False

    def enter(self, thread: process.Thread) -> bool:
        """Whether a thread is the one that asks."""
        with self._changed:
            if self._thread is None:
                self._thread = thread
            return self._thread is thread

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def wait(self, deadline: float) -> bool:
        """Wait until the servers are known, or cannot be for now.

        :return: whether they are known

        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.known or self.failing,
                max(deadline - time.monotonic(), 0),
            )
            return self.known

    def ask(self) -> float:
        """Ask once, and return the seconds until the next time."""
        try:
            self._succeed(parse(_ask(self.profile), self._most))
        # Whatever it is, it is asked again.
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        return INTERVAL if self.known else self._retry

    def _fail(self, error: Exception) -> None:
        if not self.failing:
            LOGGER.warning(
                '%s does not tell the memcached servers: %s%s',
                self.profile.address,
                str(error) or type(error).__name__,
                '; those known before are used' if self.known else '',
            )
        with self._changed:
            self.failing = True
            self._changed.notify_all()

    def _succeed(self, servers: list[str]) -> None:
        if servers != self._servers and not self._stop.is_set():
            LOGGER.info(
                '%s tells the memcached servers: %s',
                self.profile.address,
                _listed(servers),
            )
            use = self._use()
            if use is not None:
                use(self, servers)
            self._servers = servers
        with self._changed:
            self.known = True
            self.failing = False
            self._changed.notify_all()


def _ask(profile: connection.Profile) -> bytes:
    deadline = time.monotonic() + profile.timeout
    command = protocol.Configuration()
    # A new connection each time: a name may stand for another node by then.
    link = tls.connect(profile, deadline)
    try:
        link.exchange([command], deadline)
    finally:
        link.close()
    if command.error is not None:
        raise OSError(str(command.error))
    return typing.cast(bytes, command.result)


def _work(discovery: weakref.ref[Discovery], stop: threading.Event) -> None:
    # Not a method: a client that nobody keeps must not live on in here.
    asking = discovery()
    if asking is None or not asking.enter(threading.current_thread()):
        return
    del asking
    seconds = 0.0
    while not stop.wait(seconds):
        asking = discovery()
        if asking is None:
            return
        seconds = asking.ask()
        del asking
