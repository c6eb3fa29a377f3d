"""Virtual environments that are made once and used until they are stale."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil

import commands
import system

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / '.venvs'
REQUIREMENTS = ROOT / 'requirements'

# What tests use if it is there, and what it is built with.
OPTIONAL = 'metrics.txt'
OLD = 'old.txt'
# What they use where there is a wheel of it.
WHEELS = 'wheels.txt'
# What an environment has not, in its folder.
MISSING = 'missing'
TESTS = ('testing.txt', 'development.txt')


class Unavailable(commands.Error):
    """Something that an environment is made of, besides the checkout."""


def provide(name, python, requirements, *constraints):
    """Make an environment with this checkout in it, unless it is there.

    The checkout is installed so that changes to it are seen at once.

    :param str name: what to call it
    :param pythons.Python python: the Python to make it with
    :param str requirements: the file in ``requirements`` to install
    :param str constraints: further requirements that narrow the choice
    :returns: the folder of its programs
    :rtype: pathlib.Path
    :raises Unavailable: if something cannot be had that belongs there
    :raises commands.Error: if the checkout cannot be installed in it

    """
    folder = ENVIRONMENTS / name
    stamp = folder / 'stamp'
    expected = _stamp(python, requirements, constraints)
    ENVIRONMENTS.mkdir(exist_ok=True)
    with locked(ENVIRONMENTS / f'{name}.lock'):
        if _read(stamp) == expected and _works(folder):
            return folder / 'bin'
        pip = [
            folder / 'bin' / 'python',
            *('-m', 'pip', '--disable-pip-version-check', '--no-input'),
            *('install', '--quiet'),
        ]
        try:
            system.provide(system.environments_of(python))
            shutil.rmtree(folder, ignore_errors=True)
            commands.run([python.path, '-m', 'venv', folder])
            missing = _provide_requirements(pip, requirements, constraints)
        except commands.Error as error:
            raise Unavailable(str(error)) from error
        (folder / MISSING).write_text('\n'.join(missing), 'utf-8')
        # Building writes into the checkout, so one at a time.
        with locked(ENVIRONMENTS / 'checkout.lock'):
            commands.run([*pip, '--no-deps', '--editable', ROOT])
        stamp.write_text(expected, 'utf-8')
    return folder / 'bin'


def missing(name):
    """Return the requirements whose tests are skipped in an environment.

    :param str name: what it is called
    :rtype: list(str)

    """
    return (_read(ENVIRONMENTS / name / MISSING) or '').splitlines()


def _provide_requirements(pip, requirements, constraints):
    """Return what could not be installed, and is done without."""
    missing = []
    if requirements in TESTS:
        # It cannot be built next to others of its family.
        missing += _provide_optional([*pip, '--no-deps'])
    files = []
    for file in dict.fromkeys(['installation.txt', requirements]):
        files += ['--requirement', REQUIREMENTS / file]
    commands.run([*pip, *files, *constraints])
    if requirements in TESTS:
        missing += _provide_wheels(pip)
    return missing


def _provide_optional(pip):
    """Return what could not be installed."""
    old = {
        variable: os.fspath(REQUIREMENTS / OLD)
        # Newer versions of pip have the second for what they build with.
        for variable in ('PIP_CONSTRAINT', 'PIP_BUILD_CONSTRAINT')
    }
    try:
        commands.run(
            [*pip, '--use-pep517', '--requirement', REQUIREMENTS / OPTIONAL],
            env=old,
        )
    except commands.Error as error:
        print(f'{error}\nThe tests that need it are skipped.', flush=True)
        return _lines(OPTIONAL)
    return []


def _provide_wheels(pip):
    """Return what there is no wheel of."""
    missing = []
    for line in _lines(WHEELS):
        try:
            commands.run([*pip, '--only-binary', ':all:', line])
        except commands.Error as error:
            print(f'{error}\nTests that need {line} are skipped.', flush=True)
            missing.append(line)
    return missing


def _lines(name):
    """Return the requirements of a file."""
    text = (REQUIREMENTS / name).read_text('utf-8')
    return [line for line in text.splitlines() if not line.startswith('#')]


def _stamp(python, requirements, constraints):
    """Return a text that changes with whatever is in an environment."""
    digest = hashlib.sha256()
    for part in (ROOT, python, requirements, *constraints):
        digest.update(repr(part).encode())
    version = re.search(
        r'(?m)^__version__.*$',
        (ROOT / 'sprockets/clients/memcached/__init__.py').read_text('utf-8'),
    )
    digest.update(version[0].encode() if version else b'')
    for path in [
        ROOT / 'setup.py',
        *_files('installation.txt'),
        *_files(requirements),
        *(map(REQUIREMENTS.joinpath, (OPTIONAL, OLD, WHEELS))),
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(name):
    """Yield a file of requirements and those that it includes."""
    path = REQUIREMENTS / name
    yield path
    for included in re.findall(r'(?m)^-r (\S+)', path.read_text('utf-8')):
        yield from _files(included)


def _read(path):
    try:
        return path.read_text('utf-8')
    except FileNotFoundError:
        return None


def _works(folder):
    # A link to a Python that has been removed is no longer executable.
    return os.access(folder / 'bin' / 'python', os.X_OK)


@contextlib.contextmanager
def locked(path):
    """Let one process at a time do what a file stands for.

    :param pathlib.Path path: the file
    :returns: a context manager

    """
    with path.open('w', encoding='utf-8') as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                commands.pause(0.2)
            else:
                break
        yield
