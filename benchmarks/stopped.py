"""A service that is told to stop: ``python -m benchmarks.stopped KIND PORT``.

Its handlers take as many milliseconds as the path says, and use memcached
before and after.  At its end each process says how many requests it had.
"""

import asyncio
import atexit
import logging
import os
import signal
import sys
import warnings

import sprockets.http
import sprockets.http.app
from tornado import httpserver, netutil, process, web

from sprockets.clients import memcached

PROCESSES = 2

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Counted(memcached.MemcachedMixin, web.RequestHandler):
    """Counts the requests that have come."""

    count = 0

    def prepare(self):
        Counted.count += 1


class Read(Counted):
    """Looks something up for a while, between a read and a write."""

    async def get(self, key, milliseconds):
        await self.memcached.get(key)
        await asyncio.sleep(int(milliseconds) / 1000)
        await self.memcached.set(key, 'value', time=60)
        self.write('value')


class Computed(Counted):
    """Computes something each time, which takes a while."""

    async def get(self, key, milliseconds):
        async def compute():
            await asyncio.sleep(int(milliseconds) / 1000)
            return 'value'

        await self.memcached.delete(key)
        self.write(await self.memcached.get_or_set(key, compute, time=60))


HANDLERS = [('/(read)/([0-9]+)', Read), ('/(computed)/([0-9]+)', Computed)]


class Plain(memcached.ApplicationMixin, web.Application):
    """On Tornado alone."""


class Sprockets(memcached.ApplicationMixin, sprockets.http.app.Application):
    """With sprockets.http."""


async def serve(sockets):
    """Serve until a signal comes."""
    application = Plain(HANDLERS)
    server = httpserver.HTTPServer(application)
    server.add_sockets(sockets)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    await stopped.wait()
    server.stop()
    await application.stop_memcached()


def tornado(port):
    """Run on Tornado alone."""
    asyncio.run(serve(netutil.bind_sockets(port, '127.0.0.1')))


def forked(port):
    """Run in processes that Tornado forks."""
    sockets = netutil.bind_sockets(port, '127.0.0.1')
    # They have the signal as well, at the latest when they can take it; it
    # waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.fork_processes(PROCESSES)
        asyncio.run(serve(sockets))
    finally:
        for sock in sockets:
            sock.close()


def with_sprockets(port, processes=1):
    """Run with sprockets.http."""
    sprockets.http.run(
        lambda **settings: Sprockets(HANDLERS, **settings),
        {'port': port, 'number_of_procs': processes},
        {'version': 1, 'disable_existing_loggers': False},
    )


def with_sprockets_forked(port):
    """Run with sprockets.http, in processes that it forks."""
    with_sprockets(port, PROCESSES)


KINDS = {
    'tornado': tornado,
    'tornado, forked': forked,
    'sprockets.http': with_sprockets,
    'sprockets.http, forked': with_sprockets_forked,
}


def main():
    """Run the service that the command line asks for."""
    warnings.simplefilter('default', ResourceWarning)
    # At once: several processes write to it.
    atexit.register(lambda: os.write(1, f'{Counted.count}\n'.encode()))
    logging.getLogger('tornado.access').setLevel(logging.ERROR)
    kind, port = sys.argv[1:]
    KINDS[kind](int(port))


if __name__ == '__main__':
    main()
