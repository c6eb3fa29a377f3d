"""Client: memcache.Client in all that its users rely on, and 1.1.0's names."""

import binascii
import collections
import concurrent.futures
import contextlib
import gc
import inspect
import os
import random
import subprocess
import sys
import threading
from unittest import mock

import faults
import memcache
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 60

PUBLIC = [
    name
    for name, _ in inspect.getmembers(memcache.Client, inspect.isfunction)
    if not name.startswith('_')
]

# Those that do no I/O, and so are no use awaited.
BLOCKING_ONLY = {'check_key', 'debuglog'}


@pytest.fixture(autouse=True)
def no_servers_set(monkeypatch):
    """Begin without the variables; memcached_server sets one."""
    monkeypatch.delenv('MEMCACHED_SERVERS', raising=False)
    monkeypatch.delenv('PAGES_MEMCACHED_SERVERS', raising=False)


@pytest.fixture
def server():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def client(server):
    client = memcached.Client(servers=server.address)
    yield client
    client.disconnect_all()


@pytest.fixture
def three():
    """Three servers: their addresses."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(MemcachedServer()).address for _ in range(3)
        ]


# What 1.1.0 promised


def test_the_names_of_1_1_0():
    """They are what they were, but for the version."""
    assert memcached.version_info == (2, 0, 0)
    assert memcached.__version__ == '2.0.0'
    assert memcached.DEFAULT_SERVER == '127.0.0.1:11211'
    assert issubclass(memcached.Client, memcache.Client)


@mock.patch('memcache.Client.__init__')
def test_the_servers_alone_are_given_to_python_memcached(init):
    """Whoever patches or wraps its constructor sees no difference."""
    memcached.Client()
    init.assert_called_once_with(['127.0.0.1:11211'])


@mock.patch('memcache.Client.__init__')
def test_the_servers_of_a_prefix_are_given_to_python_memcached(
    init, monkeypatch
):
    """A list of strings, and of (string, weight)."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', 'a:1,b:2:3')
    memcached.Client('pages')
    init.assert_called_once_with(['a:1', ('b:2', 3)])


@mock.patch('memcache.Client.__init__')
def test_what_is_configured_is_given_to_python_memcached(init, monkeypatch):
    """By the names of its own arguments."""
    monkeypatch.setenv('MEMCACHED_SOCKET_TIMEOUT', '0.5')
    memcached.Client(servers='a:1', dead_retry=5, debug=1, cache_cas=True)
    init.assert_called_once_with(
        ['a:1'], socket_timeout=0.5, dead_retry=5, debug=1, cache_cas=True
    )


def test_a_value_is_set_and_read(memcached_server):
    """The least that one may ask."""
    client = memcached.Client()
    assert client.set('foo', 'bar', 60)
    assert client.get('foo') == 'bar'
    client.set('test-incr', 2)
    assert client.incr('test-incr') == 3
    assert not any(server.deaduntil for server in client.servers)
    client.disconnect_all()


def test_a_dead_server_is_seen_at_its_deaduntil():
    """So may one skip tests without a server."""
    with faults.refusing() as address:
        client = memcached.Client(servers=address)
        client.incr('test')
        assert all(server.deaduntil for server in client.servers)
        client.servers[0].deaduntil = 0
        assert client.servers[0].deaduntil == 0


class Subclass(memcached.Client):
    """As a service may have made one for 1.1.0."""

    def __init__(self, prefix):
        super().__init__(prefix)
        self.seen = []

    def set(self, key, val, *args, **kwargs):
        self.seen.append(key)
        return super().set(f'sub-{key}', val, *args, **kwargs)


def test_a_subclass_with_state_of_its_own(server, monkeypatch):
    """Its __init__ runs in every thread, as that of a threading.local."""
    monkeypatch.setenv('PAGES_MEMCACHED_SERVERS', server.address)
    client = Subclass('pages')
    assert client.set('one', 1, time=60)

    def use():
        assert client.seen == []
        assert client.set('two', 2)
        return client.seen

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert executor.submit(use).result(SECONDS) == ['two']
    assert client.seen == ['one']
    assert client.get_multi(['sub-one', 'sub-two']) == {
        'sub-one': 1,
        'sub-two': 2,
    }
    client.disconnect_all()


