"""What metrics mixins get to know, received by real servers."""

import asyncio
import contextlib
import re
import socket
import warnings
from urllib import parse

import pytest
import sprockets_statsd.tornado
from sprockets.http import app
from tornado import httpserver, netutil, testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedTestCase

with warnings.catch_warnings():
    # Its escapes are not those that newer versions of Python know.
    warnings.simplefilter('ignore', SyntaxWarning)
    warnings.simplefilter('ignore', DeprecationWarning)
    import sprockets_influxdb

try:
    from sprockets.mixins.metrics import statsd as old_statsd
except ImportError:
    old_statsd = None

SECONDS = 20


class Receiver:
    """A server that keeps what it gets, until somebody has seen it."""

    def __init__(self):
        self._text = ''
        self._came = asyncio.Event()

    def take(self, text):
        self._text += text
        self._came.set()

    async def until(self, *patterns):
        """Wait until all of these have come, and return everything."""

        async def wait():
            while not all(re.search(p, self._text) for p in patterns):
                self._came.clear()
                await self._came.wait()

        try:
            await asyncio.wait_for(wait(), SECONDS)
        except TimeoutError:
            raise AssertionError(self._text) from None
        return self._text


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, receiver):
        self._receiver = receiver

    def datagram_received(self, data, address):
        self._receiver.take(data.decode() + '\n')


class Stream(asyncio.Protocol):
    def __init__(self, receiver):
        self._receiver = receiver

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._receiver.take(data.decode())


async def listen(protocol):
    """Return a receiver, its port, and what closes it."""
    receiver = Receiver()
    loop = asyncio.get_running_loop()
    if protocol == 'udp':
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Datagrams(receiver), ('127.0.0.1', 0)
        )
        return receiver, transport.get_extra_info('sockname')[1], transport
    server = await loop.create_server(lambda: Stream(receiver), '127.0.0.1', 0)
    return receiver, server.sockets[0].getsockname()[1], server


class Calls(memcached.MemcachedMixin, web.RequestHandler):
    """A hit, two misses, a write, and one call that fails."""

    async def get(self):
        await self.memcached.set('a', 'no number')
        await self.memcached.get_multi(['a', 'b', 'c'])
        await self.memcached.incr('a')


class First(Calls, sprockets_statsd.tornado.RequestHandler):
    pass


class Last(sprockets_statsd.tornado.RequestHandler, Calls):
    pass


class Application(
    memcached.ApplicationMixin,
    sprockets_statsd.tornado.Application,
    app.Application,
):
    pass


METRICS = (
    r'app\.timers\.memcached\.set:[\d.e-]+\|ms',
    r'app\.timers\.memcached\.get_multi:[\d.e-]+\|ms',
    r'app\.timers\.memcached\.incr:[\d.e-]+\|ms',
    r'app\.counters\.memcached\.hits:1\|c',
    r'app\.counters\.memcached\.misses:2\|c',
    r'app\.counters\.memcached\.errors\.incr:1\|c',
)


class StatsdTests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    """sprockets-statsd, over UDP."""

    protocol = 'udp'

    def get_app(self):
        self.receiver, port, self.listener = self.io_loop.run_sync(
            lambda: listen(self.protocol)
        )
        application = Application(
            [('/first', First), ('/last', Last)],
            statsd={
                'host': '127.0.0.1',
                'port': port,
                'prefix': 'app',
                'protocol': self.protocol,
            },
        )
        self.io_loop.run_sync(application.start_statsd)
        return application

    def tearDown(self):
        self.io_loop.run_sync(self._app.stop_statsd)
        self.io_loop.run_sync(self._app.stop_memcached)
        self.listener.close()
        super().tearDown()

    def received(self, path, *patterns):
        assert self.fetch(path).code == 200
        return self.io_loop.run_sync(lambda: self.receiver.until(*patterns))

    def test_before_it(self):
        """With our mixin first in the bases."""
        text = self.received('/first', *METRICS, r'First\.GET\.200')
        # A path element is never a key.
        assert not re.search(r'memcached\.[abc]\b', text)

    def test_behind_it(self):
        """With our mixin last."""
        self.received('/last', *METRICS, r'Last\.GET\.200')

    def test_durations(self):
        """They are what the calls took, in the unit of statsd."""
        text = self.received('/first', *METRICS)
        (milliseconds,) = re.findall(r'memcached\.set:([\d.e-]+)', text)
        assert 0 < float(milliseconds) < 5000


