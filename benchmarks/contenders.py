"""The clients that are compared, each behind the same few methods.

An asynchronous contender has ``start(servers, authority)``, ``get(key)``,
``set(key, value)``, ``incr(key)`` and ``close()``, all to be awaited, and
``key(name)``, which gives a key in the type that the client takes.  Where the
client's own method fits, it is the contender's: a wrapper costs time.  With
an authority, the file of who signs the servers' certificates, it speaks TLS;
``tls`` says whether it can.  What ``start`` imports is called as the package
that is installed for it, unless there is a ``module``.

A blocking contender has ``get``, ``set``, ``get_multi``, ``set_multi`` and
``close``, or those of them that the client has.

Every client is set up as its documentation advises for speed, and none has a
timeout that it would not have in a service, except where said.
"""

import asyncio
import concurrent.futures
import functools
import ssl

from benchmarks import packages

POOL_SIZE = 16
BUFFER_BYTES = 65_536

OURS = 'sprockets'
WITHOUT_TLS = f'{OURS}, without TLS'
BARE = 'bare'
"""What the names of those begin with that are no clients, but bounds."""


class Sprockets:
    """This project's ``AsyncClient``."""

    name = OURS
    package = None
    module = 'sprockets.clients.memcached'
    tls = True

    def __init__(self, **options):
        self.options = options

    def key(self, name):
        return name

    async def start(self, servers, authority=None):
        from sprockets.clients import memcached

        options = dict(self.options)
        if authority is not None:
            options |= {'tls': True, 'tls_ca_file': authority}
        self.client = memcached.AsyncClient(
            servers=_addresses(servers), **options
        )
        self.get = self.client.get
        self.set = self.client.set
        self.incr = self.client.incr

    async def close(self):
        await self.client.close()


