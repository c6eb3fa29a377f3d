"""What is appended to a compressed value, or put before it, is kept."""

import json
import os
import zlib

import pytest
import wire

from sprockets.clients.memcached.data import deflated, values

OLD = 'old ' * 1000


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.mark.parametrize('level', range(10))
@pytest.mark.parametrize(
    'old, more',
    [
        (OLD, 'more'),
        (OLD, 'x^ \N{MULTIPLICATION SIGN} x\x9c x'),
        (OLD, 'x' * 5000),
        (OLD.encode(), b'more'),
        (OLD.encode(), bytes(range(256))),
        (OLD.encode(), b'x\x9c' * 2000),
        (OLD.encode(), OLD.encode()),
    ],
)
def test_it_is_a_part_of_the_value(connect, address, level, old, more):
    """Once and again; both parts are there."""
    client = connect(
        address, compressor=lambda data: zlib.compress(data, level)
    )
    added = len(zlib.compress(OLD.encode(), level)) >= len(OLD)
    assert client.set('key', old, min_compress_len=1)
    assert bool(wire.stored(address, 'key')[0] & 8) is not added
    assert client.append('key', more)
    assert client.get('key') == old + more
    assert client.append('key', more)
    assert client.get('key') == old + more + more
    assert client.get_multi(['key']) == {'key': old + more + more}
    assert client.set('key', old, min_compress_len=1)
    assert client.prepend('key', more)
    assert client.get('key') == more + old
    assert client.prepend('key', more)
    assert client.gets('key') == more + more + old


@pytest.mark.parametrize(
    'old, more',
    [(OLD, 'more'), (OLD.encode(), os.urandom(1000))],
    ids=['text', 'bytes'],
)
def test_before_and_behind(connect, address, old, more):
    """Both at once."""
    client = connect(address)
    client.set('key', old, min_compress_len=1)
    assert client.prepend('key', more)
    assert client.append('key', more)
    assert client.get('key') == more + old + more


def test_what_is_put_before_may_be_compressed_itself(connect, address):
    """As pictures are, in parts."""
    picture = b'PNG' + zlib.compress(b'pixels' * 100) + b'END'
    client = connect(address)
    client.set('key', OLD.encode(), min_compress_len=1)
    assert client.append('key', zlib.compress(b'other'))
    assert client.get('key') == OLD.encode() + zlib.compress(b'other')
    client.set('key', OLD.encode(), min_compress_len=1)
    assert client.prepend('key', picture)
    assert client.get('key') == picture + OLD.encode()


@pytest.mark.parametrize('serializer', ['pickle', 'json'])
def test_a_value_that_is_neither_text_nor_bytes_stays(
    connect, address, serializer
):
    """There is nothing that could be appended to."""
    client = connect(address, serializer=serializer)
    value = ['v' * 1000]
    client.set('key', value, min_compress_len=1)
    assert client.append('key', 'more')
    assert client.get('key') == value


def test_together_they_inflate_no_further_than_allowed(connect, address):
    """What is appended counts as it is."""
    client = connect(address, max_inflated_len=10_000)
    client.set('key', 'x' * 9_000, min_compress_len=1)
    for _ in range(3):
        client.append('key', 'y' * 1_000)
    assert client.get('key') == 'x' * 9_000 + 'y' * 3_000


WHOLE = zlib.compress(b'value' * 100)


@pytest.mark.parametrize(
    'data',
    [
        WHOLE[:-1],
        WHOLE[:-4] + b'\0\0\0\0',
        # A broken one in which another one seems to begin.
        zlib.compress(WHOLE * 9, 0)[:-1],
        b'text' + WHOLE[:-1],
        b'text' + WHOLE + b'text' + WHOLE + b'text',
        b'x^' * 5000,
        b'text',
        b'',
    ],
)
def test_what_is_broken_is_not_guessed_at(data):
    """Nor is what may be several things."""
    with pytest.raises(values.UndecodableError, match='compressed value'):
        deflated.part(data, 1_000_000)


def test_a_custom_decompressor_is_given_all(connect, address):
    """Only its maker knows where a value ends."""
    seen = []

    def decompress(data):
        seen.append(data)
        return zlib.decompress(data)

    client = connect(address, decompressor=decompress)
    client.set('key', OLD, min_compress_len=1)
    client.append('key', 'more')
    assert client.get('key') == OLD
    assert seen[0].endswith(b'more')


def test_it_does_not_know_more_than_json(connect, address):
    """What other clients have stored is read as before."""
    data = zlib.compress(json.dumps(['v']).encode())
    wire.put(address, 'key', values.JSON | values.COMPRESSED, data)
    assert connect(address).get('key') == ['v']


@pytest.mark.parametrize('serializer', ['pickle', 'json'])
@pytest.mark.parametrize('method', ['append', 'prepend'])
@pytest.mark.parametrize('more', [[1], {'a': 1}, 1.5, True, None])
def test_what_would_lose_the_value_is_refused(
    connect, address, serializer, method, more
):
    """Before it is sent: what is pickled, or JSON, cannot be joined."""
    client = connect(address, serializer=serializer)
    assert client.set('key', 'old')
    with pytest.raises(TypeError, match=f'{method} expects str, bytes or int'):
        getattr(client, method)('key', more)
    assert client.get('key') == 'old'
    assert client.append('key', 5)
    assert client.get('key') == 'old5'


def test_a_serializer_of_ones_own_may_join(connect, address):
    """As that of lines of JSON does."""

    class Lines:
        def dumps(self, value):
            return b'%b\n' % json.dumps(value).encode()

        def loads(self, data):
            return [json.loads(line) for line in data.splitlines()]

    client = connect(address, serializer=Lines())
    assert client.set('key', {'a': 1})
    assert client.append('key', {'b': 2})
    assert client.get('key') == [{'a': 1}, {'b': 2}]
