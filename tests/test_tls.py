"""TLS to a real memcached (memcached -Z), and to what only pretends to be.

The certificates are made for each test, by an authority of its own.

"""

import contextlib
import datetime
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings as warnings_module

import faults
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from sprockets.clients import memcached
from sprockets.clients.memcached import certificates, settings
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import tls

SECONDS = 10
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


class Folder:
    """Certificates and keys in files."""

    def __init__(self, path):
        self.path = path
        self.ca = trustme.CA()
        self.trust(self.ca)

    def file(self, name):
        return str(self.path / name)

    @property
    def files(self):
        """What a client has of it that has a certificate too."""
        return certificates.Files(
            self.file('ca.pem'),
            self.file('client.pem'),
            self.file('client.key'),
        )

    def trust(self, *authorities):
        """Write the file of the authorities that are trusted."""
        pems = [authority.cert_pem.bytes() for authority in authorities]
        self._write('ca.pem', b''.join(pems))

    def issue(self, name, *names, ca=None, **options):
        """Write a certificate, its chain, and its key apart from them."""
        issued = (ca or self.ca).issue_cert(
            *names or ('127.0.0.1',), **options
        )
        chain = b''.join(pem.bytes() for pem in issued.cert_chain_pems)
        self._write(f'{name}.pem', chain)
        self._write(f'{name}.key', issued.private_key_pem.bytes())

    def _write(self, name, data):
        # As tools do that replace certificates: none is seen half written.
        (self.path / 'new').write_bytes(data)
        (self.path / 'new').replace(self.path / name)

    def server(self, *options, name='server', connections=1024, **kinds):
        """Return a memcached with the certificate of that name."""
        files = (
            f'ssl_chain_cert={self.file(name)}.pem',
            f'ssl_key={self.file(name)}.key',
        )
        chosen = ','.join(files + options)
        return MemcachedServer(
            '-Z', '-c', str(connections), '-o', chosen, **kinds
        )

    def options(self, **others):
        """Return the options of a client that trusts the authority."""
        return {'tls': True, 'tls_ca_file': self.file('ca.pem'), **others}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def server(folder):
    """A memcached whose certificate is good."""
    folder.issue('server')
    with folder.server() as server:
        yield server


class Front:
    """A TLS server of ours that does what a script says with a connection."""

    def __init__(self, folder, script, path=None):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(
            folder.file('server.pem'), folder.file('server.key')
        )
        self._script = script
        if path is None:
            self._listener = socket.create_server(('127.0.0.1', 0))
            self.address = f'127.0.0.1:{self._listener.getsockname()[1]}'
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
            self.address = f'unix:{path}'
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(SECONDS)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self):
        self._listener.settimeout(SECONDS)
        accepted, _ = self._listener.accept()
        accepted.settimeout(SECONDS)
        if accepted.family != socket.AF_UNIX:
            # What is sent is there at once.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.context.wrap_socket(accepted, server_side=True) as secure:
            self._script(secure)


@contextlib.contextmanager
def connection(address, folder, name=None):
    """Make a connection without a client."""
    files = certificates.Files(folder.file('ca.pem'), None, None)
    profile = tls.connection.Profile(
        settings.parse_server(address)[0],
        SECONDS,
        None,
        settings.Tls(files, name),
    )
    made = tls.Connection(profile, time.monotonic() + SECONDS)
    try:
        yield made
    finally:
        made.close()


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


def statistic(client, name):
    return int(client.get_stats()[0][1][name])


# Good


def test_every_kind_of_call(connect, folder, server):
    """All of it works as it does without TLS, on a few connections."""
    client = connect(server.address, **folder.options())
    assert client.set('key', {'a': 1})
    assert client.get('key') == {'a': 1}
    assert client.gets('key') == {'a': 1}
    assert client.cas('key', 1)
    assert client.incr('key') == 2
    mapping = {f'key{number}': number for number in range(500)}
    assert client.set_multi(mapping) == []
    assert client.get_multi(mapping) == mapping
    assert client.delete_multi(mapping)
    for _ in range(50):
        assert client.get('key') == 2
    # A connection is not mistaken for one that has something to say.
    assert statistic(client, 'total_connections') <= 4


