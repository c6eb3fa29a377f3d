"""What ``scripts/test`` takes, and what it brings."""

import json
import os
import pathlib
import re
import subprocess
import sys

import loops
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / 'scripts'


def run(*arguments, path=None):
    """Run a script of the project, with another PATH if one is given."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=SCRIPTS,
        env={**os.environ, 'PATH': path or os.environ['PATH']},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def evaluate(code, *arguments, path=None):
    """Return what a piece of code prints that imports the scripts."""
    finished = run('-W', 'error', '-c', code, *arguments, path=path)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


# Versions


def test_the_versions_are_the_same_everywhere():
    """Those that are tested, those that are promised, those in the docs."""
    oldest, newest, tornado = evaluate(
        'import json, pythons, test; '
        'print(json.dumps([pythons.OLDEST, pythons.NEWEST, test.TORNADO]))'
    )
    python = '.'.join(map(str, oldest))
    tornado = tornado.removeprefix('tornado==').removesuffix('.*')
    setup = (ROOT / 'setup.py').read_text()
    assert f"python_requires='>={python}'" in setup
    classified = re.findall(r'Python :: 3\.(\d+)', setup)
    assert list(map(int, classified)) == list(range(oldest[1], newest[1] + 1))
    requirements = ROOT / 'requirements' / 'installation.txt'
    assert f'tornado>={tornado}\n' in requirements.read_text()
    promise = f'It needs CPython {python} or newer and Tornado {tornado} or'
    assert promise in (ROOT / 'README.rst').read_text()
    assert (
        f'py{python.replace(".", "")}"'
        in (ROOT / 'pyproject.toml').read_text()
    )
    assert f'({oldest[0]}, {oldest[1]})' in (SCRIPTS / 'python').read_text()


# Event loops


def test_what_is_tested_in_other_loops_is_there():
    """Each kind can be asked for, and each file is one of tests."""
    kinds, files = evaluate(
        'import json, test; print(json.dumps([test.LOOPS, test.OF_LOOPS]))'
    )
    assert {*kinds, 'asyncio'} == set(loops.KINDS)
    assert [file for file in files if not (ROOT / file).is_file()] == []


# Tornado

USES_TORNADO = re.compile(
    r'(?m)^ *(?:import|from) tornado\b|sprockets\.http\b|\w+Mixin\b'
    r'|cached_response|memcached\.web\b|services\.Service\b'
)


def uses_tornado(path, *others):
    """Whether a file, or one of ``tests`` that it imports, names Tornado."""
    text = path.read_text('utf-8')
    if USES_TORNADO.search(text):
        return True
    imported = {
        path.with_name(f'{name}.py')
        for name in re.findall(r'(?m)^ *(?:import|from) (\w+)', text)
    }
    return any(
        uses_tornado(each, path, *others)
        for each in imported.difference([path, *others])
        if each.is_file()
    )


def test_what_uses_tornado_is_tested_with_the_oldest():
    """Each file that names it, but for those that run once or test this."""
    files = evaluate('import json, test; print(json.dumps(test.OF_TORNADO))')
    assert [file for file in files if not (ROOT / file).is_file()] == []
    using = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'tests').glob('test_*.py')
        if uses_tornado(path)
    }
    assert using - set(files) == {
        'tests/test_installation.py',
        'tests/test_scripts.py',
    }


# A server


@pytest.mark.parametrize(
    'address',
    [
        'localhost',
        'localhost:',
        ':11211',
        '127.0.0.1',
        '::1',
        '[::1]',
        'a b:1',
    ],
)
def test_a_server_has_a_port(address):
    """Without one it is an error that says what is expected."""
    finished = run('test.py', '--server', address)
    assert finished.returncode == 2
    assert f'{address!r} is no address: HOST:PORT is' in finished.stderr


# What an environment has not

MISSING = """
import json, pathlib, sys
import environments
folder = environments.ENVIRONMENTS = pathlib.Path(sys.argv[1])
(folder / '3.99').mkdir()
(folder / '3.99' / environments.MISSING).write_text(
    '\\n'.join(environments._provide_wheels([sys.argv[2]]))
)
print(json.dumps([environments.missing('3.99'), environments.missing('3.98')]))
"""


@pytest.mark.parametrize(
    'pip, all_of_them', [('false', True), ('true', False)]
)
def test_what_has_no_wheel_is_known_to_the_summary(tmp_path, pip, all_of_them):
    """It is skipped, which is told of each time."""
    wheels = (ROOT / 'requirements' / 'wheels.txt').read_text().split()
    assert evaluate(MISSING, tmp_path, pip) == [wheels * all_of_them, []]


# What is brought

PACKAGES = (
    *('memcached', 'nutcracker', 'yrmcds', 'python3.11'),
    *('python3.12', 'python3.13', 'python3.14', 'python3.15'),
)

BRING = """
import json, pathlib, sys
import debian
debian.FOLDER = pathlib.Path(sys.argv[1])
debian.PROGRAMS = debian.FOLDER / 'programs'
brought = debian.bring([])
print(json.dumps([brought.programs, brought.missing]))
"""


def test_where_there_is_no_apt(tmp_path):
    """Nothing can be had, which is told of for each release, and no error."""
    programs, missing = evaluate(BRING, tmp_path / 'there', path=str(tmp_path))
    assert programs == []
    assert [line.partition(':')[0] for line in missing[:3]] == [
        f'what is in {release}' for release in ('sid', 'trixie', 'bookworm')
    ]
    assert missing[3:] == [
        f'{package}: in none of sid, trixie, bookworm' for package in PACKAGES
    ]


ENDS = """
import json, pathlib, sys
import debian
class Release:
    def __init__(self, name, folder):
        self.root = folder / name
        self.root.mkdir()
        self.script = '#!/bin/sh\\nexit %d\\n' % (name == 'sid')
    def versions(self, packages):
        return dict.fromkeys(packages, '1.0')
    def unpack(self, packages):
        pass
    def program(self, package, path):
        program = self.root / package
        program.write_text(self.script)
        program.chmod(0o755)
        return program
    def close(self):
        pass
