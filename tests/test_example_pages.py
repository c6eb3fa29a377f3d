"""Page caching: ETags, new entries, key names, and an outage."""

import socket
import urllib.parse

import pytest
import services

from sprockets.clients import memcached
from sprockets.clients.memcached import testing


@pytest.fixture(scope='module')
def server():
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture(scope='module')
def service(server):
    with services.Service('pages.py', environ=server.environ()) as service:
        for number in range(15):
            sign(service, f'Entry {number}.')
        yield service


@pytest.fixture
def site(server, service):
    """The one service of these tests, with two pages, none of them cached."""
    server.reset()
    return service


@pytest.fixture
def client(server):
    return memcached.Client(servers=server.address)


def sign(site, text):
    body = urllib.parse.urlencode({'text': text}).encode()
    return site.post(
        '/', body, Content_Type='application/x-www-form-urlencoded'
    )


def source(answer):
    return 'memcached' if 'Age' in answer.headers else 'sqlite'


def test_a_page_is_drawn_once(site):
    """The second time it comes from memcached, byte for byte."""
    first, second = site.get('/'), site.get('/')
    assert (source(first), source(second)) == ('sqlite', 'memcached')
    assert first.body == second.body
    assert site.request('HEAD', '/').headers['Age']
    assert first.headers['ETag'] == second.headers['ETag']
    assert b'page 1 of' in first.body


def test_who_has_the_page_gets_none(site):
    """304 for the ETag, 200 for another one."""
    etag = site.get('/').headers['ETag']
    answer = site.get('/', If_None_Match=etag)
    assert (answer.status, answer.body) == (304, b'')
    assert answer.headers['ETag'] == etag
    assert answer.headers['Cache-Control'] == 'no-cache'
    assert site.get('/', If_None_Match='"another"').status == 200
    assert site.get('/', If_None_Match=f'"another", {etag}').status == 304


def test_the_etag_is_the_same_wherever_the_page_came_from(site, server):
    """A browser keeps its page though memcached was emptied."""
    etag = site.get('/').headers['ETag']
    server.reset()
    answer = site.get('/', If_None_Match=etag)
    assert (answer.status, source(answer)) == (304, 'sqlite')


def test_a_new_entry_changes_every_page_at_once(site):
    """The one it is on, and those where the others move down."""
    before = [site.get(path).headers['ETag'] for path in ('/', '/?page=2')]
    answer = sign(site, 'Hello, guestbook.')
    assert (answer.status, answer.headers['Location']) == (303, '/')
    after = [site.get(path) for path in ('/', '/?page=2')]
    assert b'Hello, guestbook.' in after[0].body
    for etag, answer in zip(before, after, strict=True):
        assert answer.headers['ETag'] != etag
    assert site.get('/', If_None_Match=before[0]).status == 200


def test_a_lost_generation_brings_no_old_pages_back(site, client):
    """The next one has a number that none had before."""
    site.get('/')
    old = client.get('generation')
    client.delete('generation')
    assert source(site.get('/')) == 'sqlite'
    assert client.get('generation') > old


def test_pages_expire(site, server):
    """Within a minute, whatever went wrong."""
    with socket.create_connection((server.host, server.port), 10) as link:
        link.sendall(b'watch mutations\r\n')
        lines = link.makefile()
        assert lines.readline().strip() == 'OK'
        site.get('/')
        # doc/protocol.txt, "Watchers"
        stored = next(line for line in lines if 'key=response' in line)
    assert ' ttl=60 ' in stored


def test_what_does_not_matter_makes_no_other_page(site):
    """Nobody fills the cache with arguments of his own."""
    site.get('/')
    assert source(site.get('/?utm=1')) == 'memcached'
    assert source(site.get('/?page=%2B1')) == 'memcached'


@pytest.mark.parametrize(
    'page', ['0', '-1', '99', 'x', '', '1%0d%0aflush_all', '9' * 5000]
)
def test_there_is_no_such_page(site, page):
    """404, and nothing stored."""
    assert site.get(f'/?page={page}').status == 404


def test_an_entry_is_text(site):
    """Nobody writes markup into the pages of others."""
    sign(site, '<script>alert(1)</script>')
    assert b'<script>' not in site.get('/').body
    assert site.post('/').status == 400


def test_pages_are_drawn_while_memcached_is_down(memcached_server):
    """ETags and new entries work as ever."""
    with services.Service('pages.py') as site:
        sign(site, 'Before.')
        site.get('/')
        memcached_server.kill()
        drawn = site.get('/')
        assert source(drawn) == 'sqlite'
        etag = drawn.headers['ETag']
        assert site.get('/', If_None_Match=etag).status == 304
        assert sign(site, 'During.').status == 303
        assert b'During.' in site.get('/').body
        assert site.get('/', If_None_Match=etag).status == 200


@pytest.mark.parametrize(
    'headers',
    [
        {'Sec_Fetch_Site': 'cross-site'},
        {'Sec_Fetch_Site': 'same-site'},
        {'Origin': 'https://elsewhere.example'},
        {'Origin': 'null'},
    ],
    ids=str,
)
def test_another_site_signs_nothing(site, headers):
    """Its visitors' browsers would."""
    before = site.get('/').body
    body = urllib.parse.urlencode({'text': 'Buy!'}).encode()
    answer = site.post(
        '/',
        body,
        Content_Type='application/x-www-form-urlencoded',
        **headers,
    )
    assert answer.status == 403
    assert site.get('/').body == before


def test_an_entry_is_no_script(site):
    """It is text, and a script would not run."""
    sign(site, '<script>alert(1)</script>')
    answer = site.get('/')
    assert b'<script>' not in answer.body
    policy = answer.headers['Content-Security-Policy']
    assert "default-src 'none'" in policy
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'


def test_a_large_body_is_refused(site):
    """Before it is read."""
    assert site.announce('/', 20_000) in (400, 413)
