"""The instructions of an awaited read, counted by valgrind's callgrind."""

import concurrent.futures
import contextlib
import json
import os
import re
import subprocess

from benchmarks import bounds, contenders, loops, revisions, servers, tables

NAME = 'instructions'
TITLE = 'Instructions of an awaited read'
FIGURES = ['instructions']

READS = {1: (100, 600), 64: (10, 90)}
"""By callers, how often each reads: once less and once more."""

CELLS = [
    {'loop': loop, 'callers': callers, 'over': over}
    for over in ('TCP', 'TLS')
    for loop in loops.ALL
    for callers in READS
    if over == 'TCP' or servers.without_tls() is None
]
OTHERS = ['emcache', 'emcache, batching']
CALLGRIND = (
    *('valgrind', '--tool=callgrind'),
    f'--callgrind-out-file={os.devnull}',
)
SECONDS = 900
FAILURES = (RuntimeError, subprocess.TimeoutExpired)


def measure(bench, cells):
    tls = any(cell['over'] == 'TLS' for cell in cells)
    with (
        servers.certificates() as files,
        servers.memcached() as plain,
        servers.memcached(files if tls else None) as secure,
    ):
        servers.fill(plain, [100])
        servers.fill(secure, [100], files.authority if tls else None)
        ends = {'TCP': (plain, None), 'TLS': (secure, files.authority)}
        # Other processes do not matter, so there may be some more.
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        try:
            for cell in cells:
                bench.progress(NAME, cell)
                tasks = _tasks(bench, cell, *ends[cell['over']])
                _measure(bench, pool, cell, tasks)
        finally:
            # Whoever ends this waits for none that has not begun.
            pool.shutdown(cancel_futures=True)


def _measure(bench, pool, cell, tasks):
    """Count what the tasks of a row take."""
    for task in tasks.values():
        # What is compiled and kept is compiled by this one.  Who fails is to
        # do so below.
        with contextlib.suppress(*FAILURES):
            _run(reads=1, **task)
    counts = {
        name: [
            {
                reads: pool.submit(_count, reads=reads, **task)
                for reads in READS[cell['callers']]
            }
            for _ in range(bench.pace.counts)
        ]
        for name, task in tasks.items()
    }
    for name, rounds in counts.items():
        figures = of_a_read(cell['callers'], rounds)
        bench.results.add(NAME, cell, name, 0, figures)


def _tasks(bench, cell, port, authority):
    """Return what to count, by contender."""
    names = [contenders.OURS, *OTHERS]
    if authority is None:
        names += bounds.ASYNCHRONOUS
    there = {**contenders.ASYNCHRONOUS, **bounds.ASYNCHRONOUS}
    return {
        name: {
            'name': name,
            'port': port,
            'authority': authority,
            'loop': cell['loop'],
            'callers': cell['callers'],
            **task,
        }
        for name, task in bench.with_revision(
            {name: {} for name in names if name in there}
        ).items()
    }


def of_a_read(callers, rounds):
    """Return the instructions of one read more.

    :param int callers: how many there are
    :param rounds: by reads of each caller, futures of what a process took
    :returns: the figures, or under ``'error'`` why there are none
    :rtype: dict
    """
    few, many = READS[callers]
    try:
        # What comes on top, such as a look that found nothing yet, is the
        # machine's.
        less, more = (
            min(each[reads].result() for each in rounds)
            for reads in (few, many)
        )
    except FAILURES as error:
        return {'error': str(error).splitlines()[-1]}
    return {'instructions': (more - less) / ((many - few) * callers)}


def _count(**task):
    """Return how many instructions a process takes for some reads."""
    said = _run(under=CALLGRIND, **task)
    return int(re.search(r'Collected : (\d+)', said)[1])


def _run(*, name, port, loop, place=revisions.ROOT, under=(), **parameters):
    """Return what a process that reads prints to standard error."""
    task = {
        'kind': 'asynchronous',
        'loop': loop,
        'contender': name,
        'options': {},
        'load': 'counted',
        'addresses': [('127.0.0.1', port)],
        'counting': False,
        'seconds': 0,
        'warm_up': 0,
        **parameters,
    }
    _, said = revisions.run(
        place,
        *('-m', 'benchmarks.worker'),
        given=json.dumps(task),
        under=under,
        timeout=SECONDS,
        PYTHONHASHSEED='0',
    )
    return said


def report(results):
    return [side_by_side(results, over) for over in ('TCP', 'TLS')]


def side_by_side(results, over):
    """Return the table of the instructions of a read.

    :param str over: TCP or TLS
    :rtype: tables.Table
    """
    cells = [cell for cell in results.cells(NAME) if cell['over'] == over]
    medians = {
        contender: [
            results.median(NAME, cell, contender, 'instructions')
            for cell in cells
        ]
        for contender in results.contenders(NAME)
    }
    return tables.Table(
        f'{TITLE} over {over}, by loop and callers',
        ['', *(f'{cell["loop"]}, {cell["callers"]}' for cell in cells)],
        [
            [contender, *(tables.number(each) for each in values)]
            for contender, values in medians.items()
            if any(values)
        ],
    )
