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
