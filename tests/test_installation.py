"""The package installs next to its family, and its sdist is whole."""

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FAMILY = {
    'sprockets.http': 'sprockets.http.app',
    'sprockets.mixins.mediatype': 'sprockets.mixins.mediatype.content',
    'sprockets-influxdb': 'sprockets_influxdb',
    'sprockets-statsd': 'sprockets_statsd.tornado',
}

OURS = 'sprockets.clients.memcached'

IMPORT = """
import importlib, importlib.metadata, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from sprockets.clients import memcached
print(memcached.__file__)
print(importlib.metadata.version('sprockets.clients.memcached'))
print(memcached.__version__)
"""

# What running and building leave in a checkout.
NOT_OURS = (
    '*.egg-info',
    '*.py[cod]',
    '.*',
    '__pycache__',
    '_build',
    'build',
    'dist',
)

pytestmark = [pytest.mark.installation, pytest.mark.timeout(600)]


def run(*arguments, cwd=None):
    """Run a command that must succeed and return what it printed."""
    # The interpreter under test imports what is installed, nothing else.
    environment = os.environ.copy()
    environment.pop('PYTHONPATH', None)
    finished = subprocess.run(
        arguments,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the checkout, for building writes into it."""
    copy = tmp_path_factory.mktemp('copy') / 'checkout'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_OURS))
    return copy


def made_once(factory, name, make):
    """Return a folder that the first of the processes which test has made.

    :param factory: ``tmp_path_factory``
    :param str name: what to call the folder
    :param make: what fills a folder, which it is given

    """
    place = factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        place = place.parent
    folder = place / name
    with open(place / f'{name}.lock', 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = pathlib.Path(tempfile.mkdtemp(dir=place))
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope='module')
def sdist(checkout, tmp_path_factory):
    """The sdist."""
    build = (sys.executable, '-m', 'build', '--sdist', '--outdir')
    folder = made_once(
        tmp_path_factory,
        'sdist',
        lambda folder: run(*build, folder, cwd=checkout),
    )
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope='module')
def unpacked(sdist, tmp_path_factory):
    """The folder that the sdist unpacks to."""
    folder = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
    [unpacked] = folder.iterdir()
    return unpacked


@pytest.fixture(scope='module')
def wheels(sdist, tmp_path_factory):
    """A folder of wheels: ours from the sdist, the family, what they need."""
    # setuptools is for the editable installation.
    what = (sdist, 'setuptools', *FAMILY)
    return made_once(
        tmp_path_factory,
        'wheels',
        lambda folder: pip('wheel', '--wheel-dir', folder, *what),
    )


def pip(*arguments, python=sys.executable):
    """Run pip for an environment, which needs none of its own."""
    run(
        *(sys.executable, '-m', 'pip', '--disable-pip-version-check'),
        *('--python', python, *arguments),
    )


def files(folder):
    """Return the paths of a folder's files, without what running leaves."""
    ignored = shutil.ignore_patterns(*NOT_OURS)
    found = set()
    for path, folders, names in os.walk(folder):
        folders[:] = set(folders) - ignored(path, folders)
        found |= {
            pathlib.Path(path, name).relative_to(folder).as_posix()
            for name in set(names) - ignored(path, names)
        }
    return found


@pytest.mark.parametrize(
    'part',
    [
        'benchmarks',
        'docs',
        'examples',
        'requirements',
        'scripts',
        'sprockets',
        'tests',
    ],
)
def test_sdist_is_whole(checkout, unpacked, part):
    """Whoever has the sdist can run the tests and build the docs."""
    assert files(checkout / part)
    assert files(unpacked / part) == files(checkout / part)


def test_sdist_keeps_scripts_executable(unpacked):
    """scripts/test can be run right after unpacking."""
    assert os.access(unpacked / 'scripts' / 'test', os.X_OK)


@pytest.mark.parametrize('order', ['before', 'after'])
@pytest.mark.parametrize('way', ['wheel', 'editable'])
def test_next_to_the_family(wheels, unpacked, tmp_path, way, order):
    """In one process ours and the family's import, in any order."""
    environment = tmp_path / 'environment'
    venv.create(environment, symlinks=True)
    python = environment / 'bin' / 'python'
    ours = ['--editable', str(unpacked)] if way == 'editable' else [OURS]
    for what in [ours, FAMILY] if order == 'before' else [FAMILY, ours]:
        pip(
            *('install', '--no-index', '--find-links', wheels, *what),
            python=python,
        )
    modules = [OURS, *FAMILY.values()]
    place = environment if way == 'wheel' else unpacked
    # -I leaves the path as the .pth files of the environment made it, and
    # -s does what running a script does: a folder is put before it.
    for option in ('-I', '-s'):
        for each in (modules, modules[::-1]):
            where, metadata, version = run(
                *(python, option, '-c', IMPORT, *each), cwd=tmp_path
            ).splitlines()
            assert pathlib.Path(where).is_relative_to(place)
            assert pathlib.Path(where).with_name('py.typed').exists()
            assert metadata == version
