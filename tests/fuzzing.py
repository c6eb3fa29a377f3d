"""Replies of every kind of nonsense, and all that reads them.

``test_fuzz.py`` tries a few, ``scripts/fuzz`` as many as there is time for:
nothing raises but what is documented, nothing that is shown can do harm, no
memory is kept, and the loop is not held up.

"""

import argparse
import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time

import faults
import hypothesis
from hypothesis import strategies
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import __main__ as command_line
from sprockets.clients.memcached.requests import statistics
from sprockets.clients.memcached.servers import discovery
from sprockets.clients.memcached.web import status
from sprockets.clients.memcached.wire import bounds, protocol

MOST_MEMORY = 64 << 20
"""Bytes by which the process may have grown in the end."""

HOLD_UP = 0.05
"""Seconds for which the loop may compute at one time."""

# Replies

LONGEST = 1 << 18
"""Bytes of a reply, before its end."""

numbers = strategies.one_of(
    strategies.integers(-2, 2**70).map(b'%d'.__mod__),
    strategies.sampled_from(
        [
            *(b'0', b'1', b'2', b'-1', b'', b'1e9', b'NaN', b'\xb2', b'1_0'),
            *(b'9' * 20, b'9' * 21, b'9' * 5000, b'0' * 30, b'4294967296'),
            *(b'99999999999999', b'1073741824', b'1073741825'),
        ]
    ),
)
texts = strategies.one_of(
    strategies.sampled_from(
        [
            *(b'key', b'time', b'uptime', b'bytes', b'1:used', b'items:1:age'),
            *(b'\x1b[2J', b'\x1b]0;x\x07', b'\n', b'\r', b'\x00', b'\xff\xfe'),
            *(b'</script>', b'%s%n{0}', b'\xe2\x80\xae', b'x' * 300),
            *(b'x' * 4090, b'x' * 5000),
        ]
    ),
    strategies.binary(max_size=20),
)
WORDS = [
    *(b'END', b'STORED', b'NOT_STORED', b'EXISTS', b'NOT_FOUND', b'DELETED'),
    *(
        b'TOUCHED',
        b'OK',
        b'RESET',
        b'HD',
        b'EN',
        b'NF',
        b'EX',
        b'MN',
        b'ERROR',
    ),
    b'ERROR Too many open connections',
]


def line(*parts):
    """Return a strategy of lines that consist of words."""
    return strategies.tuples(
        *[
            strategies.just(part) if isinstance(part, bytes) else part
            for part in parts
        ]
    ).map(b' '.join)


@strategies.composite
def values(draw):
    """A value with its line, and most often its length."""
    data = draw(
        strategies.one_of(
            strategies.binary(max_size=30),
            strategies.sampled_from(
                [b'{"a":1e999}', b'NaN', b'[' * 3000, b'9' * 6000, b'x\xda']
            ),
        )
    )
    length = draw(
        strategies.one_of(strategies.just(b'%d' % len(data)), numbers)
    )
    key = draw(strategies.one_of(strategies.just(b'key'), texts))
    flags = draw(
        strategies.one_of(
            strategies.sampled_from([b'%d' % n for n in range(130)]),
            numbers,
        )
    )
    if draw(strategies.booleans()):
        head = b'VALUE %b %b %b' % (key, flags, length)
        if draw(strategies.booleans()):
            head += b' ' + draw(numbers)
    else:
        head = b'VA %b k%b f%b c%b' % (length, key, flags, draw(numbers))
        head += b' t' + draw(numbers)
        head += draw(strategies.sampled_from([b'', b' W', b' X', b' Z v']))
    return b'%b\r\n%b' % (head, data)


@strategies.composite
def configurations(draw):
    """What a configuration endpoint might tell."""
    nodes = draw(
        strategies.lists(
            strategies.one_of(
                texts,
                strategies.tuples(texts, texts, numbers).map(b'|'.join),
                strategies.just(b'|127.0.0.1|1'),
            ),
            max_size=5,
        )
    )
    nodes *= draw(strategies.sampled_from([1, 1, 1, 500]))
    body = draw(numbers) + b'\n' + b' '.join(nodes)
    length = draw(
        strategies.one_of(strategies.just(b'%d' % len(body)), numbers)
    )
    return b'CONFIG cluster 0 %b\r\n%b\r\nEND' % (length, body)


