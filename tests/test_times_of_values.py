"""A value says how long it is kept, and whether."""

import datetime

import faults
import pytest
import wire

from sprockets.clients import memcached

WAYS = ('get_or_set', 'cached', 'stale')


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def seconds_of(value):
    return value['seconds']


class Source:
    """Returns what it is told to, and counts."""

    def __init__(self, value):
        self.value = value
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.value


def get(face, source, key='key', **options):
    return face.get_or_set(key, source, **options)


@pytest.mark.parametrize('stale', [0, 600])
def test_the_time_is_a_function_of_the_value(connect, address, stale):
    """Each value has its own."""
    face = connect(address)
    for seconds in 60, 600, datetime.timedelta(hours=1):
        source = Source({'seconds': seconds})
        key = str(seconds).replace(' ', '')
        for _ in range(2):
            assert get(face, source, key, time=seconds_of, stale=stale) == {
                'seconds': seconds
            }
        assert source.calls == 1
        if isinstance(seconds, datetime.timedelta):
            seconds = 3600
        left = wire.seconds_left(address, key)
        assert seconds + stale - 5 <= left <= seconds + stale
    source = Source({'seconds': 0})
    get(face, source, 'for-ever', time=seconds_of, stale=stale)
    assert wire.seconds_left(address, 'for-ever') == -1


@pytest.mark.parametrize('stale', [0, 600])
@pytest.mark.parametrize('jitter', [0, 5])
def test_a_value_that_is_over_already(connect, address, stale, jitter):
    """It is returned, and not stored."""
    face = connect(address)
    source = Source({'seconds': -1})
    for _ in range(2):
        assert get(
            face, source, time=seconds_of, stale=stale, jitter=jitter
        ) == {'seconds': -1}
    assert source.calls == 2
    assert wire.stored(address, 'key') is None


@pytest.mark.parametrize('seconds', [-1, datetime.timedelta(seconds=-0.5)])
def test_no_time_is_less_than_nothing(connect, seconds):
    """Wherever it is that of a value that others are to read."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        for call in (
            lambda: face.get_or_set_multi(['key'], Source({}), time=seconds),
            lambda: face.get_or_set_multi([], Source({}), time=seconds),
            lambda: face.incr('key', initial=1, time=seconds),
            lambda: memcached.cached.many(seconds),
        ):
            with pytest.raises(ValueError, match=r'time is .*; expected 0 or'):
                call()
        assert server.received == b''


def test_it_is_asked_for_what_is_computed_only(connect, address):
    """A hit has its time already."""
    face = connect(address)
    asked = []

    def time(value):
        asked.append(value)
        return 60

    for _ in range(3):
        assert get(face, Source('value'), time=time) == 'value'
    assert asked == ['value']


@pytest.mark.parametrize('stale', [0, 600])
def test_what_is_not_worth_it_is_not_stored(connect, address, stale):
    """It is returned, and computed each time."""
    face = connect(address)
    source = Source([])
    options = {'time': 60, 'when': bool, 'stale': stale}
    assert [get(face, source, **options) for _ in range(2)] == [[], []]
    assert source.calls == 2
    source.value = [1]
    assert [get(face, source, **options) for _ in range(2)] == [[1], [1]]
    assert source.calls == 3


def test_the_jitter_spreads_the_ends(connect, address):
    """Each is up to so many seconds sooner, and no later."""
    face = connect(address)
    left = set()
    for number in range(40):
        key = f'key{number}'
        get(face, Source(1), key, time=600, jitter=300)
        left.add(wire.seconds_left(address, key))
    assert min(left) >= 295
    assert max(left) <= 600
    assert len(left) > 10


def test_a_jitter_as_long_as_the_time(connect, address):
    """What is stored has an end all the same."""
    face = connect(address)
    for number in range(20):
        key = f'key{number}'
        get(face, Source(1), key, time=1, jitter=1)
        assert wire.seconds_left(address, key) in (0, 1, None)


def test_all_of_it_with_a_tag_and_in_a_namespace(address):
    """They go with the rest."""
    client = memcached.Client(servers=address)
    ns = client.namespace('x')
    source = Source({'seconds': 60})
    for each in client, ns:
        for _ in range(2):
            each.get_or_set(
                'key', source, seconds_of, jitter=5, when=bool, tags=('a',)
            )
    assert source.calls == 2
    client.disconnect_all()


class OwnError(BaseException):
    """As a caller's function may raise it."""


