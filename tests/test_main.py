"""What ``python -m sprockets.clients.memcached`` promises."""

import json
import os
import signal
import socket
import subprocess
import sys

import faults
import pytest
import terminal

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.testing import MemcachedServer

MODULE = (sys.executable, '-m', 'sprockets.clients.memcached')

WITHOUT_RICH = (
    sys.executable,
    '-c',
    """
import runpy, sys
sys.modules['rich'] = None
runpy.run_module(
    'sprockets.clients.memcached', alter_sys=True, run_name='__main__'
)
""",
)

SECONDS = 30

NOBODY = '127.0.0.1:1'
"""Nobody listens there."""


def environ(**variables):
    """Return an environment that says nothing else of memcached."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if 'MEMCACHED_' not in name and name not in ('COLUMNS', 'LINES')
    }
    return {**kept, 'PYTHONWARNINGS': 'error', **variables}


def run(*arguments, program=MODULE, **variables):
    return subprocess.run(
        [*program, *arguments],
        env=environ(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def columns(output, first):
    """Return the words of the line that begins with one."""
    (line,) = [li for li in output.splitlines() if li.split(' ')[0] == first]
    return line.split()


def test_where_settings_come_from(memcached_server):
    """Each with the variable that it is from, or that it is the default."""
    finished = run(
        'pages',
        PAGES_MEMCACHED_SERVERS=memcached_server.address,
        MEMCACHED_SERVERS=NOBODY,
        MEMCACHED_SOCKET_TIMEOUT='0.5',
        PAGES_MEMCACHED_FAILOVER='no',
    )
    assert finished.returncode == 0
    assert finished.stderr == ''
    for line in (
        ['SERVERS', memcached_server.address, 'PAGES_MEMCACHED_SERVERS'],
        ['SOCKET_TIMEOUT', '0.5', 'MEMCACHED_SOCKET_TIMEOUT'],
        ['FAILOVER', 'false', 'PAGES_MEMCACHED_FAILOVER'],
        ['DEAD_RETRY', '30', 'default'],
        ['KEY_PREFIX', 'none', 'default'],
    ):
        assert columns(finished.stdout, line[0]) == line
    for name in settings.OPTIONS:
        assert columns(finished.stdout, name.upper())


def test_servers(memcached_server):
    """Each with its state, version and round trip; 1 if one is down."""
    finished = run(MEMCACHED_SERVERS=f'{memcached_server.address}:2,{NOBODY}')
    assert finished.returncode == 1
    assert finished.stderr == ''
    up = columns(finished.stdout, memcached_server.address)
    assert up[1] == 'up'
    assert 'ms' in up
    version = next(word for word in up if word.startswith('1.'))
    assert version.replace('.', '').isalnum()
    down = columns(finished.stdout, NOBODY)
    assert ' '.join(down[1:4]) == 'down: Connection refused'


def test_a_server_that_hangs(memcached_server):
    """It is down, after its timeout."""
    found = ''
    memcached_server.pause()
    # Where it was late itself, it does not know.
    while 'down: timed out' not in found:
        assert found == '' or 'down: no answer within 0.2 seconds' in found
        finished = run(
            MEMCACHED_SERVERS=memcached_server.address,
            MEMCACHED_SOCKET_TIMEOUT='0.2',
        )
        assert finished.returncode == 1
        found = finished.stdout
    memcached_server.resume()


def test_servers_that_somebody_tells(memcached_server):
    """They are asked for, and looked at; 1 if nobody tells them."""
    host, port = memcached_server.host, memcached_server.port
    nodes = f'1\n|{host}|{port}\n'.encode()
    answer = b'CONFIG cluster 0 %d\r\n%b\r\nEND\r\n' % (len(nodes), nodes)
    with faults.ScriptedServer([answer]) as source:
        finished = run(MEMCACHED_SERVERS=f'discover:{source.address}')
        assert finished.returncode == 0, finished
        assert columns(finished.stdout, memcached_server.address)[1] == 'up'
        source.down()
        finished = run(MEMCACHED_SERVERS=f'discover:{source.address}')
        assert finished.returncode == 1
        assert 'none is known' in finished.stdout
        assert finished.stderr == ''


def test_json(memcached_server):
    """The same for scripts."""
    finished = run(
        '--json',
        'pages',
        PAGES_MEMCACHED_SERVERS=f'{memcached_server.address}:3,{NOBODY}',
    )
    assert finished.returncode == 1
    report = json.loads(finished.stdout)
    assert report['prefix'] == 'PAGES'
    assert report['available'] is False
    assert report['settings']['servers'] == {
        'value': [f'{memcached_server.address}:3', NOBODY],
        'source': 'PAGES_MEMCACHED_SERVERS',
    }
    assert report['settings']['failover'] == {
        'value': True,
        'source': 'default',
    }
    up, down = report['servers']
    assert (up['up'], down['up']) == (True, False)
    assert 0 < up['round_trip'] < 5
    assert down['reason'] == 'Connection refused'


@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
@pytest.mark.parametrize('arguments', [[], ['--json']])
def test_passwords_are_not_shown(program, arguments, memcached_server):
    finished = run(
        *arguments,
        program=program,
        MEMCACHED_SERVERS=NOBODY,
        MEMCACHED_USERNAME='who',
        MEMCACHED_PASSWORD='hush',
    )
    assert 'who' in finished.stdout
    assert '***' in finished.stdout
    assert 'hush' not in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    'name, value',
    [
        ('PAGES_MEMCACHED_SERVERS', 'user:hush@host'),
        ('MEMCACHED_SOCKET_TIMEOUT', 'soon'),
        ('MEMCACHED_PASSWORD', 'hush\n'),
    ],
)
def test_a_malformed_variable(name, value):
    """A message that names it, and the exit status 2."""
    finished = run('pages', **{name: value})
    assert finished.returncode == 2
    assert finished.stdout == ''
    assert finished.stderr.startswith(f'error: {name}: ')
    assert finished.stderr.count('\n') == 1
    assert 'hush' not in finished.stderr


def test_help():
    """It names every option, with its meaning and default."""
    finished = run('--help')
    assert finished.returncode == 0
    for name, option in settings.OPTIONS.items():
        assert f'  {name.upper()} ' in finished.stdout
        assert option.meaning.split()[0] in finished.stdout
    assert '127.0.0.1:11211' in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) < 80


def test_an_unknown_argument():
    """It is refused with the usage."""
    finished = run('--frobnicate')
    assert finished.returncode == 2
    assert 'usage: python -m sprockets.clients.memcached' in finished.stderr


@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
@pytest.mark.parametrize('width', [80, 120])
def test_a_terminal(program, width, memcached_server):
    """What is shown fits into its width, with rich and without."""
    variables = environ(MEMCACHED_SERVERS=memcached_server.address)
    with terminal.Terminal(program, variables, width) as shown:
        assert shown.end() == 0
    assert memcached_server.address in shown.screen
    assert 'Round trip' in shown.screen
    assert ('Evictions' in shown.screen) is (width == 120)
    assert max(map(len, shown.screen.splitlines())) <= width
    assert ('\x1b[' in shown.written) is (program is MODULE)


@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
def test_watch(program):
    """It looks again and again; Ctrl-C ends it without a traceback."""
    with MemcachedServer() as server:
        variables = environ(MEMCACHED_SERVERS=server.address)
        with terminal.Terminal([*program, '--watch'], variables) as shown:
            shown.wait_for(r' up +\d', times=2)
            server.kill()
            shown.wait_for('down: ')
            assert shown.interrupt() == 1
    assert 'Traceback' not in shown.screen
    assert 'KeyboardInterrupt' not in shown.screen


@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
@pytest.mark.parametrize(
    'names', [[], ['pages', 'sessions', 'visits']], ids=['one', 'three']
)
def test_watch_in_a_small_terminal(program, names):
    """All is seen in 80 by 24: servers first, those that are down above."""
    hosts = [f'127.0.0.{n}' for n in range(1, 40)]
    arguments = [*program, *names, '--watch']
    with MemcachedServer('-l', ','.join(hosts[1:])) as server:
        up = [f'{host}:{server.port}' for host in hosts]
        variables = environ(MEMCACHED_SERVERS=','.join([*up, NOBODY]))
        with terminal.Terminal(arguments, variables, 80, 24) as shown:
            # The last of a look is there when the next one has begun.
            shown.wait_for(r'39 of 40 up', times=2 * max(len(names), 1) + 1)
            shown.wait_for(r' more ', times=2 * max(len(names), 1) + 1)
            assert shown.interrupt() == 1
    # What Ctrl-C brings is on the line of the cursor.
    lines = [line for line in shown.lines if line.strip(' ^C')]
    if program is WITHOUT_RICH:
        lines = lines[-23:]
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = '\n'.join(lines)
    assert text.count('39 of 40 up') == max(len(names), 1)
    places = [text.index(name.upper() + ': ') for name in names]
    assert places == sorted(places)
    first = next(n for n, line in enumerate(lines) if '39 of 40' in line)
    assert lines[first + 1].startswith('Server ')
    assert lines[first + 2].startswith(NOBODY)
    assert 'down: Connection ref' in lines[first + 2]
    assert lines[first + 3].startswith('127.0.0.1:')
    assert ' more ' in text


def test_several_prefixes(memcached_server):
    """Each has its own, and the exit status is that of the worst."""
    variables = {
        'PAGES_MEMCACHED_SERVERS': memcached_server.address,
        'SESSIONS_MEMCACHED_SERVERS': NOBODY,
    }
    finished = run('pages', 'sessions', 'Pages', **variables)
    assert finished.returncode == 1
    for line in ('PAGES: 1 of 1 up', 'SESSIONS: 0 of 1 up'):
        assert finished.stdout.splitlines().count(line) == 1
    finished = run('pages', 'sessions', '--json', **variables)
    assert finished.returncode == 1
    reports = json.loads(finished.stdout)
    assert [r['prefix'] for r in reports] == ['PAGES', 'SESSIONS']
    assert [r['available'] for r in reports] == [True, False]
    finished = run('pages', 'sessions', SESSIONS_MEMCACHED_SERVERS=':')
    assert finished.returncode == 2
    assert finished.stderr.startswith('error: SESSIONS_MEMCACHED_SERVERS: ')


def test_version():
    finished = run('--version')
    assert finished.returncode == 0
    version = f'sprockets.clients.memcached {memcached.__version__}\n'
    assert finished.stdout == version


def test_what_may_be_a_mistake(memcached_server):
    """It is pointed out, beside what is shown, and in JSON."""
    variables = {
        'CD_MEMCACHED_SERVERS': '127.0.0.1:11211<:1000M>',
        'MEMCACHED_SERVERS': memcached_server.address,
        'MEMCACHED_SOCKET_TIMOUT': '0.5',
    }
    finished = run('cloud-detector', **variables)
    assert finished.returncode == 0
    notes = [
        (
            "The prefix 'CLOUD-DETECTOR' has characters that no shell"
            ' exports, so that CLOUD_DETECTOR_MEMCACHED_<OPTION> is read too'
        ),
        (
            'No variable begins with CLOUD_DETECTOR_MEMCACHED_, and the'
            ' servers are those of MEMCACHED_SERVERS; set are'
            ' CD_MEMCACHED_SERVERS'
        ),
        (
            'Nobody reads MEMCACHED_SOCKET_TIMOUT: is'
            ' MEMCACHED_SOCKET_TIMEOUT meant?'
        ),
    ]
    assert finished.stderr.splitlines() == [f'note: {note}' for note in notes]
    finished = run('cloud-detector', '--json', **variables)
    assert finished.stderr == ''
    assert json.loads(finished.stdout)['notes'] == notes


def test_watch_as_json(memcached_server):
    """An object on each line, at once."""
    process = subprocess.Popen(
        [*MODULE, '--watch', '--json'],
        env=environ(MEMCACHED_SERVERS=memcached_server.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            assert json.loads(process.stdout.readline())['available'] is True
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert errors == ''


def test_whoever_reads_goes_away(memcached_server):
    """It ends, without a traceback."""
    process = subprocess.Popen(
        [*MODULE, '--watch', '--json'],
        env=environ(MEMCACHED_SERVERS=memcached_server.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(SECONDS) in (0, 130)
        assert process.stderr.read() == ''
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize('json_', [[], ['--json']], ids=['text', 'json'])
@pytest.mark.parametrize(
    'servers, status', [('up', 0), ('down', 1), ('x:y', 2)]
)
@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-', '<&-'])
def test_the_exit_status_without_streams(
    closed, servers, status, json_, memcached_server
):
    """Whoever has closed them learns from it all the same."""
    servers = {'up': memcached_server.address, 'down': NOBODY}.get(
        servers, servers
    )
    finished = subprocess.run(
        ['/bin/sh', '-c', f'"$@" {closed}', 'sh', *MODULE, *json_, 'pages'],
        # One that is misspelt, so that there is something to note.
        env=environ(PAGES_MEMCACHED_SERVERS=servers, PAGES_MEMCACHED_TSL='1'),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == status, finished.stderr
    assert 'Traceback' not in finished.stderr


@pytest.mark.parametrize('arguments', [[], ['--json'], ['--watch']])
def test_output_that_is_not_taken(arguments, memcached_server, tmp_path):
    """It is an error of its own, and not that of servers that are down."""
    for name, status in (('stdout', 2), ('stderr', 0)):
        if name == 'stderr' and '--watch' in arguments:
            continue
        streams = dict.fromkeys(['stdout', 'stderr'], subprocess.PIPE)
        path = tmp_path / name
        path.touch()
        with path.open('rb') as only_read:
            finished = subprocess.run(
                [*MODULE, *arguments, 'pages'],
                env=environ(
                    PAGES_MEMCACHED_SERVERS=memcached_server.address,
                    PAGES_MEMCACHED_TSL='1',
                ),
                text=True,
                timeout=SECONDS,
                check=False,
                **streams | {name: only_read},
            )
        assert finished.returncode == status, finished.stderr
        if name == 'stdout':
            *_, line = finished.stderr.splitlines()
            assert line.startswith('error: The output is not taken: ')


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
def test_watch_where_not_all_can_be_written(program, encoding):
    """What is cut ends in what the terminal has."""
    variables = environ(
        MEMCACHED_SERVERS=NOBODY,
        MEMCACHED_KEY_PREFIX='of-a-service-with-a-long-name:' * 4,
        PYTHONIOENCODING=encoding,
    )
    with terminal.Terminal([*program, '--watch'], variables, 60) as shown:
        shown.wait_for('0 of 1 up', times=2)
        assert shown.interrupt() == 1
    assert 'Traceback' not in shown.screen
    assert max(map(len, shown.lines)) <= 60


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('arguments', [['--watch'], ['a', 'b', '--watch']])
def test_ended_while_a_server_hangs(arguments, number):
    """Nobody waits for it, however long its timeout is."""
    with socket.create_server(('127.0.0.1', 0)) as hanging:
        hanging.settimeout(SECONDS)
        address = '{}:{}'.format(*hanging.getsockname())
        process = subprocess.Popen(
            [*MODULE, *arguments],
            env=environ(
                MEMCACHED_SERVERS=address,
                MEMCACHED_SOCKET_TIMEOUT=str(4 * SECONDS),
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            connection, _ = hanging.accept()
            with connection:
                # It waits for an answer now.
                assert connection.recv(1)
                process.send_signal(number)
                assert process.wait(SECONDS) == 128 + number
                assert 'Traceback' not in process.stderr.read()
        finally:
            process.kill()
            process.communicate()


def test_watch_ended_by_a_signal(memcached_server):
    """The terminal has its cursor again."""
    variables = environ(MEMCACHED_SERVERS=memcached_server.address)
    with terminal.Terminal([*MODULE, '--watch'], variables) as shown:
        shown.wait_for('1 of 1 up')
        shown.process.send_signal(signal.SIGTERM)
        assert shown.end() == 128 + signal.SIGTERM
    hidden, shown_again = '\x1b[?25l', '\x1b[?25h'
    assert hidden in shown.written
    assert shown_again in shown.written.rpartition(hidden)[2]
