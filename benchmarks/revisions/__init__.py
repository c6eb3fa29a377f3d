"""Scripts that use public API alone, run on this checkout and on others."""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = pathlib.Path(__file__).resolve().parent

THIS = 'this'
"""What the checkout is called that this is run from."""


def parser(name, description):
    """Return a parser of a command line, for a command that can compare.

    :rtype: argparse.ArgumentParser
    """
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument(
        '--against',
        metavar='REVISION',
        help='do the same with another revision, and show both',
    )
    return made


@contextlib.contextmanager
def places(against):
    """Give the folders of what is compared, by what they are called.

    :param str against: a revision of git's, None for none
    :rtype: dict(str, pathlib.Path)
    """
    if against is None:
        yield {THIS: ROOT}
        return
    with tempfile.TemporaryDirectory(prefix='revision-') as folder:
        place = pathlib.Path(folder, 'checkout')
        _git('worktree', 'add', '--quiet', '--detach', place, against)
        try:
            yield {against: place, THIS: ROOT}
        finally:
            _git('worktree', 'remove', '--force', place)


def _git(*arguments):
    subprocess.run(['git', '-C', ROOT, *arguments], check=True)


def run(place, script, *arguments, under=(), timeout=None):
    """Run a script of this folder with the package of a checkout.

    :param pathlib.Path place: the checkout
    :param under: a command that is to run Python
    :param float timeout: seconds that it may take
    :returns: what it printed, and what it printed to standard error
    :rtype: tuple(str, str)
    :raises subprocess.TimeoutExpired: if it takes longer
    :raises RuntimeError: if it fails
    """
    done = subprocess.run(
        [*under, sys.executable, SCRIPTS / script, *map(str, arguments)],
        env={
            **{
                name: value
                for name, value in os.environ.items()
                if 'MEMCACHED' not in name
            },
            'PYTHONPATH': str(place),
            'PYTHONHASHSEED': '0',
            'PYTHONDONTWRITEBYTECODE': '',
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f'{script} failed:\n{done.stderr}')
    return done.stdout, done.stderr
