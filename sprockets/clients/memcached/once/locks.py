"""Locks that processes have in common: who holds one, and for how long."""

from __future__ import annotations

import asyncio
import random
import types
import typing
from collections import abc

from sprockets.clients.memcached import clock
from sprockets.clients.memcached.once import generations, leases
from sprockets.clients.memcached.once.plans import TICK
from sprockets.clients.memcached.once.steps import Ask, Pause, Steps
from sprockets.clients.memcached.requests import arguments
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.wire import protocol

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25
"""Seconds between two looks for a lock that somebody else holds."""

SPARE = TICK + 1
"""Seconds for which a lock is there after its owner may not have it any more:
memcached counts whole seconds, and late where the machine is busy."""


class Claim:
    """What one owner wants of a lock, step by step.

    The lock is a key whose value says who holds it.  It is on its own server
    or nowhere: on another one, somebody else would get it.

    :param Flow flow: the steps of the client's calls
    :param str name: what the lock is called
    :param time: for how long it is held at most
    :param wait: for how long it is waited for; None for as long as that
    :param tuple within: the names of the namespace that it is in
    :raises ValueError: for what is no time, and no name
    :raises TypeError: for a name that is no text

    """

    def __init__(
        self,
        flow: leases.Flow,
        name: typing.Any,
        time: typing.Any,
        wait: typing.Any,
        within: tuple[str, ...] = (),
    ) -> None:
        generations.checked('name', name)
        self.name: str = name
        self.seconds = arguments.whole_seconds('time', time, 1)
        self.wait = (
            float(self.seconds + SPARE)
            if wait is None
            else arguments.seconds('wait', wait)
        )
        self._flow = flow
        self._route = cluster.Route(
            flow.generations.key('lock', *within, name), None
        )
        self._token: bytes | None = None
        self._until = 0.0
        self._added: protocol.Command | None = None
        """What was sent last to get it."""

    @property
    def left(self) -> float:
        """Seconds for which it is surely held still."""
        if self._token is None:
            return 0.0
        return max(self._until - clock.elsewhere(), 0.0)

    def acquire(self) -> Steps[bool]:
        """Get the lock, and return whether that went well.

        :raises RuntimeError: if it is held already

        """
        if self._token is not None:
            raise RuntimeError(
                f'the lock {self.name!r} was acquired by this object, and not'
                ' released; make another one to wait for it'
            )
        token = self._token = generations.fresh()
        until = clock.now() + self.wait
        pause = FIRST_PAUSE
        try:
            while True:
                held = yield from self._add(token)
                if held:
                    return True
                left = until - clock.now()
                if held is None or left <= 0:
                    break
                yield Pause(min(pause * (0.5 + random.random()), left))
                pause = min(pause * 1.5, LONGEST_PAUSE)
        except GeneratorExit:
            raise
        except BaseException as error:
            # It may have been stored all the same, or be on its way.
            if isinstance(error, asyncio.CancelledError):
                yield from self._flow.over(self._added)
            yield from self.release()
            raise
        self._token = None
        return False

    def _add(self, token: bytes) -> Steps[bool | None]:
        """Try to get the lock; None where it cannot be had."""
        began = clock.elsewhere()
        command = protocol.store(
            protocol.ADD,
            self._route.key,
            0,
            arguments.exptime(self.seconds + SPARE),
            token,
        )
        self._added = command
        home = self._flow.home(self._route.key)
        yield Ask(command, self._route, home)
        if not command.result and command.error is not None:
            # Perhaps it was stored, and the reply was lost.
            item, _, answered = yield from self._read()
            if not answered or item is None:
                return None
            if item[1] != token:
                return False
        elif not command.result:
            return False if command.answered else None
        self._until = began + self.seconds
        return True

    def _read(
        self,
    ) -> Steps[tuple[protocol.Item | None, leases.Stale | None, bool]]:
        """Return what there is, where it is, and whether that is known."""
        read = protocol.Get((self._route.key,), 'gets')
        home = self._flow.home(self._route.key)
        endpoint = yield Ask(read, self._route, home)
        item = read.found.get(self._route.key)
        answered = read.answered and read.error is None
        if item is None or endpoint is None:
            return None, None, answered
        unique = typing.cast(int, item[2])
        place = leases.Stale(endpoint, read.incarnation, unique)
        return item, place, answered

    def release(self) -> Steps[bool]:
        """Give the lock back; return whether it was this owner's to the end.

        It is left alone if it is another one's by now.

        """
        token, self._token = self._token, None
        in_time = clock.elsewhere() < self._until
        if token is None:
            return False
        try:
            deleted = yield from self._delete(token)
        except GeneratorExit:
            raise
        except BaseException:
            # Nobody else does it.
            yield from self._delete(token)
            raise
        return deleted and in_time

    def _delete(self, token: bytes) -> Steps[bool]:
        """Delete the lock, if it is still this owner's."""
        item, place, _ = yield from self._read()
        if item is None or place is None or item[1] != token:
            return False
        # In the way that every server knows.
        return (
            yield from self._flow.delete_if(
                self._route.key, self._route, place, False
            )
        )

    def prolong(self, time: typing.Any) -> Steps[bool]:
        """Hold the lock for longer, from now on.

        :param time: for how long; None for as long as at first
        :return: whether it is held still; not if it has run out

        """
        seconds = self.seconds
        if time is not None:
            seconds = arguments.whole_seconds('time', time, 1)
        token = self._token
        if token is None:
            return False
        began = clock.elsewhere()
        item, place, _ = yield from self._read()
        if item is None or place is None or item[1] != token:
            return False
        command = protocol.compare_and_swap(
            self._route.key,
            0,
            arguments.exptime(seconds + SPARE),
            token,
            place.unique,
            place.incarnation,
        )
        yield Ask(command, self._route, place.endpoint)
        if not command.result:
            return False
        self._until = began + seconds
        return True


