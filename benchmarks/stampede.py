"""One of the processes that want the same value, which takes long to compute.

A program: it reads a task as JSON, a line, and says ``ready``; reads when to
begin, on the machine's clock, and answers with its figures.
"""

import asyncio
import concurrent.futures
import functools
import json
import statistics
import sys
import time

VALUE = 'x' * 100
# Seconds of a value's time before it is measured, and from then on.
SHORT = 1
LONG = 600
STALE = 60

# What `cached` names a call is as long: a longer key costs more.
KEY_LENGTH = 40

NAME = 'stampede.compute'.ljust(24, '-')


class Contender:
    """Gets the value; each kind has its way.

    :param int port: the server's
    :param float seconds: how long a computation takes
    """

    awaitable = True
    # Whether the time is for a value's life, whoever reads it.
    stored_time_counts = True

    def __init__(self, port, seconds):
        self.address = f'127.0.0.1:{port}'
        self.port = port
        self.seconds = seconds
        self.computations = 0
        # Not all read what others store.
        self.key = f'stampede-{type(self).__name__}'.ljust(KEY_LENGTH, '-')

    def start(self):
        """Make the client, in the loop where there is one."""

    async def compute(self):
        self.computations += 1
        await asyncio.sleep(self.seconds)
        return VALUE

    def compute_blocking(self):
        self.computations += 1
        time.sleep(self.seconds)
        return VALUE

    def getter(self, seconds):
        """Return what gets the value, or returns what is to be awaited for it.

        :param int seconds: how long to keep a value
        """
        raise NotImplementedError

    async def stop(self):
        """Close the client."""


class Sprockets(Contender):
    def start(self):
        from sprockets.clients import memcached

        self.client = memcached.AsyncClient(servers=self.address)

    async def stop(self):
        await self.client.close()


class Get(Sprockets):
    """No more than a read: what a hit costs at least."""

    def start(self):
        super().start()
        from sprockets.clients import memcached

        memcached.Client(servers=self.address).set(self.key, VALUE)

    def getter(self, seconds):
        return lambda: self.client.get(self.key)


class GetThenSet(Sprockets):
    """What is written by hand around a cache."""

    def getter(self, seconds):
        async def get():
            value = await self.client.get(self.key)
            if value is None:
                value = await self.compute()
                await self.client.set(self.key, value, seconds)
            return value

        return get


class GetOrSet(Sprockets):
    def getter(self, seconds):
        return lambda: self.client.get_or_set(self.key, self.compute, seconds)


class GetOrSetStale(Sprockets):
    def getter(self, seconds):
        return lambda: self.client.get_or_set(
            self.key, self.compute, seconds, stale=STALE
        )


class Cached(Sprockets):
    def getter(self, seconds):
        from sprockets.clients import memcached

        cached = memcached.cached(seconds, client=self.client, name=NAME)(
            self._compute
        )
        argument = 'stampede'
        if len(cached.key(argument)) != KEY_LENGTH:
            raise ValueError(f'{cached.key(argument)!r} has another length')
        return lambda: cached(argument)

    async def _compute(self, key):
        return await self.compute()


class Blocking(Contender):
    awaitable = False

    def start(self):
        from sprockets.clients import memcached

        self.client = memcached.Client(servers=self.address)

    def getter(self, seconds):
        return lambda: self.client.get_or_set(
            self.key, self.compute_blocking, seconds
        )


class BlockingGet(Blocking):
    def start(self):
        super().start()
        self.client.set(self.key, VALUE)

    def getter(self, seconds):
        return lambda: self.client.get(self.key)


class BlockingCached(Blocking):
    def getter(self, seconds):
        from sprockets.clients import memcached

        cached = memcached.cached(seconds, client=self.client, name=NAME)(
            self._compute
        )
        return lambda: cached('stampede')

    def _compute(self, key):
        return self.compute_blocking()


class Aiocache(Contender):
    def start(self):
        self._caches = []

    def getter(self, seconds):
        import aiocache

        cached = self.decorator(
            ttl=seconds,
            key=self.key,
            cache=aiocache.Cache.MEMCACHED,
            endpoint='127.0.0.1',
            port=self.port,
            pool_size=16,
        )(self._compute)
        self._caches.append(cached.cache)
        return cached

    def decorator(self, **options):
        import aiocache

        return aiocache.cached(**options)

    async def _compute(self):
        return await self.compute()

    async def stop(self):
        for cache in self._caches:
            await cache.close()


class AiocacheStampede(Aiocache):
    def decorator(self, **options):
        import aiocache

        return aiocache.cached_stampede(lease=2, **options)


class Cashews(Contender):
    """It knows no memcached: the memory of each process instead."""

    def start(self):
        from cashews import Cache

        self._cache = Cache()
        self._cache.setup('mem://')

    def getter(self, seconds):
        return self._cache(ttl=seconds, key=self.key, lock=True)(self._compute)

    async def _compute(self):
        return await self.compute()

    async def stop(self):
        await self._cache.close()


