"""What cached tells apart, how, and what it refuses: the table in the docs.

Each row is a function here, which sees to what the row says.
"""

import asyncio
import copy
import datetime
import decimal
import enum
import functools
import gc
import importlib
import inspect
import operator
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
import zoneinfo

import pytest
from tornado import gen, web

from sprockets.clients import memcached
from sprockets.clients.memcached.cached_function import calls, names

PAGE = pathlib.Path(__file__).resolve().parent.parent / 'docs/howto/cached.rst'

ROWS = {}

cached = memcached.cached(60)


def row(what, outcome):
    """Let a function be about a row of the table.

    :param str outcome: ``told apart`` or ``refused``

    """

    def enter(function):
        ROWS[what] = outcome, function
        return function

    return enter


def refused(make, *words):
    """See that something is refused, and that it is said what to write."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    for word in words or ('key=', 'name='):
        assert word in str(caught.value)


def apart(*keys):
    assert len({*keys}) == len(keys), keys


@cached
def plain(a, b=2, /, c=3, *more, d=None, **others):
    return a, b, c, more, d, others


@row('arguments by place, by name, or left out', 'told apart')
def arguments():
    same = plain.key(1), plain.key(1, 2), plain.key(1, c=3), plain.key(1, 2, 3)
    assert len({*same}) == 1
    assert plain.key(1, x=1, y=2) == plain.key(1, y=2, x=1)
    apart(
        same[0],
        plain.key(1, 3),
        plain.key(1, c=2),
        plain.key(1, 2, 3, 4),
        plain.key(1, 2, 3, 4, 5),
        plain.key(1, 2, 3, (4, 5)),
        plain.key(1, d=4),
        plain.key(1, e=4),
        plain.key(1, a=4),
        plain.key(1, a=5),
        plain.key(1, **{'a=4,b': 5}),
    )


class Color(enum.Enum):
    RED = 1


@row('arguments of different types', 'told apart')
def types_of_arguments():
    berlin = zoneinfo.ZoneInfo('Europe/Berlin')
    lagos = zoneinfo.ZoneInfo('Africa/Lagos')
    moment = datetime.datetime(2026, 1, 1)
    hour = datetime.timedelta(hours=1)
    apart(
        *map(
            plain.key,
            [
                *(1, '1', b'1', 1.0, True, None, 'None', (1,), [1], Color.RED),
                moment,
                moment.replace(fold=1),
                moment.replace(tzinfo=datetime.UTC),
                moment.replace(tzinfo=berlin),
                moment.replace(tzinfo=lagos),
                moment.replace(tzinfo=datetime.timezone(hour)),
                moment.replace(tzinfo=datetime.timezone(hour, 'CET')),
                moment.replace(tzinfo=datetime.timezone(hour, 'WAT')),
                str(moment),
                datetime.timedelta(days=999_999, microseconds=1),
                datetime.timedelta(days=999_999, microseconds=2),
            ],
        )
    )
    one, two, both = Made
    apart(plain.key((one, two)), plain.key((both,)))


Made = enum.Enum('Made', ['A', 'B', f'A,{__name__}.Made.B'])


@row('arguments without a name', 'refused')
def nameless_arguments():
    for value in (object(), {}, {1}, lambda: None, Color):
        refused(lambda: plain.key(1, value), 'key=')  # noqa: B023


@row('defaults', 'told apart')
def defaults():
    def make(default):
        @cached
        def load(x, y=default):
            return x, y

        return load

    apart(make(1).key(0), make(2).key(0), make('1').key(0))
    changing = [1]
    load = make(changing)
    before = load.key(0)
    changing.append(2)
    apart(before, load.key(0))
    refused(lambda: make(object()), 'key=', 'default')


def price_in(currency, rate):
    @cached
    def price(amount):
        return f'{amount * rate} {currency}'

    return price


@row('functions that are made by a function', 'told apart')
def closures():
    nok, eur = price_in('NOK', 11.5), price_in('EUR', 1)
    apart(nok.key(3), eur.key(3))
    assert nok.key(3) == price_in('NOK', 11.5).key(3)
    assert nok.key(3).endswith(".price[currency='NOK',rate=11.5](amount=3)")

    def late():
        made = []
        for number in range(2):

            @cached
            def load():
                return number  # noqa: B023

            made.append(load.key())
        return made

    apart(*late())

    def make_recursive():
        @cached
        def load(n):
            return n and load(n - 1)

        return load

    assert make_recursive().key(3) == make_recursive().key(3)

    def chain(*steps):
        @cached
        def load(x):
            for step in steps:
                x = step(x)
            return x

        return load

    chains = [(doubled, tripled, last) for last in (doubled, tripled, add)]
    apart(*[chain(*steps).key(1) for steps in chains])
    apart(
        *[
            cached(functools.partial(run_chain, *steps)).key()
            for steps in chains
        ]
    )

    def remembers(number):
        return cached(functools.lru_cache(price_of(number)))

    apart(remembers(1).key(3), remembers(2).key(3))

    def helped(helper):
        @cached
        def load(x):
            return helper(x)

        return load

    def with_default(number):
        def helper(x, number=number):
            return number, x

        return helper

    def with_keyword(number):
        def helper(x, *, number=number):
            return number, x

        return helper

    for make in (price_of, with_default, with_keyword):
        apart(*[helped(make(number)).key(3) for number in (1, 2)])
    apart(
        *[
            helped(functools.lru_cache(price_of(number))).key(3)
            for number in (1, 2)
        ]
    )


def run_chain(*steps):
    return [step(1) for step in steps]


def price_of(number):
    def price(x):
        return number, x

    return price


@row('those that use what has no name', 'refused')
def opaque_closures():
    def make(used):
        @cached
        def load(x):
            return used, x

        return load

    for used in ({'a': 1}, [1], object(), memcached.Client):
        if used is memcached.Client:
            assert make(used).key(1)
        else:
            refused(lambda: make(used))  # noqa: B023
    refused(lambda: price_in('NOK', object()))
    refused(lambda: make(lambda: None))
    refused(lambda: cached(Timed(price_of(1), 1)))
    refused(lambda: make(Timed(price_of(1), 1)))
    assert make(globally_timed).key(1) == make(globally_timed).key(1)

    def with_default(thing):
        def helper(x, thing=thing):
            return thing, x

        return helper

    refused(lambda: make(with_default([1])))


class Timed:
    """A decorator that is a class, as many are."""

    def __init__(self, function, number):
        functools.update_wrapper(self, function)
        self.number = number
        self.function = function

    def __call__(self, x):
        return self.number, self.function(x)


def globally_timed(x):
    return x


globally_timed = Timed(globally_timed, 1)


@row('lambdas', 'refused')
def lambdas():
    refused(lambda: cached(lambda x: x))
    refused(lambda: cached(functools.partial(lambda x: x, 1)))
    named = [
        memcached.cached(60, name=name)(lambda x: x) for name in ('a', 'b')
    ]
    apart(*[each.key(1) for each in named])
    assert named[0].key(1) == 'a(x=1)'


def add(a, b, *, c=0):
    return a + b + c


@row('``functools.partial``', 'told apart')
def partials():
    apart(
        cached(add).key(1, 2),
        cached(functools.partial(add, 1)).key(2),
        cached(functools.partial(add, 2)).key(2),
        cached(functools.partial(add, c=1)).key(1, 2),
        cached(functools.partial(functools.partial(add, 3), c=1)).key(2),
    )
    refused(lambda: cached(functools.partial(add, object())))

    class Counting(functools.partial):
        pass

    refused(lambda: cached(Counting(add)))

    @gen.coroutine
    def fetch(x):
        yield gen.moment
        return x

    assert inspect.iscoroutinefunction(
        cached(functools.partial(asyncio.sleep, 0)).__call__
    )
    fetched = cached(functools.partial(fetch, 1))
    assert inspect.iscoroutinefunction(fetched.get)


class Base(memcached.MemcachedMixin, web.RequestHandler):
    table = 'base'

    @cached
    async def load(self, x):
        return self.table, x

    @cached
    @classmethod
    def of_class(cls, x):
        return cls.table, x

    @memcached.cached(60, name='any')
    @classmethod
    def of_any_class(cls, x):
        return x

    @cached
    @staticmethod
    def static(x):
        return x

    @staticmethod
    @cached
    def static_too(x):
        return x


class Derived(Base):
    table = 'derived'


class Again(Derived):
    table = 'again'


@row('methods of a handler, and of its subclasses', 'told apart')
def handlers():
    keys = []
    for kind in (Base, Derived, Again):
        handler = kind.__new__(kind)
        handler._memcached = memcached.AsyncClient().scope()
        keys.append(handler.load.key(1))
        # Another request.
        other = kind.__new__(kind)
        other._memcached = memcached.AsyncClient().scope()
        assert other.load.key(1) == keys[-1] == kind.load.key(other, 1)
    apart(*keys)


@row('class methods, with ``@cached`` above ``@classmethod``', 'told apart')
def class_methods():
    apart(*[kind.of_class.key(1) for kind in (Base, Derived, Again)])
    assert Base.of_class.key(1).endswith('.Base.of_class(x=1)')
    assert (
        Base.of_any_class.key(1) == Derived.of_any_class.key(1) == 'any(x=1)'
    )
    # One that is given as an argument is none whose method it is.
    for options in ({}, {'name': 'count'}):

        @memcached.cached(60, **options)
        def count(kind):
            return kind.table

        apart(count.key(Base), count.key(Derived))

    def helped(helper):
        @cached
        async def load(x):
            return await helper(x)

        return load

    apart(*[helped(kind.of_class).key(1) for kind in (Base, Derived)])
    apart(
        *[
            cached(functools.partial(kind.of_class, 1)).key()
            for kind in (Base, Derived)
        ]
    )
    assert not hasattr(plain, '__self__')
    assert Derived.of_class.__self__ is Derived


@row('class methods, with ``@cached`` below', 'refused')
def class_methods_inside_out():
    def make():
        class Loader:
            @classmethod
            @cached
            def load(cls, x):
                pass

    refused(make, 'above @classmethod')


@row('static methods, with ``@cached`` above or below', 'told apart')
def static_methods():
    apart(Base.static.key(1), Base.static.key(2), Base.static_too.key(1))
    assert Base.static.key(1) == Derived.static.key(1)


class Shop:
    @cached
    def price(self, x):
        return x

    def uncached(self, x):
        return x


class Repository:
    def __init__(self, memcached, table=None):
        self.memcached = memcached
        if table is not None:
            self.table = table

    @cached
    async def load(self, x):
        return x


class Slotted:
    __slots__ = ('memcached', 'table')

    def __init__(self, memcached, table=None):
        self.memcached = memcached
        if table is not None:
            self.table = table

    price = Shop.price


class Listed(list):
    price = Shop.price


class Numbered(int):
    price = Shop.price


class FailedError(Exception):
    price = Shop.price


@row('methods of other objects', 'refused')
def methods():
    refused(lambda: Shop().price.key(1), 'key=')
    refused(lambda: cached(Shop().uncached))
    refused(lambda: cached([1].append))
    client = memcached.AsyncClient()
    assert Repository(client).load.key(1)
    refused(lambda: Repository(client, 'users').load.key(1))
    refused(
        lambda: Repository(client, memcached.Client()).load.key(1), 'table'
    )
    assert Repository(client, client).load.key(1)
    plain = memcached.Client()
    assert Slotted(plain).price.key(1)
    refused(lambda: Slotted(plain, 'users').price.key(1), 'table', 'key=')
    for kind in (Listed, Numbered, FailedError):
        thing = kind([1]) if kind is Listed else kind(1)
        thing.memcached = plain
        refused(lambda: thing.price.key(1), kind.__name__, 'key=')  # noqa: B023


@row('methods of classes that are made by a function', 'refused')
def local_classes():
    def make(table):
        class Local:
            @cached
            async def load(self, x):
                return table, x

        return Local

    refused(lambda: make('a'))

    def derive(table):
        return type('Local', (Base,), {'__qualname__': 'f.<locals>.Local'})

    refused(lambda: derive('a').of_class.key(1))

    def called(name, table):
        return type(name, (Base,), {'table': table})

    for name in ('Called', 'Derived'):
        refused(lambda: called(name, 'a').of_class.key(1))  # noqa: B023
        refused(lambda: price_in(called(name, 'a'), 1))  # noqa: B023
    assert price_in(type(None), int)


class Callable:
    def __call__(self, x):
        return x


@row('objects that can be called', 'refused')
def callables():
    refused(lambda: cached(Callable()))
    named = memcached.cached(60, name='callable')(Callable())
    assert named.key(1) == 'callable(x=1)'


@row('two functions of one name in a module', 'refused')
def same_name():
    text = """
        from sprockets.clients import memcached

        @memcached.cached(60)
        def load(x):
            return x

        first = load

        @memcached.cached(60{})
        def load(x):
            return -x
    """
    run_module(text.format(', name="second"'))
    with pytest.raises(TypeError, match=r'lines 4 and 10.* name='):
        run_module(text.format(''))
    assert either(True).key(1)
    with pytest.raises(TypeError, match=r'lines 1 and 1.* name='):
        run_module(
            """
            from sprockets.clients import memcached

            kept = []
            for table in ('users', 'carts'):
                exec(f'def load(x): return x, {table!r}', globals())
                kept.append(memcached.cached(60)(load))
            """
        )
    # What that one has stored is there, though it is gone.
    refused(lambda: either(False), 'lines', 'name=')


def either(first):
    if first:

        def load(x):
            return x
    else:

        def load(x):
            return -x

    return cached(load)


def run_module(text, **names):
    names = {'__name__': 'somewhere', '__spec__': object(), **names}
    exec(compile(textwrap.dedent(text), 'somewhere.py', 'exec'), names)
    return names


def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def call(*args):
            return factor * function(*args)

        return call

    return decorate


def with_other_default(function):
    @functools.wraps(function)
    def call(x, language='no'):
        return function(x, language)

    return call


def through(thing):
    def decorate(function):
        @functools.wraps(function)
        def call(*args):
            return thing, function(*args)

        return call

    return decorate


def doubled(x):
    return x


def doubled_a(a):
    return a, a


def tripled(x):
    return x


@row('a function with other decorators below', 'told apart')
def decorated():
    two, three = (cached(times(n)(doubled)) for n in (2, 3))
    apart(two.key(1), three.key(1), cached(doubled).key(1))
    opaque = cached(through(object())(doubled))
    assert opaque.key(1)
    refused(lambda: cached(through(object())(doubled)), 'name=')
    timed = cached(Timed(tripled, 1))
    assert timed.key(1)
    refused(lambda: cached(Timed(tripled, 2)), 'name=')
    refused(lambda: cached(functools.partial(Timed(tripled, 2))), 'name=')

    def defaulting(n):
        @functools.wraps(doubled)
        def call(x, factor=n):
            return factor * doubled(x)

        return cached(call)

    apart(defaulting(2).key(1), defaulting(3).key(1))

    @cached
    @with_other_default
    def greet(x, language='en'):
        return x, language

    apart(greet.key(1), greet.key(1, 'en'))
    assert greet.key(1) == greet.key(1, 'no')


@row(
    '``gen.coroutine``, and what is said to return an awaitable', 'told apart'
)
def awaitables():
    @cached
    @gen.coroutine
    def load(x):
        yield gen.moment
        return x

    @cached
    def fetch(x) -> 'asyncio.Future[int]':
        return load(x)

    apart(load.key(1), fetch.key(1), load.key(2))


@row('a plain function that returns an awaitable all the same', 'refused')
def untold_awaitables():
    client = memcached.Client(servers='127.0.0.1:1', socket_timeout=0.5)

    @memcached.cached(60, client=client)
    def load(x):
        return asyncio.sleep(0, x)

    refused(lambda: load(1), 'AsyncClient', 'async def')


@row('generators, asynchronous ones too', 'refused')
def generators():
    @memcached.cached(60, name='fine')
    def fine():
        return (x for x in ())

    def numbers():
        yield 1

    async def asynchronous():
        yield 1

    for function in (numbers, asynchronous):
        refused(lambda: cached(function), 'generator')  # noqa: B023
        partial = functools.partial(function)
        refused(lambda: cached(partial), 'generator')  # noqa: B023


@row('what does not say which arguments it takes', 'refused')
def builtins_without_signature():
    refused(lambda: cached(dict), 'key=')
    refused(lambda: cached(operator.itemgetter(1)), 'key=')


@row('a program, by its file or module', 'told apart')
def programs():
    text = textwrap.dedent("""
        from sprockets.clients import memcached
        @memcached.cached(60)
        def load(x):
            return x
        print(load.key(1))
    """)
    with tempfile.TemporaryDirectory() as name:
        keys = []
        for program in ('one', 'two'):
            path = pathlib.Path(name) / f'{program}.py'
            path.write_text(text)
            keys.append(printed(path))
            assert keys[-1] == f'{program}.load(x=1)'
            assert printed('-m', program, cwd=name) == keys[-1]
        other = text.replace('return x', 'return -x')
        apart(*keys, printed('-c', text), printed('-c', other))


def printed(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


@row('patterns', 'told apart')
def pattern():
    @memcached.cached(60, key='u:{a}:{b}')
    def load(a, b, c=None):
        return a, b

    assert load.key(7, 'x') == 'u:7:x'
    assert load.key(7, 'x', c=8) == load.key(7, 'x')
    apart(
        *(
            load.key(*args)
            for args in [
                *((1, 'x'), ('1', 'x'), (1.0, 'x'), (True, 'x')),
                *(('x:y', 'z'), ('x', 'y:z'), ('x', 'y'), ('x ', 'y')),
                *(('x_', 'y'), ('x\n', 'y'), (None, 'y'), ('None', 'y')),
            ]
        )
    )
    # What looks like another one's key is another one.
    other = load.key('a b', 'x')
    assert re.fullmatch('u:a_b:x#[0-9a-f]{32}', other)

    @memcached.cached(60, key='{a}')
    def echo(a):
        return a

    apart(echo.key(other), other)
    assert echo.key('front') == 'front'
    assert echo.key('at 0x7f03') != echo.key('at 0x7f04')
    for thing in (object(), [object()], iter([1]), Callable().__call__):
        refused(lambda: echo.key(thing), '{user.id}')  # noqa: B023
        for conversion in ('!r', '!s', '!a', '!s:.60'):
            as_text = memcached.cached(60, key=f'x:{{a{conversion}}}')(
                doubled_a
            )
            refused(lambda: as_text.key(thing), '{user.id}')  # noqa: B023
            assert as_text.key('at 0x7f03') != as_text.key('at 0x7f04')

    as_text = memcached.cached(60, key='{a!s}')(doubled_a)
    apart(*map(as_text.key, (1, '1', 1.0, '1.0', None, 'None')))

    @memcached.cached(60, key='further:{a}')
    def further(**others):
        return others

    assert further.key(a=1, b=2) == 'further:1'
    refused(lambda: further.key(b=2), "has no 'a'")


@row('parameters that are hidden', 'told apart')
def hidden_parameters():
    @memcached.cached(60, hidden='b')
    def load(a, b):
        return a, b

    apart(load.key(1, 2), load.key(1, '2'), load.key(1, 3), load.key(2, 2))
    assert 'token' not in load.key(1, 'token')

    @memcached.cached(60, hidden='others')
    def further(**others):
        return others

    apart(further.key(a=1), further.key(a=2), further.key(b=1))
    assert 'token' not in further.key(a='token')

    @memcached.cached(60, hidden='others', key='further:{a}')
    def pattern(**others):
        return others

    apart(pattern.key(a=1), pattern.key(a=2))
    assert 'token' not in pattern.key(a='token')


@row('keys of ``cached.many`` that are one to a dict', 'refused')
def equal_keys():
    @memcached.cached.many(60)
    def load(numbers):
        return {number: repr(number) for number in numbers}

    ones = (decimal.Decimal(1), decimal.Decimal('1.0'))
    for keys in ([1, True], [0.0, -0.0], ones, [ones[:1], ones[1:]]):
        refused(lambda: load(keys), 'one to a dict')  # noqa: B023
    refused(lambda: load([[1]]), 'a list is among the keys')


@row('patterns that name what is no parameter', 'refused')
def bad_patterns():
    def load(a):
        return a

    for key in ('{b}', '{}', '{0}', '{a', 'x{b.c}'):
        refused(lambda: memcached.cached(60, key=key)(load), 'key is')  # noqa: B023


def test_the_table_has_each_row():
    """With what comes of it."""
    page = PAGE.read_text('utf-8')
    found = re.findall(
        r'^   \* - (.+(?:\n       .+)*)\n     - (told apart|refused)',
        page,
        re.MULTILINE,
    )
    assert {' '.join(what.split()): outcome for what, outcome in found} == {
        what: outcome for what, (outcome, _) in ROWS.items()
    }


@pytest.mark.parametrize('what', ROWS)
def test_a_row_is_so(what):
    """As it says."""
    ROWS[what][1]()


# What else a function is


@cached
def square(number):
    return number * number


def test_it_can_be_pickled_by_name():
    """For a pool of processes, as other functions can."""
    for function in (square, Base.of_class, Base.static, Base.load):
        again = pickle.loads(pickle.dumps(function))
        assert again.__qualname__ == function.__qualname__
    assert pickle.loads(pickle.dumps(square)) is square
    assert pickle.loads(pickle.dumps(Derived.of_class)).key(1) == (
        Derived.of_class.key(1)
    )
    with pytest.raises((AttributeError, pickle.PicklingError), match='local'):
        pickle.dumps(price_in('NOK', 1))


def test_it_can_be_copied_and_inspected():
    """A copy is itself; a method has the signature of a method."""
    assert copy.copy(square) is copy.deepcopy(square) is square
    assert str(inspect.signature(square)) == '(number)'
    assert str(inspect.signature(Base.of_class)) == '(x)'
    assert str(inspect.signature(Base.load)) == '(self, x)'
    assert square.__wrapped__(3) == 9
    assert repr(square) == f'<cached function {__name__}.square>'
    assert repr(Base.of_class) == f'<cached method {__name__}.Base.of_class>'
    assert Base.of_class.__name__ == 'of_class'
    partial = cached(functools.partial(add, 1))
    assert repr(partial) == f'<cached partial of function {__name__}.add>'
    with pytest.raises(pickle.PicklingError, match='partial of function'):
        pickle.dumps(partial)
    named = memcached.cached(60, name='callable')(Callable())
    assert repr(named) == f'<cached object of {__name__}.Callable>'
    assert cached(str.upper).key('x') == "builtins.str.upper(self='x')"


def test_threads_name_a_function_at_the_same_time():
    """What one has found out so far is nothing to another."""
    made, keys = [], []

    class Asking(types.ModuleType):
        """Has another thread ask for the key while one does."""

        def __getattr__(self, name):
            if made and threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=ask)
                thread.start()
                thread.join(30)
            raise AttributeError(name)

    def ask():
        keys.append(made[0].key(1))

    def using(first, second, third):
        @cached
        def load(x):
            return first(x), second, third(x)

        return load

    load = using(price_of(1), Asking('asking'), price_of(2))
    key = load.key(1)
    made.append(load)
    assert load.key(1) == key
    assert keys == [key]


def test_threads_see_a_change_at_the_same_time(monkeypatch):
    """What the slower one remembers is not what the function uses now."""

    def make():
        rate = 1

        @cached
        def price(amount):
            return amount * rate

        def change(to):
            nonlocal rate
            rate = to

        return price, change

    price, change = make()
    assert price.key(1)
    fresh = calls.Calls._fresh
    others = [3]

    def slow(self):
        made = fresh(self)
        if others:
            # Another thread, meanwhile.
            change(others.pop())
            assert 'rate=3' in price.key(1)
        return made

    monkeypatch.setattr(calls.Calls, '_fresh', slow)
    change(2)
    price.key(1)
    assert 'rate=3' in price.key(1)


def test_what_many_use_is_looked_into_once(monkeypatch):
    """Of functions that use others, which use others in turn."""
    looked = []
    module_of = names.module_of

    def look(thing):
        looked.append(thing)
        return module_of(thing)

    def using(*others):
        def use(x):
            return [other(x) for other in others]

        return use

    def layers(first, second):
        made = [using(first), using(second)]
        for _ in range(10):
            made.append(using(*made))
        return made

    monkeypatch.setattr(names, 'module_of', look)
    made = [layers(*pair) for pair in ((doubled, tripled), (doubled, doubled))]
    loads = [cached(layer[-1]) for layer in made]
    apart(*[load.key(1) for load in loads])
    twin = layers(doubled, tripled)
    assert cached(twin[-1]).key(1) == loads[0].key(1)
    looked.clear()
    assert loads[0].key(1)
    # Each of them, and what the first ones use.
    assert len(looked) == len(made[0]) + 2


def test_names_of_functions_that_are_gone_are_forgotten():
    """There may be one for each request."""
    before = len(names._claims)
    for number in range(50):
        assert price_in('NOK', number).key(1)
    gc.collect()
    assert len(names._claims) <= before + 1


def test_a_module_that_is_run_anew_has_the_same_names(tmp_path, monkeypatch):
    """Though a line may have come before."""
    monkeypatch.syspath_prepend(tmp_path)
    text = textwrap.dedent("""
        from sprockets.clients import memcached
        @memcached.cached(60)
        def load(x):
            return x
    """)
    path = tmp_path / 'cached_and_reloaded.py'
    path.write_text(text)
    module = importlib.import_module('cached_and_reloaded')
    before = module.load
    path.write_text(f'\n\n# longer\n{text}')
    importlib.invalidate_caches()
    after = importlib.reload(module).load
    assert before is not after
    assert before.key(1) == after.key(1)


def test_what_a_class_has_is_named_before_the_class_is_made(
    tmp_path, monkeypatch
):
    """Its module does not have it yet, or has one of an earlier run."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / 'classes_in_classes.py'
    path.write_text(
        textwrap.dedent("""
            import enum
            from sprockets.clients import memcached

            def using(mode):
                @memcached.cached(60)
                def load(x):
                    return x, mode
                return load

            class Board:
                class Mode(enum.Enum):
                    FULL = 1

                class Inner:
                    class Mode(enum.Enum):
                        SHORT = 1

                    @memcached.cached(60)
                    @staticmethod
                    def load(x, modes=(Mode.SHORT,)):
                        return x, modes

                @memcached.cached(60)
                @staticmethod
                def load(x, mode=Mode.FULL):
                    return x, mode

                using = staticmethod(using(Mode))
        """)
    )

    def keys(board):
        functions = board.Inner.load, board.load, board.using
        return [function.key(1) for function in functions]

    module = importlib.import_module('classes_in_classes')
    before = keys(module.Board)
    apart(*before)
    earlier = module.Board
    importlib.reload(module)
    assert keys(module.Board) == before
    refused(lambda: earlier.load.key(2), 'another Board.Mode')


@pytest.mark.parametrize(
    'options, words',
    [
        ({'key': 7}, 'key is 7'),
        ({'name': ''}, "name is ''"),
        ({'name': 7}, 'name is 7'),
        ({'name': 'a', 'key': 'b'}, 'not both'),
        ({'client': 'x'}, "client is 'x'"),
        ({'prefix': 7}, 'prefix is 7'),
        ({'hidden': 7}, 'hidden is 7'),
        ({'hidden': [7]}, 'hidden is .7.'),
        ({'hidden': b'a'}, "hidden is b'a'"),
    ],
)
def test_arguments_of_the_decorator_that_cannot_be(options, words):
    """Each is an error that names the argument."""
    with pytest.raises((TypeError, ValueError), match=words):
        memcached.cached(60, **options)(add)


def test_what_is_cached_is_not_cached_again():
    """Both would have the same key."""
    with pytest.raises(TypeError, match='cached already'):
        cached(square)
