"""The Tornado face: clients attached to applications, used by handlers."""

from __future__ import annotations

import asyncio
import types
import typing
import weakref
from collections import abc

from tornado import locale, web, websocket

from sprockets.clients.memcached import aio, core, current, settings
from sprockets.clients.memcached.servers import events
from sprockets.clients.memcached.web import looks, memo, tally

ATTRIBUTE = 'memcached_clients'
"""The attribute of an application that has its clients by their prefix."""

DRAIN = 'memcached_drain'
"""The attribute that knows who uses them, where somebody wants to know."""


def client_of(
    application: typing.Any, prefix: str | None = None, **options: typing.Any
) -> aio.AsyncClient:
    """Return an application's client for a prefix, made at first use.

    It is attached to the application, in a dict named
    ``memcached_clients``, and there is one for each process.

    :param tornado.web.Application application: the application
    :param str prefix: the prefix of the variables, or None
    :param options: options of :class:`AsyncClient`, for a client to be made
    :rtype: AsyncClient
    :raises ValueError: for a variable that is wrong
    :raises RuntimeError: if there are options for a client that exists

    """
    core.hide(options)
    clients = getattr(application, ATTRIBUTE, None)
    if clients is None:
        clients = {}
        setattr(application, ATTRIBUTE, clients)
    name = settings.prefix_name(prefix)
    client = clients.get(name)
    if client is None:
        client = clients[name] = aio.AsyncClient(name, **options)
        if hasattr(application, 'on_memcached_server_down'):
            client._engine.watch_servers(_Hooks(application, name))
    elif options:
        raise RuntimeError(
            f'the memcached client for prefix {prefix!r} was made before;'
            f' expected its options ({", ".join(options)}) at the first time'
        )
    return typing.cast(aio.AsyncClient, client)


class _Hooks:
    """Tells an application what happens to the servers of a client."""

    def __init__(self, application: typing.Any, prefix: str | None) -> None:
        self._application = weakref.ref(application)
        self._prefix = prefix

    def __call__(self, event: events.ServerEvent) -> None:
        application = self._application()
        if application is not None:
            hook = getattr(application, f'on_memcached_server_{event.kind}')
            detail = {
                events.DOWN: (event.reason,),
                events.UP: (event.seconds,),
            }.get(event.kind, ())
            hook(self._prefix, event.server, *detail)


