"""What happens to servers, and who is told of it."""

from __future__ import annotations

import logging
import typing
from collections import abc

from sprockets.clients.memcached import notices

LOGGER = notices.harmless(logging.getLogger(__name__))
NOTICES = notices.Notices(LOGGER)

DOWN = 'down'
UP = 'up'
DISCOVERED = 'discovered'
GONE = 'gone'


class ServerEvent(typing.NamedTuple):
    """Something that happened to a server of a client.

    .. versionadded:: 2.0

    """

    kind: str
    """``down``, ``up``, ``discovered`` for one that the client has from now
    on, or ``gone`` for one that it has no more."""
    server: str
    """Its address, as it is in the log: ``10.0.0.1:11211``."""
    reason: str | None = None
    """Why it is down, in words."""
    seconds: float | None = None
    """For how long it was down, if it is up."""


Listener = abc.Callable[[ServerEvent], object]


def tell(listeners: abc.Iterable[Listener], event: ServerEvent) -> None:
    """Tell all who listen, whatever goes wrong for one of them."""
    for listener in list(listeners):
        try:
            listener(event)
        # It is the caller's code, and a call of somebody else's is under way.
        except Exception as error:  # noqa: BLE001
            NOTICES.error(
                'A listener failed, told that memcached server %s is %s',
                event.server,
                event.kind,
                error=error,
                about=event.kind,
            )
