"""One server and more."""

import contextlib

from benchmarks import contenders, servers, tables

NAME = 'servers'
TITLE = 'asyncio: 64 callers that read 100 bytes from 1 to 16 servers'

SERVERS = [1, 4, 16]
# It knows one server only.
WITHOUT = {'aiomcache'}


def measure(bench):
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(servers.memcached())
            for _ in range(max(SERVERS))
        ]
        for port in ports:
            # Each has all keys, since no two contenders spread them alike.
            servers.fill(port, [100])
        for count in SERVERS:
            bench.interleave(
                NAME,
                {'servers': count},
                {
                    name: {'ports': ports[:count], 'callers': 64}
                    for name in contenders.ASYNCHRONOUS
                    if count == 1 or name not in WITHOUT
                },
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'servers', *arguments)

    return [
        table('Reads per second', 'reads_per_second'),
        table('CPU of the client per read, us', 'cpu_per_read', 1e6),
    ], []
