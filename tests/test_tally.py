"""What a request's hooks, counts and Server-Timing header promise."""

import asyncio
import json

import memcache
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedTestCase
from sprockets.clients.memcached.web.status import status_of


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


class Asking(memcached.MemcachedMixin, web.RequestHandler):
    memcached_server_timing = True

    async def get(self):
        assert await self.memcached.ping()
        client = self.application.memcached_clients[None]
        assert await client.wait_until_ready(1)
        status = await status_of(self.application)
        self.write(status['clients'][0]['client'])


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


class Down(Recording):
    async def get(self):
        for _ in range(2):
            await self.memcached.get('a')
            await self.memcached.get((7, 'a'))
            await self.memcached.set('a', 1)
            await self.memcached.get_multi(['a'])
            await self.memcached.get_or_set('a', int, 60)
        self.write({'errors': [str(error) for _, error in self.errors]})


class Second(Recording):
    """It uses a client of another prefix, as its own."""

    memcached_prefix = 'pages'
    memcached_server_timing = True

    async def get(self):
        visits = self.memcached_for('visits')
        assert visits is self.memcached_for('VISITS')
        assert self.memcached_for('pages') is self.memcached
        assert self.memcached_for(None) is not self.memcached
        await asyncio.gather(self.memcached.get('a'), visits.get('a'))
        await visits.gets('a')
        await visits.cas('a', 1)
        await self.memcached_for(None).incr('a')
        self.write(
            {
                'commands': [command for command, _ in self.timings],
                'misses': self._memcached_tally.misses,
            }
        )


class SecondMetrics(Metrics):
    async def get(self):
        await self.memcached_for('visits').get('a')
        self.write({'recorded': self.recorded})


class Typo(Recording):
    async def get(self):
        try:
            self.memcached_for(3)
        except TypeError as error:
            self.write(str(error))


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
                ('/asking', Asking),
                ('/timed', Timed),
                ('/metrics', Metrics),
                ('/plain', Plain),
                ('/refused', Refused),
                ('/down', Down),
                ('/second', Second),
                ('/second/metrics', SecondMetrics),
                ('/typo', Typo),
            ]
        )

    def tearDown(self):
        for client in getattr(self._app, 'memcached_clients', {}).values():
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

    def test_each_error_says_what_went_wrong(self):
        """Whatever the method."""
        self.memcached_server.kill()
        assert self.json('/down')['errors'] == ['no server is up'] * 10

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

    def test_whether_it_answers_is_no_miss(self):
        """A probe is a call, but looks for no key of anybody's."""
        for _ in range(2):
            response = self.fetch('/asking')
            assert response.headers['Server-Timing'].endswith(
                ';desc="hits=0, misses=0, errors=0"'
            )
            did = json.loads(response.body)
            assert did['calls'] > 0
            assert did['hits'] == did['misses'] == did['errors'] == 0
            assert did['hit_rate'] is None
            # Nor where somebody has put something there.
            memcached.Client().set('sprockets.clients.memcached.probe', 'x')

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

    def test_a_second_prefix(self):
        """It has all that the first one has, and is counted with it."""
        response = self.fetch('/second', raise_error=True)
        answer = web.escape.json_decode(response.body)
        commands = ['cas', 'get', 'get', 'gets', 'incr']
        assert sorted(answer['commands']) == commands
        assert answer['misses'] == 3
        timing = response.headers['Server-Timing']
        assert timing.endswith('desc="hits=0, misses=3, errors=0"')
        clients = self._app.memcached_clients
        assert set(clients) == {'PAGES', 'VISITS', None}

    def test_metrics_of_a_second_prefix(self):
        assert self.json('/second/metrics')['recorded'] == [
            ['memcached', 'get'],
            ['memcached', 'misses', 1],
        ]

    def test_what_is_no_prefix(self):
        assert self.fetch('/typo').body.startswith(b'prefix is 3; expected a')

    def test_nothing_is_noted_where_nobody_looks(self):
        assert self.fetch('/plain').code == 200