debian.FOLDER = pathlib.Path(sys.argv[1])
debian.PROGRAMS = debian.FOLDER / 'programs'
debian.reach = Release
brought = debian.bring([])
print(json.dumps([list(map(str, brought.programs)), brought.missing]))
"""


def test_what_does_not_run_is_taken_from_the_next_release(tmp_path):
    """A release that changes every day may have what is broken."""
    programs, missing = evaluate(ENDS, tmp_path / 'there')
    assert programs == [f'{package} 1.0 of trixie' for package in PACKAGES]
    assert [line.partition(':')[0] for line in missing] == [
        f'{package} of sid' for package in PACKAGES
    ]
    assert all(line.endswith('ended with status 1') for line in missing)


SET_UP = """
import json, sys
import commands, debian, environments, pythons, test

brought = debian.Brought(
    (
        debian.Program('memcached', '1.7.0-1', 'sid', '/memcached'),
        debian.Program('python3.99', '3.99.1-1', 'sid', '/brought'),
    ),
    ('yrmcds: in none of sid',),
)
own = [pythons.Python(True, True, (3, 13, 0), '/own')]
*arguments, fails, whose = sys.argv[1:]
errors = {'ours': commands.Error, 'theirs': environments.Unavailable}

def find(others):
    news = [pythons.Python(True, True, (3, 99, 1), path) for path in others]
    return own + news

def provide(name, python, *others):
    if python.path == fails:
        raise errors[whose]('what pip says\\nno wheel')
    return name

