"""What a process takes up while nothing goes on: memory, threads, files."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import threading
import typing

from benchmarks.soaking import promises

MAY_GROW = 8 << 20
"""Bytes of memory that may come and go: that of threads, as their allocations
happen to fall."""


class Footprint(typing.NamedTuple):
    """What there is at one time."""

    memory: int
    """Bytes of this process that are in memory."""
    threads: int
    files: int
    """Open files and sockets of this process."""
    connections: list
    """Of this process to each server, as the line to it has them."""
    accepted: list
    """Connections as each memcached itself has them."""


def take(sites):
    """Return the footprint of this process.

    :param list sites: the servers
    :rtype: Footprint
    """
    gc.collect()
    # What was freed, and is kept for the next time, is no growth.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return Footprint(
        _memory(),
        threading.active_count(),
        len(os.listdir('/dev/fd')),
        [site.line.do('count') for site in sites],
        [site.connections() for site in sites],
    )


def compare(ledger, before, found, limits, closed):
    """Report what has grown, and what is left.

    :param Footprint before: what there was at the start
    :param Footprint found: what there was in the end
    :param Footprint limits: what there may have been
    :param Footprint closed: what there is after everything was closed
    """
    most = before.memory + MAY_GROW
    if closed.memory > most:
        ledger.report(
            promises.GROWTH, f'memory when closed: {closed.memory} of {most}'
        )
    for name, most in limits._asdict().items():
        value = getattr(found, name)
        one = isinstance(value, int)
        if value > most if one else max(value) > max(most):
            ledger.report(promises.GROWTH, f'{name}: {value} of {most}')
    left = closed.connections + closed.accepted
    if any(left):
        ledger.report(promises.GROWTH, f'connections left: {left}')


def _memory():
    status = pathlib.Path('/proc/self/status')
    if status.exists():
        for text in status.read_text().splitlines():
            if text.startswith('VmRSS:'):
                return int(text.split()[1]) * 1024
    shown = subprocess.run(
        ['ps', '-o', 'rss=', '-p', str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return int(shown) * 1024
