"""Articles over SQLite: the cache says what SQLite says, or nothing."""

import concurrent.futures
import itertools
import typing

import pytest
import services

from sprockets.clients import memcached
from sprockets.clients.memcached import testing


class Article(typing.NamedTuple):
    """An article that no other test uses."""

    slug: str
    path: str


NUMBERS = itertools.count(1)


@pytest.fixture(scope='module')
def server():
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture(scope='module')
def service(server):
    with services.Service('articles.py', environ=server.environ()) as service:
        yield service


@pytest.fixture
def articles(server, service):
    """The one service of these tests, with nothing in the cache."""
    server.reset()
    return service


@pytest.fixture
def article():
    slug = f'article-{next(NUMBERS)}'
    return Article(slug, f'/articles/{slug}')


@pytest.fixture
def client(server):
    return memcached.Client(servers=server.address)


def test_the_second_answer_comes_from_memcached(articles, article):
    """The first one is from SQLite, and says the same."""
    first = articles.get(article.path).json
    second = articles.get(article.path).json
    assert first.pop('source') == 'sqlite'
    assert second.pop('source') == 'memcached'
    assert (first.pop('hits'), second.pop('hits')) == (1, 2)
    assert first == second
    assert first['title'] == article.slug.capitalize()
    assert len(first['related']) == 3


def test_an_article_is_cached_for_a_minute(articles, article, server):
    """So long may an answer be out of date at most."""
    articles.get(article.path)
    left = services.seconds_left(server, f'article:{article.slug}')
    assert 0 < left <= 60


def test_every_article_listed_is_there(articles):
    """The list is for finding something to ask for."""
    slugs = articles.get('/articles').json['articles']
    assert slugs[0] == 'tornado'
    assert articles.get(f'/articles/{slugs[-1]}').status == 200


def test_hits_of_many_readers_are_all_counted(articles, article):
    """The first ones, who all find no counter, too."""
    with concurrent.futures.ThreadPoolExecutor(20) as executor:
        answers = list(executor.map(articles.get, [article.path] * 20))
    assert sorted(a.json['hits'] for a in answers) == list(range(1, 21))


def test_an_edit_is_seen_in_the_cache(articles, article):
    """Without waiting for the old article to expire."""
    articles.get(article.path)
    change = {'text': 'Spins.', 'revision': 1}
    edited = articles.request('PUT', article.path, change)
    assert (edited.status, edited.json['revision']) == (200, 2)
    assert edited.json['title'] == article.slug.capitalize()
    read = articles.get(article.path).json
    assert (read['source'], read['text']) == ('memcached', 'Spins.')


def test_an_edit_of_what_nobody_read_is_cached(articles, article):
    """cas stores where gets found nothing."""
    change = {'title': 'T', 'revision': 1}
    articles.request('PUT', article.path, change)
    read = articles.get(article.path).json
    assert (read['source'], read['title']) == ('memcached', 'T')


def test_an_edit_of_an_old_revision_loses(articles, article):
    """409, and neither SQLite nor memcached have it."""
    first = {'text': 'first', 'revision': 1}
    second = {'text': 'second', 'revision': 1}
    assert articles.request('PUT', article.path, first).status == 200
    refused = articles.request('PUT', article.path, second)
    assert refused.status == 409
    assert refused.json == {'error': 'The article has revision 2'}
    assert articles.get(article.path).json['text'] == 'first'


def test_of_edits_at_the_same_time_one_wins(articles, article):
    """And it is the one that readers get."""
    with concurrent.futures.ThreadPoolExecutor(12) as executor:
        readers = [
            executor.submit(articles.get, article.path) for _ in range(12)
        ]
        answers = list(
            executor.map(
                lambda number: articles.request(
                    'PUT',
                    article.path,
                    {'text': str(number), 'revision': 1},
                ),
                range(12),
            )
        )
    assert all(reader.result().status == 200 for reader in readers)
    (won,) = [answer for answer in answers if answer.status == 200]
    assert [answer.status for answer in answers].count(409) == 11
    read = articles.get(article.path).json
    assert read['text'] == won.json['text']
    assert read['source'] == 'memcached'


