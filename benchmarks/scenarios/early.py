"""Values that are computed anew before their end, or behind it."""

import concurrent.futures

from benchmarks import early, figures, loads, rounds, servers, tables

NAME = 'early'
TITLE = (
    f'A value of {early.TIME} s that takes {early.COMPUTE * 1000:.0f} ms to'
    ' compute: early, or stale'
)
FIGURES = []

CALLERS = 64
"""How many there are in each process, of one key or of many."""

# Seconds between two reads of a caller: of a key that is wanted again and
# again, and of one whose time has mostly passed.
HOT = 0.5
COLD = 2 * early.TIME
# How many times of a value it goes on.
TIMES = 4

CELLS = [
    {'what': 'hot', 'callers': callers, 'processes': processes}
    for callers in (1, 8, 64)
    for processes in (1, 4)
] + [{'what': 'cold', 'callers': 1, 'processes': 1}]


def measure(bench, cells):
    for cell in cells:
        bench.progress(NAME, cell)
        for name, found in _measure(bench, cell).items():
            bench.results.add(NAME, cell, name, 0, found)


def _measure(bench, cell):
    keys = CALLERS // cell['callers']
    times = TIMES * bench.pace.seconds
    task = {
        'kind': 'early',
        'keys': keys,
        'callers': cell['callers'],
        'pause': HOT if cell['what'] == 'hot' else COLD,
        'seconds': times * early.TIME,
    }
    count = cell['processes']
    with (
        servers.memcached() as port,
        concurrent.futures.ThreadPoolExecutor(count) as executor,
    ):
        answers = list(
            executor.map(rounds.work, [{**task, 'port': port}] * count)
        )
    for answer in answers:
        if 'error' in answer:
            return dict.fromkeys(early.KINDS, answer)
    return {
        name: summary([answer[name] for answer in answers], keys * times)
        for name in early.KINDS
    }


def summary(answers, lives):
    """Return the figures of a kind.

    :param list answers: of each process, what :func:`benchmarks.early.run`
        returns of the kind
    :param float lives: how many values there would be if each was computed at
        its end
    :rtype: dict
    """
    reads = [read for answer in answers for read in answer['reads']]
    waits = sorted(wait for wait, _ in reads)
    ages = sorted(age for _, age in reads)
    # What was not there when the read began: a busy machine is no reason.
    waiting = sum(age - wait < early.COMPUTE for wait, age in reads)
    return {
        'anew': sum(answer['computations'] for answer in answers) / lives,
        'waiting': waiting / len(reads),
        'p99': loads.percentile(waits, 99),
        'age': loads.percentile(ages, 50),
        'oldest': loads.percentile(ages, 99),
    }


def named(cell):
    """Return what people call a row: ``hot, 8 x 4``.

    :rtype: str
    """
    return f'{cell["what"]}, {cell["callers"]} x {cell["processes"]}'


def report(results):
    return [side_by_side(results)]


def side_by_side(results):
    """Return the table of early and stale values.

    :rtype: tables.Table
    """
    shown = ['anew', 'waiting', 'p99', 'age', 'oldest']
    return tables.Table(
        'Early or stale, by callers and processes',
        ['', *(figures.ALL[name].title for name in shown)],
        [
            [
                f'{named(cell)}: {name}',
                *(
                    tables.number(
                        results.median(NAME, cell, name, figure),
                        figures.ALL[figure].scale,
                    )
                    for figure in shown
                ),
            ]
            for cell in results.cells(NAME)
            for name in results.contenders(NAME, cell)
        ],
    )
