"""memcached processes of our own, near or further away."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from benchmarks import data

START_SECONDS = 10
THREADS = 2
MEGABYTES = 512
FILL_BATCH = 500


@contextlib.contextmanager
def memcached():
    """Run a memcached on a free port.

    :returns: its port
    :rtype: int
    """
    command = shutil.which('memcached')
    if command is None:
        raise RuntimeError('memcached is not installed')
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, 'port')
        process = subprocess.Popen(
            [
                command,
                *('-l', '127.0.0.1', '-p', '-1', '-U', '0'),
                *('-t', str(THREADS), '-m', str(MEGABYTES)),
                *('-c', '4096'),
                *as_root(),
            ],
            env={**os.environ, 'MEMCACHED_PORT_FILENAME': str(report)},
        )
        try:
            yield _reported_port(process, report)
        finally:
            process.terminate()
            process.wait()


def as_root():
    """Return the arguments that memcached wants of root."""
    return ('-u', 'root') if os.getuid() == 0 else ()


def _reported_port(process, report):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f'memcached exited with {process.returncode}')
        if report.exists():
            for line in report.read_text().splitlines():
                kind, _, port = line.partition(': ')
                if kind == 'TCP INET':
                    return int(port)
        time.sleep(0.01)
    raise RuntimeError(f'memcached said no port in {START_SECONDS} s')


@contextlib.contextmanager
def distant(port, delay):
    """Run a proxy whose replies take `delay` seconds longer.

    :param int port: the server's port
    :returns: the proxy's port
    :rtype: int
    """
    process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.proxy', str(port), str(delay)],
        stdout=subprocess.PIPE,
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def at_distances(port, delays_ms):
    """Make a server reachable at several distances.

    :param int port: the server's port
    :param list delays_ms: milliseconds that replies take longer; 0: without
        a proxy
    :returns: the port for each
    :rtype: dict[float, int]
    """
    with contextlib.ExitStack() as stack:
        yield {
            delay: stack.enter_context(distant(port, delay / 1_000))
            if delay
            else port
            for delay in delays_ms
        }


def fill(port, sizes):
    """Store all the keys with values of these sizes, and the counters.

    :param int port: the server's port
    :param sizes: bytes of the values
    :raises RuntimeError: the server did not store one
    """
    items = [
        (name, data.value(name, size))
        for size in sizes
        for name in data.names(size)
    ]
    items += [(name, b'1') for name in data.counters()]
    with (
        socket.create_connection(('127.0.0.1', port)) as connection,
        connection.makefile('rb') as replies,
    ):
        for start in range(0, len(items), FILL_BATCH):
            batch = items[start : start + FILL_BATCH]
            for name, value in batch:
                connection.sendall(
                    b'set %s 0 0 %d\r\n%s\r\n'
                    % (name.encode(), len(value), value)
                )
            for name, _ in batch:
                reply = replies.readline()
                if reply != b'STORED\r\n':
                    raise RuntimeError(f'{name}: {reply!r}')


def connections(port):
    """Count a server's connections, this one included.

    :param int port: the server's port
    :returns: how many are open, how many were opened since it started
    :rtype: tuple[int, int]
    """
    with (
        socket.create_connection(('127.0.0.1', port)) as connection,
        connection.makefile('rb') as replies,
    ):
        connection.sendall(b'stats\r\n')
        stats = {}
        while (line := replies.readline().split()) != [b'END']:
            stats[line[1]] = line[2]
    return int(stats[b'curr_connections']), int(stats[b'total_connections'])