def test_an_older_revision_does_not_replace_a_newer_one(
    articles, article, client
):
    """An edit that comes late to the cache leaves it alone."""
    newer = articles.get(article.path).json | {'revision': 9}
    client.set(f'article:{article.slug}', newer)
    change = {'text': 'late', 'revision': 1}
    assert articles.request('PUT', article.path, change).status == 200
    assert client.get(f'article:{article.slug}') == newer


def test_a_deleted_article_is_gone(articles, article, client):
    """From the cache too, and its hits with it."""
    articles.get(article.path)
    assert articles.request('DELETE', article.path).status == 204
    assert articles.get(article.path).status == 404
    assert articles.request('DELETE', article.path).status == 404
    assert client.get(f'hits:{article.slug}') is None
    change = {'text': 'again', 'revision': 1}
    assert articles.request('PUT', article.path, change).status == 404


def test_a_late_reader_does_not_bring_a_deleted_article_back(
    articles, article, client
):
    """It add()s what it read before, and finds the key taken."""
    articles.request('DELETE', article.path)
    assert not client.add(f'article:{article.slug}', {'revision': 1})
    assert articles.get(article.path).status == 404


def test_an_article_that_never_was_is_not_counted(articles, client):
    """Made-up names leave nothing behind in memcached."""
    answer = articles.get('/articles/nothing')
    assert (answer.status, answer.json) == (404, {'error': 'No such article'})
    assert client.get('hits:nothing') is None


@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'no json',
        b'[1]',
        b'{"text": "no revision"}',
        b'{"revision": 1}',
        b'{"text": 1, "revision": 1}',
        b'{"text": "x", "revision": "1"}',
        b'{"text": "x", "revision": true}',
        b'{"text": "x", "revision": 1e400}',
        b'{"text": "x", "revision": 18446744073709551616}',
        b'{"text": "\\ud800", "revision": 1}',
        b'{"text": "\xff", "revision": 1}',
        b'{"slug": "other", "revision": 1}',
    ],
)
def test_a_wrong_edit_is_refused(articles, article, body):
    """400, and the article is as it was."""
    assert articles.request('PUT', article.path, body).status == 400
    assert articles.get(article.path).json['revision'] == 1


@pytest.mark.parametrize(
    'slug', ['a%0d%0aflush_all', 'a%20b', 'a' * 300, '%00', '%E4']
)
def test_what_cannot_be_a_key_is_no_article(articles, slug):
    """The route lets through what is fit for a key, and nothing else."""
    assert articles.get(f'/articles/{slug}').status == 404


def test_articles_come_from_sqlite_when_memcached_dies(memcached_server):
    """Every kind of request works, without hits."""
    with services.Service('articles.py') as articles:
        articles.get('/articles/tornado')
        memcached_server.kill()
        read = articles.get('/articles/tornado')
        assert read.status == 200
        assert (read.json['source'], read.json['hits']) == ('sqlite', None)
        change = {'text': 'Spins.', 'revision': 1}
        edited = articles.request('PUT', '/articles/tornado', change)
        assert edited.status == 200
        assert articles.get('/articles/tornado').json['text'] == 'Spins.'
        assert articles.request('DELETE', '/articles/tornado').status == 204
        assert articles.get('/articles/tornado').status == 404


def test_caching_goes_on_when_memcached_is_back(memcached_server):
    """Nobody has to restart the service."""
    with services.Service(
        'articles.py', environ={'MEMCACHED_DEAD_RETRY': '0.05'}
    ) as articles:
        memcached_server.kill()
        articles.get('/articles/tornado')
        memcached_server.start()
        services.wait_until(
            lambda: (
                articles.get('/articles/tornado').json['source'] == 'memcached'
            )
        )


@pytest.mark.parametrize('body', [b'[' * 16_000, b'{"text":' * 1500, b'7'])
def test_whatever_is_no_edit_is_a_bad_request(articles, body):
    """However deep it goes."""
    answer = articles.request('PUT', '/articles/tornado', body)
    assert answer.status == 400
    assert 'error' in answer.json


def test_another_site_edits_nothing(articles):
    """Its visitors' browsers would."""
    edit = {'text': 'Buy!', 'revision': 1}
    answer = articles.request(
        'PUT', '/articles/sqlite', edit, Sec_Fetch_Site='cross-site'
    )
    assert answer.status == 403
