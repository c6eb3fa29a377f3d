"""On which of several servers a key is, as other clients see it too.

``pylibmc`` brings libmemcached, which is asked itself where its
``ketama_weighted`` puts a key.

"""

import bisect
import collections
import contextlib
import ctypes
import hashlib
import math
import random
import string
import time
import timeit

import memcache
import pylibmc
import pytest
import wire
from pylibmc import _pylibmc

from sprockets.clients import memcached
from sprockets.clients.memcached import settings, testing
from sprockets.clients.memcached.servers import distribution, health

KETAMA_WEIGHTED = 16
"""Its place among libmemcached's behaviors."""

SUCCESS = 0


class Endpoint:
    """A server that is up, or down."""

    def __init__(self, address, up=True):
        self.address = settings.parse_server(address)[0]
        self.retry_at = None if up else math.inf

    def __repr__(self):
        return str(self.address)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        health.changes.note()

    def usable(self):
        return self.retry_at is None or self.retry_at <= time.monotonic()


def pick(endpoints, kind='ketama', weights=None, failover=True):
    """Return what finds the endpoint for a key."""
    weights = weights or [1] * len(endpoints)
    return distribution.make(
        kind,
        [
            (endpoint.address, weight, endpoint)
            for endpoint, weight in zip(endpoints, weights, strict=True)
        ],
        failover,
    ).pick


def ring_of(count):
    return [Endpoint(f'10.0.0.{number + 1}') for number in range(count)]


KEYS = [b'key:%d' % number for number in range(20_000)]


class Libmemcached:
    """Servers as libmemcached has them, none of which is ever connected."""

    def __init__(self, servers):
        # What the extension is linked with is found in it.
        self._library = ctypes.CDLL(_pylibmc.__file__)
        self._generate = self._library.memcached_generate_hash
        self._generate.restype = ctypes.c_uint32
        create = self._library.memcached_create
        create.restype = ctypes.c_void_p
        self._memcached = ctypes.c_void_p(create(None))
        self._do(
            'behavior_set', ctypes.c_int(KETAMA_WEIGHTED), ctypes.c_uint64(1)
        )
        for address, weight in servers:
            weight = ctypes.c_uint32(weight)
            host = address.host.encode()
            if address.family == 'unix':
                self._do('server_add_unix_socket_with_weight', host, weight)
            else:
                port = ctypes.c_uint16(address.port)
                self._do('server_add_with_weight', host, port, weight)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._library.memcached_free(self._memcached)

    def _do(self, name, *arguments):
        function = getattr(self._library, f'memcached_{name}')
        assert function(self._memcached, *arguments) == SUCCESS

    def place(self, key):
        """Return where in the list of servers a key's server is."""
        return self._generate(self._memcached, key, ctypes.c_size_t(len(key)))


@contextlib.contextmanager
def servers(*weights, **options):
    """Run a server for each weight and give ``address:weight`` of each."""
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(testing.MemcachedServer(**options))
            for _ in weights
        ]
        yield [
            f'{server.address}:{weight}'
            for server, weight in zip(running, weights, strict=True)
        ]


# As libmemcached


@pytest.mark.parametrize(
    'weights', [(1, 1, 1, 1), (1, 2, 3, 7), (5, 1)], ids=str
)
def test_pylibmc_and_we_find_what_the_other_one_stored(weights):
    """With ketama both put every key on the same one of real servers."""
    keys = [
        ''.join(random.choices(string.ascii_letters, k=random.randint(1, 60)))
        for _ in range(300)
    ]
    with servers(*weights) as addresses:
        ours = memcached.Client(servers=addresses, distribution='ketama')
        theirs = pylibmc.Client(addresses, behaviors={'ketama_weighted': True})
        for key in keys:
            theirs.set(f'theirs:{key}', key.encode())
        for key in keys:
            assert ours.get(f'theirs:{key}') == key.encode()
        failed = ours.set_multi({f'ours:{key}': key.encode() for key in keys})
        assert failed == []
        for key in keys:
            assert theirs.get(f'ours:{key}') == key.encode()
        for address in addresses:
            items = wire.statistics(address.rpartition(':')[0])['curr_items']
            assert int(items) > 0
        ours.disconnect_all()


