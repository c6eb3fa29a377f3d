"""Servers and proxies other than a plain memcached, each on a free port."""

import contextlib
import grp
import os
import pathlib
import pwd
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time

from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 30
"""Within this time one has started, or has ended."""

TWEMPROXY = """\
memcached:
  listen: {path} 0600
  hash: fnv1a_64
  distribution: ketama
  timeout: {milliseconds}
  servers:
"""
ROUTES = pathlib.Path(__file__).resolve().parent.parent / 'examples' / 'proxy'
"""The configurations of memcached's proxy that the docs show."""

# It binds both addresses, and is a master only where the virtual one is ours.
YRMCDS = """\
virtual_ip = "127.0.0.1"
bind_ip = "127.0.0.2"
port = {port}
repl_port = {replication}
user = "{user}"
group = "{group}"
temp_dir = "{folder}"
max_data_size = "1M"
memory_limit = "64M"
workers = 2
"""


def find(program):
    """Return where a program is, None if it is not installed."""
    folders = [*os.get_exec_path(), '/usr/sbin']
    return shutil.which(program, path=os.pathsep.join(folders))


def version(*command):
    """Return what a program says of its version."""
    said = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return said.stdout.splitlines()[0].split()[-1].removeprefix('nutcracker-')


def has_proxy(memcached):
    """Whether a memcached has the proxy and its routing library built in."""
    said = subprocess.run(
        [memcached, '-h'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return 'proxy_config=routelib' in said.stdout


@contextlib.contextmanager
def twemproxy(*servers, seconds=30):
    """Run a proxy before some servers, and give its address.

    :param MemcachedServer servers: the servers
    :param float seconds: its timeout for each of them

    """
    with tempfile.TemporaryDirectory(prefix='twemproxy-') as folder:
        folder = pathlib.Path(folder)
        path = folder / 'socket'
        lines = [f'    - {server.address}:1\n' for server in servers]
        (folder / 'conf.yml').write_text(
            TWEMPROXY.format(path=path, milliseconds=1000 * seconds)
            + ''.join(lines)
        )
        address = f'unix:{path}'

        def command(port):
            # The port is for its statistics.
            return [
                *(find('nutcracker'), '-c', folder / 'conf.yml'),
                *('-o', folder / 'log', '-a', '127.0.0.1', '-s', str(port)),
            ]

        with _running(command, lambda _: address, folder / 'log'):
            yield address


@contextlib.contextmanager
def routelib(*servers, routes='direct', options=()):
    """Run memcached's own proxy before some servers, and give it.

    :param MemcachedServer servers: the servers, in the order of the
        configuration's; where these are fewer, each that is left goes with
        its line
    :param str routes: which configuration
    :param options: what memcached takes besides

    """
    text = (ROUTES / f'{routes}.lua').read_text()
    named = list(dict.fromkeys(re.findall(r'"127\.0\.0\.1:\d+"', text)))
    for name, server in zip(named, servers, strict=False):
        text = text.replace(name, f'"{server.address}"')
    for name in named[len(servers) :]:
        text = text.replace(f', {name}', '')
    with tempfile.NamedTemporaryFile('w', suffix='.lua') as file:
        file.write(text)
        file.flush()
        configuration = f'proxy_config=routelib,proxy_arg={file.name}'
        with MemcachedServer('-o', configuration, *options) as server:
            yield server


@contextlib.contextmanager
def yrmcds():
    """Run a yrmcds, and give its address."""
    with tempfile.TemporaryDirectory(prefix='yrmcds-') as folder:
        folder = pathlib.Path(folder)

        def command(port):
            (folder / 'yrmcds.conf').write_text(
                YRMCDS.format(
                    port=port,
                    replication=port + 1,
                    user=pwd.getpwuid(os.geteuid()).pw_name,
                    group=grp.getgrgid(os.getegid()).gr_name,
                    folder=folder,
                )
            )
            return [find('yrmcdsd'), '-f', folder / 'yrmcds.conf']

        def address(port):
            return f'127.0.0.1:{port}'

        with _running(command, address, folder / 'log') as at:
            yield at


@contextlib.contextmanager
def _running(command, address, log):
    """Run a server on a port that nobody has, and give its address.

    :param command: returns the command for a port
    :param address: returns its address
    :param log: the file for what it prints

    """
    process, found = _start(command, address, log)
    try:
        yield found
    finally:
        process.kill()
        process.wait(SECONDS)


def _start(command, address, log):
    for _ in range(20):
        port = random.SystemRandom().randrange(20000, 32000)
        with log.open('ab') as file:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        end = time.monotonic() + SECONDS
        try:
            while process.poll() is None:
                assert time.monotonic() < end, log.read_text()
                if _listens(address(port)):
                    return process, address(port)
                time.sleep(0.01)
        except BaseException:
            process.kill()
            process.wait(SECONDS)
            raise
    raise AssertionError(log.read_text())


def _listens(address):
    """Whether it answers: its socket is there before it does."""
    if address.startswith('unix:'):
        probe, place = socket.socket(socket.AF_UNIX), address[len('unix:') :]
    else:
        host, _, port = address.rpartition(':')
        probe, place = socket.socket(), (host, int(port))
    with probe:
        # yrmcds forgets who connects before it has begun.
        probe.settimeout(0.5)
        try:
            probe.connect(place)
            probe.sendall(b'get key\r\n')
            return probe.recv(100).endswith(b'\r\n')
        except OSError:
            return False
