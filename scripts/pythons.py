"""The Pythons of this machine."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import sys

import commands

OLDEST = (3, 11)
NEWEST = (3, 15)
"""The newest that is promised to work; a machine may have newer ones."""

PROBE = """
import importlib.util, json, sys
print(json.dumps([
    sys.implementation.name == 'cpython'
    and sys.version_info.releaselevel == 'final',
    importlib.util.find_spec('ensurepip') is not None,
    sys.version_info[:3],
    getattr(sys, '_base_executable', sys.executable),
]))
"""


@dataclasses.dataclass(frozen=True, order=True)
class Python:
    """An installed Python.

    ``release`` says whether it is a final release of CPython; ``complete``,
    whether it can make virtual environments: Debian's cannot until a further
    package is there.
    """

    release: bool
    complete: bool
    version: tuple
    path: str

    @property
    def name(self):
        """Return its version as people say it: ``3.13``."""
        return '{}.{}'.format(*self.version)


def find(others=()):
    """Return one CPython of each minor version from 3.11 up, oldest first.

    They are searched for in the PATH and among those of pyenv. What does
    not run, such as pyenv's shim for a version that is not chosen, is left
    out. Of several, the complete and newest one is taken.

    :param others: the paths of further ones
    :rtype: list(Python)

    """
    paths = dict.fromkeys([*_candidates(), *others])
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        found = executor.map(_probe, paths)
    known = sorted(each for each in found if each and each.release)
    best = {each.name: each for each in known if each.version >= OLDEST}
    return sorted(best.values(), key=lambda each: each.version)


def own():
    """Return the Python that runs this.

    :rtype: Python

    """
    return _probe(sys.executable)


def _candidates():
    for folder in os.get_exec_path():
        for path in sorted(pathlib.Path(folder).glob('python*')):
            if re.fullmatch(r'python3?|python3\.\d+', path.name):
                yield str(path)
    root = os.environ.get('PYENV_ROOT') or pathlib.Path.home() / '.pyenv'
    for path in sorted(pathlib.Path(root).glob('versions/*/bin/python')):
        yield str(path)


def _probe(path):
    try:
        answer = json.loads(commands.run([path, '-c', PROBE], timeout=20))
    except (commands.Error, ValueError):
        return None
    # The base executable, and not that of an environment which may be
    # the very one to make anew.
    release, complete, version, base = answer
    return Python(release, complete, tuple(version), os.path.realpath(base))
