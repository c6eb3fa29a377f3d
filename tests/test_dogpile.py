"""dogpile.cache's own suite for backends, on a backend with our client."""

import pytest
from dogpile.cache import register_backend
from dogpile.cache.backends.memcached import MemcachedBackend
from dogpile.testing import fixtures

from sprockets.clients import memcached
from sprockets.clients.memcached.testing import MemcachedServer

NAME = 'sprockets.clients.memcached'


class Backend(MemcachedBackend):
    """dogpile.cache's backend for python-memcached, unchanged but for this."""

    def _create_client(self):
        return memcached.Client(servers=self.url)


register_backend(NAME, __name__, 'Backend')


@pytest.fixture(autouse=True, scope='module')
def server():
    with MemcachedServer() as server:
        for suite in SUITES:
            suite.config_args['arguments']['url'] = server.address
        yield server


class TestBackend(fixtures._GenericBackendTestSuite):
    """Values in the memcached."""

    backend = NAME
    # Of a function's arguments dogpile.cache makes keys with blanks.
    region_args = {  # noqa: RUF012
        'key_mangler': lambda key: key.replace(' ', '_')
    }
    config_args = {'arguments': {'url': ''}}  # noqa: RUF012


class TestSerializer(
    fixtures._GenericSerializerTestSuite, fixtures._GenericBackendFixture
):
    """Values in a form of the user's own."""

    backend = NAME
    config_args = {'arguments': {'url': ''}}  # noqa: RUF012


class TestLock(fixtures._GenericMutexTestSuite):
    """Locks in the memcached, which all processes see."""

    backend = NAME
    config_args = {  # noqa: RUF012
        'arguments': {
            'url': '',
            'distributed_lock': True,
            'lock_timeout': 60,
        }
    }


SUITES = (TestBackend, TestSerializer, TestLock)


def test_values_are_stored_by_our_client(server):
    """Not by python-memcached, which would pass as well."""
    backend = Backend({'url': server.address})
    assert type(backend.client) is memcached.Client
    backend.set('key', 'value')
    assert backend.get('key') == 'value'
    backend.client.disconnect_all()
