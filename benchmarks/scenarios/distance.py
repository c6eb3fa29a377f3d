"""A server that is a millisecond away."""

from benchmarks import contenders, servers, tables

NAME = 'distance'
TITLE = 'asyncio: a server 1 ms away, callers that read 100 bytes'
FIGURES = ['reads_per_second']

DELAY_MS = 1
CELLS = [{'callers': callers} for callers in (1, 64, 512)]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [100])
        with servers.at_distances(port, [DELAY_MS]) as ports:
            for cell in cells:
                task = {'ports': [ports[DELAY_MS]], **cell}
                bench.interleave(
                    NAME, cell, dict.fromkeys(contenders.ASYNCHRONOUS, task)
                )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'callers', *arguments)

    return [
        table('reads_per_second'),
        table(['p50', 'p99'], 'p50 / p99 of a read, ms'),
        table('cpu_per_read'),
    ]
