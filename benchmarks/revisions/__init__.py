"""The package as it is here, and as it is in another revision of git's."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = pathlib.Path(__file__).resolve().parent

THIS = 'this'
"""What the checkout is called that this is run from."""

BASELINE = '1cd6e95'
"""The revision that the goals compare with."""


@dataclasses.dataclass(frozen=True)
class Revision:
    """Another revision of the package.

    :ivar str name: as it was given
    :ivar pathlib.Path place: the folder that the package is in
    :ivar bool is_baseline: whether it is the one that goals compare with
    """

    name: str
    place: pathlib.Path
    is_baseline: bool


def parser(name, description):
    """Return a parser of a command line, for a command that can compare.

    :rtype: argparse.ArgumentParser
    """
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument(
        '--against',
        metavar='REVISION',
        type=_commit,
        help='measure another revision too, in turns, and show both;'
        f' {BASELINE} is the one that the goals compare with',
    )
    made.add_argument(
        # benchmarks/start.py has seen to it.
        '--python',
        metavar='VERSION',
        help='the Python to measure with, such as 3.13; the newest that is'
        ' there if not given',
    )
    return made


def _commit(name):
    """Return a revision's name if git knows it, or complain."""
    try:
        _git('rev-parse', '--verify', '--quiet', f'{name}^{{commit}}')
    except (OSError, subprocess.CalledProcessError):
        raise argparse.ArgumentTypeError(
            f'{name}: git knows no such revision in {ROOT}'
        ) from None
    return name


@contextlib.contextmanager
def checked_out(against):
    """Give another revision, in a folder of its own.

    :param str against: a revision of git's, None for none
    :rtype: Revision | None
    """
    if against is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix='revision-') as folder:
        archive = pathlib.Path(folder, 'archive.zip')
        _git('archive', '--format=zip', '-o', archive, against, 'sprockets')
        place = pathlib.Path(folder, 'package')
        zipfile.ZipFile(archive).extractall(place)
        full = _git('rev-parse', f'{against}^{{commit}}')
        yield Revision(against, place, full.startswith(BASELINE))


@contextlib.contextmanager
def places(against):
    """Give the folders of what is compared, by what they are called.

    :param str against: a revision of git's, None for none
    :rtype: dict(str, pathlib.Path)
    """
    with checked_out(against) as revision:
        others = {} if revision is None else {revision.name: revision.place}
        yield {**others, THIS: ROOT}


def _git(*arguments):
    return subprocess.run(
        ['git', '-C', ROOT, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def run(place, *arguments, given='', under=(), timeout=None, **variables):
    """Run Python with the package of a place, and the benchmarks of here.

    :param pathlib.Path place: the folder that the package is in
    :param arguments: Python's
    :param str given: its standard input
    :param under: a command that is to run Python
    :param float timeout: seconds that it may take
    :param str variables: of its environment, besides those there are
    :returns: what it printed, and what it printed to standard error
    :rtype: tuple(str, str)
    :raises subprocess.TimeoutExpired: if it takes longer
    :raises RuntimeError: if it fails; the text is what it printed
    """
    done = subprocess.run(
        [*under, sys.executable, *map(str, arguments)],
        # Python looks there before anything else.
        cwd=place,
        env={**environ(place), **variables},
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            done.stderr.strip() or f'exited with {done.returncode}'
        )
    return done.stdout, done.stderr


def environ(place):
    """Return the variables of a process that uses the package of a place.

    :rtype: dict(str, str)
    """
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if 'MEMCACHED' not in name
        },
        'PYTHONPATH': os.pathsep.join(map(str, (place, ROOT))),
        'PYTHONDONTWRITEBYTECODE': '',
    }
