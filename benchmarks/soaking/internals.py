"""All that the soak knows of the inside of the package."""

import weakref

from sprockets.clients.memcached.loop import lanes, threads

GRACE = lanes.GRACE
"""Seconds that a thread may be late before a call ends without it."""

VALUES = threads.VALUES
"""Threads that a client has at most, apart from the servers', for values."""


def start_threads(clients, count, job):
    """Let the threads of all servers come that there may be.

    Else they would come one by one, and look like something that grows.

    :param clients: awaitable ones that share their servers
    :param int count: how many there are for each server
    :param job: what each of them has to do first
    """
    endpoints = {
        endpoint
        for client in clients
        for endpoint in client._engine.cluster.endpoints
    }
    for endpoint in endpoints:
        for _ in range(count):
            endpoint.workers.submit(job)


def kept(clients):
    """Return references to what awaitable clients keep.

    :returns: for :func:`left`
    :rtype: list
    """
    return [weakref.ref(client._engine) for client in clients]


def left(references):
    """Whether some of what clients kept is there, though they are gone."""
    return any(reference() is not None for reference in references)
