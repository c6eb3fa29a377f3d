"""What the environment says, and what is wrong with it."""

import socket
import threading

import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.testing import MemcachedServer

PASSWORD = 'hunter2'


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """Begin without any variable of ours."""
    for name in settings.OPTIONS:
        for prefix in (None, 'pages'):
            monkeypatch.delenv(settings.variable(name, prefix), raising=False)


# Servers

SERVERS = {
    'a': ['a'],
    'a:1': ['a:1'],
    'a:1:2': [('a:1', 2)],
    'a:1:1': [('a:1', 1)],
    'cache-1.example.com:11212': ['cache-1.example.com:11212'],
    '127.0.0.1:11211': ['127.0.0.1:11211'],
    '127.0.0.1:11211:64,127.0.0.2:11211:64': [
        ('127.0.0.1:11211', 64),
        ('127.0.0.2:11211', 64),
    ],
    'a,b:1,c:1:3': ['a', 'b:1', ('c:1', 3)],
    ' a:1 , b:1:2 ': ['a:1', ('b:1', 2)],
    '\ta:1\n': ['a:1'],
    'a:1,': ['a:1'],
    'a:1,,b:1': ['a:1', 'b:1'],
    ',a:1': ['a:1'],
    '[::1]': ['[::1]'],
    '[::1]:1': ['[::1]:1'],
    '[::1]:1:2': [('[::1]:1', 2)],
    '[fe80::1%eth0]:1': ['[fe80::1%eth0]:1'],
    '[::ffff:127.0.0.1]:1': ['[::ffff:127.0.0.1]:1'],
    'unix:/run/memcached.sock': ['unix:/run/memcached.sock'],
    'unix:/run/memcached.sock:2': [('unix:/run/memcached.sock', 2)],
    'unix:/run/with blank/m': ['unix:/run/with blank/m'],
    'inet:a:1': ['inet:a:1'],
    'inet:a:1:2': [('inet:a:1', 2)],
    'inet6:[::1]:1': ['inet6:[::1]:1'],
    'inet6:[::1]:1:2': [('inet6:[::1]:1', 2)],
    'inet6:[::1]': ['inet6:[::1]'],
    'a:65535': ['a:65535'],
}


