"""Callers of values that are computed anew, at their end or before it.

The value of a key is the moment at which its computation began, so that
whoever reads it knows its age.
"""

import asyncio
import math
import random
import time

TIME = 5
"""Seconds of a value's time."""

COMPUTE = 0.1
"""Seconds that a computation takes."""

STALE = 60
# memcached counts whole seconds, and may end a value a second too soon.
LATER = 2
# As the method is published.
BETA = 1.0


class Expiry:
    """``get_or_set``: at the end one computes, and the others wait.

    :param client: the ``AsyncClient`` of this process
    """

    def __init__(self, client):
        self.client = client
        self.computations = 0

    async def compute(self):
        self.computations += 1
        begun = time.monotonic()
        await asyncio.sleep(COMPUTE)
        return begun

    async def get(self, key):
        return await self.client.get_or_set(key, self.compute, TIME)


class Stale(Expiry):
    """``get_or_set`` with ``stale``: nobody waits for what was there."""

    def times(self):
        """Return the value's time, and for how long it may be stale."""
        return TIME, STALE

    async def get(self, key):
        seconds, stale = self.times()
        return await self.client.get_or_set(
            key, self.compute, seconds, stale=stale
        )


class StaleSooner(Stale):
    """The same within the value's time: it is stale in the last second."""

    def times(self):
        return TIME - 1, 1


class Early(Expiry):
    """XFetch: each caller may compute early, by chance, and more and more so.

    The more so, too, the longer a computation takes.  With the value are
    stored how long it took, and its end.
    """

    async def get(self, key):
        found = await self.client.get(key)
        if found is not None:
            begun, took, end = found
            # What is drawn from is above 0.
            sooner = took * BETA * -math.log(1 - random.random())
            if time.monotonic() + sooner < end:
                return begun
        return await self.anew(key, found)

    async def anew(self, key, found):
        return await self.store(key)

    async def store(self, key):
        begun = await self.compute()
        now = time.monotonic()
        value = begun, now - begun, begun + TIME
        await self.client.set(key, value, TIME + LATER)
        return begun


class EarlyOnce(Early):
    """XFetch at its best: one computes, behind the backs of the others."""

    def __init__(self, client):
        super().__init__(client)
        self.tasks = set()

    async def anew(self, key, found):
        if found is None or found[-1] <= time.monotonic():
            return await self.late(key)
        task = asyncio.create_task(self.alone(key))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return found[0]

    async def late(self, key):
        async with self.client.lock(key, TIME):
            found = await self.client.get(key)
            if found is None or found[-1] <= time.monotonic():
                return await self.store(key)
            return found[0]

    async def alone(self, key):
        async with self.client.lock(key, TIME, wait=0) as held:
            if held:
                await self.store(key)


KINDS = {
    'get_or_set': Expiry,
    'get_or_set, stale': Stale,
    'stale in the last second': StaleSooner,
    'XFetch': Early,
    'XFetch, one computes': EarlyOnce,
}


def run(port, keys, callers, pause, seconds):
    """Let callers get values, of each kind with keys of its own.

    All kinds take part at once, so that whatever else the machine does meets
    all of them.

    :param int port: the server's
    :param int keys: of each kind
    :param int callers: of each key
    :param float pause: seconds between two reads of a caller, as a mean
    :param float seconds: how long they go on
    :returns: by kind, the computations; and of each read, how long the caller
        waited, and how old the value was
    :rtype: dict[str, dict]
    """
    return asyncio.run(_run(port, keys, callers, pause, seconds))


async def _run(port, keys, callers, pause, seconds):
    from sprockets.clients import memcached

    async with memcached.AsyncClient(servers=f'127.0.0.1:{port}') as client:
        kinds = {name: kind(client) for name, kind in KINDS.items()}
        reads = {name: [] for name in kinds}
        # What is computed where there was nothing is not what is measured.
        await asyncio.gather(
            *[
                kind.get(f'early:{number}:{key}')
                for number, kind in enumerate(kinds.values())
                for key in range(keys)
            ]
        )
        for kind in kinds.values():
            kind.computations = 0
        end = time.monotonic() + seconds
        await asyncio.gather(
            *[
                _go_on(kind, f'early:{number}:{key}', pause, end, reads[name])
                for number, (name, kind) in enumerate(kinds.items())
                for key in range(keys)
                for _ in range(callers)
            ]
        )
        await asyncio.sleep(2 * COMPUTE)
    return {
        name: {'computations': kind.computations, 'reads': reads[name]}
        for name, kind in kinds.items()
    }


async def _go_on(kind, key, pause, end, reads):
    while True:
        seconds = random.expovariate(1 / pause)
        if time.monotonic() + seconds > end:
            return
        await asyncio.sleep(seconds)
        begin = time.monotonic()
        begun = await kind.get(key)
        now = time.monotonic()
        reads.append((now - begin, now - begun))
