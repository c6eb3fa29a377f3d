"""Servers that are changed while calls are under way."""

import asyncio
import concurrent.futures
import itertools
import logging
import threading
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.servers import distribution, endpoints
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 10
KEYS = [f'key{number}' for number in range(40)]


@pytest.fixture
def pair():
    with MemcachedServer() as one, MemcachedServer() as other:
        yield one, other


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_threads_lose_nothing():
    """Every key is on both servers: each read finds it all the time."""
    with MemcachedServer() as one, MemcachedServer() as other:
        lists = [[one.address], [other.address], [one.address, other.address]]
        for servers in lists[:2]:
            client = memcached.Client(servers=servers)
            client.set_multi({key: key for key in KEYS})
            client.disconnect_all()
        client = memcached.Client(servers=lists[0])
        over = threading.Event()

        def read():
            count = 0
            while not over.is_set():
                for key in KEYS[:10]:
                    assert client.get(key) == key
                assert client.get_multi(KEYS) == {key: key for key in KEYS}
                count += 1
            return count

        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            readers = [executor.submit(read) for _ in range(4)]
            for servers in itertools.islice(itertools.cycle(lists), 200):
                client.set_servers(servers)
                time.sleep(0)
            over.set()
            assert all(reader.result(SECONDS) for reader in readers)
        client.disconnect_all()


def test_the_loop_loses_nothing():
    """Nor do tasks, and cas says no rather than yes in the wrong place."""

    async def use(lists):
        client = memcached.AsyncClient(servers=lists[0])
        over = False

        async def read():
            count = 0
            while not over:
                keys = KEYS[:10]
                values = await asyncio.gather(*map(client.get, keys))
                assert values == keys
                everything = await client.get_multi(KEYS)
                assert everything == {key: key for key in KEYS}
                count += 1
            return count

        async def swap():
            scope = client.scope()
            while not over:
                assert await scope.gets('key1') == 'key1'
                assert await scope.cas('key1', 'key1') in (True, False, 0)

        readers = [asyncio.create_task(read()) for _ in range(4)]
        readers.append(asyncio.create_task(swap()))
        for servers in itertools.islice(itertools.cycle(lists), 200):
            await client.set_servers(servers)
            await asyncio.sleep(0)
        over = True
        counts = await asyncio.wait_for(asyncio.gather(*readers), SECONDS)
        assert all(counts[:-1])
        await client.close()

    with MemcachedServer() as one, MemcachedServer() as other:
        lists = [[one.address], [other.address], [one.address, other.address]]
        for servers in lists[:2]:
            client = memcached.Client(servers=servers)
            client.set_multi({key: key for key in KEYS})
            client.disconnect_all()
        asyncio.run(use(lists))


def test_connections_to_a_server_that_is_gone_are_closed(connect, pair):
    """Once they are idle, and without anybody asking for it."""
    one, other = pair
    client = connect(one.address, other.address)
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []
    assert wire.connections(other.address) > 0
    client.set_servers([one.address])
    client.get('key1')
    wait_until(lambda: wire.connections(other.address) == 0)
    assert wire.connections(one.address) > 0
    client.set_servers([one.address, other.address])
    assert client.set_multi(dict.fromkeys(KEYS, 'value')) == []


def test_a_call_to_a_server_that_is_gone_is_answered():
    """It was under way, and ends where it went; then the server is gone."""

    async def use(server, other):
        client = memcached.AsyncClient(
            servers=server.address, socket_timeout=5
        )
        call = client.get('key')
        await asyncio.to_thread(server.wait_for, lambda: server.stalled)
        await client.set_servers([other.address])
        assert await client.set('key', 'new')
        server.release()
        assert await call == 'old'
        engine = client._engine
        assert len(engine.state.lanes) == 2
        engine.state.drop_gone()
        assert len(engine.state.lanes) == 1
        await asyncio.to_thread(server.wait_for, lambda: not server.open)
        assert await client.get('key') == 'new'
        await client.close()

    answer = [faults.Do.STALL, b'VALUE key 16 3\r\nold\r\nEND\r\n']
    with (
        faults.ScriptedServer([answer]) as server,
        MemcachedServer() as other,
    ):
        asyncio.run(use(server, other))


