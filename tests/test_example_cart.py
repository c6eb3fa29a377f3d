"""The shopping cart: nothing is lost, and nothing is said that is not so."""

import concurrent.futures
import hashlib

import pytest
import services

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


def test_what_is_put_into_the_cart_is_there(site):
    """With what it costs, in cents."""
    first = site.get('/cart')
    assert first.json == {'items': {}, 'total': 0}
    cookie = first.cookie
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
    cookie = site.get('/cart').cookie
    with concurrent.futures.ThreadPoolExecutor(10) as executor:
        answers = list(
            executor.map(lambda item: put(site, cookie, item, 3), ITEMS)
        )
    assert [answer.status for answer in answers] == [200] * 10
    items = site.get('/cart', Cookie=cookie).json['items']
    assert items == dict.fromkeys(ITEMS, 3)


def test_the_first_changes_of_a_cart_are_all_kept(site):
    """Where there was none yet, cas makes one only once."""
    cookie = f'cart={"x" * 43}'
    with concurrent.futures.ThreadPoolExecutor(10) as executor:
        list(executor.map(lambda item: put(site, cookie, item, 1), ITEMS))
    items = site.get('/cart', Cookie=cookie).json['items']
    assert items == dict.fromkeys(ITEMS, 1)


def test_a_change_may_be_made_again(site):
    """Two apples are two apples, however often one says so."""
    cookie = site.get('/cart').cookie
    for _ in range(3):
        put(site, cookie, 'apple', 2)
    assert site.get('/cart', Cookie=cookie).json['items'] == {'apple': 2}


def test_a_cart_is_kept_for_a_week(site, server):
    """From its last change on; the key does not give the cookie away."""
    cookie = put(site, '', 'apple', 2).cookie
    token = cookie.removeprefix('cart=')
    key = f'cart:{hashlib.sha256(token.encode()).hexdigest()}'
    week = 7 * 24 * 60 * 60
    assert week - 60 < services.seconds_left(server, key) <= week


def test_a_cart_is_emptied(site):
    """And used again."""
    cookie = site.get('/cart').cookie
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
    'cookie',
    ['cart=', 'cart=short', 'cart="\\015\\012flush_all"', f'cart={"x" * 999}'],
)
def test_a_made_up_cookie_is_replaced(site, cookie):
    """It gets a cart, by a cookie of ours."""
    answer = put(site, cookie, 'apple', 1)
    assert answer.status == 200
    assert len(answer.cookie) == len('cart=') + 43
    assert answer.cookie != cookie


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
    ],
)
def test_a_wrong_change_changes_nothing(site, item, body, status):
    """400 or 404."""
    cookie = site.get('/cart').cookie
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