def test_together(connect, folder, server):
    """Callers at the same time do not meet in one record."""
    client = connect(server.address, **folder.options())

    async def use(client):
        return [await client.incr('count') for _ in range(50)]

    client.set('count', 0)
    counts = [n for numbers in client.together(4, use) for n in numbers]
    assert sorted(counts) == list(range(1, 201))


@pytest.mark.parametrize('size', [16_380, 16_390, 300_000, 1_000_000])
def test_large_values(connect, folder, server, size):
    """Values of many records come and go whole."""
    client = connect(server.address, **folder.options(socket_timeout=20))
    value = os.urandom(size)
    assert client.set('key', value)
    assert client.get('key') == value


@pytest.mark.parametrize(
    'count, size', [(20_000, 1000), (5003, 3000), (30_000, 10), (70, 50_000)]
)
def test_many_keys(connect, folder, server, count, size):
    """However the values lie in records, no end of one is waited for.

    memcached does not read what OpenSSL keeps of the last record, unless it
    is told that there is more.

    """
    client = connect(server.address, **folder.options(socket_timeout=20))
    mapping = {f'key{number}': b'v' * size for number in range(count)}
    assert client.set_multi(mapping) == []
    found = client.get_multi(mapping)
    assert set(found.values()) == {b'v' * size}
    # It may have dropped some for want of memory.
    assert len(found) > 1000 or len(found) == count


def test_the_older_version_of_tls(connect, folder, server, monkeypatch):
    """TLS 1.2 is spoken with a server that knows no newer one."""
    create = ssl.create_default_context

    def create_older(**arguments):
        context = create(**arguments)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    monkeypatch.setattr(ssl, 'create_default_context', create_older)
    client = connect(server.address, **folder.options(socket_timeout=20))
    mapping = {f'key{number}': b'v' * 1000 for number in range(5000)}
    assert client.set_multi(mapping) == []
    assert client.get_multi(mapping) == mapping
    with connection(server.address, folder) as made:
        assert made._socket.version() == 'TLSv1.2'


def test_with_a_password(connect, folder, tmp_path):
    """The password goes through the encrypted connection."""
    folder.issue('server')
    (tmp_path / 'users').write_text('alice:secret\n')
    with folder.server('ssl_session_cache') as server:
        server.stop()
        server.arguments = (*server.arguments, '-Y', str(tmp_path / 'users'))
        server.start()
        client = connect(
            server.address,
            **folder.options(username='alice', password='secret'),
        )
        assert client.set('key', 'value')
        assert client.get('key') == 'value'


def test_a_unix_socket(connect, folder, tmp_path):
    """There the certificate has to have the name that is set."""
    folder.issue('server', 'cache.example.com')

    def script(secure):
        assert secure.recv(100) == b'get key\r\n'
        secure.sendall(b'VALUE key 16 5\r\nvalue\r\nEND\r\n')
        # A client that goes away with something unread may look broken.
        with contextlib.suppress(ConnectionError):
            secure.recv(1)

    # memcached itself has no TLS on unix sockets.
    with Front(folder, script, str(tmp_path / 'socket')) as front:
        client = connect(
            front.address,
            **folder.options(tls_server_name='cache.example.com'),
        )
        assert client.get('key') == 'value'
        client.disconnect_all()
    for address in ('unix:/tmp/m', f'127.0.0.1,{front.address}'):
        with pytest.raises(ValueError, match='no tls_server_name for unix:'):
            memcached.Client(servers=address, **folder.options())
    other = memcached.Client(**folder.options())
    with pytest.raises(ValueError, match='no tls_server_name for unix:'):
        other.set_servers([front.address])
    assert other.servers[0].port == settings.DEFAULT_PORT


