"""The tutorial, followed word for word, gives what it promises.

Two things are other than the text says: the ports, which may be taken, and
that pip finds this checkout's package.
"""

import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time

import pytest
import services
import snippets

from sprockets.clients.memcached import testing

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / 'docs' / 'tutorial.rst'

SECONDS = 300
"""Within this time a command has ended, or has said what it should."""

PROMPT = '@ready@'

# For a machine that has no curl.
CURL = """\
#!{python}
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode(), end='')
"""

NOT_OURS = ('*.egg-info', '*.py[cod]', '.*', '__pycache__', '_build', 'build')

pytestmark = [pytest.mark.installation, pytest.mark.timeout(600)]


class Terminal:
    """A shell on a terminal of its own, which can be typed into."""

    def __init__(self, folder, environment):
        self.printed = ''
        self._master, slave = pty.openpty()
        # What is typed is not to be read back.
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self._shell = subprocess.Popen(
            ['setsid', '--ctty', 'bash', '--norc', '--noprofile', '-i'],
            cwd=folder,
            env={**environment, 'PS1': PROMPT, 'TERM': 'dumb'},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.wait_for(PROMPT)

    def type(self, text):
        """Type something and press Enter."""
        os.write(self._master, text.encode() + b'\n')

    def interrupt(self):
        """Press Ctrl-C and return what that brought."""
        os.write(self._master, b'\x03')
        return self.wait_for(PROMPT)

    def wait_for(self, pattern):
        """Return what is printed up to a pattern, and the pattern."""
        deadline = time.monotonic() + SECONDS
        read = ''
        while not re.search(pattern, read):
            left = deadline - time.monotonic()
            assert left > 0, f'{pattern!r} does not come:\n{self.printed}'
            if select.select([self._master], [], [], left)[0]:
                text = os.read(self._master, 4096).decode()
                read += text
                self.printed += text
        return read

    def close(self):
        """Hang up, which ends the shell, and end what runs in it.

        memcached does not mind a hang-up.
        """
        job = os.tcgetpgrp(self._master)
        if job != self._shell.pid:
            os.killpg(job, signal.SIGTERM)
        os.close(self._master)
        self._shell.wait(60)


def pattern(line):
    """Return the pattern of a line that is expected."""
    found = re.escape(line)
    found = re.sub(r'\\\[1\\\.0\\ s\\\]', r'\\[1\\.\\d s\\]', found)
    found = re.sub(r'\\\[0\\\.0\\ s\\\]', r'\\[0\\.\\d s\\]', found)
    return re.sub(r'in\\ 0\\\.1s', r'in [\\d.]+s', found)


class Reader:
    """Somebody who follows the tutorial."""

    def __init__(self, folder, environment, ports):
        self.terminals = {}
        self.words = folder / 'words'
        self._folder = folder
        self._environment = environment
        self._ports = ports

    def follow(self, blocks):
        """Do what each block says."""
        for number, block in enumerate(blocks):
            text = block.text.strip('\n') + '\n'
            for port in self._ports:
                text = text.replace(port, self._ports[port])
            if block.language == 'python':
                (self.words / block.caption).write_text(text)
            elif block.language == 'console':
                later = [
                    b.text.strip()
                    for b in blocks[number + 1 :]
                    if b.caption == block.caption
                ]
                # What nobody stops is a server as well.
                serves = not later or later[0].startswith('^C')
                self.use(self.terminal(block.caption), text, serves)
            else:
                assert block.language == 'text'
                first = self.terminal('First terminal')
                if text not in first.printed:
                    first.wait_for(re.escape(text))

    def terminal(self, name):
        if name not in self.terminals:
            self.terminals[name] = Terminal(self._folder, self._environment)
        return self.terminals[name]

    def use(self, terminal, text, serves):
        """Type commands, and compare what they print.

        :param bool serves: whether the last one goes on running

        """
        steps = [
            (step.splitlines()[0], step.splitlines()[1:])
            for step in re.split(r'^(?=\$ |\^C)', text, flags=re.MULTILINE)
            if step
        ]
        for number, (line, expected) in enumerate(steps):
            if line == '^C':
                printed = terminal.interrupt()
            else:
                command = line.removeprefix('$ ')
                terminal.type(command)
                if (
                    serves
                    and number == len(steps) - 1
                    and 'unittest' not in command
                ):
                    self.wait_until_it_serves(terminal, command, expected)
                    continue
                printed = terminal.wait_for(PROMPT)
            if line == '^C' and not expected:
                continue
            wanted = '\n'.join(map(pattern, expected))
            printed = printed.removesuffix(PROMPT).strip()
            assert re.fullmatch(wanted.strip(), printed), printed

    def wait_until_it_serves(self, terminal, command, expected):
        for line in expected:
            terminal.wait_for(pattern(line))
        if command.startswith('memcached'):
            port = int(command.rpartition(' ')[2])
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    socket.create_connection(('127.0.0.1', port), 10).close()
                    return
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline, terminal.printed
                    time.sleep(0.01)


@pytest.fixture
def programs(tmp_path):
    """A folder with the programs that the reader has, under their names."""
    folder = tmp_path / 'programs'
    folder.mkdir()
    found = {'python3': f'exec {sys.executable} "$@"'}
    if shutil.which('memcached') is None:
        found['memcached'] = f'exec {testing._find()} "$@"'
    for name, line in found.items():
        (folder / name).write_text(f'#!/bin/sh\n{line}\n')
    if shutil.which('curl') is None:
        (folder / 'curl').write_text(CURL.format(python=sys.executable))
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


@pytest.fixture
def wheels(tmp_path):
    """A folder with a wheel of this checkout."""
    checkout = tmp_path / 'checkout'
    # Building writes into the checkout.
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*NOT_OURS))
    folder = tmp_path / 'wheels'
    subprocess.run(
        [
            *(sys.executable, '-m', 'build', '--wheel', '--outdir', folder),
            checkout,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=SECONDS,
    )
    return folder


def test_it_gives_what_it_promises(tmp_path, programs, wheels):
    """In an empty folder, with three terminals."""
    home = tmp_path / 'home'
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if 'MEMCACHED' not in name and 'PYTHON' not in name
    } | {
        'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
        'PIP_DISABLE_PIP_VERSION_CHECK': '1',
        'PIP_FIND_LINKS': str(wheels),
        # Errors only: what it warns of is the machine's.
        'PIP_QUIET': '2',
        'VIRTUAL_ENV_DISABLE_PROMPT': '1',
    }
    numbers = {port: str(services.free_port()) for port in ('8000', '11311')}
    reader = Reader(home, environment, numbers)
    try:
        reader.follow(snippets.find(TUTORIAL))
    finally:
        for terminal in reader.terminals.values():
            terminal.close()
    assert set(reader.terminals) == {
        'First terminal',
        'Second terminal',
        'Third terminal',
    }
