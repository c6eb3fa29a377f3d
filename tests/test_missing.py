"""Values of many keys: one read, one computation, one write."""

import asyncio
import datetime
import functools
import uuid

import faults
import pytest
import wire

from sprockets.clients import memcached


class Squares:
    """A factory that remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __repr__(self):
        return 'Squares()'

    def __call__(self, keys):
        self.asked.append(keys)
        return {key: [int(key) ** 2] for key in keys}


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def test_only_what_is_missing_is_computed(connect, address):
    """All at once, in the order of the keys, and each is stored."""
    client = connect(address)
    squares = Squares()
    client.set('2', [4])
    keys = ['3', '2', '1']
    assert [*client.get_or_set_multi(keys, squares, 60).items()] == [
        ('3', [9]),
        ('2', [4]),
        ('1', [1]),
    ]
    assert squares.asked == [['3', '1']]
    assert client.get('3') == [9]
    assert 55 <= wire.seconds_left(address, '3') <= 60
    assert client.get_or_set_multi(keys, squares, 60).keys() == {*keys}
    assert squares.asked == [['3', '1']]


def test_it_is_one_read_and_one_write(connect, address):
    """The write is not awaited key by key either."""
    with faults.FaultProxy(address) as proxy:
        client = connect(proxy.address)
        client.get('warm')
        before = len(proxy.received)
        client.get_or_set_multi(['1', '2'], Squares(), 60)
        sent = proxy.received[before:].split(b'\r\n')
        assert [line.split()[:2] for line in sent[::1] if b' ' in line] == [
            [b'get', b'1'],
            [b'add', b'1'],
            [b'add', b'2'],
        ]


def test_keys_are_given_as_they_were(connect, address):
    """A number is one, and a key that comes twice is asked for once."""
    client = connect(address)
    squares = Squares()
    found = client.get_or_set_multi(
        (n for n in (1, 2, 1)), squares, key_prefix='square:'
    )
    assert found == {1: [1], 2: [4]}
    assert squares.asked == [[1, 2]]
    assert client.get('square:2') == [4]
    assert client.get_or_set_multi([], squares) == {}
    assert len(squares.asked) == 1


def test_what_the_factory_leaves_out_is_not_there(connect, address):
    """It is asked for again, and what nobody asked for is ignored."""
    client = connect(address)
    asked = []

    def factory(keys):
        asked.append(keys)
        return {'b': 2, 'other': 3}

    assert client.get_or_set_multi(['a', 'b'], factory) == {'b': 2}
    assert client.get_or_set_multi(['a', 'b'], factory) == {'b': 2}
    assert asked == [['a', 'b'], ['a']]
    assert client.get('other') is None


def test_none_is_a_value_or_is_not(connect, address):
    """As for get_or_set."""
    client = connect(address)
    asked = []

    def factory(keys):
        asked.append(keys)
        return dict.fromkeys(keys)

    for _ in range(2):
        found = client.get_or_set_multi(['a'], factory, cache_none=False)
        assert found == {'a': None}
    assert len(asked) == 2
    for _ in range(2):
        assert client.get_or_set_multi(['a'], factory) == {'a': None}
    assert len(asked) == 3


def test_what_others_store_meanwhile_is_left_alone(connect, address):
    """It may be newer."""
    client = connect(address)

    def factory(keys):
        wire.put(address, 'a', 16, b'newer')
        return {'a': 'older'}

    assert client.get_or_set_multi(['a'], factory) == {'a': 'older'}
    assert client.get('a') == 'newer'


def test_what_cannot_be_decoded_is_replaced(connect, address):
    """It would be a miss for as long as it is there."""
    client = connect(address)
    squares = Squares()
    wire.put(address, '1', 1, b'no pickle')
    wire.put(address, '2', 16, b'two')
    assert client.get_or_set_multi(['1', '2', '3'], squares) == {
        '1': [1],
        '2': 'two',
        '3': [9],
    }
    assert client.get('1') == [1]


def test_with_json_a_miss_and_a_hit_are_alike(connect, address):
    """A tuple comes back as a list, also the first time."""
    client = connect(address, serializer='json')
    for _ in range(2):
        found = client.get_or_set_multi(
            ['a', 'b'], lambda keys: dict.fromkeys(keys, (1, 'x'))
        )
        assert found == {'a': [1, 'x'], 'b': [1, 'x']}
    assert found['a'] is not found['b']


def test_without_a_server_all_is_computed(connect, memcached_server):
    """Each time."""
    client = connect(memcached_server.address, socket_timeout=1)
    squares = Squares()
    client.get_or_set_multi(['1', '2'], squares)
    memcached_server.kill()
    for _ in range(2):
        found = client.get_or_set_multi(['1', '2'], squares)
        assert found == {'1': [1], '2': [4]}
    assert squares.asked == [['1', '2']] * 3


def test_one_of_two_servers_is_enough_for_its_keys(connect):
    """What is on the other one is computed."""
    with (
        memcached.testing.MemcachedServer() as one,
        memcached.testing.MemcachedServer() as two,
    ):
        client = connect(
            one.address, two.address, failover=False, socket_timeout=1
        )
        squares = Squares()
        keys = [str(n) for n in range(20)]
        client.get_or_set_multi(keys, squares)
        two.kill()
        assert client.get_or_set_multi(keys, squares).keys() == {*keys}
        assert 0 < len(squares.asked[1]) < 20


class OwnError(BaseException):
    """As a factory may raise it."""


@pytest.mark.parametrize('error', [ValueError, OwnError, KeyboardInterrupt])
def test_what_the_factory_raises(connect, address, error):
    """The caller gets it, and the next call computes."""
    client = connect(address)

    def factory(keys):
        raise error('refused')

    with pytest.raises(error):
        client.get_or_set_multi(['1'], factory)
    assert client.get_or_set_multi(['1'], Squares()) == {'1': [1]}


def test_what_cannot_be_serialized(connect, address):
    """The error says which, and nothing is stored."""
    client = connect(address)
    with pytest.raises(Exception, match="'b'"):
        client.get_or_set_multi(
            ['a', 'b'], lambda keys: {'a': 1, 'b': lambda: 0}
        )
    assert client.get('a') is None


@pytest.mark.parametrize(
    'arguments, error, named',
    [
        (('key', Squares()), TypeError, "keys is 'key'"),
        ((b'key', Squares()), TypeError, "keys is b'key'"),
        ((7, Squares()), TypeError, 'keys is 7'),
        ((['a b'], Squares()), memcached.Client.MemcachedKeyError, 'a b'),
        ((['a'], None), TypeError, 'factory is None'),
        ((['a'], Squares(), 'soon'), ValueError, "time is 'soon'"),
    ],
    ids=str,
)
def test_bad_arguments(connect, arguments, error, named):
    """They are named, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        client = connect(server.address)
        with pytest.raises(error, match=named):
            client.get_or_set_multi(*arguments)
        assert server.received == b''