class Aiomcache:
    """aiomcache with a pool of 16 connections; it knows one server only."""

    name = package = 'aiomcache'
    tls = True

    def key(self, name):
        return name.encode()

    async def start(self, servers, authority=None):
        import aiomcache

        ((host, port),) = servers
        self.client = aiomcache.Client(
            *(host, port),
            pool_size=POOL_SIZE,
            conn_args={'ssl': _context(authority)},
        )
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

    name = package = 'emcache'
    tls = True
    batching = False

    def key(self, name):
        return name.encode()

    async def start(self, servers, authority=None):
        import emcache

        self.client = await emcache.create_client(
            [emcache.MemcachedHostAddress(*server) for server in servers],
            timeout=None,
            max_connections=POOL_SIZE,
            min_connections=POOL_SIZE,
            autobatching=self.batching,
            ssl=authority is not None,
            ssl_extra_ca=authority,
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


class Memcachio:
    """memcachio with its default of two connections, which it pipelines.

    With 16 it answers fewer.  Without its time-outs: after five seconds calls
    that wait for a connection raise, and after one those that make it.
    """

    name = package = 'memcachio'
    tls = True

    def key(self, name):
        return name.encode()

    async def start(self, servers, authority=None):
        import memcachio

        self.client = memcachio.Client(
            servers,
            blocking_timeout=None,
            connect_timeout=None,
            socket_nodelay=True,
            ssl_context=_context(authority),
        )

    async def get(self, key):
        item = (await self.client.get(key)).get(key)
        return item and item.value

    async def set(self, key, value):
        return await self.client.set(key, value)

    async def incr(self, key):
        return await self.client.incr(key, 1)

    async def close(self):
        self.client.connection_pool.close()


class OnExecutor:
    """A blocking client, one call of it for each job of an executor."""

    tls = False

    def key(self, name):
        return name

    async def start(self, servers, authority=None):
        self.loop = asyncio.get_running_loop()
        self.executor = concurrent.futures.ThreadPoolExecutor(POOL_SIZE)
        options = {'authority': authority} if self.tls else {}
        self.client = self.connect(servers, **options)

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
    package = 'python-memcached'

    def connect(self, servers):
        return python_memcached_client(servers)


class PymemcacheOnExecutor(OnExecutor):
    """pymemcache with a pool of 16 connections for each server."""

    name = 'pymemcache, executor'
    package = 'pymemcache'
    tls = True

    def connect(self, servers, authority):
        import pymemcache

        options = {
            'max_pool_size': POOL_SIZE,
            'no_delay': True,
            # What is not confirmed is not comparable.
            'default_noreply': False,
            'tls_context': _context(authority),
        }
        if len(servers) == 1:
            return pymemcache.PooledClient(tuple(servers[0]), **options)
        return pymemcache.HashClient(
            [tuple(server) for server in servers], use_pooling=True, **options
        )


class PylibmcOnExecutor(OnExecutor):
    """pylibmc with a client for each thread."""

    name = 'pylibmc, executor'
    package = 'pylibmc'

    def connect(self, servers):
        import pylibmc

        return _PylibmcPool(pylibmc.ThreadMappedPool(pylibmc_client(servers)))


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


class LibmcOnExecutor(OnExecutor):
    """libmc with its own pool of clients, for threads."""

    name = 'libmc, executor'
    package = 'libmc'

    def connect(self, servers):
        import libmc

        client = libmc.ThreadedClient(_addresses(servers).split(','))
        client.config(libmc.MC_MAX_CLIENTS, POOL_SIZE)
        return client


class MetaMemcacheOnExecutor(OnExecutor):
    """meta-memcache, on its compiled socket module, with 16 connections."""

    name = 'meta-memcache, executor'
    package = 'meta-memcache'

    def connect(self, servers):
        return MetaMemcache(servers)


ALL = (
    Sprockets,
    Aiomcache,
    Emcache,
    EmcacheBatching,
    Memcachio,
    PythonMemcachedOnExecutor,
    PymemcacheOnExecutor,
    PylibmcOnExecutor,
    LibmcOnExecutor,
    MetaMemcacheOnExecutor,
)

ASYNCHRONOUS = {
    contender.name: contender
    for contender in ALL
    if packages.missing(contender.package) is None
}
"""Those that are installed, by name."""

AWAITED = [
    name
    for name, contender in ASYNCHRONOUS.items()
    if not issubclass(contender, OnExecutor)
]
"""The names of those that need no executor."""

OF_ONE_SERVER = [Aiomcache.name]
"""The names of those that cannot have more."""


def sprockets_client(servers):
    from sprockets.clients import memcached

    return memcached.Client(servers=_addresses(servers))


def python_memcached_client(servers):
    import memcache

    return memcache.Client(_addresses(servers).split(','))


def pymemcache_client(servers):
    import pymemcache

    return pymemcache.Client(
        tuple(servers[0]), no_delay=True, default_noreply=False
    )


def pylibmc_client(servers):
    import pylibmc

    return pylibmc.Client(
        _addresses(servers).split(','), behaviors={'tcp_nodelay': True}
    )


def libmc_client(servers):
    import libmc

    return libmc.Client(_addresses(servers).split(','))


class MetaMemcache:
    """meta-memcache's client, for which values are bytes and nothing else.

    With a larger buffer than its 4 KiB, with which the kernel and it wait
    for each other: a value of 100 KB takes seconds.  It has no command for
    many writes.
    """

    def __init__(self, servers):
        import meta_memcache
        from meta_memcache.base import base_serializer

        class Bytes(base_serializer.BaseSerializer):
            def serialize(self, key, value):
                return base_serializer.EncodedValue(value, 0)

            def unserialize(self, data, encoding_id):
                return bytes(data)

        client = meta_memcache.CacheClient.cache_client_from_servers(
            [meta_memcache.ServerAddress(*server) for server in servers],
            meta_memcache.connection_pool_factory_builder(
                max_pool_size=POOL_SIZE, read_buffer_size=BUFFER_BYTES
            ),
            serializer=Bytes(),
        )
        self.get = client.get
        self.set = functools.partial(client.set, ttl=0)
        self.multi_get = client.multi_get
        self.arithmetic = client.meta_arithmetic

    def get_multi(self, keys):
        return {key.key: value for key, value in self.multi_get(keys).items()}

    def incr(self, key, delta):
        from meta_memcache import protocol

        flags = protocol.RequestFlags(return_value=True, ma_delta_value=delta)
        return int(self.arithmetic(protocol.Key(key), flags).value)


def _addresses(servers):
    return ','.join(f'{host}:{port}' for host, port in servers)


def _context(authority):
    """Return the TLS context of a client; None without an authority."""
    if authority is None:
        return None
    return ssl.create_default_context(cafile=authority)


ALL_BLOCKING = {
    OURS: sprockets_client,
    'python-memcached': python_memcached_client,
    'pymemcache': pymemcache_client,
    'pylibmc': pylibmc_client,
    'libmc': libmc_client,
    'meta-memcache': MetaMemcache,
}
"""By name, which but for ours is that of the package."""

BLOCKING = {
    name: client
    for name, client in ALL_BLOCKING.items()
    if name == OURS or packages.missing(name) is None
}
"""Those that are installed."""

LIBRARIES = ('aiocache', 'dogpile.cache')
"""The names of libraries that have clients, and do more with them."""

OTHERS = {
    *ALL_BLOCKING,
    *(contender.name for contender in ALL),
    *LIBRARIES,
} - {OURS}
"""The names of all others."""


def others(names):
    """Return those of some names that are of other clients than this one.

    :param names: of contenders, of this client in another revision, and of
        what is no client
    :rtype: list[str]
    """
    return [name for name in names if name in OTHERS]
