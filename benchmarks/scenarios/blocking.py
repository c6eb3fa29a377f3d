"""The blocking clients, operation by operation."""

from benchmarks import bounds, contenders, rounds, servers, tables

NAME = 'blocking'
TITLE = 'Blocking clients'
FIGURES = ['cpu']

SMALL = 100
IN_A_THREAD = ', in a thread'
"""The main thread is the one that gets signals, and so may wait otherwise."""

OPERATIONS = {
    f'{operation} {size:,} B{thread}': (operation, size)
    for operation, size, thread in [
        ('get', SMALL, ''),
        ('set', SMALL, ''),
        ('get', SMALL, IN_A_THREAD),
        ('set', SMALL, IN_A_THREAD),
        ('get_multi', SMALL, ''),
        ('set_multi', SMALL, ''),
        ('get', 100_000, ''),
        ('get', 1_000_000, ''),
    ]
}
CELLS = [{'operation': operation} for operation in OPERATIONS]


def measure(bench, cells):
    # Each thread of memcached has connections of its own: with more of them,
    # some clients would be next to theirs, and others not.
    with servers.memcached(threads=1) as port:
        servers.fill(
            port, {OPERATIONS[cell['operation']][1] for cell in cells}
        )
        for cell in cells:
            bench.progress(NAME, cell)
            operation, size = OPERATIONS[cell['operation']]
            names = list(contenders.BLOCKING)
            if size == SMALL:
                names += bounds.BLOCKING
            task = {
                'kind': 'blocking',
                'names': names,
                'operation': operation,
                'size': size,
                'addresses': [('127.0.0.1', port)],
                'turns': bench.pace.blocking_turns,
                'thread': cell['operation'].endswith(IN_A_THREAD),
            }
            measured = rounds.work(task)
            if 'error' in measured:
                measured = dict.fromkeys(names, measured)
            for name, figures in measured.items():
                for turn, each in enumerate(figures.get('turns', [figures])):
                    bench.results.add(NAME, cell, name, turn, each)


def report(results):
    hundred = 'get_multi and set_multi: 100 keys'
    return [
        tables.by_contender(results, NAME, 'operation', figure, title)
        for figure, title in [
            ('seconds', f'Time of a call, us ({hundred})'),
            ('cpu', f'CPU of a call, us ({hundred})'),
        ]
    ]
