"""Awaits reads, for those who count what one takes.

``reads.py ADDRESS LOOP CALLERS READS``: so many callers, each of a key of its
own, await so many reads each, one after the other.  It uses public API alone,
and so runs on any revision.
"""

import asyncio
import gc
import sys

from sprockets.clients import memcached

WARM_UP = 20
"""Reads of each caller that come first."""

VALUE = 'v' * 100

SECONDS = 60
"""For each call: who counts instructions takes many times as long."""


async def read(address, callers, reads):
    """Let callers read.

    :raises RuntimeError: if one got anything but its value
    """
    client = memcached.AsyncClient(servers=address, socket_timeout=SECONDS)
    values = {f'read:{number:03}': f'{number:03}{VALUE}' for number in callers}
    if await client.set_multi(values):
        raise RuntimeError('not all values were stored')
    for times in (WARM_UP, reads):
        await asyncio.gather(
            *[_call(client, *pair, times) for pair in values.items()]
        )
        # What was made until now is not looked through again.
        gc.collect()
        gc.freeze()
    await client.close()


async def _call(client, key, value, times):
    for _ in range(times):
        if await client.get(key) != value:
            raise RuntimeError(f'{key} has another value')


def main():
    address, loop, callers, reads = sys.argv[1:]
    if loop == 'uvloop':
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(read(address, range(int(callers)), int(reads)))


if __name__ == '__main__':
    main()
