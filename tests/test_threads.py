"""Threads that cannot be started: what fails, and that all is well later."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
import time

import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached.servers import discovery, workers
from sprockets.clients.memcached.testing import MemcachedServer

LONG = 10


@pytest.fixture
def server():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def other():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def no_threads(monkeypatch):
    """Let no thread be started, as at a limit of processes."""

    @contextlib.contextmanager
    def forbidden():
        with monkeypatch.context() as patch:

            def start(thread):
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, 'start', start)
            yield

    return forbidden


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def run(script):
    """Run a program to its end, and return that."""
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


# Workers


@pytest.fixture
def crew():
    crew = workers.Workers(2, 'test')
    yield crew
    for thread in crew.stop():
        thread.join(LONG)


def test_a_job_that_finds_no_thread(crew, no_threads):
    """It is refused, is never run, and leaves nothing behind."""
    ran = threading.Event()
    for _ in range(5):
        with no_threads(), pytest.raises(OSError, match='no thread'):
            crew.submit(lambda: pytest.fail('it was refused'))
    crew.submit(ran.set)
    assert ran.wait(LONG)


def test_a_job_that_finds_a_busy_thread(crew, no_threads):
    """It is run by that one, later."""
    release, ran = threading.Event(), threading.Event()
    crew.submit(release.wait)
    with no_threads():
        crew.submit(ran.set)
    release.set()
    assert ran.wait(LONG)


def test_a_job_that_is_taken_back(crew):
    """It is not run, and once it runs it cannot be taken back."""
    release, began, ran = [threading.Event() for _ in range(3)]

    def hang():
        began.set()
        release.wait(LONG)

    running = [crew.submit(hang) for _ in range(2)]
    assert began.wait(LONG)
    job = crew.submit(lambda: pytest.fail('it was taken back'))
    last = crew.submit(ran.set)
    assert job.take_back()
    assert not job.take_back()
    release.set()
    assert ran.wait(LONG)
    assert not any(job.take_back() for job in [*running, last])


def test_as_many_threads_as_there_may_be(crew):
    """Each is started when a job finds none free, and then used again."""
    release = threading.Event()
    names = set()
    done = threading.Semaphore(0)

    def work():
        names.add(threading.get_ident())
        release.wait(LONG)
        done.release()

    for _ in range(50):
        crew.submit(work)
    until(lambda: len(names) == 2)
    release.set()
    for _ in range(50):
        assert done.acquire(timeout=LONG)
    assert len(names) == 2
    assert len(crew.stop()) == 2


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)
def test_a_job_that_raises(crew):
    """It is told of, and others are run."""
    for _ in range(5):
        crew.submit(lambda: 1 / 0)
    ran = threading.Event()
    crew.submit(ran.set)
    assert ran.wait(LONG)


def test_a_signal_while_a_job_is_submitted(crew):
    """Whenever it comes, other jobs are run, and no thread is missing."""
    for at in range(1, 200):
        with faults.interrupted(at) as interrupted:
            crew.submit(lambda: None)
        for _ in range(3):
            done = threading.Event()
            crew.submit(done.set)
            assert done.wait(LONG)
        ending = crew.stop()
        assert len(ending) <= 2
        for thread in ending:
            thread.join(LONG)
            assert not thread.is_alive()
        if not interrupted:
            break
    assert at > 10


# Calls


@pytest.mark.parametrize('connections', [1, 2])
def test_awaited_calls_without_threads(server, no_threads, connections):
    """They fail at once, and all is well once there are threads."""

    async def main():
        client = memcached.AsyncClient(
            servers=server.address, max_connections=connections
        )
        with no_threads():
            for _ in range(connections + 2):
                began = time.monotonic()
                assert not await client.set('key', 'never')
                assert time.monotonic() - began < 1
        assert await client.get('key') is None
        assert await client.set('key', 'value')
        assert await asyncio.gather(*[client.get('key')] * 3) == ['value'] * 3
        (endpoint,) = client._engine.cluster.endpoints
        assert endpoint.retry_at is None
        await client.close()

    asyncio.run(main())


def test_a_call_that_failed_is_not_made_later(server, no_threads):
    """A number that was reported as not counted is not."""

    async def main():
        client = memcached.AsyncClient(servers=server.address)
        plain = memcached.Client(servers=server.address)
        plain.set('number', 0)
        plain.disconnect_all()
        with no_threads():
            assert await client.incr('number') is None
        assert await client.set('other', 1)
        assert await client.get('number') == 0
        await client.close()

    asyncio.run(main())


def test_blocking_calls_without_threads(server, other, no_threads):
    """Those for several servers go to one after another."""
    client = memcached.Client(servers=[server.address, other.address])
    values = {f'key{number}': number for number in range(20)}
    with no_threads():
        assert client.set_multi(values) == []
        assert client.get_multi(list(values)) == values
        assert len(client.get_stats()) == 2
    assert client.get_multi(list(values)) == values
    client.disconnect_all()


def test_a_blocking_call_in_time_only(server, other):
    """What no thread has begun by the deadline does not come later."""
    client = memcached.Client(
        servers=[server.address, other.address],
        socket_timeout=0.2,
        max_connections=1,
    )
    release, ran = threading.Event(), threading.Event()
    for endpoint in client._shared.cluster.endpoints:
        endpoint.workers.submit(release.wait)
    keys = [f'key{number}' for number in range(20)]
    assert sorted(client.set_multi(dict.fromkeys(keys, 1))) == sorted(keys)
    release.set()
    for endpoint in client._shared.cluster.endpoints:
        ran.clear()
        endpoint.workers.submit(ran.set)
        assert ran.wait(LONG)
    assert client.get_multi(keys) == {}
    client.disconnect_all()


# Names


@pytest.fixture
def named(server):
    """Clients of a server with a name that has to be looked up."""
    return f'localhost:{server.address.rpartition(":")[2]}'


def test_a_name_without_a_thread(named, no_threads):
    """A falsy result, and the server is not to blame."""
    client = memcached.Client(servers=named, dead_retry=60)
    with no_threads():
        assert not client.set('key', 1)
        assert client.get('key') is None
        assert client.get_multi(['key']) == {}
    assert client.servers[0].endpoint.retry_at is None
    assert client.set('key', 1)
    assert client.get('key') == 1
    client.disconnect_all()


def test_a_name_at_the_end_of_the_process(named):
    """Where no threads are started any more, a call fails."""
    script = f"""
        import atexit
        from sprockets.clients import memcached
        client = memcached.Client(servers={named!r}, socket_timeout=2)
        atexit.register(lambda: print('set', bool(client.set('key', 1)) in
            (True, False)))
        """
    done = run(script)
    assert done.stdout == 'set True\n'
    assert 'Error' not in done.stderr


def test_an_interpreter_that_has_no_threads(server, named):
    """An isolated one has none that need not end; others do not wait."""
    pytest.importorskip('_interpreters', reason='Python has one interpreter')
    inside = f"""
        import asyncio
        import sys

        sys.path[:] = {sys.path!r}
        from sprockets.clients import memcached

        client = memcached.Client(servers={server.address!r})
        assert client.set('key', 1)
        assert client.get('key') == 1
        client.disconnect_all()
        client = memcached.Client(servers={named!r})
        assert not client.set('key', 2)
        assert client.get('key', 'none') == 'none'


        async def main():
            async with memcached.AsyncClient(servers={named!r}) as client:
                assert not await client.set('key', 2)


        asyncio.run(main())
        """
    script = f"""
        import _interpreters

        interpreter = _interpreters.create('isolated')
        failed = _interpreters.exec(
            interpreter, {textwrap.dedent(inside)!r}
        )
        print(failed and failed.formatted)
        """
    done = run(script)
    assert done.stdout == 'None\n'


BAD = ['a..b:11211', f'{"x" * 64}.example:11211', '.foo:11211']


@pytest.mark.parametrize('name', BAD)
def test_a_name_that_cannot_be(name):
    """The server is down, and no call raises."""
    client = memcached.Client(servers=name, dead_retry=60)
    assert client.get('key') is None
    assert not client.set('key', 1)
    assert client.servers[0].endpoint.retry_at is not None

    async def main():
        awaited = memcached.AsyncClient(servers=name, dead_retry=60)
        assert await awaited.get('key', 'default') == 'default'
        assert not await awaited.set('key', 1)
        await awaited.close()

    asyncio.run(main())


@pytest.mark.parametrize('error', [UnicodeError('no'), KeyError('odd')])
def test_a_look_up_that_fails_oddly(named, monkeypatch, error):
    """Whatever it raises, those who wait for it get an answer."""
    look_up = socket.getaddrinfo

    def fail(*arguments, flags=0, **options):
        if flags:
            return look_up(*arguments, flags=flags, **options)
        raise error

    client = memcached.Client(servers=named, dead_retry=0, socket_timeout=LONG)
    with monkeypatch.context() as patch:
        patch.setattr(socket, 'getaddrinfo', fail)
        began = time.monotonic()
        assert client.get('key') is None
        assert time.monotonic() - began < LONG / 2
    assert client.set('key', 1)
    client.disconnect_all()


def test_a_bad_name_takes_no_threads_away(server):
    """Calls for it and for another server go on as before."""
    client = memcached.Client(
        servers=[BAD[0], server.address],
        max_connections=2,
        dead_retry=0,
        failover=False,
    )
    keys = [f'key{number}' for number in range(20)]
    for _ in range(5):
        began = time.monotonic()
        failed = client.set_multi(dict.fromkeys(keys, 1))
        assert time.monotonic() - began < 2
        assert 0 < len(failed) < len(keys)
    client.disconnect_all()


def test_a_tls_name_that_cannot_be(server, tmp_path):
    """The server is down for it, likewise."""
    client = memcached.Client(
        servers=server.address, tls=True, tls_server_name='a..b'
    )
    assert client.get('key') is None
    assert client.servers[0].endpoint.retry_at is not None


# Discovery


def config(*servers):
    nodes = ' '.join(
        '{0}|{0}|{1}'.format(*server.address.split(':')) for server in servers
    )
    body = f'1\n{nodes}\n'.encode()
    return b'CONFIG cluster 0 %d\r\n%s\r\nEND\r\n' % (len(body), body)


def test_discovery_without_a_thread(server, no_threads):
    """Calls fail at once, and it begins when there are threads again."""
    with faults.ScriptedServer(*[[config(server)]] * 9) as source:
        client = memcached.Client(servers=f'discover:{source.address}')
        with no_threads():
            began = time.monotonic()
            for _ in range(3):
                assert not client.set('key', 1)
                assert client.get_stats() == []
            assert time.monotonic() - began < 1
        assert client.set('key', 1)
        assert client.get('key') == 1
        client.disconnect_all()


def test_awaited_discovery_without_a_thread(server, no_threads):
    """Likewise."""

    async def main(address):
        client = memcached.AsyncClient(servers=f'discover:{address}')
        with no_threads():
            began = time.monotonic()
            assert not await client.set('key', 1)
            assert await client.get_stats() == []
            assert time.monotonic() - began < 1
        assert await client.set('key', 1)
        assert await client.get('key') == 1
        await client.close()

    with faults.ScriptedServer(*[[config(server)]] * 9) as source:
        asyncio.run(main(source.address))


def test_discovery_goes_on_after_an_odd_error(server, other, monkeypatch):
    """It asks again, whatever became of a question."""
    monkeypatch.setattr(discovery, 'INTERVAL', 0.05)
    odd = threading.Event()
    ask = discovery._ask

    def fail(profile):
        if not odd.is_set():
            odd.set()
            raise RuntimeError('odd')
        return ask(profile)

    with faults.ScriptedServer(*[[config(server)]] * 9) as source:
        client = memcached.Client(
            servers=f'discover:{source.address}', dead_retry=0.05
        )
        monkeypatch.setattr(discovery, '_ask', fail)
        until(lambda: client.set('key', 1))
        assert odd.is_set()
        client.disconnect_all()
        client._shared.cluster.close()
