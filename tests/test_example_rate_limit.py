"""The rate limiter: what is counted, for how long, and in an outage."""

import concurrent.futures
import hashlib
import ipaddress

import pytest
import services

from sprockets.clients import memcached
from sprockets.clients.memcached import testing

SEARCH = f'limit:search:{hashlib.sha256(bytes([127, 0, 0, 1])).hexdigest()}'


@pytest.fixture(scope='module')
def server():
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture(scope='module')
def service(server):
    with services.Service(
        'rate_limit.py', environ=server.environ()
    ) as service:
        yield service


@pytest.fixture
def site(server, service):
    """The one service of these tests, with nothing counted."""
    server.reset()
    return service


@pytest.fixture
def client(server):
    return memcached.Client(servers=server.address)


def test_requests_beyond_the_limit_are_turned_away(site):
    """429, and when to come back."""
    answers = [site.get('/search') for _ in range(12)]
    assert [a.status for a in answers] == [200] * 10 + [429] * 2
    left = [int(a.headers['X-RateLimit-Remaining']) for a in answers]
    assert left == [*reversed(range(10)), 0, 0]
    assert answers[0].headers['X-RateLimit-Limit'] == '10'
    assert 'Retry-After' not in answers[0].headers
    assert 50 <= int(answers[-1].headers['Retry-After']) <= 60
    assert answers[-1].body == b''


def test_requests_at_the_same_time_are_all_counted(site):
    """The first ones, who all find no count, too."""
    with concurrent.futures.ThreadPoolExecutor(30) as executor:
        answers = list(executor.map(site.get, ['/search'] * 30))
    assert sorted(a.status for a in answers) == [200] * 10 + [429] * 20


def test_each_limit_counts_for_itself(site):
    """Who has searched enough may still log in, five times."""
    for _ in range(11):
        site.get('/search')
    answers = [site.post('/login').status for _ in range(6)]
    assert answers == [401] * 5 + [429]


def test_the_count_ends_by_itself(site, client):
    """When its time is over, the client begins from nothing."""
    for _ in range(11):
        site.get('/search')
    # The rest of a minute, made short.
    assert client.touch(SEARCH, 1)
    services.wait_until(lambda: site.get('/search').status == 200)
    assert client.get(SEARCH) == b'1'


def test_the_count_has_an_end_from_the_start(site, server):
    """No client is locked out for ever."""
    site.get('/search')
    assert 0 < services.seconds_left(server, SEARCH) <= 60
    for _ in range(11):
        site.get('/search')
    assert 0 < services.seconds_left(server, SEARCH) <= 60


@pytest.fixture
def limited(monkeypatch):
    """The handler's class, to ask it about addresses."""
    monkeypatch.syspath_prepend(str(services.EXAMPLES))
    import rate_limit

    return rate_limit.Limited


class Request:
    def __init__(self, remote_ip):
        self.remote_ip = remote_ip


def key(limited, address):
    handler = limited.__new__(limited)
    handler.request = Request(address)
    return handler.key()


def test_the_addresses_of_one_ipv6_network_are_one_client(limited):
    """A /64, of which one customer has all."""
    network = ipaddress.ip_network('2001:db8:1:2::/64')
    assert key(limited, str(network[1])) == key(limited, str(network[99]))
    assert key(limited, '2001:db8:1:2::1') != key(limited, '2001:db8:1:3::1')


def test_an_ipv4_address_is_one_client_however_it_is_written(limited):
    """Not all of IPv4 in one count, as the form of IPv6 would have it."""
    assert key(limited, '10.0.0.1') == key(limited, '::ffff:10.0.0.1')
    assert key(limited, '::ffff:10.0.0.1') != key(limited, '::ffff:10.0.0.2')


def test_without_memcached_search_is_open_and_login_is_closed(
    memcached_server,
):
    """Each limit as it says of itself."""
    with services.Service('rate_limit.py') as site:
        assert site.get('/search').status == 200
        assert site.post('/login').status == 401
        memcached_server.kill()
        answers = [site.get('/search') for _ in range(15)]
        assert [a.status for a in answers] == [200] * 15
        assert 'X-RateLimit-Remaining' not in answers[0].headers
        refused = site.post('/login')
        assert refused.status == 503
        assert refused.headers['Retry-After'] == '5'


def test_counting_goes_on_when_memcached_is_back(memcached_server):
    """And the closed door opens."""
    with services.Service(
        'rate_limit.py', environ={'MEMCACHED_DEAD_RETRY': '0.05'}
    ) as site:
        memcached_server.kill()
        assert site.post('/login').status == 503
        memcached_server.start()
        services.wait_until(lambda: site.post('/login').status == 401)


def test_behind_a_proxy_it_is_the_client_that_counts(server):
    """And in front of none, nobody says who he is."""
    for arguments, statuses in (
        (['--behind-proxy'], [401] * 12),
        ([], [401] * 5 + [429] * 7),
    ):
        server.reset()
        with services.Service(
            'rate_limit.py', *arguments, environ=server.environ()
        ) as site:
            answers = [
                site.post('/login', X_Forwarded_For=f'10.0.0.{n}').status
                for n in range(12)
            ]
        assert answers == statuses
