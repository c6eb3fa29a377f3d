"""What happens to one server, at random: a thread that sees to it."""

import asyncio
import contextlib
import random
import threading

KINDS = {
    # Killed, and away for a while.
    'kill': 2,
    # Killed, and back at once.
    'restart': 2,
    # Stopped in its tracks, for less or more than a timeout.
    'pause': 3,
    # The line refuses connections.
    'refuse': 2,
    # The line is silent, for less or more than a timeout.
    'silence': 3,
    # A router forgets the connections that there are: what is sent over them
    # is swallowed, and nobody is told.
    'forget': 2,
    # All connections are closed, or reset.
    'close': 2,
    'reset': 2,
    # Some of the next replies end in the middle, with their connections.
    'tear': 3,
    # Replies come late.
    'slow': 2,
}
"""What may happen, and how often compared with the others."""

BETWEEN = 1.0
"""Seconds between two mishaps of one server, on an average."""

SHORT = (0.05, 0.5)
LONG = (0.1, 2.5)
"""Seconds that one takes, from and to."""

DELAYS = (0.01, 0.4)


@contextlib.asynccontextmanager
async def happening(sites, ledger, seed):
    """Let servers have mishaps; at the end all of them are well.

    :param str seed: decides what happens, and when
    :returns: a function that tells whether all goes as planned
    :raises Exception: what went wrong with the mishaps themselves
    """
    threads = [Mishaps(site, ledger, f'{seed} {site}') for site in sites]
    for thread in threads:
        thread.start()

    def alive():
        return [thread.is_alive() for thread in threads]

    try:
        yield lambda: all(alive())
    finally:
        for thread in threads:
            thread.stop()
        # A thread has no event that a loop could wait for.
        while any(alive()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for thread in threads:
        if thread.error is not None:
            raise thread.error


class Mishaps(threading.Thread):
    """Does to a server what is to happen to it, until it is stopped.

    :param Site site: the server
    :param Ledger ledger: is told, and shown each server before it dies
    :param str seed: decides what happens, and when
    :ivar error: what went wrong in the thread itself, None if nothing did
    """

    def __init__(self, site, ledger, seed):
        super().__init__(name=f'mishaps of {site}', daemon=True)
        self.error = None
        self._site = site
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._stopping = threading.Event()

    def stop(self):
        """Let the server be well again, and no more happen to it."""
        self._stopping.set()

    def run(self):
        try:
            while not self._stopping.wait(self._rng.expovariate(1 / BETWEEN)):
                (kind,) = self._rng.choices(list(KINDS), KINDS.values())
                self._ledger.count(kind)
                getattr(self, f'_{kind}')()
        # It is for who joins the thread.
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _hold(self, limits):
        self._stopping.wait(self._rng.uniform(*limits))

    def _kill(self):
        self._die(LONG)

    def _restart(self):
        self._die((0, 0))

    def _die(self, limits):
        site = self._site
        self._ledger.check_site(site)
        life = site.life_name
        site.kill()
        self._hold(limits)
        site.start()
        self._ledger.forget(site.counter_keys, life)

    def _pause(self):
        self._site.server.pause()
        try:
            self._hold(LONG)
        finally:
            self._site.server.resume()

    def _refuse(self):
        with self._site.cut() as line:
            line.do('down')
            self._hold(LONG)
            line.do('up')

    def _silence(self):
        with self._site.cut() as line:
            line.do('pause')
            self._hold(LONG)
            line.do('resume')

    def _forget(self):
        with self._site.cut() as line:
            line.do('forget')

    def _close(self):
        with self._site.cut() as line:
            line.do('close_connections')

    def _reset(self):
        with self._site.cut() as line:
            line.do('reset_connections')

    def _tear(self):
        with self._site.cut() as line:
            line.do('tear', self._rng.randint(5, 50), self._rng.random())
            self._hold(SHORT)
            line.do('mend')

    def _slow(self):
        with self._site.cut() as line:
            line.do('slow', self._rng.uniform(*DELAYS))
            self._hold(SHORT)
            line.do('slow', 0)
