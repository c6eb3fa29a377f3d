"""What a server sends beyond all bounds makes that one thing unknown.

Each number, text and reply of ``wire/bounds.py``, where a user would meet it.

"""

import asyncio
import json
import logging
import pathlib
import re
import sys
import time
import tracemalloc

import browser
import faults
import hypothesis
import pytest
import terminal
from hypothesis import strategies
from test_main import MODULE, WITHOUT_RICH, environ, run
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import escaping
from sprockets.clients.memcached.requests import statistics
from sprockets.clients.memcached.watch import checks
from sprockets.clients.memcached.web import status
from sprockets.clients.memcached.wire import bounds, protocol

ROOT = pathlib.Path(__file__).resolve().parent.parent

ENDLESS = b'9' * 3000
"""Digits that fit into a line."""

ODD = [
    b'99999999999999',
    b'9' * 20,
    b'9' * 21,
    ENDLESS,
    b'-1',
    b'1e9',
    b'\xb2',
    b'\xd9\xa3',
    b'NaN',
    b' 1',
    b'1_0',
    b'',
]
"""What may stand where a number is expected."""

EVIL = b'1.6\x1b[31m\x1b]0;title\x07\r1\n127.0.0.9:1  up'
"""It colours the screen, sets its title, and forges a line."""


def speaking(answers):
    """Return a script that answers commands by their first word."""

    async def script(connection):
        while request := await connection.request():
            word = request.split()[0]
            await connection.send(answers.get(word, b'END\r\n'))

    return script


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]


def test_the_page_has_every_bound():
    """With the number that holds."""
    page = (ROOT / 'docs' / 'security.rst').read_text('utf-8')
    rows = re.findall(
        r'^(\w[\w ,]*\w)  +([\d,]+(?: \w+)?)$', page, re.MULTILINE
    )
    assert rows == [(bound.name, str(bound)) for bound in bounds.TABLE]


# Numbers


@pytest.mark.parametrize(
    'text, number',
    [
        ('0', 0),
        ('4294967295', 2**32 - 1),
        ('4294967296', None),
        ('00000000000000000007', 7),
        ('000000000000000000007', None),
        ('9' * 5000, None),
        ('²', None),
        ('٣', None),
        ('', None),
        ('-1', None),
        ('+1', None),
        ('1_0', None),
        (' 1', None),
        ('NaN', None),
    ],
)
def test_a_number_has_a_bound(text, number):
    """It is one in ASCII digits, or none."""
    bound = bounds.Number('number', 2**32 - 1)
    assert bound.read(text) == number
    assert bound.read(text.encode()) == number


@pytest.mark.parametrize('digits', [b'9' * 20, b'9' * 21, ENDLESS])
def test_a_count_out_of_bounds(connect, digits, caplog):
    """``incr`` has no result; the connection and the server are well."""
    answers = {b'incr': digits + b'\r\n', b'get': b'END\r\n'}
    with faults.ScriptedServer(speaking(answers)) as server:
        client = connect(server.address)
        for _ in range(3):
            assert client.incr('key') is None
            assert client.get('key', 'default') == 'default'
        assert len(server.connections) == 1
    (warning,) = warnings(caplog)
    assert len(warning) < 200


@pytest.mark.parametrize('digits', [b'4294967296', b'9' * 21, ENDLESS])
def test_flags_out_of_bounds(connect, digits, caplog):
    """That value is a miss, and the others are hits."""
    reply = (
        b'VALUE one 0 1\r\n1\r\nVALUE two %b 1\r\n2\r\n'
        b'VALUE three 0 1\r\n3\r\nEND\r\n' % digits
    )
    with faults.ScriptedServer([reply, reply]) as server:
        client = connect(server.address)
        for _ in range(2):
            values = client.get_multi(['one', 'two', 'three'])
            assert values == {'one': b'1', 'three': b'3'}
        assert len(server.connections) == 1
    (warning,) = warnings(caplog)
    assert 'unknown flags' in warning
    assert len(warning) < 200


@pytest.mark.parametrize('digits', [b'9' * 21, b'9' * 33, ENDLESS])
def test_a_unique_out_of_bounds(connect, digits, caplog):
    """The value is one, and what a ``cas`` knows of it stores nothing."""
    asked = []

    async def script(connection):
        while request := await connection.request():
            asked.append(request)
            if request.startswith(b'gets'):
                reply = b'VALUE key 0 1 %b\r\n1\r\nEND\r\n' % digits
            else:
                reply = b'EXISTS\r\n'
            await connection.send(reply)

    with faults.ScriptedServer(script) as server:
        client = connect(server.address)
        assert client.gets('key') == b'1'
        assert not client.cas('key', 'value')
        assert len(server.connections) == 1
    assert all(len(request) < 100 for request in asked)
    (said,) = warnings(caplog)
    assert 'gives no cas uniques' in said


