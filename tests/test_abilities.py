"""What works with which server, as the docs have it in a table."""

import contextlib
import csv
import pathlib
import subprocess
import sys

import abilities
import faults
import pytest
import servers
import wire

from sprockets.clients.memcached import testing
from sprockets.clients.memcached.testing import MemcachedServer

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / 'docs' / 'howto' / 'tried.csv'

TESTED = (*abilities.ABILITIES, *abilities.FLUSH)


@contextlib.contextmanager
def memcached(*arguments):
    """A memcached, and its version."""
    with MemcachedServer(*arguments) as server:
        version = wire.ask(server.address, b'version\r\n').decode().split()[1]
        yield server.address, version


@contextlib.contextmanager
def routelib():
    """memcached's proxy, before two servers."""
    if not servers.has_proxy(testing._find()):
        pytest.skip('the memcached here has no proxy')
    with (
        MemcachedServer() as one,
        MemcachedServer() as other,
        servers.routelib(one, other) as proxy,
    ):
        version = wire.ask(one.address, b'version\r\n').decode().split()[1]
        yield proxy.address, version


@contextlib.contextmanager
def twemproxy():
    """twemproxy, before two servers."""
    program = servers.find('nutcracker')
    if program is None:
        pytest.skip('twemproxy (nutcracker) is not installed')
    with (
        MemcachedServer() as one,
        MemcachedServer() as other,
        servers.twemproxy(one, other) as address,
    ):
        yield address, servers.version(program, '-V')


@contextlib.contextmanager
def yrmcds():
    """yrmcds."""
    if servers.find('yrmcdsd') is None:
        pytest.skip('yrmcds is not installed')
    with servers.yrmcds() as address:
        version = wire.ask(address, b'version\r\n').decode().split()[-1]
        yield address, version


STARTED = {
    'memcached': memcached,
    'memcached -C': lambda: memcached('-C'),
    "memcached's proxy": routelib,
    'twemproxy': twemproxy,
    'yrmcds': yrmcds,
}


@pytest.fixture(scope='module')
def table():
    """The words of the table, by column and by ability."""
    with TABLE.open(encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    return {
        name: {row[0]: row[number] for row in rows[1:]}
        for number, name in enumerate(rows[0])
        if number
    }


@pytest.fixture(scope='module')
def started(request):
    with STARTED[request.param]() as (address, version):
        yield request.param, address, version


@pytest.mark.parametrize('started', STARTED, indirect=True)
@pytest.mark.parametrize('ability', TESTED, ids=lambda each: each.__name__)
def test_the_table_is_true(table, started, ability):
    """Each server that can be started here does what its column says.

    That of another version is the newest column of its kind.

    """
    kind, address, version = started
    same = [name for name in table if name.rpartition(' ')[0] == kind]
    column = table.get(f'{kind} {version}') or table[same[-1]]
    found = abilities.outcome(ability, address)
    assert found.word == column[ability.__doc__], found.seen


def test_the_table_is_whole(table):
    """It has each ability, and nothing else."""
    for column in table.values():
        assert list(column) == [each.__doc__ for each in TESTED]
        assert set(column.values()) <= {'yes', 'no', 'WRONG'}


def run(address):
    return subprocess.run(
        [sys.executable, abilities.__file__, address],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    'answer',
    [
        b'HTTP/1.1 400 Bad Request\r',
        b'SERVER_ERROR no backends\r',
        b'-ERR unknown command\r',
        b'\x15\x03\x03\x00\x02',
        b'',
    ],
    ids=str,
)
def test_what_is_no_memcached_is_not_tested(answer):
    """It says something else, or closes the connection."""

    async def say(connection):
        await connection.request()
        await connection.send(answer + b'\n' * answer.endswith(b'\r'))

    with faults.ScriptedServer(say) as server:
        finished = run(server.address)
    assert finished.returncode == 1
    assert finished.stderr == (
        f'error: {server.address} is no memcached that answers: to "get", for'
        f' a key that is not there, it says {answer!r} within 5 seconds,'
        ' where "END" is expected\n'
    )
    assert finished.stdout == ''


def test_where_nobody_listens(memcached_server):
    address = memcached_server.address
    memcached_server.kill()
    finished = run(address)
    assert finished.returncode == 1
    assert finished.stderr == (
        f'error: {address} does not answer: Connection refused\n'
    )


def test_what_is_wrong_is_told(monkeypatch, capsys):
    """A server that has the wrong value for a key."""

    async def answer(connection):
        while request := await connection.request():
            if request.startswith(b'get sprockets-test:'):
                await connection.send(b'END\r\n')
            else:
                await connection.send(b'STORED\r\n')

    with faults.ScriptedServer(answer) as server:
        monkeypatch.setattr(abilities, 'SECONDS', 0.2)
        monkeypatch.setattr(sys, 'argv', ['abilities.py', server.address])
        assert abilities.main() == 1
    assert 'WRONG' in capsys.readouterr().out