def test_from_the_environment(folder, server, monkeypatch):
    """Each is an option like any other."""
    monkeypatch.setenv('MEMCACHED_SERVERS', server.address)
    monkeypatch.setenv('MEMCACHED_TLS', 'true')
    monkeypatch.setenv('PAGES_MEMCACHED_TLS_CA_FILE', folder.file('ca.pem'))
    client = memcached.Client('pages')
    assert client.set('key', 'value')
    client.disconnect_all()


# What is not good


EXPIRED = {'not_before': NOW - 3 * DAY, 'not_after': NOW - DAY}
TOO_EARLY = {'not_before': NOW + DAY, 'not_after': NOW + 3 * DAY}


@pytest.mark.parametrize(
    'names, options, reason',
    [
        ([], EXPIRED, 'certificate has expired'),
        ([], TOO_EARLY, 'certificate is not yet valid'),
        (['127.0.0.2'], {}, "not valid for '127.0.0.1'"),
        (['localhost'], {}, "not valid for '127.0.0.1'"),
        ([], {'ca': trustme.CA()}, 'certificate verify failed'),
    ],
    ids=['expired', 'too early', 'wrong address', 'wrong name', 'unknown'],
)
def test_a_bad_certificate_is_a_failure(
    connect, folder, caplog, names, options, reason
):
    """Nothing is sent, and the reason is logged once."""
    folder.issue('server', *names, **options)
    with folder.server() as server:
        client = connect(server.address, **folder.options())
        assert not client.set('key', 'value')
        assert client.get('key', 'default') == 'default'
        assert client.set_multi({'a': 1}) == ['a']
        (warning,) = warnings(caplog)
        assert reason in warning
        assert server.address in warning


def test_the_name_to_verify_can_be_set(connect, folder, caplog):
    """Behind an address, the certificate is verified for that name only."""
    folder.issue('server', 'cache.example.com')
    with folder.server() as server:
        good = connect(
            server.address,
            **folder.options(tls_server_name='cache.example.com'),
        )
        bad = connect(
            server.address,
            **folder.options(tls_server_name='other.example.com'),
        )
        assert good.set('key', 'value')
        assert bad.get('key') is None
        assert "not valid for 'other.example.com'" in caplog.text
        assert good.get('key') == 'value'


def test_the_system_does_not_trust_our_authority(connect, server, caplog):
    """Without a file it is the system's authorities that count."""
    client = connect(server.address, tls=True)
    assert client.get('key') is None
    assert 'certificate verify failed' in caplog.text


@pytest.mark.parametrize('what', ['file', 'folder'])
def test_the_systems_authorities_without_a_descriptor(
    connect, folder, server, monkeypatch, descriptors, what
):
    """They cannot be read: the call fails, and the next one is well."""
    authority = ssl.PEM_cert_to_DER_cert(folder.ca.cert_pem.bytes().decode())
    monkeypatch.setenv('SSL_CERT_FILE', folder.file('none.pem'))
    monkeypatch.setenv('SSL_CERT_DIR', folder.file('none'))
    if what == 'file':
        monkeypatch.setenv('SSL_CERT_FILE', folder.file('ca.pem'))
    else:
        if not shutil.which('openssl'):
            pytest.skip('openssl is needed')
        subprocess.run(['openssl', 'rehash', folder.path], check=True)
        monkeypatch.setenv('SSL_CERT_DIR', str(folder.path))
    certificates._contexts.forget_after_fork()
    client = connect(server.address, tls=True, dead_retry=3600)
    with descriptors(1):
        assert not client.set('key', 'value')
    assert client.set('key', 'value')
    trusted = certificates.context(certificates.Files(None, None, None))
    assert authority in trusted.get_ca_certs(binary_form=True)
    certificates._contexts.forget_after_fork()