@pytest.mark.parametrize('error', [ValueError, OwnError, StopIteration])
@pytest.mark.parametrize('option', ['time', 'when'])
def test_what_such_a_function_raises(connect, address, option, error):
    """The caller gets it, nothing is stored, and the next one computes."""
    face = connect(address)

    def refuse(value):
        raise error('refused')

    options = {'time': 60} | {option: refuse}
    expected = RuntimeError if error is StopIteration else error
    if error is StopIteration and not hasattr(face, 'run'):
        expected = StopIteration
    with pytest.raises(expected):
        get(face, Source(1), **options)
    assert wire.stored(address, 'key') is None
    assert get(face, Source(2), time=60) == 2


@pytest.mark.parametrize('said', ['soon', None, float('nan'), 10**14])
def test_a_function_that_says_no_time(connect, address, said):
    """The error says what was said."""
    face = connect(address)
    with pytest.raises(ValueError, match='time is'):
        get(face, Source(1), time=lambda value: said)
    assert get(face, Source(2), time=60) == 2


@pytest.mark.parametrize('option', ['time', 'when'])
def test_a_coroutine_function_is_none_of_these(connect, address, option):
    """Nobody would await it."""

    async def later(value):
        return 60

    face = connect(address)
    with pytest.raises(TypeError, match=f'{option} returned a coroutine'):
        get(face, Source(1), **{'time': 60} | {option: later})


@pytest.mark.parametrize(
    'options, error, named',
    [
        ({'time': 60, 'jitter': 61}, ValueError, 'jitter is 61'),
        ({'time': 0, 'jitter': 1}, ValueError, 'jitter is 1'),
        ({'time': 60, 'jitter': -1}, ValueError, 'jitter is -1'),
        ({'time': 60, 'jitter': 'x'}, ValueError, "jitter is 'x'"),
        (
            {'time': datetime.timedelta(minutes=1), 'jitter': 61},
            ValueError,
            'jitter is 61',
        ),
        ({'time': -1}, ValueError, 'time is -1; expected 0 or more'),
        (
            {'time': datetime.timedelta(seconds=-1)},
            ValueError,
            'time is .*; expected 0 or more',
        ),
        ({'time': 60, 'when': True}, TypeError, 'when is True'),
        ({'time': 60, 'when': 1}, TypeError, 'when is 1'),
    ],
    ids=str,
)
def test_bad_arguments(connect, options, error, named):
    """They are named, and nothing is sent; cached says so at once."""
    with faults.ScriptedServer([]) as server:
        face = connect(server.address)
        with pytest.raises(error, match=named):
            get(face, Source(1), **options)
        with pytest.raises(error, match=named):
            memcached.cached(**options)
        assert server.received == b''


def test_a_jitter_above_what_the_function_says(connect, address):
    """It is known when it is said."""
    face = connect(address)
    with pytest.raises(ValueError, match='jitter is 61'):
        get(face, Source(1), time=lambda value: 60, jitter=61)


def test_a_cached_function(connect, address):
    """With all of it, and what is set or refreshed likewise."""
    face = connect(address)
    decorate = memcached.cached(
        time=seconds_of, when=bool, client=face.client, name='f', jitter=1
    )
    calls = []
    if hasattr(face, 'run'):

        @decorate
        async def function(seconds):
            calls.append(seconds)
            return {'seconds': seconds} if seconds else {}

        def use(call, *args):
            return face.run(lambda: call(*args))
    else:

        @decorate
        def function(seconds):
            calls.append(seconds)
            return {'seconds': seconds} if seconds else {}

        def use(call, *args):
            return call(*args)

    for _ in range(2):
        assert use(function, 60) == {'seconds': 60}
    assert calls == [60]
    assert 55 <= wire.seconds_left(address, function.key(60)) <= 60
    with pytest.raises(KeyError):
        use(function, 0)
    assert use(function.set, {'seconds': 600}, 7)
    assert 595 <= wire.seconds_left(address, function.key(7)) <= 600
    assert use(function.refresh, 60) == {'seconds': 60}


def test_a_time_that_was_forgotten():
    """What is to be cached is no time."""

    async def load(number):
        return number

    def two(a, b):
        return a

    for function in load, two:
        with pytest.raises(TypeError, match='cached needs a time'):
            memcached.cached(function)

    @memcached.cached
    def one(number):
        return number

    with pytest.raises(TypeError, match='cached needs a time'):
        one(7)
