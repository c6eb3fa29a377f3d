"""Libraries of caching, each behind the same operations.

A contender has, of these, what its library has.  Each returns what does it:

``cached``, ``get_or_set``, ``tagged``
    returns a value, given a number; the last one has a tag as well
``many``, ``cached_many``, ``missing``
    returns the values of keys, given a list of them: all are there, the same
    for a cached function, none is there
``ended``
    ends all values of a tag, and returns that of a number computed anew
``lock``, ``limit``
    takes and releases a lock that nobody else wants, counts a call: given a
    number
``hold``
    works a while with a lock that others want, too, in a block that is given
"""

import asyncio
import time

from benchmarks import contenders, packages
from benchmarks.contenders import OURS

VALUE = 'x' * 100

# Seconds: of a value, of a lock, and of what is done with the lock.
KEPT = 600
LOCKED = 10
WORK = 0.005
# More calls than there are.
CALLS = 1_000_000_000

MANY = 100
NUMBERS = range(64)
"""Those that operations are called with, at most."""

FIRST_NEW = 1_000
"""The first number whose keys nobody has stored."""

OWN_MEMORY = 'own memory'


def keys_of(number):
    """Return the keys of a list that a number stands for."""
    return [f'{number}:{place}' for place in range(MANY)]


async def compute(number):
    return VALUE


async def compute_many(keys):
    return dict.fromkeys(keys, VALUE)


def compute_blocking(number):
    return VALUE


def compute_many_blocking(keys):
    return dict.fromkeys(keys, VALUE)


def compute_alone():
    return VALUE


class Sprockets:
    """``AsyncClient``."""

    package = None

    def __init__(self, port):
        self.servers = f'127.0.0.1:{port}'

    async def start(self):
        from sprockets.clients import memcached

        self.client = memcached.AsyncClient(servers=self.servers)
        self.decorator = memcached.cached

    async def stop(self):
        await self.client.close()

    def cached(self, **options):
        return self.decorator(KEPT, client=self.client, **options)(compute)

    def get_or_set(self):
        get_or_set = self.client.get_or_set
        return lambda number: get_or_set(f'key:{number}', compute_alone, KEPT)

    def many(self):
        get_or_set_multi = self.client.get_or_set_multi
        return lambda keys: get_or_set_multi(keys, compute_many, KEPT)

    missing = many

    def cached_many(self):
        return self.decorator.many(KEPT, client=self.client)(compute_many)

    def tagged(self):
        return self.cached(tags=('tag',))

    def ended(self):
        cached = self.tagged()

        async def end(number):
            await self.client.invalidate_tags('tag')
            return await cached(number)

        return end

    def lock(self):
        async def hold(number):
            async with self.client.lock(f'lock:{number}', LOCKED) as held:
                return VALUE if held else None

        return hold

    def limit(self):
        limit = self.client.limit

        async def count(number):
            allowance = await limit(f'limit:{number}', CALLS, KEPT)
            return VALUE if allowance.left is not None else None

        return count

    def hold(self):
        async def hold(work):
            async with self.client.lock('held', LOCKED) as held:
                if held:
                    with work:
                        await asyncio.sleep(WORK)

        return hold


class SprocketsInMemory(Sprockets):
    """The same with ``SERVERS=memory``, next to what has its own memory."""

    many = cached_many = missing = None

    def __init__(self, port):
        self.servers = 'memory'


class Get:
    """``AsyncClient.get`` of what is there: what a hit costs at least."""

    package = None
    __init__ = Sprockets.__init__
    start = Sprockets.start
    stop = Sprockets.stop

    def get_or_set(self):
        self._store({f'key:{number}': VALUE for number in NUMBERS})
        get = self.client.get
        return lambda number: get(f'key:{number}')

    def cached(self):
        key = self.decorator(KEPT, client=self.client)(compute).key
        keys = [key(number) for number in NUMBERS]
        self._store(dict.fromkeys(keys, VALUE))
        get = self.client.get
        return lambda number: get(keys[number])

    tagged = cached

    def many(self):
        for number in NUMBERS:
            self._store(dict.fromkeys(keys_of(number), VALUE))
        return self.client.get_multi

    cached_many = many

    def _store(self, values):
        from sprockets.clients import memcached

        with memcached.Client(servers=self.servers) as client:
            client.set_multi(values)


class Blocking:
    """``Client``."""

    package = None

    def __init__(self, port):
        self.servers = f'127.0.0.1:{port}'

    async def start(self):
        from sprockets.clients import memcached

        self.client = memcached.Client(servers=self.servers)
        self.decorator = memcached.cached

    async def stop(self):
        self.client.disconnect_all()

    def cached(self):
        return self.decorator(KEPT, client=self.client)(compute_blocking)

    def get_or_set(self):
        get_or_set = self.client.get_or_set
        return lambda number: get_or_set(f'key:{number}', compute_alone, KEPT)

    def many(self):
        get_or_set_multi = self.client.get_or_set_multi
        return lambda keys: get_or_set_multi(keys, compute_many_blocking, KEPT)

    missing = many

    def cached_many(self):
        return self.decorator.many(KEPT, client=self.client)(
            compute_many_blocking
        )

    def lock(self):
        def hold(number):
            with self.client.lock(f'lock:{number}', LOCKED) as held:
                return VALUE if held else None

        return hold

    def hold(self):
        def hold(work):
            with self.client.lock('held', LOCKED) as held:
                if held:
                    with work:
                        time.sleep(WORK)

        return hold


