"""What the least costs that any client has to do, with no promise kept.

They are no clients: nothing has a deadline, nothing may break, and there is
one server.  They are what a client's figures can be compared with.
"""

import asyncio
import re
import socket

from benchmarks import contenders, data

BUFFER_BYTES = 262_144
LONGEST_KEY = 250
BAD = re.compile(rb'[\x00-\x20\x7f]')
SIZE = 100


class BareFuture:
    """A future for each read, which a callback sets at the end of the turn."""

    name = f'{contenders.BARE} future'

    def key(self, name):
        return name

    async def start(self, servers, authority=None):
        self.loop = asyncio.get_running_loop()
        self.values = dict(data.pairs(self, SIZE))
        self.asked = []

    def get(self, key):
        if not self.asked:
            self.loop.call_soon(self._answer)
        future = self.loop.create_future()
        self.asked.append((key, future))
        return future

    def _answer(self):
        asked, self.asked = self.asked, []
        for key, future in asked:
            future.set_result(self.values[key])

    async def close(self):
        pass


class BareBatch:
    """Reads of one turn of the loop, sent and received together.

    The key is checked and compared, and the length of the value.  A reader
    stays with the one connection, and a buffer; one batch is under way.
    """

    name = f'{contenders.BARE} batch'

    def key(self, name):
        return name

    async def start(self, servers, authority=None):
        self.loop = asyncio.get_running_loop()
        self.socket = _connect(servers)
        self.socket.setblocking(False)
        self.buffer = bytearray(BUFFER_BYTES)
        self.rest = memoryview(self.buffer)
        self.asked = []
        self.sent = []
        self.loop.add_reader(self.socket, self._receive)

    def get(self, key):
        encoded = key.encode('ascii')
        if len(encoded) > LONGEST_KEY or BAD.search(encoded):
            raise ValueError(key)
        future = self.loop.create_future()
        self.asked.append((encoded, future))
        if len(self.asked) == 1 and not self.sent:
            self.loop.call_soon(self._send)
        return future

    def _send(self):
        self.sent, self.asked = self.asked, self.sent
        keys = b' '.join([key for key, _ in self.sent])
        self.socket.send(b'get %b\r\n' % keys)

    def _receive(self):
        count = self.socket.recv_into(self.rest)
        if not count:
            raise ConnectionError('the server has closed the connection')
        end = len(self.buffer) - len(self.rest) + count
        self.rest = self.rest[count:]
        if not self.buffer.endswith(b'END\r\n', 0, end):
            return
        with memoryview(self.buffer) as view:
            parts = bytes(view[:end]).split(b'\r\n')
        for (key, future), head, value in zip(
            self.sent, parts[::2], parts[1::2], strict=False
        ):
            _, found, _, length = head.split(b' ')
            if found != key or int(length) != len(value):
                raise ValueError(head)
            future.set_result(value)
        self.sent.clear()
        self.rest = memoryview(self.buffer)
        if self.asked:
            self._send()

    async def close(self):
        self.loop.remove_reader(self.socket)
        self.socket.close()


ASYNCHRONOUS = {bound.name: bound for bound in (BareFuture, BareBatch)}


class BareSocket:
    """A socket that sends what clients send, and cuts up what comes back.

    It compares neither keys nor lengths.
    """

    name = f'{contenders.BARE} socket'

    def __init__(self, servers):
        self.socket = _connect(servers)

    def get(self, key):
        return self.get_multi([key])[key]

    def get_multi(self, keys):
        self.socket.sendall(b'get %b\r\n' % ' '.join(keys).encode())
        received = b''
        while not received.endswith(b'END\r\n'):
            received += self.socket.recv(BUFFER_BYTES)
        return dict(zip(keys, received.split(b'\r\n')[1:-1:2], strict=True))

    def set(self, key, value):
        return not self.set_multi({key: value})

    def set_multi(self, values):
        self.socket.sendall(
            b''.join(
                [
                    b'set %b 0 0 %d\r\n%b\r\n'
                    % (key.encode(), len(value), value)
                    for key, value in values.items()
                ]
            )
        )
        expected = b'STORED\r\n' * len(values)
        received = b''
        while len(received) < len(expected):
            received += self.socket.recv(BUFFER_BYTES)
        return [] if received == expected else list(values)


BLOCKING = {BareSocket.name: BareSocket}


def _connect(servers):
    connection = socket.create_connection(servers[0])
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
