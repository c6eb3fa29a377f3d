"""How many of the reads of a turn leave before its end."""

from __future__ import annotations

import time

LEAST = 4
"""The fewest reads that leave as the first half of those that usually come.
That takes a quarter more of the CPU where few come, and wins as much time;
where there are only one or two, it wins none with asyncio's own loop."""

WINDOW = 64
"""Of so many turns, or twice as many, it is the largest number of reads at
once that is the usual one."""

IDLE = 0.1
"""The share of the time that the loop's thread has to be idle where all reads
of a turn leave together.  One that has other things to do while a server
answers wins nothing by halves."""

PERIOD = 16
"""For so many windows halves leave; then one shows how idle the loop is where
they do not."""


class Halves:
    """What one lane knows of how many reads there are at once."""

    def __init__(self) -> None:
        self.size = 0
        """So many reads leave before the end of the turn; 0 while it is not
        known that many come, or that it would help."""
        self._most = self._most_before = 0
        """The most reads at once, lately and before that."""
        self._turns = 0
        """How many turns that was."""
        self._windows = 0
        """For how many windows more halves leave."""
        self._began = time.monotonic(), time.thread_time()
        """When this window began, on the clock and in the thread's time."""

    def note(self, reads: int) -> None:
        """Take note of how many reads there were at once, in one turn."""
        if reads > self._most:
            self._most = reads
        self._turns += 1
        if self._turns >= WINDOW:
            self._turns = 0
            self._most_before, self._most = self._most, reads
            self._end_window()
        most = max(self._most, self._most_before)
        if self._windows and most > LEAST:
            self.size = max(LEAST, (most + 1) // 2)
        else:
            self.size = 0

    def _end_window(self) -> None:
        before, busy_before = self._began
        self._began = now, busy = time.monotonic(), time.thread_time()
        if self._windows:
            self._windows -= 1
        elif busy - busy_before < (1 - IDLE) * (now - before):
            self._windows = PERIOD
