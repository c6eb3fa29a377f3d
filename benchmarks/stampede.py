"""One of the processes that want the same value, which takes long to compute.

A program: it reads a task as JSON, a line, and says ``ready``; reads when to
begin, on the machine's clock, and answers with its figures.
"""

import asyncio
import concurrent.futures
import json
import statistics
import sys
import time

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
        # Not all read what others store.
        self.key = f'stampede-{type(self).__name__}'

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
        self.client._engine.blocking.set(self.key, VALUE)

    def get(self):
        return self.client.get(self.key)


class GetThenSet(Sprockets):
    """What is written by hand around a cache."""

    async def get(self):
        value = await self.client.get(self.key)
        if value is None:
            value = await self.compute()
            await self.client.set(self.key, value, self.time)
        return value


class GetOrSet(Sprockets):
    def get(self):
        return self.client.get_or_set(self.key, self.compute, self.time)


class GetOrSetStale(Sprockets):
    def get(self):
        return self.client.get_or_set(
            self.key, self.compute, self.time, stale=STALE
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
        return self._by_time[self.time](self.key)


class Blocking(Contender):
    awaitable = False

    def start(self):
        from sprockets.clients import memcached

        self.client = memcached.Client(servers=self.address)

    def get(self):
        return self.client.get_or_set(
            self.key, self.compute_blocking, self.time
        )


class BlockingGet(Blocking):
    def start(self):
        super().start()
        self.client.set(self.key, VALUE)

    def get(self):
        return self.client.get(self.key)


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
        return self._by_time[self.time](self.key)


class Aiocache(Contender):
    def start(self):
        import aiocache

        self._get = {
            time: self.decorator(
                ttl=time,
                key=self.key,
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
            time: self._cache(ttl=time, key=self.key, lock=True)(self._compute)
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
            self.key, self.compute_blocking, expiration_time=self.time
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
    """Say that all is as it was before, and return when to begin."""
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
        _check(await contender.get())
    begin = _wait_for_the_word(contender)
    end = begin + task['seconds']
    waits = []
    errors = 0

    async def call():
        nonlocal errors
        await asyncio.sleep(begin - time.monotonic())
        while (before := time.monotonic()) < end:
            try:
                _check(await contender.get())
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
        _check(contender.get())
    begin = _wait_for_the_word(contender)
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
        return [wait for each in calls for wait in each.result()], 0


async def _compare(task):
    """Measure hits, the contenders in turns of a few hundredths of a second.

    What else the machine does meets all of them alike: figures are medians
    over the turns.
    """
    contenders = {}
    for name, kind in task['kinds'].items():
        contender = contenders[name] = KINDS[kind](task['port'], 0)
        contender.time = LONG
        contender.start()
        value = contender.get()
        _check(await value if contender.awaitable else value)
    figures = {name: [] for name in contenders}
    print('ready', flush=True)
    sys.stdin.readline()
    names = list(contenders)
    for _ in range(task['turns']):
        for name in names:
            turn = _turn if contenders[name].awaitable else _blocking_turn
            waits = await turn(
                contenders[name], task['callers'], task['seconds']
            )
            figures[name].append(_summary(waits))
        names.append(names.pop(0))
    for contender in contenders.values():
        await contender.stop()
    return {
        name: {
            figure: statistics.median(turn[figure] for turn in turns)
            for figure in ('p50', 'p99')
        }
        for name, turns in figures.items()
    }


async def _turn(contender, callers, seconds):
    waits = []
    end = time.monotonic() + seconds

    async def call():
        while (before := time.monotonic()) < end:
            _check(await contender.get())
            waits.append(time.monotonic() - before)

    await asyncio.gather(*[call() for _ in range(callers)])
    return waits


async def _blocking_turn(contender, callers, seconds):
    waits = []
    end = time.monotonic() + seconds
    while (before := time.monotonic()) < end:
        _check(contender.get())
        waits.append(time.monotonic() - before)
    return waits


if __name__ == '__main__':
    main()