# Signatures


@pytest.mark.parametrize(
    'kind, name',
    [
        *[(memcached.Client, name) for name in PUBLIC],
        *[
            (memcached.AsyncClient, name)
            for name in PUBLIC
            if name not in BLOCKING_ONLY
        ],
    ],
)
def test_every_public_method_takes_what_it_took(kind, name):
    """The same parameters in the same order, with the same defaults."""
    theirs = inspect.signature(getattr(memcache.Client, name)).parameters
    ours = inspect.signature(getattr(kind, name)).parameters
    if name == 'delete':
        # Its documented signature has a time, which was lost.
        assert list(ours)[:4] == ['self', 'key', 'time', 'noreply']
        assert ours['timeout'].default is None
        assert ours['time'].default is None
        assert ours['noreply'].default is False
        return
    described = [(p.name, p.kind, p.default) for p in theirs.values()]
    same = [(p.name, p.kind, p.default) for p in ours.values()]
    assert same[: len(described)] == described
    # What we add can be left out.
    for added in list(ours.values())[len(described) :]:
        assert added.default is not inspect.Parameter.empty


def test_every_attribute_of_an_instance_is_there():
    """With the same value, unless behaviour demands another."""
    theirs = memcache.Client(['127.0.0.1:1'])
    ours = memcached.Client(servers='127.0.0.1:1')
    others = {
        # Our own kinds of objects.
        *('servers', 'buckets', 'key_encoder', 'cas_ids'),
        # Another default.
        *('pickleProtocol', 'decompressor'),
    }
    for name, value in vars(theirs).items():
        if name not in others:
            assert getattr(ours, name) == value, name
    for name in others - {'cas_ids'}:
        getattr(ours, name)


def test_attributes_are_set_for_every_thread():
    """As by whoever tunes a client after it was made."""
    client = memcached.Client(servers='127.0.0.1:1')
    client.socket_timeout = 0.25
    client.debug = 1
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert executor.submit(lambda: client.socket_timeout).result() == 0.25
        assert executor.submit(lambda: client.debug).result() == 1


def test_dead_retry_set_later_is_for_servers_set_later(server):
    """As in python-memcached, whose set_servers reads the attribute."""
    with faults.FaultProxy(server.address) as proxy:
        client = memcached.Client(servers=server.address)
        client.dead_retry = 0
        client.set_servers([proxy.address])
        proxy.down()
        assert client.set('key', 'value') == 0
        proxy.up()
        assert client.set('key', 'value')
        client.disconnect_all()


@pytest.mark.parametrize(
    'form', ['127.0.0.9:1', 'a', 'inet:a:2', 'inet6:[::1]:3', 'unix:/a/b']
)
@pytest.mark.parametrize('weight', [1, 3])
def test_servers_look_as_python_memcacheds(form, weight):
    """Their str(), and what is read from them.

    No other test finds one of them dead, which all clients would know.

    """
    [theirs] = memcache.Client([(form, weight)]).servers
    [ours] = memcached.Client(servers=[(form, weight)]).servers
    assert (ours.family, ours.address, ours.weight) == (
        theirs.family,
        theirs.address,
        theirs.weight,
    )
    assert ours.deaduntil == theirs.deaduntil == 0
    assert str(ours) == str(theirs)


def test_servers_that_can_be_read_once():
    """Each thread has them, as those of a list."""
    hosts = ['cache1', 'cache2']
    client = memcached.Client(servers=(f'{host}:11211' for host in hosts))
    assert [server.ip for server in client.servers] == hosts
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        found = executor.submit(lambda: client.servers).result()
    assert [server.ip for server in found] == hosts


def test_a_server_is_connected_marked_and_closed_by_hand(server):
    """As some of python-memcached's users do."""
    client = memcached.Client(servers=server.address)
    [each] = client.servers
    assert each.connect() == 1
    client.set('key', 'value')
    each.close_socket()
    assert client.get('key') == 'value'
    each.mark_dead('by hand')
    assert each.connect() == 0
    assert client.get('key') is None
    client.forget_dead_hosts()
    assert client.get('key') == 'value'
    client.disconnect_all()


