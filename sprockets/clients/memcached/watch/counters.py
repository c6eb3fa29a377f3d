"""Counts of what a client did with a server, in all and the last minutes."""

from __future__ import annotations

import dataclasses
import typing

STEP = 2.0
"""Seconds that are summed up into one moment of the last minutes."""

MOMENTS = 150
"""How many moments are kept: five minutes."""


class Moment(typing.NamedTuple):
    """What was done in :data:`STEP` seconds."""

    calls: int = 0
    batches: int = 0
    hits: int = 0
    misses: int = 0
    errors: int = 0
    seconds: float = 0.0
    steps: int = 0

    def plus(self, other: Moment) -> Moment:
        """Return the sum of two, of different servers say."""
        return Moment._make(a + b for a, b in zip(self, other, strict=True))


NOTHING = Moment()


@dataclasses.dataclass
class Counters:
    """What one client did with one server since it was made."""

    calls: int = 0
    batches: int = 0
    hits: int = 0
    misses: int = 0
    errors: int = 0
    """Calls that were not answered, or refused."""
    seconds: float = 0.0
    """The time that batches were with the server, all together."""
    steps: int = 0
    """Commands that calls of several steps, a ``get_or_set`` say, took
    besides; they are no calls, hits, misses or errors."""
    until: float = 0.0
    """When the present moment ends (:func:`time.monotonic`)."""
    _begins: list[tuple[int, Moment]] = dataclasses.field(default_factory=list)

    def turn(self, now: float) -> None:
        """Begin another moment; to be called when ``until`` has passed.

        Nothing has to be done while nothing happens.

        """
        number = int(now // STEP)
        self._begins.append((number, self.total()))
        del self._begins[: -MOMENTS - 1]
        self.until = (number + 1) * STEP

    def fail(self, now: float, calls: int = 1, steps: int = 0) -> None:
        """Count calls that failed without having been with the server.

        :param int steps: how many of them are no calls, but steps of one

        """
        if now >= self.until:
            self.turn(now)
        self.calls += calls - steps
        self.errors += calls - steps
        self.steps += steps

    def count(
        self, now: float, failed: bool, hits: int = 0, misses: int = 0
    ) -> None:
        """Count a call whose commands are all steps."""
        if now >= self.until:
            self.turn(now)
        self.calls += 1
        self.errors += failed
        self.hits += hits
        self.misses += misses

    def step(
        self, error: BaseException | None, hits: int, misses: int
    ) -> None:
        """Take a call that was counted, or will be, for a step of another."""
        self.calls -= 1
        self.steps += 1
        self.errors -= error is not None
        self.hits -= hits
        self.misses -= misses

    def lose(self, count: int) -> None:
        """Take hits for misses: what was there is no value."""
        self.hits -= count
        self.misses += count

    def total(self) -> Moment:
        """Return the sums of all time."""
        return Moment(
            self.calls,
            self.batches,
            self.hits,
            self.misses,
            self.errors,
            self.seconds,
            self.steps,
        )

    def moments(self, now: float) -> list[Moment]:
        """Return the last minutes, oldest first, up to the present moment.

        :param float now: on :func:`time.monotonic`'s clock

        """
        present = int(now // STEP)
        moments = [Moment()] * MOMENTS
        after = self.total()
        for number, before in reversed(self._begins):
            place = number - present + MOMENTS
            if 0 <= place < MOMENTS:
                moments[place] = Moment._make(
                    a - b for a, b in zip(after, before, strict=True)
                )
            after = before
        return moments
