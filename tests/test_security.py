"""What was tried to break in, and comes to nothing.

``docs/security.rst`` lists these tests, and those in other files.

"""

import contextlib
import inspect
import itertools
import json
import logging
import os
import pathlib
import pickle
import re
import time
import tracemalloc
import zlib

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture(autouse=True)
def debugging(caplog):
    caplog.set_level(logging.DEBUG)


# Arguments

HOSTILE = [
    '0\r\nflush_all\r\n',
    b'0\r\nflush_all\r\n',
    'x\nflush_all\n',
    'x flush_all',
    '\r\n',
    'x 0 0 1\r\na\r\nflush_all',
    'x\0flush_all',
    '0 noreply',
    ' ',
    2**64,
    -1,
    1e300,
    float('nan'),
    10**5000,
    None,
    True,
    ['flush_all\r\n'],
    ('flush_all\r\n', 'flush_all\r\n'),
    (1, 'x\r\nflush_all\r\n'),
    {'x\r\nflush_all\r\n': 'x\r\nflush_all\r\n'},
]
GOOD = {
    'key': 'key',
    'keys': ['key'],
    'mapping': {'key': 'value'},
    'val': 'value',
    'default': None,
    'time': 60,
    'delta': 1,
    'min_compress_len': 0,
    'noreply': False,
    'key_prefix': 'p:',
    'stat_args': 'settings',
    'initial': 1,
    'timeout': 10,
    'kind': str,
}
METHODS = {
    name: list(inspect.signature(getattr(memcached.Client, name)).parameters)
    for name in (
        *('get', 'gets', 'gat', 'gats', 'get_multi', 'set', 'add', 'replace'),
        *('append', 'prepend', 'cas', 'set_multi', 'incr', 'decr', 'touch'),
        *('delete', 'delete_multi', 'get_stats'),
    )
    if hasattr(memcached.Client, name)
}


def calls():
    """Yield every method with every argument spoilt, one at a time."""
    for name, parameters in METHODS.items():
        for parameter in parameters[1:]:
            yield pytest.param(name, parameter, id=f'{name}-{parameter}')


@pytest.mark.parametrize('name, parameter', list(calls()))
@pytest.mark.parametrize('options', [{}, {'hash_bad_keys': True}], ids=str)
def test_no_argument_is_a_way_to_send_a_command(
    connect, address, name, parameter, options
):
    """It is refused, or is what it is: a key, a value, a time."""
    client = connect(address, **options)
    assert client.set('canary', 'alive')
    arguments = {p: GOOD[p] for p in METHODS[name][1:]}
    for value in HOSTILE:
        client.gets('key')
        # What is wrong with an argument raises; what is not, does not.
        with contextlib.suppress(Exception):
            getattr(client, name)(**arguments | {parameter: value})
        # The reply that comes next is the next one's.
        assert client.get('canary') == 'alive'
    statistics = wire.statistics(address)
    assert statistics['cmd_flush'] == '0'
    # Nobody told the server anything that it did not know.
    assert client.get_multi(['canary']) == {'canary': 'alive'}


@pytest.mark.parametrize('name', settings.OPTIONS)
@pytest.mark.parametrize(
    'text', ['x\r\nflush_all', 'x\nflush_all', 'flush_all\r\nx', 'x\0y']
)
def test_no_option_is_a_way_to_send_a_command(address, name, text):
    """Every one of them refuses line ends, and what is no text."""
    options = {'servers': address, name: text}
    if name == 'username':
        options['password'] = 'secret'
    if name == 'password':
        options['username'] = 'alice'
    if name.startswith('tls_'):
        options['tls'] = True
    with pytest.raises(ValueError, match=name):
        memcached.Client(**options)


@pytest.mark.parametrize(
    'value',
    [
        'END\r\n',
        '\r\nEND\r\n',
        'VALUE key 0 1\r\nx\r\nEND\r\n',
        'x\r\nflush_all\r\n',
        'STORED\r\nSTORED\r\n',
        b'\r\n' * 1000,
        '',
        b'\x00',
    ],
    ids=repr,
)
def test_a_value_may_look_like_the_protocol(connect, address, value):
    """It comes back as it was, and so do its neighbours."""
    client = connect(address)
    mapping = {'a': 'before', 'b': value, 'c': 'after'}
    assert client.set_multi(mapping) == []
    assert client.get_multi(mapping) == mapping
    assert client.get('b') == value
    assert wire.statistics(address)['cmd_flush'] == '0'


# Values that somebody else has put there


