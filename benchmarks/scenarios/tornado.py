"""A Tornado application under wrk, with and without reads."""

import contextlib

from benchmarks import contenders, servers, tables, wrk

NAME = 'tornado'
TITLE = 'Tornado: requests from 64 connections of wrk'
FIGURES = ['left']

CONTENDERS = [
    name
    for name in contenders.ASYNCHRONOUS
    if name in (*contenders.AWAITED, 'python-memcached, executor')
]
CELLS = [{'reads': reads} for reads in (1, 10)]
WITHOUT = {'reads': 0}
"""What the others are compared with."""


def measure(bench, cells):
    with servers.memcached() as port, contextlib.ExitStack() as stack:
        servers.fill(port, [100])
        addresses = {
            name: stack.enter_context(wrk.application(name, port))
            for name in CONTENDERS
        }
        for address in addresses.values():
            # Connections, and all that comes with the first requests.
            wrk.run(address, 10, 1)
        names = list(CONTENDERS)
        for number in range(bench.pace.rounds):
            bench.progress(NAME, {'round': number + 1})
            for name in names:
                without = None
                for cell in (WITHOUT, *cells):
                    figures = wrk.run(
                        addresses[name], cell['reads'], bench.pace.wrk_seconds
                    )
                    rate = figures.get('requests_per_second')
                    if cell == WITHOUT:
                        without = rate
                    elif rate and without:
                        figures['left'] = rate / without
                    bench.results.add(NAME, cell, name, number, figures)
            names.append(names.pop(0))


def report(results):
    return [
        tables.by_contender(results, NAME, 'reads', figure, title)
        for figure, title in [
            (
                'requests_per_second',
                'Requests per second, by reads per request',
            ),
            ('left', 'The same, to those without a read'),
        ]
    ]