class Dogpile(Contender):
    """It keeps a value and serves it while one caller computes it anew.

    Whether its time has passed is for who reads it to say, each time.
    """

    awaitable = False
    stored_time_counts = False

    def start(self):
        from dogpile.cache import make_region

        self._region = make_region().configure(
            'dogpile.cache.pymemcache',
            arguments={
                'url': [self.address],
                'distributed_lock': True,
                'lock_timeout': 10,
            },
        )

    def getter(self, seconds):
        return lambda: self._region.get_or_create(
            self.key, self.compute_blocking, expiration_time=seconds
        )


KINDS = {
    kind.__name__: kind
    for kind in (
        Get,
        GetThenSet,
        GetOrSet,
        GetOrSetStale,
        Cached,
        Blocking,
        BlockingGet,
        BlockingCached,
        Aiocache,
        AiocacheStampede,
        Cashews,
        Dogpile,
    )
}


def main():
    task = json.loads(sys.stdin.readline())
    if 'kinds' in task:
        figures = asyncio.run(_compare(task))
    else:
        contender = KINDS[task['kind']](task['port'], task['compute'])
        if contender.awaitable:
            waits, errors = asyncio.run(_run(contender, task))
        else:
            waits, errors = _run_in_threads(contender, task)
        figures = {
            'computations': contender.computations,
            'errors': errors,
            **_summary(waits),
        }
    print(json.dumps(figures), flush=True)


def _summary(waits):
    waits.sort()
    count = len(waits)
    return {
        'reads': count,
        'p50': waits[count // 2],
        'p99': waits[min(int(count * 0.99), count - 1)],
        'longest': waits[-1],
    }


def _wait_for_the_word(contender):
    """Say that all is as it was before.

    :returns: what gets the value from now on, and when to begin
    """
    contender.computations = 0
    get = contender.getter(LONG if contender.stored_time_counts else SHORT)
    print('ready', flush=True)
    return get, float(sys.stdin.readline())


def _check(value):
    if value not in (VALUE, VALUE.encode()):
        raise ValueError(f'{value!r} is not the value')


async def _run(contender, task):
    contender.start()
    if task['fill']:
        _check(await contender.getter(SHORT)())
    get, begin = _wait_for_the_word(contender)
    end = begin + task['seconds']
    waits = []
    errors = 0

    async def call():
        nonlocal errors
        await asyncio.sleep(begin - time.monotonic())
        while (before := time.monotonic()) < end:
            try:
                _check(await get())
            # It is a figure, and not the end of the others.
            except Exception as error:  # noqa: BLE001
                errors += 1
                print(f'{type(error).__name__}: {error}', file=sys.stderr)
            waits.append(time.monotonic() - before)

    await asyncio.gather(*[call() for _ in range(task['callers'])])
    await contender.stop()
    return waits, errors


def _run_in_threads(contender, task):
    contender.start()
    if task['fill']:
        _check(contender.getter(SHORT)())
    get, begin = _wait_for_the_word(contender)
    end = begin + task['seconds']

    def call():
        waits = []
        time.sleep(max(begin - time.monotonic(), 0))
        while (before := time.monotonic()) < end:
            _check(get())
            waits.append(time.monotonic() - before)
        return waits

    with concurrent.futures.ThreadPoolExecutor(task['callers']) as executor:
        calls = [executor.submit(call) for _ in range(task['callers'])]
        return [wait for each in calls for wait in each.result()], 0


async def _compare(task):
    """Measure hits, the contenders in turns of a few hundredths of a second.

    What else the machine does meets all of them alike: figures are medians
    over the turns.
    """
    contenders = [
        KINDS[kind](task['port'], 0) for kind in task['kinds'].values()
    ]
    turns = {}
    for name, contender in zip(task['kinds'], contenders, strict=True):
        contender.start()
        get = contender.getter(LONG)
        value = get()
        _check(await value if contender.awaitable else value)
        turn = _turn if contender.awaitable else _blocking_turn
        turns[name] = functools.partial(
            turn, get, task['callers'], task['seconds']
        )
    figures = {name: [] for name in turns}
    print('ready', flush=True)
    sys.stdin.readline()
    names = list(turns)
    for _ in range(task['turns']):
        for name in names:
            figures[name].append(_summary(await turns[name]()))
        names.append(names.pop(0))
    for contender in contenders:
        await contender.stop()
    return {
        name: {
            figure: statistics.median(turn[figure] for turn in turns)
            for figure in ('p50', 'p99')
        }
        for name, turns in figures.items()
    }


async def _turn(get, callers, seconds):
    waits = []
    end = time.monotonic() + seconds

    async def call():
        while (before := time.monotonic()) < end:
            _check(await get())
            waits.append(time.monotonic() - before)

    await asyncio.gather(*[call() for _ in range(callers)])
    return waits


async def _blocking_turn(get, callers, seconds):
    waits = []
    end = time.monotonic() + seconds
    while (before := time.monotonic()) < end:
        _check(get())
        waits.append(time.monotonic() - before)
    return waits


if __name__ == '__main__':
    main()
