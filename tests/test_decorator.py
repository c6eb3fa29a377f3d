"""cached: what keys are made of, and what is refused."""

import asyncio
import contextlib
import datetime
import decimal
import enum
import inspect
import os
import re
import sys
import typing
import uuid

import pytest
import wire
from tornado import testing as tornado_testing
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import current
from sprockets.clients.memcached.cached_function import patterns
from sprockets.clients.memcached.testing import MemcachedTestCase

MODULE = __name__


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Elsewhere:
    class Color(enum.Enum):
        RED = 1


@pytest.fixture
def client(memcached_server):
    made = memcached.Client(servers=memcached_server.address)
    yield made
    made.disconnect_all()


@contextlib.asynccontextmanager
async def connected(server, **options):
    client = memcached.AsyncClient(servers=server.address, **options)
    try:
        yield client
    finally:
        await client.close()


# Names


@memcached.cached(60)
def look_up(a, b=2, *more, c=None, **others):
    """What it says."""


def named(text):
    return f'{MODULE}.look_up({text})'


def test_a_key_has_the_names_of_function_and_arguments():
    """One can read in memcached's own tools what a value is of."""
    assert look_up.key(1) == named('a=1,b=2,more=(),c=None')


@pytest.mark.parametrize(
    'args, kwargs',
    [((1, 2), {}), ((1,), {'b': 2}), ((), {'b': 2, 'a': 1, 'c': None})],
)
def test_it_is_the_same_however_arguments_are_given(args, kwargs):
    """By place, by name, or left out where they have a default."""
    assert look_up.key(*args, **kwargs) == look_up.key(1)


def test_further_keywords_are_in_order():
    """Theirs, not that of the call."""
    key = look_up.key(1, y='Y', x='X')
    assert key == look_up.key(1, x='X', y='Y')
    assert key.endswith("more=(),c=None,**'x'='X',**'y'='Y')")


DIFFERENT = [
    1,
    '1',
    b'1',
    1.0,
    True,
    None,
    'None',
    decimal.Decimal(1),
    decimal.Decimal('1.0'),
    0.0,
    -0.0,
    (1,),
    [1],
    (True,),
    (1.0,),
    ('1',),
    (),
    [],
    '()',
    ((1, 2), 3),
    (1, (2, 3)),
    ('a,b',),
    ('a', 'b'),
    "'",
    '"',
    '\\',
    Color.RED,
    Elsewhere.Color.RED,
    Access.READ,
    Access.READ | Access.WRITE,
    uuid.UUID(int=1),
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.time(1),
    datetime.timedelta(1),
]


def test_different_arguments_have_different_keys():
    """Also where Python calls them equal, and in whatever order they come."""
    for values in (DIFFERENT, DIFFERENT[::-1]):
        keys = [look_up.key(value) for value in values]
        keys += [look_up.key(0, c=value) for value in values]
        assert len(set(keys)) == 2 * len(DIFFERENT)
        for key in keys:
            assert len(key) <= patterns.MAX_NAME
            memcached.Client(servers='127.0.0.1:1').get(key)


def test_names_of_keywords_do_not_mix_with_values():
    """Whatever text they are."""
    assert look_up.key(1, **{'x=1,y': 2}) != look_up.key(1, x=1, y=2)

    @memcached.cached(60)
    def positional(a, /, **others):
        pass

    assert positional.key(1, a=2) != positional.key(3, a=2)


def test_a_long_key_is_hashed_behind_a_readable_head():
    """It has no blanks, and fits into memcached with a prefix."""
    key = look_up.key('ü ' * 1000)
    assert re.fullmatch('[!-~]+', key)
    assert len(key) == patterns.MAX_NAME
    assert key.startswith(named('a=')[:-1])
    assert key != look_up.key('ü ' * 1001)


@pytest.mark.parametrize(
    'value',
    [
        object(),
        {},
        {1},
        iter([]),
        [object()],
        type('Text', (str,), {})(),
        type('Number', (int,), {})(),
    ],
)
def test_what_has_no_name_is_refused(value):
    """A number in a repr would be that of another object tomorrow."""
    with pytest.raises(TypeError, match='key='):
        look_up(value)
    with pytest.raises(TypeError, match='key='):
        look_up.invalidate(1, c=value)