class MemcachedMixin(web.RequestHandler):
    """For a :class:`tornado.web.RequestHandler`: ``self.memcached``.

    .. code-block:: python

        class Page(memcached.MemcachedMixin, web.RequestHandler):
            memcached_prefix = 'pages'

            async def get(self, slug):
                page = await self.memcached.get(slug)

    The client belongs to the application: every handler with the same prefix
    uses it.  What belongs to the request is what :meth:`.Client.gets`
    saw.

    .. versionadded:: 2.0

    """

    memcached_prefix: str | None = None
    """The prefix of the variables; None for ``MEMCACHED_SERVERS``."""

    memcached_server_timing = False
    """Whether the response has a ``Server-Timing`` header that tells how long
    the request waited for memcached, and its hits, misses and errors."""

    memcached_memo = False
    """Whether what the request has read is read again for nothing, until it
    writes the key.  Others may have changed it meanwhile.  It makes no
    difference for a websocket."""

    current_user = looks.User()
    """Extended: an answer that is for one user is not another's."""

    _memcached: aio.Scope | None = None
    _memcached_others: dict[str | None, aio.Scope] | None = None
    _memcached_tally: tally.Tally | None = None

    _memcached_looks: looks.Looks | None = None
    """Who takes note of what is looked at, and is there only where nothing is
    sent: in a copy, whose answer is recorded."""

    _memcached_recordings = 0
    """How many of its methods run on copies just now."""

    _memcached_route: abc.Mapping[str, typing.Any] = types.MappingProxyType({})
    """What the route has for ``initialize``."""

    _memcached_path: tuple[tuple[bytes, ...], dict[str, bytes]] = (), {}
    """The arguments that the path has, as they are before ``prepare``."""

    _memcached_language: looks.Language | None = None

    _memcached_found_locale: locale.Locale | None = None
    """The language that was asked for, unless somebody has set one."""

    _memcached_etag: tuple[str, list[bytes]] | None = None
    """The ETag of an answer that was recorded, and its body."""

    def __init_subclass__(cls, **options: typing.Any) -> None:
        """Extended: who is asking is noted where a class says it as well."""
        super().__init_subclass__(**options)
        looks.note_users(cls)

    @property
    def memcached(self) -> aio.Scope:
        """The methods of :class:`AsyncClient`, for this request.

        :rtype: Scope
        :raises ValueError: for a variable that is wrong

        """
        scope = self._memcached
        if scope is None:
            scope = self._memcached = self._memcached_scope(
                self.memcached_prefix
            )
        return scope

    def memcached_for(self, prefix: str | None) -> aio.Scope:
        """Return the methods of another client, for this request.

        .. code-block:: python

            visits = await self.memcached_for('visits').incr('front')

        All else is as with :attr:`memcached`: its calls are told to the
        hooks, recorded in the metrics and in the ``Server-Timing`` header, and
        its :meth:`~.AsyncClient.gets` is for this request's
        :meth:`~.AsyncClient.cas`.

        :param str prefix: the prefix of the variables; None for
            ``MEMCACHED_SERVERS``
        :rtype: Scope
        :raises ValueError: for a variable that is wrong

        """
        name = settings.prefix_name(prefix)
        if name == settings.prefix_name(self.memcached_prefix):
            return self.memcached
        if self._memcached_others is None:
            self._memcached_others = {}
        scope = self._memcached_others.get(name)
        if scope is None:
            scope = self._memcached_scope(name)
            self._memcached_others[name] = scope
        return scope

    def _memcached_scope(self, prefix: str | None) -> aio.Scope:
        observe = None
        if self._observes_memcached():
            if self._memcached_tally is None:
                self._memcached_tally = tally.Tally(self)
            observe = self._memcached_tally.observe
        scope = client_of(self.application, prefix).scope(observe)
        drain = getattr(self.application, DRAIN, None)
        # How long a websocket goes on nobody knows.
        if isinstance(self, websocket.WebSocketHandler):
            return scope
        if drain is not None:
            drain.note_user()
        if self.memcached_memo:
            return memo.Memo(scope._engine, scope._observe)
        return scope

    def __init__(
        self,
        application: typing.Any,
        request: typing.Any,
        **kwargs: typing.Any,
    ) -> None:
        self._memcached_route = kwargs
        super().__init__(application, request, **kwargs)

    async def _execute(
        self,
        transforms: list[web.OutputTransform],
        *args: bytes,
        **kwargs: bytes,
    ) -> None:
        """Extended: functions with ``cached`` find this handler's client."""
        current.enter(_Request(self))
        self._memcached_path = args, kwargs
        await super()._execute(transforms, *args, **kwargs)

    def on_memcached_timing(self, command: str, duration: float) -> None:
        """Is called when a call is over; a hook to override.

        As it is, the duration goes to the handler's metrics where it has
        some: ``record_timing`` of sprockets-statsd and
        sprockets.mixins.metrics, with the path ``memcached``, command; or
        ``influxdb`` of sprockets-influxdb, as the field
        ``memcached_<command>``, which has the sum for the request.

        :param str command: the name of the method, ``get`` say
        :param float duration: seconds

        """
        if hasattr(self, 'record_timing'):
            self.record_timing(duration, 'memcached', command)
        influxdb = getattr(self, 'influxdb', None)
        if influxdb is not None and self._memcached_tally is not None:
            influxdb.set_field(
                f'memcached_{command}',
                self._memcached_tally.durations[command],
            )

    def on_memcached_error(self, command: str, error: BaseException) -> None:
        """Is called when a call failed; a hook to override.

        The caller of the method got the result of a miss, or a falsy one.  As
        it is, the failure is counted where the handler has metrics, under
        ``memcached``, ``errors``, command; or in the field
        ``memcached_errors``.

        :param str command: the name of the method, ``get`` say
        :param Exception error: why it failed, in words; an :exc:`OSError`
            where that is what the network said.  It is no
            :exc:`.MemcachedError`, which are for the callers of a strict
            client

        """
        if hasattr(self, 'increase_counter'):
            self.increase_counter('memcached', 'errors', command)
        self._set_influxdb('errors')

    def count_memcached(self, hits: int, misses: int) -> None:
        """Count hits and misses where the handler has metrics."""
        if hits and hasattr(self, 'increase_counter'):
            self.increase_counter('memcached', 'hits', amount=hits)
        if misses and hasattr(self, 'increase_counter'):
            self.increase_counter('memcached', 'misses', amount=misses)
        self._set_influxdb('hits', 'misses')

    def _set_influxdb(self, *names: str) -> None:
        """Set counts of the request as fields, where the handler has some."""
        influxdb = getattr(self, 'influxdb', None)
        if influxdb is not None and self._memcached_tally is not None:
            for name in names:
                influxdb.set_field(
                    f'memcached_{name}', getattr(self._memcached_tally, name)
                )

    @property
    def locale(self) -> locale.Locale:
        """Extended: an answer in one language is not for another one."""
        handler = looks.answering(self)
        if handler is not self:
            return typing.cast(locale.Locale, handler.locale)
        seen = self._memcached_looks
        if seen is None:
            if '_locale' not in self.__dict__:
                self._memcached_found_locale = super().locale
            return super().locale
        known = self._memcached_language
        if known is None:
            before = set(seen.seen)
            if '_locale' in self.__dict__:
                # It may be of the request, which nobody looks at once more.
                seen.at_language()
            found = super().locale
            known = seen.language(found, seen.seen - before)
            seen.seen = before
            self._memcached_language = known
        return typing.cast(locale.Locale, known)

    @locale.setter
    def locale(self, value: locale.Locale) -> None:
        handler = looks.answering(self)
        handler._locale = value
        seen = handler._memcached_looks
        if seen is not None:
            handler._memcached_language = seen.language(value)

    @property
    def xsrf_token(self) -> bytes:
        """Extended: an answer with the token of one is not another's."""
        return super(MemcachedMixin, looks.answering(self)).xsrf_token

    def get_template_namespace(self) -> dict[str, typing.Any]:
        """Extended: who takes the user from there looks who is asking."""
        namespace = super().get_template_namespace()
        seen = looks.looks_of(self)
        return namespace if seen is None else looks.Namespace(namespace, seen)

    def compute_etag(self) -> str | None:
        """Extended: what was recorded has its ETag."""
        if self._memcached_etag is not None:
            etag, body = self._memcached_etag
            # More may have been written behind it.
            if self._write_buffer == body:
                return etag
        return super().compute_etag()

    def finish(
        self, chunk: str | bytes | dict[str, typing.Any] | None = None
    ) -> asyncio.Future[None]:
        """Extended: what is recorded is not sent."""
        handler = looks.answering(self)
        if handler._memcached_looks is None:
            return super().finish(chunk)
        if handler._finished:
            raise RuntimeError('finish() called twice')
        if chunk is not None:
            handler.write(chunk)
        handler._finished = True
        handler._memcached_looks.finish()
        return _nothing_sent()

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Extended to set the ``Server-Timing`` header, if that is wanted."""
        if looks.looks_of(self) is not None:
            return _nothing_sent()
        if (
            self.memcached_server_timing
            and self._memcached_tally is not None
            and not self._headers_written
        ):
            self.add_header(
                'Server-Timing', self._memcached_tally.server_timing()
            )
        return super().flush(include_footers)

    def _observes_memcached(self) -> bool:
        """Whether anybody wants to know about this request's calls."""
        return (
            self.memcached_server_timing
            or hasattr(self, 'record_timing')
            or hasattr(self, 'increase_counter')
            or hasattr(self, 'influxdb')
            or _overrides(type(self), 'on_memcached_timing')
            or _overrides(type(self), 'on_memcached_error')
        )


class _Request:
    """The place of code that runs for a request, or was started by it."""

    def __init__(self, handler: MemcachedMixin) -> None:
        self.memcached_prefix = handler.memcached_prefix
        # What it has started may outlive it.
        self._handler = weakref.ref(handler)
        self._application = weakref.ref(handler.application)

    def methods(self, prefix: str | None) -> aio.Methods | None:
        """Return the client for a prefix; None if there is none any more."""
        handler = self._handler()
        if handler is not None:
            if prefix is None:
                return handler.memcached
            return handler.memcached_for(prefix)
        application = self._application()
        if application is None:
            return None
        return client_of(application, prefix or self.memcached_prefix)


def _nothing_sent() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.Future()
    future.set_result(None)
    return future


def _overrides(handler: type, name: str) -> bool:
    return getattr(handler, name) is not getattr(MemcachedMixin, name)