lines = strategies.one_of(
    strategies.sampled_from(WORDS),
    values(),
    line(b'STAT', texts, strategies.one_of(texts, numbers)),
    line(strategies.sampled_from([b'ITEM', b'PREFIX']), texts, texts),
    line(b'VERSION', texts),
    line(strategies.sampled_from([b'SERVER_ERROR', b'CLIENT_ERROR']), texts),
    numbers,
    texts,
    configurations(),
)


@strategies.composite
def replies(draw):
    """A reply: some lines, of which some come many times, and its end."""
    parts = draw(strategies.lists(lines, min_size=1, max_size=6))
    if draw(strategies.integers(0, 9)) == 0:
        at = draw(strategies.integers(0, len(parts) - 1))
        # As often as is left of it: a configuration may have megabytes.
        most = LONGEST // (len(parts[at]) + 2) + 1
        parts[at : at + 1] = [parts[at]] * min(2000, most)
    reply = b'\r\n'.join(parts)
    return reply[:LONGEST] + draw(
        strategies.sampled_from([b'\r\n', b'\r\n', b'\r\nEND\r\n', b''])
    )


# Who reads them

COMMANDS = {
    'get': lambda: protocol.Get([b'key']),
    'get many': lambda: protocol.Get({b'key': None, b'1': None}),
    'gets': lambda: protocol.Get([b'key'], 'gets'),
    'gat': lambda: protocol.Get([b'key'], 'gat', 1),
    'mg': lambda: protocol.MetaGet(b'key', 1, 1),
    'md': lambda: protocol.meta_delete(b'key', 1, None),
    'mn': protocol.meta_noop,
    'set': lambda: protocol.store(protocol.SET, b'key', 0, 0, b'x'),
    'cas': lambda: protocol.compare_and_swap(b'key', 0, 0, b'x', 1, 1),
    'set many': lambda: protocol.Many(protocol.SET, [b'x\r\n'] * 3),
    'incr': lambda: protocol.count(protocol.INCR, b'key', 1),
    'ma': lambda: protocol.MetaNumber(b'ma key\r\n'),
    'delete': lambda: protocol.delete(b'key'),
    'touch': lambda: protocol.touch(b'key', 1),
    'flush_all': protocol.flush_all,
    'version': protocol.Version,
    'stats': protocol.Statistics,
    'config': protocol.Configuration,
}


def read_with_every_command(reply, at):
    """Read a reply at once, and in two pieces, whoever has asked."""
    for name, make in COMMANDS.items():
        command = make()
        if reply.endswith(b'\r\n'):
            # It is asked only for what ends with a line.
            command.take(reply.split(b'\r\n'), 0)
        outcomes = []
        for cut in (len(reply), at % (len(reply) + 1)):
            command = make()
            incoming = protocol.Incoming()
            outcome = 'more'
            for piece in (reply[:cut], reply[cut:]):
                incoming.feed(piece)
                try:
                    missing = command.read(incoming)
                except protocol.ProtocolError as error:
                    outcome = type(error).__name__
                    look_at_words(error)
                    break
                assert missing >= 0
                if missing == 0:
                    outcome = 'read'
                    break
            outcomes.append(outcome)
            look_at(command)
        assert outcomes[0] == outcomes[1], name


def look_at_words(error):
    """See to it that an error is a line of some length."""
    assert len(str(error)) < 1500
    assert str(error).isprintable()