class BlockingGet:
    """``Client.get`` of what is there."""

    package = None
    __init__ = Blocking.__init__
    start = Blocking.start
    stop = Blocking.stop

    def get_or_set(self):
        self.client.set_multi({f'key:{number}': VALUE for number in NUMBERS})
        get = self.client.get
        return lambda number: get(f'key:{number}')

    def cached(self):
        key = self.decorator(KEPT, client=self.client)(compute_blocking).key
        keys = [key(number) for number in NUMBERS]
        self.client.set_multi(dict.fromkeys(keys, VALUE))
        get = self.client.get
        return lambda number: get(keys[number])

    def many(self):
        for number in NUMBERS:
            self.client.set_multi(dict.fromkeys(keys_of(number), VALUE))
        return self.client.get_multi

    cached_many = many


class Aiocache:
    """aiocache with a pool of 16 connections, as JSON."""

    package = 'aiocache'

    def __init__(self, port):
        self._caches = []
        self._options = {
            'endpoint': '127.0.0.1',
            'port': port,
            'pool_size': contenders.POOL_SIZE,
            # Not all read what others store.
            'namespace': 'aiocache:',
        }

    async def start(self):
        import aiocache
        from aiocache import lock

        self._aiocache = aiocache
        self._lock = lock.RedLock
        self._options['cache'] = aiocache.Cache.MEMCACHED

    async def stop(self):
        for cache in self._caches:
            await cache.close()

    def cached(self):
        decorator = self._aiocache.cached(ttl=KEPT, **self._options)
        return self._closed(decorator(compute))

    def many(self):
        decorator = self._aiocache.multi_cached(
            'keys', ttl=KEPT, **self._options
        )
        return self._closed(decorator(compute_many))

    cached_many = missing = many

    def _closed(self, decorated):
        """Have the decorator's cache closed in the end."""
        self._caches.append(decorated.cache)
        return decorated

    def lock(self):
        # A cache is where a decorator has one.
        cache = self.cached().cache

        async def hold(number):
            async with self._lock(cache, f'lock:{number}', LOCKED):
                return VALUE

        return hold

    def hold(self):
        cache = self.cached().cache

        async def hold(work):
            async with self._lock(cache, 'held', LOCKED):
                with work:
                    await asyncio.sleep(WORK)

        return hold


class Cashews:
    """cashews, which knows no memcached: the memory of the process."""

    package = 'cashews'

    def __init__(self, port):
        pass

    async def start(self):
        from cashews import Cache

        self.cache = Cache()
        self.cache.setup('mem://')

    async def stop(self):
        await self.cache.close()

    def cached(self):
        return self.cache(ttl=KEPT, key='cached:{number}')(compute)

    def get_or_set(self):
        get_or_set = self.cache.get_or_set
        return lambda number: get_or_set(
            f'key:{number}', compute_alone, expire=KEPT
        )

    def tagged(self):
        return self.cache(ttl=KEPT, key='tagged:{number}', tags=['tag'])(
            compute
        )

    def ended(self):
        cached = self.tagged()

        async def end(number):
            await self.cache.delete_tags('tag')
            return await cached(number)

        return end

    def lock(self):
        async def hold(number):
            async with self.cache.lock(f'lock:{number}', LOCKED):
                return VALUE

        return hold

    def limit(self):
        return self.cache.rate_limit(limit=CALLS, period=KEPT)(compute)


def _listed(*keys):
    return [VALUE] * len(keys)


class Dogpile:
    """A region of dogpile.cache, on pymemcache."""

    package = 'dogpile.cache'

    def __init__(self, port):
        self._arguments = {
            'url': [f'127.0.0.1:{port}'],
            'distributed_lock': True,
            'lock_timeout': LOCKED,
        }

    async def start(self):
        from dogpile.cache import make_region

        # Not all read what others store.
        self.region = make_region(
            key_mangler=lambda key: f'dogpile:{key}'
        ).configure(
            'dogpile.cache.pymemcache',
            expiration_time=KEPT,
            arguments=self._arguments,
        )

    async def stop(self):
        """A region has nothing to be closed by."""

    def cached(self):
        return self.region.cache_on_arguments()(compute_blocking)

    def get_or_set(self):
        get_or_create = self.region.get_or_create
        return lambda number: get_or_create(f'key:{number}', compute_alone)

    def many(self):
        return self._as_dict(
            lambda *keys: self.region.get_or_create_multi(keys, _listed)
        )

    missing = many

    def cached_many(self):
        return self._as_dict(self.region.cache_multi_on_arguments()(_listed))

    def _as_dict(self, function):
        return lambda keys: dict(zip(keys, function(*keys), strict=True))

    def lock(self):
        def hold(number):
            mutex = self.region.backend.get_mutex(f'lock:{number}')
            mutex.acquire()
            mutex.release()
            return VALUE

        return hold

    def hold(self):
        def hold(work):
            mutex = self.region.backend.get_mutex('held')
            mutex.acquire()
            with work:
                time.sleep(WORK)
            mutex.release()

        return hold


def _there(contenders):
    return {
        name: contender
        for name, contender in contenders.items()
        if packages.missing(contender.package) is None
    }


def having(operation, callers):
    """Return the names of those who have an operation.

    :param int callers: who await it; 0 for a thread that blocks
    :rtype: list[str]
    """
    return [
        name
        for name, contender in (AWAITED if callers else BLOCKING).items()
        if getattr(contender, operation, None) is not None
    ]


AWAITED = _there(
    {
        'get': Get,
        OURS: Sprockets,
        'aiocache': Aiocache,
        f'{OURS}, {OWN_MEMORY}': SprocketsInMemory,
        f'cashews, {OWN_MEMORY}': Cashews,
    }
)
BLOCKING = _there(
    {'get': BlockingGet, OURS: Blocking, 'dogpile.cache': Dogpile}
)
"""Those that are installed, by name."""
