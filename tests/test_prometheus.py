"""What Prometheus reads, with its own parser, from a real scrape."""

import asyncio
import json
import time

import pytest
from prometheus_client import parser
from tornado import httpclient, httpserver, testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.web import prometheus

PATH = '/status/memcached?format=prometheus'


def scrape(clients, body=None, path=PATH):
    """Use an application, and return the samples of a scrape.

    :return: by name and labels, the headers, and the seconds it took

    """

    async def run():
        application = web.Application(
            [('/status/memcached', memcached.StatusHandler)]
        )
        application.memcached_clients = made = {
            prefix: memcached.AsyncClient(**options)
            for prefix, options in clients.items()
        }
        if body is not None:
            await body(made)
        server = httpserver.HTTPServer(application)
        socket, port = testing.bind_unused_port()
        server.add_socket(socket)
        fetch = httpclient.AsyncHTTPClient(force_instance=True).fetch
        began = time.monotonic()
        try:
            answer = await fetch(f'http://127.0.0.1:{port}{path}')
        finally:
            took = time.monotonic() - began
            server.stop()
            await server.close_all_connections()
            for client in made.values():
                await client.close()
        return answer, took

    answer, took = asyncio.run(run())
    samples = {}
    if path != PATH:
        return samples, answer, took
    text = answer.body.decode()
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = frozenset(sample.labels.items())
            assert (sample.name, labels) not in samples
            samples[sample.name, labels] = sample.value
    return samples, answer, took


def value(samples, name, **labels):
    return samples[f'{prometheus.START}{name}', frozenset(labels.items())]


def test_a_scrape():
    """Counts of each client and server, which add up, and their state."""

    async def body(clients):
        client = clients['PAGES']
        await client.set('a', 1)
        await client.get_multi(['a', 'b'])
        await client.get_or_set('c', int, 60)
        await clients[None].get('a')

    with MemcachedServer() as one:
        servers = f'{one.address},127.0.0.1:1'
        samples, answer, _ = scrape(
            {
                'PAGES': {'servers': one.address},
                None: {'servers': servers, 'failover': False},
            },
            body,
        )
    assert answer.headers['Content-Type'] == prometheus.CONTENT_TYPE
    own = {'prefix': 'PAGES', 'server': one.address}
    assert value(samples, 'client_calls_total', **own) == 4
    assert value(samples, 'client_hits_total', **own) == 1
    assert value(samples, 'client_misses_total', **own) == 2
    assert value(samples, 'client_errors_total', **own) == 0
    assert value(samples, 'client_steps_total', **own) >= 3
    assert 0 < value(samples, 'client_batch_seconds_total', **own) < 60
    assert value(samples, 'server_up', **own) == 1
    assert value(samples, 'server_items', **own) == 2
    assert value(samples, 'client_available', prefix='PAGES') == 1
    down = {'prefix': '', 'server': '127.0.0.1:1'}
    assert value(samples, 'server_up', **down) == 0
    assert value(samples, 'client_available', prefix='') == 0
    for name, labels in samples:
        assert {label for label, _ in labels} <= {'prefix', 'server'}
        assert name.startswith(prometheus.START)


def test_what_labels_may_hold():
    """A prefix with quotes and line ends is read as it is."""
    prefix = 'A"\\\n</SCRIPT>'
    samples, _, _ = scrape({prefix: {'servers': '127.0.0.1:1'}})
    assert value(samples, 'client_available', prefix=prefix) == 0


def test_no_keys_and_no_secrets():
    async def body(clients):
        await clients['A'].get('customer-17')

    _, answer, _ = scrape(
        {
            'A': {
                'servers': '127.0.0.1:1',
                'username': 'who',
                'password': 'hush',
                'key_prefix': 'mine:',
            }
        },
        body,
    )
    for word in (b'customer', b'hush', b'who', b'mine:'):
        assert word not in answer.body


@pytest.mark.parametrize('path', [PATH, '/status/memcached'])
def test_while_servers_hang(path):
    """It ends by the deadline of a call, however many hang."""
    hosts = [f'127.0.0.{n}' for n in range(1, 40)]
    with (
        MemcachedServer() as well,
        MemcachedServer('-l', ','.join(hosts[1:])) as hung,
    ):
        hung.pause()
        servers = [well.address, *[f'{host}:{hung.port}' for host in hosts]]
        samples, answer, took = scrape(
            {'A': {'servers': servers, 'socket_timeout': 2}}, path=path
        )
        hung.resume()
        if samples:
            up = [v for (n, _), v in samples.items() if n.endswith('_up')]
        else:
            (client,) = json.loads(answer.body)['clients']
            up = [server['up'] for server in client['servers']]
    assert sorted(up) == [0] * 39 + [1]
    # It would be 78 seconds, one after another.
    assert 2 <= took < 3.9


@pytest.mark.parametrize('written', ['xml', 'Prometheus', 'x' * 5000])
def test_a_format_that_there_is_not(written):
    """It is told what there is."""
    with pytest.raises(httpclient.HTTPClientError) as caught:
        scrape({}, path=f'/status/memcached?format={written}')
    assert caught.value.code == 400
    body = caught.value.response.body
    assert b'expected json or html or prometheus' in body
    assert len(body) < 300