def test_pylibmc_finds_what_we_stored_on_unix_sockets():
    """A unix socket has the name that pylibmc uses."""
    with servers(1, 1, 1, unix=True) as addresses:
        ours = memcached.Client(servers=addresses, distribution='ketama')
        theirs = pylibmc.Client(
            [
                address.removeprefix('unix:').removesuffix(':1')
                for address in addresses
            ],
            behaviors={'ketama_weighted': True},
        )
        for number in range(100):
            theirs.set(f'key{number}', b'theirs')
        assert len(ours.get_multi(f'key{n}' for n in range(100))) == 100
        ours.disconnect_all()


def agrees(endpoints, weights, keys):
    """Whether libmemcached finds the server that we find, for every key."""
    ours = pick(endpoints, weights=weights)
    listed = [
        (endpoint.address, weight)
        for endpoint, weight in zip(endpoints, weights, strict=True)
    ]
    with Libmemcached(listed) as theirs:
        return all(ours(key) is endpoints[theirs.place(key)] for key in keys)


@pytest.mark.parametrize('heaviest', [1, 12, 1000])
def test_libmemcached_agrees_on_any_number_of_servers(heaviest):
    """No key of any list of servers is elsewhere in libmemcached."""
    chance = random.Random(heaviest)
    for count in range(2, 25):
        endpoints = [
            Endpoint(
                f'10.{count}.0.{number}:'
                f'{chance.choice((11211, chance.randint(1, 65535)))}'
            )
            for number in range(count)
        ]
        weights = [chance.randint(1, heaviest) for _ in endpoints]
        assert agrees(endpoints, weights, KEYS[:300]), weights


@pytest.mark.parametrize(
    'form',
    ['[2001:db8::%d]', '[2001:db8::%d]:11212', 'cache%d', 'unix:/run/m%d'],
)
def test_libmemcached_agrees_on_every_kind_of_address(form):
    """Servers have the names that libmemcached gives them."""
    endpoints = [Endpoint(form % number) for number in range(4)]
    assert agrees(endpoints, (1, 2, 3, 4), KEYS[:300])


@pytest.mark.parametrize(
    'weights',
    [(6, 1, 6, 7, 5), (2, 1, 1, 4, 4, 10, 1, 8, 6, 8, 10), (1,) * 25],
    ids=str,
)
def test_libmemcached_agrees_where_it_rounds(weights):
    """With these weights exact arithmetic gives some servers more points."""
    assert agrees(ring_of(len(weights)), weights, KEYS[:5000])


def test_a_key_on_a_point_belongs_to_its_owner():
    """A hash that is a point itself is found where libmemcached finds it."""
    endpoints = ring_of(3)
    ours = distribution.Ketama([(e.address, 1, e) for e in endpoints], True)
    for point, owner in zip(ours._points, ours._owners, strict=False):
        assert ours.pick(b'key', point) is owner
        assert ours.pick(b'key', point + (1 << 32)) is owner
    # Behind the last point the circle begins again.
    assert ours.pick(b'key', 0xFFFFFFFF) is ours.pick(b'key', 0)


# As python-memcached


@pytest.mark.parametrize('weights', [(1, 1), (1, 2, 3)], ids=str)
def test_python_memcached_and_we_find_what_the_other_one_stored(weights):
    """Unless told otherwise a key is where python-memcached puts it."""
    with servers(*weights) as addresses:
        pairs = [
            (address.rpartition(':')[0], int(address.rpartition(':')[2]))
            for address in addresses
        ]
        ours = memcached.Client(servers=addresses)
        theirs = memcache.Client(pairs)
        for number in range(200):
            theirs.set(f'theirs{number}', b'theirs')
            ours.set(f'ours{number}', b'ours')
        assert len(ours.get_multi(f'theirs{n}' for n in range(200))) == 200
        assert len(theirs.get_multi(f'ours{n}' for n in range(200))) == 200
        ours.disconnect_all()
        theirs.disconnect_all()


# What consistent hashing is for


