"""A Tornado application under wrk, with and without reads."""

import contextlib

from benchmarks import servers, tables, wrk

NAME = 'tornado'
TITLE = 'Tornado: requests from 64 connections of wrk'

OURS = 'sprockets'
CONTENDERS = [OURS, 'python-memcached, executor', 'aiomcache', 'emcache']
READS = [0, 1, 10]


def measure(bench):
    with servers.memcached() as port, contextlib.ExitStack() as stack:
        servers.fill(port, [100])
        addresses = {
            name: stack.enter_context(wrk.application(name, port))
            for name in CONTENDERS
        }
        for address in addresses.values():
            # Connections, and all that comes with the first requests.
            wrk.run(address, max(READS), 1)
        names = list(CONTENDERS)
        for number in range(bench.pace.rounds):
            bench.progress(NAME, {'round': number + 1})
            for name in names:
                for reads in READS:
                    figures = wrk.run(
                        addresses[name], reads, bench.pace.wrk_seconds
                    )
                    bench.results.add(
                        NAME, {'reads': reads}, name, number, figures
                    )
            names.append(names.pop(0))


def report(results):
    def part(reads, name=OURS):
        """Return the requests per second, to those without a read."""
        return results.growth(
            NAME, [{'reads': 0}, {'reads': reads}], name, 'requests_per_second'
        )

    return [
        tables.by_contender(
            results,
            NAME,
            'reads',
            'Requests per second, by reads per request',
            'requests_per_second',
        ),
        tables.table(
            'Requests per second, to those of the same without a read',
            ['reads', *READS[1:]],
            [
                [
                    name,
                    *(tables.number(part(reads, name)) for reads in READS[1:]),
                ]
                for name in CONTENDERS
            ],
        ),
    ], [
        tables.Target(
            f'Tornado, {text}: requests per second, to those without',
            part(reads),
            '>=',
            bound,
        )
        for reads, text, bound in [
            (1, 'one read', 0.92),
            (10, 'ten reads gathered', 0.6),
        ]
    ]