def test_debuglog_writes_if_debug_says_so(capsys):
    """To stderr, and nothing else does."""
    with faults.refusing() as address:
        quiet = memcached.Client(servers=address)
        quiet.debuglog('quiet')
        quiet.get('key')
        loud = memcached.Client(servers=address, debug=1)
        loud.debuglog('loud')
    written = capsys.readouterr()
    assert written.out == ''
    assert 'quiet' not in written.err
    assert 'loud' in written.err


def test_calls_are_counted_in_stats(client):
    """As python-memcached counts them."""
    client.set('key', 1)
    client.get('key')
    client.get('key')
    client.get_multi(['key'])
    assert client.stats == {'set': 1, 'get': 2, 'get_multi': 1}


def test_no_call_is_left_out_of_stats(client):
    """Of many threads that call at the same time, none undoes another's."""

    def count():
        for _ in range(20_000):
            client._shared.count('get')

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            for _ in range(8):
                executor.submit(count)
    finally:
        sys.setswitchinterval(before)
    assert client.stats == {'get': 160_000}


def test_stats_can_be_begun_anew(client):
    client.get('key')
    client.stats = {}
    assert client.stats == {}
    client.get('key')
    assert client.stats == {'get': 1}


# Results


def test_noreply_means_that_the_caller_does_not_care(connect, server):
    """The calls do their work, and later replies are in step."""
    client = connect(server.address)
    assert client.set('a', 1, noreply=True)
    assert client.add('b', 2, noreply=True)
    assert client.replace('a', 3, noreply=True)
    assert client.append('a', '0', noreply=True)
    assert client.prepend('a', '1', noreply=True)
    assert client.incr('a', 5, noreply=True) is None
    assert client.decr('a', 1, noreply=True) is None
    assert client.touch('a', 60, noreply=True)
    assert client.set_multi({'c': 4, 'd': 5}, noreply=True) == []
    assert client.delete('c', noreply=True)
    assert client.delete_multi(['d'], noreply=True)
    client.gets('b')
    assert client.cas('b', 6, noreply=True)
    assert client.get_multi(['a', 'b', 'c', 'd']) == {'a': 134, 'b': 6}


def test_the_results_of_writes(connect, server):
    """Nonzero if it was done, and 0 if not."""
    client = connect(server.address)
    assert client.add('key', 'one')
    assert not client.add('key', 'two')
    assert client.replace('key', 'three')
    assert not client.replace('absent', 'three')
    assert client.append('key', '!')
    assert not client.append('absent', '!')
    assert client.prepend('key', '>')
    assert not client.prepend('absent', '>')
    assert client.get('key') == '>three!'
    assert client.touch('key')
    assert not client.touch('absent')
    assert client.delete('key')
    assert not client.delete('key')


def test_nothing_to_do_is_done(connect):
    """No key, no server needed."""
    with faults.refusing() as address:
        client = connect(address)
        assert client.get_multi([]) == {}
        assert client.set_multi({}) == []
        assert client.delete_multi([]) == 1


def test_keys_may_be_any_iterable(connect, server):
    """A generator, a view, a set; and twice the same key."""
    client = connect(server.address)
    mapping = collections.ChainMap({'a': 1}, {'b': 2})
    assert client.set_multi(mapping) == []
    assert client.get_multi(key for key in 'abc') == {'a': 1, 'b': 2}
    assert client.get_multi(mapping.keys()) == {'a': 1, 'b': 2}
    assert client.get_multi(['a', 'a', 'b']) == {'a': 1, 'b': 2}
    assert client.delete_multi(key for key in 'aab') == 1
    assert client.get_multi({'a', 'b'}) == {}


def test_values_of_many_keys_are_not_shared(connect, server):
    """One caller's change is not another's."""
    client = connect(server.address)
    client.set('1', [])
    found = client.get_multi([1, '1'])
    found[1].append('changed')
    assert found['1'] == []


