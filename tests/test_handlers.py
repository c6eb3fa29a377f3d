"""What the mixins promise, in real Tornado applications."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request

import pytest
import services
import sprockets.http.app
from tornado import httpclient, testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import (
    MemcachedServer,
    MemcachedTestCase,
)


class Value(memcached.MemcachedMixin, web.RequestHandler):
    async def get(self, key):
        self.write({'value': await self.memcached.get(key)})

    async def put(self, key):
        stored = await self.memcached.set(key, self.request.body.decode())
        self.write({'stored': bool(stored)})


class Pages(Value):
    memcached_prefix = 'pages'


class Increment(memcached.MemcachedMixin, web.RequestHandler):
    async def post(self):
        while True:
            value = await self.memcached.gets('n')
            if await self.memcached.cas('n', (value or 0) + 1):
                return


class Blind(memcached.MemcachedMixin, web.RequestHandler):
    async def post(self):
        with contextlib.suppress(RuntimeError):
            await self.memcached.cas('n', 'blind')
            raise AssertionError
        self.write('refused')


class Initialized(memcached.MemcachedMixin, web.RequestHandler):
    def initialize(self, word, **kwargs):
        super().initialize(**kwargs)
        self.word = word

    def get(self):
        self.write(self.word)


HANDLERS = [
    ('/values/(.*)', Value),
    ('/pages/(.*)', Pages),
    ('/increment', Increment),
    ('/blind', Blind),
    ('/initialized', Initialized, {'word': 'hello'}),
]


class Mixed(memcached.ApplicationMixin, web.Application):
    pass


class Sprockets(memcached.ApplicationMixin, sprockets.http.app.Application):
    pass


class Applications(MemcachedTestCase, testing.AsyncHTTPTestCase):
    """On a plain application, with no ApplicationMixin."""

    memcached_prefixes = (None, 'PAGES')
    application = web.Application

    def get_app(self):
        return self.application(HANDLERS)

    def json(self, path, **kwargs):
        response = self.fetch(path, raise_error=True, **kwargs)
        return json.loads(response.body)

    def close_clients(self):
        clients = getattr(self._app, 'memcached_clients', {})
        for client in clients.values():
            self.io_loop.run_sync(client.close)

    def tearDown(self):
        self.close_clients()
        super().tearDown()

    def test_reads_what_was_written(self):
        """A handler reads what another one has written."""
        assert self.json('/values/a') == {'value': None}
        assert self.json('/values/a', method='PUT', body='x')['stored']
        assert self.json('/values/a') == {'value': 'x'}

    def test_prefixes(self):
        """Each prefix has one client, attached to the application."""
        for _ in range(3):
            self.json('/values/a')
            self.json('/pages/a')
        assert set(self._app.memcached_clients) == {None, 'PAGES'}
        kept = dict(self._app.memcached_clients)
        self.json('/values/a')
        assert self._app.memcached_clients == kept

    @testing.gen_test(timeout=30)
    async def test_150_requests_that_each_add_one(self):
        """gets and cas of concurrent requests lose nothing."""
        client = httpclient.AsyncHTTPClient(
            force_instance=True, max_clients=150
        )
        await asyncio.gather(
            *[
                client.fetch(
                    self.get_url('/increment'), method='POST', body=''
                )
                for _ in range(150)
            ]
        )
        client.close()
        own = memcached.AsyncClient()
        assert await own.get('n') == 150
        await own.close()

    def test_cas_without_gets(self):
        """It raises in the handler; it is no set."""
        assert self.fetch('/blind', method='POST', body='').body == b'refused'
        assert self.json('/values/n') == {'value': None}

    def test_initialize_arguments_pass_through(self):
        assert self.fetch('/initialized').body == b'hello'

    def test_the_server_dies(self):
        """Requests go on being answered, and use it when it is back."""
        self.json('/values/a', method='PUT', body='x')
        self.memcached_server.kill()
        assert self.json('/values/a') == {'value': None}
        assert not self.json('/values/a', method='PUT', body='y')['stored']
        self.memcached_server.start()
        client = self._app.memcached_clients[None]

        async def forget():
            await client.forget_dead_hosts()

        self.io_loop.run_sync(forget)
        assert self.json('/values/a', method='PUT', body='z')['stored']
        assert self.json('/values/a') == {'value': 'z'}


def threads():
    """Return the threads that servers have."""
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith('memcached 127.0.0.1')
    }


class MixedApplications(Applications):
    """On a plain application with ApplicationMixin."""

    application = Mixed

    def test_stop(self):
        """stop_memcached() closes every client; a later use makes it anew."""
        before = threads()
        self.json('/values/a')
        assert threads() - before
        client = self._app.memcached_clients[None]
        self.io_loop.run_sync(self._app.stop_memcached)
        assert not threads() - before
        with pytest.raises(RuntimeError, match='closed'):
            client.get('a')
        assert self.json('/values/a') == {'value': None}

    def test_options(self):
        """Options are for a client that is yet to be made."""
        client = self._app.memcached_client('pages', key_prefix='v1-')
        assert client is self._app.memcached_client('pages')
        with pytest.raises(RuntimeError, match='options'):
            self._app.memcached_client('pages', key_prefix='v2-')
        self.json('/pages/a', method='PUT', body='x')
        assert memcached.Client().get('v1-a') == 'x'

    def test_nothing_is_made_before_it_is_used(self):
        assert self._app.memcached_clients == {}
        assert self._app.memcached_client(
            'pages'
        ) is self._app.memcached_client('PAGES')


class SprocketsApplications(MixedApplications):
    """On an application of sprockets.http."""

    application = Sprockets

    def test_callbacks(self):
        """The clients are closed by a shutdown callback."""
        self.json('/values/a')
        client = self._app.memcached_clients[None]
        (callback,) = self._app.on_shutdown_callbacks
        self.io_loop.run_sync(lambda: callback(self._app))
        # sprockets.http gives a task that is left over five seconds.
        assert not asyncio.all_tasks(self.io_loop.asyncio_loop)
        with pytest.raises(RuntimeError, match='closed'):
            client.get('a')


SERVICE = """
import os
import sprockets.http
import sprockets.http.app
from tornado import web
from sprockets.clients import memcached

