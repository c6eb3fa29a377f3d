"""Checks the whole project: lint, types, docs, and tests on every Python."""

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shlex
import time

import commands
import debian
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
KINDS = (*TOOLS, 'tests', 'loops')
# Tests wait more than they work, so that a core has time for several.
PROCESSES = min(4 * (os.cpu_count() or 1), 16)
PYTEST = (
    'pytest',
    *('--numprocesses', str(PROCESSES)),
    # Each takes the next test when it is done with one.
    *('--maxschedchunk', '1'),
)

# The loops besides asyncio's own in which the awaitable client is tested, and
# what is tested there: what the loop does itself, and what is promised.
LOOPS = ('uvloop', 'debug', 'eager')
OF_LOOPS = tuple(
    os.path.join('tests', f'test_{name}.py')
    for name in (
        'aio',
        'behaviour_data',
        'behaviour_failure',
        'behaviour_loss',
        'closing',
        'cluster',
        'connections',
        'deadlines',
        'encoding_in_turns',
        'executors',
        'factories_end',
        'factories_within',
        'failing_factories',
        'heavy_values',
        'lanes',
        'leases',
        'loops',
        'tls',
        'trials',
        'values_as_read',
        'waiting',
        'whose_fault',
        'wire_faults',
    )
)

# What is tested with the oldest Tornado: whatever comes to Tornado, here or in
# a process that it starts.  The other tests would be those of the same Python
# with a newer one.
OF_TORNADO = tuple(
    os.path.join('tests', f'test_{name}.py')
    for name in (
        'benchmarks',
        'bounds',
        'cached_clients',
        'cached_response',
        'cached_table',
        'client',
        'decorator',
        'demo',
        'docs',
        'errors',
        'events',
        'example_articles',
        'example_cart',
        'example_notebooks',
        'example_pages',
        'example_rate_limit',
        'example_sessions',
        'examples',
        'figures',
        'fuzz',
        'handlers',
        'loops',
        'many_servers',
        'memo',
        'memory',
        'metrics',
        'notices',
        'package',
        'parts',
        'production',
        'prometheus',
        'readme',
        'secrets',
        'soak',
        'status',
        'status_page',
        'stopping',
        'tally',
        'testing',
        'tracing',
        'tutorial',
    )
)

# All the processes of the tests would compile all modules anew.
BYTECODE = {'PYTHONDONTWRITEBYTECODE': ''}

ABILITIES = os.path.join('tests', 'abilities.py')
ADDRESS = re.compile(r'unix:/.+|(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}')

# The oldest that is supported.
TORNADO = 'tornado==6.5.*'

DESCRIPTION = """\
Check the whole project: lint, types, the docs build, and the tests on every
CPython from 3.11 up that is in the PATH or among pyenv's; on the oldest of
them what uses Tornado once more, with the oldest Tornado that is supported;
and on the newest what the awaitable client does in the loops of uvloop, in
asyncio's debug mode and with eager tasks. What that needs is installed first,
in the folder .venvs of the checkout, and used again the next time: to make it
anew, remove that folder."""

BRING = """\
bring the Pythons that this machine has not, and the newest memcached with its
proxy, twemproxy and yrmcds, from Debian's packages into the folder .debian of
the checkout, and test on these too: what is brought is tested with what is
brought, and so is the newest Python. It takes apt and no root. What cannot be
had is told of in the summary, and the rest goes on"""

