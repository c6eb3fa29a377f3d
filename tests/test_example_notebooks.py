"""Rendered notebooks: what is slow is done once, and not too often."""

import http.server
import json
import threading

import pytest
import services

NOTEBOOK = {
    'cells': [
        {'cell_type': 'markdown', 'source': ['Some <b>', 'text']},
        {'cell_type': 'code', 'source': ['print(1)']},
        {'cell_type': 'raw', 'source': ['not shown']},
    ]
}

LARGE = {
    'cells': [{'cell_type': 'code', 'source': ['print(1)\n' * 100]}] * 1500
}

ETAG = '"one"'


class Source(http.server.ThreadingHTTPServer):
    """Where notebooks are from: it notes the ETags that it is asked with."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.asked = []
        self.wait = threading.Event()
        self.wait.set()
        self._thread = threading.Thread(target=self.serve_forever, args=[0.02])

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_address[1]}/notebooks'

    def __enter__(self):
        self._thread.start()
        return super().__enter__()

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.wait.wait(services.SECONDS)
        self.server.asked.append(self.headers['If-None-Match'])
        notebook = LARGE if 'large' in self.path else NOTEBOOK
        body = json.dumps(notebook).encode()
        status = 200
        if 'none' in self.path:
            status, body = 404, b''
        elif 'fails' in self.path:
            status, body = 503, b''
        elif self.headers['If-None-Match'] == ETAG:
            status, body = 304, b''
        self.send_response(status)
        self.send_header('Etag', ETAG)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture
def source():
    with Source() as source:
        yield source


@pytest.fixture
def site(memcached_server, source):
    with services.Service('notebooks.py', '--source', source.url) as site:
        yield site


def test_a_page_is_rendered_once(site, source):
    first, second = site.get('/view/a.ipynb'), site.get('/view/a.ipynb')
    assert b'<p>Some &lt;b&gt;text</p><pre>print(1)</pre>' in first.body
    assert b'not shown' not in first.body
    assert first.body == second.body
    assert 'Age' not in first.headers
    assert 'Age' in second.headers
    assert source.asked == [None]
    etag = second.headers['Etag']
    assert site.get('/view/a.ipynb', If_None_Match=etag).status == 304
    head = site.request('HEAD', '/view/a.ipynb')
    assert (head.body, 'Age' in head.headers) == (b'', True)


def test_a_large_notebook_is_kept_too(site, source):
    """It, and its page, are larger than memcached takes as one value."""
    first, second = (site.get('/view/large.ipynb') for _ in range(2))
    assert len(first.body) > 1 << 20
    assert first.body == second.body
    assert 'Age' in second.headers
    other = site.get('/view/large.ipynb', Host='b.example')
    assert other.body == first.body
    assert source.asked == [None, ETAG]


def test_what_took_long_is_kept_longer(site, source):
    assert site.get('/view/a.ipynb').headers['Cache-Control'] == 'max-age=60'
    source.wait.clear()
    timer = threading.Timer(0.75, source.wait.set)
    timer.start()
    said = site.get('/view/b.ipynb').headers['Cache-Control']
    timer.join()
    assert 60 < int(said.removeprefix('max-age=')) <= 3600


def test_a_notebook_that_is_still_the_same_is_not_sent_again(site, source):
    """Another page of it, for another host, asks with its ETag."""
    page = site.get('/view/a.ipynb')
    other = site.get('/view/a.ipynb', Host='b.example')
    assert source.asked == [None, ETAG]
    assert other.body == page.body
    assert 'Age' not in other.headers


def test_an_address_may_have_so_many_rendered(site, source):
    """What comes from the cache does not count, and is served on."""
    for number in range(30):
        assert site.get(f'/view/{number}.ipynb').status == 200
    assert site.get('/view/more.ipynb').status == 429
    assert site.get('/view/7.ipynb').status == 200
    assert len(source.asked) == 30


@pytest.mark.parametrize(
    'name, status', [('none', 404), ('fails', 502), ('a.b', 200)]
)
def test_what_the_source_says(site, source, name, status):
    """An error is asked for again."""
    for _ in range(2):
        assert site.get(f'/view/{name}.ipynb').status == status
    assert len(source.asked) == (1 if status == 200 else 2)


def test_a_source_that_is_not_there(memcached_server):
    with services.Service(
        'notebooks.py', '--source', 'http://127.0.0.1:1'
    ) as site:
        assert site.get('/view/a.ipynb').status == 502


@pytest.mark.parametrize(
    'servers, asked', [('memory', [None]), ('none', [None] * 3)]
)
def test_without_a_server_while_one_develops(source, servers, asked):
    with services.Service(
        'notebooks.py',
        '--source',
        source.url,
        environ={'MEMCACHED_SERVERS': servers},
    ) as site:
        for _ in range(3):
            assert site.get('/view/a.ipynb').status == 200
        assert source.asked == asked


def test_pages_are_rendered_while_memcached_is_down(
    memcached_server, site, source
):
    """Nobody is limited."""
    memcached_server.kill()
    for number in range(35):
        assert site.get(f'/view/{number}.ipynb').status == 200
    assert len(source.asked) == 35
