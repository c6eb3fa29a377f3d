"""What works with a server, whatever server it is.

``scripts/test --server HOST:PORT`` runs this.  It prints a table: "yes" for
what works; "no" for what comes to nothing, as a call to a server that is down
does, and harms nothing else; "WRONG" for anything else, with what was seen.
Without "WRONG" the exit status is 0.

Its keys begin with a text that nobody else has, and are deleted in the end.
It empties the server only where it is told to, with ``--flush``.

"""

import argparse
import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import sys
import threading
import time
import uuid

import faces

from sprockets.clients import memcached
from sprockets.clients.memcached import settings

SECONDS = 5
"""For the server to say whether it is one, and for each call."""

LIFE = 300
"""Seconds until the server forgets by itself what may be left behind."""

LOGGER = logging.getLogger('sprockets.clients.memcached')

KINDS = {'Client': memcached.Client, 'AsyncClient': memcached.AsyncClient}


class NoMemcachedError(Exception):
    """What is at an address cannot be tested; the message tells why."""


class WrongError(Exception):
    """It was neither done, nor left undone."""


@dataclasses.dataclass
class Outcome:
    """How something went, for both clients."""

    word: str
    seen: str = ''

    def __str__(self):
        return f'{self.word}  {self.seen}'.rstrip()


def expect(wanted, got):
    """Make sure of a result.

    :raises WrongError: if it is another one

    """
    if wanted != got:
        raise WrongError(f'{_short(got)} instead of {_short(wanted)}')


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:60]}...'


class Bench:
    """A client of one kind, and keys that are its own.

    :param str kind: which one
    :param str address: the server

    """

    def __init__(self, kind, address):
        self.kind = kind
        self.address = address
        self._keys = []
        self._faces = []
        self.face = self.another()

    def another(self):
        """Return another client, which shares nothing but the server."""
        client = KINDS[self.kind](
            servers=self.address,
            socket_timeout=SECONDS,
            dead_retry=0,
            # It is for the server to say.
            server_max_value_length=16 << 20,
        )
        wrap = faces.Blocking if self.kind == 'Client' else faces.Awaitable
        self._faces.append(wrap(client))
        return self._faces[-1]

    def key(self, end=''):
        """Return a key that nobody has, which is deleted in the end."""
        self._keys.append(f'sprockets-test:{uuid.uuid4().hex}{end}')
        return self._keys[-1]

    def put(self, key, value):
        """Store a value, for a test of something else."""
        if not self.face.set(key, value, time=LIFE):
            raise WrongError('a value could not be stored')

    def check(self):
        """See whether the next call is answered."""
        key = self.key()
        try:
            self.put(key, 'value')
            expect('value', self.face.get(key))
        except WrongError as error:
            raise WrongError(f'after it: {error}') from None

    def close(self):
        self.face.delete_multi(self._keys)
        for face in self._faces:
            face.close()


def store(bench):
    """``get``, ``set``, ``delete``"""
    face, key = bench.face, bench.key()
    expect(None, face.get(key))
    if not face.set(key, 'value', time=LIFE):
        return False
    expect('value', face.get(key))
    if not face.delete(key):
        return False
    expect(None, face.get(key))
    return not face.delete(key)


def kinds_of_values(bench):
    """values of every type"""
    for value in (b'\0\r\n\xff', '', 'ä', 7, -1, True, None, {'a': [1.5]}):
        key = bench.key()
        bench.put(key, value)
        # None is no value for a reader, but a type all the same.
        if value is not None:
            got = bench.face.get(key)
            expect((type(value), value), (type(got), got))
    return True


def odd_keys(bench):
    """keys of 250 bytes, and beyond ASCII"""
    for key in (bench.key().ljust(250, 'x'), bench.key('ä€')):
        if not bench.face.set(key, key, time=LIFE):
            return False
        expect(key, bench.face.get(key))
        bench.face.delete(key)
    return True


def many(bench):
    """``get_multi`` and its like, of 3,000 keys"""
    mapping = {bench.key(): number for number in range(3000)}
    if bench.face.set_multi(mapping, time=LIFE):
        return False
    expect(mapping, bench.face.get_multi(mapping))
    if not bench.face.delete_multi(mapping):
        return False
    expect({}, bench.face.get_multi(mapping))
    return True


def at_once(bench):
    """many calls at the same time"""
    keys = [bench.key() for _ in range(20)]

    async def work(client):
        for key in keys:
            await client.set(key, key, time=LIFE)
            expect(key, await client.get(key))

    bench.face.together(16, work)
    return True


