"""A value that takes long to compute, expires, and is wanted by many."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks import servers, stampede, tables

NAME = 'stampede'
TITLE = 'A hot key: it expires under 8 processes of 64 callers; its hits'

PROCESSES = 8
CALLERS = 64
# Seconds that a computation takes, and that callers go on reading.
COMPUTE = 0.2
SECONDS = 1.0
# Seconds from the word to the beginning.
NOTICE = 0.3
PATIENCE = 60

EXPIRY = {
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
HITS = {
    '64 callers': (AWAITED, CALLERS),
    '1 caller': (AWAITED, 1),
    '1 thread': (BLOCKING, 1),
}
# Turns of a contender for each second of the pace, and seconds of a turn.
TURNS = 50
TURN = 0.04
WORSE = 1.1


def measure(bench):
    for number in range(bench.pace.rounds):
        bench.progress(NAME, {'what': 'expiry', 'round': number})
        for name, kind in EXPIRY.items():
            _record(bench, 'expiry', name, number, _expiry(kind))
        for what, (kinds, callers) in HITS.items():
            bench.progress(NAME, {'hits of': what, 'round': number})
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
    def medians(what, contender, figures):
        return [
            results.median(NAME, {'what': what}, contender, figure)
            for figure in figures
        ]

    expiry = [
        [
            contender,
            *('-' if each is None else f'{each:.0f}' for each in counts),
            *(tables.number(each, 1e3) for each in waits),
        ]
        for contender in EXPIRY
        for counts, waits in [
            (
                medians('expiry', contender, ['computations', 'errors']),
                medians('expiry', contender, ['longest', 'p50']),
            )
        ]
    ]
    shown = [
        tables.table(
            'A key expires under 8 processes of 64 callers; it takes'
            f' {COMPUTE * 1000:.0f} ms to compute',
            ['', 'computations', 'errors', 'longest wait, ms', 'p50, ms'],
            expiry,
        )
    ]
    for what, (kinds, _) in HITS.items():
        shown.append(
            tables.table(
                f'Time of a hit, us: {what}',
                ['', 'p50', "to get's", 'p99', "to get's"],
                [
                    [
                        contender,
                        tables.number(p50, 1e6),
                        tables.number(
                            _to_get(results, what, contender, 'p50')
                        ),
                        tables.number(p99, 1e6),
                        tables.number(
                            _to_get(results, what, contender, 'p99')
                        ),
                    ]
                    for contender in kinds
                    for p50, p99 in [medians(what, contender, ['p50', 'p99'])]
                ],
            )
        )
    return shown, _targets(results)


def _to_get(results, what, contender, figure):
    return results.ratio(NAME, {'what': what}, contender, ['get'], figure)


def _targets(results):
    def expiry(contender, figure):
        return results.median(NAME, {'what': 'expiry'}, contender, figure)

    longest = expiry('get_or_set, stale', 'longest')
    return [
        tables.Target(
            f'{contender}: computations when a key expires',
            expiry(contender, 'computations'),
            '<=',
            1,
        )
        for contender in (
            'get_or_set',
            'get_or_set, stale',
            'cached',
            'get_or_set, threads',
        )
    ] + [
        tables.Target(
            'get_or_set, stale: the longest wait when a key expires',
            None if longest is None else longest * 1e3,
            '<=',
            COMPUTE * 1e3,
            'ms',
        ),
        *[
            tables.Target(
                f"{what}: p99 of a hit of {contender}, to get's",
                _to_get(results, what, contender, 'p99'),
                '<=',
                WORSE,
            )
            for what in HITS
            for contender in ('get_or_set', 'cached')
        ],
    ]
