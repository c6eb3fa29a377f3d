"""A lock that processes have in common."""

import asyncio
import datetime
import subprocess
import sys
import time

import faults
import pytest
import wire

from sprockets.clients import memcached
from sprockets.clients.memcached.once import locks
from sprockets.clients.memcached.testing import MemcachedServer

SECONDS = 30

DAY = 24 * 60 * 60

HUGE = pytest.param(10**400, id='huge')


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


@pytest.fixture(params=['meta', b'ERROR\r\n'], ids=['meta', 'ERROR'])
def server(request, address):
    """The address of a server that knows meta commands, or does not."""
    if request.param == 'meta':
        yield address
    else:
        with faults.without_meta(address, request.param) as old:
            yield old.address


class Lock:
    """A lock of a face's client, called as the face is."""

    def __init__(self, face, name='import', time=30, **options):
        self._face = face
        self.inner = face.client.lock(name, time, **options)

    def __bool__(self):
        return bool(self.inner)

    def __call__(self, method, *args):
        call = getattr(self.inner, method)
        if hasattr(self._face, 'run'):
            return self._face.run(lambda: call(*args))
        return call(*args)

    def acquire(self):
        return self('acquire')

    def release(self):
        return self('release')

    def prolong(self, *args):
        return self('prolong', *args)


def holder(address, name='import'):
    """Return what the server has for a lock."""
    return wire.stored(address, f'lock:{name}')


def test_one_holds_it_and_gives_it_back(connect, server, address):
    """Nobody else has it meanwhile, of the same client either."""
    face = connect(server)
    lock = Lock(face)
    assert not lock
    assert lock.acquire() is True
    assert lock
    assert 29 < lock.inner.left <= 30
    assert 29 <= wire.seconds_left(address, 'lock:import') <= 32
    assert Lock(face, wait=0).acquire() is False
    assert Lock(connect(server), wait=0).acquire() is False
    assert Lock(face, 'another', wait=0).acquire() is True
    assert lock.release() is True
    assert not lock
    assert holder(address) is None
    assert Lock(face, wait=0).acquire() is True


def test_only_its_owner_releases_it(connect, server, address):
    """Who had it before, and whoever never had it, does not."""
    face = connect(server)
    lock, other = Lock(face), Lock(connect(server), wait=0)
    assert lock.acquire()
    assert other.acquire() is False
    assert other.release() is False
    assert holder(address) is not None
    # Its time is over, and another one has it.
    wire.ask(address, b'delete lock:import\r\n')
    assert other.acquire()
    assert lock.release() is False
    assert lock.prolong() is False
    assert holder(address) is not None
    assert other.release() is True


def test_it_ends_by_itself(connect, address):
    """Its owner knows when it may be over, and waiting is bounded."""
    lock, other = Lock(connect(address), time=1), Lock(connect(address))
    assert lock.acquire()
    began = time.monotonic()
    assert other.acquire()
    assert time.monotonic() - began < SECONDS
    assert not lock
    assert lock.release() is False
    assert other


@pytest.mark.parametrize(
    'time',
    [30 * DAY, datetime.timedelta(days=30), 30 * DAY - 1, 30 * DAY - 2],
    ids=str,
)
def test_the_longest_time(connect, server, time):
    """What is more than thirty days with the spare ones is held as well."""
    lock = Lock(connect(server), time=time)
    other = Lock(connect(server), time=time, wait=0)
    assert lock.acquire()
    assert other.acquire() is False
    assert lock.prolong()
    assert other.acquire() is False
    assert lock.release() is True
    assert other.acquire() is True


@pytest.mark.skipif(
    not hasattr(time, 'CLOCK_BOOTTIME'), reason='no clock tells of it'
)
def test_a_machine_that_was_asleep(connect, address, monkeypatch):
    """The time of a lock goes on, though the monotonic clock stands still."""
    slept = 0
    told = time.clock_gettime

    def tell(clock):
        return told(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, 'clock_gettime', tell)
    lock = Lock(connect(address), time=30)
    assert lock.acquire()
    slept = 28
    assert 0 < lock.inner.left <= 2
    assert lock.prolong()
    assert 29 < lock.inner.left <= 30
    slept += 30
    assert not lock
    assert lock.inner.left == 0
    # Another one may have had it since.
    assert lock.release() is False


