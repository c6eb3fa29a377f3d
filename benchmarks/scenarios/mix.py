"""Reads, writes and increments at once."""

from benchmarks import contenders, servers, tables

NAME = 'mix'
TITLE = 'asyncio: 80% get, 15% set, 5% incr'
FIGURES = ['reads_per_second']

SHARES = [80, 15, 5]
CELLS = [{'callers': 64}]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        for cell in cells:
            task = {'ports': [port], 'load': 'mixed', 'shares': SHARES, **cell}
            bench.interleave(
                NAME, cell, dict.fromkeys(contenders.ASYNCHRONOUS, task)
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'callers', *arguments)

    return [
        table('reads_per_second', 'Calls per second'),
        table(['p50', 'p99'], 'p50 / p99 of a call, ms'),
        table('cpu_per_read', 'CPU of a call, us'),
    ]
