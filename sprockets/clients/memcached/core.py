"""What belongs to one client, whichever face it has."""

from __future__ import annotations

import operator
import typing
from collections import abc

from sprockets.clients.memcached import oversights, process, settings
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import anykeys, encodings
from sprockets.clients.memcached.servers import cluster
from sprockets.clients.memcached.watch import tracing

FEW = 5
"""Servers that are named."""

BASE_OPTIONS = {
    'debug': 'cluster.debug',
    'pickleProtocol': 'codec.pickle_protocol',
    'pickler': 'codec.pickler',
    'unpickler': 'codec.unpickler',
    'compressor': 'codec.compressor',
    'decompressor': 'codec.decompressor',
    'pload': 'codec.persistent_load',
    'pid': 'codec.persistent_id',
    'server_max_key_length': 'encoding.server_max_key_length',
    'server_max_value_length': 'codec.max_length',
    'cache_cas': 'cache_cas',
    'flush_on_reconnect': 'cluster.flush_on_reconnect',
    'check_keys': 'encoding.do_check_key',
    'key_encoder': 'encoding.key_encoder',
}
"""Arguments of :class:`memcache.Client` that are taken as keywords as well,
and what they set."""

_KEYWORDS = frozenset((*settings.OPTIONS, *BASE_OPTIONS, 'executor', 'strict'))


def hide(options: dict[str, typing.Any]) -> None:
    """Wrap the secrets among a client's keywords, before anything else."""
    settings.hide(options, _KEYWORDS)


def strict(value: typing.Any) -> bool:
    """Return whether calls raise what goes wrong.

    :raises TypeError: for what is neither True nor False

    """
    if not isinstance(value, bool):
        raise TypeError(f'strict is {value!r}; expected True or False')
    return value


class Core:
    """A client's settings, its servers, and how it encodes keys and values.

    Threads share it, and so do event loops that come one after another.

    :param str prefix: the prefix of the variables
    :param dict options: the options of :class:`Client`
    :raises TypeError: for an option that there is not
    :raises ValueError: for a value that cannot be; it names the variable
    :raises RuntimeError: where it cannot work

    """

    def __init__(
        self, prefix: str | None, options: abc.Mapping[str, typing.Any]
    ) -> None:
        if reason := process.unsupported():
            raise RuntimeError(reason)
        self.prefix = prefix
        self.strict = strict(options.get('strict', False))
        """Whether its calls raise what goes wrong."""
        self.settings = settings.Settings(
            prefix,
            {
                k: v
                for k, v in options.items()
                if k not in BASE_OPTIONS and k != 'strict'
            },
        )
        oversights.log(self.settings)
        self.codec = values.Codec(
            self.settings.min_compress_len,
            self.settings.max_inflated_len,
            self.settings.serializer,
            self.settings.compression,
        )
        self.codec.max_length = self.settings.max_value_len
        kind = (
            anykeys.Encoding
            if self.settings.hash_bad_keys
            else encodings.Encoding
        )
        self.encoding = kind(
            self.codec, self.settings.key_prefix, self.settings.max_parts
        )
        self.cluster = cluster.Cluster(
            # Servers that are flushed are others than those that are not.
            self.settings,
            options.get('flush_on_reconnect', False),
        )
        self.tracing = tracing.Tracing(self.cluster, self.settings.trace_keys)
        self.cache_cas: typing.Any = False
        for name, value in options.items():
            # None is python-memcached's word for its own limit.
            if name in BASE_OPTIONS and (
                value is not None or not name.startswith('server_max_')
            ):
                self.assign(BASE_OPTIONS[name], value)

    def describe(self, kind: str, *within: str) -> str:
        """Return what a client is, in a line.

        :param str within: the names of a part of it, a namespace

        """
        servers = [str(server.endpoint) for server in self.cluster.servers]
        if not servers:
            servers = [str(server) for server in self.settings.servers]
        more = f' and {len(servers) - FEW} more' if len(servers) > FEW else ''
        prefix = f' {self.prefix!r}' if self.prefix is not None else ''
        if within:
            name = ' '.join(within)
            prefix = f' {name!r} in{prefix}' if prefix else f' {name!r}'
        return f'<{kind}{prefix} of {", ".join(servers[:FEW])}{more}>'

    def assign(self, path: str, value: typing.Any) -> None:
        """Set an attribute, of a part as well: ``codec.pickler``."""
        owner, _, name = path.rpartition('.')
        part = operator.attrgetter(owner)(self) if owner else self
        setattr(part, name, value)

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> None:
        """Use other servers from now on.

        :raises ValueError: for a server that cannot be one

        """
        self.cluster.set_servers(servers)

    def forget_dead_hosts(self) -> None:
        """Take every server for one that is up."""
        for endpoint in self.cluster.endpoints:
            endpoint.mark_up()

    def disconnect_all(self) -> None:
        """Close the connections when the calls that use them are over."""
        for endpoint in self.cluster.endpoints:
            endpoint.disconnect()
