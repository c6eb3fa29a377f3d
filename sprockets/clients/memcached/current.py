"""The client that code has where it runs: a request's, or the process's."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import typing

from sprockets.clients.memcached import aio, client, process, settings


class Place(typing.Protocol):
    """Where code runs that has clients of its own: a request."""

    memcached_prefix: str | None

    def methods(self, prefix: str | None) -> aio.Methods | None:
        """Return the client for a prefix, or None if there is none any more.

        :param str prefix: None for the place's own

        """


_place: contextvars.ContextVar[Place] = contextvars.ContextVar(
    'memcached_place'
)


def enter(place: Place) -> None:
    """Let this task, and what it starts, use a place's clients."""
    _place.set(place)


def awaitable(prefix: str | None) -> aio.Methods:
    """Return the client for code in a loop.

    :param str prefix: the prefix of the variables; None for the place's own

    """
    place = _place.get(None)
    if place is not None:
        methods = place.methods(prefix)
        if methods is not None:
            return methods
    loop = asyncio.get_running_loop()
    latest = _clients.latest.get(prefix)
    if latest is not None and latest.loop is loop:
        return latest.client
    return _clients.enter(prefix, loop)


def blocking(prefix: str | None) -> client.Client:
    """Return the client for code in a thread; likewise."""
    if prefix is None:
        place = _place.get(None)
        if place is not None:
            prefix = place.memcached_prefix
    return _clients.blocking(prefix)


class _InLoop(typing.NamedTuple):
    """A client that code in a loop uses."""

    loop: asyncio.AbstractEventLoop
    client: aio.AsyncClient
    environment: object
    """What the environment said when it was made."""


class _Clients:
    """The clients of the process, for code that was given none.

    They are what the environment says when a loop is entered, or says
    otherwise to a thread: a test has other servers than the one before.

    """

    def __init__(self) -> None:
        self.forget()
        process.after_fork(self)

    def forget(self) -> None:
        """Begin anew, and leave those that there are to their callers."""
        self.latest: dict[str | None, _InLoop] = {}
        self._in_loops: dict[
            tuple[asyncio.AbstractEventLoop, str | None], _InLoop
        ] = {}
        self._blocking: dict[
            str | None, tuple[settings.Secret, client.Client]
        ] = {}

    forget_after_fork = forget

    def enter(
        self, prefix: str | None, loop: asyncio.AbstractEventLoop
    ) -> aio.AsyncClient:
        """Return a client for a loop."""
        place = loop, prefix
        found = self._in_loops.get(place)
        if found is None:
            found = self._in_loops[place] = self._make(prefix, loop)
        self.latest[prefix] = found
        return found.client

    def _make(
        self, prefix: str | None, loop: asyncio.AbstractEventLoop
    ) -> _InLoop:
        environment = _environment()
        resting = None
        for place in list(self._in_loops):
            if place[0].is_closed():
                over = self._in_loops.pop(place, None)
                if over is not None and place[1] == prefix:
                    resting = over
        if resting is not None and resting.environment == environment:
            # It has connections.
            return resting._replace(loop=loop)
        return _InLoop(loop, aio.AsyncClient(prefix), environment)

    def blocking(self, prefix: str | None) -> client.Client:
        """Return a client for threads."""
        known = self._blocking.get(prefix)
        if known is not None and known[0].value == _where(prefix):
            return known[1]
        # Making one does nothing yet: of two, one is dropped.
        made = client.Client(prefix)
        self._blocking[prefix] = settings.Secret(_where(prefix)), made
        return made

    def abandon(self) -> None:
        """Release what was used in loops, none of which runs any more."""
        for found in self._in_loops.values():
            found.client._engine.abandon()

    async def close(self) -> None:
        """Close what is used in the running loop, and by threads."""
        loop = asyncio.get_running_loop()
        ending = [
            self._in_loops.pop(place).client
            for place in list(self._in_loops)
            if place[0] is loop
        ]
        self.latest = {}
        blocking, self._blocking = self._blocking, {}
        for _, made in blocking.values():
            made.disconnect_all()
        await asyncio.gather(*[made.close() for made in ending])


_clients = _Clients()


async def close() -> None:
    """Close the clients of the process that are used in the running loop."""
    await _clients.close()


def abandon() -> None:
    """Release the clients of the process that were used in loops."""
    _clients.abandon()


def forget() -> None:
    """Have the environment looked at anew, by whoever asks next."""
    _clients.forget()


def _environment() -> settings.Secret:
    """Return all that the environment says, passwords too."""
    return settings.Secret(
        {
            name: value
            for name, value in os.environ.items()
            if 'MEMCACHED_' in name
        }
    )


def _where(prefix: str | None) -> tuple[str | None, ...]:
    """Return what the environment says of where values are."""
    return tuple(map(os.environ.get, _variables(prefix)))


@functools.lru_cache(maxsize=1024)
def _variables(prefix: str | None) -> tuple[str, ...]:
    return (
        *settings.variables('servers', prefix),
        *settings.variables('key_prefix', prefix),
    )