@pytest.mark.parametrize('digits', ODD)
@pytest.mark.parametrize('field', ['flags', 'length', 'unique'])
def test_what_mg_says(connect, digits, field):
    """A value that is computed is returned, whatever the server says."""
    fields = {'flags': b'0', 'length': b'1', 'unique': b'1'} | {field: digits}
    reply = b'VA %b kkey v f%b c%b W\r\n1\r\n' % (
        fields['length'],
        fields['flags'],
        fields['unique'],
    )
    answers = {b'mg': reply, b'mn': b'MN\r\n', b'cas': b'EXISTS\r\n'}
    answers |= {b'md': b'NF\r\n', b'set': b'STORED\r\n'}
    with faults.ScriptedServer(speaking(answers)) as server:
        client = connect(server.address, socket_timeout=0.5)
        value = client.get_or_set('key', lambda: 'computed', time=60)
        assert value in ('computed', b'1')
        value = client.get_or_set('key', lambda: 'computed', 60, stale=60)
        assert value in ('computed', b'1')


@pytest.mark.parametrize('digits', ODD)
def test_a_length_out_of_bounds(connect, digits):
    """It is no answer: nobody knows where it ends.  No memory is taken."""
    reply = b'VALUE key 0 %b\r\n' % digits
    with faults.ScriptedServer([reply]) as server:
        client = connect(server.address, socket_timeout=0.5)
        tracemalloc.start()
        try:
            assert client.get('key', 'default') == 'default'
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_json_is_json_where_it_is_read(connect, caplog):
    """NaN, Infinity and what is as large are none, and never come out."""
    texts = [b'NaN', b'[1, Infinity]', b'{"a": -Infinity}', b'1e999']
    texts.append(b'9' * 400 + b'.0')
    for text in texts:
        reply = b'VALUE key 32 %d\r\n%b\r\nEND\r\n' % (len(text), text)
        with faults.ScriptedServer([reply]) as server:
            client = connect(server.address, serializer='json')
            assert client.get('key', 'default') == 'default', text
    reply = b'VALUE key 32 14\r\n[1.5e3, -0.25]\r\nEND\r\n'
    with faults.ScriptedServer([reply]) as server:
        client = connect(server.address, serializer='json')
        assert client.get('key') == [1500.0, -0.25]


def test_a_pickles_names_are_cut_in_the_log(connect, caplog):
    """What there is not may have any name, of any length."""
    for name in (b'x\x1b[2J', b'x' * 100_000):
        text = b'\x80\x04\x8c\x02os' + (
            b'X%b%b\x93.' % (len(name).to_bytes(4, 'little'), name)
        )
        reply = b'VALUE key 1 %d\r\n%b\r\nEND\r\n' % (len(text), text)
        with faults.ScriptedServer([reply]) as server:
            client = connect(server.address)
            assert client.get('key', 'default') == 'default'
    logged = [m for m in warnings(caplog) if 'AttributeError' in m]
    assert len(logged) == 2
    for message in logged:
        assert message.isprintable()
        assert len(message) < 400


@pytest.mark.parametrize('digits', [b'9' * 19, *ODD])
@pytest.mark.parametrize('field', ['number', 'seconds'])
def test_what_ma_says(connect, digits, field):
    """The number is one, or there is none; and the time is one, or none."""
    number, seconds = (digits, b'60') if field == 'number' else (b'7', digits)
    reply = b'VA %d t%b\r\n%b\r\n' % (len(number), seconds, number)
    command = protocol.MetaNumber(b'ma key\r\n')
    incoming = protocol.Incoming()
    incoming.feed(reply)
    try:
        assert command.read(incoming) == 0
    except protocol.ProtocolError:
        assert field == 'number'
        return
    assert command.result is None or 0 <= command.result < 2**64
    assert (
        command.seconds is None
        or 0 <= command.seconds < 10**20
        or (command.seconds == -1)
    )


# Statistics


STATISTICS = ['time', 'uptime', 'bytes', 'limit_maxbytes', 'get_hits']


def telling(version=b'1.6.0', **statistics):
    """Return a script of a server that tells this of itself."""
    said = dict.fromkeys(STATISTICS, b'1000')
    said |= {'get_misses': b'0', 'time': b'1700000000'} | statistics
    lines = [b'STAT %b %b\r\n' % (n.encode(), t) for n, t in said.items()]
    return speaking(
        {
            b'version': b'VERSION %b\r\n' % version,
            b'stats': b''.join(lines) + b'END\r\n',
        }
    )