def large(bench):
    """a value of 900 kB"""
    key, value = bench.key(), os.urandom(900_000)
    if not bench.face.set(key, value, time=LIFE):
        return False
    expect(value, bench.face.get(key))
    return True


def too_large(bench):
    """a value that is too large is refused, no more"""
    key, value = bench.key(), os.urandom(4 << 20)
    bench.put(key, 'old')
    if bench.face.set(key, value, time=LIFE):
        # It has more room than most.
        expect(value, bench.face.get(key))
    elif bench.face.get(key) not in (None, 'old'):
        raise WrongError('it was stored in part')
    return True


def expire(bench):
    """values expire"""
    key = bench.key()
    if not bench.face.set(key, 'value', time=4):
        return False
    expect('value', bench.face.get(key))
    return _gone(bench, key)


def _gone(bench, key):
    end = time.monotonic() + 20
    while bench.face.get(key) is not None:
        if time.monotonic() > end:
            raise WrongError('it is there after its time')
        time.sleep(0.1)
    return True


def add(bench):
    """``add``"""
    key = bench.key()
    if not bench.face.add(key, 'first', time=LIFE):
        return False
    if bench.face.add(key, 'second', time=LIFE):
        raise WrongError('it adds what is there')
    expect('first', bench.face.get(key))
    return True


def replace(bench):
    """``replace``"""
    key = bench.key()
    if bench.face.replace(key, 'first', time=LIFE):
        raise WrongError('it replaces what is not there')
    expect(None, bench.face.get(key))
    bench.put(key, 'first')
    if not bench.face.replace(key, 'second', time=LIFE):
        return False
    expect('second', bench.face.get(key))
    return True


def join(bench):
    """``append``, ``prepend``"""
    face, key = bench.face, bench.key()
    if face.append(key, 'c') or face.prepend(key, 'a'):
        raise WrongError('it adds to what is not there')
    bench.put(key, 'b')
    if not face.append(key, 'c') or not face.prepend(key, 'a'):
        expect('b', face.get(key))
        return False
    expect('abc', face.get(key))
    return True


def cas(bench):
    """``gets``, ``cas``"""
    face, key = bench.face, bench.key()
    bench.put(key, 'first')
    if face.gets(key) != 'first' or not face.cas(key, 'second', time=LIFE):
        return False
    expect('second', face.get(key))
    expect('second', face.gets(key))
    bench.another().set(key, 'third', time=LIFE)
    if face.cas(key, 'fourth', time=LIFE):
        raise WrongError("another one's value was overwritten")
    expect('third', face.get(key))
    return True


def count(bench):
    """``incr``, ``decr``"""
    face, key = bench.face, bench.key()
    expect(None, face.incr(key))
    bench.put(key, 41)
    if face.incr(key) is None:
        return False
    expect(42, face.get(key))
    expect(40, face.decr(key, 2))
    expect(0, face.decr(key, 100))
    return True


def touch(bench):
    """``touch``"""
    key = bench.key()
    if bench.face.touch(key, 60):
        raise WrongError('it touches what is not there')
    bench.put(key, 'value')
    return bool(bench.face.touch(key, 1)) and _gone(bench, key)


def gat(bench):
    """``gat``, ``gats``"""
    key = bench.key()
    expect(None, bench.face.gat(key, 60))
    bench.put(key, 'value')
    for method, seconds in ((bench.face.gats, 60), (bench.face.gat, 1)):
        got = method(key, seconds)
        if got is None:
            return False
        expect('value', got)
    return _gone(bench, key)


def compute(bench):
    """``get_or_set``: one computes for all"""
    key = bench.key()
    computed = []
    begun = threading.Event()
    got = []

    def factory():
        computed.append(len(computed) + 1)
        begun.set()
        time.sleep(0.5)
        return computed[-1]

    def first():
        got.append(other.get_or_set(key, factory, time=LIFE))

    other = bench.another()
    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(SECONDS)
    got.append(bench.face.get_or_set(key, factory, time=LIFE))
    thread.join()
    if computed != [1]:
        return False
    expect([1, 1], got)
    expect(1, bench.face.get(key))
    return True


def stale(bench):
    """``get_or_set`` with ``stale``, ``mark_stale``"""
    key = bench.key()

    def get(value):
        return bench.face.get_or_set(key, lambda: value, time=LIFE, stale=LIFE)

    expect('old', get('old'))
    expect('old', get('never'))
    if not bench.face.mark_stale(key):
        return False
    end = time.monotonic() + SECONDS
    while (got := get('new')) != 'new':
        expect('old', got)
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def invalidate(bench):
    """``invalidate``"""
    key = bench.key()
    expect(1, bench.face.get_or_set(key, lambda: 1, time=LIFE))
    bench.face.invalidate(key)
    expect(None, bench.face.get(key))
    expect(2, bench.face.get_or_set(key, lambda: 2, time=LIFE))
    return True


