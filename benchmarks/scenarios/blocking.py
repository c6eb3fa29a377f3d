"""The blocking clients, operation by operation."""

from benchmarks import contenders, rounds, servers, tables

NAME = 'blocking'
TITLE = 'Blocking clients, one thread'

OPERATIONS = [
    ('get', 100),
    ('set', 100),
    ('get_multi', 100),
    ('set_multi', 100),
    ('get', 100_000),
    ('get', 1_000_000),
]
OURS = 'sprockets'
PYTHON_MEMCACHED = ['python-memcached']
FASTEST = ['python-memcached', 'pymemcache']


def measure(bench):
    with servers.memcached() as port:
        servers.fill(port, [100, 100_000, 1_000_000])
        for operation, size in OPERATIONS:
            cell = _cell(operation, size)
            bench.progress(NAME, cell)
            task = {
                'kind': 'blocking',
                'names': list(contenders.BLOCKING),
                'operation': operation,
                'size': size,
                'addresses': [('127.0.0.1', port)],
                'turns': bench.pace.blocking_turns,
            }
            _record(bench.results, cell, rounds.work(task))


def _cell(operation, size):
    return {'operation': f'{operation} {size:,} B'}


def _record(results, cell, measured):
    if 'error' in measured:
        measured = dict.fromkeys(contenders.BLOCKING, measured)
    for name, figures in measured.items():
        if 'error' in figures:
            results.add(NAME, cell, name, 0, figures)
            continue
        for turn, seconds in enumerate(figures['seconds']):
            results.add(NAME, cell, name, turn, {'seconds': seconds})


def report(results):
    table = tables.by_contender(
        results,
        NAME,
        'operation',
        'Time of one call, us (get_multi and set_multi: 100 keys)',
        'seconds',
        1e6,
    )
    targets = []
    for operation, size in OPERATIONS:
        if operation.endswith('_multi'):
            others, bound = PYTHON_MEMCACHED, 0.5
        else:
            others = PYTHON_MEMCACHED if size == 100 else FASTEST
            bound = 1
        cell = _cell(operation, size)
        targets.append(
            tables.Target(
                f'{cell["operation"]}: time, to {" or ".join(others)}',
                results.ratio(NAME, cell, OURS, others, 'seconds', min),
                '<=',
                bound,
            )
        )
    return [table], targets
