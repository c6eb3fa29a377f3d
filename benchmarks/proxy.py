"""A server that is further away: a proxy that holds replies back for a while.

``python -m benchmarks.proxy PORT SECONDS`` prints the port that it listens
on, sends on to `PORT` of this machine what it gets, at once, and sends back
each piece of the replies `SECONDS` after it came. It is a pipe with latency:
order and throughput stay.
"""

import collections
import contextlib
import select
import selectors
import socket
import sys
import time

from benchmarks import timers

RECEIVE_BYTES = 262_144


class Proxy:
    """Connections from clients, each with its own to the server.

    :param int port: the server's port
    :param float delay: seconds to hold replies back
    """

    def __init__(self, port, delay):
        self.port = port
        self.delay = delay
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=512)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.peers = {}
        self.to_server = set()
        # Bytes that a socket did not take yet.
        self.unsent = {}
        # Replies in the order they came, which is that of their due times.
        self.held = collections.deque()

    def run(self):
        while True:
            wait = None
            if self.held:
                wait = max(0.0, self.held[0][0] - time.monotonic())
            # The selector itself takes milliseconds, select microseconds.
            select.select([self.selector], [], [], wait)
            for key, events in self.selector.select(0):
                if key.fileobj is self.listener:
                    self.accept()
                    continue
                if events & selectors.EVENT_READ and key.fileobj in self.peers:
                    self.receive(key.fileobj)
                if key.fileobj in self.unsent:
                    self.flush(key.fileobj)
            self.release()

    def accept(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(('127.0.0.1', self.port))
        for connection in (client, server):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ)
        self.peers[client] = server
        self.peers[server] = client
        self.to_server.add(server)

    def receive(self, connection):
        try:
            data = connection.recv(RECEIVE_BYTES)
        except ConnectionError:
            data = b''
        peer = self.peers[connection]
        if connection in self.to_server:
            self.held.append((time.monotonic() + self.delay, peer, data))
            if not data:
                # Its replies are still to come, but no more of them.
                self.close(connection, peer_too=False)
        elif data and peer in self.peers:
            self.send(peer, data)
        else:
            self.close(connection)

    def release(self):
        """Send the replies that were held back for long enough."""
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            _, connection, data = self.held.popleft()
            if connection not in self.peers:
                continue
            if data:
                self.send(connection, data)
            else:
                self.close(connection)

    def send(self, connection, data):
        if connection in self.unsent:
            self.unsent[connection] += data
            return
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            self.close(connection)
            return
        if sent < len(data):
            self.unsent[connection] = bytearray(data[sent:])
            self.selector.modify(
                connection, selectors.EVENT_READ | selectors.EVENT_WRITE
            )

    def flush(self, connection):
        """Send what a connection did not take before."""
        data = self.unsent.pop(connection)
        self.selector.modify(connection, selectors.EVENT_READ)
        self.send(connection, data)

    def close(self, connection, *, peer_too=True):
        peer = self.peers.pop(connection)
        self.to_server.discard(connection)
        self.unsent.pop(connection, None)
        self.selector.unregister(connection)
        connection.close()
        if peer_too and peer in self.peers:
            self.close(peer)


def main():
    port, delay = sys.argv[1:]
    timers.sharpen()
    proxy = Proxy(int(port), float(delay))
    print(proxy.listener.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        proxy.run()


if __name__ == '__main__':
    main()
