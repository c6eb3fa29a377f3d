"""Measures this library and others, and prints tables and what is reached.

``benchmarks/run`` sets everything up and then runs this.
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time

from benchmarks import (
    contenders,
    goals,
    packages,
    results,
    revisions,
    rounds,
    scenarios,
    servers,
    tables,
)

# A machine that does something else as well measures that too.
IDLE_LOAD = 0.7

COMPARED = [
    *dict.fromkeys(
        contender.package
        for contender in contenders.ALL
        if contender.package is not None
    ),
    *dict.fromkeys(scenarios.stampede.PACKAGES.values()),
    'uvloop',
]
"""Packages of others."""


def main(name, description, measured):
    """Return 0, or 1 if a contender failed.

    :param str name: of the command
    :param str description: what it does
    :param list measured: the scenarios that it measures
    """
    options = _parse(name, description, measured)
    for number in (signal.SIGHUP, signal.SIGTERM):
        # By an exception, which ends all that runs.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    cells = _wanted(measured, options.only)
    with revisions.checked_out(options.against) as revision:
        found = results.Results(
            _conditions('few and short' if options.quick else options.rounds),
            options.against,
            revision is not None and revision.is_baseline,
        )
        pace = (
            rounds.QUICK
            if options.quick
            else dataclasses.replace(rounds.FULL, rounds=options.rounds)
        )
        bench = rounds.Rounds(pace, found, revision)
        _print_conditions(found)
        for scenario in measured:
            if cells[scenario.NAME]:
                try:
                    _measure(scenario, bench, cells[scenario.NAME])
                finally:
                    # Whoever ends this keeps what there is.
                    if options.json:
                        found.save(options.json)
    _print_comparisons(found, measured)
    return 1 if any(found.errors(each.NAME) for each in measured) else 0


def _parse(name, description, measured):
    parser = revisions.parser(name, description)
    parser.add_argument(
        '--quick',
        action='store_true',
        help='few and short rounds: to see that it works, not to quote',
    )
    parser.add_argument(
        '--rounds',
        type=_positive,
        default=rounds.FULL.rounds,
        metavar='N',
        help='how many rounds there are, if not --quick; %(default)s if not'
        ' given',
    )
    parser.add_argument(
        '--only',
        metavar='PATTERN',
        default='',
        help='only rows that this regular expression is found in, such as'
        " 'uvloop, callers 8$'; --rows has them all",
    )
    parser.add_argument(
        '--rows',
        action='store_true',
        help='measure nothing, but list the rows that would be',
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the figures of every round'
    )
    options = parser.parse_args()
    try:
        wanted = _wanted(measured, options.only)
    except re.error as error:
        parser.error(f'--only {options.only}: no regular expression: {error}')
    if not any(wanted.values()):
        parser.error(
            f'--only {options.only}: it is found in no row; --rows alone'
            ' lists them'
        )
    if options.rows:
        for scenario, cells in wanted.items():
            for cell in cells:
                print(rounds.row(scenario, cell))
        parser.exit()
    return options


def _positive(text):
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r}; expected 1 or more')
    return int(text)


def _wanted(measured, pattern):
    """Return the rows that a pattern is found in, by scenario."""
    return {
        scenario.NAME: [
            cell
            for cell in scenario.CELLS
            if re.search(pattern, rounds.row(scenario.NAME, cell))
        ]
        for scenario in measured
    }


def _measure(scenario, bench, cells):
    """Measure rows of a scenario, and print what came of it."""
    begin = time.monotonic()
    print(f'{scenario.TITLE}\n{"=" * len(scenario.TITLE)}\n')
    scenario.measure(bench, cells)
    for table in scenario.report(bench.results):
        if table.rows:
            print(table)
    for contender, error in bench.results.errors(scenario.NAME):
        print(f'{contender} failed: {error}')
    seconds = time.monotonic() - begin
    print(f'({scenario.NAME}: {seconds:.0f} s)\n', flush=True)


def _print_conditions(found):
    print(
        tables.Table(
            'Measured on',
            ['part', 'version'],
            [list(each) for each in found.machine.items()],
        )
    )
    left_out = {name: packages.missing(name) for name in COMPARED}
    left_out['TLS'] = servers.without_tls()
    rows = [[name, reason] for name, reason in left_out.items() if reason]
    if rows:
        print(tables.Table('Left out', ['what', 'why'], rows))
    if os.getloadavg()[0] > IDLE_LOAD:
        print(
            f'The load of this machine is {os.getloadavg()[0]:.1f} before the'
            ' first round: something else runs, and the figures show it.\n'
        )


def _print_comparisons(found, measured):
    shown = [goals.table(found)]
    if found.against is not None:
        shown.append(goals.changes(found, measured))
    shown.append(goals.behind(found, measured))
    for table in shown:
        if table.rows:
            print(table)


def _conditions(how_often):
    """Return what things are measured on, and how often."""
    versions = {
        name: packages.version(name)
        for name in ('python-memcached', 'tornado', *COMPARED)
    }
    return {
        'cores': str(os.cpu_count()),
        'processor': _processor(),
        'system': f'{platform.system()} {platform.release()}',
        'Python': platform.python_version(),
        'memcached': _memcached(),
        'rounds': str(how_often),
        **{name: version for name, version in versions.items() if version},
    }


def _processor():
    described = pathlib.Path('/proc/cpuinfo')
    if described.exists():
        for line in described.read_text('utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor()


def _memcached():
    return subprocess.run(
        ['memcached', '-V'], capture_output=True, text=True, check=True
    ).stdout.split()[-1]


if __name__ == '__main__':
    sys.exit(
        main('benchmarks/run', __doc__.splitlines()[0], scenarios.IN_SECONDS)
    )
