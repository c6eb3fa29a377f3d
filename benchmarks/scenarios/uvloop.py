"""The same callers under uvloop."""

from benchmarks import contenders, servers, tables

NAME = 'uvloop'
TITLE = 'uvloop: callers that read 100 bytes, each again at once'

CALLERS = [1, 8, 64, 512]
OURS = 'sprockets'
POOLS = ['aiomcache', 'emcache']


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        for callers in CALLERS:
            bench.interleave(
                NAME,
                {'callers': callers},
                {
                    name: {
                        'ports': [port],
                        'callers': callers,
                        'loop': 'uvloop',
                    }
                    for name in contenders.ASYNCHRONOUS
                },
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'callers', *arguments)

    return [
        table('Reads per second', 'reads_per_second'),
        table('Time of one read, ms: p50 / p99', ['p50', 'p99'], 1e3),
        table('CPU of the client per read, us', 'cpu_per_read', 1e6),
    ], [
        tables.Target(
            f'uvloop, {callers} callers: reads per second, to the better of'
            f' {" and ".join(POOLS)}',
            results.ratio(
                NAME, {'callers': callers}, OURS, POOLS, 'reads_per_second'
            ),
            '>=',
            bound,
        )
        for callers, bound in [(64, 3), (512, 6)]
    ]
