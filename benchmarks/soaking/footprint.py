"""What a process takes up while nothing goes on: memory, threads, files."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import sys
import threading
import typing

from benchmarks.soaking import promises

MAY_GROW = 4 << 20
"""Bytes in use that may come and go: what callers and the ledger know."""
BLOCK = 100
"""Bytes of one of Python's blocks, on an average."""


class Footprint(typing.NamedTuple):
    """What there is at one time."""

    memory: int
    """Bytes of this process that are in memory; what is free in between, and
    cannot be given back, is among them."""
    blocks: int
    """What Python has in use: most of its objects are one or two."""
    allocated: int
    """Bytes in use that are the C library's, 0 where it does not tell."""
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
        sys.getallocatedblocks(),
        _allocated(),
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
    :param Footprint closed: what there is after everything was closed, and
        let go
    """
    for name in ('blocks', 'allocated'):
        value, most = getattr(closed, name), getattr(before, name)
        if value > most:
            ledger.report(
                promises.GROWTH, f'{name} when closed: {value} of {most}'
            )
    for name, most in limits._asdict().items():
        value = getattr(found, name)
        one = isinstance(value, int)
        if value > most if one else max(value) > max(most):
            ledger.report(promises.GROWTH, f'{name}: {value} of {most}')
    left = closed.connections + closed.accepted
    if any(left):
        ledger.report(promises.GROWTH, f'connections left: {left}')


class _Mallinfo(ctypes.Structure):
    """What glibc says of its memory (``mallinfo2``, since 2.33)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks'),
            *('fsmblks', 'uordblks', 'fordblks', 'keepcost'),
        )
    )


def _allocated():
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    # What is large is mapped by itself.
    return info.uordblks + info.hblkhd


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
