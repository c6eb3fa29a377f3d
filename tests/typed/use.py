"""What type checkers know of cached functions, right use and wrong use.

``scripts/test --only types`` has mypy and pyright look at it.  What is wrong
is marked as ignored, and a mark where nothing is wrong is an error too.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import functools
import typing
from collections import abc

from tornado import web

from sprockets.clients import memcached

client = memcached.AsyncClient()
blocking = memcached.Client()


T = typing.TypeVar('T')


class User(typing.NamedTuple):
    name: str


@memcached.cached(60)
async def load(user_id: int, *, language: str = 'en') -> User:
    return User(f'{user_id} {language}')


@memcached.cached(60)
def add(a: int, b: int) -> int:
    return a + b


@memcached.cached(60, client=client)
def add_awaited(a: int, b: int) -> int:
    return a + b


@memcached.cached(60, client=lambda: client)
def add_found(a: int, b: int) -> int:
    return a + b


@memcached.cached(60, client=blocking, key='{a}')
def add_blocking(a: int, b: int) -> int:
    return a + b


@memcached.cached(60)
def fetch(url: str) -> asyncio.Future[bytes]:
    raise NotImplementedError(url)


@memcached.cached.many(60)
async def load_many(ids: list[int], language: str = 'en') -> dict[int, User]:
    return {number: User(language) for number in ids}


@memcached.cached.many(60, client=blocking)
def count_many(words: abc.Iterable[str]) -> dict[str, int]:
    return {word: len(word) for word in words}


@memcached.cached(60)
def describe(thing: object) -> str:
    return str(thing)


@memcached.cached(60)
def describe_any(thing: typing.Any) -> str:
    return str(thing)


@memcached.cached(60)
async def describe_later(thing: object, language: str = 'en') -> str:
    return f'{thing} {language}'


@memcached.cached(60, client=client)
def describe_awaited(thing: object) -> str:
    return str(thing)


@memcached.cached(60, client=blocking)
def describe_blocking(thing: abc.Hashable) -> str:
    return str(thing)


@memcached.cached(60)
def twice(thing: T) -> list[T]:
    return [thing, thing]


add_one = memcached.cached(60)(functools.partial(add, 1))


class Page(memcached.MemcachedMixin, web.RequestHandler):
    async def get(self) -> None:
        user: User = await self.load(7)
        self.write(user.name)
        count: int = await self.count('x')
        self.write(str(count))
        await self.head('tea')
        await self.plain(7)
        await self.head(7)  # type: ignore[arg-type]
        await self.plain()  # type: ignore[call-arg]
        await self.load('7')  # type: ignore[arg-type]
        await self.load(self, 7)  # type: ignore[arg-type, call-arg]

    @memcached.cached_response(60, query=['page'], user=True)
    async def head(self, slug: str) -> None:
        self.write(slug)

    @memcached.cached_response(60, vary=lambda handler: None)
    def plain(self, number: int) -> None:
        self.write(str(number))

    @memcached.cached(60)
    async def load(self, user_id: int) -> User:
        return User(str(user_id))

    @memcached.cached.many(60)
    async def load_many(self, ids: list[int]) -> dict[int, User]:
        return {number: User('x') for number in ids}

    async def post(self) -> None:
        users: dict[int, User] = await self.load_many([7])
        self.write(users[7].name)
        await self.load_many(7)  # type: ignore[arg-type]

    @memcached.cached(60)
    def count(self, word: str) -> int:
        return len(word)


class Prices:
    @memcached.cached(60)
    @classmethod
    async def of(cls, item: str) -> float:
        return float(len(item))

    @memcached.cached(60)
    @staticmethod
    def plain(item: str) -> float:
        return float(len(item))

    @staticmethod
    @memcached.cached(60)
    async def later(item: str) -> float:
        return float(len(item))

    @memcached.cached.many(60)
    @staticmethod
    async def many(items: list[str]) -> dict[str, float]:
        return {item: float(len(item)) for item in items}

    async def both(self, item: str) -> float:
        return self.plain(item) + await self.later(item)


class Titles:
    """It has a client that blocks."""

    def __init__(self, client: memcached.Client) -> None:
        self.memcached = client

    @memcached.cached(60)
    def of(self, number: int) -> str:
        return str(number)


class TitlesLater:
    """It has one that is awaited."""

    def __init__(self, client: memcached.AsyncClient) -> None:
        self.memcached = client

    @memcached.cached(60)
    def of(self, number: int) -> str:
        return str(number)


async def right() -> None:
    """Pass."""
    user: User = await load(7, language='no')
    total: int = add(1, 2)
    awaited: int = await add_awaited(1, 2)
    found: int = await add_found(1, b=2)
    told: int = add_blocking(1, 2)
    data: bytes = await fetch('url')
    price: float = await Prices.of('shirt')
    plain: float = Prices.plain('shirt')
    deleted: int = await load.invalidate(7)
    gone: int = add.invalidate(1, 2)
    of: int = await Prices.of.invalidate('shirt')
    key: str = load.key(7)
    again: User = await load.refresh(7, language='no')
    stored: int = await load.set(user, 7)
    there: User | None = await load.get(7)
    number: int | None = add.get(1, 2)
    marked: int = add.mark_stale(1, 2)
    task: asyncio.Task[User] = asyncio.create_task(load(7))
    function: abc.Callable[[int, int], int] = add
    users: dict[int, User] = await load_many([7, 8], language='no')
    counts: dict[str, int] = count_many(['a'])
    user = users[7]
    number = counts['a']
    prices: dict[str, float] = await Prices.many(['shirt'])
    prices = await Prices().many(['shirt'])
    words_of: str = Titles(blocking).of(7)
    words_of = await TitlesLater(client).of(7)
    _ = prices, words_of
    title: str | None = await client.get('title', kind=str)
    count: int = blocking.get('count', 0, kind=int)
    title = await client.namespace('x').get('title', None, kind=str)
    count = blocking.namespace('x').get('count', 0, kind=int)
    count = await client.set('title', 'Tea', time=60)
    count = await client.namespace('x').delete('title')
    missed: list[str] = await client.set_multi({'a': 1})
    words: dict[str, int] = await client.get_multi(['a'])
    _ = missed, words
    anything: User = await client.get('user')
    _ = title, count, anything
    ended: int = await client.namespace('user:7').invalidate()
    ended = blocking.namespace('user:7').namespace('cart').invalidate()
    ended = await client.invalidate_tags('catalog', 'rates')
    memcached.cached(60, tags=('catalog',))
    number = await client.incr('count', initial=1, time=60)
    number = blocking.incr('count', initial=1, time=60)
    _ = user, total, awaited, found, told, data, price, plain, deleted
    _ = (
        ended,
        gone,
        of,
        key,
        task,
        function,
        again,
        stored,
        there,
        number,
        marked,
    )


async def right_whatever_is_taken() -> None:
    """Pass: what takes any object takes no class for that."""
    text: str = describe(7)
    text = describe(thing=7)
    text = describe_any(7)
    text = await describe_later(7, language='no')
    text = await describe_awaited(7)
    text = describe_blocking(7)
    both: list[int] = twice(7)
    number: int = add_one(2)
    await describe_later.invalidate(7)
    text = describe.__wrapped__(7)
    text = await describe_later.__wrapped__(7)
    number = add_blocking.__wrapped__(1, 2)
    user: User = await load.__wrapped__(7)
    counts: abc.Mapping[str, int] = count_many.__wrapped__(['a'])
    _ = text, both, number, user, counts


async def wrong() -> None:
    """Fail, in each line."""
    await load('wrong', 'args')  # type: ignore[arg-type, call-arg]
    await load()  # type: ignore[call-arg]
    await load(7, tongue='no')  # type: ignore[call-arg]
    name: str = await load(7)  # type: ignore[assignment]
    total: str = add(1, 2)  # type: ignore[assignment]
    add(1)  # type: ignore[call-arg]
    await add(1, 2)  # type: ignore[misc]
    awaited: int = add_awaited(1, 2)  # type: ignore[assignment]
    await load.invalidate('7')  # type: ignore[arg-type]
    await load.set('user', 7)  # type: ignore[arg-type]
    await load.refresh('7')  # type: ignore[arg-type]
    add.set(3, 1)  # type: ignore[call-arg]
    add.key('1', 2)  # type: ignore[arg-type]
    told: int | None = await client.get('k', kind=str)  # type: ignore[arg-type]
    typed: int = blocking.get('k', kind=int)  # type: ignore[assignment]
    await client.get('k', kind='str')  # type: ignore[call-overload]
    told = await client.namespace('x').get('k', kind=str)  # type: ignore[arg-type]
    typed = blocking.namespace('x').get('k', kind=int)  # type: ignore[assignment]
    typed = await client.incr('k')  # type: ignore[assignment]
    text: str = await client.set('k', 1)  # type: ignore[assignment]
    text = await client.touch('k', 60)  # type: ignore[assignment]
    text = await client.get_multi(['k'])  # type: ignore[assignment]
    text = await client.set_multi({'k': 1})  # type: ignore[assignment]
    text = await client.get_stats()  # type: ignore[assignment]
    _ = told, typed, text
    client.namespace(7)  # type: ignore[arg-type]
    memcached.cached(60, tags=(7,))  # type: ignore[arg-type]
    await load_many(7)  # type: ignore[arg-type]
    await load_many(['7'])  # type: ignore[list-item]
    users: dict[str, User] = await load_many([7])  # type: ignore[assignment]
    count_many(['a'], 'b')  # type: ignore[call-arg]
    blocking.incr('count', initial='1')  # type: ignore[arg-type]
    await Prices.of(7)  # type: ignore[arg-type]
    Prices().plain(7)  # type: ignore[arg-type]
    await Prices().later(7)  # type: ignore[arg-type]
    await Prices.many(7)  # type: ignore[arg-type]
    await Titles(blocking).of(7)  # type: ignore[misc]
    text = TitlesLater(client).of(7)  # type: ignore[assignment]
    memcached.cached_response(60, query=7)  # type: ignore[arg-type]
    memcached.cached_response(60, user='me')  # type: ignore[arg-type]
    memcached.cached(60, prefix=7)  # type: ignore[call-overload]
    memcached.cached(60, nonsense=7)  # type: ignore[call-overload]
    describe()  # type: ignore[call-arg]
    shown: int = describe(7)  # type: ignore[assignment]
    shown = describe_any(7)  # type: ignore[assignment]
    await describe_later()  # type: ignore[call-arg]
    twice(7, 8)  # type: ignore[call-arg]
    shown = describe.__wrapped__(7)  # type: ignore[assignment]
    _ = name, total, awaited, users, shown
