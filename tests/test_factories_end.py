"""However a computation ends, who waits is told, and the next one computes."""

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading

import pytest

from sprockets.clients import memcached

KEY = 'key'

SECONDS = 20
"""Much less than the lease that is taken here."""

LEASE = 600


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


def free(address):
    """See that the lease is free, by whoever comes next."""
    client = memcached.Client(servers=address)
    value = client.get_or_set(KEY, lambda: 'next', default='leased')
    client.disconnect_all()
    assert value == 'next'


@pytest.mark.skipif(sys.version_info < (3, 11), reason='they are new in 3.11')
def test_a_task_group_in_a_factory(address):
    """All get its group of errors."""

    async def main():
        client = memcached.AsyncClient(servers=address)

        async def fail():
            raise ZeroDivisionError

        async def factory():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.sleep(3600))

        calls = [
            client.get_or_set(KEY, factory, lease=LEASE) for _ in range(5)
        ]
        errors = await asyncio.wait_for(
            asyncio.gather(*calls, return_exceptions=True), SECONDS
        )
        for error in errors:
            assert isinstance(error.exceptions[0], ZeroDivisionError)
        await client.close()

    asyncio.run(main())
    free(address)


@pytest.mark.parametrize('ended', ['timeout', 'group', 'caller'])
def test_a_computation_that_is_cancelled_from_outside(address, ended):
    """By a timeout of its own, a group that it is in, or its caller."""

    async def main():
        client = memcached.AsyncClient(servers=address)
        computing = asyncio.Event()
        go_on = asyncio.Event()

        async def factory():
            computing.set()
            if ended == 'timeout':
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)
            await go_on.wait()
            return 'value'

        async def call():
            return await client.get_or_set(KEY, factory, lease=LEASE)

        first = asyncio.ensure_future(call())
        await computing.wait()
        others = [asyncio.ensure_future(call()) for _ in range(3)]
        await client.get('what-comes-behind-them')
        if ended != 'timeout':
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            go_on.set()
        found = await asyncio.wait_for(
            asyncio.gather(*others, return_exceptions=True), SECONDS
        )
        if ended == 'timeout':
            assert {type(each) for each in found} == {asyncio.TimeoutError}
            with contextlib.suppress(asyncio.TimeoutError):
                await first
        else:
            # It goes on for the others.
            assert found == ['value'] * 3
        await client.delete(KEY)
        await client.close()

    asyncio.run(main())
    free(address)


def test_a_loop_that_ends_meanwhile(address):
    """asyncio.run cancels what is left; the lease is given back."""
    client = memcached.AsyncClient(servers=address)

    async def main():
        computing = asyncio.Event()

        async def factory():
            computing.set()
            await asyncio.Event().wait()

        client.get_or_set(KEY, factory, lease=LEASE)
        await computing.wait()

    asyncio.run(main())
    free(address)

    async def again():
        value = client.get_or_set('another', lambda: 'value', lease=LEASE)
        assert await asyncio.wait_for(value, SECONDS) == 'value'
        await client.close()

    asyncio.run(again())


@pytest.mark.filterwarnings('ignore:This process:DeprecationWarning')
def test_a_process_that_forks_meanwhile(address):
    """The child waits for no thread that it does not have."""
    client = memcached.Client(servers=address)
    computing, go_on = threading.Event(), threading.Event()

    def factory():
        computing.set()
        assert go_on.wait(SECONDS)
        return 'value'

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        call = executor.submit(client.get_or_set, KEY, factory, lease=LEASE)
        assert computing.wait(SECONDS)
        child = os.fork()
        if child == 0:
            found = 'nothing'
            with contextlib.suppress(BaseException):
                found = client.get_or_set(
                    KEY, lambda: 'own', lease=LEASE, wait=0.1
                )
            os._exit(0 if found == 'own' else 1)
        _, status = os.waitpid(child, 0)
        go_on.set()
        assert os.waitstatus_to_exitcode(status) == 0
        assert call.result(SECONDS) == 'value'
    client.disconnect_all()
