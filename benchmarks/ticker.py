"""Watches for how long an event loop is held up."""

import asyncio
import contextlib
import time


class Ticker:
    """Looks at each turn of a loop.

    :ivar float held: seconds of the longest one
    :ivar float busy: seconds of its thread's CPU, of the turn that took most:
        what it waited for cores and other threads is not in that
    """

    def __init__(self):
        self.held = self.busy = 0.0

    async def run(self):
        """Look at each turn, until cancelled."""
        then, worked = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, works = time.perf_counter(), time.thread_time()
            self.held = max(self.held, now - then)
            self.busy = max(self.busy, works - worked)
            then, worked = now, works


@contextlib.asynccontextmanager
async def ticking():
    """Watch the running loop.

    :rtype: Ticker
    """
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    # Its first look is not at what comes now.
    await asyncio.sleep(0.01)
    yield ticker
    await asyncio.sleep(0.01)
    task.cancel()