def moved(kind, before, after):
    """Return the share of keys that move between two lists of servers."""
    one, other = pick(before, kind), pick(after, kind)
    return sum(one(key) is not other(key) for key in KEYS) / len(KEYS)


def test_a_fifth_server_moves_a_fifth_of_the_keys():
    """From 4 to 5 servers, 22% of the keys move at most; else 80%."""
    endpoints = ring_of(5)
    assert moved('ketama', endpoints[:4], endpoints) <= 0.22
    assert moved('modula', endpoints[:4], endpoints) > 0.75


def test_keys_move_to_the_new_server_only():
    """No key moves between servers that were there before."""
    endpoints = ring_of(10)
    before, after = pick(endpoints[:9]), pick(endpoints)
    for key in KEYS:
        assert after(key) in (before(key), endpoints[9])


def test_the_order_of_the_servers_does_not_matter():
    """With ketama a list in another order is the same list."""
    endpoints = ring_of(6)
    one, other = pick(endpoints), pick(endpoints[::-1])
    assert all(one(key) is other(key) for key in KEYS)


def test_weights_are_shares_of_the_keys():
    """A server with three times the weight gets three times the keys."""
    endpoints = ring_of(3)
    ours = pick(endpoints, weights=[1, 1, 3])
    keys = collections.Counter(map(ours, KEYS))
    assert keys[endpoints[2]] / len(KEYS) == pytest.approx(0.6, abs=0.06)


def test_a_look_up_is_quick():
    """On 64 servers one takes a microsecond or so; 5 on a busy machine."""
    ours = pick(ring_of(64))
    times = timeit.repeat(lambda: ours(b'article:12345', None), number=2000)
    assert min(times) / 2000 < 5e-6


# Servers that are down


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_only_the_keys_of_a_dead_server_go_elsewhere(kind):
    """With failover, no key of a server that is up moves."""
    endpoints = ring_of(5)
    ours = pick(endpoints, kind)
    before = {key: ours(key) for key in KEYS}
    dead = endpoints[2]
    dead.retry_at = math.inf
    heirs = collections.Counter()
    for key, endpoint in before.items():
        if endpoint is dead:
            heirs[ours(key)] += 1
        else:
            assert ours(key) is endpoint
    assert set(heirs) == set(endpoints) - {dead}


def test_ketama_fails_over_as_if_the_server_were_not_there():
    """A dead server's key is where it would be without that server."""
    endpoints = ring_of(5)
    without = pick(endpoints[:2] + endpoints[3:])
    endpoints[2].retry_at = math.inf
    ours = pick(endpoints)
    assert all(ours(key) is without(key) for key in KEYS)


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_a_live_server_is_always_found(kind):
    """One of ten that is up gets every key, and none of none."""
    endpoints = ring_of(10)
    for endpoint in endpoints[1:]:
        endpoint.retry_at = math.inf
    ours = pick(endpoints, kind)
    assert {ours(key) for key in KEYS[:500]} == {endpoints[0]}
    endpoints[0].retry_at = math.inf
    assert {ours(key) for key in KEYS[:500]} == {None}


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_without_failover_no_key_moves(kind):
    """The keys of a dead server have no server."""
    endpoints = ring_of(4)
    ours = pick(endpoints, kind, failover=False)
    before = {key: ours(key) for key in KEYS[:500]}
    endpoints[1].retry_at = math.inf
    for key, endpoint in before.items():
        assert ours(key) is (None if endpoint is endpoints[1] else endpoint)


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_a_server_that_was_tried_is_not_tried_again(kind):
    """One that has failed this very call is left out, though up again."""
    endpoints = ring_of(3)
    ours = pick(endpoints, kind)
    for key in KEYS[:200]:
        first = ours(key)
        first.retry_at = 0
        assert ours(key) is first
        assert ours(key, None, [first]) not in (first, None)
        first.retry_at = None


# Many servers


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).digest()


class Watched(Endpoint):
    """A server that counts how often it is looked at."""

    looks = 0

    def __init__(self, address):
        self._retry_at = None
        super().__init__(address)

    @property
    def retry_at(self):
        Watched.looks += 1
        return self._retry_at

    @retry_at.setter
    def retry_at(self, value):
        self._retry_at = value