SERVER = """\
test nothing but what works with the server at this address, whatever it is,
and print it as a table"""


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that steps run in."""

    name: str
    python: pythons.Python
    requirements: str
    constraints: tuple = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """Commands that check one thing, in one environment.

    ``brought`` says whether they find the servers that were brought before
    those of the machine.
    """

    name: str
    environment: Environment
    commands: tuple
    brought: bool = False


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
        metavar='KINDS',
        help=(
            f'only these, separated by commas: {",".join(KINDS)}; loops, what'
            ' the awaitable client does in other event loops than asyncio has'
            ' by default, are left out where there are arguments of pytest'
        ),
    )
    parser.add_argument('--bring', action='store_true', help=BRING)
    parser.add_argument('--server', metavar='HOST:PORT', help=SERVER)
    parser.add_argument(
        '--flush',
        action='store_true',
        help='with --server: see whether it can be emptied, which empties it',
    )
    parser.add_argument('pytest', nargs='*', help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.only:
        parsed.only = parsed.only.split(',')
    else:
        # There may be no test among those of the loops that is asked for.
        parsed.only = [k for k in KINDS if k != 'loops' or not parsed.pytest]
    for kind in parsed.only:
        if kind not in KINDS:
            parser.error(f'--only: {kind!r} is none of {", ".join(KINDS)}')
    if parsed.server and not ADDRESS.fullmatch(parsed.server):
        parser.error(
            f'--server: {parsed.server!r} is no address: HOST:PORT is, such'
            ' as 127.0.0.1:11211 or [::1]:11211, and unix:/path'
        )
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


def plan(options, own, brought):
    """Return the steps to take.

    :param argparse.Namespace options: what the command line asks for
    :param list own: the Pythons of the machine
    :param debian.Brought brought: what was brought
    :rtype: list(Step)
    :raises commands.Error: if a Python asked for is not here

    """
    found = pythons.find(brought.pythons) if brought.pythons else own
    if not found:
        oldest = '{}.{}'.format(*pythons.OLDEST)
        raise commands.Error(f'no CPython here that is {oldest} or newer')
    tested = chosen(found, options.python)
    # The tools run on the newest of the machine, whatever is tested.
    newest = (own or found)[-1]
    by_python = {
        python: Environment(
            python.name,
            python,
            'development.txt' if python == newest else 'testing.txt',
        )
        for python in found
    }
    tools = by_python[newest]
    if options.server:
        arguments = ['--flush'] * options.flush
        command = ('python', ABILITIES, options.server, *arguments)
        return [Step(f'what works with {options.server}', tools, (command,))]
    steps = [
        Step(kind, tools, TOOLS[kind])
        for kind in options.only
        if kind in TOOLS
    ]
    if 'tests' in options.only:
        steps += tests_on(tested, found[0], by_python, brought, options)
    if 'loops' in options.only:
        # The tests of the blocking client are left out, which has no loop.
        python = tested[-1]
        version = '.'.join(map(str, python.version))
        steps += [
            Step(
                f'tests on Python {version} in other loops: {kind}',
                by_python[python],
                ((*PYTEST, '--loop', kind, *OF_LOOPS, *options.pytest),),
                bool(brought.programs),
            )
            for kind in LOOPS
        ]
    return steps


def tests_on(tested, oldest, by_python, brought, options):
    """Return the steps that run tests in asyncio's own loop.

    :param list tested: the Pythons to test on
    :param pythons.Python oldest: what the oldest Tornado is tested on too
    :param dict by_python: the environment of each
    :param debian.Brought brought: what was brought
    :param argparse.Namespace options: what the command line asks for
    :rtype: list(Step)

    """
    steps = []
    # The installation is tested once, for it takes long.
    once = (*PYTEST, '-m', 'not installation', *options.pytest)
    if not options.python:
        environment = Environment(
            f'{oldest.name}-oldest', oldest, 'testing.txt', (TORNADO,)
        )
        name = f'tests on Python {oldest.name} with {TORNADO}'
        # There may be no test among these that is asked for.
        files = () if options.pytest else OF_TORNADO
        steps.append(Step(name, environment, ((*once, *files),)))
    for python in tested:
        last = python == tested[-1]
        on_brought = bool(brought.programs) and (
            last or python.path in brought.pythons
        )
        version = '.'.join(map(str, python.version))
        steps.append(
            Step(
                f'tests on Python {version} with {memcached(on_brought)}',
                by_python[python],
                ((*PYTEST, *options.pytest) if last else once,),
                on_brought,
            )
        )
    return steps


def path(on_brought):
    """Return the ``PATH`` of a step, with what was brought or without.

    :param bool on_brought: whether what was brought comes first
    :rtype: str

    """
    own = os.environ.get('PATH', os.defpath)
    return f'{debian.PROGRAMS}{os.pathsep}{own}' if on_brought else own


def memcached(on_brought):
    """Return the name and the version of the memcached that tests find.

    :param bool on_brought: whether what was brought comes first
    :rtype: str

    """
    program = system.find('memcached', path(on_brought))
    return commands.run([program, '-V'], timeout=20).strip()


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


def set_up(options, own, brought):
    """Make the environments of the steps.

    A Python that was brought is done without where no environment can be
    made of it, unless it was asked for.

    :param argparse.Namespace options: what the command line asks for
    :param list own: the Pythons of the machine
    :param debian.Brought brought: what was brought
    :returns: the steps; by environment, the folder of its programs, or what
        went wrong; and what was brought and is of use
    :rtype: tuple(list(Step), dict, debian.Brought)

    """
    programs = {}
    while True:
        steps = plan(options, own, brought)
        needed = dict.fromkeys(step.environment for step in steps)
        new = [each for each in needed if each not in programs]
        if new:
            names = ', '.join(each.name for each in new)
            print(f'== setup: {names}', flush=True)
            programs |= provide(new)
        lost = {
            environment.python.path: programs[environment]
            for environment in needed
            if environment.python.path in brought.pythons
            and isinstance(programs[environment], environments.Unavailable)
        }
        if options.python or not lost:
            return steps, programs, brought
        for path, error in lost.items():
            print(f'Going on without {path}: {error}', flush=True)
            brought = brought.without(path, error)


def take(step, programs):
    """Take a step and return whether all its commands succeeded."""
    for command, *rest in step.commands:
        rest = [each.format(programs=programs) for each in rest]
        print(f'$ {shlex.join((command, *rest))}', flush=True)
        try:
            commands.run(
                [programs / command, *rest],
                cwd=environments.ROOT,
                env={**BYTECODE, 'PATH': path(step.brought)},
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
    own = pythons.find()
    brought = debian.Brought((), ())
    if options.bring:
        print("== what Debian's releases have", flush=True)
        brought = debian.bring(own)
    if {'tests', 'loops'} & set(options.only) and not options.server:
        system.provide(system.MEMCACHED)
        system.provide(system.NUTCRACKER)
        system.provide(system.CHROMIUM)
    for package in system.PYLIBMC:
        system.provide(package)
    steps, programs, brought = set_up(options, own, brought)
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
    for program in brought.programs:
        print(f'{"brought":19}{program}')
    for reason in brought.missing:
        print(f'{"not to be had":19}{reason}')
    for environment in dict.fromkeys(step.environment for step in steps):
        for requirement in environments.missing(environment.name):
            print(
                f'{"not to be had":19}{requirement} in {environment.name}, and'
                ' so the tests that need it are skipped'
            )
    for name, succeeded, seconds in summary:
        print(f'{"ok" if succeeded else "FAILED":8}{seconds:6.1f} s  {name}')
    return 0 if good else 1


if __name__ == '__main__':
    commands.main(main)
