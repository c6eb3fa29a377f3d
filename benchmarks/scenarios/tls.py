"""Callers of a server that speaks TLS, and what holds up their loop."""

import contextlib

from benchmarks import contenders, servers, tables

NAME = 'tls'
TITLE = 'asyncio: callers that read 100 bytes over TLS'
FIGURES = ['reads_per_second', 'held']

CALLERS = [1, 64, 512]
BEGIN = {'callers that begin': 512}
CELLS = [
    cell
    for cell in [*({'callers': callers} for callers in CALLERS), BEGIN]
    if servers.without_tls() is None
]
LONGER = 4
SPEAKING = [
    name
    for name, contender in contenders.ASYNCHRONOUS.items()
    if contender.tls
]


def measure(bench, cells):
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(servers.certificates())
        secure = stack.enter_context(servers.memcached(files))
        plain = stack.enter_context(servers.memcached())
        servers.fill(secure, [100], files.authority)
        servers.fill(plain, [100])
        over_tls = {'ports': [secure], 'authority': files.authority}
        # emcache reads all of the system's certificates for each connection.
        calm = {'warm_up': LONGER * bench.pace.warm_up}
        for cell in cells:
            if cell == BEGIN:
                load = {
                    'load': 'begun',
                    'callers': BEGIN['callers that begin'],
                }
                tasks = {}
            else:
                load = {**cell, **calm}
                tasks = {
                    contenders.WITHOUT_TLS: {
                        'name': contenders.OURS,
                        'ports': [plain],
                        **load,
                    }
                }
            tasks |= {name: {**over_tls, **load} for name in SPEAKING}
            bench.interleave(NAME, cell, tasks)


def report(results):
    def table(figure, title=None):
        return tables.by_contender(results, NAME, 'callers', figure, title)

    return [
        table('reads_per_second'),
        table(['p50', 'p99'], 'p50 / p99 of a read, ms'),
        table('cpu_per_read'),
        tables.by_contender(
            *(results, NAME, *BEGIN, ['held', 'busy']),
            "The loop's longest hold-up / its own work, ms, handshakes too",
        ),
    ]
