"""Measures, prints tables and what is reached, and draws the charts.

``benchmarks/run`` sets everything up and then runs this.
"""

import argparse
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from importlib import metadata

from benchmarks import chart, results, rounds, scenarios, tables

PACKAGES = [
    'python-memcached',
    'aiomcache',
    'emcache',
    'pymemcache',
    'pylibmc',
    'tornado',
    'uvloop',
]
# A machine that does something else as well measures that too.
IDLE_LOAD = 0.7


def main():
    """Return 0, or 1 if a contender failed."""
    options = _parse(sys.argv[1:])
    for number in (signal.SIGHUP, signal.SIGTERM):
        # By an exception, which ends all that runs.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    measured = results.Results(_machine())
    bench = rounds.Rounds(
        rounds.QUICK if options.quick else rounds.FULL, measured
    )
    print(
        tables.table(
            'Measured on', ['part', 'version'], measured.machine.items()
        )
    )
    if os.getloadavg()[0] > IDLE_LOAD:
        print(
            f'The load of this machine is {os.getloadavg()[0]:.1f} before the'
            ' first round: something else runs, and the figures show it.\n'
        )
    reached = []
    for name in options.only:
        scenario = scenarios.ALL[name]
        begin = time.monotonic()
        scenario.measure(bench)
        shown, targets = scenario.report(measured)
        reached += targets
        _print_section(scenario.TITLE, shown, measured.errors(name))
        print(f'({name}: {time.monotonic() - begin:.0f} s)\n', flush=True)
        if options.json:
            measured.save(options.json)
    if reached:
        print(tables.targets(reached))
    if options.chart:
        chart.draw(measured, options.chart)
    return 1 if any(measured.errors(name) for name in options.only) else 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog='benchmarks/run', description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='few and short rounds: to see that it works, not to quote',
    )
    parser.add_argument(
        '--only',
        type=_names,
        default=list(scenarios.ALL),
        metavar='NAME,...',
        help=f'some of: {", ".join(scenarios.ALL)}',
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the figures of every round'
    )
    parser.add_argument(
        '--chart',
        metavar='FOLDER',
        help='draw the charts of the documentation there',
    )
    return parser.parse_args(arguments)


def _names(text):
    names = text.split(',')
    unknown = set(names) - set(scenarios.ALL)
    if unknown:
        raise argparse.ArgumentTypeError(
            f'{", ".join(sorted(unknown))}: not among'
            f' {", ".join(scenarios.ALL)}'
        )
    return names


def _machine():
    return {
        'cores': str(os.cpu_count()),
        'processor': _processor(),
        'system': f'{platform.system()} {platform.release()}',
        'Python': platform.python_version(),
        'memcached': _memcached(),
        **{name: _version(name) for name in PACKAGES},
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


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return tables.MISSING


def _print_section(title, shown, errors):
    print(f'{title}\n{"=" * len(title)}\n')
    for text in shown:
        print(text)
    for contender, error in errors:
        print(f'{contender} failed: {error}')


if __name__ == '__main__':
    sys.exit(main())
