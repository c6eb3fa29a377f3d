"""What a memcached really holds, seen without any client of ours."""

import re
import socket

SECONDS = 10

LATE = 10
"""Seconds that memcached's clock may be late: it ticks in the main thread,
which may have to wait for a core."""


def ask(address, request, end=b'\r\n'):
    """Return what a server answers to a request.

    :param str address: ``host:port`` or ``unix:/path``
    :param bytes request: one or more whole commands
    :param bytes end: what the last reply ends with

    """
    with _connect(address) as connection:
        connection.sendall(request)
        answer = b''
        while not answer.endswith(end):
            received = connection.recv(1 << 16)
            assert received, f'closed after {answer!r}'
            answer += received
    return answer


def _connect(address):
    if address.startswith('unix:'):
        connection = socket.socket(socket.AF_UNIX)
        place = address.removeprefix('unix:')
    else:
        connection = socket.socket()
        host, port = address.split(':')
        place = host, int(port)
    connection.settimeout(SECONDS)
    try:
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


def put(address, key, flags, data):
    """Store bytes with flags, whether they make a value or not."""
    request = b'set %b %d 0 %d\r\n%b\r\n' % (
        key.encode(),
        flags,
        len(data),
        data,
    )
    assert ask(address, request) == b'STORED\r\n'


def stored(address, key):
    """Return the flags and the bytes of a key, None if it has none."""
    answer = ask(address, b'get %b\r\n' % key.encode(), b'END\r\n')
    header, _, rest = answer.partition(b'\r\n')
    if header == b'END':
        return None
    _, _, flags, length = header.split()
    return int(flags), rest[: int(length)]


def seconds_left(address, key):
    """Return the seconds until a key expires, -1 for never, None if gone.

    Until a date they are up to ``LATE`` more than one would think.

    """
    answer = ask(address, b'mg %b t\r\n' % key.encode())
    found = re.fullmatch(rb'HD t(-?\d+)\r\n', answer)
    return int(found[1]) if found else None


def statistics(address):
    """Return ``stats`` as a dict of text."""
    lines = ask(address, b'stats\r\n', b'END\r\n').decode().splitlines()
    return dict(line.split(' ', 2)[1:] for line in lines[:-1])


def connections(address):
    """Return how many connections others have to a server."""
    lines = ask(address, b'stats conns\r\n', b'END\r\n').splitlines()
    states = [line.split()[2] for line in lines if b':state ' in line]
    # One is our own.
    return len(states) - states.count(b'conn_listening') - 1
