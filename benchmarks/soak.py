"""Uses servers that die, hang and are cut off, and checks all that it gets.

``benchmarks/soak`` sets everything up and then runs this.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import math
import random
import signal
import sys
import time
import typing

from benchmarks import tables
from benchmarks.soaking import (
    callers,
    crowd,
    footprint,
    host,
    lags,
    mishaps,
    promises,
    site,
)

SERVERS = 4

WARM_UP = 0.1
"""The part of the time that passes before the first mishap, and again after
each half of them."""
WARM_UP_LIMITS = (2, 20)
"""Seconds, from and to, which it takes."""

PROGRESS = 60
"""Seconds between two lines that say how far it is."""

SLACK = 240
"""Seconds beyond the given ones after which it ends whatever it does."""


class Log(logging.Handler):
    """Counts what is logged; an error is a broken promise."""

    def __init__(self, ledger):
        super().__init__(logging.INFO)
        self._ledger = ledger

    def emit(self, record):
        self._ledger.count(f'logged as {record.levelname.lower()}')
        if record.levelno >= logging.ERROR:
            text = record.getMessage()
            if record.exc_info:
                text += f': {record.exc_info[1]!r}'
            self._ledger.report(promises.RAISED, f'logged: {text}')


class Footprints(typing.NamedTuple):
    """What the process took up, in the order of the columns."""

    start: footprint.Footprint
    middle: footprint.Footprint
    end: footprint.Footprint
    limit: footprint.Footprint
    closed: footprint.Footprint


async def soak(sites, neighbours, ledger, seconds, seed):
    """Let callers call, with mishaps for some seconds.

    :param list sites: the servers
    :param list neighbours: other processes that use them
    :param Ledger ledger: is told everything
    :rtype: Footprints
    """
    least, most = WARM_UP_LIMITS
    quiet = min(max(seconds * WARM_UP, least), most)
    async with lags.watched(ledger.loop_lags, ledger.thread_lags):
        people = crowd.Crowd(sites, ledger, seed)
        people.begin()
        await asyncio.sleep(quiet)
        await people.pause()
        start = await people.footprint()
        resting = []
        for half in (1, 2):
            people.go_on()
            for each in neighbours:
                await each.come()
            async with mishaps.happening(
                sites, ledger, f'{seed} {half}'
            ) as is_well:
                await _progress(people, ledger, seconds, half, is_well)
            # All of them are well again.
            await people.pause()
            for each in neighbours:
                await each.leave()
            people.go_on()
            await asyncio.sleep(quiet)
            await people.pause()
            resting.append(await people.footprint())
        middle, end = resting
        limits = people.limits(start, middle)
        for each in sites:
            ledger.check_site(each)
            evicted = int(each.statistics()['evictions'])
            ledger.count('values evicted in the last lives', evicted)
        await people.find_all()
        await people.fill_all()
        people.go_on()
        closed = await people.end()
    footprint.compare(ledger, start, end, limits, closed)
    return Footprints(start, middle, end, limits, closed)


async def _progress(people, ledger, seconds, half, is_well):
    """Wait for half of some seconds, and say now and then how far it is."""
    begin = time.monotonic() - (half - 1) * seconds / 2
    end = begin + half * seconds / 2
    said = time.monotonic()
    while (now := time.monotonic()) < end and is_well():
        if now >= said + PROGRESS:
            said += PROGRESS
            happened = sum(ledger.counts[kind] for kind in mishaps.KINDS)
            print(
                f'{now - begin:.0f} s: {people.calls:,} calls,'
                f' {happened} faults,'
                f' {sum(ledger.broken.values())} promises broken',
                flush=True,
            )
        await asyncio.sleep(min(1, end - now))


def report(ledger, footprints):
    """Return what came of it as text.

    :param Ledger ledger: what was found
    :param Footprints footprints: of the process
    :rtype: str
    """
    kinds = {kind: ledger.counts[kind] for kind in mishaps.KINDS}
    others = {
        name: count
        for name, count in sorted(ledger.counts.items())
        if name not in kinds
    }
    lines = [
        tables.table(
            'Calls and seconds',
            ['', 'calls', 'longest', 'bound'],
            [
                [
                    method,
                    f'{ledger.calls[method]:,}',
                    f'{longest:.3f}',
                    f'{callers.bound(method):.1f}',
                ]
                for method, longest in sorted(ledger.longest.items())
            ]
            + [
                [name, '', f'{found.longest:.3f}', '']
                for name, found in (
                    ('(lag of the loop)', ledger.loop_lags),
                    ('(lag of a thread)', ledger.thread_lags),
                )
            ],
        ),
        _counts('Faults', {**kinds, 'all': sum(kinds.values())}),
        _counts('Other counts', others),
        tables.table(
            'What the process takes up while nothing is called',
            ['', *Footprints._fields],
            [
                [name, *(_shown(getattr(each, name)) for each in footprints)]
                for name in footprint.Footprint._fields
            ],
        ),
        tables.table(
            'Promises',
            ['', 'broken', 'of'],
            [
                [
                    promise,
                    ledger.broken[promise],
                    tables.MISSING
                    if (checked := ledger.checked(promise)) is None
                    else f'{checked:,}',
                ]
                for promise in promises.PROMISES
            ],
        ),
    ]
    lines += [
        f'{promise}: {text}'
        for promise, texts in ledger.examples.items()
        for text in texts
    ]
    lines.append('broken' if ledger.broken else 'All promises were kept.')
    return '\n'.join(lines)


def _counts(title, counts):
    return tables.table(
        title, ['', ''], [[name, f'{n:,}'] for name, n in counts.items()]
    )


def _shown(value):
    if isinstance(value, list):
        return ' '.join(map(str, value))
    if value == math.inf:
        return tables.MISSING
    return f'{value / (1 << 20):.1f} MiB' if value > 1 << 20 else str(value)


def main():
    """Return 0, or 1 if a promise was broken."""
    options = _parse(sys.argv[1:])
    for number in (signal.SIGHUP, signal.SIGTERM):
        # By an exception, which ends all that runs.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    faulthandler.dump_traceback_later(options.seconds + SLACK, exit=True)
    print(
        f'{SERVERS} servers, {crowd.CALLERS} callers and {crowd.THREADS}'
        f' threads, {options.seconds:g} s with faults, --seed {options.seed}',
        flush=True,
    )
    ledger = promises.Ledger()
    logging.basicConfig(level=logging.INFO, handlers=[Log(ledger)])
    with contextlib.ExitStack() as stack:
        sites = [
            stack.enter_context(site.Site(number, keys))
            for number, keys in enumerate(_counters())
        ]
        neighbours = []
        # The guest is last: its connections are counted when it leaves.
        for kind in (host.Visitors, host.Guest):
            neighbours.append(kind(sites, ledger, options.seed))
            stack.callback(neighbours[-1].stop)
        footprints = asyncio.run(
            soak(sites, neighbours, ledger, options.seconds, options.seed)
        )
    print(report(ledger, footprints))
    return 1 if ledger.broken else 0


def _counters():
    """Return the keys of the counters that each server has."""
    keys = [[] for _ in range(SERVERS)]
    for key in callers.BUSY + callers.QUIET:
        keys[site.place(key, SERVERS)].append(key)
    return keys


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog='benchmarks/soak', description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=600,
        help='how long servers have faults; %(default)s if not given',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=random.SystemRandom().randrange(1 << 32),
        help='what decides what happens; another one each time if not given',
    )
    return parser.parse_args(arguments)


if __name__ == '__main__':
    sys.exit(main())