pythons.find, environments.provide = find, provide
test.memcached = lambda brought: 'the new' if brought else 'the old'
test.TORNADO, test.LOOPS = 'the oldest Tornado', ['debug']
sys.argv[1:] = ['--bring', '--only', 'tests,loops', *arguments]
steps, programs, brought = test.set_up(test.arguments(), own, brought)
print(json.dumps([
    [step.name for step in steps],
    [each.name for each in programs if not isinstance(programs[each], str)],
    list(map(str, brought.programs)),
    brought.missing,
]))
"""
NEW = ['memcached 1.7.0-1 of sid', 'python3.99 3.99.1-1 of sid']


@pytest.mark.parametrize('fails', ['/nothing', '/brought'])
def test_what_was_brought_is_tested(fails):
    """A checkout that cannot be installed there is a failure."""
    steps, failed, programs, missing = evaluate(SET_UP, fails, 'ours')
    assert steps == [
        'tests on Python 3.13 with the oldest Tornado',
        'tests on Python 3.13.0 with the old',
        'tests on Python 3.99.1 with the new',
        'tests on Python 3.99.1 in other loops: debug',
    ]
    assert failed == ['3.99'] * (fails == '/brought')
    assert programs == NEW
    assert missing == ['yrmcds: in none of sid']


def test_a_python_that_needs_what_cannot_be_had_is_done_without():
    """The newest that is left takes its place, and the summary says so."""
    steps, failed, programs, missing = evaluate(SET_UP, '/brought', 'theirs')
    assert steps == [
        'tests on Python 3.13 with the oldest Tornado',
        'tests on Python 3.13.0 with the new',
        'tests on Python 3.13.0 in other loops: debug',
    ]
    assert failed == ['3.99']
    assert programs == NEW[:1]
    assert missing == [
        'yrmcds: in none of sid',
        'python3.99 3.99.1-1 of sid: no wheel',
    ]


def test_a_python_that_was_asked_for_is_not_done_without():
    """Neither are those of the machine."""
    steps, failed, programs, _ = evaluate(
        SET_UP, '--python', '3.99', '/brought', 'theirs'
    )
    assert steps == [
        'tests on Python 3.99.1 with the new',
        'tests on Python 3.99.1 in other loops: debug',
    ]
    assert (failed, programs) == (['3.99'], NEW)
    steps, failed, programs, _ = evaluate(SET_UP, '/own', 'theirs')
    assert steps[1] == 'tests on Python 3.13.0 with the old'
    assert (sorted(failed), programs) == (['3.13', '3.13-oldest'], NEW)


PROGRAM = """
import json, pathlib, sys
import debian
release = debian.Release.__new__(debian.Release)
release.name, release.root = 'sid', pathlib.Path(sys.argv[1])
print(json.dumps(str(release.program(sys.argv[2], sys.argv[3]))))
"""


@pytest.mark.skipif(
    not list(pathlib.Path('/usr/lib').glob('*-linux-*/ld*.so.[0-9]')),
    reason="the machine's loader is not where Debian has it",
)
def test_a_program_runs_with_the_libraries_of_its_release(tmp_path):
    """It keeps the name that it is called by, and its arguments."""
    root = tmp_path / "a folder's"
    (root / 'usr' / 'bin').mkdir(parents=True)
    (root / 'usr' / 'lib').symlink_to('/usr/lib')
    program = root / 'usr' / 'bin' / 'shell'
    program.write_bytes(pathlib.Path('/bin/sh').read_bytes())
    program.chmod(0o755)
    assert evaluate(PROGRAM, root, 'shell', 'usr/bin/shell') == str(program)
    link = tmp_path / 'link'
    link.symlink_to(program)
    code = 'echo "$0"; printf "%s\\n" "$@"; readlink "/proc/$$/exe"'
    said = subprocess.run(
        [link, '-c', f'exec {link} -c \'{code}\' "$0" "$@"', 'name', 'a b'],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=20,
        check=True,
    ).stdout.splitlines()
    assert said[:2] == ['name', 'a b']
    # It is the loader that runs, and not the machine's choice of one.
    assert pathlib.Path(said[2]).name.startswith('ld')


def test_a_package_without_its_program_is_told_of(tmp_path):
    finished = run('-c', PROGRAM, tmp_path, 'memcached', 'usr/bin/memcached')
    assert finished.returncode == 1
    assert 'memcached of sid has no usr/bin/memcached' in finished.stderr