class Bomb:
    """It runs a command when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


PLANTED = [
    (flags | compressed, compressed)
    for flags in (1, 1 | 2, 1 | 16, 1 | 32, 1 | 64, 1 | 1 << 15)
    for compressed in (0, 8)
]


@pytest.mark.parametrize('flags, compressed', PLANTED)
def test_a_planted_pickle_does_not_go_off(
    connect, address, tmp_path, flags, compressed
):
    """With SERIALIZER=json there is no combination of flags for it."""
    path = str(tmp_path / 'exploded')
    data = pickle.dumps(Bomb(path))
    wire.put(
        address, 'key', flags, zlib.compress(data) if compressed else data
    )
    for options in ({'serializer': 'json'}, {'serializer': json}):
        client = connect(address, **options)
        assert client.get('key', 'default') == 'default'
        assert client.get_multi(['key']) == {}
        assert client.gets('key') is None
    assert not os.path.exists(path)
    # So that it is known to be one.
    pickle.loads(data)
    assert os.path.exists(path)


def zeros():
    """Return 64 MiB, which take a thousandth of that."""
    return zlib.compress(bytes(1 << 26), 9)


# They are made where they are used: it takes half a second.
BOMBS = {
    'an int': (2, lambda: b'9' * 1_000_000),
    'a long': (4, lambda: b'9' * 1_000_000),
    'an int, compressed': (2 | 8, lambda: zlib.compress(b'9' * 10_000_000)),
    'JSON, a number': (32, lambda: b'9' * 1_000_000),
    'JSON, lists': (32, lambda: b'[' * 1_000_000),
    'JSON, objects': (32, lambda: b'{"a":' * 100_000),
    'no text': (16, lambda: b'\xff' * 1_000_000),
    'no text, compressed': (16 | 8, zeros),
    'compressed twice': (8, lambda: zlib.compress(zeros() * 10, 9)[:-5]),
}


@pytest.mark.parametrize('name', BOMBS)
def test_a_bomb_is_a_miss(connect, address, name):
    """It takes little time and memory, whatever it would grow to."""
    flags, make = BOMBS[name]
    wire.put(address, 'key', flags, make())
    client = connect(address, serializer='json', socket_timeout=20)
    tracemalloc.start()
    try:
        began = time.monotonic()
        assert client.get('key', 'default') == 'default'
        assert time.monotonic() - began < 10
        assert tracemalloc.get_traced_memory()[1] < 50 * 1024 * 1024
    finally:
        tracemalloc.stop()


# Servers that are not what they say


def endless(piece, start=b''):
    """Return a script that answers without an end."""

    async def script(connection):
        await connection.request()
        await connection.send(start)
        block = piece * (65536 // len(piece) + 1)
        while True:
            await connection.send(block)

    return script


ENDLESS = {
    'a line': ('get', endless(b'x')),
    'a value line': ('get', endless(b'1', b'VALUE key ')),
    'an error': ('get', endless(b'x', b'SERVER_ERROR ')),
    'statistics': ('get_stats', endless(b'STAT a b\r\n' * 100)),
    'a version': ('set', endless(b'x', b'VERSION ')),
    'replies': ('set', endless(b'STORED\r\n')),
    'values': ('get', endless(b'VALUE key 0 1\r\nx\r\n')),
    'ends': ('get', endless(b'END\r\n')),
}


@pytest.mark.parametrize('name', ENDLESS)
def test_an_answer_without_an_end(connect, name):
    """It ends with the deadline at the latest, and fills no memory."""
    method, script = ENDLESS[name]
    arguments = {'get': ('key',), 'set': ('key', 1), 'get_stats': ()}[method]
    with faults.ScriptedServer(script) as server:
        client = connect(server.address, socket_timeout=0.7)
        tracemalloc.start()
        try:
            began = time.monotonic()
            assert getattr(client, method)(*arguments) in (None, 0, [], True)
            assert time.monotonic() - began < 3
            assert tracemalloc.get_traced_memory()[1] < 50 * 1024 * 1024
        finally:
            tracemalloc.stop()
        assert client.get('key', 'default') == 'default'


def test_statistics_without_an_end_of_names(connect):
    """Not more are taken than a server can have."""

    async def script(connection):
        await connection.request()
        for start in itertools.count(0, 1000):
            lines = [b'STAT n%d x\r\n' % n for n in range(start, start + 1000)]
            await connection.send(b''.join(lines))

    with faults.ScriptedServer(script) as server:
        client = connect(server.address, socket_timeout=20)
        began = time.monotonic()
        assert client.get_stats() == []
        assert time.monotonic() - began < 10


def test_a_servers_words_make_no_lines_in_the_log(connect, caplog):
    """Line ends and escape sequences in an error are spelt out."""
    words = b'SERVER_ERROR \x1b[2J\nWARNING: all is lost\r\xe9\x00\r\n'
    with faults.ScriptedServer([words, words, words]) as server:
        client = connect(server.address)
        client.set('key', 1)
        client.get('key')
        client.get_multi(['key'])
    found = [
        r.getMessage() for r in caplog.records if 'lost' in r.getMessage()
    ]
    assert found
    for line in found:
        assert line.isprintable(), line


# The password and TLS have tests of their own; this list is complete.


def test_every_test_that_the_page_names_is_there():
    """What docs/security.rst says was tried is still tried."""
    page = (ROOT / 'docs' / 'security.rst').read_text('utf-8')
    named = re.findall(r'``(test_\w+)::(test_\w+)``', page)
    assert len(named) > 30
    for module, name in named:
        text = (ROOT / 'tests' / f'{module}.py').read_text('utf-8')
        assert f'def {name}(' in text, f'{module}::{name}'


def test_every_test_here_is_on_the_page():
    """And the other way round."""
    page = (ROOT / 'docs' / 'security.rst').read_text('utf-8')
    text = pathlib.Path(__file__).read_text('utf-8')
    for name in re.findall(r'^def (test_\w+)\(', text, re.MULTILINE):
        if 'page' not in name:
            assert f'test_security::{name}' in page, name
