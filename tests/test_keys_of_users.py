"""Keys that are made of what users type: none meets another one."""

import re

import hypothesis
import pytest
from hypothesis import strategies

from sprockets.clients import memcached
from sprockets.clients.memcached.requests import anykeys

PATTERNS = [
    '{a}',
    'page:{a}',
    'u:{a}:{b}',
    'u:{b}:{a}',
    '{a}{b}',
    '{a!r}-{b!s:>5}',
    'u:{a}:',
    'x{a}y{b}z',
]

typed = strategies.one_of(
    strategies.text(max_size=8),
    strategies.text('ab:#\0\'"_-1', max_size=8),
    strategies.integers(-20, 20),
    strategies.booleans(),
    strategies.none(),
    strategies.floats(allow_nan=False),
    strategies.binary(max_size=3),
    strategies.uuids(),
)


def keyer(pattern):
    @memcached.cached(60, key=pattern)
    def load(a, b=0):
        return a, b

    return load.key


KEYS = {pattern: keyer(pattern) for pattern in PATTERNS}


def exact(value):
    return type(value), repr(value)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    strategies.sampled_from(PATTERNS), typed, typed, typed, typed
)
def test_different_arguments_have_different_keys(pattern, a, b, c, d):
    """Of each type, whatever text is in them."""
    key = KEYS[pattern]
    names = re.findall(r'\{(\w)', pattern)
    one = [exact({'a': a, 'b': b}[name]) for name in names]
    other = [exact({'a': c, 'b': d}[name]) for name in names]
    assert (key(a, b) == key(c, d)) is (one == other)


@hypothesis.given(strategies.sampled_from(PATTERNS), typed, typed)
def test_a_key_given_back_is_another_call(pattern, a, b):
    """Who types what a key looks like gets another one."""
    key = KEYS[pattern](a, b)
    if re.search('#[0-9a-f]{32}$', key):
        assert KEYS['{a}'](key) != key


@pytest.mark.parametrize('length', [1, 100, 170, 200, 300])
def test_what_tells_texts_apart_cannot_be_typed(length):
    """Neither as the text itself, nor as one that is cut."""
    key = KEYS['{a}']
    digits = '1' * length
    assert key(digits) != key(f"{digits}\0'{digits}'")
    assert key(int(digits)) != key(digits)
    looks_alike = key(digits)
    assert key(looks_alike) != looks_alike


def test_a_pattern_that_goes_on_behind_another():
    """A separator in an argument is seen as one."""

    @memcached.cached(60, key='page:{slug}')
    def page(slug):
        return slug

    @memcached.cached(60, key='page:{slug}:{part}')
    def part(slug, part):
        return slug, part

    assert page.key('front') == 'page:front'
    assert part.key('front', 'head') == 'page:front:head'
    assert page.key('front:head') != part.key('front', 'head')
    assert page.key('front:head').startswith('page:front:head#')


@hypothesis.given(
    strategies.text(max_size=300) | strategies.text('#aA_-0 ', max_size=300),
    strategies.text(max_size=300),
)
def test_bad_keys_stay_apart(one, other):
    """HASH_BAD_KEYS: and so do their looks."""
    encoded = [text.encode('utf-8', 'surrogatepass') for text in (one, other)]
    fitted = [anykeys.fit(key, 250) for key in encoded]
    assert (fitted[0] == fitted[1]) is (one == other)
    for key, made in zip(encoded, fitted, strict=True):
        if key != made:
            assert anykeys.fit(made, 250) != made


# What is not to be seen


SECRET = 'correct-horse'


def test_a_parameter_can_be_hidden():
    """It makes a difference, and is not to be seen."""

    @memcached.cached(60, hidden='token')
    def load(user, token=None):
        return user

    @memcached.cached(60, key='user:{user}:{token}', hidden=['token'])
    def by_pattern(user, token=None):
        return user

    for function in (load, by_pattern):
        key = function.key(7, SECRET)
        assert SECRET not in key
        assert '7' in key
        assert key == function.key(7, token=SECRET)
        others = {function.key(7, 'another'), function.key(8, SECRET)}
        others |= {function.key(7, SECRET.encode()), function.key(7)}
        assert len(others | {key}) == 5
    assert re.fullmatch(
        r'.*\.load\(user=7,token=hidden-[0-9a-f]{32}\)#[0-9a-f]{32}|'
        r'.*load\(user=7,token=hidden-[0-9a-f]{32}\)',
        load.key(7, SECRET),
    )


def test_what_is_hidden_is_among_any_keywords():
    """By its name."""

    @memcached.cached(60, hidden='token')
    def load(**options):
        return options

    assert SECRET not in load.key(token=SECRET, other=1)
    assert load.key(token=SECRET) != load.key(token='another')


def test_what_cannot_be_named_is_not_shown():
    """The error tells its type."""

    class Token(str):
        __slots__ = ()

    @memcached.cached(60, hidden='token')
    def load(token):
        return token

    with pytest.raises(TypeError, match='token cannot be named') as caught:
        load.key(Token(SECRET))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    'options, error, words',
    [
        ({'hidden': 'b'}, ValueError, "'b' is no parameter"),
        ({'hidden': ['a', 'b']}, ValueError, "'b' is no parameter"),
        ({'hidden': 'a', 'key': str}, TypeError, 'let the key function'),
    ],
)
def test_what_cannot_be_hidden(options, error, words):
    """It is said when it is decorated."""
    with pytest.raises(error, match=words):
        memcached.cached(60, **options)(lambda_like)


def lambda_like(a):
    return a


def test_hidden_calls_are_not_kept(memcached_server):
    """Nothing of the process remembers what they were called with."""
    client = memcached.Client(servers=memcached_server.address)

    @memcached.cached(60, hidden='token', client=client)
    def load(token):
        return len(token)

    assert load(SECRET) == load(SECRET) == len(SECRET)
    assert load.get(SECRET) == len(SECRET)
    assert load.invalidate(SECRET)
    client.disconnect_all()
