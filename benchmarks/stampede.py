"""One of the processes that want the same value, which takes long to compute.

A program: it reads a task as JSON, a line, and says ``ready``; reads when to
begin, on the machine's clock, and answers with its figures.
"""

import asyncio
import concurrent.futures
import json
import sys
import time

KEY = 'stampede'
VALUE = 'x' * 100
# Seconds of a value's time before it is measured, and from then on.
SHORT = 1
LONG = 600
STALE = 60


class Contender:
    """Gets the value; each kind has its way.

    :param int port: the server's
    :param float seconds: how long a computation takes
    """

    awaitable = True
    # Seconds to keep a value that is stored.
    time = SHORT
    # Whether that is for a value's life, whoever reads it.
    stored_time_counts = True

    def __init__(self, port, seconds):
        self.address = f'127.0.0.1:{port}'
        self.port = port
        self.seconds = seconds
        self.computations = 0

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

    def get(self):
        """Return the value, or what is to be awaited for it."""
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
        self.client._engine.blocking.set(KEY, VALUE)

    def get(self):
        return self.client.get(KEY)


class GetThenSet(Sprockets):
    """What is written by hand around a cache."""

    async def get(self):
        value = await self.client.get(KEY)
        if value is None:
            value = await self.compute()
            await self.client.set(KEY, value, self.time)
        return value


class GetOrSet(Sprockets):
    def get(self):
        return self.client.get_or_set(KEY, self.compute, self.time)


class GetOrSetStale(Sprockets):
    def get(self):
        return self.client.get_or_set(
            KEY, self.compute, self.time, stale=STALE
        )


class Cached(Sprockets):
    def start(self):
        from sprockets.clients import memcached

        super().start()
        self._by_time = {
            time: memcached.cached(time, client=self.client)(self._compute)
            for time in (SHORT, LONG)
        }

    async def _compute(self, key):
        return await self.compute()

    def get(self):
        return self._by_time[self.time](KEY)


class Blocking(Contender):
    awaitable = False

    def start(self):
        from sprockets.clients import memcached

        self.client = memcached.Client(servers=self.address)

    def get(self):
        return self.client.get_or_set(KEY, self.compute_blocking, self.time)


class BlockingGet(Blocking):
    def start(self):
        super().start()
        self.client.set(KEY, VALUE)

    def get(self):
        return self.client.get(KEY)


class BlockingCached(Blocking):
    def start(self):
        from sprockets.clients import memcached

        super().start()
        self._by_time = {
            time: memcached.cached(time, client=self.client)(self._compute)
            for time in (SHORT, LONG)
        }

    def _compute(self, key):
        return self.compute_blocking()

    def get(self):
        return self._by_time[self.time](KEY)


class Aiocache(Contender):
    def start(self):
        import aiocache

        self._get = {
            time: self.decorator(
                ttl=time,
                key=KEY,
                cache=aiocache.Cache.MEMCACHED,
                endpoint='127.0.0.1',
                port=self.port,
                pool_size=16,
            )(self._compute)
            for time in (SHORT, LONG)
        }

    def decorator(self, **options):
        import aiocache

        return aiocache.cached(**options)

    async def _compute(self):
        return await self.compute()

    def get(self):
        return self._get[self.time]()

    async def stop(self):
        for function in self._get.values():
            await function.cache.close()


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
        self._get = {
            time: self._cache(ttl=time, key=KEY, lock=True)(self._compute)
            for time in (SHORT, LONG)
        }

    async def _compute(self):
        return await self.compute()

    def get(self):
        return self._get[self.time]()

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

    def get(self):
        return self._region.get_or_create(
            KEY, self.compute_blocking, expiration_time=self.time
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
    contender = KINDS[task['kind']](task['port'], task['compute'])
    if contender.awaitable:
        waits = asyncio.run(_run(contender, task))
    else:
        waits = _run_in_threads(contender, task)
    waits.sort()
    print(
        json.dumps(
            {
                'computations': contender.computations,
                'reads': len(waits),
                'p50': _quantile(waits, 0.5),
                'p99': _quantile(waits, 0.99),
                'longest': waits[-1],
            }
        ),
        flush=True,
    )


def _quantile(values, part):
    return values[min(int(len(values) * part), len(values) - 1)]


def _begin(contender, task):
    """Be as others were before: the value is there, and its time passes."""
    contender.computations = 0
    if contender.stored_time_counts:
        contender.time = LONG
    print('ready', flush=True)
    return float(sys.stdin.readline())


def _check(value):
    if value not in (VALUE, VALUE.encode()):
        raise ValueError(f'{value!r} is not the value')


async def _run(contender, task):
    contender.start()
    if task['fill']:
        contender.time = task['fill']
        _check(await contender.get())
    begin = _begin(contender, task)
    end = begin + task['seconds']
    waits = []

    async def call():
        await asyncio.sleep(begin - time.monotonic())
        while (before := time.monotonic()) < end:
            _check(await contender.get())
            waits.append(time.monotonic() - before)

    await asyncio.gather(*[call() for _ in range(task['callers'])])
    await contender.stop()
    return waits


def _run_in_threads(contender, task):
    contender.start()
    if task['fill']:
        contender.time = task['fill']
        _check(contender.get())
    begin = _begin(contender, task)
    end = begin + task['seconds']

    def call():
        waits = []
        time.sleep(max(begin - time.monotonic(), 0))
        while (before := time.monotonic()) < end:
            _check(contender.get())
            waits.append(time.monotonic() - before)
        return waits

    with concurrent.futures.ThreadPoolExecutor(task['callers']) as executor:
        calls = [executor.submit(call) for _ in range(task['callers'])]
        return [wait for each in calls for wait in each.result()]


if __name__ == '__main__':
    main()
