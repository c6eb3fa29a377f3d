"""Runs examples/articles.py, and shows what it does."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
import urllib.parse

import commands
import demo
import environments

from sprockets.clients.memcached import testing

ARTICLES = environments.ROOT / 'examples' / 'articles.py'

SECONDS = 30
"""Within this time the application has started, or has answered."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to try, and what its answer must have."""

    why: str
    method: str = 'GET'
    body: dict | None = None
    status: int = 200
    answer: dict = dataclasses.field(default_factory=dict)

    def curl(self, url):
        """Return the command that makes this request."""
        command = ['curl']
        if self.method != 'GET':
            command += ['-X', self.method]
        if self.body:
            command += ['-d', json.dumps(self.body)]
        return shlex.join([*command, url])


PATH = '/articles/tornado'
EDIT = {'text': 'It spins.', 'revision': 1}
REQUESTS = (
    Request(
        'The first read comes from SQLite',
        answer={'source': 'sqlite', 'hits': 1, 'revision': 1},
    ),
    Request(
        'the second one from memcached',
        answer={'source': 'memcached', 'hits': 2, 'revision': 1},
    ),
    Request(
        'An edit goes to both',
        method='PUT',
        body=EDIT,
        answer={'text': 'It spins.', 'revision': 2},
    ),
    Request(
        'and is what the next read sees',
        answer={
            'source': 'memcached',
            'hits': 3,
            'text': 'It spins.',
            'revision': 2,
        },
    ),
    Request(
        'An edit of what has changed since is refused',
        method='PUT',
        body=EDIT,
        status=409,
    ),
    Request('What is deleted', method='DELETE', status=204),
    Request('is gone', status=404),
)


def main():
    """Start memcached and the application, and show them.

    :returns: the exit status
    :rtype: int

    """
    options = demo.arguments()
    with contextlib.ExitStack() as stack:
        servers, variables = _servers(stack)
        output = stack.enter_context(tempfile.TemporaryFile('w+'))
        application = stack.enter_context(
            commands.running(
                [sys.executable, ARTICLES, '--port', str(options.port)],
                env=variables,
                output=output,
                errors=output if options.check else None,
            )
        )
        try:
            address = _address(application, output)
            print(f'{address} answers, with memcached at {servers}.\n')
            if options.check:
                check(address)
                return 0
            show(address)
            application.wait()
            raise commands.Error(
                f'{ARTICLES.name} ended with status {application.returncode}'
            )
        except commands.Error as error:
            raise commands.Error(f'{error}\n{_read(output)}') from None


def show(address):
    """Tell what to try.

    :param str address: the address of the application

    """
    print('Try in another terminal:\n')
    for request in REQUESTS:
        print(f'    # {request.why}\n    {request.curl(address + PATH)}')
    print('\nCtrl-C ends it.', flush=True)


def check(address):
    """Make the requests and show them with their answers.

    :param str address: the address of the application
    :raises commands.Error: if an answer is not what it must be

    """
    times = []
    for request in REQUESTS:
        print(f'# {request.why}\n{request.curl(address + PATH)}', flush=True)
        status, body, seconds = _answer(request, address)
        times.append(seconds)
        print(f'{status}, {seconds * 1000:.1f} ms  {body}\n')
        if status != request.status:
            raise commands.Error(f'{status} instead of {request.status}')
        for name, expected in request.answer.items():
            value = json.loads(body).get(name)
            if value != expected:
                raise commands.Error(f'{name} is {value!r}, not {expected!r}')
    sqlite, memcached, *_ = times
    print(
        f'The first read, from SQLite, took {sqlite * 1000:.1f} ms;'
        f' the second, from memcached, {memcached * 1000:.1f} ms.'
    )


def _servers(stack):
    """Return the servers to use, and the application's variables for them."""
    servers = demo.servers()
    if servers:
        # Whatever else is on them is neither seen nor changed.
        prefix = os.environ.get('ARTICLES_MEMCACHED_KEY_PREFIX') or ''
        prefix = prefix or os.environ.get('MEMCACHED_KEY_PREFIX') or ''
        prefix += f'demo-{secrets.token_hex(4)}-'
        return servers, {'ARTICLES_MEMCACHED_KEY_PREFIX': prefix}
    try:
        server = stack.enter_context(testing.MemcachedServer())
    except RuntimeError as error:
        raise commands.Error(f'memcached: {error}') from error
    return server.address, server.environ('articles')


def _address(application, output):
    """Return the address that the application says it listens on."""
    deadline = time.monotonic() + SECONDS
    while application.poll() is None and time.monotonic() < deadline:
        said = re.search(r'Listening on (http://\S+)\n', _read(output))
        if said:
            return said[1]
        commands.pause(0.02)
    raise commands.Error(f'{ARTICLES.name} did not start')


def _read(file):
    # Not seek() and read(): the application writes at the same position.
    return os.pread(file.fileno(), 1_000_000, 0).decode(errors='replace')


def _answer(request, address):
    """Return an answer's status and body, and how many seconds it took."""
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(address).netloc, timeout=SECONDS
    )
    with contextlib.closing(connection):
        begun = time.perf_counter()
        try:
            connection.request(
                request.method, PATH, request.body and json.dumps(request.body)
            )
            response = connection.getresponse()
            body = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise commands.Error(f'no answer: {error!r}') from error
        return response.status, body, time.perf_counter() - begun


if __name__ == '__main__':
    commands.main(main)
