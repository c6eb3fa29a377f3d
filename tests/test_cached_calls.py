"""What can be done to the result of one cached call."""

import asyncio
import concurrent.futures
import re
import threading

import faults
import pytest
import wire
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached.once import leases


class DirectFace:
    """A blocking client, for what is to be done meanwhile."""

    def __init__(self, address):
        self.client = memcached.Client(servers=address)


class Numbers:
    """A function that counts its calls, cached by some client."""

    def __init__(self, face, namespace=None, **options):
        self.calls = 0
        self.error = None
        self._face = face
        client = face.client
        if namespace is not None:
            client = client.namespace(namespace)
        decorate = memcached.cached(
            60, client=client, name='double', **options
        )
        if hasattr(face.client, 'scope'):

            async def double(number):
                return self.compute(number)
        else:

            def double(number):
                return self.compute(number)

        self._double = decorate(double)

    def compute(self, number):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return [2 * number, self.calls]

    def __getattr__(self, name):
        return self._run(getattr(self._double, name))

    def __call__(self, *args):
        return self._run(self._double)(*args)

    def _run(self, method):
        def call(*args):
            if method.__name__ == 'key':
                return method(*args)
            if not hasattr(self._face, 'run'):
                return method(*args)
            return self._face.run(lambda: method(*args))

        return call


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def test_it_is_computed_anew_though_it_is_fresh(connect, address):
    """And stored in place of the old one."""
    double = Numbers(connect(address))
    assert double.refresh(3) == [6, 1]
    assert double.refresh(3) == [6, 2]
    assert double(3) == [6, 2]
    assert double.calls == 2
    assert 57 <= wire.seconds_left(address, double.key(3)) <= 60


def test_an_error_leaves_the_old_one(connect, address):
    """The caller gets it."""
    double = Numbers(connect(address))
    double(3)
    double.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        double.refresh(3)
    assert double(3) == [6, 1]
    with pytest.raises(ZeroDivisionError):
        double.refresh(4)
    double.error = None
    assert double(4) == [8, 4]


def test_what_changes_meanwhile_stays(connect, address):
    """What was computed is older."""
    double = Numbers(connect(address))
    double(3)
    other = memcached.Client(servers=address)
    inner = double.compute

    def compute(number):
        other.delete(double.key(number))
        return inner(number)

    double.compute = compute
    assert double.refresh(3) == [6, 2]
    assert double.get(3) is None
    other.disconnect_all()


@pytest.fixture(params=[True, False], ids=['meta', 'without'])
def either(request, address):
    """The address of a server with or without meta commands."""
    if request.param:
        yield address
    else:
        with faults.without_meta(address, b'ERROR\r\n') as server:
            yield server.address


@pytest.mark.parametrize('place', [0, 1, 2])
def test_a_refresh_goes_on_where_its_connection_ends(connect, address, place):
    """What it does before it computes is done on another one."""
    with faults.FaultProxy(address) as proxy:
        assert Numbers(DirectFace(address)).set('old', 3)
        double = Numbers(connect(proxy.address))
        proxy.next_reply(*[None] * place, faults.close)
        assert double.refresh(3) == [6, 1]
        assert double.get(3) == [6, 1]
        assert not proxy.pending


def test_a_refresh_whose_connections_end_leaves_nothing_older(connect, either):
    """Nobody knows then whether the old value is that of the same server."""
    double = Numbers(connect(either))
    other = DirectFace(either).client
    double(3)
    inner = double.compute

    def compute(number):
        # The process has no connection to the server then.
        other.disconnect_all()
        return inner(number)

    double.compute = compute
    assert double.refresh(3) == [6, 2]
    assert double.get(3) in (None, [6, 2])


