"""Programs of Debian's releases, in a folder of the checkout.

They are unpacked, not installed: that takes no root and changes nothing of
the machine.  apt finds what they need and checks that it is Debian's.  Each
program then runs with the libraries of its own release, for the loader of
that release starts it.

"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil

import commands
import environments
import pythons
import system

FOLDER = environments.ROOT / '.debian'
PROGRAMS = FOLDER / 'programs'
"""The servers and proxies, for the ``PATH``."""

RELEASES = ('sid', 'trixie', 'bookworm')
"""Where something is looked for, in this order."""

SERVERS = {
    'memcached': ('usr/bin/memcached', '-V'),
    'nutcracker': ('usr/sbin/nutcracker', '-V'),
    'yrmcds': ('usr/sbin/yrmcdsd', '-h'),
}
"""The program of each package, and what has it end at once."""

PYTHON = re.compile(r'python3\.\d+')

# Of what the machine says to apt, all that is wanted is how to get at the
# mirror: neither what it has installed, nor which releases it prefers.
CONFIGURATION = """\
{acquire}
Acquire::Check-Valid-Until "false";
Acquire::Languages {{ "none"; }};
Acquire::Retries "3";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Dir::Cache "{folder}/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
"""

# A Python that is told the name it was called by finds its environment.
WRAPPER = """\
#!/bin/sh
exec {loader} --argv0 "$0" --library-path {libraries} {program} "$@"
"""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, and which package of which release it is from."""

    package: str
    version: str
    release: str
    path: str

    def __str__(self):
        return f'{self.package} {self.version} of {self.release}'


@dataclasses.dataclass(frozen=True)
class Brought:
    """The programs that there were, and why there are no others."""

    programs: tuple
    missing: tuple

    @property
    def pythons(self):
        """The paths of the Pythons.

        :rtype: list(str)

        """
        return [
            program.path
            for program in self.programs
            if PYTHON.fullmatch(program.package)
        ]

    def without(self, path, error):
        """Return the same without a program that is of no use.

        :param str path: the program
        :param commands.Error error: why
        :rtype: Brought

        """
        left = [each for each in self.programs if each.path != path]
        lost = [each for each in self.programs if each.path == path]
        reasons = [_reason(each, error) for each in lost]
        return Brought((*left,), (*self.missing, *reasons))


class Release:
    """A release of Debian, as a mirror has it today.

    :param str name: its name
    :param str mirror: the address of the mirror
    :param pathlib.Path folder: where to unpack its packages

    """

    def __init__(self, name, mirror, folder):
        self.name = name
        self.root = folder / name
        self._apt = folder / f'{name}.apt'
        self._unpacked = set()
        for folder in ('cache/archives/partial', 'state/lists/partial'):
            (self._apt / folder).mkdir(parents=True, exist_ok=True)
        (self._apt / 'status').touch()
        (self._apt / 'sources.list').write_text(
            f'deb [signed-by={system.keyring()}] {mirror} {name} main\n'
        )
        (self._apt / 'apt.conf').write_text(
            CONFIGURATION.format(
                acquire=commands.run(['apt-config', 'dump', 'Acquire']),
                folder=self._apt,
            )
        )
        self._run('apt-get', 'update')

    def close(self):
        """Remove what is not needed once all is unpacked."""
        shutil.rmtree(self._apt)

    def versions(self, packages):
        """Return those packages that it has, and their versions.

        :param packages: the names of some
        :rtype: dict

        """
        versions = {}
        printed = self._run('apt-cache', 'madison', *packages)
        for line in printed.splitlines():
            name, version, _ = map(str.strip, line.split('|'))
            # 3.15.0~rc1 comes before 3.15.0.
            if name in SERVERS or '~' not in version:
                versions.setdefault(name, version)
        return versions

    def unpack(self, packages):
        """Unpack packages, with all that they need.

        :param packages: their names
        :raises commands.Error: if apt cannot get them

        """
        self._run('apt-get', 'install', '--yes', '--download-only', *packages)
        archives = set((self._apt / 'cache' / 'archives').glob('*.deb'))
        for archive in sorted(archives - self._unpacked):
            commands.run(['dpkg-deb', '--extract', archive, self.root])
            self._unpacked.add(archive)
        # Nothing here needs the rights of anybody else.
        commands.run(['chmod', '-R', 'u+w,a-st', self.root])

    def program(self, package, path):
        """Make a program start by itself, and return its path.

        :param str package: the package that it is from
        :param str path: where it is in the release
        :rtype: pathlib.Path
        :raises commands.Error: if it is not there

        """
        program = self.root / path
        libraries = [
            folder
            for pattern in ('usr/lib/*-linux-*', 'lib/*-linux-*')
            for folder in sorted(self.root.glob(pattern))
        ]
        loaders = [
            loader
            for folder in libraries
            for loader in sorted(folder.glob('ld*.so.[0-9]'))
        ]
        if not program.exists() or not loaders:
            raise commands.Error(f'{package} of {self.name} has no {path}')
        real = program.with_name(f'{program.name}.real')
        program.rename(real)
        program.write_text(
            WRAPPER.format(
                loader=shlex.quote(str(loaders[0])),
                libraries=shlex.quote(':'.join(map(str, libraries))),
                program=shlex.quote(str(real)),
            )
        )
        program.chmod(0o755)
        if PYTHON.fullmatch(package):
            self._settle(package)
        return program

    def _settle(self, python):
        """Let a Python find the wheels of pip and its headers here."""
        wheels = self.root / 'usr/share/python-wheels'
        for path in self.root.glob(f'usr/lib/{python}/_sysconfigdata*.py'):
            path.write_text(
                path.read_text('utf-8').replace(
                    "'/usr/share/python-wheels/'", repr(f'{wheels}/')
                ),
                'utf-8',
            )
        # Debian's includes the one of the architecture from /usr/include.
        include = self.root / 'usr/include'
        for header in include.glob(f'*-linux-*/{python}/pyconfig.h'):
            shutil.copyfile(header, include / python / 'pyconfig.h')

    def _run(self, *arguments):
        return commands.run(
            arguments, env={'APT_CONFIG': str(self._apt / 'apt.conf')}
        )