def test_flush_all_empties_every_server(connect, three):
    """Those that are up."""
    client = connect(*three)
    keys = [f'key{number}' for number in range(30)]
    assert client.set_multi(dict.fromkeys(keys, 1)) == []
    assert client.flush_all() is None
    assert client.get_multi(keys) == {}


def test_statistics_of_the_servers_that_are_up(connect, three):
    """Each named with its weight, in the order they were given."""
    with faults.refusing() as down:
        client = connect(three[0], (three[1], 2), down, three[2])
        names = [name for name, _ in client.get_stats()]
    assert names == [f'{three[0]} (1)', f'{three[1]} (2)', f'{three[2]} (1)']


def test_flush_on_reconnect(connect, server):
    """A server that comes back is emptied before it is used."""
    with faults.FaultProxy(server.address) as proxy:
        client = connect(proxy.address, flush_on_reconnect=1, dead_retry=0)
        client.set('key', 'old')
        proxy.down()
        assert client.get('key') is None
        proxy.up()
        assert client.get('key') is None
        assert client.set('key', 'new')
        assert client.get('key') == 'new'


def test_set_servers_takes_text_as_the_keyword_does(connect, server):
    """Each letter of it could be a host."""
    client = connect('127.0.0.1:1')
    client.set_servers(f'{server.address}, ')
    assert client.set('key', 'value')
    assert connect(server.address).get('key') == 'value'


@pytest.mark.parametrize('servers', ['', 'a b', None, 7], ids=repr)
def test_set_servers_with_what_are_none(connect, server, servers):
    client = connect(server.address)
    with pytest.raises(ValueError, match=r'server|is not of the form'):
        client.set_servers(servers)
    assert client.set('key', 'value')


def test_set_servers_with_a_mistake_changes_nothing(connect, server):
    """The error says what is wrong."""
    client = connect(server.address)
    client.set('key', 'value')
    with pytest.raises(ValueError, match="'a:b' is not of the form"):
        client.set_servers([server.address, 'a:b'])
    assert client.get('key') == 'value'


def test_without_servers_everything_misses(connect, server):
    """As with python-memcached's set_servers([])."""
    client = connect(server.address)
    client.set_servers([])
    assert client.get('key', 'default') == 'default'
    assert client.set('key', 'value') == 0
    assert client.set_multi({'key': 'value'}) == ['key']
    assert client.get_stats() == []


# Which server a key lives on


class Scattered:
    """Servers that exist by name only, for python-memcached and for ours."""

    def __init__(self, monkeypatch, servers):
        self.down = set()
        monkeypatch.setattr(
            memcache._Host,
            'connect',
            lambda host: host.address[0] not in self.down,
        )
        self.theirs = memcache.Client(servers)
        self.ours = memcached.Client(servers=servers)

    def take_down(self, *hosts):
        self.down = set(hosts)
        for server in self.ours.servers:
            if server.ip in self.down:
                server.mark_dead('taken down')

    def places(self, key):
        """Return where either looks for a key: its host, or None."""
        theirs, _ = self.theirs._get_server(
            (key[0], key[1].encode())
            if isinstance(key, tuple)
            else key.encode()
        )
        route = self.ours._shared.encoding.route(key)
        ours = self.ours._shared.cluster.pick(*route)
        return (
            theirs and theirs.address[0],
            ours and ours.address.host,
        )


SERVERS = {
    'one': ['a:1'],
    'two': ['a:1', 'b:1'],
    'ten': [f'host{number}:1' for number in range(10)],
    'weights': ['a:1', ('b:1', 2), ('c:1', 5), 'd:1'],
    'the same twice': ['a:1', 'b:1', 'a:1'],
}


def some_keys(count):
    """Return keys as services have them, some with a hash of their own."""
    chance = random.Random(1)
    for number in range(count):
        yield f'article:{number}'
        yield chance.choice(['/', 'ü', 'x']) * chance.randint(1, 80)
        yield (number, f'key{number}')
        yield (chance.getrandbits(64), 'key')
        yield (-number, 'key')