@pytest.fixture
def lax(monkeypatch):
    """A system that is content with whatever encrypts.

    Return what makes a context so.
    """
    make = ssl.create_default_context

    def loosen(context):
        with catch_warnings(DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers('ALL:@SECLEVEL=0')
        return context

    monkeypatch.setattr(
        ssl,
        'create_default_context',
        lambda *args, **kwargs: loosen(make(*args, **kwargs)),
    )
    return loosen


@contextlib.contextmanager
def catch_warnings(category):
    with warnings_module.catch_warnings():
        warnings_module.simplefilter('ignore', category)
        yield


@pytest.mark.parametrize(
    'version, spoken',
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)],
    ids=['1.1', '1.2'],
)
def test_old_versions_are_not_spoken(
    connect, folder, lax, version, spoken, caplog
):
    """Whatever the system allows."""
    folder.issue('server')
    shaken = []

    def answer(secure):
        shaken.append(secure.version())
        secure.recv(100)
        secure.sendall(b'END\r\n')

    class Refused(Front):
        def _serve(self):
            with contextlib.suppress(ssl.SSLError):
                super()._serve()

    with Refused(folder, answer) as front:
        lax(front.context)
        with catch_warnings(DeprecationWarning):
            front.context.maximum_version = version
        connect(front.address, **folder.options()).get('key')
    assert shaken == (['TLSv1.2'] if spoken else [])
    assert ('is down' in caplog.text) != spoken


def test_there_is_no_way_around_verification(folder):
    """Whatever is set, certificates and names are verified."""
    folder.issue('client')
    for files in (
        certificates.Files(None, None, None),
        certificates.Files(folder.file('ca.pem'), None, None),
        folder.files,
    ):
        context = certificates.context(files)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not [n for n in settings.OPTIONS if 'verif' in n or 'secure' in n]


def test_a_server_without_tls(connect, folder, memcached_server, caplog):
    """It gets no command, and is down."""
    client = connect(
        memcached_server.address, **folder.options(socket_timeout=2)
    )
    assert client.get('key') is None
    assert not client.set('key', 'value')
    assert len(warnings(caplog)) == 1


def test_a_client_without_tls(connect, server, caplog):
    """What the server says to it is no answer."""
    client = connect(server.address, socket_timeout=2)
    assert client.get('key') is None
    assert not client.set('key', 'value')
    assert len(warnings(caplog)) == 1


ANSWERS = {
    'silence': ([faults.Do.STALL], 'timed out in the TLS handshake'),
    'closed': ([faults.Do.CLOSE], ''),
    'reset': ([faults.Do.RESET], ''),
    'garbage': ([b'ERROR\r\n' * 5], 'WRONG_VERSION_NUMBER'),
    'a part of it': ([b'\x16\x03\x03\x00\x7a\x02', faults.Do.STALL], 'timed'),
    'a drip of it': ([b'\x16\x03\x03\x3f\xff\x02', *[b'\0', 0.02] * 100], ''),
}


@pytest.mark.parametrize('answer', ANSWERS)
def test_a_handshake_that_comes_to_nothing(connect, folder, caplog, answer):
    """It ends by the call's deadline, however little comes, or at once."""
    steps, reason = ANSWERS[answer]

    async def answer_hello(connection):
        await connection.read()
        await connection.play(steps)

    with faults.ScriptedServer(answer_hello) as server:
        client = connect(server.address, **folder.options(socket_timeout=0.4))
        began = time.monotonic()
        assert client.get('key', 'default') == 'default'
        assert time.monotonic() - began < 2
        assert client.get('key', 'default') == 'default'
        assert len(server.connections) == 1
        server.release()
    (warning,) = warnings(caplog)
    assert reason in warning


