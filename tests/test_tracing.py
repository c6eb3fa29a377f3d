"""What the spans of calls promise."""

import asyncio
import concurrent.futures
import subprocess
import sys

import faults
import pytest
from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import export
from opentelemetry.sdk.trace.export import in_memory_span_exporter
from opentelemetry.util import _once
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.servers import endpoints
from sprockets.clients.memcached.testing import (
    MemcachedServer,
    MemcachedTestCase,
)
from sprockets.clients.memcached.watch import observers, tracing


def provide():
    """Set a tracer provider, and return what gets the spans."""
    exporter = in_memory_span_exporter.InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(autouse=True)
def _no_provider(monkeypatch):
    """No provider is set at first, and none stays after the test.

    There is no other way to take one back than OpenTelemetry's own tests use.

    """
    monkeypatch.setattr(trace, '_TRACER_PROVIDER', None)
    monkeypatch.setattr(trace, '_TRACER_PROVIDER_SET_ONCE', _once.Once())


@pytest.fixture
def exporter():
    return provide()


def spans(exporter):
    """Return the spans that there are by now, without what is ours."""
    return [
        span
        for span in exporter.get_finished_spans()
        if span.kind is trace.SpanKind.CLIENT
    ]


def use(client_kind, server, body, **options):
    """Run a coroutine function with a client whose methods are awaited."""
    if server is not None:
        options['servers'] = server.address

    async def main():
        if client_kind == 'AsyncClient':
            client = memcached.AsyncClient(**options)
            try:
                await body(client)
            finally:
                await client.close()
            return
        client = memcached.Client(**options)
        try:
            await body(Blocking(client))
        finally:
            client.disconnect_all()

    asyncio.run(main())


class Blocking:
    """The blocking client, called where it is awaited."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        async def call(*arguments, **options):
            return getattr(self._client, name)(*arguments, **options)

        return call


def test_attributes(client_kind, memcached_server, exporter):
    """They are those of the semantic conventions that are stable."""
    host, port = memcached_server.host, memcached_server.port

    async def body(client):
        await client.set('secret-key', 'secret-value')
        await client.get('secret-key')
        await client.get('secret-other-key')

    use(client_kind, memcached_server, body)
    done = spans(exporter)
    assert [span.name for span in done] == [
        f'set {host}:{port}',
        f'get {host}:{port}',
        f'get {host}:{port}',
    ]
    assert dict(done[1].attributes) == {
        'db.system.name': 'memcached',
        'db.operation.name': 'get',
        'cache.hit': True,
        'server.address': host,
        'server.port': port,
    }
    for span in done:
        assert span.kind is trace.SpanKind.CLIENT
        assert span.status.is_unset
        assert 0 < span.end_time - span.start_time < 30e9
        assert span.instrumentation_scope.name == 'sprockets.clients.memcached'
        assert span.instrumentation_scope.version == memcached.__version__
        assert 'secret' not in span.to_json()


METHODS = [
    ('add', ('k', 1)),
    ('append', ('k', '1')),
    ('cas', ('k', 1)),
    ('decr', ('k',)),
    ('delete', ('k',)),
    ('flush_all', ()),
    ('gat', ('k', 1)),
    ('gats', ('k', 1)),
    ('get', ('k',)),
    ('get_stats', ()),
    ('gets', ('k',)),
    ('incr', ('k',)),
    ('prepend', ('k', '1')),
    ('replace', ('k', 1)),
    ('set', ('k', 1)),
    ('touch', ('k',)),
]


@pytest.mark.parametrize('method, arguments', METHODS)
def test_each_method(
    client_kind, method, arguments, memcached_server, exporter
):
    """One span, with its name."""

    async def body(client):
        await client.set('k', 1)
        await client.gets('k')
        exporter.clear()
        await getattr(client, method)(*arguments)

    use(client_kind, memcached_server, body)
    (span,) = spans(exporter)
    assert span.attributes['db.operation.name'] == method
    assert span.status.is_unset


def test_many_keys(client_kind, memcached_server, exporter):
    """One span for all, with how many they are if that is more than one."""

    async def body(client):
        await client.set_multi({'a': 1, 'b': 2, 'c': 3})
        await client.get_multi(['a', 'b'])
        await client.get_multi(['a'])
        await client.delete_multi(['a', 'b', 'c'])

    use(client_kind, memcached_server, body)
    assert [
        (
            span.attributes['db.operation.name'],
            span.attributes.get('db.operation.batch.size'),
        )
        for span in spans(exporter)
    ] == [
        ('set_multi', 3),
        ('get_multi', 2),
        ('get_multi', None),
        ('delete_multi', 3),
    ]


def test_several_servers(client_kind, exporter):
    """A key's server is told; of calls for all of them none is."""
    with MemcachedServer() as one, MemcachedServer() as two:

        async def body(client):
            for number in range(20):
                await client.get(f'key{number}')
            await client.get_multi([f'key{number}' for number in range(20)])

        use(client_kind, None, body, servers=[one.address, two.address])
        *single, multi = spans(exporter)
        ports = [span.attributes['server.port'] for span in single]
        assert set(ports) == {one.port, two.port}
        assert multi.name == 'get_multi'
        assert 'server.address' not in multi.attributes


