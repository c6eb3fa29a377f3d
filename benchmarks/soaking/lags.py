"""How late a loop and a thread are: what late calls are measured by."""

import asyncio
import collections
import contextlib
import itertools
import pathlib
import threading
import time

STEP = 0.01
"""Seconds between two looks, and the shortest lag that is kept."""

SCHEDULED = pathlib.Path('/proc/thread-self/schedstat')

KEPT = 2_000
"""So many lags are known; a call takes no longer than they."""


class Lags:
    """How much later than planned something came about.

    :ivar float longest: seconds
    """

    def __init__(self):
        self.longest = 0.0
        self._lags = collections.deque(maxlen=KEPT)

    def note(self, due):
        """Take down how late it is.

        :param float due: when it was planned, on :func:`time.monotonic`
        """
        now = time.monotonic()
        lag = now - due
        self.longest = max(self.longest, lag)
        if lag > STEP:
            self._lags.append((now, lag))

    def clear(self):
        """Forget all but the longest."""
        self._lags.clear()

    def since(self, begin):
        """Return the longest that ended after some time, in seconds."""
        latest = itertools.takewhile(
            lambda each: each[0] >= begin, reversed(self._lags.copy())
        )
        return max((lag for _, lag in latest), default=0.0)


def busy():
    """Return for how long this thread has run, or has waited for a core.

    What it waited for other than a core is not in it. A virtual core that is
    taken away stops a single thread, of which the others know nothing.

    :returns: seconds; 0 on systems that do not tell
    :rtype: float
    """
    try:
        running, waiting, _ = SCHEDULED.read_text().split()
    except OSError:
        return 0.0
    return (int(running) + int(waiting)) / 1e9


@contextlib.asynccontextmanager
async def watched(loop_lags, thread_lags):
    """Measure the lags of the running loop, and of a thread."""
    over = threading.Event()
    thread = threading.Thread(
        target=_watch_thread, args=[thread_lags, over], daemon=True
    )
    thread.start()
    task = asyncio.create_task(_watch_loop(loop_lags))
    try:
        yield
    finally:
        task.cancel()
        over.set()
        thread.join()


async def _watch_loop(lags):
    while True:
        due = time.monotonic() + STEP
        await asyncio.sleep(STEP)
        lags.note(due)


def _watch_thread(lags, over):
    due = time.monotonic() + STEP
    while not over.wait(STEP):
        lags.note(due)
        due = time.monotonic() + STEP
