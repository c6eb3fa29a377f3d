"""An example that runs as a process of its own, and requests to it."""

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import free_port  # noqa: E402, F401

EXAMPLES = ROOT / 'examples'

SECONDS = 30
"""Within this time an example starts, answers and ends."""


@dataclasses.dataclass
class Answer:
    """What a request brought."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def cookie(self):
        """The cookie as a browser sends it back."""
        return self.headers['Set-Cookie'].partition(';')[0]


class Service:
    """An example that serves HTTP on a free port.

    It is told to treat warnings as errors, and what it writes to its standard
    error is kept, in which no traceback is expected.

    """

    def __init__(self, example, *arguments, environ=None):
        # It is open for as long as the process runs.
        self._output = tempfile.TemporaryFile('w+')  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / example, '--port', '0', *arguments],
            env={
                **os.environ,
                **(environ or {}),
                'PYTHONWARNINGS': 'error',
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
        )
        self.first_line = self.process.stdout.readline().strip()
        self.address = self.first_line.rpartition(' ')[2]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            status = self.stop()
        finally:
            self.process.kill()
            self.process.communicate()
            output = self.errors
            self._output.close()
        if kind is None:
            assert 'Traceback' not in output, output
            assert status == 0, output

    @property
    def errors(self):
        """What it has written to its standard error."""
        self._output.seek(0)
        return self._output.read()

    def stop(self, number=signal.SIGTERM):
        """End it and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def announce(self, path, size):
        """Return the status of a POST of so many bytes, of which none is sent.

        What refuses it closes the connection; where more had come than it has
        read, the kernel resets it, and the answer may be lost.

        """
        with contextlib.closing(self._connection()) as connection:
            connection.putrequest('POST', path)
            connection.putheader('Content-Length', str(size))
            connection.endheaders()
            return connection.getresponse().status

    def _connection(self):
        return http.client.HTTPConnection(
            urllib.parse.urlsplit(self.address).netloc, timeout=SECONDS
        )

    def request(self, method, path, body=None, **headers):
        """Make a request, with an object for a JSON body or with bytes."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        with contextlib.closing(self._connection()) as connection:
            connection.request(
                method,
                path,
                body,
                {name.replace('_', '-'): headers[name] for name in headers},
            )
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path, **headers):
        return self.request('GET', path, **headers)

    def post(self, path, body=None, **headers):
        return self.request('POST', path, body or b'', **headers)


def need(name):
    """Skip a test where there is no package of that name.

    It is not imported: some patch what others use.

    """
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed')


def wait_until(condition, seconds=SECONDS):
    """Wait for what no event tells of; fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def seconds_left(server, key):
    """Return in how many seconds memcached lets a value expire."""
    with socket.create_connection((server.host, server.port), 10) as link:
        link.sendall(f'mg {key} t\r\n'.encode())
        answer = link.makefile().readline()
    return int(answer.removeprefix('HD t'))