@pytest.mark.parametrize('up', [0, 1, 5, 100, 500])
@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_a_key_of_a_dead_server_does_not_look_at_all(kind, up):
    """It costs little however many servers are down: a few looks a key."""
    endpoints = [
        Watched(f'10.0.{number // 250}.{number % 250}')
        for number in range(1000)
    ]
    ours = pick(endpoints, kind)
    for endpoint in endpoints[up:]:
        endpoint.retry_at = math.inf
    keys = KEYS[:2000]
    ours(keys[0])
    Watched.looks = 0
    found = {ours(key) for key in keys}
    assert Watched.looks <= len(keys) * 3 + len(endpoints)
    assert found == ({None} if not up else found & set(endpoints[:up]))


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_who_is_usable_is_looked_up_anew(kind):
    """After each change, and when it is time to try one again."""
    endpoints = ring_of(40)
    ours = pick(endpoints, kind)
    places = {key: ours(key) for key in KEYS[:200]}
    for endpoint in endpoints:
        endpoint.retry_at = math.inf
    assert {ours(key) for key in places} == {None}
    for endpoint in endpoints:
        endpoint.retry_at = None
        assert {ours(key) for key in places} == {endpoint}
        endpoint.retry_at = math.inf
    endpoints[3].retry_at = time.monotonic() + 0.05
    assert {ours(key) for key in places} == {None}
    time.sleep(0.06)
    assert {ours(key) for key in places} == {endpoints[3]}


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
@pytest.mark.parametrize('up', [1, 7, 25, 60])
def test_an_heir_is_the_same_however_many_are_down(kind, up):
    """With ketama it is as if the dead ones were not there."""
    endpoints = ring_of(80)
    chance = random.Random(up)
    alive = chance.sample(endpoints, up)
    ours = pick(endpoints, kind)
    own = {key: ours(key) for key in KEYS[:1000]}
    for endpoint in endpoints:
        endpoint.retry_at = None if endpoint in alive else math.inf
    heirs = {key: ours(key) for key in own}
    assert set(heirs.values()) <= set(alive)
    if kind == 'ketama':
        owners = ours.__self__._owners[:-1]
        points = ours.__self__._points
        for key, heir in heirs.items():
            hashed = int.from_bytes(md5(key)[:4], 'little')
            at = bisect.bisect_left(points, hashed) % len(points)
            while owners[at] not in alive:
                at = (at + 1) % len(points)
            assert owners[at] is heir
    # One that was tried just now is left out, as if it were down.
    for key in [key for key in own if own[key] not in alive][:50]:
        left = ours(key, None, {heirs[key]})
        assert left in set(alive) - {heirs[key]} or (up == 1 and left is None)


def test_a_continuum_of_a_thousand_servers():
    """It is there after half a second of computing, or so."""
    endpoints = [
        Endpoint(f'10.0.{number // 250}.{number % 250}')
        for number in range(1000)
    ]
    began = time.thread_time()
    ours = pick(endpoints)
    assert time.thread_time() - began < 1.5
    assert len({ours(key) for key in KEYS}) == 1000


def test_a_point_of_two_servers_belongs_to_the_later_one():
    """As it was when uhashring made the continuum."""
    endpoints = [
        Endpoint(f'10.1.{number // 250}.{number % 250}')
        for number in range(1000)
    ]
    points = {}
    for place, endpoint in enumerate(endpoints):
        for number in range(40):
            digest = md5(f'{endpoint.address.host}-{number}'.encode())
            for word in range(0, 16, 4):
                point = int.from_bytes(digest[word : word + 4], 'little')
                points.setdefault(point, []).append(place)
    shared = {point for point, places in points.items() if len(places) > 1}
    assert shared
    ours = pick(endpoints)
    for point in shared:
        assert ours(b'key', point) is endpoints[points[point][-1]]


# Both faces


@pytest.fixture
def pair():
    with testing.MemcachedServer() as one, testing.MemcachedServer() as other:
        yield one, other