class Value(memcached.MemcachedMixin, web.RequestHandler):
    async def get(self, key):
        self.write({'value': await self.memcached.get(key),
                    'process': os.getpid(),
                    'clients': len(self.application.memcached_clients)})
    async def put(self, key):
        await self.memcached.set(key, self.request.body.decode())

class Application(memcached.ApplicationMixin, sprockets.http.app.Application):
    pass

def make(**settings):
    return Application([('/(.*)', Value)], **settings)

settings = {'number_of_procs': 2, 'port': int(os.environ['PORT'])}
sprockets.http.run(make, settings)
"""


def test_processes_forked_by_sprockets_http(tmp_path):
    """Each process has clients of its own, and stops without delay."""
    script = tmp_path / 'service.py'
    script.write_text(textwrap.dedent(SERVICE))
    port = services.free_port()
    with MemcachedServer() as server:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env=os.environ
            | {'MEMCACHED_SERVERS': server.address, 'PORT': str(port)},
            stderr=subprocess.PIPE,
        )
        url = f'http://127.0.0.1:{port}'
        try:
            _wait_for(url + '/k', process)
            urllib.request.urlopen(
                urllib.request.Request(url + '/k', data=b'value', method='PUT')
            ).close()
            processes = set()
            for _ in range(200):
                with urllib.request.urlopen(url + '/k') as response:
                    answer = json.load(response)
                assert answer['value'] == 'value'
                assert answer['clients'] == 1
                processes.add(answer['process'])
                if len(processes) == 2:
                    break
            assert len(processes) == 2
            for child in processes:
                os.kill(child, signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
            assert b'Traceback' not in errors, errors.decode()
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _wait_for(url, process):
    for _ in range(1000):
        assert process.poll() is None, process.stderr.read().decode()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url).close()
            return
        # The port is refused until the server listens: there is no event.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    raise AssertionError('the service did not start')


def test_namespace_packages():
    """Neither sprockets nor sprockets.clients is a package of ours."""
    root = pathlib.Path(memcached.__file__).parents[2]
    assert not (root / '__init__.py').exists()
    assert not (root / 'clients' / '__init__.py').exists()
