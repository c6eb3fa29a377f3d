"""A value that takes long to compute, expires, and is wanted by many."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks import packages, servers, stampede, tables

NAME = 'stampede'
TITLE = 'A hot key: it expires under 8 processes of 64 callers; its hits'
FIGURES = []

PROCESSES = 8
CALLERS = 64
# Seconds that a computation takes, and that callers go on reading.
COMPUTE = 0.2
SECONDS = 1.0
# Seconds from the word to the beginning.
NOTICE = 0.3
PATIENCE = 60

KINDS = {
    'get, then set': 'GetThenSet',
    'get_or_set': 'GetOrSet',
    'get_or_set, stale': 'GetOrSetStale',
    'cached': 'Cached',
    'get_or_set, threads': 'Blocking',
    'aiocache cached': 'Aiocache',
    'aiocache cached_stampede': 'AiocacheStampede',
    'cashews, own memory': 'Cashews',
    'dogpile.cache, threads': 'Dogpile',
}
AWAITED = {
    'get': 'Get',
    'get_or_set': 'GetOrSet',
    'get_or_set, stale': 'GetOrSetStale',
    'cached': 'Cached',
    'aiocache cached': 'Aiocache',
}
BLOCKING = {
    'get': 'BlockingGet',
    'get_or_set': 'Blocking',
    'cached': 'BlockingCached',
    'dogpile.cache': 'Dogpile',
}
# The package that each of them needs, if it is not this one.
PACKAGES = {
    'Aiocache': 'aiocache',
    'AiocacheStampede': 'aiocache',
    'Cashews': 'cashews',
    'Dogpile': 'dogpile.cache',
}


def _there(kinds):
    """Return those whose package is installed."""
    return {
        name: kind
        for name, kind in kinds.items()
        if packages.missing(PACKAGES.get(kind)) is None
    }


EXPIRY = _there(KINDS)
HITS = {
    '64 callers': (_there(AWAITED), CALLERS),
    '1 caller': (_there(AWAITED), 1),
    '1 thread': (_there(BLOCKING), 1),
}
CELLS = [{'what': what} for what in ('expiry', *HITS)]
# Turns of a contender for each second of the pace, and seconds of a turn.
TURNS = 50
TURN = 0.04


def measure(bench, cells):
    for number in range(bench.pace.rounds):
        for cell in cells:
            what = cell['what']
            bench.progress(NAME, {**cell, 'round': number})
            if what == 'expiry':
                for name, kind in EXPIRY.items():
                    _record(bench, what, name, number, _expiry(kind))
                continue
            kinds, callers = HITS[what]
            figures = _hits(kinds, callers, bench.pace.seconds * TURNS)
            for name in kinds:
                _record(
                    bench,
                    what,
                    name,
                    number,
                    figures if 'error' in figures else figures[name],
                )


def _record(bench, what, name, number, figures):
    bench.results.add(NAME, {'what': what}, name, number, figures)


def _expiry(kind):
    """Let a value expire under all the callers, and see who computes it."""
    with servers.memcached() as port:
        task = {
            'kind': kind,
            'port': port,
            'compute': COMPUTE,
            'callers': CALLERS,
            'seconds': SECONDS,
        }
        # One process stores the value, whose time passes then; a cache in its
        # own memory has to be filled in each.
        each = stampede.SHORT if kind == 'Cashews' else 0
        return _together(
            [
                task | {'fill': each if number else stampede.SHORT}
                for number in range(PROCESSES)
            ],
            # memcached counts whole seconds.
            pause=stampede.SHORT + 1.2,
        )


def _hits(kinds, callers, turns):
    with servers.memcached() as port:
        task = {
            'kinds': kinds,
            'port': port,
            'callers': callers,
            'turns': int(turns),
            'seconds': TURN,
        }
        figures = _answers([task], pause=0)
        return figures if 'error' in figures else figures['answers'][0]


def _together(tasks, pause):
    """Have a process do each task, all at the same time, and sum up."""
    figures = _answers(tasks, pause)
    if 'error' in figures:
        return figures
    answers = figures['answers']
    return {
        'computations': sum(each['computations'] for each in answers),
        'errors': sum(each['errors'] for each in answers),
        **{
            figure: max(each[figure] for each in answers)
            for figure in ('p50', 'p99', 'longest')
        },
    }


def _answers(tasks, pause):
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_process(json.dumps(task))) for task in tasks
        ]
        watch = threading.Timer(PATIENCE, _kill, [processes])
        watch.start()
        stack.callback(watch.cancel)
        lines = [process.stdout.readline() for process in processes]
        if any(line != 'ready\n' for line in lines):
            return {'error': _reason(processes)}
        time.sleep(pause)
        begin = time.monotonic() + NOTICE
        for process in processes:
            process.stdin.write(f'{begin}\n')
            process.stdin.flush()
        lines = [process.stdout.readline() for process in processes]
        if not all(lines):
            return {'error': _reason(processes)}
        return {'answers': [json.loads(line) for line in lines]}


@contextlib.contextmanager
def _process(task):
    with tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.stampede'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        process.errors = errors
        try:
            process.stdin.write(f'{task}\n')
            process.stdin.flush()
            yield process
        finally:
            process.kill()
            process.communicate()


def _kill(processes):
    for process in processes:
        process.kill()


def _reason(processes):
    """Return the last line of what one that failed said."""
    for process in processes:
        process.errors.seek(0)
        lines = process.errors.read().strip().splitlines()
        if lines:
            return lines[-1]
    return 'it did not end'


def report(results):
    return [_expiries(results), *(_times(results, what) for what in HITS)]


def _expiries(results):
    cell = {'what': 'expiry'}

    def medians(contender, figures):
        return [
            results.median(NAME, cell, contender, figure) for figure in figures
        ]

    return tables.Table(
        'A key expires under 8 processes of 64 callers; it takes'
        f' {COMPUTE * 1000:.0f} ms to compute',
        ['', 'computations', 'errors', 'longest wait, ms', 'p50, ms'],
        [
            [
                contender,
                *(
                    tables.MISSING if each is None else f'{each:.0f}'
                    for each in medians(contender, ['computations', 'errors'])
                ),
                *(
                    tables.number(each, 1e3)
                    for each in medians(contender, ['longest', 'p50'])
                ),
            ]
            for contender in results.contenders(NAME, cell)
        ],
    )


def _times(results, what):
    cell = {'what': what}
    return tables.Table(
        f'Time of a hit, us: {what}',
        ['', 'p50', "to get's", 'p99', "to get's"],
        [
            [
                contender,
                *(
                    text
                    for figure in ('p50', 'p99')
                    for text in (
                        tables.number(
                            results.median(NAME, cell, contender, figure), 1e6
                        ),
                        tables.number(
                            _to_get(results, cell, contender, figure)
                        ),
                    )
                ),
            ]
            for contender in results.contenders(NAME, cell)
        ],
    )


def hits(results):
    """Return the table of what a hit takes, to a plain get, of 64 callers.

    :rtype: tables.Table
    """
    cell = {'what': '64 callers'}
    return tables.Table(
        "Time of a hit, to get's",
        ['', 'p50', 'p99'],
        [
            [
                contender,
                *(
                    tables.number(_to_get(results, cell, contender, figure))
                    for figure in ('p50', 'p99')
                ),
            ]
            for contender in results.contenders(NAME, cell)
        ],
    )


def _to_get(results, cell, contender, figure):
    own, of_get = (
        results.median(NAME, cell, who, figure) for who in (contender, 'get')
    )
    return own / of_get if own and of_get else None