def keys_of(server, count, *addresses, **options):
    """Return keys that live on one of several servers."""
    client = memcached.Client(servers=list(addresses), **options)
    keys = (f'key{number}' for number in range(10_000))
    found = []
    while len(found) < count:
        key = next(keys)
        endpoint = client._shared.cluster.pick(key.encode())
        if endpoint.address.text == server.address:
            found.append(key)
    return found


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_failover_keeps_caching_and_brings_old_values_back(
    connect, pair, kind
):
    """Writes go to the others meanwhile, and are forgotten with them."""
    one, other = pair
    addresses = [one.address, other.address]
    client = connect(*addresses, distribution=kind, socket_timeout=1)
    (key,) = keys_of(one, 1, *addresses, distribution=kind)
    client.set(key, 'old')
    one.pause()
    assert client.get(key) is None
    assert client.set(key, 'new')
    assert wire.stored(other.address, key) == (16, b'new')
    one.resume()
    client.forget_dead_hosts()
    assert client.get(key) == 'old'


def test_flush_on_reconnect_empties_a_server_that_comes_back(connect, pair):
    """Its old values are gone, whichever connection is used first."""
    one, other = pair
    addresses = [one.address, other.address]
    client = connect(
        *addresses,
        flush_on_reconnect=True,
        dead_retry=0,
        socket_timeout=1,
    )
    (key,) = keys_of(one, 1, *addresses)

    async def set_old(client):
        return await client.set(key, 'old')

    # More than one connection: an idle one is still there when it hangs.
    client.together(3, set_old)
    one.pause()
    assert client.get(key) is None
    shared = getattr(client.client, '_shared', None) or client.client._engine
    (hung,) = [
        server.endpoint
        for server in shared.cluster.servers
        if str(server.endpoint) == one.address
    ]
    # That a new connection brings nothing either takes another second.
    while hung.down_since is None:
        time.sleep(0.01)
    one.resume()
    assert client.get(key) is None
    assert int(wire.statistics(one.address)['cmd_flush']) == 1


@pytest.mark.parametrize('kind', ['modula', 'ketama'])
def test_without_failover_a_dead_servers_keys_are_misses(connect, pair, kind):
    """Nothing is written elsewhere, and so no older value ever comes back."""
    one, other = pair
    addresses = [one.address, other.address]
    client = connect(*addresses, distribution=kind, failover=False)
    keys = keys_of(one, 3, *addresses, distribution=kind)
    (neighbour,) = keys_of(other, 1, *addresses, distribution=kind)
    assert client.set(keys[0], 'value')
    one.kill()
    assert client.get(keys[0], 'default') == 'default'
    assert not client.set(keys[0], 'newer')
    mapping = dict.fromkeys([*keys, neighbour], 'value')
    assert client.set_multi(mapping) == keys
    assert client.get_multi([*keys, neighbour]) == {neighbour: 'value'}
    assert not client.delete_multi(keys)
    for key in keys:
        assert wire.stored(other.address, key) is None


def test_ketama_in_every_method(connect, pair):
    """All of a key's calls go to the one server that it lives on."""
    one, other = pair
    addresses = [one.address, other.address]
    client = connect(*addresses, distribution='ketama')
    for server, stranger in ((one, other), (other, one)):
        for key in keys_of(server, 5, *addresses, distribution='ketama'):
            assert client.add(key, 1)
            assert client.incr(key) == 2
            assert client.gets(key) == 2
            assert client.cas(key, 3)
            assert client.set_multi({key: 4}) == []
            assert client.get_multi([key]) == {key: 4}
            assert client.touch(key, 60)
            assert wire.stored(server.address, key) == (2, b'4')
            assert wire.stored(stranger.address, key) is None
            assert client.delete(key)


def test_a_bad_distribution_is_named(monkeypatch):
    """An unknown name raises, and says which variable and which names."""
    monkeypatch.setenv('PAGES_MEMCACHED_DISTRIBUTION', 'crc')
    with pytest.raises(
        ValueError, match=r"PAGES_MEMCACHED_DISTRIBUTION: 'crc' .*ketama"
    ):
        memcached.Client('pages')