def look_at(command):
    """See to it that what a command has read is within all bounds."""
    if command.error is not None:
        look_at_words(command.error)
    result = command.result
    if isinstance(result, int):
        assert 0 <= result <= bounds.COUNT.most
    if isinstance(result, str):
        assert result.isprintable()
        assert len(result) <= 4 * bounds.VERSION.most
    if isinstance(result, dict):
        assert len(result) <= bounds.STATISTICS_NAMES.most
        pairs = [('server', result)]
        statistics.by_slab(pairs)
        statistics.items_by_slab(pairs)
    if isinstance(result, bytes):
        with contextlib.suppress(ValueError):
            assert len(discovery.parse(result)) <= 1000
    for flags, _, unique in getattr(command, 'found', {}).values():
        assert 0 <= flags <= bounds.UNKNOWN_FLAGS
        assert unique is None or 0 <= unique <= bounds.UNIQUE.most


class Server(faults.ScriptedServer):
    """It says the same to whatever it is asked, and closes after a while."""

    def __init__(self):
        super().__init__(self._answer)
        self.reply = b''
        self.rounds = 1

    async def _answer(self, connection):
        # All that ever came is kept, which would be taken for growth.
        self.connections[:] = [
            each for each in self.connections if not each.closed
        ]
        for _ in range(self.rounds):
            if not await connection.request():
                return
            await connection.send(self.reply)


CALLS = [
    ('get', ('key', 'default')),
    ('gets', ('key',)),
    ('gat', ('key', 5)),
    ('get_multi', (['key', '1', 'other'],)),
    ('set', ('key', {'a': 1})),
    ('add', ('key', 'value')),
    ('append', ('key', 'value')),
    ('set_multi', ({'key': 1, 'other': 2},)),
    ('incr', ('key',)),
    ('decr', ('key',)),
    ('incr', ('key', 1, 5)),
    ('touch', ('key', 5)),
    ('delete', ('key',)),
    ('delete_multi', (['key', 'other'],)),
    ('get_or_set', ('key', lambda: 'computed', 5)),
    ('get_stats', ()),
    ('get_stats', ('items',)),
    ('get_slabs', ()),
    ('get_slab_stats', ()),
    ('flush_all', ()),
    ('mark_stale', ('key',)),
]


def options(server):
    return {
        'servers': server.address,
        'socket_timeout': 0.25,
        'dead_retry': 0,
        # What is unpickled may run anything, which is another matter.
        'serializer': 'json',
        'max_connections': 2,
    }


def call_every_method(server, reply, rounds):
    """Call all, blocking: none raises but for an argument it takes."""
    server.reply, server.rounds = reply, rounds
    client = memcached.Client(**options(server))
    for name, arguments in CALLS:
        # A server may say that the argument is at fault.
        allowed = ValueError if name.startswith('get_s') else ()
        with contextlib.suppress(allowed):
            getattr(client, name)(*arguments)
    with contextlib.suppress(RuntimeError):
        client.cas('key', 'value')
    client.disconnect_all()


class Pulse:
    """Looks for how long a loop computes at one time."""

    def __init__(self):
        self.longest = 0.0

    async def beat(self):
        # What others of this machine compute meanwhile does not count.
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, now - before)
            before = now


async def await_every_method(server, reply, rounds):
    """Await all at the same time, and a status; return the longest hold-up."""
    server.reply, server.rounds = reply, rounds
    client = memcached.AsyncClient(**options(server))
    scope = client.scope()
    pulse = Pulse()
    task = asyncio.create_task(pulse.beat())
    results = await asyncio.wait_for(
        asyncio.gather(
            *[getattr(scope, name)(*given) for name, given in CALLS],
            return_exceptions=True,
        ),
        30,
    )
    for (name, _), result in zip(CALLS, results, strict=True):
        if isinstance(result, BaseException):
            assert isinstance(result, ValueError), (name, result)
            assert name.startswith('get_s'), (name, result)
    application = web.Application()
    application.memcached_clients = {None: client}
    seen = await status.status_of(application, [None], history=True)
    text = status._json(seen)
    assert text.isascii()
    assert '<' not in text
    json.loads(text, parse_constant=refuse)
    task.cancel()
    await client.close()
    return pulse.longest


def refuse(name):
    raise AssertionError(f'{name} is no JSON')