@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize('method', ['__call__', 'refresh'])
def test_the_refresh_that_began_last_is_what_is_found(
    connect, either, there, method
):
    """The data may have changed since another computation began."""
    options = {'stale': 600, 'lease': 600}
    double = Numbers(connect(either), **options)
    other = Numbers(DirectFace(either), **options)
    begun, go_on = threading.Event(), threading.Event()
    inner = double.compute
    newer = []
    if there:
        double(3)
        double.mark_stale(3)

    def compute_newer(number):
        begun.set()
        assert go_on.wait(60)
        return [number, 'newer']

    def compute(number):
        other.compute = compute_newer
        newer.append(executor.submit(other.refresh, number))
        assert begun.wait(30)
        double.compute = inner
        return [number, 'older']

    double.compute = compute
    with concurrent.futures.ThreadPoolExecutor() as executor:
        try:
            if method == 'refresh':
                assert double.refresh(3) == [3, 'older']
            else:
                double(3)
                wait_until(lambda: double.get(4) is None and newer)
                for _ in range(5):
                    double.get(4)
        finally:
            go_on.set()
        assert newer[0].result(60) == [3, 'newer']
    assert double.get(3) == [3, 'newer']


def test_a_mark_while_a_value_is_stored_counts(connect, address, monkeypatch):
    """It comes before what says that the value is fresh."""
    with faults.without_meta(address, b'ERROR\r\n') as server:
        double = Numbers(connect(server.address), stale=600)
        other = Numbers(DirectFace(server.address), stale=600)
        double(3)
        assert double.mark_stale(3)
        note, marked = leases.Flow._note, []

        def note_late(flow, want, outcome):
            if not marked:
                marked.append(other.mark_stale(3))
            yield from note(flow, want, outcome)

        monkeypatch.setattr(leases.Flow, '_note', note_late)
        wait_until(lambda: double(3) and marked == [1])
        # Or more, where one was computed for a value that was replaced then.
        wait_until(lambda: double(3)[1] > 2)


def test_callers_after_a_refresh_do_not_get_what_is_older(address):
    """They wait for who computes anew, and not for who began before."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        begun = {'old': asyncio.Event(), 'new': asyncio.Event()}
        go_on = {'old': asyncio.Event(), 'new': asyncio.Event()}
        data = 'old'

        @memcached.cached(
            60, client=client, name='load', when=lambda found: found == 'new'
        )
        async def load():
            found = data
            begun[found].set()
            await go_on[found].wait()
            return found

        older = asyncio.ensure_future(load())
        await begun['old'].wait()
        data = 'new'
        newer = asyncio.ensure_future(load.refresh())
        await begun['new'].wait()
        later = asyncio.ensure_future(load())
        for _ in range(5):
            await client.get('other')
        go_on['old'].set()
        assert await older == 'old'
        go_on['new'].set()
        assert await newer == await later == await load() == 'new'
        await client.close()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize('method', ['__call__', 'refresh'])
def test_what_was_computed_before_a_mark_is_not_fresh(
    connect, either, address, method
):
    """It is computed once more, whoever was computing it anew."""
    double = Numbers(connect(either), stale=600)
    other = Numbers(DirectFace(either), stale=600)
    double(3)
    assert double.mark_stale(3)
    inner = double.compute

    def compute(number):
        older = inner(number)
        assert other.mark_stale(3)
        double.compute = inner
        return older

    double.compute = compute
    if method == 'refresh':
        assert double.refresh(3) == [6, 2]
    else:
        wait_until(lambda: double(3) and double.compute == inner)
    # Or more, as above.
    wait_until(lambda: double(3)[1] > 2)
    assert double(3)[1] > 2


def test_a_result_that_is_known_is_set(connect, address):
    """The function is not called; it is as if it had been."""
    double = Numbers(connect(address), stale=600)
    assert double.get(3) is None
    assert double.set([6, 'set'], 3)
    assert double(3) == double.get(3) == [6, 'set']
    assert double.calls == 0
    assert 657 <= wire.seconds_left(address, double.key(3)) <= 660
    # When its time has passed it is stale.
    wire.ask(address, f'touch {double.key(3)} 300\r\n'.encode())
    wait_until(lambda: double(3) == [6, 1])
    assert double.calls == 1


def test_one_that_is_too_large_is_not_set(connect, address):
    """Nor is the old one served on."""
    client = connect(address, server_max_value_length=100)
    double = Numbers(client)
    double(3)
    assert not double.set(['x' * 200], 3)
    assert double.get(3) is None


def test_one_that_is_not_to_be_stored_is_not_set(connect, address):
    """As it would not be if it had been computed; the old one goes."""
    double = Numbers(
        connect(address), cache_none=False, when=lambda found: found != 'no'
    )
    for known in None, 'no':
        double.calls = 0
        assert double(3) == [6, 1]
        assert not double.set(known, 3)
        assert wire.stored(address, double.key(3)) is None


def test_what_is_computed_meanwhile_does_not_stay_then(connect, either):
    """It is older than the one that is not to be stored."""
    double = Numbers(connect(either), cache_none=False)
    other = Numbers(DirectFace(either), cache_none=False)
    inner = double.compute

    def compute(number):
        older = inner(number)
        assert not other.set(None, 3)
        return older

    double.compute = compute
    assert double(3) == [6, 1]
    double.compute = inner
    assert double.get(3) is None
    assert double(3) == [6, 2]


def test_nobody_waits_for_it_then(address):
    """Who calls afterwards has the function called."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing, go_on = asyncio.Event(), asyncio.Event()
        results = [None, 'old']

        @memcached.cached(60, client=client, cache_none=False, name='load')
        async def load():
            result = results.pop()
            computing.set()
            await go_on.wait()
            return result

        first = asyncio.create_task(load())
        await computing.wait()
        assert not await load.set(None)
        later = asyncio.create_task(load())
        await asyncio.to_thread(wait_until, lambda: not results)
        go_on.set()
        assert await first == 'old'
        assert await later is None
        assert await load.get() is None
        await client.close()

    asyncio.run(main())