def test_a_unix_socket(client_kind, exporter):
    """Its path is the address, and there is no port."""
    with MemcachedServer(unix=True) as server:

        async def body(client):
            await client.get('k')

        use(client_kind, server, body)
        (span,) = spans(exporter)
        assert span.name == f'get {server.path}'
        assert span.attributes['server.address'] == server.path
        assert 'server.port' not in span.attributes


def test_errors(client_kind, exporter):
    """They are told by their class; a miss is none."""
    with MemcachedServer() as server:

        async def body(client):
            await client.set('k', 'no number')
            await client.get('none')
            await client.incr('k')
            server.kill()
            await client.get('k')
            await client.set('k', 1)
            await client.get_multi(['k', 'l'])

        use(client_kind, server, body)
    kinds = [span.attributes.get('error.type') for span in spans(exporter)]
    prefix = 'sprockets.clients.memcached'
    assert kinds[:3] == [None, None, f'{prefix}.wire.protocol.RefusedError']
    assert kinds[3] in (
        'ConnectionRefusedError',
        'ConnectionResetError',
        f'{prefix}.servers.endpoints.UnavailableError',
    )
    assert kinds[4:] == [f'{prefix}.servers.endpoints.UnavailableError'] * 2
    for span in spans(exporter):
        failed = 'error.type' in span.attributes
        assert (span.status.status_code is trace.StatusCode.ERROR) is failed
        assert span.status.description is None
        assert not span.events
        assert span.attributes['server.port'] == server.port


def test_a_server_that_sends_nonsense(client_kind, exporter):
    """What it sent is not recorded: it may be a value."""
    with faults.ScriptedServer(
        [b'VALUE secret 0 1\r\n1\r\nEND\r\n']
    ) as server:

        async def body(client):
            await client.get('k')

        use(client_kind, server, body)
    (span,) = spans(exporter)
    assert span.attributes['error.type'].endswith('ProtocolError')
    assert 'secret' not in span.to_json()


def test_keys_are_recorded_when_asked_for(
    client_kind, memcached_server, exporter, monkeypatch
):
    """With TRACE_KEYS, as they are sent, with key_prefix."""
    monkeypatch.setenv('PAGES_MEMCACHED_TRACE_KEYS', 'yes')
    monkeypatch.setenv('PAGES_MEMCACHED_KEY_PREFIX', 'v1-')

    async def body(client):
        await client.set('a', 1)
        await client.get_multi(['a', 'b'])
        await client.get_multi([f'{number:0100}' for number in range(20)])
        await client.get('naïve')

    use(client_kind, memcached_server, body, prefix='pages')
    texts = [span.attributes['db.query.text'] for span in spans(exporter)]
    assert texts[:2] == ['set v1-a', 'get_multi v1-a v1-b']
    assert texts[2].endswith(' ...')
    assert 800 < len(texts[2]) < 1100
    assert texts[3] == 'get v1-naïve'


