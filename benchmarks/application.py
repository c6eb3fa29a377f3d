"""A Tornado application with a cache, for wrk to ask.

``python -m benchmarks.application CONTENDER PORT`` prints the port that it
listens on. ``/0`` answers without a read, ``/1`` with one and ``/10`` with
ten gathered, which wait for the memcached on `PORT`.
"""

import asyncio
import itertools
import os
import sys

from tornado import httpserver, netutil, web

from benchmarks import contenders, data

SIZE = 100


class NoRead(web.RequestHandler):
    """What the others are compared with: the same answer."""

    def initialize(self, pairs):
        self.pairs = pairs

    async def get(self):
        _, value = next(self.pairs)
        self.write(value)


class OneRead(NoRead):
    """One value, read and checked."""

    async def get(self):
        key, expected = next(self.pairs)
        value = await self.reads(key)
        if value != expected:
            raise web.HTTPError(500)
        self.write(value)


class TenReads(NoRead):
    """Ten values, read at once and checked."""

    async def get(self):
        pairs = [next(self.pairs) for _ in range(10)]
        reads = self.reads
        values = await asyncio.gather(*[reads(key) for key, _ in pairs])
        if values != [expected for _, expected in pairs]:
            raise web.HTTPError(500)
        self.write(values[0])


def mixin_of_this_project(port):
    """Return what a handler inherits to read with this project."""
    os.environ['MEMCACHED_SERVERS'] = f'127.0.0.1:{port}'
    from sprockets.clients import memcached

    class Reads(memcached.MemcachedMixin):
        @property
        def reads(self):
            return self.memcached.get

    return Reads


def mixin_of(contender):
    """Return what a handler inherits to read with a contender."""

    class Reads:
        @property
        def reads(self):
            return contender.get

    return Reads


async def main():
    name, port = sys.argv[1:]
    contender = contenders.ASYNCHRONOUS[name]()
    if name == contenders.Sprockets.name:
        mixin = mixin_of_this_project(port)
    else:
        await contender.start([('127.0.0.1', int(port))])
        mixin = mixin_of(contender)
    arguments = {'pairs': itertools.cycle(data.pairs(contender, SIZE))}
    application = web.Application(
        [
            ('/0', NoRead, arguments),
            ('/1', type('One', (mixin, OneRead), {}), arguments),
            ('/10', type('Ten', (mixin, TenReads), {}), arguments),
        ]
    )
    sockets = netutil.bind_sockets(0, '127.0.0.1')
    httpserver.HTTPServer(application).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == '__main__':
    asyncio.run(main())
