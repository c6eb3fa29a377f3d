"""The Tornado face for applications: the clients' end, and their status."""

from __future__ import annotations

import asyncio
import typing

from sprockets.clients.memcached import aio
from sprockets.clients.memcached.web import handlers, status


class ApplicationMixin:
    """For a :class:`tornado.web.Application`: an end for its clients.

    .. code-block:: python

        class Application(memcached.ApplicationMixin, app.Application):
            ...

    With :class:`sprockets.http.app.Application` the clients are closed when
    the service shuts down.  On a plain Tornado application, await
    :meth:`stop_memcached` yourself.  Handlers work without this mixin too.

    Nothing is connected or started before the first use, so that an
    application can be made first and forked afterwards.

    .. versionadded:: 2.0

    """

    memcached_clients: dict[str | None, aio.AsyncClient]

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self.memcached_clients = {}
        callbacks = getattr(self, 'on_shutdown_callbacks', None)
        if callbacks is not None:
            callbacks.append(self.stop_memcached)

    def memcached_client(
        self, prefix: str | None = None, **options: typing.Any
    ) -> aio.AsyncClient:
        """Return the client for a prefix, for use outside of handlers.

        What has to be set in code rather than in the environment is given
        here, at start, before the client is first used: an executor, say.

        :param str prefix: the prefix of the variables, or None
        :param options: options of :class:`AsyncClient`, for a client to be
            made
        :rtype: AsyncClient
        :raises ValueError: for a variable that is wrong
        :raises RuntimeError: if there are options for a client that exists

        """
        return handlers.client_of(self, prefix, **options)

    async def memcached_status(self) -> dict[str, typing.Any]:
        """Return how the servers are, and what the clients did with them.

        ``available`` is whether every client has a server that answers, or
        all of its servers where ``failover`` is off.  ``status`` is ``ok``,
        ``degraded`` if some server does not answer, or ``unavailable``.
        ``clients`` has an entry for each prefix of the application's handlers
        and clients:

        .. code-block:: python

            {
                'prefix': 'PAGES',
                'available': True,
                'servers': [
                    {
                        'address': '10.0.0.1:11211',
                        'up': True,
                        'since': '2026-11-02T08:00:00Z',
                        'reason': None,
                        'version': '1.6.18',
                        'round_trip': 0.000154,
                        'hit_rate': 0.9312,
                        'items': 80412,
                        'memory': 41221120,
                        'memory_limit': 67108864,
                        'evictions': 0,
                        'connections': 12,
                        'uptime': 7141,
                        'client': {...},
                    },
                ],
                'client': {
                    'calls': 1250,
                    'batches': 431,
                    'calls_per_batch': 2.9,
                    'hits': 1002,
                    'misses': 98,
                    'hit_rate': 0.9109,
                    'errors': 0,
                    'seconds_per_batch': 0.000187,
                },
            }

        What a server says of itself counts all its clients; ``client`` is
        what this process did, with one server or with all.  Times are in
        seconds, memory is in bytes, and what is not known is None.

        Each server is asked, over the connections that there are.  One that
        hangs is waited for no longer than its ``socket_timeout``; one that is
        known to be down is asked when it is time to try it again.

        :rtype: dict

        """
        return await status.status_of(self)

    async def stop_memcached(self, *_: typing.Any) -> None:
        """Answer what is in flight, then close every client.

        One that is asked for later is made anew.

        """
        clients = list(self.memcached_clients.values())
        self.memcached_clients = {}
        await asyncio.gather(*[client.close() for client in clients])