def test_the_parent_is_who_called(memcached_server, exporter):
    """Though calls of several parents travel together, in another thread."""
    tracer = trace.get_tracer('test')

    async def request(client, name):
        with tracer.start_as_current_span(name):
            await asyncio.gather(
                client.get('k'), client.incr('n'), client.get_multi(['k'])
            )

    async def body(client):
        await asyncio.gather(*[request(client, str(n)) for n in range(5)])

    use('AsyncClient', memcached_server, body)
    parents = {
        span.context.span_id: span
        for span in exporter.get_finished_spans()
        if span.kind is trace.SpanKind.INTERNAL
    }
    assert len(parents) == 5
    counts = dict.fromkeys(parents, 0)
    for span in spans(exporter):
        parent = parents[span.parent.span_id]
        assert span.context.trace_id == parent.context.trace_id
        assert parent.start_time <= span.start_time
        assert span.end_time <= parent.end_time
        counts[span.parent.span_id] += 1
    assert set(counts.values()) == {3}


def test_the_parent_of_a_call_in_a_thread(memcached_server, exporter):
    """The blocking client's calls belong to what is current there."""
    tracer = trace.get_tracer('test')
    client = memcached.Client(servers=memcached_server.address)

    def work(name):
        with tracer.start_as_current_span(name) as span:
            client.get('k')
            return span.get_span_context().span_id

    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        parents = set(executor.map(work, 'abcdef'))
    client.disconnect_all()
    assert {span.parent.span_id for span in spans(exporter)} == parents


