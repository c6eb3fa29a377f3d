"""Makes tables of who finds and reads what, from runs with other clients.

It gets the clients of Python and of Node.js into the folder ``.clients`` of
the checkout, with pip and npm, and takes those of PHP, Perl and Ruby that the
system has: Debian's php-memcached, libcache-memcached-fast-perl, ruby-dalli.
Each stores and reads in a process of its own, with memcacheds of the run.  Run
it with the Python of an environment that scripts/test has made::

    .venvs/3.13/bin/python interoperability/others.py

"""

import argparse
import csv
import datetime
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TABLES = ROOT / 'docs' / 'howto'

COUNT = 200
"""Keys that are placed on the servers."""

SECONDS = 120
"""Within this time a client has stored or read all."""

PYTHON = {
    'pymemcache': ('pymemcache', 'pymemcache'),
    'pymemcache-pickle': ('pymemcache, its ``pickle_serde``', 'pymemcache'),
    'pylibmc': ('pylibmc', 'pylibmc'),
    'pylibmc-ketama': ('pylibmc, ``ketama_weighted``', 'pylibmc'),
    'python-binary-memcached': (
        'python-binary-memcached',
        'python-binary-memcached',
    ),
    'libmc': ('libmc', 'libmc'),
    'meta-memcache': ('meta-memcache', 'meta-memcache'),
    'emcache': ('emcache', 'emcache'),
    'aiomcache': ('aiomcache', 'aiomcache'),
    'memcachio': ('memcachio', 'memcachio'),
}
NODE = {
    'memcached': 'Node.js: memcached',
    'memjs': 'Node.js: memjs',
}
OTHERS = {
    'php': ('PHP: memcached', 'php', 'with_php.php'),
    'php-ketama': (
        'PHP: memcached, ``OPT_LIBKETAMA_COMPATIBLE``',
        'php',
        'with_php.php',
    ),
    'php-json': ('PHP: memcached, ``SERIALIZER_JSON``', 'php', 'with_php.php'),
    'perl': ('Perl: Cache::Memcached::Fast', 'perl', 'with_perl.pl'),
    'perl-ketama': (
        'Perl: Cache::Memcached::Fast, ``ketama_points => 160``',
        'perl',
        'with_perl.pl',
    ),
    'dalli': ('Ruby: Dalli', 'ruby', 'with_ruby.rb'),
    'dalli-json': (
        'Ruby: Dalli, ``serializer: JSON``',
        'ruby',
        'with_ruby.rb',
    ),
}
ONE_SERVER = {'aiomcache'}
"""They know one server only."""

VALUES = {
    'text': 'grüße',
    'digits': '2024_11',
    'bytes': b'\xff\x00',
    'number': 17,
    'structure': {'a': [1, 'b']},
    'true': True,
    'float': 1.5,
}
HEADS = {
    'text': 'text',
    'digits': '``"2024_11"``',
    'bytes': 'bytes',
    'number': '17',
    'structure': 'a structure',
    'true': 'true',
    'float': '1.5',
    'pickled': 'pickled',
}


def described(value):
    """Return a value in writing, as the programs do."""
    if value is None:
        return 'miss'
    if value is True:
        return 'true'
    if isinstance(value, str):
        return f'text:{value}'
    if isinstance(value, bytes):
        return f'bytes:{value.hex()}'
    if isinstance(value, int):
        return f'number:{value}'
    if isinstance(value, float):
        return f'float:{value}'
    if isinstance(value, dict | list):
        return f'structure:{json.dumps(value)}'
    return f'{type(value).__name__}:{value!r}'


PICKLED = datetime.date(2026, 11, 27)


def outcome(kind, seen):
    """Return a cell: what became of a value of a kind.

    ``yes`` is the value itself.  ``as bytes`` and ``as text`` are what is
    written of it, ``as 1`` is true as a number; ``no`` is a miss, a refusal or
    an error.  What is any other value is in capitals.

    """
    raw = VALUES.get(kind, PICKLED)
    if _plain(seen) == _plain(described(raw)):
        return 'yes'
    of, _, value = seen.partition(':')
    if of in ('miss', 'error', 'refused', 'false'):
        return 'no'
    if kind == 'true' and seen in ('text:1', 'number:1', 'bytes:31'):
        return 'as 1'
    if of == 'bytes':
        written = bytes.fromhex(value)
        return 'as bytes' if _is_written(kind, raw, written) else _another(of)
    if of == 'text':
        written = value.encode()
        return 'as text' if _is_written(kind, raw, written) else _another(of)
    return _another(of)


def _is_written(kind, raw, written):
    """Whether these bytes are what a client has written of a value."""
    if isinstance(raw, bytes):
        return written == raw
    if kind == 'pickled':
        return True
    plain = _plain(written.decode('utf-8', 'replace'))
    if isinstance(raw, str):
        return plain == raw
    return plain in (_plain(str(raw)), _plain(json.dumps(raw)))


def _plain(text):
    return text.replace(' ', '')


def _another(of):
    return f'ANOTHER, {of}'


