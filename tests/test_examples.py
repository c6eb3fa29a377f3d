"""What every example keeps to, and the worker."""

import ast
import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse

import faults
import pytest
import services

SERVICES = [
    path.name
    for path in sorted(services.EXAMPLES.glob('*.py'))
    if 'service.serve' in path.read_text()
]

READS = {
    'articles.py': '/articles/tornado',
    'cart.py': '/cart',
    'notebooks.py': '/view/demo.ipynb',
    'pages.py': '/',
    'rate_limit.py': '/search?q=x',
    'sessions.py': '/me',
}
"""What takes a call to memcached."""


def run(example, *arguments):
    """Run an example that ends by itself."""
    return subprocess.run(
        [sys.executable, services.EXAMPLES / example, *arguments],
        env={**os.environ, 'PYTHONWARNINGS': 'error'},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=services.SECONDS,
        check=False,
    )


# All of them


def test_every_example_is_known():
    """Examples that serve are found, so that none goes untested."""
    assert 'articles.py' in SERVICES


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('example', SERVICES)
def test_a_signal_ends_a_service_cleanly(example, number, memcached_server):
    """The exit status is 0 and there is nothing to complain of."""
    with services.Service(example) as service:
        assert service.get('/').status < 500
        assert service.stop(number) == 0
        assert 'Traceback' not in service.errors


def accepts(service):
    """Whether a service takes connections."""
    address = urllib.parse.urlsplit(service.address)
    try:
        socket.create_connection((address.hostname, address.port), 10).close()
    # Reset, where it had not been accepted when the service ended.
    except (ConnectionRefusedError, ConnectionResetError):
        return False
    return True


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('example', SERVICES)
def test_a_service_answers_what_is_under_way(
    example, number, memcached_server
):
    """It waits for memcached, which answers when the service was stopped."""
    with (
        faults.FaultProxy(memcached_server.address) as proxy,
        services.Service(
            example, environ={'MEMCACHED_SERVERS': proxy.address}
        ) as service,
        concurrent.futures.ThreadPoolExecutor(1) as executor,
    ):
        cookie = f'__Host-session={43 * "x"}'
        if example == 'cart.py':
            # Who has no cookie has nothing there, either.
            begun = service.request('PUT', '/cart/tea', {'count': 1})
            cookie = begun.cookie
        proxy.every_reply(faults.stall)
        visitor = executor.submit(service.get, READS[example], cookie=cookie)
        proxy.wait_for(lambda: proxy.stalled)
        service.process.send_signal(number)
        services.wait_until(lambda: not accepts(service))
        proxy.every_reply(None)
        # What stalls already is several replies.
        services.wait_until(lambda: proxy.release() or visitor.done())
        assert visitor.result().status < 500
        # A second signal would not wait for its end.
        assert service.process.wait(services.SECONDS) == 0


@pytest.mark.parametrize('example', SERVICES)
def test_a_service_says_where_it_listens(example, memcached_server):
    """With port 0 that cannot be known otherwise."""
    with services.Service(example) as service:
        assert service.first_line.startswith('Listening on http://127.0.0.1:')
        assert not service.address.endswith(':0')


@pytest.mark.parametrize('example', [*SERVICES, 'worker.py'])
def test_an_example_explains_itself(example):
    """--help shows the first line of the module's docstring."""
    source = (services.EXAMPLES / example).read_text()
    first = ast.get_docstring(ast.parse(source)).splitlines()[0]
    shown = run(example, '--help')
    assert shown.returncode == 0
    assert first in ' '.join(shown.stdout.split())


@pytest.mark.parametrize('example', SERVICES)
def test_the_commands_of_an_example_do_what_they_say(
    example, memcached_server, tmp_path
):
    """Each that its docstring has for a shell succeeds, in their order."""
    if shutil.which('curl') is None:
        pytest.skip('curl is not installed')
    docstring = ast.get_docstring(
        ast.parse((services.EXAMPLES / example).read_text())
    )
    commands = re.findall(
        r'^    ((?:curl|for) (?:.*\\\n)*.*)', docstring, re.MULTILINE
    )
    if not commands:
        pytest.skip('it has no commands')
    arguments = ()
    if example == 'sessions.py':
        arguments = ('--database', str(tmp_path / 'database'))
    with services.Service(
        example, *arguments, environ=memcached_server.environ()
    ) as service:
        script = '\n'.join([TELLING_CURL, *commands]).replace(
            'http://127.0.0.1:8000', service.address
        )
        finished = subprocess.run(
            ['sh', '-c', script],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=services.SECONDS,
            check=True,
        )
    statuses = list(map(int, finished.stdout.split()))
    if example == 'rate_limit.py':
        assert statuses == [200] * 10 + [429] * 2
    else:
        assert len(statuses) == len(commands)
        assert max(statuses) < 400


TELLING_CURL = """
curl() { command curl -s -o /dev/null -w '%{http_code} ' "$@"; }
"""


@pytest.mark.parametrize('example', SERVICES)
def test_an_example_says_what_happens_without_memcached(example):
    """That is what one wants to know before copying it."""
    source = (services.EXAMPLES / example).read_text()
    assert 'without memcached' in ast.get_docstring(ast.parse(source))


# The worker


def test_the_worker_warms_the_cache_of_the_articles(
    memcached_server, tmp_path
):
    """Nobody has to be the first reader."""
    database = str(tmp_path / 'articles.db')
    with services.Service('articles.py', '--database', database) as articles:
        done = run('worker.py', '--database', database, '--articles', '10')
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith('10 of 10 articles are cached: 0 were,')
        read = articles.get('/articles/tornado').json
        assert (read['source'], read['hits']) == ('memcached', 1)


def test_the_worker_leaves_alone_what_is_cached(memcached_server):
    """A second run has nothing to do."""
    run('worker.py', '--articles', '10')
    done = run('worker.py', '--articles', '10', '--threads', '2')
    assert done.returncode == 0
    assert '10 were, 0 had to be made' in done.stdout


def test_the_worker_fails_without_memcached(memcached_server):
    """Whoever started it sees that from its exit status."""
    memcached_server.kill()
    done = run('worker.py', '--articles', '10')
    assert done.returncode == 1
    assert done.stdout.startswith('0 of 10 articles are cached')
    assert 'is down' in done.stderr
