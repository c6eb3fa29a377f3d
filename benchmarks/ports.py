"""Ports for services, which take them a while after they were chosen."""

import atexit
import random
import socket

PORTS = [port for port in range(2000, 12000) if port != 11211]
"""None that the kernel gives to clients, none that MemcachedServer takes, and
not memcached's own."""


def free_port():
    """Return a port that nobody else chooses while this process lives.

    Whoever chooses one binds the same one of UDP, by which others, in any
    process, see that.  Two services that let others listen on their port, as
    sprockets.http does, would else have each other's visitors.
    """
    while True:
        # Not random's own sequence, which processes may begin alike.
        port = random.SystemRandom().choice(PORTS)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(('127.0.0.1', port))
            with socket.socket() as service:
                service.bind(('127.0.0.1', port))
        except OSError:
            claim.close()
        else:
            atexit.register(claim.close)
            return port