def test_a_parent_that_is_not_sampled(memcached_server, monkeypatch):
    """Neither are its calls."""
    exporter = in_memory_span_exporter.InMemorySpanExporter()
    provider = sdk.TracerProvider(
        sampler=sdk.sampling.ParentBased(sdk.sampling.ALWAYS_OFF),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def body(client):
        with trace.get_tracer('test').start_as_current_span('request'):
            assert await client.set('k', 1)

    use('AsyncClient', memcached_server, body)
    assert exporter.get_finished_spans() == ()


def test_a_call_that_was_cancelled(memcached_server, exporter):
    """It is recorded when it is over, though nobody waits for it."""

    async def body(client):
        call = client.get('k')
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await client.get('k')

    use('AsyncClient', memcached_server, body)
    assert len(spans(exporter)) == 2


def test_get_or_set(client_kind, memcached_server, exporter):
    """Each command of it is a span; what the factory does is none."""

    async def body(client):
        assert await client.get_or_set('k', lambda: 1) == 1
        assert await client.get_or_set('k', lambda: 2) == 1

    use(client_kind, memcached_server, body)
    assert len(spans(exporter)) >= 2
    assert {s.attributes['db.system.name'] for s in spans(exporter)} == {
        'memcached'
    }


def test_a_bad_key_is_no_call(client_kind, memcached_server, exporter):
    """It raises before anything is sent."""

    async def body(client):
        with pytest.raises(memcached.Client.MemcachedKeyError):
            await client.get('a b')

    use(client_kind, memcached_server, body)
    assert spans(exporter) == []


def test_an_interrupted_call(memcached_server, exporter, monkeypatch):
    """It is a span with the error."""
    client = memcached.Client(servers=memcached_server.address)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ('ask', 'exchange'):
        monkeypatch.setattr(endpoints.Endpoint, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.get('k')
    (span,) = spans(exporter)
    assert span.attributes['error.type'] == 'KeyboardInterrupt'
    assert span.status.status_code is trace.StatusCode.ERROR


def test_a_tracer_that_raises_harms_nobody(
    client_kind, memcached_server, exporter, monkeypatch, caplog
):
    """It is logged; the caller gets its result."""

    async def body(client):
        await client.set('k', 1)

        def broken(*_, **__):
            raise ZeroDivisionError

        monkeypatch.setattr(sdk.Tracer, 'start_span', broken)
        assert await client.get('k') == 1
        assert await client.get_multi(['k']) == {'k': 1}

    use(client_kind, memcached_server, body)
    assert 'ZeroDivisionError' in caplog.text


# Whether there is a provider


def test_no_provider(client_kind, memcached_server):
    """Nothing is observed."""

    async def body(client):
        await client.get('k')
        if client_kind == 'AsyncClient':
            assert client._observe is None
            assert client.scope()._observe is None
            assert client._engine.tracing.tracer is None
        else:
            assert client._client._shared.tracing.tracer is None

    use(client_kind, memcached_server, body)


def test_a_provider_that_comes_later(memcached_server, monkeypatch):
    """Scopes find it, and a blocking client within a second."""
    monkeypatch.setattr(tracing, 'PATIENCE', 0)
    blocking = memcached.Client(servers=memcached_server.address)
    blocking.get('k')

    async def body(client):
        await client.scope().get('k')
        exporter = provide()
        await client.scope().get('k')
        blocking.get('k')
        assert len(spans(exporter)) == 2

    use('AsyncClient', memcached_server, body)
    blocking.disconnect_all()


def test_a_client_that_was_made_before(memcached_server):
    """An awaitable one looks when it is first used in a loop."""
    client = memcached.AsyncClient(servers=memcached_server.address)
    exporter = provide()

    async def main():
        await client.get('k')
        await client.close()

    asyncio.run(main())
    assert len(spans(exporter)) == 1


def test_a_sdk_that_is_disabled(client_kind, memcached_server, monkeypatch):
    """With OTEL_SDK_DISABLED it is as without a provider."""
    monkeypatch.setenv('OTEL_SDK_DISABLED', 'true')
    trace.set_tracer_provider(sdk.TracerProvider(shutdown_on_exit=False))
    test_no_provider(client_kind, memcached_server)


WITHOUT = """
import sys
sys.modules['opentelemetry'] = None
from sprockets.clients import memcached
client = memcached.Client()
assert client.set('k', 1)
assert client.get('k') == 1
import asyncio
async def main():
    client = memcached.AsyncClient()
    assert await client.scope().get('k') == 1
    await client.close()
asyncio.run(main())
print(sorted(name for name in sys.modules if 'opentelemetry' in name))
"""


@pytest.mark.parametrize('installed', [True, False])
def test_it_is_not_imported(installed, memcached_server):
    """Nor needed: whoever uses it imports it."""
    script = WITHOUT
    if installed:
        script = script.replace("sys.modules['opentelemetry'] = None", '')
    finished = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    expected = [] if installed else ['opentelemetry']
    assert finished.stdout.strip() == str(expected)


# Handlers


class Handler(memcached.MemcachedMixin, web.RequestHandler):
    def on_memcached_timing(self, command, duration):
        self.timings.append(command)

    async def get(self):
        self.timings = []
        with trace.get_tracer('test').start_as_current_span('request'):
            await self.memcached.set('k', 1)
            await asyncio.gather(
                self.memcached.get('k'), self.memcached.get_multi(['k', 'l'])
            )
        self.write({'timings': self.timings})


class HandlerTests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    def get_app(self):
        return web.Application([('/', Handler)])

    def tearDown(self):
        client = self._app.memcached_clients[None]
        self.io_loop.run_sync(client.close)
        super().tearDown()

    def test_hooks_and_spans(self):
        """Both are told, and the spans belong to the request's."""
        exporter = provide()
        response = self.fetch('/')
        assert web.escape.json_decode(response.body) == {
            'timings': ['set', 'get', 'get_multi']
        }
        done = spans(exporter)
        assert [span.attributes['db.operation.name'] for span in done] == [
            'set',
            'get',
            'get_multi',
        ]
        (request,) = [
            span
            for span in exporter.get_finished_spans()
            if span.name == 'request'
        ]
        assert {span.parent.span_id for span in done} == {
            request.context.span_id
        }


class Told:
    def __init__(self, error=None):
        self.calls = []
        self._error = error

    def observe(self, method, keys):
        self.calls.append((method, keys))
        return self

    def over(self, *outcome):
        self.calls.append(outcome)
        if self._error is not None:
            raise self._error


def test_both_are_told():
    """Whatever one of them makes of it."""
    one, two = Told(ZeroDivisionError()), Told()
    pair = observers.both(one.observe, two.observe)('get', (b'k',))
    with pytest.raises(ZeroDivisionError):
        pair.over(None, 1, 0, None)
    assert one.calls == two.calls == [('get', (b'k',)), (None, 1, 0, None)]


def test_one_alone():
    """It is told directly."""
    one = Told().observe
    assert observers.both(one, None) == one
    assert observers.both(None, one) == one
    assert observers.both(None, None) is None
