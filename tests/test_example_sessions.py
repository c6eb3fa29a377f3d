"""Login sessions: expiry, key names, and what an outage changes."""

import concurrent.futures
import contextlib
import hashlib
import sqlite3

import pytest
import services

from sprockets.clients import memcached
from sprockets.clients.memcached import testing

ADA = {'name': 'ada', 'password': 'engine'}


@pytest.fixture(scope='module')
def server():
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture(scope='module')
def database(tmp_path_factory):
    return str(tmp_path_factory.mktemp('sessions') / 'sessions.db')


@pytest.fixture(scope='module')
def service(server, database):
    with services.Service(
        'sessions.py', '--database', database, environ=server.environ()
    ) as service:
        yield service


@pytest.fixture
def site(server, service):
    """The one service of these tests, with nothing in the cache."""
    server.reset()
    return service


@pytest.fixture
def client(server):
    return memcached.Client(servers=server.address)


def key_of(cookie):
    token = cookie.removeprefix('__Host-session=')
    return f'session:{hashlib.sha256(token.encode()).hexdigest()}'


def shift(database, cookie, column, seconds):
    """Make a session older."""
    fingerprint = key_of(cookie).removeprefix('session:')
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(
            f'UPDATE sessions SET {column} = {column} - ?'
            ' WHERE fingerprint = ?',
            [seconds, fingerprint],
        )
        connection.commit()


def test_who_logs_in_is_known_until_the_logout(site):
    """And not any longer, though memcached knew the session."""
    cookie = site.post('/login', ADA).cookie
    for _ in range(2):
        assert site.get('/me', Cookie=cookie).json == {'user': 'ada'}
    logout = site.post('/logout', Cookie=cookie)
    assert logout.status == 204
    assert logout.cookie == '__Host-session=""'
    assert site.get('/me', Cookie=cookie).status == 401


def test_the_second_look_up_is_for_memcached(site, client):
    """It answers by itself then."""
    cookie = site.post('/login', ADA).cookie
    assert client.get(key_of(cookie)) is None
    site.get('/me', Cookie=cookie)
    assert client.get(key_of(cookie)) == 'ada'
    client.set(key_of(cookie), 'grace')
    assert site.get('/me', Cookie=cookie).json == {'user': 'grace'}


def test_every_login_is_a_session_of_its_own(site):
    """The end of one is not the end of the other."""
    first = site.post('/login', ADA).cookie
    second = site.post('/login', ADA, Cookie=first).cookie
    assert first != second
    site.post('/logout', Cookie=first)
    assert site.get('/me', Cookie=first).status == 401
    assert site.get('/me', Cookie=second).status == 200


@pytest.mark.parametrize(
    'given, status',
    [
        ({'name': 'ada', 'password': 'wrong'}, 401),
        ({'name': 'ada', 'password': ''}, 401),
        ({'name': 'nobody', 'password': 'engine'}, 401),
        ({'name': 'nobody', 'password': ''}, 401),
        ({'name': 'ada'}, 400),
        ({'name': 1, 'password': 'engine'}, 400),
        ({'name': 'ada', 'password': None}, 400),
        ({'name': '\ud800', 'password': 'engine'}, 400),
        ({'name': 'ada', 'password': 'x' * 101}, 400),
        ([], 400),
        (b'no json', 400),
        (b'{"a":' * 2000, 400),
        (b'[' * 16_000, 400),
    ],
)
def test_a_wrong_login_begins_no_session(site, given, status):
    """No cookie comes with it."""
    answer = site.post('/login', given or b'[]')
    assert answer.status == status
    assert 'Set-Cookie' not in answer.headers


def test_the_cookie_is_hidden_from_scripts_and_other_sites(site):
    """And from whoever is on the way, whatever a proxy says of that."""
    cookie = site.post('/login', ADA).cookie
    for answer in (
        site.post('/login', ADA),
        site.post('/login', ADA, X_Forwarded_Proto='http'),
        site.post('/logout', Cookie=cookie),
    ):
        header = answer.headers['Set-Cookie']
        name, *parts = header.split('; ')
        assert name.startswith('__Host-session=')
        # What the prefix wants, and browsers refuse it without.
        assert {'Secure', 'Path=/'} <= {*parts}
        assert 'Domain' not in header
        assert {'HttpOnly', 'SameSite=Lax'} <= {*parts}


ELSEWHERE = [
    {'Sec_Fetch_Site': 'cross-site'},
    {'Sec_Fetch_Site': 'same-site'},
    {'Sec_Fetch_Site': 'anything'},
    {'Origin': 'https://elsewhere.example'},
    {'Origin': 'null'},
    {'Origin': 'http://127.0.0.1:1'},
]


@pytest.mark.parametrize('headers', ELSEWHERE, ids=str)
def test_another_sites_form_does_nothing(site, headers):
    """It neither logs anybody in, as somebody else say, nor out."""
    refused = site.post('/login', ADA, **headers)
    assert refused.status == 403
    assert 'Set-Cookie' not in refused.headers
    cookie = site.post('/login', ADA).cookie
    assert site.post('/logout', Cookie=cookie, **headers).status == 403
    assert site.get('/me', Cookie=cookie, **headers).status == 200


def test_our_own_form_does(site):
    """By whichever sign a browser gives, or none."""
    host = site.address.removeprefix('http://')
    for headers in (
        {'Sec_Fetch_Site': 'same-origin'},
        {'Sec_Fetch_Site': 'none'},
        {'Origin': site.address},
        # A proxy speaks HTTPS.
        {'Origin': f'https://{host}'},
        {},
    ):
        assert site.post('/login', ADA, **headers).status == 200, headers


