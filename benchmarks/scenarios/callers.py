"""From one caller to thousands, each waiting for its answer: asyncio."""

import itertools

from benchmarks import contenders, servers, tables

NAME = 'callers'
TITLE = 'asyncio: callers that read 100 bytes, each again at once'

CALLERS = [1, 8, 64, 512, 4096]
OURS = 'sprockets'
POOLS = ['aiomcache', 'emcache']
EXECUTOR = ['python-memcached, executor']
# At most 5 us were to be reached where aiomcache takes 25 to 30.
COST = 0.18
# A ratio of two figures of the same client, on the same machine, is as far
# from 1 when nothing changes.
NOISE = 1.05


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100])
        for callers in CALLERS:
            bench.interleave(
                NAME,
                {'callers': callers},
                {
                    name: {'ports': [port], 'callers': callers}
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
        table('Connections', 'connections'),
    ], [*_reads(results), *_cost(results), *_fairness(results)]


def _reads(results):
    def ratio(callers, others):
        return results.ratio(
            NAME, {'callers': callers}, OURS, others, 'reads_per_second'
        )

    return [
        tables.Target(
            f'{callers} callers: reads per second, to the better of'
            f' {" and ".join(POOLS)}',
            ratio(callers, POOLS),
            '>=',
            bound,
        )
        for callers, bound in [(64, 3.5), (512, 6), (8, 0.9), (1, 0.6)]
    ] + [
        tables.Target(
            f'64 callers: reads per second, to {EXECUTOR[0]}',
            ratio(64, EXECUTOR),
            '>=',
            15,
        )
    ]


def _cost(results):
    cell = {'callers': 64}

    def microseconds(contender):
        cost = results.median(NAME, cell, contender, 'cpu_per_read')
        return f'{tables.number(cost, 1e6)} us'

    return [
        tables.Target(
            f'64 callers: CPU per read ({microseconds(OURS)}), to that of'
            f' aiomcache ({microseconds("aiomcache")})',
            results.ratio(NAME, cell, OURS, ['aiomcache'], 'cpu_per_read'),
            '<=',
            COST,
        )
    ] + [
        tables.Target(
            f'{more} callers: CPU per read, to that with {fewer}',
            results.growth(
                NAME,
                [{'callers': fewer}, {'callers': more}],
                OURS,
                'cpu_per_read',
            ),
            '<=',
            NOISE,
        )
        for fewer, more in itertools.pairwise(CALLERS)
    ]


def _fairness(results):
    cell = {'callers': 512}
    p50 = results.rounds(NAME, cell, OURS, 'p50')
    p99 = results.rounds(NAME, cell, OURS, 'p99')
    return [
        tables.Target(
            '512 callers: p99, to p50',
            tables.median(p99[number] / p50[number] for number in p50),
            '<=',
            5,
        ),
        tables.Target(
            '512 callers: connections',
            results.median(NAME, cell, OURS, 'connections'),
            '<=',
            4,
        ),
    ]
