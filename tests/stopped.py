"""A service that is told to stop: ``python stopped.py KIND PORT``.

Its handlers say in memcached that they have begun, and go on once it says that
they may.  So does each process when it is ready, and when it has a signal.
"""

import asyncio
import signal
import sys

import sprockets.http
import sprockets.http.app
from tornado import httpserver, netutil, process, web

from sprockets.clients import memcached

PROCESSES = 2


async def wait(client):
    """Say that somebody waits, and wait for leave."""
    await client.incr('begun')
    while await client.get('go') is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def wait_outside():
    """Do so with a client that is nobody else's."""
    client = memcached.AsyncClient()
    await wait(client)
    await client.close()


class Quick(memcached.MemcachedMixin, web.RequestHandler):
    """Answers at once."""

    async def get(self):
        self.write(await self.memcached.get('answer'))


class Read(memcached.MemcachedMixin, web.RequestHandler):
    """Waits between two calls."""

    async def get(self):
        await wait(self.memcached)
        self.write(await self.memcached.get('answer'))


class Late(memcached.MemcachedMixin, web.RequestHandler):
    """Uses the client only when the service is about to end."""

    async def get(self):
        await wait_outside()
        self.write(await self.memcached.get('answer'))


class Computed(memcached.MemcachedMixin, web.RequestHandler):
    """Computes what takes longer than a call may."""

    async def get(self):
        async def compute():
            await wait(self.memcached)
            return await self.memcached.get('answer')

        self.write(await self.memcached.get_or_set('computed', compute))


class Cached(memcached.MemcachedMixin, web.RequestHandler):
    """The same by way of a function that is cached."""

    async def get(self):
        self.write(await self.compute())

    @memcached.cached(60)
    async def compute(self):
        await wait(self.memcached)
        return await self.memcached.get('answer')


class Behind(memcached.MemcachedMixin, web.RequestHandler):
    """Goes on when it has answered."""

    async def get(self):
        await self.memcached.get('answer')
        self.finish('answer')
        await wait(self.memcached)
        await self.memcached.set('behind', 'stored')


HANDLERS = [
    ('/quick', Quick),
    ('/read', Read),
    ('/late', Late),
    ('/computed', Computed),
    ('/cached', Cached),
    ('/behind', Behind),
]


class Plain(memcached.ApplicationMixin, web.Application):
    """On Tornado alone."""


class Sprockets(memcached.ApplicationMixin, sprockets.http.app.Application):
    """With sprockets.http."""


def ready(*_):
    """Say that this process may be told to stop."""
    memcached.Client().incr('ready')


def tell(*_):
    """Say that it has been told."""
    memcached.Client().incr('told')


async def until_stopped():
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    ready()
    await stopped.wait()
    tell()


async def listen(port):
    application = Plain(HANDLERS)
    application.listen(port, '127.0.0.1')
    await until_stopped()
    await application.stop_memcached()


async def serve(sockets):
    application = Plain(HANDLERS)
    server = httpserver.HTTPServer(application)
    server.add_sockets(sockets)
    await until_stopped()
    server.stop()
    await application.stop_memcached()


def tornado(port):
    asyncio.run(listen(port))


def forked(port):
    sockets = netutil.bind_sockets(port, '127.0.0.1')
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    process.fork_processes(PROCESSES)
    asyncio.run(serve(sockets))


def with_sprockets(port, processes=1, application=Sprockets):
    def make(**settings):
        made = application(HANDLERS, **settings)
        callbacks = vars(made).setdefault('runner_callbacks', {})
        callbacks.setdefault('before_run', []).append(ready)
        callbacks.setdefault('shutdown', []).append(tell)
        return made

    sprockets.http.run(
        make,
        {'port': port, 'number_of_procs': processes},
        {'version': 1, 'disable_existing_loggers': False},
    )


def with_sprockets_forked(port):
    with_sprockets(port, PROCESSES)


def with_sprockets_plain(port):
    """Its application is Tornado's, which sprockets.http takes still."""
    with_sprockets(port, application=Plain)


KINDS = {
    'tornado': tornado,
    'tornado-forked': forked,
    'sprockets': with_sprockets,
    'sprockets-forked': with_sprockets_forked,
    'sprockets-plain': with_sprockets_plain,
}


if __name__ == '__main__':
    KINDS[sys.argv[1]](int(sys.argv[2]))
