"""Libraries of caching, where they have the same as this one."""

import concurrent.futures
import itertools

from benchmarks import (
    figures,
    libraries,
    rounds,
    servers,
    tables,
)

NAME = 'libraries'
TITLE = 'Libraries of caching, side by side'
FIGURES = ['cpu', 'at_once', 'longest']

OPERATIONS = {
    'cached': 'a hit of a cached function',
    'get_or_set': 'a hit of get_or_set',
    'tagged': 'a hit with a tag',
    'ended': 'a tag ends, a miss',
    'many': '100 hits at once',
    'cached_many': '100 hits of a cached function',
    'missing': '100 misses at once',
    'lock': 'a lock that is free',
    'limit': 'a rate limit',
}
"""What it is, by the method of :mod:`benchmarks.libraries`."""

METHODS = {text: method for method, text in OPERATIONS.items()}

FACES = {'1 caller': 1, '64 callers': 64, 'a thread': 0}
"""How many await it; 0 for one who blocks."""

FEW = ['100 misses at once', 'a tag ends, a miss']
"""What many callers do not do: they would be in each other's way."""

WANTED = 'a lock that 8 want, in 2 processes'
PROCESSES = 2
CALLERS = 4
SECONDS = 2
HOLDERS = ['awaited', 'in threads']
PARTS = 'wanted', 'had', 'given back'
"""What is noted of a turn with the lock: when it was."""

CELLS = [
    {'operation': operation, 'by': face}
    for operation, method in METHODS.items()
    for face, callers in FACES.items()
    if len(libraries.having(method, callers)) > 1
    if callers <= 1 or operation not in FEW
] + [{'operation': WANTED, 'by': face} for face in HOLDERS]


def measure(bench, cells):
    # Each thread of memcached has connections of its own: with more of them,
    # some would be next to theirs, and others not.
    with servers.memcached(threads=1) as port:
        for cell in cells:
            bench.progress(NAME, cell)
            if cell['operation'] == WANTED:
                _measure_holders(bench, cell, port)
            else:
                _measure_turns(bench, cell, port)


def _measure_turns(bench, cell, port):
    method, callers = METHODS[cell['operation']], FACES[cell['by']]
    names = libraries.having(method, callers)
    measured = rounds.work(
        {
            'kind': 'turns',
            'operation': method,
            'names': names,
            'callers': callers,
            'port': port,
            'turns': bench.pace.blocking_turns,
        }
    )
    if 'error' in measured:
        measured = dict.fromkeys(names, measured)
    for name, found in measured.items():
        for number, each in enumerate(found.get('turns', [found])):
            bench.results.add(NAME, cell, name, number, each)


def _measure_holders(bench, cell, port):
    awaited = cell['by'] == 'awaited'
    names = [
        name
        for name in libraries.having('hold', awaited)
        if not name.endswith(libraries.OWN_MEMORY)
    ]
    task = {
        'kind': 'holders',
        'awaited': awaited,
        'callers': CALLERS,
        'port': port,
        'seconds': bench.pace.seconds * SECONDS,
    }
    bench.each_in_turn(
        NAME,
        cell,
        {name: {'task': {**task, 'name': name}} for name in names},
        _hold,
    )


def _hold(number, task):
    """Have processes want the same lock, and sum up."""
    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as executor:
        answers = list(executor.map(rounds.work, [task] * PROCESSES))
    for answer in answers:
        if 'error' in answer:
            return answer
    return summary(answers)


def summary(answers):
    """Return the figures of the time in which all processes took part.

    :param list answers: of :func:`benchmarks.turns.hold`
    :rtype: dict
    """
    begin = max(answer['begin'] for answer in answers)
    end = min(answer['end'] for answer in answers)
    turns = [
        turn
        for answer in answers
        for turn in answer['turns']
        if begin <= turn[0] < end
    ]
    # Who never had it has waited until the end.
    waits = [(turn[1] if turn[1:] else end) - turn[0] for turn in turns]
    held = [turn[1:] for turn in turns if len(turn) == len(PARTS)]
    # Where one ends when another begins, the end is first.
    changes = sorted(
        change for got, back in held for change in ((got, 1), (back, -1))
    )
    counts = itertools.accumulate(change for _, change in changes)
    return {
        'holders': len(held) / (end - begin),
        'at_once': max(counts, default=None),
        'longest': max(waits, default=None),
        'errors': sum(len(answer['errors']) for answer in answers),
    }


def report(results):
    return [by_operation(results), by_holders(results)]


def by_operation(results):
    """Return the table of what each operation takes, by contender.

    :rtype: tables.Table
    """
    names = [*libraries.AWAITED, *libraries.BLOCKING]
    shown = [
        name
        for name in dict.fromkeys(names)
        if name in results.contenders(NAME)
    ]
    return tables.Table(
        'CPU of a call, us',
        ['', *shown],
        [
            [
                f'{cell["operation"]}, {cell["by"]}',
                *(
                    tables.number(
                        results.median(NAME, cell, name, 'cpu'),
                        figures.ALL['cpu'].scale,
                    )
                    for name in shown
                ),
            ]
            for cell in results.cells(NAME)
            if cell['operation'] != WANTED
        ],
    )


def by_holders(results):
    """Return the table of who has a lock that others want as well.

    :rtype: tables.Table
    """
    shown = ['at_once', 'holders', 'longest', 'errors']
    return tables.Table(
        f'{WANTED[0].upper()}{WANTED[1:]}',
        ['', *(figures.ALL[name].title for name in shown)],
        [
            [
                f'{name}, {cell["by"]}',
                *(
                    tables.number(
                        results.median(NAME, cell, name, figure),
                        figures.ALL[figure].scale,
                    )
                    for figure in shown
                ),
            ]
            for cell in results.cells(NAME)
            if cell['operation'] == WANTED
            for name in results.contenders(NAME, cell)
        ],
    )