def test_arguments_that_the_function_does_not_take_are_refused():
    """As a call of the function itself would."""
    with pytest.raises(TypeError, match='missing'):
        look_up()
    with pytest.raises(TypeError, match='multiple values'):
        look_up(1, a=1)


def test_a_pattern_or_a_function_names_calls_otherwise():
    """Blanks and length are taken care of."""

    @memcached.cached(60, key='user:{user_id}:{x}')
    def by_pattern(user_id, **others):
        pass

    assert by_pattern.key(7, x='y') == 'user:7:y'
    assert re.fullmatch(
        'user:a_b:y#[0-9a-f]{32}', by_pattern.key('a b', x='y')
    )

    @memcached.cached(60, key=lambda user: f'user:{user["id"]}')
    def by_function(user):
        pass

    assert by_function.key({'id': 7}) == 'user:7'


def test_the_decorator_wants_a_time():
    """It is easily forgotten."""
    with pytest.raises(TypeError, match=r'cached\(60\)'):

        @memcached.cached
        def function():
            pass


@pytest.mark.parametrize(
    'options',
    [
        {'time': 'soon'},
        {'time': 60, 'stale': -1},
        {'time': 60, 'stale': datetime.timedelta(days=31)},
        {'time': 60, 'lease': 0},
    ],
)
def test_times_are_checked_when_a_function_is_decorated(options):
    """Rather than in the first call."""
    with pytest.raises(ValueError, match='expected'):
        memcached.cached(**options)


def test_a_coroutine_function_wants_an_awaitable_client(client):
    """A blocking one would hold up the loop."""
    with pytest.raises(TypeError, match='AsyncClient'):

        @memcached.cached(60, client=client)
        async def function():
            pass


def test_what_is_known_of_a_function_stays_known():
    """Its name, its documentation, its signature, what it is."""
    assert look_up.__name__ == 'look_up'
    assert look_up.__doc__ == 'What it says.'
    assert inspect.signature(look_up) == inspect.signature(look_up.__wrapped__)


# Plain functions


def test_a_result_is_cached(client):
    """Until it is invalidated, each by its arguments."""
    calls = []

    @memcached.cached(60, client=client, name='square')
    def square(number):
        calls.append(number)
        return number * number

    assert [square(3), square(3), square(4), square(number=3)] == [9, 9, 16, 9]
    assert calls == [3, 4]
    assert client.get(square.key(3)) == 9
    assert square.invalidate(3)
    assert not square.invalidate(3)
    assert square(3) == 9
    assert calls == [3, 4, 3]


def test_options_are_those_of_get_or_set(client, memcached_server):
    """The time and the others."""

    @memcached.cached(60, client=client, stale=60, cache_none=False)
    def function(value):
        return value

    function(1)
    assert function(None) is None
    address = memcached_server.address
    assert 117 <= wire.seconds_left(address, function.key(1)) <= 120
    assert client.get(function.key(None), 'none') == 'none'


def test_without_a_client_the_environment_tells(memcached_server, monkeypatch):
    """There is one client for each prefix."""
    address = memcached_server.address
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', address)
    monkeypatch.setenv('MEMCACHED_SERVERS', '127.0.0.1:1')
    current.forget()

    @memcached.cached(60, prefix='pages')
    def function():
        return 'value'

    @memcached.cached(60, prefix='pages')
    def another():
        return 'value'

    assert function() == another() == 'value'
    assert wire.stored(address, function.key()) == (16, b'value')
    assert current.blocking('pages') is current.blocking('pages')
    current.forget()


class Shop:
    def __init__(self, number):
        self.number = number

    @memcached.cached(60, key=lambda self, x: f'shop:{self.number}:{x}')
    def price(self, x):
        return self.number * x

    @memcached.cached(60)
    def nameless(self):
        pass

    @staticmethod
    @memcached.cached(60)
    def static(x):
        return x


def test_a_function_of_no_module_needs_a_name():
    """It may be any, where exec has made it."""
    made = {}
    exec('async def load(number): return number', made)
    load = made['load']
    assert load.__module__ is None
    for decorate in memcached.cached(60), memcached.cached.many(60):
        with pytest.raises(TypeError, match=r'^load is of no .* name='):
            decorate(load)
    named = memcached.cached(60, name='load')(load)
    assert named.key(3) == 'load(number=3)'
    assert repr(named) == '<cached function load>'


