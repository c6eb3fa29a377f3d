"""What an import of the package takes, over Python that imports nothing."""

import os
import subprocess
import sys
import time

from benchmarks import contenders, revisions, tables

NAME = 'imports'
TITLE = 'An import, over an empty start of Python'
FIGURES = ['start_cpu']

CELLS = [{'over': 'nothing'}]
OURS = 'from sprockets.clients import memcached'
OTHERS = {
    'tornado.web and memcache': 'import tornado.web, memcache',
    'tornado.web': 'import tornado.web',
    'asyncio': 'import asyncio',
}


def measure(bench, cells):
    def over_nothing(number, code, place=revisions.ROOT, name=None):
        try:
            # Once for what is compiled and kept.
            _start(code, place)
            pairs = [
                (_start('', place), _start(code, place))
                for _ in range(bench.pace.starts)
            ]
        except RuntimeError as error:
            return {'error': str(error)}
        return {
            figure: min(each[figure] for _, each in pairs)
            - min(each[figure] for each, _ in pairs)
            for figure in ('start_cpu', 'start_seconds')
        }

    tasks = {contenders.OURS: OURS, **OTHERS}
    for cell in cells:
        bench.each_in_turn(
            NAME,
            cell,
            bench.with_revision(
                {name: {'code': code} for name, code in tasks.items()}
            ),
            over_nothing,
        )


def _start(code, place):
    """Return what it takes to start Python and run some code."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=place, env=revisions.environ(place)
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f'{code} ended with {process.returncode}')
    return {
        'start_cpu': used.ru_utime + used.ru_stime,
        'start_seconds': seconds,
    }


def report(results):
    return [
        tables.by_contender(results, NAME, 'over', figure)
        for figure in ('start_cpu', 'start_seconds')
    ]