class StatsdOverTcpTests(StatsdTests):
    """sprockets-statsd, over TCP."""

    protocol = 'tcp'


if old_statsd is not None:

    class OldFirst(Calls, old_statsd.StatsdMixin, web.RequestHandler):
        pass

    class OldLast(old_statsd.StatsdMixin, Calls):
        pass


@pytest.mark.skipif(
    old_statsd is None,
    reason='requirements/metrics.txt is not installed',
)
class OldStatsdTests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    """sprockets.mixins.metrics, over UDP."""

    def get_app(self):
        self.receiver, port, self.listener = self.io_loop.run_sync(
            lambda: listen('udp')
        )
        application = web.Application(
            [('/first', OldFirst), ('/last', OldLast)]
        )
        old_statsd.install(
            application, host='127.0.0.1', port=port, namespace='app'
        )
        return application

    def tearDown(self):
        client = self._app.memcached_clients[None]
        self.io_loop.run_sync(client.close)
        self._app.statsd.close()
        self.listener.close()
        super().tearDown()

    def test_before_it(self):
        """With our mixin first in the bases."""
        self.fetch('/first')
        self.io_loop.run_sync(
            lambda: self.receiver.until(*METRICS, r'OldFirst\.GET\.200')
        )

    def test_behind_it(self):
        """With our mixin last."""
        self.fetch('/last')
        self.io_loop.run_sync(
            lambda: self.receiver.until(*METRICS, r'OldLast\.GET\.200')
        )


class Measured(Calls, sprockets_influxdb.InfluxDBMixin, web.RequestHandler):
    pass


class MeasuredFirst(sprockets_influxdb.InfluxDBMixin, Calls):
    pass


class Write(web.RequestHandler):
    """InfluxDB, as far as writing to it goes."""

    def initialize(self, receiver):
        self.receiver = receiver

    def post(self):
        database = self.get_query_argument('db')
        self.receiver.take(f'{database}: {self.request.body.decode()}\n')
        self.set_status(204)


class InfluxdbTests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    """sprockets-influxdb, whose on_finish() does not call super()."""

    def get_app(self):
        self.receiver = Receiver()
        self.influxdb = httpserver.HTTPServer(
            web.Application([('/write', Write, {'receiver': self.receiver})])
        )
        sockets = netutil.bind_sockets(0, '127.0.0.1', socket.AF_INET)
        self.influxdb.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        sprockets_influxdb.install(
            url=f'http://127.0.0.1:{port}/write', trigger_size=1
        )
        sprockets_influxdb.set_base_url(f'http://127.0.0.1:{port}/write')
        return web.Application(
            [('/measured', Measured), ('/measured-first', MeasuredFirst)],
            **{
                sprockets_influxdb.REQUEST_DATABASE: 'requests',
                'service': 'pages',
            },
        )

    def tearDown(self):
        self.io_loop.run_sync(sprockets_influxdb.flush)
        with contextlib.suppress(AttributeError):
            sprockets_influxdb._http_client.close()
        sprockets_influxdb._maybe_stop_timeout()
        client = self._app.memcached_clients[None]
        self.io_loop.run_sync(client.close)
        self.influxdb.stop()
        self.io_loop.run_sync(self.influxdb.close_all_connections)
        super().tearDown()

    def fields(self, path):
        """Return the fields of the measurement of one request."""
        assert self.fetch(path).code == 200
        text = self.io_loop.run_sync(
            lambda: self.receiver.until(r'(?m)^requests: pages,.*\n')
        )
        fields = text.split(' ')[2]
        return dict(parse.parse_qsl(fields.replace(',', '&')))

    def check(self, fields):
        for command in ('set', 'get_multi', 'incr'):
            assert 0 < float(fields[f'memcached_{command}']) < 5
        assert fields['memcached_hits'] == '1i'
        assert fields['memcached_misses'] == '2i'
        assert fields['memcached_errors'] == '1i'
        assert float(fields['duration']) > 0

    def test_before_it(self):
        """With our mixin first in the bases."""
        self.check(self.fields('/measured'))

    def test_behind_it(self):
        """With our mixin last."""
        self.check(self.fields('/measured-first'))
