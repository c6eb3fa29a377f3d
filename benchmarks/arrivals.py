"""Arrivals at random moments: a Poisson process, in a process of its own.

``python -m benchmarks.arrivals RATE SECONDS SEED DESCRIPTOR`` writes to the
descriptor, at each arrival, the moment for which it was planned, as a float
of ``time.monotonic()``. It never waits for whoever reads.

A process of its own, since the timers of asyncio's loops are as coarse as a
millisecond: what arrives from them comes in bunches.
"""

import os
import random
import struct
import sys
import time

from benchmarks import timers

MOMENT = struct.Struct('d')
# Seconds for the reader to get ready.
AHEAD = 0.05


def main():
    rate, seconds, seed, descriptor = sys.argv[1:]
    rate, descriptor = float(rate), int(descriptor)
    timers.sharpen()
    source = random.Random(int(seed))
    moment = time.monotonic() + AHEAD
    end = moment + float(seconds)
    while moment < end:
        wait = moment - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        due = []
        now = time.monotonic()
        while moment <= now and moment < end:
            due.append(MOMENT.pack(moment))
            moment += source.expovariate(rate)
        os.write(descriptor, b''.join(due))


if __name__ == '__main__':
    main()