def test_no_thread_waits_for_it_then(address):
    """Likewise."""
    client = memcached.Client(servers=address)
    computing, go_on = threading.Event(), threading.Event()
    results = [None, 'old']

    @memcached.cached(60, client=client, cache_none=False, name='load')
    def load():
        result = results.pop()
        computing.set()
        assert result is None or go_on.wait(30)
        return result

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(load)
        assert computing.wait(30)
        try:
            assert not load.set(None)
            assert pool.submit(load).result(5) is None
        finally:
            go_on.set()
        assert first.result(30) == 'old'
    assert load.get() is None
    client.disconnect_all()


@pytest.mark.parametrize('stale, seconds', [(0, 60), (600, 600)])
def test_it_is_marked_stale(connect, address, stale, seconds):
    """For as long as it is served stale."""
    double = Numbers(connect(address), stale=stale)
    assert not double.mark_stale(3)
    double(3)
    assert double.mark_stale(3)
    if stale:
        wait_until(lambda: double(3) == [6, 2])
        assert double.mark_stale(3)
    # Whoever asks first, with a meta command, is told that it is stale.
    answer = wire.ask(address, f'mg {double.key(3)} t\r\n'.encode())
    left = int(re.search(rb' t(\d+)', answer)[1])
    assert seconds - 3 <= left <= seconds


@pytest.mark.parametrize('tags', [(), ('rates',)])
def test_in_a_namespace(connect, address, tags):
    """It is done to the result there, and to that of no other namespace."""
    face = connect(address)
    seven, eight = (
        Numbers(face, f'user:{number}', tags=tags) for number in (7, 8)
    )
    assert seven(3) == [6, 1]
    assert seven.refresh(3) == [6, 2]
    assert seven(3) == seven.get(3) == [6, 2]
    assert seven.set(['set'], 3)
    assert seven(3) == seven.get(3) == ['set']
    assert eight.get(3) is None
    assert eight(3) == [6, 1]
    assert seven.invalidate(3)
    assert seven.get(3) is None
    assert eight.get(3) == [6, 1]
    assert seven.set(['set'], 3)
    end = face.client.namespace('user:7').invalidate
    assert face.run(end) if hasattr(face, 'run') else end()
    assert seven.get(3) is None
    assert Numbers(face, tags=tags).get(3) is None


@pytest.mark.parametrize('tags', [(), ('rates',)])
def test_in_a_namespace_it_is_marked_stale(connect, address, tags):
    """Likewise."""
    double = Numbers(connect(address), 'user:7', tags=tags, stale=600)
    assert double(3) == [6, 1]
    assert double.mark_stale(3)
    wait_until(lambda: double(3) == [6, 2])


@pytest.mark.parametrize('tags', [(), ('rates',)])
@pytest.mark.parametrize('namespace', [None, 'user:7'])
def test_without_a_server(connect, namespace, tags):
    """It computes; nothing is stored, and nothing raises."""
    face = connect('127.0.0.1:1', socket_timeout=0.5)
    double = Numbers(face, namespace, tags=tags)
    assert double.refresh(3) == [6, 1]
    assert double.set([1], 3) == 0
    assert double.mark_stale(3) == 0
    assert double.get(3) is None
    assert double.calls == 1


