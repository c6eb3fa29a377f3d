"""memcached for Tornado services, configured by the environment."""

from sprockets.clients.memcached.aio import AsyncClient
from sprockets.clients.memcached.cached_function import cached
from sprockets.clients.memcached.client import Client
from sprockets.clients.memcached.once.leases import UpdateError
from sprockets.clients.memcached.settings import DEFAULT_SERVER
from sprockets.clients.memcached.settings import get_servers as _get_servers
from sprockets.clients.memcached.web.applications import ApplicationMixin
from sprockets.clients.memcached.web.handlers import MemcachedMixin
from sprockets.clients.memcached.web.status import StatusHandler

version_info = (2, 0, 0)
__version__ = '2.0.0'

__all__ = [
    'DEFAULT_SERVER',
    'ApplicationMixin',
    'AsyncClient',
    'Client',
    'MemcachedMixin',
    'StatusHandler',
    'UpdateError',
    '__version__',
    '_get_servers',
    'cached',
    'version_info',
]
