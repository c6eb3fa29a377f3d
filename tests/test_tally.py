"""What a request's hooks, counts and Server-Timing header promise."""

import asyncio

import memcache
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedTestCase


class Recording(memcached.MemcachedMixin, web.RequestHandler):
    def initialize(self):
        self.timings = []
        self.errors = []

    def on_memcached_timing(self, command, duration):
        super().on_memcached_timing(command, duration)
        self.timings.append((command, duration))

    def on_memcached_error(self, command, error):
        super().on_memcached_error(command, error)
        self.errors.append((command, error))


class Hooks(Recording):
    async def get(self):
        await self.memcached.set('a', 1)
        await asyncio.gather(
            self.memcached.get('a'),
            self.memcached.get('none'),
            self.memcached.get_multi(['a', 'b', 'c']),
            self.memcached.gets('a'),
        )
        await self.memcached.cas('a', 2)
        await self.memcached.incr('a')
        self.write(
            {
                'commands': sorted(command for command, _ in self.timings),
                'durations': [duration for _, duration in self.timings],
                'errors': [
                    f'{command} {type(error).__name__}'
                    for command, error in self.errors
                ],
                'hits': self._memcached_tally.hits,
                'misses': self._memcached_tally.misses,
                'waited': self._memcached_tally.waited,
            }
        )


class Broken(Recording):
    def on_memcached_timing(self, command, duration):
        raise ZeroDivisionError

    async def get(self):
        one, two = await asyncio.gather(
            self.memcached.get('a', 1), self.memcached.get('b', 2)
        )
        self.write({'values': [one, two]})


class Timed(memcached.MemcachedMixin, web.RequestHandler):
    memcached_server_timing = True

    async def get(self):
        await self.memcached.get('a')
        await self.memcached.set('a', 1)
        await self.memcached.get('a')
        self.write('in two')
        await self.flush()
        self.write('parts')


class Metrics(memcached.MemcachedMixin, web.RequestHandler):
    def initialize(self):
        self.recorded = []

    def record_timing(self, seconds, *path):
        assert seconds >= 0
        self.recorded.append(path)

    def increase_counter(self, *path, amount=1):
        self.recorded.append((*path, amount))

    async def get(self):
        await self.memcached.get('a')
        await self.memcached.set('a', 1)
        await self.memcached.get_multi(['a', 'b', 'c'])
        self.write({'recorded': self.recorded})


class Refused(Recording):
    async def get(self):
        assert await self.memcached.incr('a') is None
        ((command, error),) = self.errors
        self.write({'errors': [f'{command} {type(error).__name__}']})


class Plain(memcached.MemcachedMixin, web.RequestHandler):
    async def get(self):
        await self.memcached.get('a')
        assert self._memcached_tally is None


class Tests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    def get_app(self):
        return web.Application(
            [
                ('/hooks', Hooks),
                ('/broken', Broken),
                ('/timed', Timed),
                ('/metrics', Metrics),
                ('/plain', Plain),
                ('/refused', Refused),
            ]
        )

    def tearDown(self):
        client = self._app.memcached_clients[None]
        self.io_loop.run_sync(client.close)
        super().tearDown()

    def json(self, path):
        response = self.fetch(path, raise_error=True)
        return web.escape.json_decode(response.body)

    def test_hooks(self):
        """Each call is told once, with its name and seconds."""
        answer = self.json('/hooks')
        assert answer['commands'] == sorted(
            ['set', 'get', 'get', 'get_multi', 'gets', 'cas', 'incr']
        )
        assert all(0 < duration < 5 for duration in answer['durations'])
        assert answer['errors'] == []
        assert answer['hits'] == 3
        assert answer['misses'] == 3
        # Calls that wait side by side are waited for once.
        assert 0 < answer['waited'] < sum(answer['durations'])

    def test_errors(self):
        """A call that failed is told, though its caller sees a miss."""
        self.memcached_server.kill()
        answer = self.json('/hooks')
        assert len(answer['errors']) >= 5
        assert answer['hits'] == answer['misses'] == 0

    def test_a_refusal_is_an_error(self):
        """What the server refuses is told as an error."""
        plain = memcache.Client([self.memcached_server.address])
        plain.set('a', 'no number')
        plain.disconnect_all()
        assert self.json('/refused')['errors'] == ['incr RefusedError']

    def test_a_hook_that_raises(self):
        """It is logged; every caller gets its own all the same."""
        with testing.ExpectLog(
            'sprockets.clients.memcached.web.tally', 'A hook for memcached get'
        ):
            assert self.json('/broken') == {'values': [1, 2]}

    def test_server_timing(self):
        """One entry with what the request waited, hits, misses, errors."""
        response = self.fetch('/timed')
        assert response.body == b'in twoparts'
        assert len(response.headers.get_list('Server-Timing')) == 1
        name, duration, description = response.headers['Server-Timing'].split(
            ';'
        )
        assert name == 'memcached'
        assert float(duration.removeprefix('dur=')) > 0
        assert description == 'desc="hits=1, misses=1, errors=0"'

    def test_metrics(self):
        """Timings and counters go to the metrics that the handler has."""
        assert self.json('/metrics')['recorded'] == [
            ['memcached', 'get'],
            ['memcached', 'misses', 1],
            ['memcached', 'set'],
            ['memcached', 'get_multi'],
            ['memcached', 'hits', 1],
            ['memcached', 'misses', 2],
        ]

    def test_nothing_is_noted_where_nobody_looks(self):
        assert self.fetch('/plain').code == 200