@pytest.mark.parametrize('case', SERVERS)
def test_keys_lie_where_python_memcached_puts_them(monkeypatch, case):
    """Thousands of them, with weights and with hashes."""
    scattered = Scattered(monkeypatch, SERVERS[case])
    used = set()
    for key in some_keys(1000):
        theirs, ours = scattered.places(key)
        assert ours == theirs, key
        used.add(ours)
    assert used == {server.ip for server in scattered.ours.servers}


@pytest.mark.parametrize('case', SERVERS)
def test_keys_of_dead_servers_lie_where_python_memcached_puts_them(
    monkeypatch, case
):
    """Where it finds a server at all; where it finds none, we do."""
    servers = SERVERS[case]
    hosts = [server.ip for server in memcached.Client(servers=servers).servers]
    scattered = Scattered(monkeypatch, servers)
    for up in range(len(set(hosts)) - 1, -1, -1):
        scattered.take_down(*list(dict.fromkeys(hosts))[up:])
        for key in some_keys(200):
            theirs, ours = scattered.places(key)
            if theirs is not None:
                assert ours == theirs, key
            elif up:
                assert ours in hosts[:up]
            else:
                assert ours is None


def test_another_hash_function_of_python_memcached(monkeypatch):
    """useOldServerHashFunction() is for both."""
    monkeypatch.setattr(memcache, 'serverHashFunction', binascii.crc32)
    scattered = Scattered(monkeypatch, SERVERS['weights'])
    for key in some_keys(200):
        theirs, ours = scattered.places(key)
        assert ours == theirs, key


@pytest.mark.parametrize('prefix', ['', 'p-'])
def test_either_finds_what_the_other_stored(connect, three, prefix):
    """On real servers, with a weight, by all the ways to store and read."""
    servers = [three[0], (three[1], 3), three[2]]
    ours = connect(*servers)
    theirs = memcache.Client(servers)
    keys = [
        *(f'key{n}' for n in range(50)),
        *((n, f'h{n}') for n in range(50)),
    ]
    values = {key: str(key) for key in keys}
    assert theirs.set_multi(values, key_prefix=prefix) == []
    assert ours.get_multi(keys, key_prefix=prefix) == values
    assert theirs.delete_multi(keys, key_prefix=prefix) == 1
    assert ours.set_multi(values, key_prefix=prefix) == []
    assert theirs.get_multi(keys, key_prefix=prefix) == values
    for key in keys[::10]:
        assert ours.set(key, 1)
        assert theirs.incr(key) == 2
        assert ours.get(key) == 2
        assert theirs.delete(key)
        assert ours.get(key) is None
    held = [int(wire.statistics(s)['curr_items']) for s in three]
    assert held[1] > max(held[0], held[2]) > 0
    theirs.disconnect_all()


# Threads


def test_many_threads_get_their_own_values(connect, server):
    """Each reads what it wrote, whoever else is at work."""
    client = connect(server.address)

    async def work(client):
        mine = f'{random.random()}'
        for number in range(50):
            assert await client.set(mine, number)
            assert await client.get(mine) == number
            assert await client.get_multi([mine, 'x']) == {mine: number}
        return await client.delete(mine)

    assert client.together(8, work) == [1] * 8


def test_a_client_that_is_dropped_closes_its_connections(server):
    """Without anybody's doing."""
    with faults.FaultProxy(server.address) as proxy:
        client = memcached.Client(servers=proxy.address)
        assert client.set('key', 'value')
        assert len(proxy.open) == 1
        del client
        gc.collect()
        proxy.wait_for(lambda: not proxy.open, 5)


def test_clients_of_a_process_share_what_they_know(server, caplog):
    """A server that is down for one is down for the other."""
    with faults.FaultProxy(server.address) as proxy:
        one = memcached.Client(servers=proxy.address)
        other = memcached.Client(servers=proxy.address, key_prefix='other-')
        assert one.set('key', 'value')
        assert other.get('key') is None
        assert len(proxy.connections) == 1
        proxy.down()
        assert one.get('key') is None
        assert other.servers[0].deaduntil
        one.disconnect_all()


# Processes

