"""Checks the whole project: lint, types, docs, and tests on every Python."""

import argparse
import concurrent.futures
import dataclasses
import os
import shlex
import time

import commands
import environments
import pythons
import system

TOOLS = {
    'lint': (
        ('ruff', 'check', '.'),
        ('ruff', 'format', '--check', '.'),
        ('lint-imports', '--no-cache', '--no-logo'),
    ),
    'types': (
        ('mypy',),
        ('mypy', 'tests/typed'),
        ('pyright', '--pythonpath', '{programs}/python', 'tests/typed'),
    ),
    'docs': (
        ('sphinx-build', '-nqW', '--keep-going', 'docs', 'docs/_build/html'),
    ),
}
KINDS = (*TOOLS, 'tests')
# Tests wait more than they work, so that a core has time for several.
PROCESSES = min(3 * (os.cpu_count() or 1), 16)
PYTEST = (
    'pytest',
    *('--numprocesses', str(PROCESSES)),
    # Each takes the next test when it is done with one.
    *('--maxschedchunk', '1'),
)

# All the processes of the tests would compile all modules anew.
BYTECODE = {'PYTHONDONTWRITEBYTECODE': ''}

# The oldest that is supported.
TORNADO = 'tornado==6.4.*'

DESCRIPTION = """\
Check the whole project: lint, types, the docs build, and the tests on every
CPython from 3.10 up that is in the PATH or among pyenv's, and once more on the
oldest of them with the oldest Tornado that is supported. What that needs is
installed first, in the folder .venvs of the checkout, and used again the next
time: to make it anew, remove that folder."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that steps run in."""

    name: str
    python: pythons.Python
    requirements: str
    constraints: tuple = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """Commands that check one thing, in one environment."""

    name: str
    environment: Environment
    commands: tuple


def arguments():
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog='scripts/test',
        usage='%(prog)s [options] [-- arguments of pytest]',
        description=DESCRIPTION,
    )
    parser.add_argument(
        '--python',
        action='append',
        metavar='VERSION',
        help='only this Python, such as 3.13; may be repeated',
    )
    parser.add_argument(
        '--only',
        default=','.join(KINDS),
        metavar='KINDS',
        help='only these, separated by commas: %(default)s',
    )
    parser.add_argument('pytest', nargs='*', help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    parsed.only = parsed.only.split(',')
    for kind in parsed.only:
        if kind not in KINDS:
            parser.error(f'--only: {kind!r} is none of {", ".join(KINDS)}')
    return parsed


def chosen(found, names):
    """Return the Pythons to test on.

    :param list found: those that are here
    :param list names: the versions asked for, or None for all
    :raises commands.Error: if one is not here

    """
    if not names:
        return found
    here = [python.name for python in found]
    for name in names:
        if name not in here:
            raise commands.Error(f'no Python {name} here: {", ".join(here)}')
    return [python for python in found if python.name in names]


def plan(options):
    """Return the steps to take.

    :param argparse.Namespace options: what the command line asks for
    :rtype: list(Step)
    :raises commands.Error: if a Python asked for is not here

    """
    found = pythons.find()
    tested = chosen(found, options.python)
    # The tools run on the newest, whatever is tested.
    by_python = {
        python: Environment(
            python.name,
            python,
            'development.txt' if python == found[-1] else 'testing.txt',
        )
        for python in found
    }
    tools = by_python[found[-1]]
    steps = [
        Step(kind, tools, TOOLS[kind])
        for kind in options.only
        if kind in TOOLS
    ]
    if 'tests' not in options.only:
        return steps
    # The installation is tested once, for it takes long.
    once = (*PYTEST, '-m', 'not installation', *options.pytest)
    if not options.python:
        oldest = Environment(
            f'{found[0].name}-oldest', found[0], 'testing.txt', (TORNADO,)
        )
        name = f'tests on Python {found[0].name} with {TORNADO}'
        steps.append(Step(name, oldest, (once,)))
    for python in tested:
        last = (*PYTEST, *options.pytest)
        steps.append(
            Step(
                f'tests on Python {python.name}',
                by_python[python],
                (last if python == tested[-1] else once,),
            )
        )
    return steps


def provide(needed):
    """Make the environments, two at a time.

    :param list needed: the environments
    :returns: by environment, the folder of its programs, or what went wrong
    :rtype: dict

    """

    def make(environment):
        try:
            return environments.provide(
                environment.name,
                environment.python,
                environment.requirements,
                *environment.constraints,
            )
        except commands.Error as error:
            return error

    executor = concurrent.futures.ThreadPoolExecutor(2)
    try:
        return dict(zip(needed, executor.map(make, needed), strict=True))
    except BaseException:
        commands.stop()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def take(step, programs):
    """Take a step and return whether all its commands succeeded."""
    for command, *rest in step.commands:
        rest = [each.format(programs=programs) for each in rest]
        print(f'$ {shlex.join((command, *rest))}', flush=True)
        try:
            commands.run(
                [programs / command, *rest],
                cwd=environments.ROOT,
                env=BYTECODE,
                show=True,
            )
        except commands.Error as error:
            print(error)
            return False
    return True


def main():
    """Do what the command line asks for, and return the exit status."""
    options = arguments()
    started = time.monotonic()
    steps = plan(options)
    if 'tests' in options.only:
        system.provide(system.MEMCACHED)
        system.provide(system.NUTCRACKER)
        system.provide(system.CHROMIUM)
    for package in system.PYLIBMC:
        system.provide(package)
    needed = list(dict.fromkeys(step.environment for step in steps))
    print(f'== setup: {", ".join(each.name for each in needed)}', flush=True)
    programs = provide(needed)
    summary = [('setup', True, time.monotonic() - started)]
    for step in steps:
        print(f'\n== {step.name}', flush=True)
        begun = time.monotonic()
        there = programs[step.environment]
        if isinstance(there, commands.Error):
            print(there)
            succeeded = False
        else:
            succeeded = take(step, there)
        summary.append((step.name, succeeded, time.monotonic() - begun))
    good = all(succeeded for _, succeeded, _ in summary)
    summary.append(('all', good, time.monotonic() - started))
    print('\n== summary')
    for name, succeeded, seconds in summary:
        print(f'{"ok" if succeeded else "FAILED":8}{seconds:6.1f} s  {name}')
    return 0 if good else 1


if __name__ == '__main__':
    commands.main(main)