ANNOTATED = """
import asyncio

from sprockets.clients import memcached

def last(user: User) -> int:
    return 60

@memcached.cached(last)
def load(number: Number = 1) -> User:
    return number

@memcached.cached(60)
async def load_later(number: Number = 1) -> User:
    return number

@memcached.cached(60)
def fetch(number: Number = 1) -> asyncio.Future[User]:
    return number

@memcached.cached(60)
def promise(number: Number = 1) -> Awaitable[User]:
    return number

@memcached.cached.many(60)
def load_many(numbers: list[Number]) -> dict[Number, User]:
    return {}
"""

if sys.version_info < (3, 14):
    # They are looked at when somebody asks, as they are by themselves since.
    ANNOTATED = f'from __future__ import annotations\n{ANNOTATED}'


def test_what_annotations_name_need_not_be_there():
    """It may be imported for type checkers alone, or be made later."""
    made = {'__name__': 'annotated'}
    exec(compile(ANNOTATED, 'annotated.py', 'exec', dont_inherit=True), made)
    for name in ('load', 'load_later', 'fetch', 'promise'):
        assert made[name].key() == f'annotated.{name}(number=1)'
        assert [*inspect.signature(made[name]).parameters] == ['number']
        awaited = inspect.iscoroutinefunction(made[name].get)
        assert awaited is (name != 'load'), name
    assert made['load_many'].key(1) == 'annotated.load_many(numbers=1)'


def test_methods_of_other_objects_need_a_key(memcached_server):
    """An object has no name of its own."""
    client = memcached.Client(servers=memcached_server.address)
    assert Shop(2).price(3) == 6
    assert Shop(3).price(3) == 9
    assert client.get('shop:2:3') == 6
    assert Shop(2).price.key(3) == 'shop:2:3'
    assert Shop(2).price.invalidate(3)
    assert Shop.static(5) == 5
    with pytest.raises(TypeError, match='key='):
        Shop(2).nameless()
    client.disconnect_all()


# Coroutine functions


def test_a_coroutine_function_stays_one(memcached_server):
    """It can be awaited, be made a task of, and be run by asyncio.run."""

    async def main():
        async with connected(memcached_server) as client:
            calls = []

            @memcached.cached(60, client=client, name='square')
            async def square(number):
                calls.append(number)
                await asyncio.sleep(0)
                return number * number

            assert inspect.iscoroutine(call := square(3))
            assert await call == 9
            assert await asyncio.create_task(square(3)) == 9
            results = await asyncio.gather(*[square(5) for _ in range(20)])
            assert results == [25] * 20
            assert calls == [3, 5]
            assert await square.invalidate(3)
            assert await square(3) == 9
            assert calls == [3, 5, 3]

    asyncio.run(main())


def test_a_coroutine_function_says_that_it_is_one():
    """To whoever asks, where Python has a way to say it."""

    @memcached.cached(60)
    async def function():
        pass

    known = hasattr(inspect, 'markcoroutinefunction')
    assert inspect.iscoroutinefunction(function) == known


def test_a_name_is_sent_by_the_rules_of_the_moment(memcached_server):
    """They may change, and differ between clients."""
    address = memcached_server.address
    calls = []

    async def function(value):
        calls.append(value)
        return len(calls)

    async def main():
        async with (
            connected(memcached_server) as plain,
            connected(memcached_server, key_prefix='v2:') as prefixed,
        ):
            both = [
                memcached.cached(60, client=client, key='key:{value}')(
                    function
                )
                for client in (plain, prefixed)
            ]
            assert [await one(7) for one in both * 2] == [1, 2, 1, 2]
            assert wire.stored(address, 'key:7') is not None
            assert wire.stored(address, 'v2:key:7') is not None
            encoding = plain._engine.encoding
            encoding.key_encoder = 'encoded:{}'.format
            assert [await one(7) for one in both * 2] == [3, 2, 3, 2]
            assert wire.stored(address, 'encoded:key:7') is not None
            encoding.key_encoder = None
            assert await both[0](7) == 1
            encoding.server_max_key_length = 3
            with pytest.raises(memcached.Client.MemcachedKeyLengthError):
                await both[0](7)

    asyncio.run(main())


