"""Reads, writes and increments at once."""

from benchmarks import contenders, servers, tables

NAME = 'mix'
TITLE = 'asyncio: 80% get, 15% set, 5% incr'

SHARES = [80, 15, 5]
CELL = {'callers': 64}
OURS = 'sprockets'
POOLS = ['aiomcache', 'emcache']


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        bench.interleave(
            NAME,
            CELL,
            {
                name: {
                    'ports': [port],
                    'load': 'mixed',
                    'shares': SHARES,
                    **CELL,
                }
                for name in contenders.ASYNCHRONOUS
            },
        )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'callers', *arguments)

    return [
        table('Calls per second', 'reads_per_second'),
        table('Time of one call, ms: p50 / p99', ['p50', 'p99'], 1e3),
        table('CPU of the client per call, us', 'cpu_per_read', 1e6),
    ], [
        tables.Target(
            'mix, 64 callers: calls per second, to the better of'
            f' {" and ".join(POOLS)}',
            results.ratio(NAME, CELL, OURS, POOLS, 'reads_per_second'),
            '>=',
            3,
        )
    ]