class Clients:
    """The clients that there are, and how their programs are run."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / 'python'
        self.node = folder / 'node'

    def bring(self):
        """Get what is in registries."""
        packages = sorted({package for _, package in PYTHON.values()})
        if not self.python.exists():
            for package in packages:
                # Each is left out if it cannot be installed.
                subprocess.run(
                    [
                        *(sys.executable, '-m', 'pip', 'install', '--quiet'),
                        *('--target', self.python, '--upgrade', package),
                    ],
                    check=False,
                )
        if not self.node.exists() and shutil.which('npm'):
            self.node.mkdir(parents=True)
            subprocess.run(
                ['npm', 'install', '--silent', '--no-audit', *NODE],
                cwd=self.node,
                check=False,
            )

    def programs(self):
        """Yield names, what they are called in the tables, and commands."""
        for name, (title, package) in PYTHON.items():
            version = self._version(package)
            if version:
                command = [sys.executable, HERE / 'with_python.py', name]
                yield name, _with(title, version), command
        for name, title in NODE.items():
            meta = self.node / 'node_modules' / name / 'package.json'
            if shutil.which('node') and meta.exists():
                version = json.loads(meta.read_text())['version']
                command = ['node', HERE / 'with_node.js', name]
                yield name, _with(title, version), command
        for name, (title, program, script) in OTHERS.items():
            if shutil.which(program):
                version = VERSIONS[program]()
                if version:
                    yield (
                        name,
                        _with(title, version),
                        [program, HERE / script, name],
                    )

    def _version(self, package):
        found = list(
            importlib.metadata.distributions(
                name=package, path=[str(self.python)]
            )
        )
        return found[0].version if found else None

    def run(self, command, action, servers):
        """Have a client do something, and return what it says of it."""
        finished = subprocess.run(
            [*map(str, command), action, ','.join(servers), str(COUNT)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={
                **os.environ,
                'PYTHONPATH': str(self.python),
                'NODE_PATH': str(self.node / 'node_modules'),
                'PYTHONIOENCODING': 'utf-8',
            },
        )
        if finished.returncode:
            sys.stderr.write(finished.stderr[-2000:])
            return None
        return json.loads(finished.stdout.splitlines()[-1])


def _with(title, version):
    name, comma, rest = title.partition(',')
    return f'{name} {version}{comma}{rest}'


def _said(*command):
    def version():
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False
        )
        return None if finished.returncode else finished.stdout.strip()

    return version


VERSIONS = {
    'php': _said('php', '-r', 'echo phpversion("memcached") ?: exit(1);'),
    'perl': _said(
        'perl',
        '-MCache::Memcached::Fast',
        '-MJSON::PP',
        '-e',
        'print $Cache::Memcached::Fast::VERSION',
    ),
    'ruby': _said('ruby', '-rdalli', '-e', 'print Dalli::VERSION'),
}


def tables(clients):
    """Return the rows of the tables: places, what is read there, and here."""
    from sprockets.clients import memcached
    from sprockets.clients.memcached.testing import MemcachedServer

    places = [('Client', 'modula', 'ketama')]
    read = [('Client', *HEADS.values())]
    written = [('Client', *[HEADS[kind] for kind in VALUES])]
    servers = [MemcachedServer() for _ in range(4)]
    try:
        addresses = [server.start().address for server in servers]
        alone = [memcached.Client(servers=address) for address in addresses]
        for name, title, command in clients.programs():
            print(title, file=sys.stderr)
            if name not in ONE_SERVER:
                places.append(
                    (title, *_found(clients, command, addresses, alone))
                )
            one = alone[0]
            for kind, value in VALUES.items():
                serializer = memcached.Client(
                    servers=addresses[0], serializer='json'
                )
                serializer.set(f'ours:{kind}', value)
            one.set('ours:pickled', PICKLED)
            seen = clients.run(command, 'read', addresses[:1])
            if seen is not None and 'ketama' not in name:
                read.append(
                    (title, *[outcome(kind, seen[kind]) for kind in HEADS])
                )
            stored = clients.run(command, 'write', addresses[:1])
            if stored is not None and 'ketama' not in name:
                cells = []
                for kind in VALUES:
                    if stored[kind] != 'stored':
                        cells.append('refused')
                        continue
                    cells.append(
                        outcome(kind, described(one.get(f'theirs:{kind}')))
                    )
                written.append((title, *cells))
            for each in alone:
                each.flush_all()
    finally:
        for server in servers:
            server.stop()
    return places, read, written


def _found(clients, command, addresses, alone):
    """Return whether the keys of a client are where this package looks."""
    from sprockets.clients import memcached

    clients.run(command, 'place', addresses)
    keys = [f'place:{number}' for number in range(COUNT)]
    # What is written under them may be no value for this package.
    there = [{key for key in keys if each.add(key, '') == 0} for each in alone]
    cells = []
    for distribution in ('modula', 'ketama'):
        client = memcached.Client(servers=addresses, distribution=distribution)
        cluster = client._shared.cluster
        found = sum(
            key in there[addresses.index(str(cluster.pick(key.encode())))]
            for key in keys
        )
        # Some are found by chance.
        cells.append('yes' if found == COUNT else 'no')
    return cells


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--clients',
        type=pathlib.Path,
        default=ROOT / '.clients',
        help='the folder for the clients',
    )
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    clients = Clients(options.clients)
    clients.bring()
    for name, rows in zip(
        ('places', 'they-read', 'we-read'), tables(clients), strict=True
    ):
        path = TABLES / f'interoperability-{name}.csv'
        with path.open('w', newline='', encoding='utf-8') as file:
            csv.writer(file, lineterminator='\n').writerows(rows)
        print(f'{path.relative_to(ROOT)}: {len(rows) - 1} clients')


if __name__ == '__main__':
    main()