class _Lock:
    """What both kinds have in common."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    def __bool__(self) -> bool:
        return self._claim.left > 0

    @property
    def left(self) -> float:
        """Seconds for which it is surely held still; 0 if it is not."""
        return self._claim.left

    def __repr__(self) -> str:
        left = self._claim.left
        state = f'held for {left:.1f} s' if left else 'not held'
        return f'<{type(self).__name__} {self._claim.name!r}: {state}>'


class Lock(_Lock):
    """A lock that processes have in common.

    It comes from :meth:`.Client.lock`, and is true while it is surely held.

    """

    def __init__(
        self,
        claim: Claim,
        follow: abc.Callable[[Steps[typing.Any]], typing.Any],
    ) -> None:
        super().__init__(claim)
        self._follow = follow

    def acquire(self) -> bool:
        """Get the lock, and wait for it if need be.

        :return: whether it is held; not if others held it for too long, or if
            its server does not answer
        :raises RuntimeError: if this object has it already

        """
        return bool(self._follow(self._claim.acquire()))

    def release(self) -> bool:
        """Give the lock back.

        :return: whether it was held until now

        """
        return bool(self._follow(self._claim.release()))

    def prolong(self, time: typing.Any = None) -> bool:
        """Hold the lock for longer.

        :param time: seconds or a timedelta from now; as long as at first, if
            it is left out
        :return: whether it is held still
        :raises ValueError: for what is no time

        """
        return bool(self._follow(self._claim.prolong(time)))

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.release()


class AsyncLock(_Lock):
    """A lock that processes have in common: likewise, awaited.

    It comes from :meth:`.AsyncClient.lock`.

    """

    def __init__(
        self,
        claim: Claim,
        follow: abc.Callable[[Steps[typing.Any]], abc.Awaitable[typing.Any]],
    ) -> None:
        super().__init__(claim)
        self._follow = follow

    async def acquire(self) -> bool:
        """Get the lock; see :meth:`Lock.acquire`."""
        return bool(await self._follow(self._claim.acquire()))

    async def release(self) -> bool:
        """Give the lock back; see :meth:`Lock.release`."""
        return bool(await self._follow(self._claim.release()))

    async def prolong(self, time: typing.Any = None) -> bool:
        """Hold the lock for longer; see :meth:`Lock.prolong`."""
        return bool(await self._follow(self._claim.prolong(time)))

    async def __aenter__(self) -> AsyncLock:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        await self.release()