@pytest.mark.parametrize('digits', ODD)
@pytest.mark.parametrize('name', STATISTICS)
def test_a_statistic_out_of_bounds_is_unknown(memcached_server, name, digits):
    """Of that server alone; all else is shown."""
    script = telling(**{name: digits})

    async def ask(servers):
        application = web.Application()
        client = memcached.AsyncClient(servers=servers)
        application.memcached_clients = {None: client}
        seen = await status.status_of(application, [None])
        await client.close()
        return seen

    with faults.ScriptedServer(script) as server:
        servers = [server.address, memcached_server.address]
        seen = asyncio.run(ask(servers))
        assert json.loads(json.dumps(seen, allow_nan=False)) == seen
        assert seen['status'] == 'ok'
        odd, good = seen['clients'][0]['servers']
        assert odd['up']
        assert odd['version'] == '1.6.0'
        if digits in (b'9' * 21, ENDLESS, b'NaN', b''):
            unknown = {
                'bytes': 'memory',
                'limit_maxbytes': 'memory_limit',
                'get_hits': 'hit_rate',
                'time': 'since',
                'uptime': 'since',
            }
            assert odd[unknown[name]] is None
        assert good['uptime'] is not None


@pytest.mark.parametrize('digits', [b'99999999999999', ENDLESS, b'-1'])
def test_the_command_line_shows_the_rest(memcached_server, digits):
    """As text and as JSON, without a traceback."""
    with faults.ScriptedServer(telling(time=digits, bytes=digits)) as server:
        servers = f'{server.address},{memcached_server.address}'
        for arguments in ([], ['--json']):
            finished = run(*arguments, MEMCACHED_SERVERS=servers)
            assert (finished.returncode, finished.stderr) == (0, '')
            assert memcached_server.address in finished.stdout


def test_a_date_that_there_is_not():
    """Whatever times a server and this process have."""
    with faults.ScriptedServer() as server:
        client = memcached.Client(servers=server.address)
        endpoint = client.servers[0].endpoint
        for now in (0, 1, bounds.TIME.most, bounds.TIME.most + 1, 2**64 - 1):
            for uptime in (0, 1, 2**40, 2**64 - 1):
                said = {'time': str(now), 'uptime': str(uptime)}
                seen = checks.Finding(None, 0.1, '1', said)
                since = checks.describe(endpoint, seen)['since']
                assert since is None or re.fullmatch(
                    r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', since
                )
        client.disconnect_all()


@pytest.mark.parametrize(
    'line', [b'STAT n%d ' + b'x' * 4000, b'STAT n%d x'], ids=['long', 'many']
)
def test_statistics_out_of_bounds(connect, line, caplog):
    """They are unknown; the server is well, and no memory is kept."""

    async def script(connection):
        request = await connection.request()
        if not request.startswith(b'stats'):
            await connection.send(b'END\r\n')
            return
        number = 0
        while True:
            lines = [line % n for n in range(number, number + 1000)]
            await connection.send(b'\r\n'.join(lines) + b'\r\n')
            number += 1000

    with faults.ScriptedServer(script) as server:
        client = connect(server.address, socket_timeout=30)
        tracemalloc.start()
        try:
            assert client.get_stats() == []
            assert client.get_stats('items') == []
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()
        assert client.get('key', 'default') == 'default'
    (warning,) = warnings(caplog)
    assert 'stats: statistics of a server' in warning
    assert 'down' not in warning


@hypothesis.given(
    strategies.dictionaries(
        strategies.text('ab1:', max_size=6), strategies.text(max_size=3)
    )
)
def test_statistics_of_slabs_lose_nothing(texts):
    """However odd the names are: each has a place of its own."""
    for arrange in (statistics.by_slab, statistics.items_by_slab):
        ((_, arranged),) = arrange([('server', texts)])
        found = []
        for value in arranged.values():
            found += value.values() if isinstance(value, dict) else [value]
        assert sorted(found) == sorted(texts.values())


# Texts, and where they are shown


def test_a_version_is_spelt_out_and_cut():
    """Where it is read, so wherever it is shown."""
    for version in (EVIL, b'x' * 4000):
        command = protocol.Version()
        incoming = protocol.Incoming()
        incoming.feed(b'VERSION ' + version + b'\r\n')
        assert command.read(incoming) == 0
        assert command.result.isascii()
        assert command.result.isprintable()
        assert len(command.result) <= 4 * bounds.VERSION.most


