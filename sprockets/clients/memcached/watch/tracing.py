"""A span for each call, and metrics, where OpenTelemetry is configured.

Names and attributes are those of the semantic conventions for database
clients that are stable.  See
https://opentelemetry.io/docs/specs/semconv/db/database-spans/

"""

from __future__ import annotations

import logging
import sys
import time
import typing

if typing.TYPE_CHECKING:
    import types

from sprockets.clients.memcached import clock, escaping, notices
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.watch import metering, observers

LOGGER = notices.harmless(logging.getLogger(__name__))
NOTICES = notices.Notices(LOGGER)

NAME = 'sprockets.clients.memcached'

TRACE = 'opentelemetry.trace'

PATIENCE = 1.0
"""Seconds between two searches for a tracer provider."""

MAX_TEXT = 1000
"""Characters of ``db.query.text``, in which keys are recorded, at most."""


class Tracing:
    """Whether and how the calls of one client become spans, and are measured.

    As long as nobody has imported ``opentelemetry.trace`` and set a tracer
    provider, or the same for metrics, there is nothing to do, and nothing is
    done.

    :param Cluster servers: the client's servers
    :param bool keys: whether to record keys

    """

    def __init__(self, servers: cluster.Cluster, keys: bool) -> None:
        self._servers = servers
        self._metering = metering.Metering(servers)
        self._next_search = 0.0
        self._spans: observers.Observe | None = None
        self._metrics: observers.Observe | None = None
        self._observe: observers.Observe | None = None
        self.keys = keys
        self.tracer: typing.Any = None
        self.trace: typing.Any = None
        self.context: typing.Any = None

    def off(self) -> bool:
        """Whether there is no provider, and so nothing to do."""
        if (
            (self._spans is None and TRACE in sys.modules)
            or (self._metrics is None and metering.METRICS in sys.modules)
        ) and clock.now() >= self._next_search:
            self._find()
        return self._observe is None

    def observe(self) -> observers.Observe | None:
        """Return what begins a span, and measures a call, as is wanted.

        None while there is no provider of either kind.

        """
        self.off()
        return self._observe

    def call(self, method: str, keys: observers.Keys) -> TracedCall | None:
        """Return a context for a call that blocks, None if nobody traces."""
        return None if self.off() else self.traced(method, keys)

    def traced(self, method: str, keys: observers.Keys) -> TracedCall:
        """Return such a context where it is known that there is a provider."""
        assert self._observe is not None
        return TracedCall(self._observe(method, keys))

    def _begin(self, method: str, keys: observers.Keys) -> Span:
        return Span(self, method, keys)

    def _find(self) -> None:
        """Look for providers, and so for a tracer and a meter."""
        self._next_search = clock.now() + PATIENCE
        package: typing.Any = sys.modules[NAME]
        if self._spans is None and self._find_tracer(package.__version__):
            self._spans = self._begin
        if self._metrics is None:
            self._metrics = self._metering.find(NAME, package.__version__)
        self._observe = observers.both(self._spans, self._metrics)

    def _find_tracer(self, version: str) -> bool:
        trace: typing.Any = sys.modules.get(TRACE)
        if not hasattr(trace, 'get_tracer_provider'):
            # Another thread has not come to the end of it.
            return False
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return False
        tracer = provider.get_tracer(NAME, version)
        if isinstance(tracer, trace.NoOpTracer):
            # That is what one gets with OTEL_SDK_DISABLED.
            return False
        from opentelemetry import context

        self.trace, self.context, self.tracer = trace, context, tracer
        return True

    def only_server(self) -> endpoints.Endpoint | None:
        """Return the client's server, None if it has several."""
        return self._servers.only


class Span:
    """A call that is under way, and becomes a span when it is over.

    What may decide on whether it is sampled, the server say, is known only
    then.  Its parent is what was current when the call was made.

    """

    __slots__ = ('_began', '_context', '_keys', '_method', '_tracing')

    def __init__(
        self, tracing: Tracing, method: str, keys: observers.Keys
    ) -> None:
        self._tracing = tracing
        self._method = method
        self._keys = keys
        self._context: typing.Any = tracing.context.get_current()
        self._began = time.time_ns()

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Record the span."""
        tracing = self._tracing
        name = self._method
        attributes: dict[str, str | int | bool] = {
            'db.system.name': 'memcached',
            'db.operation.name': name,
        }
        endpoint = endpoint or tracing.only_server()
        if endpoint is not None:
            address = endpoint.address
            attributes['server.address'] = address.host
            name = f'{name} {address.host}'
            if address.port:
                attributes['server.port'] = address.port
                name = f'{self._method} {address}'
        if len(self._keys) > 1:
            attributes['db.operation.batch.size'] = len(self._keys)
        if tracing.keys:
            attributes['db.query.text'] = _text(self._method, self._keys)
        if error is not None:
            attributes['error.type'] = observers.type_of(error)
        elif hits or misses:
            attributes['cache.hit'] = not misses
            if len(self._keys) > 1:
                attributes['cache.hits'] = hits
                attributes['cache.misses'] = misses
        span = tracing.tracer.start_span(
            name,
            context=self._context,
            kind=tracing.trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=self._began,
        )
        if error is not None:
            # Its message may hold what the server sent, a value say.
            span.set_status(tracing.trace.StatusCode.ERROR)
        span.end()


class TracedCall:
    """The context in which a call is made that blocks.

    :ivar error: why it failed, though nothing was raised
    :ivar endpoint: the server that it was sent to
    :ivar found: the hits and the misses

    """

    def __init__(self, observer: observers.Observer) -> None:
        self.error: BaseException | None = None
        self.endpoint: endpoints.Endpoint | None = None
        self.found = 0, 0
        self._observer = observer

    def __enter__(self) -> TracedCall:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        try:
            self._observer.over(
                error or self.error, *self.found, self.endpoint
            )
        # The call is over, and its caller gets what came of it.
        except Exception as error:  # noqa: BLE001
            NOTICES.error('A call could not be traced', error=error)


def _text(method: str, keys: observers.Keys) -> str:
    """Return the call with its keys, as many as there is place for."""
    words = [method]
    place = MAX_TEXT - len(method)
    for key in keys:
        place -= len(key) + 1
        if place < 0:
            words.append('...')
            break
        words.append(key.decode('utf-8', 'backslashreplace'))
    return escaping.printable(' '.join(words), MAX_TEXT)
