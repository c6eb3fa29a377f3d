"""Keys that memcached would refuse, with HASH_BAD_KEYS."""

import hypothesis
import memcache
import pytest
import wire
from hypothesis import strategies

from sprockets.clients import memcached
from sprockets.clients.memcached.requests import anykeys

LIMIT = 250


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


BAD = {
    'long': 'x' * 251,
    'very long': 'https://example.com/' + 'path/' * 10_000,
    'a blank': 'hello world',
    'a blank at the end': 'hello ',
    'a newline': 'key\r\nflush_all\r\n',
    'a newline at the end': 'key\n',
    'a zero': 'a\0b',
    'control characters': ''.join(map(chr, range(32))) + '\x7f',
    'long in UTF-8': 'é' * 126,
    'half a surrogate pair': 'a\ud800b',
    'a smiley too long': '\N{GRINNING FACE}' * 63,
    'nothing': '',
    'bytes': b'\x00\xff ',
    'no UTF-8, long': b'\xff' * 300,
}
GOOD = [
    'key',
    'x' * 250,
    'é' * 125,
    '\N{GRINNING FACE}',
    'a\u2028b',
    '#',
    f'a#{"x" * 31}',
    f'a#{"x" * 33}',
    f'a#{"x" * 32}b',
    b'\xff\x80',
]


@pytest.mark.parametrize('name', BAD)
def test_every_method_takes_every_key(connect, address, name):
    """What one of them stores, the others find."""
    key = BAD[name]
    client = connect(address, hash_bad_keys=True)
    assert client.set(key, 1)
    assert client.get(key) == 1
    assert client.incr(key) == 2
    assert client.decr(key) == 1
    assert client.gets(key) == 1
    assert client.cas(key, 2)
    assert not client.add(key, 3)
    assert client.replace(key, 'b')
    assert client.append(key, 'c')
    assert client.prepend(key, 'a')
    assert client.touch(key, 60)
    assert client.get_multi([key, 'good']) == {key: 'abc'}
    assert client.set_multi({key: 'd', 'good': 'e'}) == []
    assert client.get_multi([key, 'good']) == {key: 'd', 'good': 'e'}
    assert client.get((7, key)) == 'd'
    assert client.delete(key)
    assert client.get(key) is None
    assert client.set(key, 'f')
    assert client.delete_multi([key, 'good'])
    assert client.get_multi([key, 'good']) == {}
    assert wire.statistics(address)['cmd_flush'] == '0'


@pytest.mark.parametrize('name', BAD)
def test_without_the_option_a_bad_key_is_an_error(connect, address, name):
    """It is off by default."""
    client = connect(address)
    with pytest.raises((memcache.Client.MemcachedKeyError, UnicodeError)):
        client.set(BAD[name], 'value')


def test_what_is_no_key_is_an_error_all_the_same(connect, address):
    """None and other types are the program's mistakes, not a user's."""
    client = connect(address, hash_bad_keys=True)
    for key in (None, 1, 1.5, ['a'], ('a', 'b')):
        with pytest.raises((memcache.Client.MemcachedKeyError, TypeError)):
            client.get(key)
    client.set_multi({1: 'number'})
    assert client.get('1') == 'number'


@pytest.mark.parametrize('key', GOOD, ids=repr)
def test_a_good_key_stays_as_it_is(connect, address, key):
    """So that it is found by others, and with the option switched on."""
    connect(address).set(key, 'value')
    client = connect(address, hash_bad_keys=True)
    assert client.get(key) == 'value'
    assert client.get_multi([key, 'bad key']) == {key: 'value'}


def test_its_head_can_be_read(address):
    """Whoever looks at the server's keys sees what it is about."""
    client = memcached.Client(servers=address, hash_bad_keys=True)
    client.set('search:Zürich 8000\r\n', 'value')
    key = client._shared.encoding.route('search:Zürich 8000\r\n').key
    assert wire.stored(address, key.decode()) == (16, b'value')
    head, _, digest = key.decode().rpartition('#')
    assert head == 'search:Zürich_8000__'
    assert len(digest) == 32
    client.disconnect_all()


def test_what_goes_before_a_key_is_a_part_of_it(connect, address):
    """A key is the same with its beginning given as a prefix."""
    client = connect(address, hash_bad_keys=True)
    client.set('user: name', 1)
    client.set('user:' + 'x' * 300, 2)
    mapping = {' name': 1, 'x' * 300: 2}
    assert client.get_multi(mapping, 'user:') == mapping
    assert client.set_multi({'c': 3}, key_prefix='a b\r\n') == []
    assert client.get('a b\r\nc') == 3
    other = connect(address, hash_bad_keys=True, key_prefix='user:')
    assert other.get(' name') == 1
    assert other.get_multi(mapping) == mapping
    assert other.delete('x' * 300)
    assert client.get('user:' + 'x' * 300) is None


def test_keys_with_the_same_head_are_two(connect, address):
    """What cannot be read of them makes them differ."""
    client = connect(address, hash_bad_keys=True)
    keys = ['a b', 'a_b', 'a\tb', 'a  b', *['x' * n for n in range(248, 256)]]
    assert client.set_multi({key: key for key in keys}) == []
    assert client.get_multi(keys) == {key: key for key in keys}


def test_a_key_that_looks_like_a_changed_one(connect, address):
    """Nobody gets at another key by its changed form."""
    client = connect(address, hash_bad_keys=True)
    client.set('a b', 'secret')
    changed = anykeys.fit(b'a b', LIMIT)
    assert wire.stored(address, changed.decode())
    for key in (changed, changed.decode()):
        assert client.get(key) is None
        assert client.get_multi([key]) == {}
    assert client.set(changed, 'another')
    assert client.get('a b') == 'secret'


any_key = strategies.one_of(
    strategies.binary(max_size=300),
    strategies.text(max_size=300).map(
        lambda text: text.encode('utf-8', 'surrogatepass')
    ),
    strategies.integers(245, 255).map(lambda size: b'x' * size),
    strategies.binary(max_size=300).map(lambda k: anykeys.fit(k, LIMIT)),
)


@hypothesis.given(any_key, any_key)
def test_distinct_keys_stay_distinct(one, other):
    """Whatever they are, and also if one is what the other becomes."""
    fitted = anykeys.fit(one, LIMIT)
    assert (anykeys.fit(other, LIMIT) == fitted) == (one == other)
    assert (anykeys.fit(fitted, LIMIT) == fitted) == (fitted == one)


@hypothesis.given(any_key, strategies.sampled_from([40, 100, LIMIT]))
def test_memcached_takes_every_key(key, limit):
    """Nothing that it would refuse is left."""
    fitted = anykeys.fit(key, limit)
    assert 0 < len(fitted) <= limit
    assert not any(byte <= 32 or byte == 127 for byte in fitted)


def test_from_the_environment(address, monkeypatch):
    """It is an option like any other."""
    monkeypatch.setenv('MEMCACHED_SERVERS', address)
    monkeypatch.setenv('PAGES_MEMCACHED_HASH_BAD_KEYS', 'true')
    assert memcached.Client('pages').set('a b', 1)
    with pytest.raises(memcache.Client.MemcachedKeyCharacterError):
        memcached.Client().set('a b', 1)