def bring(here):
    """Bring the servers, and the Pythons that the machine has not.

    What there is from the last time is used again. What could not be had
    then, and might be today, makes it be tried anew.

    :param list here: the Pythons of the machine
    :rtype: Brought

    """
    FOLDER.mkdir(exist_ok=True)
    with environments.locked(FOLDER / 'lock'):
        stamp = FOLDER / 'stamp'
        expected = _expected(here)
        known = _read(stamp, expected)
        if known:
            return known
        for path in FOLDER.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        PROGRAMS.mkdir()
        brought, complete = _bring({each.version[1] for each in here})
        if complete:
            stamp.write_text(
                json.dumps([expected, dataclasses.asdict(brought)])
            )
        return brought


def _bring(here):
    """Return what was brought, and whether nothing went wrong.

    :param set here: the minor versions of the machine's Pythons
    :rtype: tuple(Brought, bool)

    """
    minors = range(pythons.OLDEST[1], pythons.NEWEST[1] + 1)
    wanted = [*SERVERS, *[f'python3.{m}' for m in minors if m not in here]]
    programs = {}
    missing = {}
    for name in RELEASES:
        if not wanted:
            break
        try:
            release = reach(name, FOLDER)
            versions = release.versions(wanted)
        except (commands.Error, OSError) as error:
            missing[f'what is in {name}'] = error
            continue
        for package, version in versions.items():
            if package in programs:
                continue
            try:
                path = _provide(release, package)
            except (commands.Error, OSError) as error:
                missing[f'{package} of {name}'] = error
            else:
                programs[package] = Program(package, version, name, path)
                wanted.remove(package)
        release.close()
    for what, error in missing.items():
        print(f'{what} cannot be had: {error}', flush=True)
    reasons = [_reason(what, error) for what, error in missing.items()]
    reasons += [
        f'{package}: in none of {", ".join(RELEASES)}'
        for package in wanted
        if not any(what.startswith(f'{package} ') for what in missing)
    ]
    return Brought((*programs.values(),), (*reasons,)), not missing


def _reason(what, error):
    """Return why something cannot be had, for the summary."""
    # apt and pip say it last, and in one line.
    return f'{what}: {str(error).splitlines()[-1]}'


def reach(name, folder):
    """Return a release, from the first mirror of the machine that has it.

    :param str name: its name
    :param pathlib.Path folder: where to unpack its packages
    :rtype: Release
    :raises commands.Error: if none has it

    """
    system.provide(system.KEYRING)
    printed = commands.run(['apt-get', 'update', '--print-uris'])
    errors = ['apt knows of no mirror that has it']
    for mirror in dict.fromkeys(re.findall(r"(?m)^'(\S+?)/dists/", printed)):
        try:
            return Release(name, mirror, folder)
        except commands.Error as error:
            errors.append(str(error))
    raise commands.Error('\n'.join(errors))


def _provide(release, package):
    """Unpack a package and return the path of its program, which runs."""
    if PYTHON.fullmatch(package):
        release.unpack([package, f'{package}-venv', f'{package}-dev'])
        path = release.program(package, f'usr/bin/{package}')
        commands.run([path, '-V'], timeout=20)
        return str(path)
    release.unpack([package])
    place, ends = SERVERS[package]
    path = release.program(package, place)
    commands.run([path, ends], timeout=20)
    link = PROGRAMS / path.name
    link.symlink_to(path)
    return str(link)


def _expected(here):
    """Return a text that changes with what is to be brought."""
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())
    for python in here:
        digest.update(python.name.encode())
    # The programs know where they are.
    digest.update(os.fsencode(FOLDER))
    return digest.hexdigest()


def _read(stamp, expected):
    """Return what was brought before, None if it is not what is expected."""
    try:
        found, brought = json.loads(stamp.read_text('utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    if found != expected:
        return None
    programs = tuple(Program(**each) for each in brought['programs'])
    if not all(os.access(each.path, os.X_OK) for each in programs):
        return None
    return Brought(programs, tuple(brought['missing']))


def main():
    """Unpack one package anywhere, and print where its program is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('folder', type=pathlib.Path, help='where to unpack it')
    parser.add_argument('release', help='whose package it is: bookworm')
    parser.add_argument('package', help='its name and version: NAME=VERSION')
    parser.add_argument('program', help='the program in it: usr/bin/NAME')
    options = parser.parse_args()
    release = reach(options.release, options.folder.resolve())
    release.unpack([options.package])
    print(release.program(options.package, options.program))
    release.close()


if __name__ == '__main__':
    commands.main(main)
