"""What is in this process in place of a server, for whoever has a socket.

Tests look into a server by sockets of their own.  What they see there is what
clients with ``memory`` for their servers use.

"""

import contextlib
import socketserver
import threading

from sprockets.clients.memcached.wire import memory

_addresses = set()


def instead(server):
    """Return what a client has for a server: ``memory`` for one of these."""
    return 'memory' if server in _addresses else server


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        session = memory.Session(memory.STORES['memory'])
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                reply = session.answer(data)
                if reply:
                    self.request.sendall(reply)


class Server(socketserver.ThreadingTCPServer):
    """Serves what is in this process on a free port."""

    daemon_threads = True
    host = '127.0.0.1'

    def __init__(self):
        super().__init__((self.host, 0), _Handler)
        self.port = self.server_address[1]
        self.address = f'{self.host}:{self.port}'
        self._thread = threading.Thread(target=self.serve_forever, args=[0.02])

    def __enter__(self):
        self.reset()
        _addresses.add(self.address)
        self._thread.start()
        return super().__enter__()

    def __exit__(self, *_):
        _addresses.remove(self.address)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def reset(self):
        """Hold nothing any more."""
        memory.STORES['memory'].clear()

    def environ(self, *prefixes):
        """Return the variables with which clients use it."""
        return {
            f'{prefix.upper()}_MEMCACHED_SERVERS'
            if prefix
            else 'MEMCACHED_SERVERS': 'memory'
            for prefix in prefixes or (None,)
        }