@pytest.mark.parametrize('program', [MODULE, WITHOUT_RICH])
def test_a_version_does_nothing_to_a_terminal(program):
    """It neither colours it, nor rings, nor forges a server."""
    with faults.ScriptedServer(telling(version=EVIL)) as server:
        variables = environ(
            MEMCACHED_SERVERS=server.address, MEMCACHED_KEY_PREFIX='\u202e'
        )
        with terminal.Terminal(program, variables, 200) as shown:
            assert shown.end() == 0
    assert '\x1b]0;' not in shown.written
    assert '\x07' not in shown.written
    assert '\x1b[31m' not in shown.written
    assert '\u202e' not in shown.written
    assert '\\u202e' in shown.written
    lines = [li.strip() for li in shown.screen.splitlines()]
    assert not any(li.startswith('127.0.0.9') for li in lines)


def test_a_terminal_that_knows_ascii_alone(memcached_server):
    """What it cannot show is spelt out."""
    finished = run(
        PYTHONIOENCODING='ascii',
        MEMCACHED_SERVERS=memcached_server.address,
        MEMCACHED_KEY_PREFIX='ø',
    )
    assert finished.returncode == 0
    assert '\\xf8' in finished.stdout
    finished = run(PYTHONIOENCODING='ascii', MEMCACHED_SERVERS='ø ø')
    assert finished.returncode == 2
    assert '\\xf8' in finished.stderr
    assert 'Traceback' not in finished.stderr


def test_a_version_does_nothing_to_a_page():
    """It cannot end the element that it is in."""
    evil = b'</script><script>alert(1)</script><!--'

    async def ask(address):
        application = web.Application()
        client = memcached.AsyncClient(servers=address)
        application.memcached_clients = {None: client}
        seen = await status.status_of(application, [None])
        await client.close()
        return status._json(seen)

    with faults.ScriptedServer(telling(version=evil)) as server:
        text = asyncio.run(ask(server.address))
    assert '<' not in text
    said = json.loads(text)['clients'][0]['servers'][0]['version']
    assert said == evil.decode()


def test_a_browser_shows_it_as_text():
    """None of it becomes an element, and the page goes on with its work."""
    evil = b"<img src=x onerror=alert(1)></script><script>alert(2)</script>'"

    async def look(address):
        application = web.Application([('/', memcached.StatusHandler)])
        client = memcached.AsyncClient(servers=address)
        application.memcached_clients = {None: client}
        server = application.listen(0, '127.0.0.1')
        (listening,) = server._sockets.values()
        port = listening.getsockname()[1]
        source, messages = await browser.dom(f'http://127.0.0.1:{port}/')
        server.stop()
        await client.close()
        return source, messages

    with faults.ScriptedServer(telling(version=evil, time=ENDLESS)) as server:
        source, messages = asyncio.run(look(server.address))
    assert messages == []
    assert '<img' not in source
    # That of the row, after the page's script has put it there.
    assert '&lt;img src=x onerror=alert(1)&gt;' in source


@pytest.mark.parametrize(
    'text',
    ['a\nb', '\x1b[2J', '\x7f', '\x9b2J', '\u202eabc', '\ud800', '\r'],
    ids=ascii,
)
def test_what_is_logged_is_one_line(text, caplog):
    """Each logger of the package has the one place where that is seen to."""
    memcached.Client(servers='127.0.0.1:1').disconnect_all()
    loggers = [
        module.LOGGER
        for name, module in list(sys.modules.items())
        if name.startswith('sprockets.clients.memcached.')
        and hasattr(module, 'LOGGER')
    ]
    assert len(loggers) > 10
    for logger in loggers:
        logger.warning('%s, %d', text, 3)
    for record in caplog.records:
        if record.levelno == logging.WARNING:
            assert record.getMessage().isprintable(), record.name


@hypothesis.given(strategies.text(), strategies.integers(1, 20))
def test_printable(text, most):
    """It is printable, bounded, and unchanged if it was both."""
    shown = escaping.printable(text, most)
    assert shown.isprintable()
    assert len(shown) <= most * 10 + 3
    if len(text) <= most and text.isprintable():
        assert shown == text


def test_errors_are_bounded(connect, caplog):
    """Where they are logged, and where a caller gets them."""
    line = b'SERVER_ERROR ' + b'\x1b[2J' * 900 + b'\r\n'
    with faults.ScriptedServer(speaking({b'set': line})) as server:
        client = connect(server.address)
        assert not client.set('key', 'value')
    (warning,) = warnings(caplog)
    assert warning.isprintable()
    assert len(warning) <= escaping.MOST + 100


def test_it_takes_no_time(connect):
    """A server's digits are not computed with."""
    with faults.ScriptedServer([ENDLESS + b'\r\n'] * 100) as server:
        client = connect(server.address)
        began = time.process_time()
        for _ in range(100):
            assert client.incr('key') is None
        assert time.process_time() - began < 5