def update(bench):
    """``update``"""
    key = bench.key()

    async def work(client):
        for _ in range(10):
            await client.update(key, lambda count: (count or 0) + 1, LIFE)

    try:
        bench.face.together(4, work)
    except memcached.UpdateError:
        return False
    expect(40, bench.face.get(key))
    return True


def statistics(bench):
    """``get_stats``"""
    found = bench.face.get_stats()
    return bool(found) and bool(found[0][1])


def flush(bench):
    """``flush_all``"""
    key = bench.key()
    bench.put(key, 'value')
    bench.face.flush_all()
    empty = bench.face.get(key) is None
    # Some take what is stored in the same second for older than that.
    time.sleep(2.1)
    return empty


ABILITIES = (
    store,
    kinds_of_values,
    odd_keys,
    many,
    at_once,
    large,
    too_large,
    expire,
    add,
    replace,
    join,
    cas,
    count,
    touch,
    gat,
    compute,
    stale,
    invalidate,
    update,
    statistics,
)
FLUSH = (flush,)
"""What is tested only where one says that the server may be emptied."""


def outcome(ability, address):
    """Return how something goes, for the blocking client and the other.

    :param ability: a function of this module
    :param str address: the server
    :rtype: Outcome

    """
    LOGGER.addHandler(_said)
    try:
        found = {kind: _outcome(ability, kind, address) for kind in KINDS}
    finally:
        LOGGER.removeHandler(_said)
    first, second = found.values()
    if first.word == second.word:
        return first
    seen = '; '.join(f'{kind}: {each}' for kind, each in found.items())
    return Outcome('WRONG' if 'WRONG' in seen else 'no', seen)


class _Said(logging.Handler):
    """What the package has said last, which is not shown otherwise."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.last = ''

    def emit(self, record):
        self.last = record.getMessage()


_said = _Said()


def _outcome(ability, kind, address):
    _said.last = ''
    bench = Bench(kind, address)
    try:
        with contextlib.closing(bench):
            done = ability(bench)
            bench.check()
    except WrongError as error:
        return Outcome('WRONG', str(error))
    # What no call may raise; the others are tested all the same.
    except Exception as error:  # noqa: BLE001
        return Outcome('WRONG', f'raises {type(error).__name__}: {error}')
    return Outcome('yes') if done else Outcome('no', _said.last)


def greet(address):
    """See whether there is a memcached, or what speaks like one.

    :param str address: where
    :raises NoMemcachedError: if not

    """
    try:
        server = settings.parse_server(address)[0]
    except ValueError as error:
        raise NoMemcachedError(str(error)) from None
    key = f'sprockets-test:{secrets.token_hex(8)}'.encode()
    answer = b''
    try:
        with _connect(server) as connection:
            connection.sendall(b'get %b\r\n' % key)
            while b'\n' not in answer and len(answer) < 1000:
                received = connection.recv(1000)
                if not received:
                    break
                answer += received
    # It may have been connected to; then what came of the answer is shown.
    except OSError as error:
        if not isinstance(error, (TimeoutError, ConnectionResetError)):
            raise NoMemcachedError(
                f'{address} does not answer: {error.strerror or error}'
            ) from None
    if answer != b'END\r\n':
        line = answer.partition(b'\n')[0][:80]
        raise NoMemcachedError(
            f'{address} is no memcached that answers: to "get", for a key'
            f' that is not there, it says {line!r} within {SECONDS} seconds,'
            ' where "END" is expected'
        )


def _connect(server):
    if server.family != 'unix':
        return socket.create_connection((server.host, server.port), SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    try:
        connection.connect(server.host)
    except BaseException:
        connection.close()
        raise
    return connection


def main():
    """Print what works, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('address', metavar='HOST:PORT')
    parser.add_argument('--flush', action='store_true')
    options = parser.parse_args()
    try:
        greet(options.address)
    except NoMemcachedError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    tested = (*ABILITIES, *FLUSH) if options.flush else ABILITIES
    width = max(len(ability.__doc__) for ability in tested)
    good = True
    for ability in tested:
        found = outcome(ability, options.address)
        good = good and found.word != 'WRONG'
        print(f'{ability.__doc__:{width}}  {found}', flush=True)
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
