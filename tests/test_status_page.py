"""What the status page promises, in a real browser."""

import asyncio
import html.parser
import pathlib
import re
import tempfile
import time

import browser
from tornado import testing, web

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedTestCase
from sprockets.clients.memcached.watch import counters


class Page(html.parser.HTMLParser):
    """What a person, or a screen reader, finds on a page."""

    def __init__(self, source):
        super().__init__()
        self.texts = []
        self.attributes = []
        self._open = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self._open.append(tag)
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {'script', 'style', 'noscript'} & set(self._open):
            self.texts += filter(None, [data.strip()])

    def after(self, text):
        """Return the text that comes after another one."""
        return self.texts[self.texts.index(text) + 1]

    def all(self, tag, **wanted):
        return [
            attributes
            for name, attributes in self.attributes
            if name == tag and wanted.items() <= attributes.items()
        ]


class Value(memcached.MemcachedMixin, web.RequestHandler):
    memcached_prefix = 'pages'

    async def get(self):
        await self.memcached.get('none')


class Forgetful(memcached.StatusHandler):
    """It answers the page's own questions with nonsense."""

    async def get(self):
        if self.get_query_arguments('history'):
            self.write('nonsense')
        else:
            await super().get()


class Tests(MemcachedTestCase, testing.AsyncHTTPTestCase):
    memcached_prefixes = ('pages',)

    def get_app(self):
        self.requests = []
        self.statuses = []
        return web.Application(
            [
                ('/value', Value),
                ('/status', memcached.StatusHandler),
                ('/forgetful', Forgetful),
            ],
            log_function=self.note,
        )

    def note(self, handler):
        self.requests.append(handler.request.uri)
        self.statuses.append(handler.get_status())

    def tearDown(self):
        for client in self._app.memcached_clients.values():
            self.io_loop.run_sync(client.close)
        super().tearDown()

    async def remember(self, minutes):
        """Have the client remember calls of the last minutes.

        And of the next one, in which the page is looked at.

        """
        await self.http_client.fetch(self.get_url('/value'))
        engine = self._app.memcached_clients['PAGES']._engine
        (count,) = engine.counters.values()
        count._begins.clear()
        now = time.monotonic()
        engine.began = now - minutes * 60
        for number in range(int(-minutes * 30), 30):
            count.turn(now + number * counters.STEP)
            count.calls += 200
            count.batches += 40
            count.hits += 150
            count.misses += 50
            count.seconds += 0.01
            if number == -10:
                count.errors += 3

    async def page(self, path='/status', seconds=1):
        source, messages = await browser.dom(self.get_url(path), seconds)
        # What its policy refuses it, and errors of its script, are told here.
        assert messages == []
        return Page(source)

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_what_is_drawn(self):
        """The state, the last minutes as lines, the servers as a table."""
        await self.remember(4)
        page = await self.page()
        assert page.after('memcached') == '✓ ok'
        assert 'Prefix PAGES' in page.texts
        assert page.after('Hit rate') == '75 %'
        assert page.after('Calls per second') == '100'
        assert page.after('Latency of a batch') == '0.25 ms'
        assert page.after('Calls per batch') == '5'
        lines = [line['d'] for line in page.all('path', **{'class': 'line'})]
        assert len(lines) == 3
        # A point for each moment, and none before the process began.
        points = [len(re.findall('[ML]', line)) for line in lines]
        assert all(120 <= count <= 148 for count in points)
        errors = page.all('path', **{'class': 'errors'})[1]['d']
        assert errors.count('M') == 1
        labels = [svg['aria-label'] for svg in page.all('svg', role='img')]
        assert labels == [
            'Hit rate, last 5 min: between 75 % and 75 %',
            'Calls per second, last 5 min: between 100 and 100, with errors',
            'Latency of a batch, last 5 min: between 0.25 ms and 0.25 ms',
        ]
        assert self.memcached_server.address in page.texts
        assert '✓ up' in page.texts
        assert page.texts.count('1 of 1 up') == 2
        assert page.texts.count('errors/s') == 1

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_it_refreshes_itself(self):
        """It asks again every other second, and shows what is new."""
        await self.remember(1)
        page = await self.page(seconds=7)
        assert self.requests.count('/status') == 1
        asked = self.requests.count('/status?history')
        assert 2 <= asked <= 4
        assert page.after('memcached') == '✓ ok'

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_a_server_that_is_down(self):
        """It says so in words, with the reason."""
        await self.remember(1)
        self.memcached_server.kill()
        page = await self.page()
        assert page.after('memcached') == '✕ unavailable'
        assert page.after('Prefix PAGES') == '✕ unavailable'
        reason = page.after('✕ down')
        assert reason.startswith('for ')
        assert reason.endswith(('Connection refused', 'closed by the server'))
        (title,) = [t for t in page.texts if t.startswith('memcached:')]
        assert title == 'memcached: unavailable'

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_the_log_while_servers_are_down(self):
        """The page's own questions are no errors in it."""
        await self.remember(1)
        self.memcached_server.kill()
        await self.page(seconds=5)
        statuses = self.statuses[1:]
        assert statuses[0] == 503
        assert len(statuses) >= 2
        assert set(statuses[1:]) == {200}

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_many_servers(self):
        """What is down comes first, and how many are up is at the top."""
        port = self.memcached_server.port
        servers = [f'127.0.0.1:{port}', f'localhost:{port}', '127.0.0.1:1']
        await self.http_client.fetch(self.get_url('/value'))
        client = self._app.memcached_clients['PAGES']
        await client.set_servers(servers)
        await asyncio.gather(*[client.get(f'key{n}') for n in range(50)])
        page = await self.page()
        assert page.after('! degraded') == '2 of 3 up'
        order = [t for t in page.texts if t in servers]
        assert order == ['127.0.0.1:1', *servers[:2]]

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_whoever_uses_no_mouse_or_no_eyes(self):
        """Charts have names and take keys; columns say what they count."""
        await self.remember(4)
        page = await self.page()
        for svg in page.all('svg', role='img'):
            assert svg['tabindex'] == '0'
            assert 'last 5 min' in svg['aria-label']
        (region,) = page.all('div', role='region')
        assert region['aria-label'] == 'Servers: Prefix PAGES'
        assert region['tabindex'] == '0'
        names = [
            th['aria-label'] for th in page.all('th') if 'aria-label' in th
        ]
        assert names == ['Own calls', 'Own hits', 'Own misses', 'Own errors']
        assert any('A call of many keys counts once' in t for t in page.texts)

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_a_prefix_with_markup(self):
        """It is text, and no element."""
        name = '<b id="evil">&amp;</script>'
        await self.http_client.fetch(self.get_url('/value'))
        client = memcached.AsyncClient(servers=self.memcached_server.address)
        self._app.memcached_clients[name.upper()] = client
        page = await self.page()
        assert f'Prefix {name.upper()}' in page.texts
        assert page.all('b') == []

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_the_service_does_not_answer(self):
        """What was seen last stays, and is shown to be old."""
        page = await self.page('/forgetful', seconds=3)
        assert page.after('memcached') == '✕ no answer'
        assert page.all('main', **{'class': 'stale'})
        assert '✓ up' in page.texts

    @testing.gen_test(timeout=browser.SECONDS)
    async def test_a_picture(self):
        """There is something to see, in the window of a phone too."""
        await self.remember(4)
        with tempfile.TemporaryDirectory() as folder:
            for width, height, dark in (
                (1280, 800, False),
                (880, 1000, True),
                (768, 1000, False),
                (360, 1200, True),
            ):
                path = pathlib.Path(folder, f'{width}.png')
                messages = await browser.picture(
                    self.get_url('/status'), path, width, height, dark
                )
                assert messages == []
                size = browser.rows(path)
                assert size[:2] == (width, height)
                assert size[2] > 200
