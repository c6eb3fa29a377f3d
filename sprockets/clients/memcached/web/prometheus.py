"""A status as Prometheus reads it, in its text format.

See https://prometheus.io/docs/instrumenting/exposition_formats/

"""

from __future__ import annotations

import typing
from collections import abc

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

START = 'sprockets_memcached_'

Labels = dict[str, str]
Of = abc.Callable[[dict[str, typing.Any]], typing.Any]

OWN: list[tuple[str, str, str, Of]] = [
    ('client_calls_total', 'counter', 'Calls', lambda c: c['calls']),
    ('client_hits_total', 'counter', 'Keys with a value', lambda c: c['hits']),
    (
        'client_misses_total',
        'counter',
        'Keys without a value',
        lambda c: c['misses'],
    ),
    (
        'client_errors_total',
        'counter',
        'Calls that were not answered, or refused',
        lambda c: c['errors'],
    ),
    (
        'client_steps_total',
        'counter',
        'Commands that calls of several steps took besides',
        lambda c: c['steps'],
    ),
    (
        'client_batches_total',
        'counter',
        'Writes in which calls travelled together',
        lambda c: c['batches'],
    ),
    (
        'client_batch_seconds_total',
        'counter',
        'Seconds that batches were with the server, all together',
        lambda c: c['seconds'],
    ),
]
"""What this process did with a server."""

SERVER: list[tuple[str, str, str, Of]] = [
    ('server_up', 'gauge', 'Whether it answers', lambda s: int(s['up'])),
    (
        'server_round_trip_seconds',
        'gauge',
        'Seconds for a question and its answer',
        lambda s: s['round_trip'],
    ),
    ('server_items', 'gauge', 'Items that it holds', lambda s: s['items']),
    (
        'server_memory_bytes',
        'gauge',
        'Bytes that its items take',
        lambda s: s['memory'],
    ),
    (
        'server_memory_limit_bytes',
        'gauge',
        'Bytes that they may take',
        lambda s: s['memory_limit'],
    ),
    (
        'server_evictions_total',
        'counter',
        'Items that it dropped before their time',
        lambda s: s['evictions'],
    ),
    (
        'server_connections',
        'gauge',
        'Connections to it, of all clients',
        lambda s: s['connections'],
    ),
    (
        'server_uptime_seconds',
        'gauge',
        'Seconds since it was started',
        lambda s: s['uptime'],
    ),
]
"""What a server is, and counts of all its clients."""


def text(status: dict[str, typing.Any]) -> str:
    """Return a status in Prometheus' text format.

    There are no labels but the prefix of a client and the address of a server.

    :param dict status: as of :func:`.status.status_of`
    :rtype: str

    """
    clients = [
        ({'prefix': client['prefix'] or ''}, client)
        for client in status['clients']
    ]
    servers = [
        ({**labels, 'server': server['address']}, server)
        for labels, client in clients
        for server in client['servers']
    ]
    own = [(labels, server['client']) for labels, server in servers]
    for labels, client in clients:
        # So that the sums are those of the client.
        own += [
            ({**labels, 'server': name}, client[name])
            for name in ('unserved', 'gone')
            if name in client
        ]
    families = [
        _family(
            'client_available',
            'gauge',
            'Whether a client has the servers that it needs',
            [(labels, int(client['available'])) for labels, client in clients],
        )
    ]
    for table, things in ((OWN, own), (SERVER, servers)):
        for name, kind, meaning, of in table:
            samples = [(labels, of(thing)) for labels, thing in things]
            families.append(_family(name, kind, meaning, samples))
    return ''.join(families)


def _family(
    name: str,
    kind: str,
    meaning: str,
    samples: abc.Iterable[tuple[Labels, typing.Any]],
) -> str:
    """Return the lines of one metric; what is not known has none."""
    values = {
        _written(labels): value
        for labels, value in samples
        if value is not None
    }
    return ''.join(
        [
            f'# HELP {START}{name} {meaning}.\n',
            f'# TYPE {START}{name} {kind}\n',
            *[f'{START}{name}{on} {value}\n' for on, value in values.items()],
        ]
    )


def _written(labels: Labels) -> str:
    escaped = {
        name: value.replace('\\', r'\\')
        .replace('"', r'\"')
        .replace('\n', r'\n')
        for name, value in labels.items()
    }
    pairs = ','.join(f'{name}="{value}"' for name, value in escaped.items())
    return f'{{{pairs}}}'