def test_cas_does_not_follow_a_key_to_another_server(connect, pair):
    """What gets saw is of a server that is not asked any more."""
    one, other = pair
    client = connect(one.address)
    client.set('key', 'old')
    assert client.gets('key') == 'old'
    client.set_servers([other.address])
    client.set('key', 'other')
    assert not client.cas('key', 'new')
    assert client.get('key') == 'other'


def test_a_wrong_list_changes_nothing(connect, pair):
    """It raises, and the servers are those from before."""
    one, _ = pair
    client = connect(one.address)
    assert client.set('key', 'value')
    with pytest.raises(ValueError, match='port'):
        client.set_servers(['127.0.0.1:1', '127.0.0.1:99999'])
    assert client.get('key') == 'value'
    client.set_servers([])
    assert client.get('key', 'default') == 'default'
    client.set_servers([one.address])
    assert client.get('key') == 'value'


# Which of two changes counts


class Hold(logging.Handler):
    """Holds up a thread that logs a text."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def emit(self, record):
        if self.text in record.getMessage():
            self.reached.set()
            self.go_on.wait(SECONDS)


def configuration(server):
    host, port = server.address.split(':')
    body = f'1\n{host}|{host}|{port}\n'.encode()
    return b'CONFIG cluster 0 %d\r\n%s\r\nEND\r\n' % (len(body), body)


def test_servers_that_are_found_do_not_undo_a_change(pair):
    """An answer is just being used when other servers are set."""
    logger = logging.getLogger('sprockets.clients.memcached')
    hold = Hold('tells the memcached servers')
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(hold)
    try:
        with faults.ScriptedServer(*[[configuration(pair[0])]] * 3) as source:
            client = memcached.Client(servers=f'discover:{source.address}')
            early = threading.Thread(target=client.get, args=('key',))
            early.start()
            assert hold.reached.wait(SECONDS)
            client.set_servers([pair[1].address])
            discovering = [
                thread
                for thread in threading.enumerate()
                if 'discovery' in thread.name and source.address in thread.name
            ]
            hold.go_on.set()
            for thread in [early, *discovering]:
                thread.join(SECONDS)
                assert not thread.is_alive()
    finally:
        hold.go_on.set()
        logger.removeHandler(hold)
        logger.setLevel(level)
    assert [s.endpoint.address.text for s in client.servers] == [
        pair[1].address
    ]
    assert client.set('key', 1)
    assert wire.ask(pair[1].address, b'get key\r\n', b'END\r\n').startswith(
        b'VALUE key'
    )
    client.disconnect_all()


def test_the_last_change_counts(pair):
    """However long an earlier one takes to be made."""
    client = memcached.Client(servers=pair[0].address)
    cluster = client._shared.cluster
    early = cluster.change([pair[0].address, '127.0.0.1:1'])
    client.set_servers([pair[1].address])
    early.make()
    assert [s.endpoint.address.text for s in client.servers] == [
        pair[1].address
    ]
    client.disconnect_all()


def test_a_server_that_is_gone_by_another_change_has_no_user(
    pair, monkeypatch
):
    """Whatever another thread does in the middle of a change."""
    first, second = pair
    client, other = (
        memcached.Client(servers=address)
        for address in ('127.0.0.1:1', first.address)
    )
    changes = []
    enter = endpoints.Endpoint.enter

    def enter_late(endpoint, user):
        if endpoint.address.text == first.address and not changes:
            changes.append(
                threading.Thread(
                    target=client.set_servers, args=[[second.address]]
                )
            )
            changes[0].start()
            # It may have to wait for this one.
            changes[0].join(0.2)
        enter(endpoint, user)

    monkeypatch.setattr(endpoints.Endpoint, 'enter', enter_late)
    client.set_servers([first.address])
    changes[0].join(SECONDS)
    (endpoint,) = [server.endpoint for server in other.servers]
    assert client.servers[0].endpoint is not endpoint
    # Nobody has it but for this one.
    assert endpoint.let_go(other._shared.cluster)


def test_a_bad_change_changes_nothing(pair):
    """Nor does it stop one that is being made."""
    client = memcached.Client(servers=pair[0].address)
    cluster = client._shared.cluster
    change = cluster.change([pair[1].address])
    with pytest.raises(ValueError, match='port'):
        client.set_servers([f'{pair[0].address}:x:y'])
    change.make()
    assert [s.endpoint.address.text for s in client.servers] == [
        pair[1].address
    ]
    client.disconnect_all()


def test_calls_do_not_wait_for_a_continuum(pair, monkeypatch):
    """Another thread makes one of many servers; the old servers are used."""
    made = distribution.make
    began, go_on = threading.Event(), threading.Event()

    def make(*arguments):
        began.set()
        assert go_on.wait(SECONDS)
        return made(*arguments)

    client = memcached.Client(servers=pair[0].address, distribution='ketama')
    client.set('key', 'value')
    monkeypatch.setattr(distribution, 'make', make)
    change = threading.Thread(
        target=client.set_servers, args=([pair[0].address, pair[1].address],)
    )
    change.start()
    assert began.wait(SECONDS)
    assert client.get('key') == 'value'
    assert len(client.get_stats()) == 1
    client.servers[0].close_socket()
    go_on.set()
    change.join()
    assert len(client.get_stats()) == 2
    client.disconnect_all()


@pytest.fixture
def continua(monkeypatch):
    """The continua that were made, as the lists of their servers."""
    made = distribution.make
    lists = []

    def make(kind, servers, failover):
        lists.append([address.text for address, _, _ in servers])
        return made(kind, servers, failover)

    monkeypatch.setattr(distribution, 'make', make)
    return lists


@pytest.mark.parametrize('face', [memcached.Client, memcached.AsyncClient])
@pytest.mark.parametrize('flush', [False, True])
def test_a_client_makes_its_continuum_once(continua, face, flush):
    names = ['10.0.0.1:11211', '10.0.0.2:11211']
    face(servers=names, distribution='ketama', flush_on_reconnect=flush)
    assert continua == [names]


def test_the_same_servers_take_no_other_continuum(continua):
    one, other = '10.0.0.1:11211', '10.0.0.2:11211'
    client = memcached.Client(servers=[one, other], distribution='ketama')
    client.set_servers([one, other])
    assert continua == [[one, other]]
    client.set_servers([one, (other, 2)])
    assert continua == [[one, other]] * 2
    assert [s.address.text for s in client.buckets] == [one, other, other]
    client.socket_timeout = 1
    client.set_servers([one, (other, 2)])
    assert continua == [[one, other]] * 3
    client.servers[0].mark_dead('by hand')
    assert continua == [[one, other]] * 4
    client.set_servers([one, (other, 2)])
    assert continua == [[one, other]] * 5
    assert not client.servers[0].deaduntil


def test_a_thousand_servers_hold_up_no_loop():
    """A loop goes on while a thread makes their continuum."""
    names = [f'10.0.{n // 250}.{n % 250 + 1}' for n in range(1000)]

    async def main():
        loop = asyncio.get_running_loop()
        client = memcached.AsyncClient(
            servers=names[0], distribution='ketama', dead_retry=60
        )
        cluster = client._engine.cluster
        change = cluster.change(names)
        assert change.takes_long
        done = loop.run_in_executor(None, change.make)
        turns = 0
        while not done.done():
            await asyncio.sleep(0.001)
            turns += 1
        await done
        assert len(client._engine.cluster.endpoints) == 1000
        assert turns > 3
        await client.close()

    asyncio.run(main())