def show_on_the_command_line(server, reply, rounds):
    """As text and as JSON: each line is one that a terminal may be sent."""
    server.reply, server.rounds = reply, rounds
    before = dict(os.environ)
    os.environ.update(
        MEMCACHED_SERVERS=server.address,
        MEMCACHED_SOCKET_TIMEOUT='0.25',
        MEMCACHED_SERIALIZER='json',
    )
    try:
        for arguments in ([], ['--json']):
            shown = io.TextIOWrapper(io.BytesIO(), 'utf-8')
            with contextlib.redirect_stdout(shown):
                assert command_line.main(arguments) in (0, 1)
            shown.flush()
            text = shown.buffer.getvalue().decode()
            assert all(each.isprintable() for each in text.splitlines())
            if arguments:
                json.loads(text, parse_constant=refuse)
    finally:
        os.environ.clear()
        os.environ.update(before)


def discover(server, reply, rounds):
    """Ask it which servers there are."""
    server.reply, server.rounds = reply, rounds
    given = options(server) | {'servers': f'discover:{server.address}'}
    client = memcached.Client(**given)
    client.get('key')
    assert len(client.servers) <= 1000
    client.disconnect_all()


class Log(logging.Handler):
    """Sees to it that each message is one line, and not too long."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def emit(self, record):
        text = record.getMessage()
        if not text.isprintable() or len(text) > 5000 or record.exc_info:
            self.wrong.append(text)


@contextlib.contextmanager
def listening():
    """Log everything, and say what was wrong with it."""
    log = Log()
    logger = logging.getLogger('sprockets.clients.memcached')
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        logger.propagate = propagate
    assert log.wrong == []


def memory():
    """Return how many bytes of this process are in memory."""
    gc.collect()
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


# For as long as there is time

EXAMPLES = 300
"""Replies that are made at one time."""


def main():
    """Try replies for some minutes, and tell the figures."""
    parser = argparse.ArgumentParser(prog='scripts/fuzz', description=__doc__)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--generate', action='store_true')
    given = parser.parse_args()
    if given.generate:
        sys.stdout.buffer.write(pickle.dumps(generate(given.seed)))
        return 0
    end = time.monotonic() + given.minutes * 60
    counts = dict.fromkeys(('read', 'called', 'awaited', 'shown', 'told'), 0)
    longest = 0.0
    seed = given.seed
    grown = first = 0
    with Server() as server, listening():
        while time.monotonic() < end:
            for number, reply in enumerate(generated(seed)):
                try:
                    read_with_every_command(reply, number * 7919)
                    counts['read'] += 1
                    if number % 20 or time.monotonic() > end:
                        continue
                    rounds = number // 20 % 3 + 1
                    call_every_method(server, reply, rounds)
                    counts['called'] += 1
                    held = asyncio.run(
                        await_every_method(server, reply, rounds)
                    )
                    longest = max(longest, held)
                    counts['awaited'] += 1
                    discover(server, reply, rounds)
                    counts['told'] += 1
                    if number % 100 == 0:
                        show_on_the_command_line(server, reply, rounds)
                        counts['shown'] += 1
                except BaseException:
                    sys.stderr.write(f'seed {seed}, reply {reply!r}\n')
                    raise
            # The first ones fill what is kept for good.
            first = first or memory()
            grown = max(grown, memory() - first)
            seed += 1
    words = [f'{name}: {count}' for name, count in counts.items()]
    words += [
        f'threads: {threading.active_count()}',
        f'grown by: {grown / (1 << 20):.1f} MiB',
        f'the loop was held up for: {longest * 1000:.1f} ms at most',
    ]
    sys.stdout.write('\n'.join(words) + '\n')
    return int(grown > MOST_MEMORY or longest > HOLD_UP)


def generated(seed):
    """Return replies that another process makes.

    Hypothesis remembers what it has made, which would be taken for growth.

    """
    command = [sys.executable, __file__, '--generate', '--seed', str(seed)]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return pickle.loads(made.stdout)


def generate(seed):
    """Return some replies, always the same for a seed."""
    found = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(replies())
    def collect(reply):
        found.append(reply)

    collect()
    return found


if __name__ == '__main__':
    sys.exit(main())
