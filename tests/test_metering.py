"""What OpenTelemetry's metrics of calls promise, by its own SDK."""

import asyncio

import prometheus_client
import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider, export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace import export as spans_export
from opentelemetry.sdk.trace.export import in_memory_span_exporter
from opentelemetry.util import _once

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.watch import metering

DURATION = 'db.client.operation.duration'


@pytest.fixture(autouse=True)
def _no_provider(monkeypatch):
    """No provider is set at first, and none stays after the test."""
    monkeypatch.setattr(_internal, '_METER_PROVIDER', None)
    monkeypatch.setattr(_internal, '_METER_PROVIDER_SET_ONCE', _once.Once())
    monkeypatch.setattr(trace, '_TRACER_PROVIDER', None)
    monkeypatch.setattr(trace, '_TRACER_PROVIDER_SET_ONCE', _once.Once())


def provide(*readers):
    provider = MeterProvider(readers, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider


@pytest.fixture
def reader():
    reader = export.InMemoryMetricReader()
    provider = provide(reader)
    yield reader
    provider.shutdown()


def measured(reader):
    """Return the points of each metric by its name."""
    data = reader.get_metrics_data()
    found = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == 'sprockets.clients.memcached'
            for metric in scope.metrics:
                found[metric.name] = metric
    return found


def points(metric):
    return [
        (dict(point.attributes), point) for point in metric.data.data_points
    ]


def test_what_is_measured(connect, memcached_server, reader):
    """Durations by method, server and error; hits and misses."""
    client = connect(memcached_server.address)
    client.set('a', 1)
    for _ in range(3):
        client.get_or_set('b', int, 60)
    assert client.get_multi(['a', 'b', 'c']) == {'a': 1, 'b': 0}
    found = measured(reader)
    assert found[DURATION].unit == 's'
    server = {
        'db.system.name': 'memcached',
        'server.address': memcached_server.host,
        'server.port': memcached_server.port,
    }
    counts = {}
    for attributes, point in points(found[DURATION]):
        name = attributes.pop('db.operation.name')
        assert attributes == server
        assert tuple(point.explicit_bounds) == metering.BOUNDS
        assert 0 < point.sum < 60
        counts[name] = point.count
    assert counts == {'set': 1, 'get_or_set': 3, 'get_multi': 1}
    for kind, expected in (
        ('hits', {'get_or_set': 2, 'get_multi': 2}),
        ('misses', {'get_or_set': 1, 'get_multi': 1}),
    ):
        assert expected == {
            attributes['db.operation.name']: point.value
            for attributes, point in points(found[f'memcached.client.{kind}'])
        }


def test_connections(connect, memcached_server, reader):
    """Those of each server, by state, whatever clients share them."""
    one = connect(memcached_server.address, max_connections=3)
    other = connect(memcached_server.address, max_connections=3)
    for client in (one, other):
        client.get('a')
        client.get('a')
    found = measured(reader)
    counts = {
        attributes['db.client.connection.state']: point.value
        for attributes, point in points(found['db.client.connection.count'])
        if attributes['db.client.connection.pool.name']
        == memcached_server.address
    }
    assert counts['used'] == 0
    assert 1 <= counts['idle'] <= 2
    assert [
        point.value
        for attributes, point in points(found['db.client.connection.max'])
        if attributes['db.client.connection.pool.name']
        == memcached_server.address
    ] == [3]


def test_errors(connect, reader):
    """They have the class of the error, and nothing of its text."""
    with MemcachedServer() as server:
        client = connect(server.address)
        server.kill()
        client.get('a')
        client.get('a')
    found = points(measured(reader)[DURATION])
    assert sum(point.count for _, point in found) == 2
    for attributes, _ in found:
        kind = attributes['error.type']
        assert kind.rpartition('.')[2].endswith('Error')
        assert 'a' not in attributes.values()


def test_a_provider_that_comes_late(memcached_server):
    """A client that is there finds it within a second."""
    client = memcached.Client(servers=memcached_server.address)
    client.get('a')
    reader = export.InMemoryMetricReader()
    provider = provide(reader)
    client._shared.tracing._next_search = 0
    client.get('a')
    client.disconnect_all()
    ((_, point),) = points(measured(reader)[DURATION])
    assert point.count == 1
    provider.shutdown()


def test_spans_and_metrics(connect, memcached_server, reader):
    """Both, of each call; a span tells whether it was a hit."""
    exporter = in_memory_span_exporter.InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans_export.SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    client = connect(memcached_server.address)
    client.set('a', 1)
    client.get('a')
    client.get('b')
    client.get_or_set('c', int)
    client.get_or_set('c', int, stale=5)
    client.get_multi(['a', 'b'])
    assert [
        (
            span.attributes['db.operation.name'],
            span.attributes.get('cache.hit'),
        )
        for span in exporter.get_finished_spans()
    ] == [
        ('set', None),
        ('get', True),
        ('get', False),
        ('get_or_set', False),
        ('get_or_set', True),
        ('get_multi', False),
    ]
    last = exporter.get_finished_spans()[-1].attributes
    assert (last['cache.hits'], last['cache.misses']) == (1, 1)
    total = sum(p.count for _, p in points(measured(reader)[DURATION]))
    assert total == 6


def test_without_a_provider(connect, memcached_server):
    """Nothing is measured, and nothing found."""
    client = connect(memcached_server.address)
    assert client.get('a') is None
    core = getattr(client.client, '_shared', None) or client.client._engine
    assert core.tracing.observe() is None


def test_the_exporter_for_prometheus(memcached_server):
    """It is read as any other metric is."""
    reader = PrometheusMetricReader()
    provider = provide(reader)

    async def use():
        client = memcached.AsyncClient(servers=memcached_server.address)
        await client.get('a')
        await client.close()

    asyncio.run(use())
    text = prometheus_client.generate_latest().decode()
    provider.shutdown()
    assert 'db_client_operation_duration_seconds_bucket{' in text
    assert 'db_operation_name="get"' in text
    assert 'memcached_client_misses_total{' in text