@pytest.mark.parametrize('length', [-1, 1.5, 'x', None], ids=str)
def test_a_bad_length_is_an_error_before_anything_is_computed(connect, length):
    """Whether or not there is anything to store."""
    squares = Squares()
    with faults.ScriptedServer([]) as server:
        client = connect(server.address)
        with pytest.raises(ValueError, match='min_compress_len is'):
            client.get_or_set_multi(['a'], squares, min_compress_len=length)
        assert server.received == b''
    assert squares.asked == []


@pytest.mark.parametrize('made', [None, [1], 'x', ['x' * 300]])
def test_a_factory_that_returns_no_dict(connect, address, made):
    """It says what was returned, as far as fits, and what is expected."""
    client = connect(address)
    with pytest.raises(TypeError, match='expected a dict') as caught:
        client.get_or_set_multi(['a'], lambda keys: made)
    assert len(str(caught.value)) < 200


def test_a_coroutine_function_computes(address):
    """For the awaitable client; for the other one it is an error."""

    async def factory(keys):
        await asyncio.sleep(0)
        return dict.fromkeys(keys, 'v')

    async def main():
        client = memcached.AsyncClient(servers=address)
        task = asyncio.create_task(client.get_or_set_multi(['a'], factory))
        assert await task == {'a': 'v'}
        await client.close()

    asyncio.run(main())
    client = memcached.Client(servers=address)
    client.delete('a')
    with pytest.raises(TypeError, match='cannot await'):
        client.get_or_set_multi(['a'], factory)
    client.disconnect_all()


# cached.many


