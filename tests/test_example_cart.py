"""The shopping cart: nothing is lost, and nothing is said that is not so."""

import base64
import concurrent.futures
import hashlib

import pytest
import services
import wire

from sprockets.clients.memcached import testing

ITEMS = [
    'apple',
    'bread',
    'butter',
    'cheese',
    'coffee',
    'egg',
    'honey',
    'milk',
    'rice',
    'tea',
]


@pytest.fixture(scope='module')
def server():
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture(scope='module')
def service(server):
    with services.Service('cart.py', environ=server.environ()) as service:
        yield service


@pytest.fixture
def site(server, service):
    """The one service of these tests, with no cart."""
    server.reset()
    return service


def put(site, cookie, item, count):
    return site.request(
        'PUT', f'/cart/{item}', {'count': count}, Cookie=cookie
    )


def begin(site):
    """Return the cookie of a customer whose cart is empty."""
    cookie = put(site, '', 'tea', 1).cookie
    site.request('DELETE', '/cart', Cookie=cookie)
    return cookie


def test_what_is_put_into_the_cart_is_there(site):
    """With what it costs, in cents."""
    first = site.get('/cart')
    assert first.json == {'items': {}, 'total': 0}
    assert 'Set-Cookie' not in first.headers
    cookie = begin(site)
    assert put(site, cookie, 'apple', 2).json['total'] == 80
    put(site, cookie, 'tea', 1)
    assert site.get('/cart', Cookie=cookie).json == {
        'items': {'apple': 2, 'tea': 1},
        'total': 490,
    }
    put(site, cookie, 'apple', 0)
    assert site.get('/cart', Cookie=cookie).json['items'] == {'tea': 1}


def test_changes_at_the_same_time_are_all_kept(site):
    """Ten tabs, each with another item."""
    cookie = begin(site)
    with concurrent.futures.ThreadPoolExecutor(10) as executor:
        answers = list(
            executor.map(lambda item: put(site, cookie, item, 3), ITEMS)
        )
    assert [answer.status for answer in answers] == [200] * 10
    items = site.get('/cart', Cookie=cookie).json['items']
    assert items == dict.fromkeys(ITEMS, 3)


def test_the_first_changes_of_a_cart_are_all_kept(site, server):
    """Where there was none yet, cas makes one only once."""
    cookie = begin(site)
    server.reset()
    with concurrent.futures.ThreadPoolExecutor(10) as executor:
        list(executor.map(lambda item: put(site, cookie, item, 1), ITEMS))
    items = site.get('/cart', Cookie=cookie).json['items']
    assert items == dict.fromkeys(ITEMS, 1)


def test_a_change_may_be_made_again(site):
    """Two apples are two apples, however often one says so."""
    cookie = begin(site)
    for _ in range(3):
        put(site, cookie, 'apple', 2)
    assert site.get('/cart', Cookie=cookie).json['items'] == {'apple': 2}


def test_a_cart_is_kept_for_a_week(site, server):
    """From its last change on; the key does not give the cookie away."""
    cookie = put(site, '', 'apple', 2).cookie
    # What is signed: name and value, base64.
    token = base64.b64decode(cookie.split(':')[4].split('|')[0])
    key = f'cart:{hashlib.sha256(token).hexdigest()}'
    week = 7 * 24 * 60 * 60
    assert week - 60 < services.seconds_left(server, key) <= week


def test_a_cart_is_emptied(site):
    """And used again."""
    cookie = begin(site)
    put(site, cookie, 'apple', 2)
    assert site.request('DELETE', '/cart', Cookie=cookie).json['items'] == {}
    assert site.get('/cart', Cookie=cookie).json['items'] == {}
    assert put(site, cookie, 'egg', 6).json['items'] == {'egg': 6}


def test_each_customer_has_a_cart(site):
    """Without a cookie, a new one."""
    one = put(site, '', 'apple', 1)
    two = put(site, '', 'bread', 1)
    assert one.cookie != two.cookie
    assert site.get('/cart', Cookie=one.cookie).json['items'] == {'apple': 1}
    assert 'HttpOnly' in one.headers['Set-Cookie']


@pytest.mark.parametrize(
    'value',
    ['', 'short', '"\\015\\012flush_all"', 'x' * 43, 'x' * 999, '2|1:0|'],
)
def test_a_made_up_cookie_is_replaced(site, value):
    """It gets a cart, by a cookie of ours: none that somebody has planted."""
    cookie = f'__Host-cart={value}'
    answer = put(site, cookie, 'apple', 1)
    assert answer.status == 200
    assert answer.cookie.startswith('__Host-cart=')
    assert answer.cookie != cookie
    assert site.get('/cart', Cookie=cookie).json['items'] == {}
    items = site.get('/cart', Cookie=answer.cookie).json['items']
    assert items == {'apple': 1}


def test_a_cookie_is_signed(site):
    """One whose value was changed is none."""
    cookie = put(site, '', 'apple', 1).cookie
    for at in (-1, -30, 60):
        other = 'A' if cookie[at] != 'A' else 'B'
        changed = cookie[:at] + other + cookie[at:][1:]
        assert site.get('/cart', Cookie=changed).json['items'] == {}


