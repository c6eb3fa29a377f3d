"""The Tornado face for applications: the clients' end, and their status."""

from __future__ import annotations

import asyncio
import atexit
import typing
import weakref

from tornado import httpserver, httputil, web

from sprockets.clients.memcached import aio, core, current
from sprockets.clients.memcached.web import draining, handlers, status

AT_ONCE = 2 * draining.LINGER
"""Seconds in which an application ends that has no request under way."""


class ApplicationMixin:
    """For a :class:`tornado.web.Application`: an end that loses no request.

    .. code-block:: python

        class Application(memcached.ApplicationMixin, app.Application):
            ...

    It stands before the application's class; otherwise that is a
    :exc:`TypeError`.

    When the service is to stop, requests under way are answered, and have
    their client until then.  Then the clients are closed.  With sprockets.http
    that happens by itself, within the seconds that it waits for requests.  On
    a plain Tornado application, await :meth:`stop_memcached`.  Handlers work
    without this mixin too.

    Nothing is connected or started before the first use, so that an
    application can be made first and forked afterwards.

    .. versionadded:: 2.0

    """

    memcached_clients: dict[str | None, aio.AsyncClient]

    def __init_subclass__(cls, **kwargs: typing.Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if web.Application in order and order.index(
            ApplicationMixin
        ) > order.index(web.Application):
            raise TypeError(
                f'ApplicationMixin is behind the application in the bases of'
                f' {cls.__name__}; expected before it'
            )

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self.memcached_clients = {}
        self._memcached_servers: weakref.WeakSet[httpserver.HTTPServer] = (
            weakref.WeakSet()
        )
        drain = self.memcached_drain = draining.Drain()
        this: typing.Any = self
        this.add_transform(drain.transform)
        callbacks = getattr(self, 'on_shutdown_callbacks', None)
        if callbacks is None:
            # Where sprockets.http looks in an application of Tornado's.
            all_callbacks = vars(self).setdefault('runner_callbacks', {})
            callbacks = all_callbacks.setdefault('shutdown', [])
        callbacks.append(self._shut_down)

    def start_request(
        self,
        server_conn: object,
        request_conn: httputil.HTTPConnection,
    ) -> httputil.HTTPMessageDelegate:
        """Extended to know which requests are under way."""
        base: typing.Any = super()
        return self.memcached_drain.request(
            server_conn, base.start_request(server_conn, request_conn)
        )

    def listen(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> httpserver.HTTPServer:
        """Extended to know what :meth:`stop_memcached` has to stop."""
        base: typing.Any = super()
        server: httpserver.HTTPServer = base.listen(*args, **kwargs)
        self._memcached_servers.add(server)
        return server

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
        core.hide(options)
        return handlers.client_of(self, prefix, **options)

    def on_memcached_server_down(
        self, prefix: str | None, server: str, reason: str
    ) -> None:
        """Is called when a server was found to be down; a hook to override.

        As the other ones, it is called in the event loop, once for each client
        of the application that has this server.

        :param str prefix: the client's, upper-cased, or None
        :param str server: its address, as it is in the log
        :param str reason: why it is down, in words

        """

    def on_memcached_server_up(
        self, prefix: str | None, server: str, seconds: float
    ) -> None:
        """Is called when a server is back; a hook to override.

        :param float seconds: for how long it was down

        """

    def on_memcached_server_discovered(
        self, prefix: str | None, server: str
    ) -> None:
        """Is called for a server that is new; a hook to override.

        It was told by a configuration endpoint, or by ``set_servers``.

        """

    def on_memcached_server_gone(
        self, prefix: str | None, server: str
    ) -> None:
        """Is called for a server that is one no more; a hook to override."""

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
                    'steps': 16,
                    'batches': 431,
                    'calls_per_batch': 2.9,
                    'hits': 1002,
                    'misses': 98,
                    'hit_rate': 0.9109,
                    'errors': 0,
                    'seconds_per_batch': 0.000187,
                },
                'unserved': {...},
                'gone': {...},
            }

        What a server says of itself counts all its clients; ``client`` is
        what this process did, with one server or with all: ``unserved`` are
        calls for which none was up, and ``gone`` is what was done with servers
        that the client has no more, so that the sums add up.  ``steps`` are
        commands that a call took besides, as ``get_or_set`` does.  Times are
        in seconds, memory is in bytes, and what is not known is None.

        Each server is asked, over the connections that there are.  One that
        hangs is waited for no longer than its ``socket_timeout``; one that is
        known to be down is asked when it is time to try it again.

        :rtype: dict

        """
        return await status.status_of(self)

    async def stop_memcached(self, *_: typing.Any) -> None:
        """Answer the requests under way, then close every client.

        What :meth:`~tornado.web.Application.listen` began takes no more
        connections; a server of your own you stop before.  Those that have no
        request are closed, and the others after the answer, which tells their
        clients so.  This waits as long as they take, and may be cancelled.
        What goes on behind an answer and uses ``self.memcached`` is waited
        for too, but not what a websocket does.

        Those of functions with ``cached`` that were called outside of
        requests are closed with them.  A client that is asked for later is
        made anew.

        """
        for server in list(self._memcached_servers):
            server.stop()
        await self.memcached_drain.over()
        await self._close_clients()
        self.memcached_drain.end()

    def _shut_down(self, *_: typing.Any) -> typing.Any:
        """Stop as long as sprockets.http waits for requests, and no longer.

        It waits for what this returns without end, and for other tasks for
        some seconds.

        """
        if self.memcached_drain.begun:
            return None
        return self._stop_with_server()

    async def _stop_with_server(self) -> None:
        self.memcached_drain.begin()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=AT_ONCE)
        if asyncio.all_tasks() == {asyncio.current_task()}:
            await self._close_clients()
        else:
            draining.Alone(self._close_alone)
            # Who runs the loop may see before that that no task is left, and
            # stop it: in the turn in which the last one ends.
            atexit.register(_abandon, weakref.ref(self))

    def _close_alone(self) -> None:
        loop = asyncio.get_running_loop()
        self._closing = loop.create_task(self._close_clients())

    async def _close_clients(self) -> None:
        clients = list(self.memcached_clients.values())
        self.memcached_clients = {}
        await asyncio.gather(
            current.close(), *[client.close() for client in clients]
        )


def _abandon(application: weakref.ref[ApplicationMixin]) -> None:
    """Release what an application that was stopped could not close."""
    this = application()
    if this is not None:
        for client in this.memcached_clients.values():
            client._engine.abandon()
        current.abandon()
