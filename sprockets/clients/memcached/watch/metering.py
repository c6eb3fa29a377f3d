"""Metrics of calls and connections, where OpenTelemetry has them configured.

Names, units and attributes are those of the semantic conventions for database
clients: that of durations is stable, those of connections are not yet.  See
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/

"""

from __future__ import annotations

import sys
import time
import typing
import weakref
from collections import abc

from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.watch import observers

METRICS = 'opentelemetry.metrics'

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""The buckets that the conventions want, in seconds."""

Attributes = dict[str, str | int]


class Instruments:
    """What a meter counts with, for all clients of the process.

    :param meter: OpenTelemetry's

    """

    def __init__(self, meter: typing.Any, observation: typing.Any) -> None:
        self.duration: typing.Any = meter.create_histogram(
            'db.client.operation.duration',
            unit='s',
            description='Duration of database client operations.',
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self.hits: typing.Any = meter.create_counter(
            'memcached.client.hits',
            unit='{key}',
            description='Keys that were read and had a value.',
        )
        self.misses: typing.Any = meter.create_counter(
            'memcached.client.misses',
            unit='{key}',
            description='Keys that were read and had no value.',
        )
        self._observation = observation
        self._clusters: weakref.WeakSet[cluster.Cluster] = weakref.WeakSet()
        meter.create_observable_up_down_counter(
            'db.client.connection.count',
            [self._count],
            unit='{connection}',
            description='Connections, by their state.',
        )
        meter.create_observable_up_down_counter(
            'db.client.connection.max',
            [self._most],
            unit='{connection}',
            description='Connections that are kept at most.',
        )

    def enter(self, servers: cluster.Cluster) -> None:
        """Count the connections to a client's servers as well."""
        self._clusters.add(servers)

    def _endpoints(self) -> abc.Collection[endpoints.Endpoint]:
        # Clients that connect in the same way share them.
        return {
            endpoint
            for servers in list(self._clusters)
            for endpoint in servers.endpoints
        }

    def _count(self, _: object) -> abc.Iterator[typing.Any]:
        for endpoint in self._endpoints():
            idle = endpoint.idle_connections
            used = max(endpoint.connections - idle, 0)
            for state, number in ('idle', idle), ('used', used):
                yield self._observation(
                    number,
                    {**_pool(endpoint), 'db.client.connection.state': state},
                )

    def _most(self, _: object) -> abc.Iterator[typing.Any]:
        for endpoint in self._endpoints():
            most = endpoint.identity.max_connections
            yield self._observation(most, _pool(endpoint))


class Metering:
    """Whether and how the calls of one client are measured.

    :param Cluster servers: the client's servers

    """

    def __init__(self, servers: cluster.Cluster) -> None:
        self._servers = servers
        self._instruments: Instruments | None = None

    def find(self, name: str, version: str) -> observers.Observe | None:
        """Return what measures a call, None while there is no provider."""
        metrics: typing.Any = sys.modules.get(METRICS)
        if not hasattr(metrics, 'get_meter_provider'):
            return None
        provider = metrics.get_meter_provider()
        if isinstance(provider, metrics.NoOpMeterProvider) or type(
            provider
        ).__name__.startswith('_Proxy'):
            # It stands for one that nobody has set.
            return None
        made = _made.get(provider)
        if made is None:
            meter = provider.get_meter(name, version)
            made = _made[provider] = Instruments(meter, metrics.Observation)
        made.enter(self._servers)
        self._instruments = made
        return self._begin

    def _begin(self, method: str, keys: observers.Keys) -> Measured:
        assert self._instruments is not None
        return Measured(self._instruments, self._servers, method)


_made: weakref.WeakKeyDictionary[typing.Any, Instruments] = (
    weakref.WeakKeyDictionary()
)
"""One for each provider: it warns of a second instrument of one name."""


class Measured:
    """A call that is under way, and is measured when it is over."""

    __slots__ = ('_began', '_instruments', '_method', '_servers')

    def __init__(
        self, instruments: Instruments, servers: cluster.Cluster, method: str
    ) -> None:
        self._instruments = instruments
        self._servers = servers
        self._method = method
        self._began = time.perf_counter()

    def over(
        self,
        error: BaseException | None,
        hits: int,
        misses: int,
        endpoint: endpoints.Endpoint | None = None,
    ) -> None:
        """Record how long it took, and what it found."""
        took = time.perf_counter() - self._began
        attributes: Attributes = {
            'db.system.name': 'memcached',
            'db.operation.name': self._method,
            **_server(endpoint or self._servers.only),
        }
        if hits:
            self._instruments.hits.add(hits, attributes)
        if misses:
            self._instruments.misses.add(misses, attributes)
        if error is not None:
            attributes['error.type'] = observers.type_of(error)
        self._instruments.duration.record(took, attributes)


def _server(endpoint: endpoints.Endpoint | None) -> Attributes:
    if endpoint is None:
        return {}
    address = endpoint.address
    if not address.port:
        return {'server.address': address.host}
    return {'server.address': address.host, 'server.port': address.port}


def _pool(endpoint: endpoints.Endpoint) -> Attributes:
    return {
        'db.system.name': 'memcached',
        'db.client.connection.pool.name': str(endpoint),
    }
