"""How an application's servers are, and what its clients did with them."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import time
import typing
import weakref
from collections import abc

from tornado import routing, web

from sprockets.clients.memcached import notices, process, settings, words
from sprockets.clients.memcached.loop import engines, lanes
from sprockets.clients.memcached.servers import endpoints
from sprockets.clients.memcached.watch import checks, counters
from sprockets.clients.memcached.web import handlers, prometheus

LOGGER = notices.harmless(logging.getLogger(__name__))
NOTICES = notices.Notices(LOGGER)

Status = dict[str, typing.Any]


async def status_of(
    application: typing.Any,
    prefixes: abc.Collection[str | None] | None = None,
    history: bool = False,
) -> Status:
    """Return how an application's servers are, and what its clients did.

    It asks each server; one that hangs is waited for no longer than its
    ``socket_timeout``.  See :meth:`.ApplicationMixin.memcached_status`.

    :param tornado.web.Application application: the application, with
        :class:`.ApplicationMixin` or without
    :param list prefixes: those to tell of; see :func:`prefixes_of`
    :param bool history: whether to tell of the last minutes as well
    :rtype: dict
    :raises TypeError: for prefixes that are no list of texts

    """
    if prefixes is None:
        prefixes = prefixes_of(application)
    clients = await asyncio.gather(
        *[
            _client_status(application, name, history)
            for name in settings.prefix_names(prefixes)
        ]
    )
    available = all(client['available'] for client in clients)
    well = all(s['up'] for client in clients for s in client['servers'])
    word = 'ok' if well else 'degraded'
    return {
        'available': available,
        'status': word if available else 'unavailable',
        'process': os.getpid(),
        'clients': clients,
    }


def prefixes_of(application: typing.Any) -> list[str | None]:
    """Return the prefixes of an application's handlers and its clients.

    None, which stands for no prefix, if there are no others.

    """
    prefixes: dict[str | None, None] = {}
    for rule in _rules(application):
        handler = rule.target
        if isinstance(handler, type) and issubclass(
            handler, handlers.MemcachedMixin
        ):
            prefixes[handler.memcached_prefix] = None
    prefixes |= dict.fromkeys(getattr(application, handlers.ATTRIBUTE, ()))
    return list(prefixes) or [None]


def _rules(router: typing.Any) -> abc.Iterator[routing.Rule]:
    if isinstance(router, web.Application):
        # Its own rules come first in the router for any host.
        yield from _rules(router.default_router)
    elif isinstance(router, routing.RuleRouter):
        for rule in router.rules:
            yield rule
            yield from _rules(rule.target)


async def _client_status(
    application: typing.Any, prefix: str | None, history: bool
) -> Status:
    try:
        client = handlers.client_of(application, prefix)
    except ValueError as error:
        # The rest of the message may hold a part of a key prefix.
        variable = str(error).partition(':')[0]
        return {
            'prefix': prefix,
            'available': False,
            'error': f'{variable} cannot be used',
            'servers': [],
        }
    engine = client._engine
    if engine.cluster.waiting():
        # They are known then, or cannot be for now.
        await client.get_stats()
    endpoints = engine.cluster.endpoints
    findings = await asyncio.gather(
        *[check(endpoint) for endpoint in endpoints]
    )
    servers = [
        checks.describe(endpoint, finding)
        | {'client': _counts(_counters(engine, endpoint))}
        for endpoint, finding in zip(endpoints, findings, strict=True)
    ]
    everything = [*engine.counters.values(), engine.unserved]
    gone = functools.reduce(
        counters.Moment.plus,
        [
            count.total()
            for endpoint, count in engine.counters.items()
            if endpoint not in endpoints
        ],
        engine.former,
    )
    up = [server['up'] for server in servers]
    status = {
        'prefix': prefix,
        'available': bool(up)
        and (any(up) if engine.cluster.failover else all(up)),
        'servers': servers,
        'client': _counts(everything, engine.former),
        'unserved': _counts([engine.unserved]),
        'gone': _counts([], gone),
    }
    if history:
        status['history'] = _history(everything, engine.began)
    return status


def _counters(
    engine: engines.Engine, endpoint: endpoints.Endpoint
) -> list[counters.Counters]:
    count = engine.counters.get(endpoint)
    return [] if count is None else [count]


def _counts(
    several: abc.Iterable[counters.Counters],
    besides: counters.Moment = counters.NOTHING,
) -> Status:
    """Return what was done since the client was made."""
    total = functools.reduce(
        counters.Moment.plus, [count.total() for count in several], besides
    )
    return {
        'calls': total.calls,
        'steps': total.steps,
        'batches': total.batches,
        'calls_per_batch': _ratio(total.calls, total.batches, 2),
        'hits': total.hits,
        'misses': total.misses,
        'hit_rate': checks.rate(total.hits, total.misses),
        'errors': total.errors,
        'seconds': round(total.seconds, 6),
        'seconds_per_batch': _ratio(total.seconds, total.batches, 6),
    }


def _history(
    several: abc.Iterable[counters.Counters], began: float = 0.0
) -> Status:
    """Return the last minutes, oldest first.

    :param float began: when there was nothing before, on the monotonic clock;
        what was then is None

    """
    now = time.monotonic()
    moments = [
        functools.reduce(counters.Moment.plus, together)
        for together in zip(*[c.moments(now) for c in several], strict=True)
    ]
    first = int(now // counters.STEP) - len(moments)
    unborn = max(int(began // counters.STEP) - first, 0)
    return {
        'step': counters.STEP,
        'calls_per_second': [
            None if place < unborn else round(moment.calls / counters.STEP, 1)
            for place, moment in enumerate(moments)
        ],
        'errors_per_second': [
            None if place < unborn else round(moment.errors / counters.STEP, 1)
            for place, moment in enumerate(moments)
        ],
        'hit_rate': [
            checks.rate(moment.hits, moment.misses) for moment in moments
        ],
        'seconds_per_batch': [
            _ratio(moment.seconds, moment.batches, 6) for moment in moments
        ],
    }


def _ratio(count: float, of: int, digits: int) -> float | None:
    return round(count / of, digits) if of else None


# One check of a server at a time, whoever asks, and few in a second

FRESH = 0.5
"""Seconds for which a server that answered is not asked again."""

_latest: weakref.WeakKeyDictionary[endpoints.Endpoint, _Job] = (
    weakref.WeakKeyDictionary()
)


async def check(endpoint: endpoints.Endpoint) -> checks.Finding:
    """Return what is seen of a server, with all who want to know it now.

    What a server answered is told again to those who ask within
    :data:`FRESH`, unless its connections tell that it has ended since.  A
    server that is down is checked when it is time to try it again; the calls
    that the application makes learn from that, and the other way round.

    :rtype: checks.Finding

    """
    loop = asyncio.get_running_loop()
    job = _latest.get(endpoint)
    if job is not None and job.is_fresh() and endpoint.seems_up():
        return job.future.result()
    if job is None or job.future.done() or job.loop is not loop:
        if not endpoint.usable():
            return checks.Finding(endpoint.reason)
        job = _Job(endpoint, loop)
        try:
            checks.submit(job)
        except process.ThreadError as error:
            return checks.Finding(str(error))
        _latest[endpoint] = job
    # Whoever is cancelled leaves it to the others.
    await asyncio.wait([job.future], timeout=endpoint.timeout + lanes.GRACE)
    if job.future.done():
        return job.future.result()
    return checks.in_vain(endpoint, job.begun)


class _Job:
    """A check of a server, in a thread."""

    def __init__(
        self, endpoint: endpoints.Endpoint, loop: asyncio.AbstractEventLoop
    ) -> None:
        # Weakly, as it is kept by its server.
        self._endpoint = weakref.ref(endpoint)
        self.loop = loop
        self.future: asyncio.Future[checks.Finding] = loop.create_future()
        self.begun = False
        self._asked = time.monotonic()
        self._deadline = self._asked + endpoint.timeout

    def is_fresh(self) -> bool:
        """Whether the server answered, so recently that it is told again."""
        return (
            time.monotonic() < self._asked + FRESH
            and self.future.done()
            and self.future.result().error is None
        )

    def __call__(self) -> None:
        self.begun = True
        endpoint = self._endpoint()
        if endpoint is None:
            # Nobody uses it any more.
            return
        try:
            seen = checks.check(endpoint, self._deadline)
        # Those who wait are in another thread and have to be told.
        except Exception as error:  # noqa: BLE001
            NOTICES.error(
                'The check of %s failed',
                endpoint,
                error=error,
                about=str(endpoint),
            )
            seen = checks.Finding(type(error).__name__)
        try:
            self.loop.call_soon_threadsafe(self.future.set_result, seen)
        except RuntimeError:
            LOGGER.debug('The loop was closed during the check of a server')


# The handler

FORMATS = '', 'json', 'html', 'prometheus'
"""What the status may be asked for in; nothing is as the client accepts."""

_HTML = pathlib.Path(__file__).with_name('status.html')


@functools.cache
def _page() -> tuple[str, str]:
    """Return the page, and the policy that lets nothing but its own run."""
    page = _HTML.read_text('utf-8')
    style, script = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in re.findall(r'<(?:style|script)>(.*?)</', page, re.DOTALL)
    ]
    return page, (
        f"default-src 'none'; style-src 'sha256-{style}';"
        f" script-src 'sha256-{script}'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class StatusHandler(web.RequestHandler):
    """The status of the servers and clients, for probes and for people.

    .. code-block:: python

        application = Application([
            ('/status/memcached', memcached.StatusHandler),
        ])

    A probe gets JSON, :meth:`.ApplicationMixin.memcached_status`; a browser a
    page of the same, which refreshes itself and draws the last minutes.  The
    status code is 200, or 503 if the servers are not available.  With
    ``?format=prometheus`` it is what Prometheus scrapes, always with 200.

    It tells of the prefixes of the application's handlers and clients, or of
    those in the argument ``memcached_prefixes``, a list.  It tells no keys,
    values or passwords, but addresses: mount it where only those get who may
    know them.

    .. versionadded:: 2.0

    """

    def initialize(
        self,
        memcached_prefixes: abc.Collection[str | None] | None = None,
        **kwargs: typing.Any,
    ) -> None:
        super().initialize(**kwargs)
        self.memcached_prefixes = memcached_prefixes

    def compute_etag(self) -> None:
        """Return none: it is another status each time."""

    async def get(self) -> None:
        """Answer with the status, or a page that shows it."""
        history = bool(self.get_query_arguments('history'))
        written = self.get_query_argument('format', '')
        if written not in FORMATS:
            self.set_status(400)
            self.finish(
                {
                    'error': f'format is {words.shown(written)}; expected'
                    f' {" or ".join(filter(None, FORMATS))}'
                }
            )
            return
        page = written == 'html' or (
            not (written or history)
            and _wants_html(self.request.headers.get('Accept', ''))
        )
        status = await status_of(
            self.application, self.memcached_prefixes, history or page
        )
        if written == 'prometheus':
            # What is down is in the metrics, which another code would hide.
            self.set_header('Content-Type', prometheus.CONTENT_TYPE)
            self.set_header('Cache-Control', 'no-store')
            self.set_header('X-Content-Type-Options', 'nosniff')
            self.write(prometheus.text(status))
            return
        if not status['available'] and not self._asked_by_page():
            self.set_status(503)
        self.set_header('Cache-Control', 'no-store')
        self.set_header('Vary', 'Accept')
        self.set_header('X-Content-Type-Options', 'nosniff')
        if page:
            self._write_page(status)
        else:
            self.set_header('Content-Type', 'application/json; charset=utf-8')
            self.write(_json(status))

    head = get

    def _asked_by_page(self) -> bool:
        """Whether the page asks, which gets what it asked for.

        It asks every other second, and the log of an application has a line
        for each answer that is an error.

        """
        return self.request.headers.get('X-Requested-With') == 'status page'

    def _write_page(self, status: Status) -> None:
        page, policy = _page()
        self.set_header('Content-Type', 'text/html; charset=utf-8')
        self.set_header('Content-Security-Policy', policy)
        self.set_header('Referrer-Policy', 'no-referrer')
        self.write(page.replace('{{ status }}', _json(status)))


def _json(status: Status) -> str:
    """Return what is sent: JSON in ASCII, harmless in a page as well."""
    # Nothing in the data can end the element that it is in.
    return json.dumps(status, allow_nan=False).replace('<', '\\u003c')


def _wants_html(accept: str) -> bool:
    """Whether a client prefers HTML to JSON (RFC 9110, 12.5.1)."""
    weights = {'text/html': 0.0, 'application/json': 0.0}
    for item in accept.lower().split(','):
        kind, *parameters = [part.strip() for part in item.split(';')]
        if kind in weights:
            # Others may stand beside it.
            weight = re.search(
                r'(?m)^q=([01](?:\.\d*)?)$', '\n'.join(parameters)
            )
            weights[kind] = float(weight[1]) if weight else 1.0
    return weights['text/html'] > weights['application/json']
