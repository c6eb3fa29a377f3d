"""What the soak does with its guest, and how permits are looked for."""

import asyncio
import time

from benchmarks.soaking import guest, promises, remote, visitors

FILLED = 0.8
"""Seconds for a client to ask on all of its connections: less than a call
may take, so that no server is given up."""

ATTEMPTS = 5
"""On a machine that lags one may be too late."""


async def fill(site, ledger, who, ask):
    """Report a client that does not use all of its connections to a server.

    While the server does not answer, as many are in flight as there may be:
    one that is missing was lost.  All of them have to connect, each by a
    thread.

    :param Site site: the server, which is well
    :param str who: the client, for people
    :param ask: a function that begins more calls than there are connections,
        and gives an awaitable that tells whether all were answered
    """
    for _ in range(ATTEMPTS):
        site.line.do('close_connections')
        site.line.do('hold')
        answered = asyncio.ensure_future(ask())
        end = time.monotonic() + FILLED
        asked = 0
        while asked < guest.CONNECTIONS and time.monotonic() < end:
            await asyncio.sleep(0.01)
            asked = site.line.do('asked')
        site.line.do('resume')
        if await answered and asked == guest.CONNECTIONS:
            return
    ledger.report(promises.PERMITS, f'{site} by {who}: {asked} in flight')


class Neighbour(remote.Remote):
    """Another process that uses the servers, and says what it found.

    :param str module: what runs there
    :param list sites: the servers, in order
    :param Ledger ledger: is told what it found
    :param str seed: decides what happens
    """

    def __init__(self, module, sites, ledger, seed):
        super().__init__(module, seed, *(site.address for site in sites))
        self._sites = sites
        self._ledger = ledger

    async def ask(self, name, *arguments):
        """Have something done, and return the result when it is."""
        self.begin(name, *arguments)
        # It is another process that has to answer.
        while not self.has_answered():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.answer()

    async def come(self):
        """Let it begin."""
        await self.ask('come')

    async def leave(self):
        """Let it end, and report what was broken."""
        await self.ask('leave')
        counts, broken = await self.ask('tell')
        for name, count in counts.items():
            self._ledger.count(name, count)
        for promise, text in broken:
            self._ledger.report(promise, text)


class Visitors(Neighbour):
    """The process that has services, which it tells to stop."""

    def __init__(self, sites, ledger, seed):
        super().__init__(visitors.__name__, sites, ledger, seed)


class Guest(Neighbour):
    """The process that is in trouble."""

    def __init__(self, sites, ledger, seed):
        super().__init__(guest.__name__, sites, ledger, seed)

    async def leave(self):
        """Report whatever is not well or is left, and let it close all."""
        await self.ask('rest')
        for name in await self.ask('names'):
            for site in self._sites:
                await self._fill(site, name)
        await super().leave()

    async def _fill(self, site, name):
        if name.startswith(guest.OWN_THREADS):
            await fill(
                site,
                self._ledger,
                f'guest, {name}',
                lambda: self.ask('fill', name, site.number),
            )
        elif not await self.ask('fill', name, site.number):
            self._ledger.report(
                promises.PERMITS, f'{site} by guest, {name}: no answer'
            )
