"""Thousands of callers, and what the garbage collector does to them."""

from benchmarks import contenders, figures, loads, servers, tables

NAME = 'garbage'
TITLE = 'asyncio: 4,096 callers, and the garbage collector'
FIGURES = ['p99']

CALLERS = 4096
OBJECTS = 500_000
"""Lists that the application holds besides."""

LONGER = 5
"""How many times as long it is measured as all else: it takes a while until
all objects are looked at."""

CELLS = [{'collector': collector} for collector in loads.COLLECTORS]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        for cell in cells:
            task = {
                'ports': [port],
                'callers': CALLERS,
                'objects': OBJECTS,
                'seconds': bench.pace.seconds * LONGER,
                **cell,
            }
            bench.interleave(NAME, cell, {contenders.OURS: task})


def report(results):
    return [by_collector(results)]


def by_collector(results):
    """Return what becomes of the callers with each collector.

    :rtype: tables.Table
    """
    shown = ['p50', 'p99', 'collecting', 'collection']
    return tables.Table(
        'Garbage collector',
        ['', *(figures.ALL[name].title for name in shown)],
        [
            [
                cell['collector'],
                *(
                    tables.number(
                        results.median(NAME, cell, contenders.OURS, name),
                        figures.ALL[name].scale,
                    )
                    for name in shown
                ),
            ]
            for cell in results.cells(NAME)
        ],
    )