def test_a_server_that_hangs_after_the_handshake(connect, folder, server):
    """The deadline bounds writing and reading too."""
    client = connect(server.address, **folder.options(socket_timeout=0.5))
    assert client.set('key', 'value')
    server.pause()
    began = time.monotonic()
    mapping = {f'key{number}': b'v' * 100_000 for number in range(100)}
    assert client.set_multi(mapping) == list(mapping)
    assert time.monotonic() - began < 3
    server.resume()
    client.forget_dead_hosts()
    assert client.get('key') == 'value'


def test_a_restart_goes_unnoticed(connect, folder, server):
    """A connection that was closed while idle is replaced."""
    client = connect(server.address, **folder.options())
    assert client.set('key', 'value')
    server.restart()
    assert client.set('key', 'value')
    assert client.get('key') == 'value'


def test_a_server_that_takes_no_more_connections(folder, caplog):
    """It says so in clear; what it took before serves, and it is up."""
    folder.issue('server')
    with (
        folder.server(connections=64) as server,
        contextlib.ExitStack() as stack,
    ):
        client = memcached.Client(
            **folder.options(servers=server.address, socket_timeout=SECONDS)
        )
        stack.callback(client.disconnect_all)
        assert client.set('key', 'value')
        host, _, port = server.address.rpartition(':')
        refused = b''
        while not refused:
            other = socket.create_connection((host, int(port)), SECONDS)
            stack.enter_context(other)
            # One that is taken waits for us to begin.
            other.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                refused = other.recv(100)
        endpoint = client.servers[0].endpoint
        taken = endpoint.ready()
        late = threading.Timer(0.2, taken.put_back)
        late.start()
        assert client.get('key') == 'value'
        late.join()
        assert endpoint.retry_at is None
    (warning,) = warnings(caplog)
    assert 'takes no more connections' in warning


# Certificates of clients


def test_a_server_that_wants_a_certificate(connect, folder, caplog):
    """One whose authority the server trusts is let in, no other is."""
    folder.issue('server')
    folder.issue('client', 'client')
    folder.issue('stranger', 'client', ca=trustme.CA())
    wants = (f'ssl_ca_cert={folder.file("ca.pem")}', 'ssl_verify_mode=2')
    with folder.server(*wants) as server:
        good = connect(
            server.address,
            **folder.options(
                tls_cert_file=folder.file('client.pem'),
                tls_key_file=folder.file('client.key'),
            ),
        )
        assert good.set('key', 'value')
        for others in (
            {},
            {
                'tls_cert_file': folder.file('stranger.pem'),
                'tls_key_file': folder.file('stranger.key'),
            },
        ):
            caplog.clear()
            bad = connect(server.address, **folder.options(**others))
            assert bad.get('key') is None
            assert not bad.set('key', 'worse')
            assert len(warnings(caplog)) == 1
        assert good.get('key') == 'value'


def test_a_certificate_with_its_key_in_one_file(connect, folder, tmp_path):
    """It needs no second option."""
    folder.issue('server')
    folder.issue('client', 'client')
    both = tmp_path / 'both.pem'
    both.write_bytes(
        (tmp_path / 'client.pem').read_bytes()
        + (tmp_path / 'client.key').read_bytes()
    )
    wants = (f'ssl_ca_cert={folder.file("ca.pem")}', 'ssl_verify_mode=2')
    with folder.server(*wants) as server:
        client = connect(server.address, **folder.options(tls_cert_file=both))
        assert client.set('key', 'value')


# Replaced while running