@pytest.mark.parametrize('text', SERVERS)
def test_servers_in_every_form(monkeypatch, text):
    """Strings, and (string, weight) for those with a weight."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', text)
    assert memcached._get_servers('pages') == SERVERS[text]
    assert memcached.Client('pages')._shared.settings.servers == SERVERS[text]


ADDRESSES = {
    'a': (socket.AF_INET, ('a', 11211), 1),
    'a:1:2': (socket.AF_INET, ('a', 1), 2),
    'inet:a:1': (socket.AF_INET, ('a', 1), 1),
    '[::1]:1:2': (socket.AF_INET6, ('::1', 1), 2),
    '[::1]': (socket.AF_INET6, ('::1', 11211), 1),
    'inet6:[::1]:1': (socket.AF_INET6, ('::1', 1), 1),
    'unix:/a/b:2': (socket.AF_UNIX, '/a/b', 2),
}


@pytest.mark.parametrize('text', ADDRESSES)
def test_servers_have_the_attributes_of_python_memcacheds(text):
    """Their family, address and weight; the port is 11211 if not given."""
    [server] = memcached.Client(servers=text).servers
    assert (server.family, server.address, server.weight) == ADDRESSES[text]


@pytest.mark.parametrize(
    'options', [{}, {'host': '::1'}, {'unix': True}, {'host': 'localhost'}]
)
@pytest.mark.parametrize('weight', ['', ':2'])
def test_servers_of_each_kind_are_connected_to(options, weight):
    """IPv4, IPv6, a unix socket, a name."""
    with MemcachedServer(**options) as server:
        client = memcached.Client(servers=server.address + weight)
        assert client.set('key', 'value')
        assert client.get('key') == 'value'
        client.disconnect_all()


MALFORMED = {
    'a:': "'a:' is not of the form",
    ':1': "':1' is not of the form",
    'a:b': "'a:b' is not of the form",
    'a:1:b': "'a:1:b' is not of the form",
    'a:1:2:3': "'a:1:2:3' is not of the form",
    'a:-1': "'a:-1' is not of the form",
    'a b:1': "'a b:1' is not of the form",
    'ok:1,a b:1,ok:2': "'a b:1' is not of the form",
    'a;b': None,
    '::1': "'::1' is not of the form",
    '::1:11211': "'::1:11211' is not of the form",
    '[::1': r"'\[::1' is not of the form",
    '[::1]1': r"'\[::1\]1' is not of the form",
    '[]:1': r"'\[\]:1' is not of the form",
    '[a]:1': None,
    'unix:': "'unix:' is not of the form",
    'memcached://a:1': "'memcached://a:1' is not of the form",
    'a:0': "port 0 of 'a:0' is not between 1 and 65535",
    'a:65536': "port 65536 of 'a:65536' is not between 1 and 65535",
    'a:99999:2': "port 99999 of 'a:99999:2'",
    'a:1:0': "weight 0 of 'a:1:0' is not between 1 and 1000000",
    'a:1:1000001': "weight 1000001 of 'a:1:1000001' is not between 1 and",
    'b:1,a:1:2000000': 'weight 2000000 of',
    'unix:/a:1000001': "weight 1000001 of 'unix:/a:1000001'",
    ',': "',' names no server",
    ' , ': 'names no server',
    'a:1\n:2': 'is not of the form',
    'a:\u0661': None,
    'user@a:1': None,
    '"a"': None,
    '[1.2.3.4]:1': None,
}


@pytest.mark.parametrize('text', [t for t in MALFORMED if MALFORMED[t]])
def test_a_malformed_server_is_named(monkeypatch, text):
    """With the variable, the bad part, and what is wrong with it."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', text)
    expected = f'^PAGES_MEMCACHED_SERVERS: .*{MALFORMED[text]}'
    for call in (memcached._get_servers, memcached.Client):
        with pytest.raises(ValueError, match=expected):
            call('pages')


@pytest.mark.parametrize('text', [t for t in MALFORMED if not MALFORMED[t]])
def test_a_malformed_server_is_refused(monkeypatch, text):
    """Whatever it is."""
    monkeypatch.setenv('MEMCACHED_SERVERS', text)
    with pytest.raises(ValueError, match=r'^MEMCACHED_SERVERS: '):
        memcached.Client()


def test_the_error_says_what_is_expected(monkeypatch):
    """The forms that a server may have."""
    monkeypatch.setenv('MEMCACHED_SERVERS', 'a:b')
    with pytest.raises(ValueError, match=r'host\[:port\]\[:weight\].*unix:'):
        memcached.Client()


@pytest.mark.parametrize(
    'text',
    [
        f'memcached://user:{PASSWORD}@a:1',
        f'user:{PASSWORD}@a:1',
        f'ok:1,user:{PASSWORD}@a:1:2',
        f'user:{PASSWORD}@a:0',
        f'user:{PASSWORD}@a:1:0',
        f'user:{PASSWORD}@[::1]:1',
        f'u:{PASSWORD}@a,b',
        f'u:{PASSWORD},{PASSWORD}@a:1',
    ],
)
def test_a_password_in_the_servers_is_not_shown(monkeypatch, text):
    """Somebody may write a URL."""
    monkeypatch.setenv('MEMCACHED_SERVERS', text)
    with pytest.raises(ValueError, match=r'^MEMCACHED_SERVERS: ') as caught:
        memcached.Client()
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


# Which variable counts


def test_the_default_server():
    """With neither variable."""
    assert memcached.DEFAULT_SERVER == '127.0.0.1:11211'
    assert memcached._get_servers(None) == ['127.0.0.1:11211']
    assert memcached._get_servers('') == ['127.0.0.1:11211']
    assert memcached._get_servers('pages') == ['127.0.0.1:11211']


