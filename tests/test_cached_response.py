"""Whole responses from memcached: real applications, over HTTP."""

import abc
import asyncio
import contextvars
import copy
import functools
import itertools
import json
import logging
import pickle
import shutil
import subprocess
import sys
import xmlrpc.client

import browser
import pytest
from tornado import (
    httpclient,
    httpserver,
    locale,
    routing,
    template,
    testing,
    web,
)

from sprockets.clients import memcached
from sprockets.clients.memcached import notices
from sprockets.clients.memcached.requests import anykeys
from sprockets.clients.memcached.web import handlers, responses

SECONDS = 30

LOGGER = 'sprockets.clients.memcached.web.responses'

pytestmark = pytest.mark.usefixtures('memcached_server')


class Handler(memcached.MemcachedMixin, web.RequestHandler):
    """Counts how often its method runs, in a list of its application."""

    def count(self):
        self.application.calls.append(self.request.path)
        return len(self.application.calls)

    def get_current_user(self):
        return self.request.headers.get('X-User')

    def write_error(self, status_code, **_):
        self.write(f'error {status_code}')


class Site:
    """An application that serves, and requests to it."""

    def __init__(self, address, application):
        self.address = address
        self.application = application
        self.calls = application.calls = []

    async def __call__(self, path='/', method='GET', body=None, **headers):
        response = await httpclient.AsyncHTTPClient().fetch(
            self.address + path,
            method=method,
            body=body,
            headers={
                name.replace('_', '-'): value
                for name, value in headers.items()
            },
            raise_error=False,
            follow_redirects=False,
            request_timeout=SECONDS,
        )
        response.text = response.body.decode(errors='replace')
        return response

    async def raw(self, start, *lines):
        """Return the answer to a request as it is written here."""
        host = self.address.removeprefix('http://')
        reader, writer = await asyncio.open_connection(*host.split(':'))
        request = '\r\n'.join([start, f'Host: {host}', *lines])
        writer.write(request.encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()

    async def texts(self, *paths, **headers):
        return [(await self(path, **headers)).text for path in paths]

    async def codes(self, *paths, **headers):
        return [(await self(path, **headers)).code for path in paths]


async def until(look, expected=True):
    """Wait for what a look is to bring."""
    found = None
    while found != expected:
        await asyncio.sleep(0.01)
        found = look()
        if asyncio.iscoroutine(found):
            found = await found


def run(body, handler, *others, **settings):
    """Run a test with a site that has one handler, or pairs with patterns."""
    handlers = [handler, *others] if others else [('/.*', handler)]

    async def main():
        application = web.Application(handlers, **settings)
        socket, port = testing.bind_unused_port()
        server = httpserver.HTTPServer(application)
        server.add_sockets([socket])
        try:
            async with asyncio.timeout(2 * SECONDS):
                await body(Site(f'http://127.0.0.1:{port}', application))
        finally:
            server.stop()
            await server.close_all_connections()
            clients = getattr(application, 'memcached_clients', {})
            for client in clients.values():
                await client.close()

    asyncio.run(main())


def counting(*args, **options):
    """Return a handler whose page says how often it was made."""

    class Page(Handler):
        @memcached.cached_response(*args, **options)
        async def get(self):
            self.write(f'{self.count()}')

        head = get

    return Page


# What is stored


def test_a_page_is_made_once():
    """Status, body, type and further headers come again, and its age."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.set_status(203, 'Told By Others')
            self.set_header('X-One', 'one')
            self.add_header('X-Two', 'a')
            self.add_header('X-Two', 'b')
            self.clear_header('X-Default')
            self.write({'text': 'für alle'})

        def set_default_headers(self):
            self.set_header('X-Default', 'yes')

    async def main(site):
        first, second = await site(), await site()
        assert len(site.calls) == 1
        for page in (first, second):
            assert (page.code, page.reason) == (203, 'Told By Others')
            assert page.text == '{"text": "f\\u00fcr alle"}'
            assert page.headers['Content-Type'].startswith('application/json')
            assert page.headers['X-One'] == 'one'
            assert page.headers.get_list('X-Two') == ['a', 'b']
            assert 'X-Default' not in page.headers
            assert page.headers['Cache-Control'] == 'max-age=60'
        assert 'Age' not in first.headers
        assert int(second.headers['Age']) < SECONDS

    run(main, Page)


def test_what_is_of_one_request_is_not_stored():
    """What was set before the method, an id or a cookie, stays with it."""

    class Page(Handler):
        def prepare(self):
            self.set_header('X-Id', self.request.headers['X-Id'])
            self.set_cookie('id', self.request.headers['X-Id'])

        @memcached.cached_response(60)
        def get(self):
            self.write(f'{self.count()}')

    async def main(site):
        for number in '123':
            page = await site(X_Id=number)
            assert page.text == '1'
            assert page.headers['X-Id'] == number
            assert page.headers['Set-Cookie'] == f'id={number}; Path=/'
            # Nobody between keeps the cookie for others.
            assert page.headers['Cache-Control'] == 'private, no-cache'

    run(main, Page)


@pytest.mark.parametrize('way', ['write', 'finish', 'flush', 'raise', 'none'])
def test_however_a_method_ends_its_answer(way):
    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            if way == 'write':
                self.write('page')
            elif way == 'finish':
                await self.finish('page')
            elif way == 'flush':
                self.write('pa')
                await self.flush()
                self.write('ge')
                await self.finish()
            elif way == 'raise':
                raise web.Finish('page')
            else:
                self.set_status(204)

    async def main(site):
        for _ in range(3):
            page = await site()
            assert page.text == ('' if way == 'none' else 'page')
            assert page.code == (204 if way == 'none' else 200)
        assert len(site.calls) == 1

    run(main, Page)


@pytest.mark.parametrize('serializer', ['pickle', 'json'])
def test_bytes_of_any_kind(monkeypatch, serializer):
    """No serializer is needed for what is stored."""
    monkeypatch.setenv('MEMCACHED_SERIALIZER', serializer)
    picture = bytes(range(256)) * 10

    class Picture(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.set_header('Content-Type', 'image/x-none')
            self.write(picture)

    async def main(site):
        for _ in range(2):
            page = await site()
            assert page.body == picture
            assert page.headers['Content-Type'] == 'image/x-none'
        assert len(site.calls) == 1

    run(main, Picture)


def test_a_template_with_modules():
    """It is rendered once, with the handler that its modules know."""

    class Module(web.UIModule):
        def render(self):
            return f'module of {self.handler.count()}'

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.render('page.html')

        def create_template_loader(self, _):
            return template.DictLoader(
                {'page.html': '<body>{% module Module() %}</body>'}
            )

    async def main(site):
        assert (
            await site.texts('/', '/')
            == [
                '<body>module of 1</body>',
            ]
            * 2
        )

    run(main, Page, ui_modules={'Module': Module}, template_path='1')


def test_what_comes_after_the_answer_is_done_once_for_each_request():
    """The handler itself ends, and not the copy for the method."""
    finished = []

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.write('page')

        def on_finish(self):
            finished.append(self.get_status())

    async def main(site):
        for _ in range(3):
            await site()
        await until(lambda: len(finished) == 3)
        assert finished == [200] * 3

    run(main, Page)


# Who has it already


def test_who_has_the_page_gets_none():
    async def main(site):
        etag = (await site()).headers['Etag']
        for tags in (etag, f'"another", {etag}', '*', f'W/{etag}'):
            answer = await site(If_None_Match=tags)
            assert (answer.code, answer.body) == (304, b'')
            assert answer.headers['Etag'] == etag
            assert answer.headers['Cache-Control'] == 'max-age=60'
            assert 'Age' in answer.headers
        assert (await site(If_None_Match='"another"')).code == 200
        assert site.calls == ['/']

    run(main, counting(60))


def test_the_etag_is_tornados(memcached_server):
    """It is the same whether the page came from memcached or not."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def cached(self):
            self.write('page')

        async def get(self):
            if self.request.path == '/cached':
                await self.cached()
            else:
                self.write('page')

    async def main(site):
        plain = (await site('/')).headers['Etag']
        assert (await site('/cached')).headers['Etag'] == plain
        assert (await site('/cached')).headers['Etag'] == plain
        memcached_server.reset()
        answer = await site('/cached', If_None_Match=plain)
        assert answer.code == 304

    run(main, Page)


def test_an_etag_of_the_methods_own():
    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.set_header('Etag', f'"{self.count()}"')
            self.write('page')

    async def main(site):
        for _ in range(2):
            assert (await site()).headers['Etag'] == '"1"'
        assert (await site(If_None_Match='"1"')).code == 304

    run(main, Page)


@pytest.mark.parametrize('status', [203, 301, 404])
def test_an_etag_of_another_status(status):
    class Page(Handler):
        @memcached.cached_response(60, statuses=[404])
        async def get(self):
            self.set_status(status)
            self.set_header('Etag', '"mine"')
            self.write(f'{self.count()}')

        head = get

    async def main(site):
        for method in ('GET', 'HEAD', 'GET'):
            page = await site('/', method, If_None_Match='"mine"')
            assert (page.code, page.headers['Etag']) == (status, '"mine"')
        assert len(site.calls) == 1

    run(main, Page)


def test_curl_has_the_page_already(tmp_path):
    """It keeps an ETag in a file, and writes nothing for a 304."""
    if shutil.which('curl') is None:
        pytest.skip('no curl in the PATH')

    async def curl(site, number):
        file = tmp_path / 'etag'
        page = tmp_path / f'page{number}'
        process = await asyncio.create_subprocess_exec(
            *('curl', '-s', '--noproxy', '*', '-w', '%{http_code}'),
            *('--etag-save', file, '-o', page),
            *(['--etag-compare', file] if number else []),
            site.address,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return output.decode(), page.read_text() if page.exists() else ''

    async def main(site):
        assert await curl(site, 0) == ('200', '1')
        assert await curl(site, 1) == ('304', '')
        assert len(site.calls) == 1

    run(main, counting(60))


def test_chromium_has_the_page_already():
    """Of what must be asked for again it is sent the headers only."""
    answers = []

    class Part(Handler):
        @memcached.cached_response(60, max_age=0)
        async def get(self):
            self.count()
            self.set_header('Content-Type', 'text/javascript')
            self.write('document.title += "!"')

        def on_finish(self):
            answers.append(self.get_status())

    class Page(Handler):
        def get(self):
            self.write(
                '<title>Title</title><script src="/part"></script>'
                '<script>if (location.hash) {document.body ='
                ' document.createElement("body")} else {location.hash = "2";'
                ' location.reload()}</script>'
            )

    async def main(site):
        page, _ = await browser.dom(site.address)
        assert '<title>Title!</title>' in page
        assert answers == [200, 304]
        assert site.calls == ['/part']

    run(main, ('/part', Part), ('/', Page))


def test_head_is_answered_like_get():
    """Whichever comes first, with the length and without the body."""

    async def main(site):
        for first, second in (('HEAD', 'GET'), ('GET', 'HEAD')):
            path = f'/{first}'
            pages = [await site(path, first), await site(path, second)]
            assert [page.headers['Content-Length'] for page in pages] == [
                '1',
                '1',
            ]
            assert pages[0].headers['Etag'] == pages[1].headers['Etag']
            assert b'' in (pages[0].body, pages[1].body)
        assert len(site.calls) == 2

    run(main, counting(60))


# One computation


def test_of_many_who_ask_one_has_it_computed():
    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            await until(lambda: len(came) == 50)
            self.write('page')

        def prepare(self):
            came.append(self)

    came = []

    async def main(site):
        httpclient.AsyncHTTPClient.configure(None, max_clients=50)
        pages = await asyncio.gather(*[site() for _ in range(50)])
        assert {page.text for page in pages} == {'page'}
        assert len(site.calls) == 1

    try:
        run(main, Page)
    finally:
        httpclient.AsyncHTTPClient.configure(None)


def test_an_old_page_is_served_while_a_new_one_is_computed():
    """Nobody waits, and the one who asked need not be there any more."""
    goes_on = asyncio.Event()

    class Page(Handler):
        # To memcached a second is over whenever the next one begins.
        @memcached.cached_response(2, stale=60)
        async def get(self):
            number = self.count()
            if number == 2:
                await goes_on.wait()
            self.write(f'{number}')

    async def main(site):
        assert await site.texts('/') == ['1']
        while len(site.calls) < 2:
            assert await site.texts('/') == ['1']
        ages = []
        while 1 not in ages:
            page = await site()
            assert (page.text, len(site.calls)) == ('1', 2)
            ages.append(int(page.headers['Age']))
        # Where memcached's clock goes on late, it is old before a second is.
        assert ages == sorted(ages)
        goes_on.set()
        await until(lambda: site.texts('/'), ['2'])

    run(main, Page)


@pytest.mark.parametrize('way', ['raise', 'write'])
@pytest.mark.parametrize('status', [404, 503])
def test_an_old_page_that_cannot_be_computed_anew(caplog, way, status):
    """It is served on, unless it is known that there is none any more."""

    class Page(Handler):
        @memcached.cached_response(1, stale=60)
        async def get(self):
            if self.count() > 1:
                if way == 'raise':
                    raise web.HTTPError(status)
                self.set_status(status)
            self.write('page')

    async def main(site):
        assert await site.texts('/') == ['page']
        while len(site.calls) < 2:
            assert await site.codes('/') == [200]
            await asyncio.sleep(0.01)
        if status == 503:
            assert (await site()).code == 200
        else:
            await until(lambda: site.codes('/'), [status])

    run(main, Page)


# What is told apart


def test_hosts_and_paths_make_different_pages():
    async def main(site):
        texts = await site.texts('/a', '/b', '/a')
        assert texts == ['1', '2', '1']
        assert await site.texts('/a', Host='b.example') == ['3']

    run(main, counting(60))


def test_handlers_make_different_pages():
    """Those of one class and its subclass as well."""

    class One(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.write(type(self).__name__)

    class Two(One):
        pass

    async def main(site):
        assert await site.texts('/') == ['One']
        site.application.default_router.rules[0].target.rules[0].target = Two
        assert await site.texts('/') == ['Two']

    run(main, One)


class Chosen(routing.Matcher):
    """Chooses a route by a header."""

    def __init__(self, name):
        self.name = name

    def match(self, request):
        return {} if request.headers.get('X-Name') == self.name else None


def test_routes_make_different_pages():
    """By what they have for the handler, if it is text or a number."""

    class Page(Handler):
        def initialize(self, table, number, database):
            self.table = table
            self.number = number

        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.write(f'{self.table} {self.number}')

    tables = [('users', 1), ('users', '1'), ('carts', 1)]
    routes = [
        routing.Rule(
            Chosen(f'{table}{number!r}'),
            Page,
            {'table': table, 'number': number, 'database': object()},
        )
        for table, number in tables
    ]

    async def main(site):
        for _ in range(2):
            for table, number in tables:
                page = await site(X_Name=f'{table}{number!r}')
                assert page.text == f'{table} {number}'
        assert len(site.calls) == len(tables)

    run(main, *routes)


def test_what_a_route_has_is_not_to_be_read_in_keys(monkeypatch):
    """It may be a password."""
    named = []
    fit = anykeys.fit

    def note(name, limit):
        named.append(name.decode())
        return fit(name, limit)

    class Page(Handler):
        def initialize(self, database):
            self.database = database

        @memcached.cached_response(60)
        async def get(self):
            self.write(self.database)

    async def main(site):
        monkeypatch.setattr(anykeys, 'fit', note)
        assert await site.texts('/') == ['db://app:correct-horse@db']
        (name,) = named
        assert 'Page.get' in name
        assert 'correct-horse' not in name

    run(
        main,
        ('/', Page, {'database': 'db://app:correct-horse@db'}),
        ('/other', Page, {'database': 'other'}),
    )


PROGRAM = """
import asyncio
import os
from tornado import httpclient, web
from sprockets.clients import memcached

class Page(memcached.MemcachedMixin, web.RequestHandler):
    @memcached.cached_response(60)
    async def get(self):
        self.write(os.path.basename(__file__))

async def main():
    application = web.Application([('/', Page)])
    server = application.listen(0, '127.0.0.1')
    port = next(iter(server._sockets.values())).getsockname()[1]
    page = await httpclient.AsyncHTTPClient().fetch(
        f'http://127.0.0.1:{port}/', headers={'Host': 'example.com'}
    )
    print(page.body.decode())

asyncio.run(main())
"""


def test_programs_make_different_pages(tmp_path):
    """Though the class of each is one of __main__."""
    for name in ('one.py', 'two.py'):
        path = tmp_path / name
        path.write_text(PROGRAM)
        done = subprocess.run(
            [sys.executable, path],
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
        assert done.stdout.strip() == name


def unnamed(method):
    async def call(self):
        await method(self)

    return call


def writing(text):
    @memcached.cached_response(60)
    async def write(self):
        self.write(text)

    return write


class Methods(Handler):
    @memcached.cached_response(60)
    @unnamed
    async def first(self):
        self.write('first')

    @unnamed
    @memcached.cached_response(60)
    async def second(self):
        self.write('second')

    @web.authenticated
    @memcached.cached_response(60)
    @unnamed
    async def third(self):
        self.write('third')

    fourth, fifth = writing('fourth'), writing('fifth')

    @memcached.cached_response(60)
    async def inner(self):
        self.write('inner')

    async def get(self):
        await getattr(self, self.request.headers['X-Name'])()


class OuterMethods(Methods):
    @memcached.cached_response(60, vary=lambda _: None)
    async def first(self):
        self.write('outer ')
        await super().first()

    @memcached.cached_response(60)
    async def inner(self):
        self.write('outer ')
        await super().inner()


@pytest.mark.parametrize('kind', [Methods, OuterMethods])
def test_methods_make_different_pages(kind):
    """Whatever their functions are called."""

    names = ['first', 'second', 'third', 'fourth', 'fifth', 'inner']

    async def main(site):
        for _ in range(2):
            for name in names:
                page = await site(X_User='alice', X_Name=name)
                assert page.text.split()[-1] == name
                assert page.text.startswith('outer') == (
                    kind is OuterMethods and name in ('first', 'inner')
                )

    run(main, kind)


def test_a_class_may_have_what_answers_anything():
    """Where it is asked which function it is put around, too."""

    class Strange:
        def __getattr__(self, name):
            raise OSError(name)

    class Page(Handler):
        backend = xmlrpc.client.ServerProxy('http://127.0.0.1:1/')
        strange = Strange()

        @memcached.cached_response(60)
        async def get(self):
            self.write(f'{self.count()}')

    async def main(site):
        assert await site.texts('/', '/') == ['1', '1']

    run(main, Page)


def test_a_method_and_the_one_of_its_base_make_different_pages():
    """Though only the one of the base is answered with Authorization."""

    class Base(Handler):
        @memcached.cached_response(60, authorization=True)
        async def get(self):
            self.write('base')

    class Page(Base):
        @memcached.cached_response(60)
        async def get(self):
            self.write('outer ')
            await super().get()

    async def main(site):
        for headers in ({}, {'Authorization': 'a'}, {}):
            assert await site.texts('/', **headers) == ['outer base']

    run(main, Page)


@pytest.mark.parametrize(
    'query, texts',
    [
        (True, ['1', '2', '3', '4', '5', '1']),
        (False, ['1'] * 6),
        ([], ['1'] * 6),
        (['page'], ['1', '1', '2', '2', '3', '1']),
        (('page', 'x'), ['1', '2', '3', '3', '4', '1']),
    ],
)
def test_the_query(query, texts):
    paths = ['/', '/?x=1', '/?x=1&page=1', '/?page=1&x=1', '/?page=2', '/']

    async def main(site):
        assert await site.texts(*paths) == texts

    run(main, counting(60, query=query))


def test_texts_of_a_query_that_run_into_each_other():
    async def main(site):
        paths = ['/?a=1&b=2', '/?a=1%26b%3D2', '/?a=1&a=2', '/?b=1', '/?a=%00']
        texts = await site.texts(*paths)
        assert texts == ['1', '2', '3', '4', '5']

    run(main, counting(60, query=['a', 'b']))


def test_headers():
    """``Vary`` tells who is between."""

    class Page(Handler):
        @memcached.cached_response(60, headers=['accept-language', 'X-Sort'])
        async def get(self):
            self.set_header('Vary', 'X-Sort')
            self.write(self.request.headers.get('Accept-Language', 'none'))
            self.write(f' {self.count()}')

    async def main(site):
        for _ in range(2):
            assert await site.texts('/') == ['none 1']
            page = await site(Accept_Language='de')
            assert page.text == 'de 2'
            vary = page.headers.get_list('Vary')
            assert vary == ['X-Sort', 'accept-language']
            assert await site.texts('/', X_Sort='up') == ['none 3']

    run(main, Page)


@pytest.mark.parametrize(
    'user', [True, lambda handler: handler.get_current_user()]
)
def test_users(user):
    """Nobody else keeps a page that is for one of them."""

    class Page(Handler):
        @memcached.cached_response(60, user=user)
        async def get(self):
            self.count()
            self.write(f'{self.current_user}')

    async def main(site):
        for _ in range(2):
            for name in ('alice', 'bob'):
                page = await site(X_User=name)
                assert page.text == name
                assert page.headers['Cache-Control'] == 'private, no-cache'
            assert await site.texts('/') == ['None']
        assert len(site.calls) == 3

    run(main, Page)


def test_whatever_else():
    """A number of one's own, awaited; without it nothing is stored."""
    generations = [1, 1, 2, None, None, 2]

    async def generation(handler):
        return generations[len(handler.application.asked)]

    class Page(Handler):
        def prepare(self):
            self.application.asked = asked

        @memcached.cached_response(60, vary=generation)
        async def get(self):
            self.write(f'{self.count()}')

        def on_finish(self):
            asked.append(1)

    asked = []

    async def main(site):
        texts = []
        for number in range(6):
            texts += await site.texts('/')
            await until(lambda: len(asked), number + 1)
        assert texts == ['1', '1', '2', '3', '4', '2']

    run(main, Page)


# What is never stored


REQUEST = contextvars.ContextVar('request')


def looking(look, **options):
    class Page(Handler):
        def prepare(self):
            self.first = self
            self.first_headers = self.request.headers
            REQUEST.set(self.request)

        @memcached.cached_response(60, **options)
        async def get(self):
            self.count()
            self.write(f'{look(self)}')

        def create_template_loader(self, _):
            return template.DictLoader(
                {
                    'user.html': '{{ current_user }}',
                    'language.html': '{{ _("yes") }}',
                    'deep.html': '{% block a %}{{ [locale.code for i in'
                    ' range(1)] }}{% end %}',
                    'request.html': '{{ request.headers["X-User"] }}',
                    'handler.html': '{{ handler.current_user }}',
                    'plain.html': 'plain',
                }
            )

    return Page


LOOKS = {
    'user': (lambda self: self.current_user, 'current_user'),
    'header': (
        lambda self: self.request.headers['X-User'],
        'the header X-User',
    ),
    'headers': (
        lambda self: dict(self.request.headers),
        'the header X-User',
    ),
    'cookie': (lambda self: self.get_cookie('a'), 'the header Cookie'),
    'no cookie': (
        lambda self: self.get_signed_cookie('b'),
        'the header Cookie',
    ),
    'argument': (
        lambda self: self.get_argument('x', 'none'),
        'the query argument x',
    ),
    'no argument': (
        lambda self: self.get_query_arguments('y'),
        'the query argument y',
    ),
    'arguments': (
        lambda self: dict(self.request.arguments),
        'the query argument x',
    ),
    'all arguments': (
        lambda self: list(self.request.query_arguments.items()),
        'the query argument x',
    ),
    'number of arguments': (
        lambda self: len(self.request.arguments),
        'all arguments of the query',
    ),
    'copy of arguments': (
        lambda self: self.request.query_arguments.copy(),
        'the query argument x',
    ),
    'arguments as text': (
        lambda self: f'{self.request.arguments}',
        'the query argument x',
    ),
    'deep copy of arguments': (
        lambda self: copy.deepcopy(self.request.arguments),
        'the query argument x',
    ),
    'arguments for another process': (
        lambda self: pickle.dumps(self.request.arguments),
        'the query argument x',
    ),
    'copy of headers': (
        lambda self: copy.copy(self.request.headers)['X-User'],
        'the header X-User',
    ),
    'deep copy of headers of a user': (
        lambda self: copy.deepcopy(self.request.headers)['X-User'],
        'the header X-User',
    ),
    'headers for another process, of a user': (
        lambda self: pickle.loads(pickle.dumps(self.request.headers))[
            'X-User'
        ],
        'the header X-User',
    ),
    'attributes': (
        lambda self: vars(self.request)['remote_ip'],
        'request.__dict__',
    ),
    'copy of a request': (
        lambda self: copy.copy(self.request).headers['X-User'],
        'the header X-User',
    ),
    'version': (
        lambda self: self.request.version,
        'request.version',
    ),
    'request as text': (
        lambda self: self.request,
        'request.remote_ip',
    ),
    'address': (lambda self: self.request.remote_ip, 'request.remote_ip'),
    'certificate': (
        lambda self: self.request.connection.stream,
        'request.connection',
    ),
    'language': (
        lambda self: self.locale.code,
        'the header Accept-Language',
    ),
    'language that is compared': (
        lambda self: locale.get('en_US') == self.locale,
        'the header Accept-Language',
    ),
    'language as a key': (
        lambda self: {locale.get('en_US'): 'yes'}[self.locale],
        'the header Accept-Language',
    ),
    'copy of a language': (
        lambda self: copy.copy(self.locale).code,
        'the header Accept-Language',
    ),
    'template': (
        lambda self: self.render_string('user.html'),
        'current_user',
    ),
    'language of a template': (
        lambda self: self.render_string('language.html'),
        'the header Accept-Language',
    ),
    'within a template': (
        lambda self: self.render_string('deep.html'),
        'the header Accept-Language',
    ),
    'request of a template': (
        lambda self: self.render_string('request.html'),
        'the header X-User',
    ),
    'handler of a template': (
        lambda self: self.render_string('handler.html'),
        'current_user',
    ),
    'header by way of a handler that was kept': (
        lambda self: self.first.request.headers['X-User'],
        'the header X-User',
    ),
    'user of a handler that was kept': (
        lambda self: self.first.current_user,
        'current_user',
    ),
    'cookie of a handler that was kept': (
        lambda self: self.first.get_cookie('a'),
        'the header Cookie',
    ),
    'argument of a handler that was kept': (
        lambda self: self.first.get_argument('x'),
        'the query argument x',
    ),
    'language of a handler that was kept': (
        lambda self: self.first.locale.code,
        'the header Accept-Language',
    ),
    'address of a request that was kept': (
        lambda self: REQUEST.get().remote_ip,
        'request.remote_ip',
    ),
    'user in a request that was kept': (
        lambda self: REQUEST.get().headers['X-User'],
        'the header X-User',
    ),
    'user in headers that were kept': (
        lambda self: self.first_headers['X-User'],
        'the header X-User',
    ),
    'headers that were kept, and have a user': (
        lambda self: copy.deepcopy(self.first_headers)['X-User'],
        'the header X-User',
    ),
    'second template': (
        lambda self: (
            self.render_string('plain.html')
            + self.render_string('language.html')
        ),
        'the header Accept-Language',
    ),
    'language that is set': (
        lambda self: (
            setattr(self, '_locale', locale.get('en')) or self.locale.code
        ),
        'the header Accept-Language',
    ),
}


@pytest.mark.parametrize('name', LOOKS)
def test_what_depends_on_what_was_not_told(caplog, name):
    """Everybody gets his own page, and the log says once what to tell."""
    look, seen = LOOKS[name]

    async def main(site):
        for user in ('alice', 'bob'):
            page = await site('/?x=1', X_User=user, Cookie='a=1')
            assert page.code == 200
            if 'user' in name or name == 'header':
                assert user in page.text
        assert len(site.calls) == 2

    with caplog.at_level(logging.WARNING, LOGGER):
        run(
            main,
            looking(look, query=()),
            template_path=name,
            cookie_secret='secret',
        )
    (record,) = [each for each in caplog.records if each.name == LOGGER]
    assert seen in record.getMessage()
    assert 'was not told' in record.getMessage()


@pytest.mark.parametrize(
    'look',
    [
        lambda request: list(request.arguments),
        lambda request: len(request.query_arguments),
        lambda request: [name for name, _ in request.arguments.items()],
        lambda request: request.arguments == {},
        lambda request: {**request.arguments},
        lambda request: repr(request.arguments),
        lambda request: copy.deepcopy(request.arguments),
    ],
)
def test_who_looks_at_all_arguments_sees_that_there_are_none(look):
    """What is answered without any is not for those who have some."""

    async def main(site):
        without, some = await site.texts('/', '/?x=1')
        assert without != some

    run(main, looking(lambda self: look(self.request), query=()))


def test_who_looks_at_all_headers_sees_that_there_are_none():
    async def main(site):
        page = await site.raw('GET / HTTP/1.1', 'Connection: close', '', '')
        assert page.endswith("['Host', 'Connection']")
        other = await site(X_User='alice', Connection='close')
        assert 'X-User' in other.text

    def look(self):
        return [name.title() for name in self.request.headers]

    run(main, looking(look, headers=['Connection']))


TOLD = {
    'user': {'user': True},
    'header by way of a handler that was kept': {'headers': ['x-user']},
    'user of a handler that was kept': {'user': True},
    'argument of a handler that was kept': {'query': ['x']},
    'user in headers that were kept': {'headers': ['x-user']},
    'header': {'headers': ['x-user']},
    'cookie': {'headers': ['Cookie']},
    'argument': {'query': ['x']},
    'all arguments': {'query': True},
    'language': {'headers': ['Accept-Language']},
    'template': {'user': True},
    'language of a template': {'headers': ['Accept-Language']},
    'second template': {'headers': ['Accept-Language']},
}


@pytest.mark.parametrize('name', TOLD)
def test_what_depends_on_what_was_told(name):
    """It is stored; a template may have what it does not use."""
    options = {'query': (), **TOLD[name]}

    async def main(site):
        for _ in range(2):
            assert (await site('/?x=1', X_User='alice', Cookie='a=1')).code
        assert len(site.calls) == 1

    run(main, looking(LOOKS[name][0], **options), template_path=f'told {name}')


@pytest.mark.parametrize(
    'look',
    [
        lambda found: found == locale.get('en_US'),
        {locale.get('en_US'): True}.get,
        lambda found: isinstance(found, locale.Locale),
    ],
)
def test_a_language_is_what_it_is_elsewhere(look):
    async def main(site):
        assert await site.texts('/') == ['True']

    run(main, looking(lambda self: look(self.locale)))


@pytest.mark.parametrize('first', ['current_user', 'locale'])
def test_cookies_that_were_looked_at_for_something_else(first):
    """Who is asking was told; what else is in the cookies was not."""

    class Page(Handler):
        def get_current_user(self):
            return self.get_cookie('name')

        def get_user_locale(self):
            return locale.CSVLocale(self.get_cookie('name'), {})

        @memcached.cached_response(60, user=True)
        async def get(self):
            assert getattr(self, first)
            self.write(self.get_cookie('theme'))

    async def main(site):
        for theme in ('dark', 'light', 'dark'):
            page = await site(Cookie=f'name=alice; theme={theme}')
            assert page.text == theme

    run(main, Page)


@pytest.mark.parametrize('other', [False, True])
@pytest.mark.parametrize('before', [False, True])
def test_nobody_gets_anothers_language(before, other):
    """It is not the one that was told of, wherever it was asked for first."""

    class Page(Handler):
        def get_user_locale(self):
            return locale.CSVLocale(self.get_cookie('language'), {})

        def prepare(self):
            self.responder = Responder(self)
            if before:
                self.set_header('Content-Language', self.locale.code)

        @memcached.cached_response(60, headers=['Accept-Language'])
        async def get(self):
            found = self.responder.handler if other else self
            self.write(found.locale.code)

    async def main(site):
        for language in ('no', 'is', 'no'):
            page = await site(
                Cookie=f'language={language}', Accept_Language='en'
            )
            assert page.text == language

    run(main, Page)


def _taken(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['name'] = namespace['current_user']
            return namespace

    return Page


def _looked_up(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['name'] = self.current_user
            return namespace

    return Page


def _taken_within(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            (name,) = (namespace['current_user'] for _ in range(1))
            return {**namespace, 'name': name}

    return Page


def _taken_elsewhere(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            self.extend(namespace)
            return namespace

        def extend(self, namespace):
            namespace['name'] = namespace.get('current_user')

    return Page


def _handed_on(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['name'] = greeted(**namespace)
            return namespace

    def greeted(current_user, **_):
        return current_user

    return Page


def _from_a_cookie(mixins, *bases):
    class Page(*mixins, *bases):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['name'] = self.get_cookie('name')
            return namespace

    return Page


class Plain(web.RequestHandler):
    def get_current_user(self):
        return self.request.headers.get('X-User')


@pytest.mark.parametrize(
    'extended, behind',
    [
        *itertools.product(
            [_taken, _taken_within, _looked_up, _from_a_cookie], [False, True]
        ),
        (_taken_elsewhere, False),
        (_handed_on, False),
    ],
)
def test_what_is_added_to_all_templates(extended, behind):
    """Whose it is counts wherever it was looked up: before the mixin in the
    bases of a handler, or behind it."""
    mixins = (memcached.MemcachedMixin,)
    if behind:
        base = type('Base', (*mixins, extended((), Plain)), {})
    else:
        base = extended(mixins, Plain)

    class Page(base):
        @memcached.cached_response(60)
        async def get(self):
            self.render('name.html')

        def create_template_loader(self, _):
            return template.DictLoader({'name.html': '{{ name }}'})

    async def main(site):
        for name in ('alice', 'bob'):
            page = await site(X_User=name, Cookie=f'name={name}')
            assert page.text == name

    run(main, Page, template_path=f'{extended.__name__} {behind}')


class KeptUser(web.RequestHandler):
    """Has found out in ``prepare`` who is asking."""

    def prepare(self):
        self.kept = self.request.headers['X-User']


class UserOfItsOwn(KeptUser):
    @property
    def current_user(self):
        return self.kept


class UserOnce(KeptUser):
    @functools.cached_property
    def current_user(self):
        return self.kept


class UserAsAttribute(KeptUser):
    current_user = None

    def prepare(self):
        self.current_user = self.request.headers['X-User']


class UserThatIsSet(KeptUser):
    def prepare(self):
        self.current_user = self.request.headers['X-User']


class UserThatIsFound(KeptUser):
    def get_current_user(self):
        return self.kept


@pytest.mark.parametrize(
    'order', ['behind', 'in front', 'derived', 'between', 'class']
)
@pytest.mark.parametrize(
    'base, direct',
    [
        (UserOfItsOwn, False),
        (UserOnce, False),
        (UserAsAttribute, False),
        (UserThatIsSet, False),
        (UserThatIsFound, False),
        (UserThatIsFound, True),
    ],
)
def test_nobody_gets_the_page_of_a_user_whom_a_class_knows(
    base, order, direct
):
    """Wherever in the bases that is, and however it is asked."""

    class Page:
        async def answer(self):
            found = self.get_current_user() if direct else self.current_user
            self.application.calls.append(found)
            self.write(f'page of {found}')

        get = memcached.cached_response(60)(answer)
        told = memcached.cached_response(60, user=True)(answer)

    mixin = memcached.MemcachedMixin
    if order == 'behind':
        kind = type('Page', (Page, mixin, base), {})
    elif order == 'in front':
        kind = type('Page', (Page, base, mixin), {})
    elif order == 'derived':
        kind = type('Page', (type('Base', (Page, mixin, base), {}),), {})
    elif order == 'between':
        first = type('First', (mixin, KeptUser), {})
        kind = type('Page', (Page, first, base), {})
    else:
        names = ('current_user', 'get_current_user', 'prepare')
        body = {name: vars(base)[name] for name in names if name in vars(base)}
        kind = type('Page', (Page, mixin, KeptUser), body)

    async def main(site):
        for user in ('alice', 'bob', 'alice'):
            assert (await site(X_User=user)).text == f'page of {user}'
        assert site.calls == ['alice', 'bob', 'alice']
        for user in ('alice', 'bob', 'alice'):
            page = await site('/told', X_User=user)
            assert page.text == f'page of {user}'
        assert site.calls[3:] == ['alice', 'bob']

    told = type('Told', (kind,), {'get': kind.told})
    run(main, ('/told', told), ('/', kind))


def test_a_class_says_who_its_user_is_as_ever():
    """A property is one that others build upon, and what is kept may go."""
    mixin = memcached.MemcachedMixin
    first = type('First', (mixin, UserOfItsOwn), {})

    class Second(first):
        @first.current_user.setter
        def current_user(self, value):
            self.kept = value

        @current_user.deleter
        def current_user(self):
            self.kept = 'nobody'

    class Abstract(mixin, web.RequestHandler, metaclass=abc.ABCMeta):
        @property
        @abc.abstractmethod
        def current_user(self):
            """Is for others to say."""

    assert type('Third', (mixin, UserAsAttribute), {}).current_user is None
    assert mixin.current_user is web.RequestHandler.current_user
    assert 'current_user' in Abstract.__abstractmethods__

    class Page(Second):
        async def get(self):
            self.current_user = 'bob'
            names = [self.current_user]
            del self.current_user
            self.write(' '.join([*names, self.current_user]))

    class Kept(type('Kept', (mixin, UserOnce), {})):
        async def get(self):
            names = [self.current_user]
            self.kept = 'bob'
            names.append(self.current_user)
            del self.current_user
            with pytest.raises(AttributeError, match='current_user'):
                del self.current_user
            self.write(' '.join([*names, self.current_user]))

    async def main(site):
        assert await site.texts('/', '/kept', X_User='alice') == [
            'bob nobody',
            'alice alice bob',
        ]

    run(main, ('/', Page), ('/kept', Kept))


def test_a_template_that_uses_none_of_it():
    async def main(site):
        assert await site.texts('/', '/') == ["b'plain'"] * 2
        assert len(site.calls) == 1

    plain = looking(lambda self: self.render_string('plain.html'))
    run(main, plain, template_path='plain')


def answering(answer, **options):
    class Page(Handler):
        @memcached.cached_response(60, **options)
        async def get(self):
            number = self.count()
            answer(self, number)
            self.write(f'{number}')

    return Page


def _no_store(self, _):
    self.set_header('Cache-Control', 'no-store')


def _private(self, _):
    self.set_header('Cache-Control', 'private')


def _vary(self, _):
    self.set_header('Vary', 'X-User')


def _cookie(self, number):
    self.set_cookie('number', str(number))


def _cookie_header(self, number):
    self.add_header('Set-Cookie', f'number={number}')


def _status(status):
    def answer(self, _):
        self.set_status(status)

    return answer


def _redirect(self, number):
    self.redirect(f'/{number}')
    raise web.Finish


def _raise(status):
    def answer(self, number):
        raise web.HTTPError(status)

    return answer


@pytest.mark.parametrize(
    'answer',
    [
        _no_store,
        _private,
        _vary,
        _cookie,
        _cookie_header,
        _redirect,
        *map(_status, (202, 206, 400, 404, 429, 500, 503)),
        *map(_raise, (400, 403, 404, 500, 503)),
    ],
)
def test_what_is_never_stored(answer):
    """Each request gets the answer to itself."""

    async def main(site):
        pages = [await site() for _ in range(3)]
        assert len(site.calls) == 3
        for number, page in enumerate(pages, 1):
            assert 'Age' not in page.headers
            if answer in (_cookie, _cookie_header):
                assert f'number={number}' in page.headers['Set-Cookie']
            assert page.text in (f'{number}', '', f'error {page.code}')

    run(main, answering(answer))


def test_nobody_gets_anothers_cookie():
    """Those who waited for a page that sets one have their own computed."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            number = self.count()
            await asyncio.sleep(0.05)
            self.set_cookie('number', str(number))

    async def main(site):
        pages = await asyncio.gather(*[site() for _ in range(5)])
        cookies = {page.headers['Set-Cookie'] for page in pages}
        assert len(cookies) == 5

    run(main, Page)


@pytest.mark.parametrize(
    'error, code',
    [
        (web.HTTPError(401), 401),
        (web.HTTPError(503), 503),
        (ZeroDivisionError(), 500),
    ],
)
def test_cookies_of_a_method_that_fails(error, code):
    """They are sent with the error, to whom it is about."""
    came = []

    class Page(Handler):
        def prepare(self):
            came.append(self)
            self.set_cookie('came', 'yes')
            self.set_cookie('number', 'none')

        @memcached.cached_response(60)
        async def get(self):
            number = self.count()
            await until(lambda: len(came) == 3)
            self.set_cookie('number', f'{number}')
            raise error

    async def main(site):
        pages = await asyncio.gather(*[site() for _ in range(3)])
        assert [page.code for page in pages] == [code] * 3
        numbers = []
        for page in pages:
            (came, number) = sorted(page.headers.get_list('Set-Cookie'))
            assert came == 'came=yes; Path=/'
            numbers.append(number.partition(';')[0])
        made = [f'number={1 + at}' for at in range(len(site.calls))]
        others = ['number=none'] * (3 - len(made))
        assert sorted(numbers) == [*made, *others]

    run(main, Page)


def test_nobody_gets_anothers_form():
    """Each has a token of his own in it, and in a cookie."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.render('form.html')

        def create_template_loader(self, _):
            return template.DictLoader(
                {'form.html': '{% module xsrf_form_html() %}'}
            )

    async def main(site):
        pages = [await site() for _ in range(3)]
        assert len({page.text for page in pages}) == 3
        assert len(site.calls) == 3
        token = pages[0].headers['Set-Cookie'].partition(';')[0]
        again = await site(Cookie=token)
        assert 'Set-Cookie' not in again.headers

    run(main, Page, xsrf_cookies=True, template_path='form')


@pytest.mark.parametrize(
    'token',
    [
        lambda handler: handler.xsrf_token,
        lambda handler: handler.form.handler.xsrf_token,
    ],
    ids=['of its own', 'by way of another object'],
)
def test_nobody_gets_anothers_token(token):
    """One that was asked for before the method is no other's either."""

    class Page(Handler):
        def prepare(self):
            assert self.xsrf_token
            self.form = Responder(self)

        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.write(token(self))

        async def post(self):
            self.write('posted')

    async def main(site):
        tokens = set()
        for _ in range(2):
            page = await site()
            tokens.add(page.text)
            answer = await site(
                '/',
                'POST',
                body='',
                X_XSRFToken=page.text,
                Cookie=page.headers['Set-Cookie'].partition(';')[0],
            )
            assert answer.text == 'posted'
        assert len(tokens) == 2

    run(main, Page, xsrf_cookies=True)


FORM = ('Content-Type: application/x-www-form-urlencoded', 'Connection: close')


@pytest.mark.parametrize(
    'lines',
    [
        ('Content-Length: 7', '', 'x=other'),
        ('Transfer-Encoding: chunked', '', '7', 'x=other', '0', '', ''),
    ],
    ids=['length', 'chunked'],
)
def test_nobody_gets_what_anothers_body_asks_for(lines):
    """A body is in no key, and its arguments come behind the query's."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.write(f'{self.count()} {self.get_argument("x")}')

    async def main(site):
        with_body = await site.raw('GET /?x=1 HTTP/1.1', *FORM, *lines)
        assert with_body.endswith('1 other')
        assert await site.texts('/?x=1', '/?x=1') == ['2 1', '2 1']
        with_body = await site.raw('GET /?x=1 HTTP/1.1', *FORM, *lines)
        assert with_body.endswith('3 other')
        empty = ('Content-Length: 0', '', '')
        assert (await site.raw('GET /?x=1 HTTP/1.1', *FORM, *empty)).endswith(
            '2 1'
        )

    run(main, Page)


def test_nobody_gets_what_was_written_for_another():
    """What comes before the method and behind it is of each request."""

    class Base(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.write(f'page {self.count()}')

    class Page(Base):
        def prepare(self):
            self.write(f'{self.current_user}: ')

        async def get(self):
            await super().get()
            self.write(self.get_argument('end', ''))

    async def main(site):
        pages = [await site(X_User=user) for user in ('alice', 'bob')]
        assert [page.text for page in pages] == [
            'alice: page 1',
            'bob: page 1',
        ]
        tags = [page.headers['Etag'] for page in pages]
        assert len(set(tags)) == 2
        assert await site.codes(
            '/', X_User='alice', If_None_Match=tags[0]
        ) == [304]
        assert await site.codes('/', X_User='bob', If_None_Match=tags[0]) == [
            200
        ]

    run(main, Page)


def test_a_header_that_was_set_for_one_request_already():
    """What the method sets it to, it is for all."""

    class Page(Handler):
        def prepare(self):
            if self.request.headers['X-User'] == 'alice':
                self.set_header('Content-Type', 'application/json')
                self.add_header('X-One', 'one')

        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.write('{}')
            self.set_header('Content-Type', 'application/json')
            self.set_header('X-One', 'one')

    async def main(site):
        for user in ('alice', 'bob', 'alice'):
            page = await site(X_User=user)
            assert page.headers['Content-Type'] == 'application/json'
            assert page.headers.get_list('X-One') == ['one']
        assert len(site.calls) == 1

    run(main, Page)


@pytest.mark.parametrize('reads', ['itself', 'another object'])
@pytest.mark.parametrize('sets', ['itself', 'another object'])
def test_what_the_method_sets_it_has(sets, reads):
    """By way of another object too."""

    class Page(Handler):
        def prepare(self):
            self.responder = Responder(self)
            self.set_header('Content-Language', self.locale.code)

        @memcached.cached_response(60)
        async def get(self):
            places = {'itself': self, 'another object': self.responder.handler}
            number = self.count()
            places[sets].current_user = f'user {number}'
            places[sets].locale = locale.CSVLocale('no', {})
            found = places[reads]
            self.write(f'{found.current_user} {found.locale.code}')

    async def main(site):
        for number in (1, 2):
            page = await site(X_User='alice')
            assert page.text == f'user {number} no'
            assert page.headers['Content-Language'] == 'en_US'

    run(main, Page)


@pytest.mark.parametrize(
    'end', [lambda page: page.set_status(200), lambda page: page.clear()]
)
def test_a_status_that_was_set_for_one_request_already(end):
    """What the method sets it to, it is for all."""

    class Page(Handler):
        def prepare(self):
            self.set_status(404)

        @memcached.cached_response(60)
        async def get(self):
            end(self)
            self.write(f'{self.count()}')

    async def main(site):
        for _ in range(2):
            page = await site()
            assert (page.code, page.reason, page.text) == (200, 'OK', '1')

    run(main, Page)


def test_a_method_that_is_finished_later():
    class Page(Handler):
        @memcached.cached_response(60)
        def get(self):
            number = self.count()
            self._auto_finish = False
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, self.finish, f'{number}')

    async def main(site):
        assert await site.texts('/', '/') == ['1', '1']

    run(main, Page)


def test_the_copy_has_all_that_the_handler_has():
    """In slots, and for its templates, as well."""

    class Page(Handler):
        __slots__ = ('empty', 'table')

        def initialize(self):
            self.table = 'users'
            self.ui['shout'] = str.upper

        @memcached.cached_response(60)
        async def get(self):
            self.render('shout.html', table=self.table)

        def create_template_loader(self, _):
            return template.DictLoader({'shout.html': '{{ shout(table) }}'})

    async def main(site):
        assert await site.texts('/', '/') == ['USERS', 'USERS']

    run(main, Page, template_path='shout')


class Responder:
    """Answers for the handler that it was made with."""

    def __init__(self, handler):
        self.handler = handler

    def write(self, number):
        self.handler.set_header('X-Number', number)
        self.handler.write(f'{number}')

    def finish(self, number):
        self.handler.set_status(203)
        self.handler.finish({'number': number})

    def render(self, number):
        self.handler.render('number.html', number=number)

    def redirect(self, number):
        self.handler.redirect(f'/{number}', permanent=True)

    def cookie(self, number):
        self.handler.set_cookie('number', f'{number}')

    def error(self, number):
        self.handler.send_error(404)

    def user(self, number):
        self.handler.render('user.html')


@pytest.mark.parametrize(
    'name',
    ['write', 'finish', 'render', 'redirect', 'cookie', 'error', 'user'],
)
def test_what_is_answered_by_way_of_another_object(name):
    """Nobody gets an empty page instead."""

    class Page(Handler):
        def prepare(self):
            self.responder = Responder(self)

        @memcached.cached_response(60)
        async def get(self):
            getattr(self.responder, name)(self.count())

        def create_template_loader(self, _):
            return template.DictLoader(
                {'number.html': '{{ number }}', 'user.html': '{{ taken }}'}
            )

        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['taken'] = namespace.get('current_user')
            return namespace

    async def main(site):
        pages = [await site(X_User=user) for user in ('alice', 'bob')]
        for number, page in enumerate(pages, 1):
            said = page.code, page.text, page.headers.get_list('Location')
            cookie = page.headers.get('Set-Cookie')
            assert (*said, cookie) == {
                'write': (200, '1', [], None),
                'finish': (203, '{"number": 1}', [], None),
                'render': (200, f'{number}', [], None),
                'redirect': (301, '', ['/1'], None),
                'cookie': (200, '', [], f'number={number}; Path=/'),
                'error': (404, 'error 404', [], None),
                'user': (200, ['alice', 'bob'][number - 1], [], None),
            }[name]
        anew = name in ('cookie', 'error', 'user', 'render')
        assert len(site.calls) == (2 if anew else 1)
        if name == 'write':
            assert pages[1].headers['X-Number'] == '1'

    run(main, Page, template_path=f'by way of {name}')


def test_what_is_written_by_a_method_that_was_handed_on(caplog, monkeypatch):
    """It is no part of the copy, and nobody gets a page without it."""
    # Others may have said too much.
    fresh = notices.Notices(responses.LOGGER)
    monkeypatch.setattr(responses, 'NOTICES', fresh)

    class Page(Handler):
        def prepare(self):
            self.put = self.write
            self.write('before ')

        @memcached.cached_response(60)
        async def get(self):
            self.put(f'{self.count()}')

    async def main(site):
        assert await site.texts('/', '/') == ['before 1', 'before 2']

    run(main, Page)
    assert 'depends on what was written to the handler itself' in caplog.text


def test_an_error_that_is_finished_by_way_of_another_object():
    """As Tornado does that, and not the handlers of these tests."""

    class Page(Handler):
        write_error = web.RequestHandler.write_error

        def prepare(self):
            self.responder = Responder(self)

        @memcached.cached_response(60, statuses=[404])
        async def get(self):
            self.responder.error(self.count())

    async def main(site):
        for _ in range(2):
            page = await site()
            assert page.code == 404
            assert '404: Not Found' in page.text
        assert len(site.calls) == 1

    run(main, Page)


@pytest.mark.parametrize(
    'hand_on',
    [
        dict,
        copy.copy,
        lambda namespace: namespace.copy(),
        lambda namespace: namespace | {},
        lambda namespace: {} | namespace,
        lambda namespace: {**namespace},
        lambda namespace: dict(namespace.items()),
        lambda namespace: {name: namespace[name] for name in namespace},
    ],
)
def test_all_that_a_template_may_use_is_handed_on(hand_on):
    """To another kind of template, which may say who is asking."""

    def greet(names):
        return f'{names["current_user"]}, {names["number"]}'

    class Page(Handler):
        def get_template_namespace(self):
            namespace = super().get_template_namespace()
            namespace['number'] = self.count()
            namespace['text'] = greet(hand_on(namespace))
            return namespace

        @memcached.cached_response(60)
        async def get(self):
            self.render('text.html')

        def create_template_loader(self, _):
            return template.DictLoader({'text.html': '{{ text }}'})

    async def main(site):
        for number, user in enumerate(('alice', 'bob'), 1):
            assert (await site(X_User=user)).text == f'{user}, {number}'

    run(main, Page, template_path='all that a template may use')


def test_a_handler_answers_itself_where_nothing_is_recorded():
    """Its methods are those of its class then, which take no longer."""
    own = []

    class Page(Handler):
        def note(self):
            return own.append({*vars(self)} & {'write', 'set_header'})

        def prepare(self):
            self.note()
            self.original = self

        def on_finish(self):
            self.note()

        @memcached.cached_response(60)
        async def get(self):
            self.note()
            self.original.note()
            self.write('page')

    async def main(site):
        for _ in range(2):
            assert (await site()).text == 'page'
        assert own == [set(), set(), {'write', 'set_header'}, *[set()] * 3]

    run(main, Page)


def test_what_comes_behind_a_page_makes_another_etag():
    class Base(Handler):
        @memcached.cached_response(60, query=())
        async def get(self):
            self.count()

    class Page(Base):
        async def get(self):
            await super().get()
            self.write(self.get_argument('end', ''))

    async def main(site):
        tag = (await site('/?end=a')).headers['Etag']
        assert await site.codes('/?end=a', '/?end=b', If_None_Match=tag) == [
            304,
            200,
        ]
        assert len(site.calls) == 1

    run(main, Page)


def test_an_error_page_drops_what_was_written_before():
    class Page(Handler):
        def prepare(self):
            self.write('before')

        @memcached.cached_response(60, statuses=[404])
        async def get(self):
            self.count()
            raise web.HTTPError(404)

    async def main(site):
        assert await site.texts('/', '/') == ['error 404'] * 2
        assert len(site.calls) == 1

    run(main, Page)


@pytest.mark.parametrize('first', ['alice', 'bob'])
@pytest.mark.parametrize(
    'end', [lambda page: page.clear(), lambda page: page.send_error(404)]
)
def test_an_answer_that_is_begun_anew_drops_what_was_set_before(first, end):
    """Whoever it was computed for."""
    numbers = itertools.count()

    class Page(Handler):
        def set_default_headers(self):
            self.set_header('X-Number', next(numbers))

        def prepare(self):
            if self.request.headers['X-User'] == 'alice':
                self.set_header('Content-Type', 'application/json')
                self.set_header('X-One', 'one')

        @memcached.cached_response(60, statuses=[404])
        async def get(self):
            self.count()
            end(self)

    async def main(site):
        seen = set()
        for user in (first, 'alice', 'bob'):
            headers = (await site(X_User=user)).headers
            assert headers['Content-Type'] == 'text/html; charset=UTF-8'
            assert 'X-One' not in headers
            seen.add(headers['X-Number'])
        assert len(site.calls) == 1
        assert len(seen) == 3

    run(main, Page)


def test_nobody_gets_what_was_set_for_another():
    """The method adds to a header, a cookie too, that was set before."""

    class Page(Handler):
        def prepare(self):
            user = self.request.headers['X-User']
            self.add_header('Link', f'<{user}>')
            self.add_header('Set-Cookie', f'user={user}')
            self.add_header('Vary', 'Origin')

        @memcached.cached_response(60, headers=['Accept'], cookies=True)
        async def get(self):
            self.count()
            self.add_header('Link', '<page>')
            self.add_header('Set-Cookie', 'all=1')

    async def main(site):
        for user in ('alice', 'bob', 'carol'):
            headers = (await site(X_User=user)).headers
            assert headers.get_list('Link') == [f'<{user}>', '<page>']
            assert headers.get_list('Set-Cookie') == [f'user={user}', 'all=1']
            assert headers.get_list('Vary') == ['Origin', 'Accept']
            assert headers['Cache-Control'] == 'private, no-cache'
        assert len(site.calls) == 1

    run(main, Page)


def test_a_cookie_that_was_set_for_one_request_already():
    """The one that is stored takes its place, as the method's does."""

    class Page(Handler):
        def prepare(self):
            self.set_cookie('all', self.request.headers['X-User'])
            self.set_cookie('user', self.request.headers['X-User'])

        @memcached.cached_response(60, cookies=True)
        async def get(self):
            self.set_cookie('all', f'{self.count()}')

    async def main(site):
        for user in ('alice', 'bob'):
            headers = (await site(X_User=user)).headers
            assert sorted(headers.get_list('Set-Cookie')) == [
                'all=1; Path=/',
                f'user={user}; Path=/',
            ]
            assert headers['Cache-Control'] == 'private, no-cache'

    run(main, Page)


def test_nobody_gets_anothers_refusal():
    """Those who waited are asked about themselves."""
    came = []

    class Page(Handler):
        def prepare(self):
            came.append(self)

        @memcached.cached_response(60)
        async def get(self):
            number = self.count()
            await until(lambda: len(came) == 5)
            if number == 1:
                raise web.HTTPError(429)
            self.write('page')

    async def main(site):
        pages = await asyncio.gather(*[site() for _ in range(5)])
        assert sorted(page.code for page in pages) == [200] * 4 + [429]

    run(main, Page)


def test_one_that_cannot_be_stored_keeps_no_other_out():
    """The next one that can be is stored."""

    def answer(self, number):
        if number == 1:
            self.set_cookie('new', 'yes')

    async def main(site):
        assert await site.texts('/', '/', '/') == ['1', '2', '2']

    run(main, answering(answer))


@pytest.mark.parametrize(
    'answer, options',
    [
        (_cookie, {'cookies': True}),
        (_status(404), {'statuses': [404]}),
        (_raise(404), {'statuses': [404]}),
        (_redirect, {'statuses': {302}}),
        (_private, {'user': True}),
    ],
)
def test_what_is_stored_when_told(answer, options):
    async def main(site):
        pages = [await site() for _ in range(2)]
        assert len(site.calls) == 1
        first, second = pages
        assert (first.code, first.text) == (second.code, second.text)
        for name in ('Set-Cookie', 'Location'):
            values = first.headers.get_list(name)
            assert values == second.headers.get_list(name)
        if answer is _cookie:
            assert second.headers['Set-Cookie'] == 'number=1; Path=/'

    run(main, answering(answer, **options))


@pytest.mark.parametrize('told', [False, True])
def test_requests_with_authorization(told):
    """They neither get what is stored nor change it, unless that is told."""

    async def main(site):
        texts = await site.texts('/')
        texts += await site.texts('/', '/', Authorization='Bearer x')
        texts += await site.texts('/')
        assert texts == (['1'] * 4 if told else ['1', '2', '3', '1'])

    run(main, counting(60, authorization=told))


@pytest.mark.parametrize(
    'options', [{}, {'user': True}, {'headers': ['authorization']}]
)
def test_nobody_gets_what_anothers_authorization_gives(options):
    async def main(site):
        for user in ('alice', 'bob'):
            for _ in range(2):
                page = await site(Authorization=user, X_User=user)
                assert page.text == user
        assert len(site.calls) == (2 if options else 4)

    def look(self):
        return self.request.headers['Authorization']

    run(main, looking(look, authorization=True, **options))


@pytest.mark.parametrize('by_name', [False, True])
def test_a_method_that_is_called_with_what_is_not_of_the_path(by_name):
    """Each has the answer for what it is called with."""

    class Page(Handler):
        async def get(self, _):
            who = self.request.headers.get('X-Who')
            who = int(who) if who.isdigit() else who
            if by_name:
                await self.greet(who=who)
            else:
                await self.greet(who)

        @memcached.cached_response(60)
        async def greet(self, who):
            self.write(f'{self.count()} {who!r}')

    async def main(site):
        texts = []
        for who in ('alice', 'bob', '1', 'alice', 'a'):
            texts += await site.texts('/a', X_Who=who)
        assert texts == ["1 'alice'", "2 'bob'", '3 1', "1 'alice'", "4 'a'"]

    run(main, ('/(a)', Page), ('/()', Page))


@pytest.mark.parametrize('by_name', [False, True])
def test_arguments_that_prepare_has_put_in_the_place_of_those_of_the_path(
    by_name,
):
    class Page(Handler):
        async def prepare(self):
            user = self.request.headers['X-User']
            if by_name:
                self.path_kwargs = {'user': user}
            else:
                self.path_args[0] = user

        @memcached.cached_response(60)
        async def get(self, user):
            self.count()
            self.write(f'page of {user}')

    async def main(site):
        for user in ('alice', 'bob', 'alice'):
            assert (await site('/me', X_User=user)).text == f'page of {user}'
        assert len(site.calls) == 2

    pattern = '/(?P<user>.*)' if by_name else '/(.*)'
    run(main, (pattern, Page), ('/none', Page))


def test_a_method_that_is_called_with_what_tells_nothing_apart(caplog):
    class Page(Handler):
        async def get(self):
            await self.greet({'name': 'alice'})

        @memcached.cached_response(60)
        async def greet(self, user):
            self.write(user['name'])

    async def main(site):
        assert await site.codes('/') == [500]

    run(main, Page)
    assert 'greet is called with dict; expected what the path has' in (
        caplog.text
    )


def test_a_method_that_returns_its_answer():
    """It is as wrong as without the decorator, and no empty page is kept."""

    class Page(Handler):
        @memcached.cached_response(60)
        def get(self):
            return 'page'

    class Plain(Handler):
        def get(self):
            return 'page'

    async def main(site):
        assert await site.codes('/plain', '/', '/') == [500] * 3

    run(main, ('/plain', Plain), ('/', Page))


def test_a_method_that_is_called_for_another_request():
    """What changes something has its own answer."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.write(f'{self.count()}')

        async def post(self):
            await self.get()

    async def main(site):
        texts = await site.texts('/')
        texts += [(await site('/', 'POST', body='')).text]
        assert texts + await site.texts('/') == ['1', '2', '1']

    run(main, Page)


@pytest.mark.parametrize('other', [False, True])
def test_one_cached_method_calls_another(other):
    """By way of another object, or of its own."""

    class Page(Handler):
        def prepare(self):
            self.responder = Responder(self)

        @memcached.cached_response(60)
        async def inner(self):
            self.write(f'{self.count()}')

        @memcached.cached_response(60)
        async def get(self):
            self.write('page ')
            await (self.responder.handler if other else self).inner()

    async def main(site):
        assert await site.texts('/', '/') == ['page 1', 'page 1']

    run(main, Page)


def test_a_page_that_is_too_large(caplog):
    """It is served, and the log says so once."""

    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.count()
            self.write('x' * 2_000_000)

    async def main(site):
        for _ in range(2):
            page = await site()
            assert (page.code, len(page.body)) == (200, 2_000_000)
        assert len(site.calls) == 2

    with caplog.at_level(logging.WARNING):
        run(main, Page)
    (record,) = [
        record
        for record in caplog.records
        if record.name.startswith('sprockets.clients.memcached')
    ]
    assert 'is not stored' in record.getMessage()


# Browsers


@pytest.mark.parametrize(
    'options, said',
    [
        ({}, 'max-age=60'),
        ({'max_age': 5}, 'max-age=5'),
        ({'max_age': 0}, 'no-cache'),
        ({'user': True, 'max_age': 5}, 'private, max-age=5'),
    ],
)
def test_what_browsers_are_told(options, said):
    async def main(site):
        for _ in range(2):
            assert (await site()).headers['Cache-Control'] == said

    run(main, counting(60, **options))


def test_what_the_method_tells_browsers_counts():
    class Page(Handler):
        @memcached.cached_response(60)
        async def get(self):
            self.set_header('Cache-Control', 'public, max-age=7')

    async def main(site):
        for _ in range(2):
            said = (await site()).headers['Cache-Control']
            assert said == 'public, max-age=7'

    run(main, Page)


@pytest.mark.parametrize('stale', [0, 60])
@pytest.mark.parametrize(
    'said', ['max-age=1', 'max-age=90, s-maxage=1', 'Public, Max-Age=1']
)
def test_what_the_method_says_of_its_age_holds_here_too(said, stale):
    """It is given for no longer, and computed anew."""

    class Page(Handler):
        @memcached.cached_response(60, stale=stale)
        async def get(self):
            self.set_header('Cache-Control', said)
            self.write(f'{self.count()}')

    async def main(site):
        assert await site.texts('/') == ['1']
        await until(lambda: site.texts('/'), ['2'])

    run(main, Page)


@pytest.mark.parametrize('said', ['max-age=0', 'Max-Age=0', 'No-Store'])
def test_what_is_not_to_be_given_at_all_is_not_stored(said):
    def answer(self, _):
        self.set_header('Cache-Control', said)

    async def main(site):
        assert await site.texts('/', '/') == ['1', '2']

    run(main, answering(answer))


# Without a server


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('code', [200, 404])
def test_a_client_that_raises(memcached_server, code, strict):
    """The method's answer is given, with a server or without."""

    class Page(Handler):
        @memcached.cached_response(60, stale=60)
        async def get(self):
            if code != 200:
                raise web.HTTPError(code)

    async def body(site):
        handlers.client_of(
            site.application, None, strict=strict, socket_timeout=1
        )
        assert await site.codes('/', '/') == [code, code]
        memcached_server.kill()
        assert await site.codes('/', '/') == [code, code]

    run(body, Page)


def test_without_a_server(memcached_server):
    """Each page is computed for its request; ETags work as ever."""

    async def main(site):
        await site()
        memcached_server.kill()
        page = await site()
        assert (page.code, page.text) == (200, '2')
        assert 'Age' not in page.headers

    run(main, counting(60))


def test_what_somebody_else_has_stored_there(memcached_server, monkeypatch):
    """What is no response is a miss, and is replaced."""
    monkeypatch.setattr(responses.anykeys, 'fit', lambda *_: b'page')
    client = memcached.Client(servers=memcached_server.address)

    async def main(site):
        good = [200, 'OK', None, 1.0, None, [], []]
        wrong = [
            good[:-1],
            [*good, 1],
            [True, *good[1:]],
            [99, *good[1:]],
            [200, 'OK\r\nX: y', *good[2:]],
            [200, 'OK', 7, *good[3:]],
            [200, 'OK', None, 'now', *good[4:]],
            [200, 'OK', None, float('nan'), *good[4:]],
            [200, 'OK', None, 1.0, '1', [], []],
            [*good[:5], [['X']], []],
            [*good[:5], [['X', []]], []],
            [*good[:5], [['X', [1]]], []],
            [*good[:5], [['X', ['y\r\nSet-Cookie: z']]], []],
            [*good[:6], [1]],
            {},
            7,
        ]
        for stored in (
            'text',
            7,
            b'response 1 {}',
            b'response 1 [1]\nx',
            b'response 1 ' + b'[' * 100_000 + b'\nx',
            *(
                b'response 1 %b\nforged' % json.dumps(head).encode()
                for head in wrong
            ),
        ):
            assert client.set('page', stored)
            number = len(site.calls) + 1
            assert await site.texts('/', '/') == [f'{number}'] * 2

    run(main, counting(60))


# Bad input


@pytest.mark.parametrize(
    'arguments, options, error',
    [
        ((print,), {}, TypeError),
        (('soon',), {}, ValueError),
        ((-1,), {}, ValueError),
        ((60,), {'stale': -1}, ValueError),
        ((60,), {'lease': 0}, ValueError),
        ((60,), {'max_age': -1}, ValueError),
        ((60,), {'query': 'page'}, ValueError),
        ((60,), {'query': [1]}, ValueError),
        ((60,), {'query': 7}, ValueError),
        ((60,), {'headers': 'Accept'}, ValueError),
        ((60,), {'headers': ['']}, ValueError),
        ((60,), {'headers': ['A\r\nB']}, ValueError),
        ((60,), {'statuses': [99]}, ValueError),
        ((60,), {'statuses': ['404']}, ValueError),
        ((60,), {'statuses': 404}, ValueError),
        ((60,), {'statuses': None}, ValueError),
        ((60,), {'prefix': 7}, TypeError),
        ((60,), {'user': 'alice'}, TypeError),
        ((60,), {'vary': 'x'}, TypeError),
    ],
)
def test_what_is_wrong_with_its_arguments(arguments, options, error):
    named = '|'.join(options) or 'time'
    with pytest.raises(error, match=named):
        memcached.cached_response(*arguments, **options)


def test_what_it_cannot_decorate():
    async def post(self):
        pass

    with pytest.raises(TypeError, match='changes something'):
        memcached.cached_response(60)(post)
    with pytest.raises(TypeError, match='no method'):
        memcached.cached_response(60)(7)


@pytest.mark.parametrize('argument', ['user', 'vary'])
def test_what_cannot_be_told_apart(caplog, argument):
    """An object is another one in another process."""
    options = {argument: lambda _: object()}

    async def main(site):
        assert (await site()).code == 500
        assert site.calls == []

    run(main, counting(60, **options))
    assert f'{argument} is object' in caplog.text


def test_a_handler_without_the_mixin(caplog):
    class Page(web.RequestHandler):
        @memcached.cached_response(60)
        async def get(self):
            pass

    async def main(site):
        assert (await site()).code == 500

    run(main, Page)
    assert 'MemcachedMixin' in caplog.text


def test_its_name_and_words_stay():
    @memcached.cached_response(60)
    async def get(self):
        """Words."""

    assert (get.__name__, get.__doc__) == ('get', 'Words.')
    assert responses.cached_response is memcached.cached_response