def refresh(address, folder):
    """Have the server read its certificate anew, which it does in a while."""
    host, port = address.split(':')
    context = ssl.create_default_context(cafile=folder.file('ca.pem'))
    with (
        socket.create_connection((host, int(port)), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b'refresh_certs\r\n')
        assert secure.recv(100) == b'OK\r\n'


def test_a_new_certificate_of_a_new_authority(connect, folder, server, caplog):
    """Once the file of authorities is replaced, it is trusted."""
    client = connect(server.address, **folder.options(dead_retry=0))
    assert client.set('key', 'value')
    authority = trustme.CA()
    folder.issue('server', ca=authority)
    refresh(server.address, folder)
    # The connection that there is goes on.
    assert client.get('key') == 'value'
    client.disconnect_all()
    assert client.get('key') is None
    assert 'certificate verify failed' in caplog.text
    folder.trust(folder.ca, authority)
    assert client.get('key') == 'value'


def test_a_new_certificate_of_the_client(connect, folder):
    """A client's own certificate is read anew, too."""
    folder.issue('server')
    folder.issue('client', ca=trustme.CA())
    wants = (f'ssl_ca_cert={folder.file("ca.pem")}', 'ssl_verify_mode=2')
    with folder.server(*wants) as server:
        client = connect(
            server.address,
            **folder.options(
                dead_retry=0,
                tls_cert_file=folder.file('client.pem'),
                tls_key_file=folder.file('client.key'),
            ),
        )
        assert client.get('key', 'default') == 'default'
        assert not client.set('key', 'value')
        folder.issue('client')
        assert client.set('key', 'value')


def test_a_context_is_made_once(folder):
    """It is the same for as long as the files are."""
    folder.issue('client')
    files = folder.files
    first = certificates.context(files)
    assert certificates.context(files) is first
    folder.issue('client')
    assert certificates.context(files) is not first


def test_files_that_are_no_good_are_not_used(folder, caplog, tmp_path):
    """With a certificate there, and not its key yet, the old two serve."""
    folder.issue('client')
    files = folder.files
    first = certificates.context(files)
    key = (tmp_path / 'client.key').read_bytes()
    folder.issue('client')
    new_key = (tmp_path / 'client.key').read_bytes()
    (tmp_path / 'client.key').write_bytes(key)
    for _ in range(3):
        assert certificates.context(files) is first
    (warning,) = warnings(caplog)
    assert 'client.pem' in warning
    (tmp_path / 'client.key').unlink()
    with pytest.raises(OSError, match=r'client\.key: No such file'):
        certificates.context(files)
    (tmp_path / 'client.key').write_bytes(new_key)
    assert certificates.context(files) is not first


@pytest.mark.parametrize('reason', ['no descriptor', 'half of a file'])
def test_new_files_are_used_once_they_can_be(folder, caplog, tmp_path, reason):
    """Nothing changes them once more: what was wrong is over by then."""
    folder.issue('client')
    files = folder.files
    first = certificates.context(files)
    folder.issue('client')
    if reason == 'no descriptor':
        with faults.descriptors(0):
            assert certificates.context(files) is first
            assert certificates.context(files) is first
    else:
        path = tmp_path / 'client.pem'
        whole = path.read_bytes()
        path.write_bytes(b'\n' * len(whole))
        before = path.stat()
        assert certificates.context(files) is first
        path.write_bytes(whole)
        # It is written on in the moment in which it was looked at.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = certificates.context(files)
    assert new is not first
    assert certificates.context(files) is new
    assert len(warnings(caplog)) == 1


# One connection


def test_session_tickets_are_nothing_to_say(folder, server):
    """What TLS 1.3 sends after the handshake is no data, and no end."""
    with connection(server.address, folder) as made:
        assert made._poll.poll(SECONDS * 1000)
        assert made.is_quiet()
        assert not made._poll.poll(0)
        command = tls.connection.protocol.Version()
        made.exchange([command], time.monotonic() + SECONDS)
        assert command.result
        assert made.is_quiet()
        server.kill()
        assert made._poll.poll(SECONDS * 1000)
        assert not made.is_quiet()


def test_data_that_nobody_asked_for_is_something_to_say(folder):
    """An idle connection on which a reply comes is not used any more."""
    folder.issue('server')
    sent = threading.Event()

    def script(secure):
        secure.sendall(b'VERSION 1\r\n')
        sent.set()
        secure.recv(1)

    with (
        Front(folder, script) as front,
        connection(front.address, folder) as made,
    ):
        assert sent.wait(SECONDS)
        assert made._poll.poll(SECONDS * 1000)
        assert not made.is_quiet()


def test_a_reply_in_any_number_of_records(folder):
    """A value comes whole, a byte a record or with its neighbour in one."""
    folder.issue('server')
    answer = b'VALUE a 0 3\r\nabc\r\nVALUE b 0 0\r\n\r\nEND\r\n'

    def script(secure):
        for _ in range(3):
            assert secure.recv(100) == b'get a b\r\n'
            for at in range(len(answer)):
                secure.sendall(answer[at : at + 1])
            assert secure.recv(100) == b'get a b\r\n'
            secure.sendall(answer)

    with (
        Front(folder, script) as front,
        connection(front.address, folder) as made,
    ):
        for _ in range(6):
            command = tls.connection.protocol.Get({b'a': None, b'b': None})
            made.exchange([command], time.monotonic() + SECONDS)
            assert command.found[b'a'][1] == b'abc'
            assert command.found[b'b'][1] == b''


# What is wrong with the options


def encrypt(folder, name):
    """Encrypt a key, so that it takes a passphrase."""
    path = folder.path / f'{name}.key'
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b'secret'),
        )
    )