def test_the_variable_without_prefix_is_the_next_best(monkeypatch):
    """For a prefix whose own variable is not set."""
    monkeypatch.setenv('MEMCACHED_SERVERS', 'all:1')
    assert memcached._get_servers('pages') == ['all:1']
    assert memcached._get_servers(None) == ['all:1']
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', 'pages:1')
    assert memcached._get_servers('pages') == ['pages:1']
    assert memcached._get_servers(None) == ['all:1']


@pytest.mark.parametrize('prefix', ['pages', 'PAGES', 'Pages'])
def test_the_prefix_is_upper_cased(monkeypatch, prefix):
    """However it is written."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', 'pages:1')
    assert memcached._get_servers(prefix) == ['pages:1']


@pytest.mark.parametrize('empty', ['', ' ', '\t\n'])
def test_an_empty_variable_counts_as_unset(monkeypatch, empty):
    """Of each option, with a prefix and without."""
    for name in settings.OPTIONS:
        monkeypatch.setenv(settings.variable(name, 'pages'), empty)
    read = settings.Settings('pages', {})
    assert set(read.sources.values()) == {'default'}
    for name in settings.OPTIONS:
        monkeypatch.setenv(settings.variable(name, None), empty)
    read = settings.Settings('pages', {})
    assert set(read.sources.values()) == {'default'}
    assert read.servers == ['127.0.0.1:11211']


def test_an_empty_variable_leaves_the_next_best(monkeypatch):
    """An empty one with the prefix does not hide the one without."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', '')
    monkeypatch.setenv('MEMCACHED_SERVERS', 'all:1')
    assert memcached._get_servers('pages') == ['all:1']


GOOD = {
    'servers': ('a:1', ['a:1']),
    'socket_timeout': ('0.5', 0.5),
    'dead_retry': ('0', 0),
    'max_connections': ('7', 7),
    'key_prefix': ('app-', b'app-'),
    'min_compress_len': ('1024', 1024),
    'max_value_len': ('0', 0),
    'max_parts': ('8', 8),
    'max_discovered': ('7', 7),
    'failover': ('no', False),
}


@pytest.mark.parametrize('name', GOOD)
def test_each_option_by_prefix_by_default_and_by_keyword(monkeypatch, name):
    """A keyword wins over both variables."""
    text, value = GOOD[name]
    default = settings.OPTIONS[name].default

    def read(**options):
        read = settings.Settings('pages', options)
        return getattr(read, name), read.sources[name]

    assert read() == (default, 'default')
    monkeypatch.setenv(settings.variable(name, None), text)
    assert read() == (value, f'MEMCACHED_{name.upper()}')
    monkeypatch.setenv(settings.variable(name, 'pages'), text)
    assert read() == (value, f'PAGES_MEMCACHED_{name.upper()}')
    assert read(**{name: text}) == (value, 'keyword')
    assert read(**{name: None}) == (value, f'PAGES_MEMCACHED_{name.upper()}')
    monkeypatch.setenv(settings.variable(name, 'pages'), 'no \x01 value')
    assert read(**{name: value}) == (value, 'keyword')


BAD = {
    'socket_timeout': [
        *('0', '-1', 'x', 'nan', 'inf', '1,5', '3s'),
        *('2000001', '3e6', '1e300', '9' * 400),
    ],
    'dead_retry': ['-1', 'x', 'nan', 'inf', '30s'],
    'max_connections': ['0', '-1', '1.5', 'x'],
    'key_prefix': ['a b', 'a\nb', 'a\n', '\x7f', 'x' * 250, 'a\tb'],
    'min_compress_len': ['-1', '1.5', 'x', '1k'],
    'max_value_len': ['-1', '1.5', 'x', '4m'],
    'max_parts': ['-1', '1.5', 'x', '1025'],
    'max_discovered': ['0', '-1', '1.5', 'x'],
    'failover': ['maybe', '2', 'x'],
}


