"""The figures of the status page, of hooks, metrics and spans agree."""

import asyncio
import json

import faults
import memcache
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider, export
from opentelemetry.sdk.trace.export import in_memory_span_exporter
from tornado import httpclient, httpserver, testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.web import status

COUNTED = 'calls', 'hits', 'misses', 'errors'


class Counting(memcached.MemcachedMixin, web.RequestHandler):
    """Does what a test wants done, and counts what it is told."""

    def initialize(self, told, work):
        self.told = told
        self.work = work

    def record_timing(self, duration, *path):
        self.told['calls'] += 1
        self.told['names'].append(path[1])

    def increase_counter(self, *path, amount=1):
        self.told[path[1]] += amount

    async def get(self):
        self.write({'value': await self.work(self.memcached)})


@pytest.fixture
def tracing():
    """The spans that are over."""
    exporter = in_memory_span_exporter.InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


def figures(work, servers, times=1, before=None, **options):
    """Return what everybody counts of some work in a handler.

    :return: the client's part of the status, and what the hooks were told

    """

    async def run():
        told = dict.fromkeys(COUNTED, 0) | {'names': []}
        application = web.Application(
            [('/', Counting, {'told': told, 'work': work})]
        )
        client = memcached.AsyncClient(
            servers=servers, socket_timeout=2, **options
        )
        application.memcached_clients = {None: client}
        if before is not None:
            await before(client)
        server = httpserver.HTTPServer(application)
        socket, port = testing.bind_unused_port()
        server.add_socket(socket)
        fetch = httpclient.AsyncHTTPClient(force_instance=True).fetch
        for _ in range(times):
            await fetch(f'http://127.0.0.1:{port}/')
        server.stop()
        await server.close_all_connections()
        shown = await status.status_of(application)
        await client.close()
        json.dumps(shown)
        return shown['clients'][0], told

    return asyncio.run(run())


def check(shown, told, **expected):
    """All say the same, and the sums add up."""
    wanted = dict.fromkeys(COUNTED, 0) | expected
    assert {name: told[name] for name in COUNTED} == wanted
    assert {name: shown['client'][name] for name in COUNTED} == wanted
    parts = [server['client'] for server in shown['servers']]
    parts += [shown['unserved'], shown['gone']]
    for name in (*COUNTED, 'batches', 'steps'):
        assert shown['client'][name] == sum(part[name] for part in parts)


async def compute():
    return 'value'


@pytest.mark.parametrize('stale', [0, 60])
def test_a_value_that_is_computed(memcached_server, stale):
    """A get_or_set is one call and one miss, then one call and one hit."""

    async def work(client):
        return await client.get_or_set('key', compute, time=60, stale=stale)

    shown, told = figures(work, memcached_server.address)
    check(shown, told, calls=1, misses=1)
    assert told['names'] == ['get_or_set']
    assert shown['client']['steps'] >= 3
    shown, told = figures(work, memcached_server.address, times=3)
    check(shown, told, calls=3, hits=3)


@pytest.mark.parametrize('stale', [0, 60])
def test_a_value_in_an_outage(memcached_server, stale):
    """A get_or_set is one call and one error, whatever it tried."""

    async def work(client):
        return await client.get_or_set('key', compute, time=60, stale=stale)

    memcached_server.kill()
    shown, told = figures(work, memcached_server.address, times=2)
    check(shown, told, calls=2, errors=2)


@pytest.mark.parametrize('stale', [0, 60])
def test_what_is_no_value_is_a_miss(memcached_server, stale):
    """Also where the server has something under the key."""
    other = memcache.Client([memcached_server.address])

    async def work(client):
        other.set('key', 7)
        other.append('key', 'broken')
        return await client.get_or_set('key', compute, time=60, stale=stale)

    shown, told = figures(work, memcached_server.address, times=1)
    other.disconnect_all()
    check(shown, told, calls=1, misses=1)


def test_a_server_without_meta_commands(memcached_server):
    """It is asked in another way, which is the same call."""

    async def work(client):
        return await client.get_or_set('key', compute, time=60, stale=60)

    with faults.without_meta(memcached_server.address, b'ERROR\r\n') as server:
        shown, told = figures(work, server.address)
        check(shown, told, calls=1, misses=1)
        shown, told = figures(work, server.address, times=2)
        check(shown, told, calls=2, hits=2)


@pytest.mark.parametrize(
    'name, arguments',
    [
        ('update', [lambda old: 'new']),
        ('invalidate', []),
        ('mark_stale', []),
    ],
)
def test_calls_of_several_steps(memcached_server, name, arguments, tracing):
    """Each is one call, with no hits and no misses; and one span."""

    async def work(client):
        await getattr(client, name)('key', *arguments)

    shown, told = figures(work, memcached_server.address, times=2)
    check(shown, told, calls=2)
    assert told['names'] == [name, name]
    spans = tracing.get_finished_spans()
    assert [s.attributes['db.operation.name'] for s in spans] == [name] * 2


