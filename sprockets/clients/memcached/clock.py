"""The time that passes, whatever a program makes of its clocks."""

from __future__ import annotations

import functools
import time

now: functools.partial[float] = functools.partial(time.monotonic)
"""Return :func:`time.monotonic`'s seconds.

Tests that freeze the time, as freezegun does, put another function in the
place of that one wherever a module has it, and take it away again.  What was
to be over in 30 seconds would then be over in a lifetime.

"""

_WITH_SLEEP = getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stands still while the machine is asleep; macOS's,
asked in this way, does not."""


def elsewhere() -> float:
    """Return seconds that pass elsewhere, while this machine is asleep too."""
    return time.clock_gettime(_WITH_SLEEP)
