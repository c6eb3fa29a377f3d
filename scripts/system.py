"""What comes from the system's package manager."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import typing

import commands


@dataclasses.dataclass(frozen=True)
class Package:
    """Something that pip cannot install.

    ``there`` says whether it is installed. ``names`` are what it is called
    by each package manager that has it. ``service`` is what the package
    starts on its own by some of them. What is ``optional`` is done without
    where no package manager has it, or it takes root that we have not.
    """

    what: str
    there: typing.Callable[[], bool]
    names: dict
    service: str | None = None
    optional: bool = False


def find(name, path):
    """Return where a program is, None if it is not installed.

    :param str name: the program
    :param str path: the folders to search, as in ``PATH``
    :rtype: str

    """
    # Some distributions put it where only root looks for programs.
    folders = [path, '/usr/local/sbin', '/usr/sbin']
    return shutil.which(name, path=os.pathsep.join(folders))


def program(name):
    """Return whether a program is installed.

    :param str name: the program
    :rtype: bool

    """
    return find(name, os.environ.get('PATH', os.defpath)) is not None


def header(name):
    """Return whether a header file of C's is installed.

    :param str name: the file
    :rtype: bool

    """
    return any(
        pathlib.Path(folder, name).exists()
        for folder in (
            '/usr/include',
            '/usr/local/include',
            '/opt/homebrew/include',
            '/Library/Developer/CommandLineTools/SDKs/MacOSX.sdk/usr/include',
        )
    )


def keyring():
    """Return the file with the keys of Debian's archive, None without one.

    :rtype: pathlib.Path

    """
    files = pathlib.Path('/usr/share/keyrings').glob(
        'debian-archive-keyring.[gp]*'
    )
    return next(iter(sorted(files)), None)


MEMCACHED = Package(
    what='memcached',
    there=lambda: program('memcached'),
    names=dict.fromkeys(
        ('apk', 'apt-get', 'brew', 'dnf', 'pacman', 'yum', 'zypper'),
        'memcached',
    ),
    service='memcached',
)
NUTCRACKER = Package(
    what='twemproxy',
    there=lambda: program('nutcracker'),
    names={'apt-get': 'nutcracker', 'brew': 'twemproxy'},
    service='nutcracker',
    optional=True,
)
# For a Python that pylibmc has no wheel for, it is compiled.
COMPILER = Package(
    what='a C compiler, for pylibmc,',
    there=lambda: program('cc'),
    names={
        'apk': 'build-base',
        'apt-get': 'build-essential',
        'dnf': 'gcc',
        'pacman': 'gcc',
        'yum': 'gcc',
        'zypper': 'gcc',
    },
)
LIBMEMCACHED = Package(
    what='libmemcached, for pylibmc,',
    there=lambda: header('libmemcached/memcached.h'),
    names={
        'apk': 'libmemcached-dev',
        'apt-get': 'libmemcached-dev',
        'brew': 'libmemcached',
        'dnf': 'libmemcached-devel',
        'pacman': 'libmemcached',
        'yum': 'libmemcached-devel',
        'zypper': 'libmemcached-devel',
    },
)
ZLIB = Package(
    what='zlib, for pylibmc,',
    there=lambda: header('zlib.h'),
    names={
        'apk': 'zlib-dev',
        'apt-get': 'zlib1g-dev',
        'brew': 'zlib',
        'dnf': 'zlib-devel',
        'pacman': 'zlib',
        'yum': 'zlib-devel',
        'zypper': 'zlib-devel',
    },
)
PYLIBMC = (COMPILER, LIBMEMCACHED, ZLIB)

CHROMIUM = Package(
    what='Chromium',
    there=lambda: any(
        map(program, ('chromium', 'chromium-browser', 'google-chrome'))
    ),
    names=dict.fromkeys(
        ('apk', 'apt-get', 'dnf', 'pacman', 'yum', 'zypper'), 'chromium'
    ),
    optional=True,
)
# apt has it that a release of Debian is what it says.
KEYRING = Package(
    what="the keys of Debian's archive",
    there=lambda: keyring() is not None,
    names={'apt-get': 'debian-archive-keyring'},
)


def environments_of(python):
    """Return what a Python needs to make virtual environments.

    :param pythons.Python python: the Python
    :rtype: Package

    """
    return Package(
        what=f'the venv module of Python {python.name}',
        # Where the package is there, so is ensurepip.
        there=lambda: _imports(python, 'ensurepip'),
        names={'apt-get': f'python{python.name}-venv'},
    )


# What installs packages without a question, by package manager. The first
# one that is there is used.
INSTALL = {
    'apt-get': [
        'env',
        'DEBIAN_FRONTEND=noninteractive',
        'apt-get',
        '-o',
        'DPkg::Lock::Timeout=120',
        'install',
        '--yes',
        '--quiet',
        '--no-install-recommends',
    ],
    'dnf': ['dnf', 'install', '--assumeyes', '--quiet'],
    'yum': ['yum', 'install', '--assumeyes', '--quiet'],
    'zypper': ['zypper', '--non-interactive', 'install'],
    'pacman': ['pacman', '--sync', '--noconfirm', '--needed'],
    'apk': ['apk', 'add'],
    'brew': ['brew', 'install', '--quiet'],
}

# What makes the lists of packages current, for those that don't by
# themselves.
UPDATE = {
    'apt-get': [
        'apt-get',
        '-o',
        'DPkg::Lock::Timeout=120',
        'update',
        '--quiet',
    ],
    'pacman': ['pacman', '--sync', '--refresh'],
    'apk': ['apk', 'update'],
}


def provide(package):
    """Install a package unless it is there.

    :param Package package: what is needed
    :raises commands.Error: if it is not there and cannot be installed

    """
    if package.there():
        return
    try:
        _provide(package)
    except commands.Error as error:
        if not package.optional:
            raise
        print(f'Going on without {package.what}: {error}', flush=True)


def _provide(package):
    manager = next((each for each in INSTALL if shutil.which(each)), None)
    name = package.names.get(manager)
    if name is None:
        raise commands.Error(
            f'{package.what} is needed and not installed, and no package'
            ' manager known here has it. Install it and run this again.'
        )
    by_hand = f'{manager} install {name}'
    root = [] if manager == 'brew' else _as_root(package, by_hand)
    print(f'{package.what} is not installed: {by_hand} ...', flush=True)
    with _not_started(package, manager, root):
        _install(manager, name, root)
    if not package.there():
        raise commands.Error(
            f'{by_hand} succeeded, but {package.what} is still not found'
        )


def _install(manager, name, root):
    install = [*root, *INSTALL[manager], name]
    if manager not in UPDATE:
        commands.run(install, kill=False)
        return
    try:
        commands.run(install, kill=False)
    except commands.Error:
        # The lists are missing, or so old that what they name is gone.
        commands.run([*root, *UPDATE[manager]], kill=False)
        commands.run(install, kill=False)


def _as_root(package, by_hand):
    if os.geteuid() == 0:
        return []
    advice = (
        f'{package.what} is needed and not installed, and installing it takes'
        f' root. Run as root: {by_hand}'
    )
    if not shutil.which('sudo'):
        raise commands.Error(advice)
    try:
        commands.run(['sudo', '-n', 'true'], timeout=20)
    except commands.Error:
        raise commands.Error(advice) from None
    return ['sudo', '-n']


@contextlib.contextmanager
def _not_started(package, manager, root):
    """Keep a new package's service from running, now and after a boot.

    Debian's packages start and enable their services when installed. A
    unit that is masked is not started; System V's script can only be told
    to stop it again.
    """
    if package.service is None or manager != 'apt-get':
        yield
        return
    systemd = pathlib.Path('/run/systemd/system').is_dir()
    mask = ['systemctl', 'mask', '--runtime', package.service]
    script = pathlib.Path('/etc/init.d', package.service)
    if systemd:
        commands.run([*root, *mask])
    try:
        yield
    finally:
        if systemd:
            mask[1] = 'unmask'
            commands.run([*root, *mask])
        if script.exists():
            if not systemd:
                commands.run([*root, script, 'stop'])
            commands.run([*root, 'update-rc.d', package.service, 'disable'])


def _imports(python, module):
    try:
        commands.run([python.path, '-c', f'import {module}'], timeout=20)
    except commands.Error:
        return False
    return True
