"""Reads from ``memory``, in the process, next to those from memcached.

``python -m benchmarks.nearby`` prints reads per second, and the time of the
processor that one takes this process: one caller, 64, a blocking client, in
turn.  Where other processes are busy, the second tells more.
"""

import argparse
import asyncio
import statistics
import time

from benchmarks import servers
from sprockets.clients import memcached

VALUE = 'x' * 100

READS = 20
"""How many reads there are between two looks at the clock."""


async def awaited(where, callers, seconds):
    """Return the reads of some callers, and what they took."""
    client = memcached.AsyncClient(servers=where)
    keys = [f'key{number}' for number in range(callers)]
    await client.set_multi(dict.fromkeys(keys, VALUE))
    reads = 0

    async def read(key):
        nonlocal reads
        while time.perf_counter() < end:
            for _ in range(READS):
                await client.get(key)
            reads += READS

    used, began = time.process_time(), time.perf_counter()
    end = began + seconds
    await asyncio.gather(*map(read, keys))
    figures = reads, time.perf_counter() - began, time.process_time() - used
    await client.close()
    return figures


def blocking(where, seconds):
    """Return the reads of a thread, and what they took."""
    client = memcached.Client(servers=where)
    client.set('key', VALUE)
    reads = 0
    used, began = time.process_time(), time.perf_counter()
    while time.perf_counter() < began + seconds:
        for _ in range(READS):
            client.get('key')
        reads += READS
    figures = reads, time.perf_counter() - began, time.process_time() - used
    client.disconnect_all()
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=0.5)
    options = parser.parse_args()
    found = {}
    with servers.memcached() as port:
        for _ in range(options.rounds):
            for where in ('memory', f'127.0.0.1:{port}'):
                place = where if where == 'memory' else 'memcached'
                for callers in (1, 64):
                    figures = asyncio.run(
                        awaited(where, callers, options.seconds)
                    )
                    found.setdefault((callers, place), []).append(figures)
                figures = blocking(where, options.seconds)
                found.setdefault(('blocking', place), []).append(figures)
    for (callers, place), rounds in sorted(found.items(), key=str):
        rate = statistics.median(n / spent for n, spent, _ in rounds)
        used = statistics.median(cpu / n * 1e6 for n, _, cpu in rounds)
        print(f'{callers!s:9} {place:10} {rate:9.0f}/s {used:6.2f} us')


if __name__ == '__main__':
    main()