FORKED = """
import asyncio, sys
from tornado import process
from sprockets.clients import memcached

client = memcached.Client(servers=sys.argv[1])
awaitable = memcached.AsyncClient(servers=sys.argv[1])

async def use(me):
    for number in range(50):
        key = f'{me}-{number}'
        assert await awaitable.set(key, key)
        found = await asyncio.gather(awaitable.get(key), awaitable.get(me))
        assert found == [key, me], found

def work(me):
    client.set(me, me)
    for number in range(50):
        key = f'{me}:{number}'
        assert client.set(key, key)
        assert client.get(key) == key
        assert client.get_multi([key, me]) == {key: key, me: me}
    asyncio.run(use(me))

work('parent')
work(f'child{process.fork_processes(3, max_restarts=0)}')
"""

MULTIPROCESSING = """
import asyncio, multiprocessing, sys
from sprockets.clients import memcached

client = memcached.Client(servers=sys.argv[1])
awaitable = memcached.AsyncClient(servers=sys.argv[1])

async def use(me):
    for number in range(50):
        key = f'{me}-{number}'
        assert await awaitable.set(key, key)
        assert await awaitable.get(key) == key

def work(me):
    for number in range(50):
        key = f'{me}:{number}'
        assert client.set(key, key)
        assert client.get(key) == key
    asyncio.run(use(me))

if __name__ == '__main__':
    work('before')
    context = multiprocessing.get_context(sys.argv[2])
    children = [
        context.Process(target=work, args=(f'child{number}',))
        for number in range(3)
    ]
    for child in children:
        child.start()
    work('parent')
    for child in children:
        child.join(60)
    sys.exit(any(child.exitcode for child in children))
"""

FORKED_UNDER_LOAD = """
import os, sys, threading, time
from sprockets.clients import memcached

client = memcached.Client(servers=sys.argv[1].split(','))
over = threading.Event()
wrong = []

def read(key):
    while not over.is_set():
        if client.get(key) != key or client.get_multi([key]) != {key: key}:
            wrong.append(key)

keys = [f'key{number}' for number in range(20)]
assert client.set_multi({key: key for key in keys}) == []
threads = [threading.Thread(target=read, args=(key,)) for key in keys[:4]]
for thread in threads:
    thread.start()
children = []
for _ in range(15):
    child = os.fork()
    if child == 0:
        good = client.get_multi(keys) == {key: key for key in keys}
        os._exit(not good or any(client.get(key) != key for key in keys))
    children.append(child)
until = time.monotonic() + 30
failed = []
for child in children:
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.01)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    if not ended or status:
        failed.append((child, status))
over.set()
for thread in threads:
    thread.join()
assert not wrong, wrong
assert not failed, failed
"""


def run(script, *arguments, folder):
    """Run a script; fail with what it said if it fails."""
    path = folder / 'script.py'
    path.write_text(script)
    finished = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore::DeprecationWarning'),
            *(path, *arguments),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith('COV_')},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_forked_by_tornado(server, tmp_path):
    """Both clients, used before the fork and after it."""
    run(FORKED, server.address, folder=tmp_path)


@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_forked_by_multiprocessing(server, tmp_path, method):
    """While the parent goes on."""
    run(MULTIPROCESSING, server.address, method, folder=tmp_path)


def test_forked_while_other_threads_are_at_work(three, tmp_path):
    """Whatever they held at that moment, the child does not wait for it."""
    run(FORKED_UNDER_LOAD, ','.join(three), folder=tmp_path)


def test_a_child_that_ends_leaves_its_parents_connection(server):
    """It closes its copy, and says nothing on it."""
    with faults.FaultProxy(server.address) as proxy:
        client = memcached.Client(servers=proxy.address)
        client.set('key', 'value')
        child = os.fork()
        if child == 0:
            client.disconnect_all()
            os._exit(0)
        os.waitpid(child, 0)
        assert client.get('key') == 'value'
        assert len(proxy.connections) == 1
        client.disconnect_all()


def test_a_thread_that_ends_leaves_nothing(client):
    """What was each thread's own goes with it."""

    def use():
        client.gets('key')

    # Those of other tests may end meanwhile.
    before = {*threading.enumerate()}
    for _ in range(20):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert {*threading.enumerate()} <= before
    assert client.set('key', 'value')
