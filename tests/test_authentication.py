"""memcached that asks for a user name and a password (memcached -Y)."""

import logging
import time
import traceback

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import connection, protocol

USERNAME = 'alice'
PASSWORD = 'correct-horse'
WRONG = 'battery-staple'
REFUSED = 'authentication: CLIENT_ERROR authentication failure'


@pytest.fixture
def server(tmp_path):
    """One that asks."""
    path = tmp_path / 'users'
    path.write_text(f'bob:another\n{USERNAME}:{PASSWORD}\n')
    with MemcachedServer('-Y', str(path)) as server:
        yield server


def statistics(server):
    """Return what it has counted, this connection of our own included."""
    token = f'{USERNAME} {PASSWORD}'.encode()
    request = b'set auth 0 0 %d\r\n%b\r\nstats\r\n' % (len(token), token)
    lines = wire.ask(server.address, request, b'END\r\n').decode()
    return dict(line.split(' ', 2)[1:] for line in lines.splitlines()[1:-1])


@pytest.fixture(autouse=True)
def nowhere(caplog):
    """The passwords are in no line of any log."""
    caplog.set_level(logging.DEBUG)
    yield
    assert PASSWORD not in caplog.text
    assert WRONG not in caplog.text


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


def test_every_connection_authenticates_first(connect, server):
    """However many there are, each does, and once."""
    client = connect(server.address, username=USERNAME, password=PASSWORD)

    async def use(client):
        return await client.set('key', 1), await client.incr('key')

    before = statistics(server)
    assert all(stored for stored, _ in client.together(4, use))
    after = statistics(server)
    connections, authenticated = (
        int(after[name]) - int(before[name]) - 1
        for name in ('total_connections', 'auth_cmds')
    )
    assert authenticated == connections > 0
    assert after['auth_errors'] == '0'
    assert client.get('key') is not None


def test_a_new_connection_after_a_restart_authenticates(connect, server):
    """The server is restarted, and nobody notices but for the values."""
    client = connect(server.address, username=USERNAME, password=PASSWORD)
    assert client.set('key', 'value')
    server.restart()
    assert client.get('key') is None
    assert client.set('key', 'value')


def test_a_refusal_is_a_failure_that_says_so_once(connect, server, caplog):
    """The server counts as down, with the server's own words for it."""
    client = connect(server.address, username=USERNAME, password=WRONG)
    assert not client.set('key', 'value')
    assert client.get('key', 'default') == 'default'
    assert client.set_multi({'a': 1, 'b': 2}) == ['a', 'b']
    assert warnings(caplog) == [
        f'memcached server {server.address} is down: {REFUSED}'
    ]


def test_clients_with_different_passwords_share_nothing(connect, server):
    """Whoever is refused gets no connection of one who is not."""
    good = connect(server.address, username=USERNAME, password=PASSWORD)
    bad = connect(server.address, username=USERNAME, password=WRONG)
    none = connect(server.address)
    assert good.set('key', 'value')
    assert bad.get('key') is None
    assert none.get('key') is None
    assert good.get('key') == 'value'


def test_a_server_that_does_not_ask_keeps_nothing(connect, memcached_server):
    """It takes the password for a value, and drops it at once."""
    client = connect(
        memcached_server.address, username=USERNAME, password=PASSWORD
    )
    assert client.set('key', 'value')
    assert client.get('key') == 'value'
    for key in ('sprockets:authentication', 'auth'):
        assert wire.stored(memcached_server.address, key) is None


def test_authenticating_is_part_of_the_call(connect, caplog):
    """A server that does not answer holds a call up until its deadline."""
    with faults.ScriptedServer() as server:
        client = connect(
            server.address,
            username=USERNAME,
            password=PASSWORD,
            socket_timeout=0.3,
        )
        # Where this process was late, the server is not blamed.
        while 'is down: timed out' not in caplog.text:
            before = len(server.connections)
            began = time.monotonic()
            assert client.get('key') is None
            assert 0.2 < time.monotonic() - began < 2
        assert client.get('key') is None
        assert len(server.connections) == before + 1
        assert b'get' not in server.received


ANSWERS = {
    'refused': b'CLIENT_ERROR authentication failure\r\n',
    'out of memory': b'SERVER_ERROR out of memory storing object\r\n',
    'not stored': b'NOT_STORED\r\n',
    'unknown': b'ERROR\r\n',
    'garbage': b'HTTP/1.1 400 Bad Request\r\n\r\n',
    'too much': b'STORED\r\nSTORED\r\n',
    'closed': [faults.Do.CLOSE],
    'reset': [faults.Do.RESET],
    'cut': [b'STOR', faults.Do.CLOSE],
    'silence': [faults.Do.STALL],
}


