"""The clients that are compared, each behind the same few methods.

An asynchronous contender has ``start(servers)``, ``get(key)``,
``set(key, value)``, ``incr(key)`` and ``close()``, all to be awaited, and
``key(name)``, which gives a key in the type that the client takes. Where the
client's own method fits, it is the contender's: a wrapper costs time.

A blocking contender has ``get``, ``set``, ``get_multi``, ``set_multi`` and
``close``.

Every client is set up as its documentation advises for speed, and none has a
timeout that it would not have in a service, except where said.
"""

import asyncio
import concurrent.futures

POOL_SIZE = 16


class Sprockets:
    """This project's ``AsyncClient``."""

    name = 'sprockets'

    def __init__(self, **options):
        self.options = options

    def key(self, name):
        return name

    async def start(self, servers):
        from sprockets.clients import memcached

        self.client = memcached.AsyncClient(
            servers=','.join(f'{host}:{port}' for host, port in servers),
            **self.options,
        )
        self.get = self.client.get
        self.set = self.client.set
        self.incr = self.client.incr

    async def close(self):
        await self.client.close()


class Aiomcache:
    """aiomcache with a pool of 16 connections; it knows one server only."""

    name = 'aiomcache'

    def key(self, name):
        return name.encode()

    async def start(self, servers):
        import aiomcache

        ((host, port),) = servers
        self.client = aiomcache.Client(host, port, pool_size=POOL_SIZE)
        self.get = self.client.get
        self.set = self.client.set
        self.incr = self.client.incr

    async def close(self):
        await self.client.close()


class Emcache:
    """emcache with a pool of 16 connections for each server.

    Without its timeout: with it, calls that wait for a connection longer
    than a second raise.
    """

    name = 'emcache'
    batching = False

    def key(self, name):
        return name.encode()

    async def start(self, servers):
        import emcache

        self.client = await emcache.create_client(
            [emcache.MemcachedHostAddress(*server) for server in servers],
            timeout=None,
            max_connections=POOL_SIZE,
            min_connections=POOL_SIZE,
            autobatching=self.batching,
        )

    async def get(self, key):
        item = await self.client.get(key)
        return item and item.value

    async def set(self, key, value):
        await self.client.set(key, value)
        return True

    async def incr(self, key):
        return await self.client.increment(key, 1)

    async def close(self):
        await self.client.close()


class EmcacheBatching(Emcache):
    """emcache with its batches of reads, which are off by default."""

    name = 'emcache, batching'
    batching = True


class OnExecutor:
    """A blocking client, one call of it for each job of an executor."""

    def key(self, name):
        return name

    async def start(self, servers):
        self.loop = asyncio.get_running_loop()
        self.executor = concurrent.futures.ThreadPoolExecutor(POOL_SIZE)
        self.client = self.connect(servers)

    def get(self, key):
        return self.loop.run_in_executor(self.executor, self.client.get, key)

    def set(self, key, value):
        return self.loop.run_in_executor(
            self.executor, self.client.set, key, value
        )

    def incr(self, key):
        return self.loop.run_in_executor(
            self.executor, self.client.incr, key, 1
        )

    async def close(self):
        self.executor.shutdown()


class PythonMemcachedOnExecutor(OnExecutor):
    """python-memcached, whose client has a connection for each thread."""

    name = 'python-memcached, executor'

    def connect(self, servers):
        import memcache

        return memcache.Client([f'{host}:{port}' for host, port in servers])


class PymemcacheOnExecutor(OnExecutor):
    """pymemcache with a pool of 16 connections for each server."""

    name = 'pymemcache, executor'

    def connect(self, servers):
        import pymemcache

        options = {
            'max_pool_size': POOL_SIZE,
            'no_delay': True,
            # What is not confirmed is not comparable.
            'default_noreply': False,
        }
        if len(servers) == 1:
            return pymemcache.PooledClient(tuple(servers[0]), **options)
        return pymemcache.HashClient(
            [tuple(server) for server in servers], use_pooling=True, **options
        )


class PylibmcOnExecutor(OnExecutor):
    """pylibmc with a client for each thread."""

    name = 'pylibmc, executor'

    def connect(self, servers):
        import pylibmc

        return _PylibmcPool(pylibmc.ThreadMappedPool(_pylibmc_client(servers)))


class _PylibmcPool:
    """The methods of a pylibmc client, on the calling thread's own."""

    def __init__(self, pool):
        self.pool = pool

    def get(self, key):
        with self.pool.reserve() as client:
            return client.get(key)

    def set(self, key, value):
        with self.pool.reserve() as client:
            return client.set(key, value)

    def incr(self, key, delta):
        with self.pool.reserve() as client:
            return client.incr(key, delta)


def _pylibmc_client(servers):
    import pylibmc

    return pylibmc.Client(
        [f'{host}:{port}' for host, port in servers],
        behaviors={'tcp_nodelay': True},
    )


ASYNCHRONOUS = {
    contender.name: contender
    for contender in (
        Sprockets,
        Aiomcache,
        Emcache,
        EmcacheBatching,
        PythonMemcachedOnExecutor,
        PymemcacheOnExecutor,
        PylibmcOnExecutor,
    )
}


def sprockets(servers):
    from sprockets.clients import memcached

    return memcached.Client(
        servers=','.join(f'{host}:{port}' for host, port in servers)
    )


def python_memcached(servers):
    import memcache

    return memcache.Client([f'{host}:{port}' for host, port in servers])


def pymemcache(servers):
    import pymemcache

    return pymemcache.Client(
        tuple(servers[0]), no_delay=True, default_noreply=False
    )


def pylibmc(servers):
    return _pylibmc_client(servers)


BLOCKING = {
    'sprockets': sprockets,
    'python-memcached': python_memcached,
    'pymemcache': pymemcache,
    'pylibmc': pylibmc,
}