def test_a_function_that_is_cached(memcached_server):
    """To compute it anew and to store a value are one call each."""

    @memcached.cached(time=60, key='value:{n}')
    async def value(n):
        return n

    async def work(client):
        await value.refresh(1)
        await value.set(2, 1)
        return await value(1)

    shown, told = figures(work, memcached_server.address)
    check(shown, told, calls=3, hits=1)
    assert told['names'] == ['refresh', 'set', 'get_or_set']


def test_an_update_that_fails(memcached_server):
    """It is one error."""

    async def work(client):
        with pytest.raises(memcached.UpdateError):
            await client.update('key', lambda old: 'new')

    memcached_server.kill()
    shown, told = figures(work, memcached_server.address)
    check(shown, told, calls=1, errors=1)


def test_calls_that_go_to_another_server():
    """They count once, where they end."""

    async def work(client):
        await asyncio.gather(*[client.get(f'key{n}') for n in range(20)])
        await client.set_multi({f'other{n}': n for n in range(20)})
        await client.get_multi([f'other{n}' for n in range(20)])

    with MemcachedServer() as one, MemcachedServer() as other:
        one.kill()
        shown, told = figures(work, [one.address, other.address])
        assert told['calls'] == 22
        assert shown['client']['calls'] == 60
        assert (told['hits'], told['misses']) == (20, 20)
        assert shown['client']['hits'] == shown['client']['misses'] == 20
        assert shown['client']['errors'] == told['errors'] == 0
        assert shown['servers'][0]['client']['calls'] == 0
        assert shown['servers'][1]['client']['calls'] == 60
        other.kill()
        shown, told = figures(work, [one.address, other.address])
        assert shown['client']['calls'] == shown['client']['errors'] == 60
        parts = [server['client'] for server in shown['servers']]
        calls = [part['calls'] for part in (*parts, shown['unserved'])]
        assert sum(calls) == 60


def test_each_client_of_a_server_that_hangs(memcached_server):
    """Who timed out failed, once."""

    async def work(client):
        memcached_server.pause()
        await asyncio.gather(
            client.get_or_set('key', compute, time=60),
            client.get('key'),
            client.set('other', 1),
        )
        memcached_server.resume()

    shown, told = figures(work, memcached_server.address)
    check(shown, told, calls=3, errors=3)


def test_servers_that_are_gone():
    """What was done with them is still a part of the whole."""

    async def work(client):
        await client.set('key', 1)
        await client.set_servers([other.address])
        await client.get('key')

    with MemcachedServer() as one, MemcachedServer() as other:
        shown, told = figures(work, one.address)
    check(shown, told, calls=2, misses=1)
    assert shown['gone']['calls'] == 1


@pytest.mark.parametrize('stale', [0, 60])
def test_spans_of_a_blocking_client(memcached_server, stale, tracing):
    """A call is one span, whatever it asks of the server."""
    client = memcached.Client(servers=memcached_server.address)
    for _ in range(2):
        client.get_or_set('key', lambda: 1, time=60, stale=stale)
    client.update('key', lambda old: 2)
    client.invalidate('key')
    client.mark_stale('key')
    client.disconnect_all()
    spans = tracing.get_finished_spans()
    assert [span.attributes['db.operation.name'] for span in spans] == [
        *('get_or_set', 'get_or_set', 'update', 'invalidate', 'mark_stale')
    ]


def test_values_that_end_together(memcached_server):
    """The generation of a namespace is read besides, and is no call."""

    async def work(client):
        group = client.namespace('user:7')
        await group.set('a', 1)
        await group.get('a')
        await group.get_or_set('b', compute, 60)

    shown, _ = figures(work, memcached_server.address)
    did = shown['client']
    assert {name: did[name] for name in COUNTED} == {
        'calls': 3,
        'hits': 1,
        'misses': 1,
        'errors': 0,
    }


def test_many_values_that_are_computed(memcached_server):
    """A key is one call and one miss, then one call and one hit."""

    async def work(client):
        def compute(keys):
            return dict.fromkeys(keys, 1)

        await client.get_or_set_multi(['a', 'b'], compute, 60)

    shown, _ = figures(work, memcached_server.address)
    assert shown['client']['calls'] == shown['client']['misses'] == 2
    shown, _ = figures(work, memcached_server.address)
    assert shown['client']['calls'] == shown['client']['hits'] == 2
