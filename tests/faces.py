"""One body of a test for several clients: ours, and python-memcached's.

Each kind of client gets a *face* with the same few ways to be used, so that a
test need not know which it has:

- ``face.get('key')`` is a call, whose result is returned, for the awaitable
  client too,
- ``face.elsewhere.get('key')`` is the same from another thread, and for the
  awaitable client from another task and scope,
- ``face.in_turn(4, call)`` calls a function four times, one after another,
  each time with the face of another thread, or of another scope,
- ``face.together(4, body)`` runs a coroutine function four times at once,
  each with its own ``client`` whose methods are awaited: in threads, or as
  tasks.

"""

import asyncio
import concurrent.futures
import contextlib
import os

import memcache

SECONDS = 60


class Published(memcache.Client):
    """python-memcached with the servers of the environment, as 1.1.0 had."""

    def __init__(self):
        super().__init__(os.environ['MEMCACHED_SERVERS'].split(','))


class _Awaited:
    """A blocking client whose methods can be awaited, one at a time."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        method = getattr(self._client, name)

        async def call(*args, **kwargs):
            return method(*args, **kwargs)

        return call


class Blocking:
    """The face of a blocking client."""

    def __init__(self, client):
        self.client = client
        self._threads = []

    def __getattr__(self, name):
        return getattr(self.client, name)

    @property
    def elsewhere(self):
        return self._thread(0)

    def _thread(self, number):
        while len(self._threads) <= number:
            self._threads.append(OtherThread(self.client))
        return self._threads[number]

    def in_turn(self, count, call):
        return [call(self._thread(number)) for number in range(count)]

    def together(self, count, body):
        with concurrent.futures.ThreadPoolExecutor(count) as executor:
            futures = [
                executor.submit(asyncio.run, body(_Awaited(self.client)))
                for _ in range(count)
            ]
            return [future.result(SECONDS) for future in futures]

    def after_fork(self):
        """Make it usable in a forked child."""

    def close(self):
        self.client.disconnect_all()
        for thread in self._threads:
            thread.close()


class OtherThread:
    """A client as another thread sees it, the same one each time."""

    def __init__(self, client):
        self._client = client
        self._executor = concurrent.futures.ThreadPoolExecutor(1)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            return self._executor.submit(
                lambda: getattr(self._client, name)(*args, **kwargs)
            ).result(SECONDS)

        return call

    def close(self):
        self._executor.submit(self._client.disconnect_all).result(SECONDS)
        self._executor.shutdown()


class Awaitable:
    """The face of an awaitable client, in a loop of its own."""

    def __init__(self, client):
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._scope = client.scope()
        self._other_scope = client.scope()

    def __getattr__(self, name):
        return _called(self, self._scope, name)

    @property
    def elsewhere(self):
        return OtherTask(self, self._other_scope)

    def in_turn(self, count, call):
        return [
            call(OtherTask(self, self.client.scope())) for _ in range(count)
        ]

    def run(self, call):
        async def run():
            return await asyncio.wait_for(call(), SECONDS)

        task = self._loop.create_task(run())
        try:
            return self._loop.run_until_complete(task)
        except KeyboardInterrupt:
            # Before Python 3.12 it was raised in another task, for which this
            # one would wait in the next run.
            if not task.done():
                task.cancel()
                with contextlib.suppress(
                    asyncio.CancelledError, KeyboardInterrupt
                ):
                    self._loop.run_until_complete(task)
            raise

    def together(self, count, body):
        async def all_of_them():
            return await asyncio.gather(
                *[body(self.client.scope()) for _ in range(count)]
            )

        return self.run(all_of_them)

    def after_fork(self):
        self._loop = asyncio.new_event_loop()

    def close(self):
        self.run(self.client.close)
        self._loop.close()


class OtherTask:
    """An awaitable client as another scope sees it."""

    def __init__(self, face, scope):
        self._face = face
        self._scope = scope

    def __getattr__(self, name):
        return _called(self._face, self._scope, name)


def _called(face, scope, name):
    def call(*args, **kwargs):
        async def start():
            return await getattr(scope, name)(*args, **kwargs)

        return face.run(start)

    return call