class Users:
    """Functions of many keys, of a client of either kind."""

    def __init__(self, face, **options):
        self.asked = []
        self._face = face
        options = {'client': face.client, **options}
        decorate = memcached.cached.many(60, name='load', **options)
        if hasattr(face.client, 'scope'):

            @decorate
            async def load(ids, language='en'):
                return self.compute(ids, language)
        else:

            @decorate
            def load(ids, language='en'):
                return self.compute(ids, language)

        self.load = load

    def compute(self, ids, language):
        self.asked.append(ids)
        return {n: [n, language] for n in ids if n < 100}

    def __call__(self, *args, method='__call__', **kwargs):
        call = getattr(self.load, method)
        if hasattr(self._face, 'run'):
            return self._face.run(lambda: call(*args, **kwargs))
        return call(*args, **kwargs)


def test_a_function_of_many_keys(connect, address):
    """It gets those that are missing; the others are read."""
    users = Users(connect(address))
    assert users([7, 8]) == {7: [7, 'en'], 8: [8, 'en']}
    assert users((8, 9, 8)) == {8: [8, 'en'], 9: [9, 'en']}
    assert users([100]) == {}
    assert users([]) == {}
    assert users.asked == [[7, 8], [9], [100]]
    assert wire.stored(address, users.load.key(7)) is not None
    assert 55 <= wire.seconds_left(address, users.load.key(7)) <= 60


def test_other_arguments_tell_apart(connect, address):
    """By place or by name, they are the same."""
    users = Users(connect(address))
    assert users([7], 'no') == {7: [7, 'no']}
    assert users([7], language='no') == {7: [7, 'no']}
    assert users([7]) == {7: [7, 'en']}
    assert users.asked == [[7], [7]]
    assert users.load.key(7, 'no') == users.load.key(7, language='no')


def test_numbers_and_texts_are_different_keys(connect, address):
    """As for any cached function."""
    users = Users(connect(address))
    assert users.load.key(7) != users.load.key('7')


@pytest.mark.parametrize('hidden', ['ids', 'more', ()])
@pytest.mark.parametrize('pattern', [None, 'many:{ids}:{more}'])
def test_many_keys_are_named_like_one(connect, address, hidden, pattern):
    """However they are named, what is stored for each is found by its key."""
    face = connect(address)
    name = {'key': pattern} if pattern else {'name': 'many'}
    many = memcached.cached.many(60, client=face.client, hidden=hidden, **name)

    def values(ids, more):
        return dict.fromkeys(ids, more)

    if hasattr(face, 'run'):

        @many
        async def load(ids, more='ids=None', *rest, **names):
            return values(ids, more)
    else:

        @many
        def load(ids, more='ids=None', *rest, **names):
            return values(ids, more)

    ids = [
        *(7, '7', 'with blanks', 'x' * 300, '', b'b', True, None, 1.5),
        *(uuid.UUID(int=7), (1, 'a'), datetime.date(2026, 1, 2), '\0', 'ids='),
    ]
    for args, names in (
        ((), {}),
        (('ids=None',), {'keys': None}),
        (('a', 'b', 'c'), {'zeta': 1, 'alpha': 2}),
    ):
        call = functools.partial(load, ids, *args, **names)
        found = face.run(call) if hasattr(face, 'run') else call()
        assert found.keys() == {*ids}
        for each in ids:
            key = load.key(each, *args, **names)
            assert wire.stored(address, key) is not None, each


def test_results_end_before_their_time(connect, address):
    """Or are computed anew."""
    users = Users(connect(address))
    users([7, 8])
    assert users([7], method='invalidate') == 1
    users([7, 8])
    assert users.asked == [[7, 8], [7]]
    assert users([7, 8], method='refresh') == {7: [7, 'en'], 8: [8, 'en']}
    assert users.asked == [[7, 8], [7], [7, 8]]


def test_a_function_of_many_keys_without_a_server(connect, memcached_server):
    """It is called each time."""
    users = Users(connect(memcached_server.address, socket_timeout=1))
    users([7])
    memcached_server.kill()
    assert users([7]) == {7: [7, 'en']}
    assert users([7], method='invalidate') == 0
    assert users.asked == [[7], [7]]


def test_a_time_of_each_result_is_not_for_many():
    """It is said where it is decorated."""
    with pytest.raises(ValueError, match='time is <'):
        memcached.cached.many(lambda value: 60)