def test_it_is_prolonged(connect, server, address):
    """From now on, for as long as at first or as it is told."""
    lock = Lock(connect(server), time=20)
    assert lock.prolong() is False
    assert lock.acquire()
    wire.ask(address, b'touch lock:import 5\r\n')
    assert lock.prolong()
    assert 19 <= wire.seconds_left(address, 'lock:import') <= 22
    assert lock.prolong(datetime.timedelta(minutes=1))
    assert 59 <= wire.seconds_left(address, 'lock:import') <= 62
    assert 59 < lock.inner.left <= 60
    wire.ask(address, b'delete lock:import\r\n')
    assert lock.prolong() is False
    assert holder(address) is None


def test_waiting_is_bounded(connect, address):
    """Who does not get it in time goes on without it."""
    assert Lock(connect(address)).acquire()
    other = Lock(connect(address), wait=0.3)
    began = time.monotonic()
    assert other.acquire() is False
    assert 0.3 <= time.monotonic() - began < SECONDS
    assert not other


def test_as_a_context(address):
    """It is given back whatever happens."""
    client = memcached.Client(servers=address)
    with client.lock('import', 30) as held:
        assert held
        assert holder(address)
        with client.lock('import', 30, wait=0) as other:
            assert not other
        assert holder(address)
        assert held.prolong(60)
    assert not held
    assert holder(address) is None
    with pytest.raises(ArithmeticError), client.lock('import', 30):
        raise ArithmeticError
    assert holder(address) is None
    client.disconnect_all()


