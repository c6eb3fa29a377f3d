"""Sets up an environment with all contenders and runs a module in it."""

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'scripts')]

import commands  # noqa: E402
import environments  # noqa: E402
import pythons  # noqa: E402
import system  # noqa: E402

from benchmarks import packages  # noqa: E402

CONTENDERS = environments.REQUIREMENTS / 'contenders.txt'
STAMP = 'contenders-stamp'

WRK = system.Package(
    what='wrk',
    there=lambda: shutil.which('wrk') is not None,
    names=dict.fromkeys(('apk', 'apt-get', 'brew', 'pacman'), 'wrk'),
)
VALGRIND = system.Package(
    what='valgrind',
    there=lambda: shutil.which('valgrind') is not None,
    names=dict.fromkeys(
        ('apk', 'apt-get', 'dnf', 'pacman', 'yum', 'zypper'), 'valgrind'
    ),
)
ONLY_FOR = {
    'benchmarks.instructions': (VALGRIND,),
    'benchmarks.main': (WRK,),
    'benchmarks.stopping': (WRK,),
}
"""By module, what no other one needs."""


def main():
    module, *arguments = sys.argv[1:]
    options, arguments = _parser().parse_known_args(arguments)
    for package in (system.MEMCACHED, *ONLY_FOR.get(module, ())):
        system.provide(package)
    for package in system.PYLIBMC:
        # Without it the others are compared all the same.
        system.provide(dataclasses.replace(package, optional=True))
    python, name = _python(options.python)
    print(f'Setting up .venvs/{name} ...', file=sys.stderr, flush=True)
    programs = environments.provide(name, python, 'benchmarks.txt')
    with open(programs.parent / 'lock', 'w', encoding='utf-8') as lock:
        # Another command may have just begun to do the same.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _provide_contenders(programs)
    sys.stdout.flush()
    # Paths in the arguments stay what they are to the caller.
    path = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
    )
    python = str(programs / 'python')
    os.execve(
        python,
        # By its name, Python finds the environment that it belongs to.
        [python, '-m', module, *arguments],
        {**os.environ, 'PYTHONPATH': path},
    )


def _parser():
    # The module's own parser explains it, with its other options.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--python')
    return parser


def _python(wanted):
    """Return a Python and the name of its environment: the newest, or one.

    :param str wanted: a version such as ``3.13``; None for the newest that
        can make environments
    """
    found = pythons.find() or [pythons.own()]
    if wanted is None:
        newest = max(found, key=lambda each: (each.complete, each.version))
        return newest, 'benchmarks'
    for python in found:
        if python.name == wanted:
            return python, f'benchmarks-{wanted}'
    raise commands.Error(
        f'--python {wanted}: there is no such Python; there are '
        + ', '.join(each.name for each in found)
    )


def _provide_contenders(programs):
    """Install the others, each if it can be, and note why some cannot."""
    folder = programs.parent
    text = CONTENDERS.read_text('utf-8')
    stamp = hashlib.sha256(text.encode()).hexdigest()
    if (folder / STAMP).exists() and (folder / STAMP).read_text() == stamp:
        return
    pip = [
        *(programs / 'python', '-m', 'pip', '--disable-pip-version-check'),
        *('--no-input', 'install', '--quiet'),
    ]
    left_out = {}
    try:
        commands.run([*pip, '--requirement', CONTENDERS])
    except commands.Error:
        # One after the other, to see which it was.
        for requirement in re.findall(r'(?m)^[^#\s]\S*', text):
            try:
                commands.run([*pip, requirement])
            except commands.Error as error:
                name = re.match(r'[\w.-]+', requirement)[0]
                left_out[name] = _reason(str(error))
    (folder / packages.REPORT).write_text(json.dumps(left_out), 'utf-8')
    (folder / STAMP).write_text(stamp)


def _reason(printed):
    """Return the line that says why pip failed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith('error')]
    return (errors or lines)[-1]


if __name__ == '__main__':
    commands.main(main)
