"""Small values and large ones."""

from benchmarks import contenders, servers, tables

NAME = 'values'
TITLE = 'asyncio: 64 callers that read values of 10 bytes to 100 KB'

SIZES = [10, 1_000, 100_000]


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, SIZES)
        for size in SIZES:
            bench.interleave(
                NAME,
                {'bytes': size},
                {
                    name: {'ports': [port], 'callers': 64, 'size': size}
                    for name in contenders.ASYNCHRONOUS
                },
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'bytes', *arguments)

    return [
        table('Reads per second', 'reads_per_second'),
        table('Time of one read, ms: p50 / p99', ['p50', 'p99'], 1e3),
        table('CPU of the client per read, us', 'cpu_per_read', 1e6),
    ], []