def test_what_is_private_is_kept_nowhere(site):
    """Whatever the answer is."""
    cookie = site.post('/login', ADA).cookie
    for answer in (
        site.post('/login', ADA),
        site.post('/login', b'[]'),
        site.get('/me', Cookie=cookie),
        site.get('/me'),
        site.post('/logout', Cookie=cookie),
    ):
        assert answer.headers['Cache-Control'] == 'no-store', answer.status


def test_passwords_are_not_tried_out(site):
    """After ten attempts it is over, with the right one as well."""
    wrong = {'name': 'ada', 'password': 'wrong'}
    answers = [site.post('/login', wrong).status for _ in range(12)]
    assert answers == [401] * 10 + [429] * 2
    assert site.post('/login', ADA).status == 429


def test_nor_while_memcached_is_down(memcached_server):
    """Then it is the process that counts."""
    memcached_server.kill()
    wrong = {'name': 'ada', 'password': 'wrong'}
    with services.Service('sessions.py') as site:
        answers = [site.post('/login', wrong).status for _ in range(12)]
    assert answers == [401] * 10 + [429] * 2


def test_a_login_holds_nobody_up(site):
    """Hashing is not for the thread that looks up sessions."""
    cookie = site.post('/login', ADA).cookie
    wrong = {'name': 'ada', 'password': 'wrong'}
    with concurrent.futures.ThreadPoolExecutor(9) as executor:
        logins = [executor.submit(site.post, '/login', wrong)]
        logins += [executor.submit(site.post, '/login', wrong) for _ in 'abcd']
        found = 0
        while not all(login.done() for login in logins):
            assert site.get('/me', Cookie=cookie).status == 200
            found += 1
    # One for all of them, if it had waited in their queue.
    assert found > 1


def test_a_large_body_is_refused(site):
    """Before it is read."""
    assert site.announce('/login', 20_000) in (400, 413)


@pytest.mark.parametrize(
    'cookie',
    [
        '',
        '__Host-session=',
        '__Host-session=made-up',
        '__Host-session="\\015\\012flush_all"',
        '__Host-session=\xff',
        f'__Host-session={"x" * 4000}',
    ],
)
def test_a_made_up_cookie_is_nobody(site, cookie):
    """Whatever it is, it is fit for a key, and no session."""
    assert site.get('/me', Cookie=cookie).status == 401
    assert site.post('/logout', Cookie=cookie).status == 204


def test_neither_store_has_the_cookie(site, server, database):
    """Whoever sees keys or tables cannot use somebody's session."""
    cookie = site.post('/login', ADA).cookie
    site.get('/me', Cookie=cookie)
    token = cookie.removeprefix('__Host-session=')
    with contextlib.closing(sqlite3.connect(database)) as connection:
        dump = '\n'.join(connection.iterdump())
    assert key_of(cookie).removeprefix('session:') in dump
    assert token not in dump


@pytest.mark.parametrize(
    'column, seconds', [('used', 31 * 60), ('began', 13 * 60 * 60)]
)
def test_a_session_ends_when_it_is_idle_or_old(
    site, database, column, seconds
):
    """Once memcached has forgotten it, after a minute at most."""
    cookie = site.post('/login', ADA).cookie
    shift(database, cookie, column, seconds)
    assert site.get('/me', Cookie=cookie).status == 401


def test_use_prolongs_a_session(site, database, server):
    """Half an hour counts from the last use."""
    cookie = site.post('/login', ADA).cookie
    for _ in range(2):
        shift(database, cookie, 'used', 20 * 60)
        server.reset()
        assert site.get('/me', Cookie=cookie).status == 200


def test_memcached_keeps_no_session_beyond_its_end(site, database):
    """One that is almost over is cached for what is left of it."""
    cookie = site.post('/login', ADA).cookie
    shift(database, cookie, 'began', 12 * 60 * 60 - 2)
    assert site.get('/me', Cookie=cookie).status == 200
    services.wait_until(
        lambda: site.get('/me', Cookie=cookie).status == 401, seconds=20
    )


def test_a_late_reader_does_not_undo_a_logout(site, client):
    """What it add()s finds the key taken."""
    cookie = site.post('/login', ADA).cookie
    site.post('/logout', Cookie=cookie)
    assert not client.add(key_of(cookie), 'ada')
    assert site.get('/me', Cookie=cookie).status == 401


def test_a_restart_of_memcached_logs_nobody_out(site, server):
    """SQLite has the session."""
    cookie = site.post('/login', ADA).cookie
    site.get('/me', Cookie=cookie)
    server.restart()
    assert site.get('/me', Cookie=cookie).status == 200


def test_sessions_work_while_memcached_is_down(memcached_server):
    """Login, use, logout: all by SQLite."""
    with services.Service('sessions.py') as site:
        before = site.post('/login', ADA).cookie
        site.get('/me', Cookie=before)
        memcached_server.kill()
        assert site.get('/me', Cookie=before).status == 200
        during = site.post('/login', ADA).cookie
        assert site.get('/me', Cookie=during).status == 200
        assert site.post('/logout', Cookie=during).status == 204
        assert site.get('/me', Cookie=during).status == 401
        assert site.get('/me', Cookie=before).status == 200
