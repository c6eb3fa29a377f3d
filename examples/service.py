"""Runs an example's application, until a signal ends it."""

import argparse
import asyncio
import signal

import guard
from tornado import httpserver, netutil


def arguments(description):
    """Return a parser of the command line that every example has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000, help='0: any')
    parser.add_argument(
        '--behind-proxy',
        action='store_true',
        help='believe the proxy in front, and so everybody if there is none,'
        ' from which address a request is',
    )
    return parser


async def serve(application, options):
    """Answer requests until SIGINT or SIGTERM, then those under way.

    A second signal does not wait for them.  What else the application holds
    is closed by whoever calls this: afterwards, for the last requests need it
    still.

    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = httpserver.HTTPServer(
        application,
        # Tornado would take 100 MB.
        max_body_size=guard.MAX_BODY,
        xheaders=options.behind_proxy,
    )
    sockets = netutil.bind_sockets(options.port, options.host)
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]
    print(f'Listening on http://{options.host}:{port}', flush=True)
    await stopped.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
    server.stop()
    await application.stop_memcached()