def test_as_an_awaited_context(address):
    """Likewise; each of many has it once, one after the other."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        inside = []
        done = []

        async def work(number):
            async with client.lock('import', time=30) as held:
                assert held
                inside.append(number)
                assert len(inside) == 1
                await asyncio.sleep(0)
                inside.remove(number)
            done.append(number)

        await asyncio.gather(*[work(number) for number in range(10)])
        assert sorted(done) == [*range(10)]
        with pytest.raises(ArithmeticError):
            async with client.lock('import', time=30):
                raise ArithmeticError
        assert holder(address) is None
        await client.close()

    asyncio.run(main())


def test_the_same_object_twice(connect, address):
    """It would wait for itself."""
    lock = Lock(connect(address))
    assert lock.acquire()
    with pytest.raises(RuntimeError, match="'import' was acquired"):
        lock.acquire()
    assert lock
    assert lock.release()
    assert lock.acquire()


def test_who_is_cancelled_while_waiting_leaves_nothing(address):
    """Neither the lock nor a wait for it."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        async with client.lock('import', 30):
            for turns in range(20):
                task = asyncio.ensure_future(
                    client.lock('import', 30).acquire()
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        for turns in range(20):
            task = asyncio.ensure_future(client.lock('import', 30).acquire())
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                assert await client.get('lock:import')
                await client.delete('lock:import')
                continue
            with pytest.raises(asyncio.CancelledError):
                await task
            # What may have been stored is deleted by now.
            assert await client.get('lock:import') is None
        await client.close()

    asyncio.run(main())


def test_who_is_cancelled_while_giving_it_back_gives_it_back(address):
    """Nobody else does, and others would wait until its time is over."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        turns = 0
        while True:
            lock = client.lock('import', 30)
            assert await lock.acquire()
            task = asyncio.ensure_future(lock.release())
            # Not begun it is not ended either.
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            if not task.cancel():
                break
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.get('lock:import') is None
            turns += 1
        assert turns
        await client.close()

    asyncio.run(main())


async def cancel_until_it_ends(task):
    """Cancel a task each time that it waits, as anyio does."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize('turns', range(8))
def test_who_is_cancelled_again_and_again_leaves_nothing(address, turns):
    """It does not wait for the end, which comes all the same."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        await client.get('connected')
        task = asyncio.ensure_future(client.lock('import', 30).acquire())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.done():
            await cancel_until_it_ends(task)
            await client.close()
            assert holder(address) is None
        await client.close()

    asyncio.run(main())


def test_who_is_cancelled_again_and_again_gives_it_back(address):
    """However often, while it does so."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        begun = asyncio.Event()

        async def hold():
            async with client.lock('import', 30) as held:
                assert held
                begun.set()
                await asyncio.sleep(SECONDS)

        task = asyncio.ensure_future(hold())
        await begun.wait()
        await cancel_until_it_ends(task)
        await client.close()

    asyncio.run(main())
    assert holder(address) is None


@pytest.mark.parametrize('length', [100, 150, 200, 249])
def test_a_long_prefix_leaves_room_for_any_name(connect, address, length):
    """Whoever has another one has other locks."""
    face = connect(address, key_prefix='p' * length)
    other = connect(address, key_prefix='p' * (length - 1) + 'q')
    lock = Lock(face, 'n' * 100)
    assert lock.acquire()
    assert not Lock(face, 'n' * 100, wait=0).acquire()
    assert Lock(other, 'n' * 100, wait=0).acquire()
    assert lock.release() is True


def test_without_a_server(connect, memcached_server):
    """Nobody gets it, at once, and nobody waits for it."""
    face = connect(memcached_server.address, socket_timeout=1)
    lock = Lock(face)
    assert lock.acquire()
    memcached_server.kill()
    assert lock.prolong() is False
    assert lock.release() is False
    assert not lock
    began = time.monotonic()
    assert Lock(face, time=600).acquire() is False
    assert time.monotonic() - began < SECONDS


def test_a_server_that_has_begun_again(connect, memcached_server):
    """It knows nothing of the lock: its owner is told when it asks."""
    face = connect(memcached_server.address)
    lock = Lock(face)
    assert lock.acquire()
    memcached_server.restart()
    assert lock.prolong() is False
    assert Lock(face, wait=0).acquire()
    assert lock.release() is False
    assert holder(memcached_server.address) is not None


def test_it_is_on_no_other_server(connect):
    """While its own is down somebody else would get it there."""
    with MemcachedServer() as one, MemcachedServer() as two:
        face = connect(
            one.address, two.address, socket_timeout=1, dead_retry=0
        )
        held = [Lock(face, f'lock{number}', wait=0) for number in range(10)]
        assert all(lock.acquire() for lock in held)
        one.pause()
        try:
            got = [
                Lock(face, f'lock{number}', wait=0).acquire()
                for number in range(10)
            ]
        finally:
            one.resume()
        assert not any(got)


def test_a_reply_that_is_lost(connect, address):
    """Who has it all the same finds out."""
    with faults.FaultProxy(address) as proxy:
        face = connect(proxy.address)
        face.get('warm')
        proxy.next_reply(faults.cut(0))
        lock = Lock(face, wait=0)
        assert lock.acquire() is True
        assert holder(address) is not None
        assert lock.release() is True


OTHER = """
import sys
from sprockets.clients import memcached
client = memcached.Client(servers=sys.argv[1])
for _ in range(20):
    with client.lock('count', 30, wait=60) as held:
        assert held
        number = client.get('number') or 0
        client.set('number', number + 1)
"""


def test_processes_have_it_one_after_another(address):
    """What is read and written within is nobody else's meanwhile."""
    command = [sys.executable, '-c', OTHER, address]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as two:
        pass
    assert one.returncode == two.returncode == 0
    client = memcached.Client(servers=address)
    assert client.get('number') == 40
    client.disconnect_all()


def test_a_namespace_s_lock_is_its_own(connect, address):
    """And does not end with it."""
    face = connect(address)
    inner = face.client.namespace('x')
    assert Lock(face, wait=0).acquire()
    face.client, client = inner, face.client
    try:
        assert Lock(face, wait=0).acquire()
        assert not Lock(face, wait=0).acquire()
    finally:
        face.client = client


def test_names_with_blanks_make_no_other_namespace_s_lock(address):
    """Wherever the blanks are."""
    with memcached.Client(servers=address) as client:
        for lock in (
            client.namespace('a').lock('b c', 30, wait=0),
            client.namespace('a b').lock('c', 30, wait=0),
            client.namespace('a').namespace('b').lock('c', 30, wait=0),
            client.lock('a b c', 30, wait=0),
        ):
            assert lock.acquire()


@pytest.mark.parametrize(
    'arguments, error, named',
    [
        (('import', 0), ValueError, 'time is 0'),
        (('import', -1), ValueError, 'time is -1'),
        (('import', 'soon'), ValueError, "time is 'soon'"),
        (('import', None), ValueError, 'time is None'),
        (('import', 60 * 60 * 24 * 31), ValueError, 'time is'),
        (('', 30), ValueError, "name is ''"),
        (('a\n', 30), ValueError, 'name is'),
        ((7, 30), TypeError, 'name is 7'),
    ],
    ids=str,
)
def test_bad_arguments(connect, address, arguments, error, named):
    """They are named where the lock is made."""
    with pytest.raises(error, match=named):
        connect(address).client.lock(*arguments)


@pytest.mark.parametrize('wait', [-1, 'long', float('inf'), True, HUGE])
def test_a_wait_that_is_none(connect, address, wait):
    """Waiting is bounded."""
    with pytest.raises(ValueError, match='wait is'):
        connect(address).client.lock('import', 30, wait=wait)


def test_its_representation(connect, address):
    """It says what it is of, and for how long."""
    lock = Lock(connect(address))
    assert repr(lock.inner).endswith("Lock 'import': not held>")
    lock.acquire()
    assert "'import': held for " in repr(lock.inner)
    assert isinstance(lock.inner, locks._Lock)
