"""How many batches in flight are best: ``MAX_CONNECTIONS``."""

from benchmarks import contenders, servers, tables

NAME = 'in_flight'
TITLE = 'asyncio: MAX_CONNECTIONS, near and far'
FIGURES = []

LIMITS = [1, 2, 4, 8, 16]
LOADS = {
    '64 callers': {'callers': 64},
    '512 callers': {'callers': 512},
    '4,000/s': {'load': 'poisson', 'rate': 4_000},
}
CELLS = [
    {'load': load, 'ms away': delay} for load in LOADS for delay in (0, 1, 10)
]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        delays = {cell['ms away'] for cell in cells}
        with servers.at_distances(port, delays) as ports:
            for cell in cells:
                bench.interleave(
                    NAME,
                    cell,
                    {
                        f'MAX_CONNECTIONS={limit}': {
                            'name': contenders.OURS,
                            'options': {'max_connections': limit},
                            'ports': [ports[cell['ms away']]],
                            **LOADS[cell['load']],
                        }
                        for limit in LIMITS
                    },
                )


def report(results):
    return [
        tables.by_contender(
            *(results, NAME, 'ms away', figure, f'{load}: {title}'), load=load
        )
        for load in results.parts(NAME, 'load')
        for figure, title in [
            ('reads_per_second', 'reads per second'),
            (['p50', 'p99'], 'p50 / p99 of a read, ms'),
        ]
    ]
