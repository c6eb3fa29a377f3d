"""memcached for Tornado services, configured by the environment."""

from __future__ import annotations

import importlib
import typing

from sprockets.clients.memcached.aio import AsyncClient
from sprockets.clients.memcached.cached_function.decorator import cached
from sprockets.clients.memcached.client import Client
from sprockets.clients.memcached.once.leases import UpdateError
from sprockets.clients.memcached.requests.errors import (
    MemcachedError,
    RefusedError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
)
from sprockets.clients.memcached.servers.events import ServerEvent
from sprockets.clients.memcached.settings import DEFAULT_SERVER
from sprockets.clients.memcached.settings import get_servers as _get_servers

if typing.TYPE_CHECKING:
    from sprockets.clients.memcached.web.applications import ApplicationMixin
    from sprockets.clients.memcached.web.handlers import MemcachedMixin
    from sprockets.clients.memcached.web.responses import cached_response
    from sprockets.clients.memcached.web.status import StatusHandler

version_info = (2, 0, 0)
__version__ = '2.0.0'

__all__ = [
    'DEFAULT_SERVER',
    'ApplicationMixin',
    'AsyncClient',
    'Client',
    'MemcachedError',
    'MemcachedMixin',
    'RefusedError',
    'ServerEvent',
    'StatusHandler',
    'TimedOutError',
    'TooLargeError',
    'UnavailableError',
    'UpdateError',
    '__version__',
    '_get_servers',
    'cached',
    'cached_response',
    'version_info',
]

_OF_TORNADO = {
    'ApplicationMixin': 'web.applications',
    'MemcachedMixin': 'web.handlers',
    'StatusHandler': 'web.status',
    'cached_response': 'web.responses',
}
"""What is imported when it is asked for: who does without Tornado need not
wait for it, which takes as long to import as all the rest."""

# With it a type checker would take any name for one that there is.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any:
        if name not in _OF_TORNADO:
            raise AttributeError(
                f'module {__name__!r} has no attribute {name!r}'
            )
        module = importlib.import_module(f'{__name__}.{_OF_TORNADO[name]}')
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_TORNADO})
