"""From one caller to thousands, each waiting for its answer."""

from benchmarks import contenders, loops, servers, tables

NAME = 'callers'
TITLE = 'Callers that read 100 bytes, each again at once'
FIGURES = ['reads_per_second']

CALLERS = [1, 2, 8, 32, 64, 512]
# Nothing but the garbage collector sees more.
MORE = [4096]
CELLS = [
    {'loop': loop, 'callers': callers}
    for loop in loops.ALL
    for callers in CALLERS + (MORE if loop == 'asyncio' else [])
]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        for cell in cells:
            task = {'ports': [port], **cell}
            bench.interleave(
                NAME, cell, dict.fromkeys(contenders.ASYNCHRONOUS, task)
            )


def report(results):
    return [
        tables.by_contender(results, NAME, 'callers', figure, title, loop=loop)
        for loop in results.parts(NAME, 'loop')
        for figure, title in [
            ('reads_per_second', f'{loop}: reads per second'),
            (['p50', 'p99'], f'{loop}: p50 / p99 of a read, ms'),
            ('cpu_per_read', f'{loop}: CPU of a read, us'),
            ('connections', f'{loop}: connections'),
        ]
    ]
