"""Does what may hold up an event loop, and tells for how long it did.

``holdups.py CASE ARGUMENTS`` with the arguments as JSON; prints its figures
as JSON.  It uses public API alone, and so runs on any revision.

``held``, ``busy``
    Seconds of the loop's longest turn, and of the turn that took most of its
    thread's CPU: what it waited for cores and other threads is not in that.
``took``
    Seconds of the longest call.
``found``
    Values that the last one brought.
"""

import asyncio
import json
import logging
import resource
import sys
import time

from benchmarks import ticker
from sprockets.clients import memcached

LARGE = 'x' * 4_000_000
COMPRESS = 1_000

CALLS = 3
"""Of a method: the first one has to connect."""


async def watched(call, calls=CALLS):
    """Return the figures of some calls, one after the other.

    :param call: a function that begins one
    """
    took = 0.0
    async with ticker.ticking() as watch:
        for _ in range(calls):
            begun = time.perf_counter()
            result = await call()
            took = max(took, time.perf_counter() - begun)
    found = len(result) if isinstance(result, dict) else None
    return {
        'held': watch.held,
        'busy': watch.busy,
        'took': took,
        'found': found,
    }


def keys(count):
    """Return so many of the keys that the servers have."""
    return [f'key:{number}' for number in range(count)]


async def get_multi(servers, count, calls=CALLS, **options):
    client = memcached.AsyncClient(
        servers=servers, max_connections=1, **options
    )
    wanted = keys(count)
    figures = await watched(lambda: client.get_multi(wanted), calls)
    await client.close()
    return figures


async def set_multi(servers, count, **options):
    client = memcached.AsyncClient(
        servers=servers, max_connections=1, **options
    )
    values = dict.fromkeys(keys(count), 'v')
    figures = await watched(lambda: client.set_multi(values))
    await client.close()
    return figures


async def set_servers(servers, **options):
    client = memcached.AsyncClient(servers=servers, **options)
    figures = await watched(lambda: client.set_servers(servers[1:]), 1)
    await client.close()
    return figures


async def large(servers, method, count):
    options = {'servers': servers, 'socket_timeout': 60}
    store = memcached.Client(min_compress_len=COMPRESS, **options)
    several = [f'large:{number}' for number in range(count)]
    for key in several:
        if not store.set(key, LARGE, 3600):
            raise RuntimeError(f'{key} was not stored')
    client = memcached.AsyncClient(**options)
    first = several[0]
    calls = {
        'get': lambda: asyncio.gather(*map(client.get, several)),
        'get_multi': lambda: client.get_multi(several),
        'gets': lambda: client.gets(first),
        'gat': lambda: client.gat(first, 3600),
        'get_or_set': lambda: client.get_or_set(
            first, lambda: LARGE, 3600, stale=60
        ),
    }
    figures = await watched(calls[method], 1)
    await client.close()
    return figures


async def blocking_get_multi(servers, count):
    client = memcached.Client(servers=servers, socket_timeout=60)
    begun = time.perf_counter()
    found = client.get_multi(keys(count))
    took = time.perf_counter() - begun
    client.disconnect_all()
    return {'took': took, 'found': len(found)}


async def make(servers, **options):
    begun = time.perf_counter()
    memcached.Client(servers=servers, **options)
    return {'took': time.perf_counter() - begun}


async def dead_key(servers, count, **options):
    """What a key costs more when its server is down, with failover."""
    options |= {'servers': servers, 'dead_retry': 3600, 'socket_timeout': 60}
    strict = memcached.Client(failover=False, **options)
    client = memcached.Client(**options)
    every = keys(count)
    strict.get_multi(every)
    # Without failover those of servers that are down have no value.
    up = strict.get_multi(every)
    down = [key for key in every if key not in up]
    up = list(up)[: len(down)]
    seconds = {'up': [], 'down': []}
    for _ in range(5):
        for name, wanted in (('up', up), ('down', down)):
            begun = time.perf_counter()
            client.get_multi(wanted)
            seconds[name].append(time.perf_counter() - begun)
    more = (min(seconds['down']) - min(seconds['up'])) / len(down)
    return {'took': more, 'found': len(down)}


def main():
    logging.disable(logging.CRITICAL)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    case, arguments = sys.argv[1:]
    figures = asyncio.run(globals()[case](**json.loads(arguments)))
    print(json.dumps(figures))


if __name__ == '__main__':
    main()
