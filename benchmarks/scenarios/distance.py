"""A server that is a millisecond away."""

from benchmarks import contenders, servers, tables

NAME = 'distance'
TITLE = 'asyncio: a server 1 ms away, callers that read 100 bytes'

DELAY_MS = 1
CALLERS = [1, 64, 512]
OURS = 'sprockets'
POOLS = ['aiomcache', 'emcache']


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        with servers.at_distances(port, [DELAY_MS]) as ports:
            for callers in CALLERS:
                bench.interleave(
                    NAME,
                    {'callers': callers},
                    {
                        name: {
                            'ports': [ports[DELAY_MS]],
                            'callers': callers,
                        }
                        for name in contenders.ASYNCHRONOUS
                    },
                )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'callers', *arguments)

    cell = {'callers': 64}
    p50 = results.median(NAME, cell, OURS, 'p50')
    return [
        table('Reads per second', 'reads_per_second'),
        table('Time of one read, ms: p50 / p99', ['p50', 'p99'], 1e3),
        table('CPU of the client per read, us', 'cpu_per_read', 1e6),
    ], [
        tables.Target(
            '1 ms away, 64 callers: p50', p50 and p50 * 1e3, '<=', 2.2, 'ms'
        ),
        tables.Target(
            '1 ms away, 64 callers: reads per second, to the better of'
            f' {" and ".join(POOLS)}',
            results.ratio(NAME, cell, OURS, POOLS, 'reads_per_second'),
            '>=',
            8,
        ),
    ]