def test_options_that_make_no_sense(folder, tmp_path):
    """Each is an error when the client is made, which names it."""
    folder.issue('a')
    folder.issue('b')
    folder.issue('encrypted')
    encrypt(folder, 'encrypted')
    (tmp_path / 'text').write_text('no certificate')
    ca, cert, key = map(folder.file, ('ca.pem', 'a.pem', 'a.key'))
    for options, message in (
        ({'tls_ca_file': ca}, 'tls_ca_file: no tls with it'),
        ({'tls_cert_file': cert}, 'tls_cert_file: no tls with it'),
        ({'tls_server_name': 'a'}, 'tls_server_name: no tls with it'),
        ({'tls': False, 'tls_ca_file': ca}, 'tls_ca_file: no tls with it'),
        (
            {'tls': True, 'tls_key_file': key},
            'tls_key_file: no tls_cert_file with it',
        ),
        (
            {'tls': True, 'tls_ca_file': '/no/such/file'},
            "tls_ca_file: '/no/such/file' cannot be read: No such file",
        ),
        (
            {'tls': True, 'tls_ca_file': str(tmp_path)},
            'cannot be read: Is a directory',
        ),
        ({'tls': True, 'tls_ca_file': 1}, 'tls_ca_file: 1 is no path'),
        ({'tls': True, 'tls_ca_file': folder.file('text')}, 'text: '),
        ({'tls': True, 'tls_cert_file': folder.file('text')}, 'text: '),
        ({'tls': True, 'tls_cert_file': cert}, 'a.pem: '),
        (
            {
                'tls': True,
                'tls_cert_file': cert,
                'tls_key_file': folder.file('b.key'),
            },
            'b.key: ',
        ),
        (
            {
                'tls': True,
                'tls_cert_file': folder.file('encrypted.pem'),
                'tls_key_file': folder.file('encrypted.key'),
            },
            'the key is encrypted',
        ),
        ({'tls': True, 'tls_server_name': 'a b'}, "'a b' is no name"),
        ({'tls': 'perhaps'}, "tls: 'perhaps' is neither true nor false"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            memcached.Client(**options)


def test_an_error_names_the_variable(folder, monkeypatch):
    """For an option of the environment it is the variable."""
    monkeypatch.setenv('PAGES_MEMCACHED_TLS', 'yes')
    monkeypatch.setenv('MEMCACHED_TLS_CERT_FILE', folder.file('ca.pem'))
    with pytest.raises(
        ValueError, match=r'^MEMCACHED_TLS_CERT_FILE: .*ca\.pem'
    ):
        memcached.Client('pages')


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)
