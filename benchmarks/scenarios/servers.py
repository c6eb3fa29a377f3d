"""One server and more."""

import contextlib

from benchmarks import contenders, servers, tables

NAME = 'servers'
TITLE = 'asyncio: 64 callers that read 100 bytes from 1 to 16 servers'
FIGURES = ['reads_per_second']

CELLS = [{'servers': count} for count in (1, 4, 16)]


def measure(bench, cells):
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(servers.memcached())
            for _ in range(max(cell['servers'] for cell in cells))
        ]
        for port in ports:
            # Each has all keys, since no two contenders spread them alike.
            servers.fill(port, [100])
        for cell in cells:
            count = cell['servers']
            bench.interleave(
                NAME,
                cell,
                {
                    name: {'ports': ports[:count], 'callers': 64}
                    for name in contenders.ASYNCHRONOUS
                    if count == 1 or name not in contenders.OF_ONE_SERVER
                },
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'servers', *arguments)

    return [table('reads_per_second'), table('cpu_per_read')]