@pytest.mark.parametrize(
    'name, text', [(name, text) for name in BAD for text in BAD[name]]
)
def test_a_bad_value_is_named(monkeypatch, name, text):
    """With the variable or the keyword that it is in."""
    with pytest.raises(ValueError, match=f'^{name}: '):
        memcached.Client(**{name: text})
    for prefix in (None, 'pages'):
        variable = settings.variable(name, prefix)
        monkeypatch.setenv(variable, text)
        with pytest.raises(ValueError, match=f'^{variable}: ') as caught:
            memcached.Client('pages')
        if len(text) < 100:
            assert repr(text) in str(caught.value)


@pytest.mark.parametrize('length', ['0', '1023'])
def test_parts_take_a_length(monkeypatch, length):
    """What has no limit is in no parts, nor in those of a few bytes."""
    monkeypatch.setenv('MEMCACHED_MAX_VALUE_LEN', length)
    assert memcached.Client(max_parts=1).get
    monkeypatch.setenv('PAGES_MEMCACHED_MAX_PARTS', '2')
    with pytest.raises(
        ValueError, match=r'^PAGES_MEMCACHED_MAX_PARTS: '
    ) as caught:
        memcached.Client('pages')
    assert f'a max_value_len of {length}; expected' in str(caught.value)
    with pytest.raises(ValueError, match=r'^max_parts: '):
        memcached.AsyncClient(max_parts=2)


KEYWORDS = {
    'servers': [
        *([], [('a:1', 0)], [('a:1', '2')], ['a:b'], [7], [('a', 1, 2)]),
        *([('a:1', 1_000_001)], ['a:1:1000001']),
    ],
    'socket_timeout': [
        *(0, -1, float('nan'), float('inf'), 'x', []),
        *(2_000_001, 10**400),
    ],
    'dead_retry': [-1, float('nan'), object(), 10**400],
    'max_connections': [0, -1, 1.5, 'x', [], float('inf'), float('nan')],
    'max_idle': [0, 10**400],
    'key_prefix': [b'a b', 7, ['a']],
    'min_compress_len': [-1, 1.5],
    'max_value_len': [-1, 1.5, '4m'],
    'max_parts': [-1, 1.5, 'x', 1025],
    'max_discovered': [0, 1.5, 'x'],
    'failover': [7, 'x', []],
}


@pytest.mark.parametrize(
    'name, value',
    [(name, value) for name in KEYWORDS for value in KEYWORDS[name]],
)
def test_a_bad_keyword_is_named(name, value):
    """Whatever its type is."""
    with pytest.raises(ValueError, match=f'^{name}: '):
        memcached.Client(**{name: value})


def test_the_longest_timeout_is_one(memcached_server):
    """Of a client, and of its connections."""
    client = memcached.Client(
        servers=memcached_server.address,
        socket_timeout=settings.LONGEST_TIMEOUT,
        max_idle=settings.LONGEST_TIMEOUT,
    )
    with client:
        assert client.set('key', 'value')
        assert client.get_multi(['key']) == {'key': 'value'}


def test_the_greatest_weight_is_one():
    """As text and apart."""
    most = settings.MOST_WEIGHT
    for servers in (f'a:1:{most},b:1', [('a:1', most), 'b:1']):
        client = memcached.Client(servers=servers)
        assert len(client.buckets) == most + 1


def test_servers_as_a_keyword_are_what_get_servers_returns():
    """A string as in the variable, or a list of strings and weights."""
    expected = ['a:1', ('b:1', 2)]
    for servers in ('a:1,b:1:2', ['a:1', 'b:1:2'], expected, tuple(expected)):
        read = settings.Settings(None, {'servers': servers})
        assert read.servers == expected


@pytest.mark.parametrize('text', ['1', 'true', 'True', 'YES', ' on '])
def test_what_is_true(monkeypatch, text):
    """In any case, with blanks around."""
    monkeypatch.setenv('MEMCACHED_FAILOVER', text)
    assert settings.Settings(None, {}).failover is True