def test_who_only_looks_stores_nothing(site, server):
    """Without a cookie, with one that is made up, and by emptying none."""
    before = wire.statistics(server.address)
    for cookie in ('', '__Host-cart=x', f'__Host-cart={"x" * 43}'):
        for method in ('GET', 'DELETE'):
            answer = site.request(method, '/cart', Cookie=cookie)
            assert answer.json == {'items': {}, 'total': 0}
            assert 'Set-Cookie' not in answer.headers
    # Not the items: those that are flushed go by and by.
    after = wire.statistics(server.address)
    assert after['cmd_set'] == before['cmd_set']


def test_what_its_cookie_is(site):
    """Secure whatever is in front, and of this host alone."""
    answer = put(site, '', 'apple', 1)
    header = answer.headers['Set-Cookie']
    assert {'Secure', 'HttpOnly', 'Path=/', 'SameSite=Lax'} <= {
        *header.split('; ')
    }
    assert 'Domain' not in header
    assert answer.headers['Cache-Control'] == 'no-store'
    assert site.get('/cart').headers['Cache-Control'] == 'no-store'


@pytest.mark.parametrize(
    'headers',
    [{'Sec_Fetch_Site': 'cross-site'}, {'Origin': 'https://elsewhere'}],
)
def test_another_site_changes_no_cart(site, headers):
    """403, and nothing is changed."""
    cookie = put(site, '', 'apple', 1).cookie
    for method, path in (('PUT', '/cart/egg'), ('DELETE', '/cart')):
        answer = site.request(
            method, path, {'count': 1}, Cookie=cookie, **headers
        )
        assert answer.status == 403
    assert site.get('/cart', Cookie=cookie).json['items'] == {'apple': 1}


def test_processes_that_share_a_secret_share_carts(server):
    """And so does one after a restart."""
    environ = server.environ() | {'CART_SECRET': 'x' * 40}
    with services.Service('cart.py', environ=environ) as site:
        cookie = put(site, '', 'apple', 1).cookie
    with services.Service('cart.py', environ=environ) as site:
        items = site.get('/cart', Cookie=cookie).json['items']
    assert items == {'apple': 1}


@pytest.mark.parametrize(
    'item, body, status',
    [
        ('gold', {'count': 1}, 404),
        ('apple', {'count': -1}, 400),
        ('apple', {'count': 100}, 400),
        ('apple', {'count': 1.5}, 400),
        ('apple', {'count': True}, 400),
        ('apple', {'number': 1}, 400),
        ('apple', [1], 400),
        ('apple', b'no json', 400),
        ('apple', b'[' * 16_000, 400),
        ('apple', b'{"count":' * 1500, 400),
    ],
)
def test_a_wrong_change_changes_nothing(site, item, body, status):
    """400 or 404."""
    cookie = begin(site)
    answer = site.request('PUT', f'/cart/{item}', body, Cookie=cookie)
    assert answer.status == status
    assert site.get('/cart', Cookie=cookie).json['items'] == {}


def test_a_cart_that_cannot_be_reached_is_not_an_empty_one(memcached_server):
    """503 for all, and the cart as it was once memcached can be reached."""
    with services.Service(
        'cart.py',
        environ={
            'MEMCACHED_SOCKET_TIMEOUT': '0.3',
            'MEMCACHED_DEAD_RETRY': '0.5',
        },
    ) as site:
        cookie = put(site, '', 'apple', 2).cookie
        memcached_server.pause()
        for answer in (
            site.get('/cart', Cookie=cookie),
            put(site, cookie, 'egg', 6),
            site.request('DELETE', '/cart', Cookie=cookie),
        ):
            assert answer.status == 503
            assert answer.headers['Retry-After'] == '1'
            assert 'error' in answer.json
        memcached_server.resume()
        services.wait_until(
            lambda: site.get('/cart', Cookie=cookie).status == 200
        )
        items = site.get('/cart', Cookie=cookie).json['items']
        assert items['apple'] == 2


def test_a_cart_is_lost_with_memcached(memcached_server):
    """503 while it is down; then the customer begins anew."""
    with services.Service(
        'cart.py', environ={'MEMCACHED_DEAD_RETRY': '0.05'}
    ) as site:
        cookie = put(site, '', 'apple', 2).cookie
        memcached_server.kill()
        assert site.get('/cart', Cookie=cookie).status == 503
        assert put(site, cookie, 'egg', 6).status == 503
        memcached_server.start()
        services.wait_until(
            lambda: site.get('/cart', Cookie=cookie).status == 200
        )
        assert site.get('/cart', Cookie=cookie).json['items'] == {}


def test_the_carts_of_a_dead_server_are_not_begun_elsewhere():
    """With two servers, one of them down: its carts wait for it."""
    with (
        testing.MemcachedServer() as first,
        testing.MemcachedServer() as second,
    ):
        servers = f'{first.address},{second.address}'
        with services.Service(
            'cart.py', environ={'MEMCACHED_SERVERS': servers}
        ) as site:
            cookies = [put(site, '', 'apple', 1).cookie for _ in range(20)]
            second.kill()
            answers = [site.get('/cart', Cookie=cookie) for cookie in cookies]
            assert {answer.status for answer in answers} == {200, 503}
            for answer in answers:
                if answer.status == 200:
                    assert answer.json['items'] == {'apple': 1}
