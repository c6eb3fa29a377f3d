"""Sets up an environment with all contenders and runs a module in it."""

import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'scripts'))

import commands  # noqa: E402
import environments  # noqa: E402
import pythons  # noqa: E402
import system  # noqa: E402

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
    needed = ONLY_FOR.get(sys.argv[1], ())
    for package in (system.MEMCACHED, *system.PYLIBMC, *needed):
        system.provide(package)
    print('Setting up .venvs/benchmarks ...', file=sys.stderr, flush=True)
    programs = environments.provide('benchmarks', _newest(), 'benchmarks.txt')
    module, *arguments = sys.argv[1:]
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


def _newest():
    """Return the newest Python that can make environments, if one can."""
    found = pythons.find() or [pythons.own()]
    return max(found, key=lambda each: (each.complete, each.version))


if __name__ == '__main__':
    commands.main(main)
