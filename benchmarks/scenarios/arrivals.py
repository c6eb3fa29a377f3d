"""Reads that begin at random moments, whether others are done or not."""

from benchmarks import contenders, servers, tables

NAME = 'arrivals'
TITLE = 'asyncio: Poisson arrivals, each reads 100 bytes once'
FIGURES = ['p50', 'p99']

CELLS = [
    {'rate': rate, 'ms away': delay}
    for delay in (0, 1)
    for rate in (1_000, 4_000, 10_000)
]
# The p99 of a thousand arrivals hangs on ten of them.
LONGER = 3


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        delays = {cell['ms away'] for cell in cells}
        with servers.at_distances(port, delays) as ports:
            for cell in cells:
                task = {
                    'load': 'poisson',
                    'ports': [ports[cell['ms away']]],
                    'rate': cell['rate'],
                    'seconds': LONGER * bench.pace.seconds,
                }
                # Executors are far behind at the highest rate, and what they
                # owe then takes them minutes.
                bench.interleave(
                    NAME, cell, dict.fromkeys(contenders.AWAITED, task)
                )


def report(results):
    return [
        tables.by_contender(
            *(results, NAME, 'rate', figure, f'{delay} ms away: {title}'),
            **{'ms away': delay},
        )
        for delay in results.parts(NAME, 'ms away')
        for figure, title in [
            (
                ['p50', 'p99'],
                'p50 / p99 from the planned arrival to the answer, ms',
            ),
            (
                ['noticed_p50', 'noticed_p99'],
                'of it, until the event loop took notice, ms',
            ),
            ('cpu_per_read', 'CPU of a read, us'),
        ]
    ]
