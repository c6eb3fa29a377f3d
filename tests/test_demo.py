"""scripts/demo shows the example, and ends without leaving anything."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

DEMO = pathlib.Path(__file__).resolve().parent.parent / 'scripts' / 'demo'

SECONDS = 300
"""It installs what it needs first."""

pytestmark = [pytest.mark.installation, pytest.mark.timeout(2 * SECONDS)]


def environment(**variables):
    """Return the variables for the demonstration."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if 'MEMCACHED' not in name
    }
    return {**ours, **variables}


def check(**variables):
    """Run ``scripts/demo --check``."""
    return subprocess.run(
        [DEMO, '--check'],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def listens(address):
    """Return whether somebody accepts connections at ``host:port``."""
    host, _, port = address.partition(':')
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_check():
    """The first read comes from SQLite, the second one from memcached."""
    checked = check()
    assert checked.returncode == 0, checked.stdout
    first, second = re.findall(r'"source": "(\w+)"', checked.stdout)[:2]
    assert (first, second) == ('sqlite', 'memcached')
    assert re.search(
        r'from SQLite, took [\d.]+ ms; the second, from memcached, [\d.]+ ms',
        checked.stdout,
    )


def test_check_on_servers_of_the_environment(memcached_server):
    """It uses those, twice in a row as well, and nothing else on them."""
    for _ in range(2):
        checked = check(MEMCACHED_SERVERS=memcached_server.address)
        assert checked.returncode == 0, checked.stdout
        assert memcached_server.address in checked.stdout


def test_check_fails_without_memcached():
    """What went wrong is said: the server is down."""
    with socket.socket() as taken:
        # Nobody listens here, and nobody else can.
        taken.bind(('127.0.0.1', 0))
        address = '{}:{}'.format(*taken.getsockname())
        checked = check(MEMCACHED_SERVERS=address)
    assert checked.returncode == 1, checked.stdout
    assert f'{address} is down' in checked.stdout


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_running(tmp_path, number):
    """Ctrl-C or SIGTERM ends the application and memcached too."""
    path = tmp_path / 'output'
    with path.open('w') as output:
        process = subprocess.Popen(
            [DEMO],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while 'Ctrl-C ends it.' not in path.read_text():
            assert process.poll() is None, path.read_text()
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.05)
        addresses = re.search(
            r'http://(\S+) answers, with memcached at (\S+)\.\n',
            path.read_text(),
        ).groups()
        assert all(listens(address) for address in addresses)
    finally:
        process.send_signal(number)
        process.wait(60)
    assert process.returncode == 128 + number
    assert not any(listens(address) for address in addresses)