@pytest.mark.parametrize('namespace', [False, True])
def test_with_json_what_is_refreshed_is_as_it_is_read(
    connect, address, namespace
):
    """A tuple comes back as a list, and each has one of its own."""
    face = connect(address, serializer='json')
    options = {}
    if namespace:
        options['client'] = face.client.namespace('x')
    users = Users(face, **options)
    users.compute = lambda ids, language: dict.fromkeys(ids, (1, 'x'))
    for method in 'refresh', '__call__':
        found = users([7, 8], method=method)
        assert found == {7: [1, 'x'], 8: [1, 'x']}
        assert found[7] is not found[8]


def test_none_is_kept_or_not_when_it_is_refreshed(connect, address):
    """As it is when it is called."""
    users = Users(connect(address), cache_none=False)
    users.compute = lambda ids, language: dict.fromkeys(ids)
    assert users([7], method='refresh') == {7: None}
    assert wire.stored(address, users.load.key(7)) is None


@pytest.mark.parametrize('keys', [[7], [7, 8]], ids=str)
def test_with_json_a_refresh_and_a_hit_are_alike(connect, address, keys):
    """As for a function of one key, whether or not None is kept."""
    users = Users(connect(address, serializer='json'), cache_none=False)
    users.compute = lambda ids, language: {n: (n,) for n in ids if n < 8}
    expected = {7: [7]}
    for method in ('refresh', '__call__', 'refresh'):
        assert users(keys, method=method) == expected
    users.compute = lambda ids, language: dict.fromkeys(ids)
    assert users(keys, method='refresh') == dict.fromkeys(keys)


@pytest.mark.parametrize('now', [{}, {7: None}])
def test_what_has_no_result_any_more_is_not_found(connect, address, now):
    """Though it had one before it was refreshed."""
    users = Users(connect(address), cache_none=False)
    assert users([7, 8]) == {7: [7, 'en'], 8: [8, 'en']}
    users.compute = lambda ids, language: {8: 'new', **now}
    assert users([7, 8], method='refresh') == {8: 'new', **now}
    assert wire.stored(address, users.load.key(7)) is None
    assert users([8]) == {8: 'new'}


@pytest.mark.parametrize('method', ['__call__', 'refresh'])
def test_a_blocking_function_of_many_keys_that_is_to_be_awaited(
    memcached_server, method
):
    """It is refused in the call, and nothing is left to be awaited."""
    client = memcached.Client(servers=memcached_server.address)

    async def load(ids):
        return dict.fromkeys(ids, 1)

    @memcached.cached.many(60, client=client)
    def function(ids):
        return load(ids)

    with pytest.raises(TypeError, match='returned a coroutine'):
        getattr(function, method)([7])
    client.disconnect_all()


@pytest.mark.parametrize('keys', ['abc', b'abc', 7, None])
def test_keys_that_are_no_list(connect, address, keys):
    """A text would be taken for its characters."""
    users = Users(connect(address))
    with pytest.raises(TypeError, match='takes a list of keys first'):
        users(keys)


def test_a_key_without_a_name(connect, address):
    """It is refused in the call."""
    users = Users(connect(address))
    with pytest.raises(TypeError):
        users([object()])


def test_a_function_of_many_keys_that_returns_no_dict(connect, address):
    """It says which function."""
    users = Users(connect(address))
    users.compute = lambda ids, language: [1]
    with pytest.raises(TypeError, match=r'load.*returned \[1\]'):
        users([7])
    users.compute = lambda ids, language: ['x' * 300]
    with pytest.raises(TypeError, match='returned') as caught:
        users([7])
    assert len(str(caught.value)) < 300


def test_methods_of_a_class(memcached_server):
    """Bound to a class, and static."""

    async def main():
        assert await Prices.of(['a', 'bb']) == {'a': 1, 'bb': 2}
        assert await Prices.of(['a', 'bb']) == {'a': 1, 'bb': 2}
        assert await Prices.plain(['a']) == {'a': 'a'}
        assert Prices.asked == [['a', 'bb']]
        await memcached.current.close()

    Prices.asked = []
    asyncio.run(main())


class Prices:
    asked: list = []  # noqa: RUF012

    @memcached.cached.many(60)
    @classmethod
    async def of(cls, items):
        cls.asked.append(items)
        return {item: len(item) for item in items}

    @memcached.cached.many(60)
    @staticmethod
    async def plain(items):
        return {item: item for item in items}