@pytest.mark.parametrize('answer', ANSWERS)
def test_a_failure_shows_no_password(answer):
    """Not in the error, and not in a traceback that shows all variables."""
    with faults.ScriptedServer([ANSWERS[answer]]) as server:
        address, _, _ = settings.parse_server(server.address)
        profile = connection.Profile(
            address,
            0.3,
            settings.Credentials(USERNAME, settings.Secret(PASSWORD)),
        )
        with pytest.raises((OSError, protocol.ProtocolError)) as raised:
            connection.Connection(profile, time.monotonic() + 0.3)
        server.release()
    shown = traceback.TracebackException.from_exception(
        raised.value, capture_locals=True
    )
    # What it is about is there, so the rest would be as well.
    text = ''.join(shown.format())
    assert USERNAME in text
    # The lines of this test itself are shown too.
    assert PASSWORD not in text.replace(f"PASSWORD = '{PASSWORD}'", '')


def test_a_request_that_leaves_in_parts_shows_no_password(monkeypatch):
    """Nor does one of which the kernel took a part."""

    async def read_and_close(connection):
        await connection.read()
        await connection.reset()

    def send_one(self, data):
        sent.append(bytes(data))
        if len(sent) > 2:
            raise BrokenPipeError('broken')
        return 1

    sent = []
    monkeypatch.setattr(connection.Connection, '_send', send_one)
    with faults.ScriptedServer(read_and_close) as server:
        address, _, _ = settings.parse_server(server.address)
        profile = connection.Profile(
            address,
            0.3,
            settings.Credentials(USERNAME, settings.Secret(PASSWORD)),
        )
        with pytest.raises(BrokenPipeError) as raised:
            connection.Connection(profile, time.monotonic() + 0.3)
    frames = traceback.StackSummary.extract(
        (
            (frame, line)
            for frame, line in traceback.walk_tb(raised.tb)
            if frame.f_code.co_filename != __file__
        ),
        capture_locals=True,
    )
    assert len(frames) > 2
    assert PASSWORD not in ''.join(frames.format())


def test_nothing_that_is_kept_shows_the_password(server):
    """Neither the client, nor what it consists of, has it in its repr."""
    client = memcached.AsyncClient(
        servers=server.address, username=USERNAME, password=PASSWORD
    )
    engine = client._engine
    credentials = settings.Credentials(USERNAME, settings.Secret(PASSWORD))
    for each in (
        client,
        engine.core,
        vars(engine.settings),
        engine.settings.credentials,
        engine.settings.password,
        engine.cluster.servers,
        vars(engine.cluster),
        [vars(endpoint) for endpoint in engine.cluster.endpoints],
        protocol.authenticate(credentials),
        protocol.authenticate(credentials).request,
    ):
        assert PASSWORD not in repr(each)
        assert PASSWORD not in str(each)
        assert PASSWORD not in f'{each}'


def test_both_come_from_the_environment(server, monkeypatch):
    """Each is an option like any other; blanks at the ends are kept."""
    monkeypatch.setenv('MEMCACHED_SERVERS', server.address)
    monkeypatch.setenv('PAGES_MEMCACHED_USERNAME', USERNAME)
    monkeypatch.setenv('MEMCACHED_PASSWORD', PASSWORD)
    client = memcached.Client('pages')
    assert client.set('key', 'value')
    client.disconnect_all()
    monkeypatch.setenv('MEMCACHED_PASSWORD', f' {PASSWORD} ')
    other = settings.Settings('pages', {})
    assert other.credentials == settings.Credentials(
        USERNAME, settings.Secret(f' {PASSWORD} ')
    )


@pytest.mark.parametrize(
    'options, message',
    [
        ({'username': USERNAME}, 'username: no password with it'),
        ({'password': PASSWORD}, 'password: no username with it'),
        ({'username': 'a b', 'password': PASSWORD}, 'username: it has blanks'),
        ({'username': 'a\r\n', 'password': PASSWORD}, 'username: '),
        ({'username': 1, 'password': PASSWORD}, 'or is no text'),
        ({'username': USERNAME, 'password': f'{PASSWORD}\n'}, 'control'),
        ({'username': USERNAME, 'password': f'{PASSWORD}\ud800'}, 'sent'),
        ({'username': USERNAME, 'password': PASSWORD.encode()}, 'no text'),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, message):
    """The error says what is wrong, and shows no password."""
    with pytest.raises(ValueError, match=message) as raised:
        memcached.Client(**options)
    assert PASSWORD not in str(raised.value)
    assert raised.value.__cause__ is None
    assert (
        raised.value.__context__ is None or raised.value.__suppress_context__
    )


def test_an_error_names_the_variable(monkeypatch):
    """For one without the other it is the variable that there is."""
    monkeypatch.setenv('PAGES_MEMCACHED_PASSWORD', PASSWORD)
    with pytest.raises(
        ValueError, match=r'^PAGES_MEMCACHED_PASSWORD: no username with it'
    ):
        memcached.Client('pages')
