"""memcached processes of our own, near or further away."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

from benchmarks import data

START_SECONDS = 10
THREADS = 2
MEGABYTES = 512
FILL_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Files with the certificate and the key of servers of this machine.

    :ivar str authority: the file of who signed it
    """

    authority: str
    chain: str
    key: str


@contextlib.contextmanager
def certificates():
    """Make certificates by an authority of our own.

    :rtype: Certificates
    """
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert('127.0.0.1')
    with tempfile.TemporaryDirectory() as folder:
        files = Certificates(
            *(os.path.join(folder, name) for name in ('ca', 'chain', 'key'))
        )
        authority.cert_pem.write_to_path(files.authority)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(files.chain, append=True)
        issued.private_key_pem.write_to_path(files.key)
        yield files


@functools.cache
def without_tls():
    """Return why memcached speaks no TLS here; None if it does.

    :rtype: str | None
    """
    try:
        said = subprocess.run(
            ['memcached', '-h'], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        return 'memcached is not installed'
    if '--enable-ssl' in said:
        return None
    return 'this memcached was built without it'


@contextlib.contextmanager
def memcached(secure=None, threads=THREADS):
    """Run a memcached on a free port.

    :param Certificates secure: of a server that speaks TLS; None for one
        without
    :param int threads: how many it has, which share the connections
    :returns: its port
    :rtype: int
    """
    with _memcached(['127.0.0.1'], secure, threads) as ports:
        yield ports[0]


@contextlib.contextmanager
def memcached_on_many_ports(count, *options):
    """Run a memcached that is so many servers to a client.

    :param str options: further arguments of memcached's command line
    :returns: its ports
    :rtype: list[int]
    """
    with _memcached(['127.0.0.1'] * count, options=options) as ports:
        yield ports


@contextlib.contextmanager
def _memcached(hosts, secure=None, threads=THREADS, options=()):
    command = shutil.which('memcached')
    if command is None:
        raise RuntimeError('memcached is not installed')
    tls = ()
    if secure is not None:
        files = f'ssl_chain_cert={secure.chain},ssl_key={secure.key}'
        tls = ('-Z', '-o', files)
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, 'port')
        process = subprocess.Popen(
            [
                command,
                *('-l', ','.join(hosts), '-p', '-1', '-U', '0'),
                *('-t', str(threads), '-m', str(MEGABYTES)),
                *('-c', '4096'),
                *tls,
                *options,
                *as_root(),
            ],
            env={**os.environ, 'MEMCACHED_PORT_FILENAME': str(report)},
        )
        try:
            yield _reported_ports(process, report, len(hosts))
        finally:
            process.terminate()
            process.wait()


def as_root():
    """Return the arguments that memcached wants of root."""
    return ('-u', 'root') if os.getuid() == 0 else ()


def _reported_ports(process, report, count):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f'memcached exited with {process.returncode}')
        if report.exists():
            said = report.read_text()
            ports = re.findall(r'(?m)^TCP INET: (\d+)$', said)
            if len(ports) == count:
                return [int(port) for port in ports]
        time.sleep(0.01)
    raise RuntimeError(f'memcached said no port in {START_SECONDS} s')


@contextlib.contextmanager
def silent():
    """Hold a port where connections are made and nothing is answered.

    :rtype: int
    """
    # The system makes them; nobody takes them.
    with socket.create_server(('127.0.0.1', 0), backlog=512) as listener:
        yield listener.getsockname()[1]


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


@contextlib.contextmanager
def _connection(port, authority):
    """Connect, and give the connection and a file of what it receives."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(
            socket.create_connection(('127.0.0.1', port))
        )
        if authority is not None:
            context = ssl.create_default_context(cafile=authority)
            connection = stack.enter_context(
                context.wrap_socket(connection, server_hostname='127.0.0.1')
            )
        yield connection, stack.enter_context(connection.makefile('rb'))


def fill(port, sizes, authority=None):
    """Store all the keys with values of these sizes, and the counters.

    :param int port: the server's port
    :param sizes: bytes of the values
    :param str authority: of a server that speaks TLS, the file of who signed
        its certificate
    :raises RuntimeError: the server did not store one
    """
    items = [
        (name, data.value(name, size))
        for size in sizes
        for name in data.names(size)
    ]
    items += [(name, b'1') for name in data.counters()]
    with _connection(port, authority) as (connection, replies):
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


def connections(port, authority=None):
    """Count a server's connections, this one included.

    :param int port: the server's port
    :param str authority: as for :func:`fill`
    :returns: how many are open, how many were opened since it started
    :rtype: tuple[int, int]
    """
    with _connection(port, authority) as (connection, replies):
        connection.sendall(b'stats\r\n')
        stats = {}
        while (line := replies.readline().split()) != [b'END']:
            stats[line[1]] = line[2]
    return int(stats[b'curr_connections']), int(stats[b'total_connections'])