def test_a_function_that_refreshes_itself(address):
    """It would wait for itself."""
    client = memcached.Client(servers=address)

    @memcached.cached(60, client=client, name='itself')
    def load(x):
        return load(x)

    client.set(load.key(1), 'old')
    assert load.refresh(1) == 'old'
    client.delete(load.key(1))
    with pytest.raises(RuntimeError, match='itself'):
        load.refresh(1)
    client.disconnect_all()


@pytest.mark.parametrize('there', [True, False])
def test_a_function_that_refreshes_what_it_computes(address, there):
    """It would wait for itself, and is told so; the next one computes."""

    async def main():
        client = memcached.AsyncClient(servers=address)

        @memcached.cached(60, client=client, name='fresh')
        async def load(x):
            return await load.refresh(x) if x else 0

        if there:
            await load.set('old', 1)
        with pytest.raises(RuntimeError, match='itself'):
            await (load.refresh(1) if there else load(1))
        assert await load(0) == 0
        await client.close()

    def main_blocking():
        client = memcached.Client(servers=address)

        @memcached.cached(60, client=client, name='blocking')
        def load(x):
            return load.refresh(x)

        if there:
            load.set('old', 1)
        with pytest.raises(RuntimeError, match='itself'):
            load.refresh(1) if there else load(1)
        client.disconnect_all()

    asyncio.run(main())
    main_blocking()


def test_a_task_that_refreshes_what_its_function_computes(address):
    """It may be waited for, and so waits for nobody."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        calls = []

        @memcached.cached(60, client=client, name='other', lease=60)
        async def load(x):
            calls.append(x)
            if len(calls) > 1:
                return 'new'
            return await asyncio.ensure_future(again(x))

        async def again(x):
            return await load.refresh(x)

        # It would wait for two minutes.
        assert await asyncio.wait_for(load(1), 60) == 'new'
        assert calls == [1, 1]
        await client.close()

    asyncio.run(main())


def test_arguments_of_any_name(connect, address):
    """None of them is taken for the wrapper's own."""
    face = connect(address)
    awaits = hasattr(face, 'run')

    def run(call):
        return face.run(call) if awaits else call()

    decorate = memcached.cached(60, client=face.client, name='named')
    many = memcached.cached.many(60, client=face.client, name='manied')
    if awaits:

        @decorate
        async def load(**names):
            return sorted(names)

        @many
        async def load_many(ids, **names):
            return {each: sorted(names) for each in ids}
    else:

        @decorate
        def load(**names):
            return sorted(names)

        @many
        def load_many(ids, **names):
            return {each: sorted(names) for each in ids}

    names = dict.fromkeys(
        ['self', 'keys', 'key', 'args', 'kwargs', 'value', 'function'], 1
    )
    for method in load, load.refresh, load.get:
        assert run(lambda method=method: method(**names)) == sorted(names)
    assert run(lambda: load.mark_stale(**names))
    assert run(lambda: load.invalidate(**names)) == 1
    assert run(lambda: load.set(['other'], **names))
    assert run(lambda: load(**names)) == ['other']
    assert load.key(**names) != load.key(self=1)
    for method in load_many, load_many.refresh:
        assert run(lambda method=method: method([7], **names)) == {
            7: sorted(names)
        }
    assert load_many.key(7, **names) != load_many.key(7, self=1)
    assert run(lambda: load_many.invalidate([7], **names)) == 1


def test_methods_of_methods_are_bound(address):
    """They take the arguments without the object."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        repository = Repository(client)
        assert await repository.load.refresh(7) == 'loaded 7'
        assert await repository.load.set('set', 7)
        assert await repository.load.get(7) == 'set'
        assert await repository.load.mark_stale(7)
        assert await repository.load.invalidate(7)
        assert await asyncio.create_task(repository.load(7)) == 'loaded 7'
        await client.close()

    asyncio.run(main())


class Repository:
    def __init__(self, client):
        self.memcached = client

    @memcached.cached(60)
    async def load(self, number):
        return f'loaded {number}'
