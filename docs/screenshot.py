"""Makes the picture of the status page, ``_static/status.png``.

Run it with the Python of an environment that scripts/test has made::

    .venvs/3.13/bin/python docs/screenshot.py

It takes some five minutes, for that much is drawn: a service that is used more
and less, whose second memcached is restarted once.

"""

import argparse
import asyncio
import math
import os
import pathlib
import random
import sys
import time

from tornado import httpserver, netutil, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'tests'))

import browser  # noqa: E402

PAGES = 4000
"""How many pages there are, some of which are read more than others."""


class Page(memcached.MemcachedMixin, web.RequestHandler):
    """What the service would answer requests with."""

    memcached_prefix = 'pages'


async def visit(client):
    """Read a page and what it is made of, and cache what is not."""
    number = int(PAGES * random.random() ** 3)
    keys = [f'page:{number}:{part}' for part in ('head', 'text', 'foot')]
    found = await asyncio.gather(*[client.get(key) for key in keys])
    missing = [k for k, v in zip(keys, found, strict=True) if v is None]
    await asyncio.gather(
        *[client.set(key, 'x' * 2000, time=60) for key in missing]
    )


async def use(client, seconds, halfway):
    """Visit pages, more and less often, for a time."""
    random.seed(1)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if halfway is not None and passed > seconds * 0.55:
            halfway()
            halfway = None
        visitors = 4 + 3 * math.sin(passed / 25) + random.random()
        await asyncio.gather(*[visit(client) for _ in range(int(visitors))])
        await asyncio.sleep(0.05)


async def main(seconds):
    """Use a service for a time, and take a picture of its status page."""
    with MemcachedServer() as one, MemcachedServer() as two:
        os.environ['PAGES_MEMCACHED_SERVERS'] = f'{one.address},{two.address}'
        os.environ['PAGES_MEMCACHED_DEAD_RETRY'] = '5'
        application = web.Application(
            [('/', Page), ('/status/memcached', memcached.StatusHandler)]
        )
        server = httpserver.HTTPServer(application)
        sockets = netutil.bind_sockets(0, '127.0.0.1')
        server.add_sockets(sockets)
        client = memcached.AsyncClient('pages')
        application.memcached_clients = {'PAGES': client}
        await use(client, seconds, two.restart)
        work = asyncio.create_task(use(client, browser.SECONDS, None))
        messages = await browser.picture(
            f'http://127.0.0.1:{sockets[0].getsockname()[1]}/status/memcached',
            HERE / '_static' / 'status.png',
            width=1280,
            height=700,
        )
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        server.stop()
        await client.close()
    return '\n'.join(messages) or None


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=305)
    sys.exit(asyncio.run(main(parser.parse_args().seconds)))