@pytest.mark.parametrize('text', ['0', 'false', 'False', 'NO', ' off '])
def test_what_is_false(monkeypatch, text):
    """In any case, with blanks around."""
    monkeypatch.setenv('MEMCACHED_FAILOVER', text)
    assert settings.Settings(None, {}).failover is False


def test_an_unknown_option_is_an_error():
    """It is named, with those that there are."""
    for kind in (memcached.Client, memcached.AsyncClient):
        with pytest.raises(TypeError, match=r"'timeout'.*socket_timeout"):
            kind(timeout=3)


@pytest.mark.parametrize('prefix', [7, b'pages', ['pages']])
def test_a_prefix_that_is_no_text_is_an_error(prefix):
    """It is named."""
    for kind in (memcached.Client, memcached.AsyncClient):
        with pytest.raises(TypeError, match=r'^prefix is '):
            kind(prefix)


# Once


def test_the_environment_is_read_once_for_all_threads(monkeypatch):
    """Whenever a thread comes, it has what the others have."""
    monkeypatch.setenv('MEMCACHED_SERVERS', 'first:1')
    monkeypatch.setenv('MEMCACHED_SOCKET_TIMEOUT', '1')
    client = memcached.Client()
    monkeypatch.setenv('MEMCACHED_SERVERS', 'broken:broken')
    monkeypatch.setenv('MEMCACHED_SOCKET_TIMEOUT', 'broken')
    seen = []

    def look():
        seen.append((client.servers[0].ip, client.socket_timeout))

    for _ in range(3):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    look()
    assert seen == [('first', 1.0)] * 4


def test_the_options_reach_the_client(monkeypatch):
    """Those that python-memcached has are its attributes."""
    monkeypatch.setenv('PAGES_MEMCACHED_SOCKET_TIMEOUT', '1.5')
    monkeypatch.setenv('PAGES_MEMCACHED_DEAD_RETRY', '7')
    client = memcached.Client('pages')
    assert client.socket_timeout == 1.5
    assert client.dead_retry == 7
    assert memcached.Client().socket_timeout == 3
    assert memcached.Client().dead_retry == 30


def test_the_key_prefix_is_put_before_every_key(memcached_server):
    """Of each method; what is returned is without it."""
    plain = memcached.Client()
    client = memcached.Client(key_prefix='app-')
    assert client.set('a', 1)
    assert client.set_multi({'b': 2, 3: 3}, key_prefix='-') == []
    assert client.add((7, 'c'), 4)
    assert plain.get_multi(['app-a', 'app--b', 'app--3', 'app-c']) == {
        'app-a': 1,
        'app--b': 2,
        'app--3': 3,
        'app-c': 4,
    }
    assert client.get('a') == 1
    assert client.gets('a') == 1
    assert client.cas('a', 10)
    assert client.get_multi(['b', 3], key_prefix='-') == {'b': 2, 3: 3}
    assert client.incr('a') == 11
    assert client.append('a', '1')
    assert client.prepend('a', '1')
    assert client.replace('c', 5)
    assert client.touch('a', 60)
    assert plain.get('app-a') == 1111
    assert client.delete_multi(['b', 3], key_prefix='-') == 1
    assert client.delete('a')
    assert plain.get_multi(['app-a', 'app--b', 'app--3']) == {}
    for each in (plain, client):
        each.disconnect_all()


def test_a_key_with_its_prefix_has_250_bytes_at_most():
    """memcached counts both."""
    client = memcached.Client(servers='127.0.0.1:1', key_prefix='p' * 200)
    assert client.get('x' * 50) is None
    with pytest.raises(client.MemcachedKeyLengthError):
        client.get('x' * 51)
    with pytest.raises(client.MemcachedKeyLengthError):
        client.get_multi(['x' * 41], key_prefix='q' * 10)
