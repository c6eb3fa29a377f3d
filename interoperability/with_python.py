"""Stores and reads with a client of Python's, for others.py."""

import asyncio
import json
import sys

VALUES = {
    'text': 'grüße',
    'digits': '2024_11',
    'bytes': b'\xff\x00',
    'number': 17,
    'structure': {'a': [1, 'b']},
    'true': True,
    'float': 1.5,
}


def described(value):
    """Return a value in writing, with its type."""
    if value is None:
        return 'miss'
    if value is True:
        return 'true'
    if isinstance(value, str):
        return f'text:{value}'
    if isinstance(value, bytes | bytearray | memoryview):
        return f'bytes:{bytes(value).hex()}'
    if isinstance(value, int):
        return f'number:{value}'
    if isinstance(value, float):
        return f'float:{value}'
    if isinstance(value, dict | list):
        return f'structure:{json.dumps(value)}'
    return f'{type(value).__name__}:{value!r}'


class Pymemcache:
    def __init__(self, servers, **options):
        import pymemcache

        self.client = pymemcache.HashClient(servers, **options)

    def set(self, key, value):
        return self.client.set(key, value, noreply=False)

    def get(self, key):
        return self.client.get(key)


def pymemcache_pickle(servers):
    from pymemcache import serde

    return Pymemcache(servers, serde=serde.pickle_serde)


def pylibmc(servers, **behaviours):
    import pylibmc as module

    return module.Client(servers, behaviors=behaviours)


def pylibmc_ketama(servers):
    return pylibmc(servers, ketama_weighted=True)


def bmemcached(servers):
    import bmemcached as module

    return module.DistributedClient(servers)


def libmc(servers):
    import libmc as module

    return module.Client(servers)


class Meta:
    """meta-memcache."""

    def __init__(self, servers):
        import meta_memcache

        pool = meta_memcache.connection_pool_factory_builder()
        self.client = meta_memcache.CacheClient.cache_client_from_servers(
            servers=[
                meta_memcache.ServerAddress(*_address(server))
                for server in servers
            ],
            connection_pool_factory_fn=pool,
        )

    def set(self, key, value):
        return self.client.set(key, value, ttl=600)

    def get(self, key):
        return self.client.get(key)


class Awaited:
    """A client whose methods are awaited, used one call at a time."""

    def __init__(self, servers):
        self.loop = asyncio.new_event_loop()
        self.client = self.run(self.make([_address(s) for s in servers]))

    def run(self, work):
        return self.loop.run_until_complete(work)

    def set(self, key, value):
        return self.run(self.store(key, value))

    def get(self, key):
        return self.run(self.load(key))


class Emcache(Awaited):
    async def make(self, servers):
        import emcache

        return await emcache.create_client(
            [emcache.MemcachedHostAddress(*server) for server in servers]
        )

    async def store(self, key, value):
        await self.client.set(key.encode(), value, flags=0)
        return True

    async def load(self, key):
        item = await self.client.get(key.encode())
        return None if item is None else item.value


class Aiomcache(Awaited):
    async def make(self, servers):
        import aiomcache

        return aiomcache.Client(*servers[0])

    async def store(self, key, value):
        return await self.client.set(key.encode(), value)

    async def load(self, key):
        return await self.client.get(key.encode())


class Memcachio(Awaited):
    async def make(self, servers):
        import memcachio

        return memcachio.Client(servers if len(servers) > 1 else servers[0])

    async def store(self, key, value):
        return await self.client.set(key, value)

    async def load(self, key):
        found = await self.client.get(key)
        item = found.get(key.encode()) or found.get(key)
        return None if item is None else item.value


def _address(server):
    host, _, port = server.rpartition(':')
    return host, int(port)


CLIENTS = {
    'pymemcache': Pymemcache,
    'pymemcache-pickle': pymemcache_pickle,
    'pylibmc': pylibmc,
    'pylibmc-ketama': pylibmc_ketama,
    'python-binary-memcached': bmemcached,
    'libmc': libmc,
    'meta-memcache': Meta,
    'emcache': Emcache,
    'aiomcache': Aiomcache,
    'memcachio': Memcachio,
}


def main(name, action, servers, count):
    client = CLIENTS[name](servers.split(','))
    done = {}
    if action == 'place':
        for number in range(int(count)):
            client.set(f'place:{number}', b'x')
    elif action == 'write':
        for kind, value in VALUES.items():
            try:
                stored = client.set(f'theirs:{kind}', value)
                done[kind] = 'stored' if stored else 'refused'
            except Exception as error:
                done[kind] = f'refused:{type(error).__name__}'
    else:
        for kind in [*VALUES, 'pickled']:
            try:
                done[kind] = described(client.get(f'ours:{kind}'))
            except Exception as error:
                done[kind] = f'error:{type(error).__name__}'
    print(json.dumps(done))


if __name__ == '__main__':
    main(*sys.argv[1:])