class Owner:
    def __init__(self, client):
        self.memcached = client

    @memcached.cached(60)
    async def load(self, number):
        return number


def test_a_name_is_remembered_for_each_client(memcached_server):
    """Of the same function on handlers of several applications."""

    async def main():
        async with (
            connected(memcached_server, key_prefix='a:') as one,
            connected(memcached_server, key_prefix='b:') as other,
        ):
            for client in (one, other) * 2:
                assert await Owner(client).load(7) == 7
            for prefix in ('a:', 'b:'):
                key = prefix + Owner(one).load.key(7)
                stored = wire.stored(memcached_server.address, key)
                assert stored == (2, b'7')

    asyncio.run(main())


@pytest.mark.parametrize(
    'time', [60, datetime.timedelta(days=40), datetime.timedelta(minutes=1)]
)
def test_a_time_is_as_in_get_or_set(memcached_server, time):
    """Whether it is always the same for memcached or not."""
    address = memcached_server.address

    async def main():
        async with connected(memcached_server) as client:

            @memcached.cached(time, client=client)
            async def function():
                return 'value'

            for _ in range(2):
                assert await function() == 'value'
            left = 60 if time == 60 else time.total_seconds()
            seconds = wire.seconds_left(address, function.key())
            # memcached's second may have turned since.
            assert left - 3 <= seconds <= left + wire.LATE

    asyncio.run(main())


@pytest.mark.parametrize('options', [{}, {'key': lambda x: f'key:{x}'}])
def test_a_client_with_its_own_get_or_set_is_called(memcached_server, options):
    """It may count, or log."""
    seen = []

    class Client(memcached.AsyncClient):
        def get_or_set(self, key, *args, **kwargs):
            seen.append(key)
            return super().get_or_set(key, *args, **kwargs)

    async def main():
        client = Client(servers=memcached_server.address)

        @memcached.cached(60, client=client, **options)
        async def function(x):
            return x

        for _ in range(2):
            assert await function(7) == 7
        assert seen == [function.key(7)] * 2
        await client.close()

    asyncio.run(main())


def test_a_scope_will_do_as_client(memcached_server):
    """Whatever has get_or_set and invalidate."""

    async def main():
        async with connected(memcached_server) as client:

            @memcached.cached(60, client=client.scope())
            async def function():
                return 'value'

            assert await function() == 'value'

    asyncio.run(main())


def test_errors_are_the_callers(client):
    """And nothing is stored."""

    @memcached.cached(60, client=client)
    def function():
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            function()
    assert client.get(function.key()) is None


# Handlers' methods


class Article(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'articles'
    loaded: typing.ClassVar = []

    async def get(self, number):
        self.write(await self.load(int(number)))

    async def put(self, number):
        deleted = await self.load.invalidate(int(number))
        self.write(f'{deleted} {self.load.key(int(number))}')

    @memcached.cached(60)
    async def load(self, number, *, language='en'):
        self.loaded.append(number)
        return f'{language} {number}'


class HandlerTestCase(MemcachedTestCase, tornado_testing.AsyncHTTPTestCase):
    memcached_prefixes = ('articles',)

    def get_app(self):
        Article.loaded.clear()
        return web.Application([(r'/(\d+)', Article)])

    def tearDown(self):
        for client in self._app.memcached_clients.values():
            self.io_loop.run_sync(client.close)
        super().tearDown()

    def test_a_method_uses_the_handlers_client(self):
        """Its prefix; the handler is no part of the key."""
        assert 'MEMCACHED_SERVERS' not in os.environ
        for _ in range(3):
            assert self.fetch('/7').body == b'en 7'
        assert self.fetch('/8').body == b'en 8'
        assert Article.loaded == [7, 8]
        key = f"{MODULE}.Article.load(number=7,language='en')"
        stored = wire.stored(self.memcached_server.address, key)
        assert stored == (16, b'en 7')

    def test_a_result_is_invalidated_for_all_requests(self):
        """Which handler does so makes no difference."""
        self.fetch('/7')
        answer = self.fetch('/7', method='PUT', body='').body.decode()
        key = f"{MODULE}.Article.load(number=7,language='en')"
        assert answer == f'1 {key}'
        self.fetch('/7')
        assert Article.loaded == [7, 7]
