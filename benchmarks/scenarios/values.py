"""Small values and large ones."""

from benchmarks import contenders, servers, tables

NAME = 'values'
TITLE = 'asyncio: 64 callers that read values of 10 bytes to 100 KB'
FIGURES = ['reads_per_second']

CELLS = [{'bytes': size} for size in (10, 1_000, 100_000)]


def measure(bench, cells):
    with servers.memcached() as port:
        servers.fill(port, [cell['bytes'] for cell in cells])
        for cell in cells:
            task = {'ports': [port], 'callers': 64, 'size': cell['bytes']}
            bench.interleave(
                NAME, cell, dict.fromkeys(contenders.ASYNCHRONOUS, task)
            )


def report(results):
    def table(*arguments):
        return tables.by_contender(results, NAME, 'bytes', *arguments)

    return [
        table('reads_per_second'),
        table(['p50', 'p99'], 'p50 / p99 of a read, ms'),
        table('cpu_per_read'),
    ]
