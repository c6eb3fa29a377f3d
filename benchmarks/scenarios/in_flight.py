"""How many batches in flight are best: ``MAX_CONNECTIONS``."""

from benchmarks import servers, tables

NAME = 'in_flight'
TITLE = 'asyncio: MAX_CONNECTIONS, near and far'

LIMITS = [1, 2, 4, 8, 16]
DELAYS_MS = [0, 1, 10]
LOADS = {
    '64 callers': {'callers': 64},
    '512 callers': {'callers': 512},
    '4,000/s': {'load': 'poisson', 'rate': 4_000},
}


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        with servers.at_distances(port, DELAYS_MS) as ports:
            for load, parameters in LOADS.items():
                for delay in DELAYS_MS:
                    bench.interleave(
                        NAME,
                        {load: f'{delay} ms away'},
                        {
                            f'MAX_CONNECTIONS={limit}': {
                                'name': 'sprockets',
                                'options': {'max_connections': limit},
                                'ports': [ports[delay]],
                                **parameters,
                            }
                            for limit in LIMITS
                        },
                    )


def report(results):
    shown = []
    for load, parameters in LOADS.items():
        if 'callers' in parameters:
            shown.append(
                tables.by_contender(
                    results, NAME, load, 'Reads per second', 'reads_per_second'
                )
            )
        shown.append(
            tables.by_contender(
                results,
                NAME,
                load,
                'Time of one read, ms: p50 / p99',
                ['p50', 'p99'],
                1e3,
            )
        )
    return shown, []
