"""Awaited reads in a generation that is read in the same batch."""

from __future__ import annotations

import asyncio
import typing
from collections import abc

from sprockets.clients.memcached.loop import batches, futures, lanes, state
from sprockets.clients.memcached.once import generations
from sprockets.clients.memcached.servers import endpoints

Future = futures.Future

_set_result: abc.Callable[[typing.Any, typing.Any], None] = (
    asyncio.Future.set_result
)


class _Step:
    """Counts the read of a generation as a step of the call it is for."""

    __slots__ = ('_here',)

    def __init__(self, here: state.LoopState) -> None:
        self._here = here

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Take note that it is over."""
        self._here.counters_of(endpoint).step(error, hits, misses)


class Turn:
    """What the reads of a group have in common that leave in one turn.

    What a read brought is given to its caller when the generations have come
    as well, and are those that it was read in.

    """

    __slots__ = ('held', 'holds', 'known', 'left', 'sent')

    def __init__(self, known: generations.Known) -> None:
        self.known = known
        self.left = len(known.tokens)
        self.holds: bool | None = None
        """Whether the generations are these; None until that is known."""
        self.held: list[tuple[Read, typing.Any]] = []
        self.sent: list[tuple[lanes.Lane, batches.Batch | None]] = []
        """What the reads of the generations leave with; None if they have."""

    def told(self, holds: bool) -> None:
        """Take note of whether one of the generations is what it was."""
        self.left -= 1
        if not holds:
            self.holds = False
        elif self.left or self.holds is False:
            return
        else:
            self.holds = True
        held, self.held = self.held, []
        for read, value in held:
            if not read.done():
                read.set_result(value)


class _Generation(asyncio.Future[typing.Any]):
    """The read of a generation."""

    __slots__ = ('token', 'turn')

    token: bytes
    turn: Turn

    def set_result(self, result: typing.Any) -> None:
        _set_result(self, None)
        self.turn.told(result == self.token)


class Read:
    """Gives a caller what was read for it, once the generations are certain.

    It takes the place of the caller's future where values are given.  The
    future itself is none of a class of ours: asyncio takes 3,000 instructions
    more for one of those.

    """

    __slots__ = ('again', 'args', 'future', 'turn')

    future: Future
    turn: Turn
    again: abc.Callable[..., None]
    """Is called with this and the args where the generation is another."""
    args: tuple[typing.Any, ...]

    def set_result(self, result: typing.Any) -> None:
        """Give the caller its value, now or when it is certain."""
        holds = self.turn.holds
        if holds:
            self.future.set_result(result)
        elif holds is None:
            self.turn.held.append((self, result))
        else:
            self.again(self, *self.args)

    def done(self) -> bool:
        """Whether the caller has its result, or waits no more."""
        return self.future.done()

    def set_exception(self, error: BaseException) -> None:
        """Let the call end with an error."""
        self.future.set_exception(error)

    def exception(self) -> BaseException | None:
        """Return the error that the call ended with."""
        return self.future.exception()

    def cancel(self) -> bool:
        """Let the caller wait no more."""
        return self.future.cancel()

    def add_done_callback(
        self, callback: abc.Callable[[Future], object]
    ) -> None:
        """Have a function called when the caller has its result."""
        self.future.add_done_callback(callback)

    def settle(self, task: Future) -> None:
        """Take the result of what was done instead."""
        future = self.future
        if future.done():
            # Nobody waits.
            if not task.cancelled():
                task.exception()
        elif task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def turn(
    here: state.LoopState,
    known: generations.Generations,
    group: generations.Group,
) -> Turn | None:
    """Return what reads of a group join that are called in this turn.

    :return: None if the generations are not known, or not to be had

    """
    made: Turn | None = here.computing.turns.get(group)
    if made is not None:
        for lane, batch in made.sent:
            # What one that has left brings may be over when others are called.
            if batch is None or lane.forming is not batch:
                break
        else:
            return made
    guess = known.guess(group)
    if guess is None or known.is_owed(group):
        return None
    homes = []
    for key in group:
        home = here.cluster.home(key)
        if home is None or home.retry_at is not None:
            return None
        homes.append(home)
    made = here.computing.turns[group] = Turn(guess)
    # What is called later may have to see a later generation.
    here.loop.call_soon(here.computing.turns.pop, group, None)
    for key, token, home in zip(group, guess.tokens, homes, strict=True):
        future = _Generation()
        future.token = token
        future.turn = made
        lane = here.lanes.get(home) or here.lane(home)
        extras = batches.Extras(None, None, _Step(here))
        lane.read((key, future, None, None, extras))
        made.sent.append((lane, lane.forming))
    return made


Wanted = tuple[typing.Any, typing.Any, abc.Callable[..., None] | None]
"""A key, what to return if it has no value, and what to do instead."""


def read(
    here: state.LoopState,
    turn: Turn,
    wanted: Wanted,
    again: abc.Callable[..., None],
    args: tuple[typing.Any, ...],
) -> Future | None:
    """Read a key of a group with the others of this turn.

    :param again: is called with a :class:`Read`, and the args, where the
        generation is another one
    :return: what the caller awaits, None where there is no server, or the
        key wants a closer look

    """
    key, default, otherwise = wanted
    encoded = turn.known.encoding.key(key)
    if encoded is None:
        return None
    endpoint = here.cluster.pick(encoded)
    if endpoint is None:
        return None
    future: Future = asyncio.Future()
    read = Read()
    read.future = future
    read.turn = turn
    read.again = again
    read.args = args
    lane = here.lanes.get(endpoint) or here.lane(endpoint)
    lane.read((encoded, read, default, otherwise, None))
    return future
