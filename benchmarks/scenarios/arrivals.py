"""Reads that begin at random moments, whether others are done or not."""

from benchmarks import servers, tables

NAME = 'arrivals'
TITLE = 'asyncio: Poisson arrivals, each reads 100 bytes once'

RATES = [1_000, 4_000, 10_000]
DELAYS_MS = [0, 1]
OURS = 'sprockets'
OTHERS = ['aiomcache', 'emcache', 'emcache, batching']
# The p99 of a thousand arrivals hangs on ten of them.
LONGER = 3


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        with servers.at_distances(port, DELAYS_MS) as ports:
            for delay in DELAYS_MS:
                for rate in RATES:
                    task = {
                        'load': 'poisson',
                        'ports': [ports[delay]],
                        'rate': rate,
                        'seconds': LONGER * bench.pace.seconds,
                    }
                    bench.interleave(
                        NAME,
                        _cell(rate, delay),
                        dict.fromkeys([OURS, *OTHERS], task),
                    )


def _cell(rate, delay):
    return {'arrivals': f'{rate:,}/s, {delay} ms away'}


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'arrivals', *arguments)

    targets = [
        tables.Target(
            f'{_cell(rate, delay)["arrivals"]}: {figure}, to aiomcache',
            results.ratio(
                NAME, _cell(rate, delay), OURS, ['aiomcache'], figure, min
            ),
            '<=',
            bound,
        )
        for delay in DELAYS_MS
        for rate in RATES
        for figure, bound in [('p50', 1.2), ('p99', 1)]
    ]
    return [
        table(
            'Time from the planned arrival to the answer, ms: p50 / p99',
            ['p50', 'p99'],
            1e3,
        ),
        table(
            'Of it, until the event loop took notice, ms: p50 / p99',
            ['noticed_p50', 'noticed_p99'],
            1e3,
        ),
        table('CPU of the client per read, us', 'cpu_per_read', 1e6),
    ], targets
