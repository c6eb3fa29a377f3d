"""Bytes in, results out: what each command makes of a server's replies."""

import contextlib
import itertools
import re
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies

from sprockets.clients.memcached import settings
from sprockets.clients.memcached.wire import protocol

OFTEN = hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def read_all(commands, pieces):
    """Read replies that come in pieces, as a connection does.

    :return: the bytes that are left unread, None if more replies are missing

    """
    incoming = protocol.Incoming()
    pieces = iter(pieces)
    for command in commands:
        while missing := command.read(incoming):
            assert missing > 0
            assert not command.answered
            piece = next(pieces, None)
            if piece is None:
                return None
            incoming.feed(piece)
    return incoming.data[incoming.at :] + b''.join(pieces)


def answer(command, reply):
    """Let a command read a reply that comes in one piece."""
    assert read_all([command], [reply]) == b''
    return command


def cut(data, places):
    """Return bytes in pieces, cut at some places."""
    places = sorted({place for place in places if 0 < place < len(data)})
    return [
        data[start:end]
        for start, end in itertools.pairwise([0, *places, len(data)])
    ]


def a_set():
    return protocol.store(protocol.SET, b'key', 16, 60, b'value')


def a_cas():
    return protocol.compare_and_swap(b'key', 16, 60, b'value', 7, 1)


def a_get():
    return protocol.Get((b'key',))


STORAGE = {
    verb.name: lambda verb=verb: protocol.store(verb, b'key', 1, 2, b'v')
    for verb in (
        protocol.SET,
        protocol.ADD,
        protocol.REPLACE,
        protocol.APPEND,
        protocol.PREPEND,
    )
} | {'cas': a_cas}

SHORT = {
    'delete': lambda: protocol.delete(b'key'),
    'touch': lambda: protocol.touch(b'key', 60),
    'incr': lambda: protocol.count(protocol.INCR, b'key', 5),
    'decr': lambda: protocol.count(protocol.DECR, b'key', 5),
    'flush_all': protocol.flush_all,
    'version': protocol.Version,
    'stats': protocol.Statistics,
}

READING = {
    'get': a_get,
    'gets': lambda: protocol.Get((b'key',), 'gets'),
    'gat': lambda: protocol.Get((b'key',), 'gat', 60),
    'gats': lambda: protocol.Get((b'key',), 'gats', 60),
}

AUTHENTICATION = {
    'authentication': lambda: protocol.authenticate(
        settings.Credentials('user', settings.Secret('secret'))
    )
}

META = {
    'md': lambda: protocol.meta_delete(b'key', 7, 1),
    'mn': protocol.meta_noop,
    'mg': lambda: protocol.MetaGet(b'key', vivify=30),
    'ma': lambda: protocol.meta_count(protocol.INCR, b'key', 2, 5, 60),
}

HARMLESS = {'set', 'replace', 'delete', 'touch', 'stats', *READING} | {
    'flush_all',
    'version',
    'mn',
}

COMMANDS = STORAGE | SHORT | READING | META | AUTHENTICATION


# Requests


@pytest.mark.parametrize(
    'command, request_',
    [
        (a_set(), b'set key 16 60 5\r\nvalue\r\n'),
        (STORAGE['add'](), b'add key 1 2 1\r\nv\r\n'),
        (STORAGE['replace'](), b'replace key 1 2 1\r\nv\r\n'),
        (STORAGE['append'](), b'append key 1 2 1\r\nv\r\n'),
        (STORAGE['prepend'](), b'prepend key 1 2 1\r\nv\r\n'),
        (a_cas(), b'cas key 16 60 5 7\r\nvalue\r\n'),
        (SHORT['delete'](), b'delete key\r\n'),
        (SHORT['touch'](), b'touch key 60\r\n'),
        (SHORT['incr'](), b'incr key 5\r\n'),
        (SHORT['decr'](), b'decr key 5\r\n'),
        (SHORT['flush_all'](), b'flush_all\r\n'),
        (SHORT['version'](), b'version\r\n'),
        (SHORT['stats'](), b'stats\r\n'),
        (protocol.Statistics(b'items'), b'stats items\r\n'),
        (READING['get'](), b'get key\r\n'),
        (READING['gets'](), b'gets key\r\n'),
        (READING['gat'](), b'gat 60 key\r\n'),
        (READING['gats'](), b'gats 60 key\r\n'),
        (protocol.Get((b'a', b'b')), b'get a b\r\n'),
        (META['ma'](), b'ma key N60 J5 D2 MI t v\r\n'),
        (META['md'](), b'md key C7\r\n'),
        (
            protocol.meta_delete(b'key', None, None, True, 60),
            b'md key I T60\r\n',
        ),
        (META['mn'](), b'mn\r\n'),
        (protocol.MetaGet(b'key'), b'mg key k v f c\r\n'),
        (protocol.MetaGet(b'key', 30, 5), b'mg key k v f c N30 R5\r\n'),
        (
            protocol.Many(
                protocol.DELETE,
                [protocol.delete_request(k) for k in (b'a', b'b')],
            ),
            b'delete a\r\ndelete b\r\n',
        ),
        (
            AUTHENTICATION['authentication'](),
            b'set sprockets:authentication 0 2592001 11\r\nuser secret\r\n',
        ),
    ],
    ids=lambda given: given.name if hasattr(given, 'name') else '',
)
def test_requests(command, request_):
    """A command is what memcached's protocol.txt says, to the byte."""
    assert command.request == request_


@pytest.mark.parametrize('name', COMMANDS)
def test_what_may_be_sent_twice(name):
    """A command tells whether it changes more when it runs twice."""
    assert COMMANDS[name]().repeatable == (name in HARMLESS)


def test_cas_is_meant_for_one_life_of_the_server():
    """Another life has given out its cas uniques for other values."""
    assert a_cas().meant_for(1)
    assert not a_cas().meant_for(2)
    assert a_set().meant_for(2)
    assert META['md']().meant_for(1)
    assert not META['md']().meant_for(2)
    assert protocol.meta_delete(b'key', None, None).meant_for(2)


def test_gets_knows_the_life_of_the_server_that_answered():
    """It is that in which the request was sent."""
    command = READING['gets']()
    assert command.meant_for(3)
    assert command.incarnation == 3


# Replies of one line

REPLIES = {
    **{
        name: {b'STORED': True, b'NOT_STORED': False}
        for name in ('set', 'add', 'replace', 'append', 'prepend')
    },
    'cas': {
        b'STORED': True,
        b'NOT_STORED': False,
        b'EXISTS': False,
        b'NOT_FOUND': False,
    },
    'delete': {b'DELETED': 1, b'NOT_FOUND': 0},
    'touch': {b'TOUCHED': 1, b'NOT_FOUND': 0},
    'incr': {b'0': 0, b'8': 8, b'%d' % (2**64 - 1): 2**64 - 1}
    | {b'NOT_FOUND': None},
    'decr': {b'0': 0, b'10': 10, b'NOT_FOUND': None},
    'flush_all': {b'OK': 1},
    'version': {b'VERSION 1.6.18': '1.6.18', b'VERSION ': ''},
    'authentication': {b'STORED': True},
    'md': {b'HD': 1, b'NF': 0, b'EX': 0},
    'mn': {b'MN': 1},
    'ma': {
        b'VA 1 t60\r\n7': 7,
        b'VA 20 t-1\r\n%d' % (2**64 - 1): 2**64 - 1,
        b'NF': None,
        b'NS': None,
    },
}


@pytest.mark.parametrize(
    'name, line', [(name, line) for name in REPLIES for line in REPLIES[name]]
)
def test_a_line_is_the_answer(name, line):
    """Each line that a command may be answered by has a result."""
    command = answer(COMMANDS[name](), line + b'\r\n')
    assert command.answered
    assert command.error is None
    assert command.result == REPLIES[name][line]
    assert type(command.result) is type(REPLIES[name][line])


@pytest.mark.parametrize('name', REPLIES)
def test_until_the_line_is_whole_there_is_no_answer(name):
    """The result is that of a failure for as long as the line has no end."""
    line = next(iter(REPLIES[name])) + b'\r\n'
    for length in range(len(line)):
        command = COMMANDS[name]()
        assert read_all([command], [line[:length]]) is None
        assert not command.answered
        assert not command.result


@pytest.mark.parametrize('name', COMMANDS)
def test_starting_over_forgets_the_answer(name):
    """What is sent again is as new, whatever was read before."""
    lines = REPLIES.get(name, {b'EN' if name == 'mg' else b'END': None})
    command = answer(COMMANDS[name](), next(iter(lines)) + b'\r\n')
    command.error = OSError()
    command.start_over()
    new = COMMANDS[name]()
    for slot in ('answered', 'error', 'result', 'found', 'pairs'):
        assert getattr(command, slot, None) == getattr(new, slot, None)


# Errors

ERRORS = (
    b'ERROR',
    b'CLIENT_ERROR bad data chunk',
    b'SERVER_ERROR out of memory storing object',
)


def in_step(name, error):
    """Whether what follows an error is sure to be the next reply."""
    is_short = name not in STORAGE | AUTHENTICATION
    return is_short or error.startswith(b'SERVER_ERROR')


@pytest.mark.parametrize(
    'name, error',
    [(n, e) for n in COMMANDS for e in ERRORS if in_step(n, e)],
)
def test_an_error_is_an_answer(name, error):
    """The next reply is the next command's where that is certain."""
    command, following = COMMANDS[name](), protocol.delete(b'other')
    assert read_all([command, following], [error + b'\r\nDELETED\r\n']) == b''
    assert command.answered
    assert isinstance(command.error, protocol.RefusedError)
    assert name in str(command.error)
    assert error.decode() in str(command.error)
    assert not command.result
    assert following.result == 1


@pytest.mark.parametrize(
    'name, error',
    [(n, e) for n in COMMANDS for e in ERRORS if not in_step(n, e)],
)
def test_an_error_that_leaves_the_rest_uncertain(name, error):
    """Elsewhere the command is answered, and no other is."""
    command = COMMANDS[name]()
    with pytest.raises(protocol.OutOfStepError):
        read_all([command], [error + b'\r\n'])
    assert command.answered
    assert isinstance(command.error, protocol.RefusedError)
    assert not command.result


def test_no_error_shows_a_password():
    """What authentication was refused with is told, not what it sent."""
    command = AUTHENTICATION['authentication']()
    with pytest.raises(protocol.OutOfStepError):
        read_all([command], [b'CLIENT_ERROR authentication failure\r\n'])
    assert 'secret' not in str(command.error)


# What is no answer

NONE = [
    b'',
    b' ',
    b'error',
    b'ERRORS',
    b'END ',
    b'EN kother',
    b'VA',
    b'VA ',
    b'VA one',
    b'VA -1',
    b'VA 99999999999',
    b'stored',
    b'STORED ',
    b' STORED',
    b'STORED\n',
    b'STORED\r',
    b'\x00',
    b'-1',
    b'+1',
    b'1.0',
    b'1 ',
    b'0x1',
    '\u0663'.encode(),
    b'VALUE',
    b'VALUE ',
    b'VALUE key',
    b'VALUE key 0',
    b'STAT',
    b'VERSION',
    b'\xff\xfe',
]


TEXT = (b'NOT_STORED', b'EXISTS', b'NOT_FOUND')

REFUSALS = {
    **{
        name: {*TEXT} - {*REPLIES[name]}
        for name in REPLIES
        if name in STORAGE or name in ('delete', 'touch', 'incr', 'decr')
    },
    'md': {b'NS'},
}
"""What says no to another command of memcached's."""


@pytest.mark.parametrize(
    'name, line',
    [(name, line) for name in REFUSALS for line in sorted(REFUSALS[name])],
)
def test_a_no_is_an_answer(name, line):
    """Of a server with words of its own; the next reply is the next one's."""
    command, following = COMMANDS[name](), protocol.delete(b'other')
    assert read_all([command, following], [line + b'\r\nDELETED\r\n']) == b''
    assert command.answered
    assert isinstance(command.error, protocol.RefusedError)
    assert str(command.error) == f'{name}: {line.decode()}'
    assert not command.result
    assert following.result == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_what_is_no_answer(name):
    """Anything else is an error that the connection does not survive."""
    others = {line for lines in REPLIES.values() for line in lines}
    if name not in READING and name != 'stats':
        others.add(b'END')
    mine = set(REPLIES.get(name, ())) | set(REFUSALS.get(name, ()))
    if name in ('incr', 'decr'):
        mine |= {line for line in others if line.isdigit()}
    if name == 'stats':
        mine.add(b'OK')
    for line in {*NONE, *others} - mine:
        command = COMMANDS[name]()
        with pytest.raises(protocol.ProtocolError) as raised:
            read_all([command], [line + b'\r\n'])
        assert not isinstance(raised.value, protocol.OutOfStepError), line
        assert not command.answered
        assert not command.result


@pytest.mark.parametrize('name', COMMANDS)
def test_a_line_has_a_limit(name):
    """A line that does not end is no answer, before memory is full."""
    command = COMMANDS[name]()
    piece = b'x' * 1000
    with pytest.raises(protocol.ProtocolError):
        read_all([command], itertools.repeat(piece, 5))


def test_the_reason_is_readable():
    """It quotes what came, in ASCII, and not more than fits a log."""
    with pytest.raises(protocol.ProtocolError) as raised:
        answer(a_set(), b'\xff' * 3000 + b'\r\n')
    assert len(str(raised.value)) < 2000
    assert str(raised.value).isascii()


# Values


def item(data, flags=0, unique=None):
    return flags, data, unique


@pytest.mark.parametrize('name', READING)
def test_a_value(name):
    """A value comes with its flags, and with ``gets`` its cas unique."""
    unique = b' 17' if name.endswith('s') else b''
    command = answer(
        READING[name](), b'VALUE key 5 3%b\r\nabc\r\nEND\r\n' % unique
    )
    assert command.answered
    assert command.found == {
        b'key': item(b'abc', 5, 17 if name.endswith('s') else None)
    }


@pytest.mark.parametrize('name', READING)
def test_a_miss(name):
    """Where the server holds nothing there is an answer all the same."""
    command = answer(READING[name](), b'END\r\n')
    assert command.answered
    assert command.found == {}


def test_values_of_many_keys():
    """Each key has its own value, in whatever order they come."""
    command = protocol.Get((b'a', b'b', b'c'))
    answer(command, b'VALUE c 1 1\r\nC\r\nVALUE a 0 0\r\n\r\nEND\r\n')
    assert command.found == {b'c': item(b'C', 1), b'a': item(b'')}


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\r\n',
        b'END\r\n',
        b'\r\nEND\r\n',
        b'VALUE key 0 1\r\nx\r\nEND\r\n',
        bytes(range(256)),
        b'x' * 100_000,
    ],
    ids=repr,
)
def test_a_value_may_be_any_bytes(data):
    """What it looks like does not matter, its length does."""
    reply = b'VALUE key 0 %d\r\n%b\r\nEND\r\n' % (len(data), data)
    assert answer(a_get(), reply).found == {b'key': item(data)}


WRONG = {
    'another key': b'VALUE other 0 1\r\nx\r\nEND\r\n',
    'a longer key': b'VALUE keys 0 1\r\nx\r\nEND\r\n',
    'a shorter key': b'VALUE ke 0 1\r\nx\r\nEND\r\n',
    'no key': b'VALUE  0 1\r\nx\r\nEND\r\n',
    'the key twice': b'VALUE key 0 1\r\nx\r\nVALUE key 0 1\r\ny\r\nEND\r\n',
    'two blanks': b'VALUE key  0 1\r\nx\r\nEND\r\n',
    'a longer value': b'VALUE key 0 1\r\nxy\r\nEND\r\n',
    'a shorter value': b'VALUE key 0 2\r\nx\r\nEND\r\n',
    'a negative length': b'VALUE key 0 -1\r\nx\r\nEND\r\n',
    'a signed length': b'VALUE key 0 +1\r\nx\r\nEND\r\n',
    'a length that is none': b'VALUE key 0 one\r\nx\r\nEND\r\n',
    'an underscore': b'VALUE key 0 1_0\r\n0123456789\r\nEND\r\n',
    'negative flags': b'VALUE key -1 1\r\nx\r\nEND\r\n',
    'no flags': b'VALUE key 1\r\nx\r\nEND\r\n',
    'nothing for flags': b'VALUE key  1\r\nx\r\nEND\r\n',
    'nothing, and many digits': b'VALUE key  %031d\r\nx\r\nEND\r\n' % 1,
    'a cas unique': b'VALUE key 0 1 17\r\nx\r\nEND\r\n',
    'no value': b'VALUE key 0 0\r\nEND\r\n',
    'no value, of as many bytes': b'VALUE key 0 -2\r\nEND\r\n',
    'another end': b'VALUE key 0 1\r\nx\r\nSTORED\r\n',
    'too large a length': b'VALUE key 0 99999999999\r\nx',
    'a huge length': b'VALUE key 0 %b\r\nx' % (b'9' * 4000),
    'huge flags and a huge length': b'VALUE key %b 9%b\r\n'
    % (b'9' * 2000, b'9' * 2000),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_value_that_is_none(case):
    """Nothing of a reply is taken in which something is wrong."""
    command = a_get()
    with pytest.raises(protocol.ProtocolError):
        answer(command, WRONG[case])
    assert not command.answered
    assert command.found == {}


def test_gets_without_a_cas_unique():
    """What ``gets`` is answered without it is no answer."""
    with pytest.raises(protocol.ProtocolError):
        answer(READING['gets'](), b'VALUE key 0 1\r\nx\r\nEND\r\n')


@pytest.mark.parametrize(
    'error',
    [*ERRORS, b'ERROR Too many open connections'],
)
def test_an_error_after_a_value(error):
    """The value is not taken either."""
    command = a_get()
    with pytest.raises(protocol.ProtocolError):
        answer(command, b'VALUE key 0 1\r\nx\r\n' + error + b'\r\n')
    assert command.found == {}


def test_a_value_is_none_before_the_reply_ends():
    """A length that takes the end for a part of the value is found out."""
    command = a_get()
    assert read_all([command], [b'VALUE key 0 8\r\nabc\r\nEND\r\n']) is None
    assert command.found == {}


def test_how_much_of_a_value_is_missing():
    """A connection is told the least that it may wait for at once."""
    command = a_get()
    incoming = protocol.Incoming()
    incoming.feed(b'VALUE key 0 10000\r\nxyz')
    assert command.read(incoming) == 10_000 - 3 + 2


def test_a_large_value_is_put_together_once():
    """What is missing of it is read apart from what comes behind it."""
    data = bytes(range(256)) * 1000
    reply = b'VALUE key 7 %d\r\n%b' % (len(data), data)
    command = a_get()
    incoming = protocol.Incoming()
    incoming.feed(reply[:100_000])
    assert command.read(incoming) == len(reply) - 100_000
    assert incoming.unread == 0
    incoming.feed(reply[100_000:200_000])
    assert command.read(incoming) == len(reply) - 200_000
    incoming.feed(reply[200_000:])
    assert command.read(incoming) == 2
    incoming.feed(b'\r')
    assert command.read(incoming) == 1
    assert command.found == {}
    incoming.feed(b'\nEND\r\n')
    assert command.read(incoming) == 0
    assert command.found == {b'key': (7, data, None)}


@pytest.mark.parametrize('end', [b'\n\r', b'x\r\n', b'END\r\n'])
def test_a_large_value_of_another_length(end):
    """It is no answer; nor is it, sent anew, mixed up with the first one."""
    data = b'x' * 100_000
    head = b'VALUE key 0 %d\r\n' % len(data)
    command = a_get()
    with pytest.raises(protocol.ProtocolError, match='another length'):
        read_all([command], [head, data, end])
    command.go_on()
    assert read_all([command], [head + data + b'\r\nEND\r\n']) == b''
    assert command.found == {b'key': (0, data, None)}


# Many values, in one step


def taken(keys, reply):
    """Return a ``get`` of keys that took a whole reply, None if it did not."""
    command = protocol.Get(keys)
    lines = reply.split(b'\r\n')
    return command if command.take(lines, 0) == len(lines) - 1 else None


@pytest.mark.parametrize(
    'items',
    [
        [(0, b'one'), (0, b'two'), (0, b'six')],
        [(16, b'one'), (16, b'seven'), (16, b'')],
        [(16, b'one'), (0, b'two'), (16, b'seven')],
        [(0, b'generation'), (16, b'one'), (16, b'two'), (16, b'six')],
        [(0, b'first'), (0, b'other'), (16, b'one'), (16, b'two')],
        [(0, b'same'), (0, b'size'), (0, b'one'), (0, b'two')],
        [(0, b'first'), (16, b'one'), (16, b'seven'), (2, b'1')],
        [(0, b'few'), *[(16, b'value')] * 20, (0, b'few')],
        [*[(0, b'more than few')] * 20, (16, b'value')],
    ],
    ids=[
        'alike',
        'of any length',
        'of any kind',
        'one, and others',
        'two, and others',
        'two of other sizes, and others',
        'one, and others of any kind',
        'one before and behind others',
        'many, and another',
    ],
)
def test_a_value_for_each_key_is_taken_in_one_step(items):
    """They are what they are where they are read one by one."""
    held = {b'key%d' % place: item for place, item in enumerate(items)}
    reply = b''.join(
        b'VALUE %b %d %d\r\n%b\r\n' % (key, flags, len(data), data)
        for key, (flags, data) in held.items()
    )
    command = taken(list(held), reply + b'END\r\n')
    assert command.answered
    assert command.size == sum(len(data) for _, data in items)
    is_mixed = len({flags for flags, _ in items}) > 1
    assert (command.in_order is None, command.mixed is None) == (
        is_mixed,
        not is_mixed,
    )
    read = answer(protocol.Get(list(held)), reply + b'END\r\n')
    assert command.found == read.found


@pytest.mark.parametrize(
    'reply',
    [
        b'VALUE a 0 1 VALUE\r\nx\r\nb 0 1\r\nx\r\n',
        b'VALUE a 0 1 VALUE\r\nx\r\nb 0 2\r\nxy\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 0 1\r\nxy\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 0 2\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE a 0 1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE c 0 1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nITEM b 0 1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 0 +1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 0 \r\n\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 0\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b  1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b -1 1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 1x 1\r\nx\r\n',
        b'VALUE a 0 1\r\nx\r\nVALUE b 16 2\r\nx\r\n',
        b'VALUE a 0\r\nx\r\nVALUE b 0\r\nx\r\n',
        b'VALUE a\r\nx\r\nVALUE b\r\nx\r\n',
        b'\r\n\r\n\r\n\r\n',
    ],
)
def test_what_is_no_value_for_each_key_is_not_taken(reply):
    """Neither in one step nor, for it is an error then, one by one."""
    assert taken([b'a', b'b'], reply + b'END\r\n') is None
    with pytest.raises(protocol.ProtocolError):
        answer(protocol.Get([b'a', b'b']), reply + b'END\r\n')


@pytest.mark.parametrize('few', [1, 2, 7])
@pytest.mark.parametrize(
    'wrong',
    [
        b'VALUE key 0 2\r\nx\r\n',
        b'VALUE key 16 1\r\nxy\r\n',
        b'VALUE other 16 1\r\nx\r\n',
        b'VALUE key 16 +1\r\nx\r\n',
        b'ITEM key 16 1\r\nx\r\n',
    ],
)
@pytest.mark.parametrize('place', [0, 1, -1])
def test_a_few_and_others_are_compared_as_well(few, wrong, place):
    """One that is wrong is found, wherever it is."""
    keys = [b'few%d' % number for number in range(few)]
    keys += [b'key%d' % number for number in range(8)]
    values = [b'VALUE %b 0 3\r\none\r\n' % key for key in keys[:few]]
    values += [b'VALUE %b 16 1\r\nx\r\n' % key for key in keys[few:]]
    assert taken(keys, b''.join(values) + b'END\r\n').mixed
    values[place] = wrong.replace(b'key', keys[place])
    reply = b''.join(values) + b'END\r\n'
    assert taken(keys, reply) is None
    with pytest.raises(protocol.ProtocolError):
        answer(protocol.Get(keys), reply)


# Meta commands


def test_a_meta_value():
    """It comes with its flags, its cas unique, and whose turn it is."""
    command = answer(META['mg'](), b'VA 3 kkey f5 c17 W\r\nabc\r\n')
    assert command.item == (5, b'abc', 17)
    assert command.found == {b'key': (5, b'abc', 17)}
    assert command.won
    command = answer(META['mg'](), b'VA 3 kkey f5 c17 Z\r\nabc\r\n')
    assert not command.won


@pytest.mark.parametrize('line', [b'EN', b'EN kkey'])
def test_a_meta_miss(line):
    """It may come with the key or without."""
    command = answer(META['mg'](), line + b'\r\n')
    assert command.item is None
    assert command.found == {}
    assert not command.won


@pytest.mark.parametrize(
    'reply',
    [
        b'VA 1 kother f0 c1 W\r\nx\r\n',
        b'VA 1 kkeys f0 c1 W\r\nx\r\n',
        b'VA 1 f0 c1 W\r\nx\r\n',
        b'VA 1 kkey f0 c1 W\r\nxy\r\n',
        b'VA 2 kkey f0 c1 W\r\nx\r\n  ',
    ],
)
def test_a_meta_value_that_is_none(reply):
    """A value of another key, or of another length, is no answer."""
    command = META['mg']()
    with pytest.raises(protocol.ProtocolError):
        answer(command, reply)
    assert not command.answered
    assert command.item is None
    assert not command.won


def test_a_meta_get_that_starts_over():
    """Whoever is asked next says whose turn it is."""
    command = answer(META['mg'](), b'VA 0 kkey f0 c1 W\r\n\r\n')
    command.start_over()
    assert command.item is None
    assert not command.won


# Many at once


def many(verb, count):
    requests = [
        protocol.delete_request(b'%d' % number)
        if verb is protocol.DELETE
        else protocol.store_request(verb, b'%d' % number, 0, 0, b'v')
        for number in range(count)
    ]
    return protocol.Many(verb, requests)


def test_many_commands_of_a_kind():
    """Each has a reply, and it is told which did not succeed."""
    command = answer(many(protocol.SET, 3), b'STORED\r\n' * 3)
    assert (command.done, command.failed) == (3, [])
    command = answer(
        many(protocol.SET, 3),
        b'STORED\r\nSERVER_ERROR too large\r\nNOT_STORED\r\n',
    )
    assert (command.done, command.failed) == (3, [1, 2])
    assert isinstance(command.error, protocol.RefusedError)


@pytest.mark.parametrize('last', [b'', b'STOR', b'STORED\r'])
def test_many_commands_that_break_off(last):
    """Only those without a reply are sent again."""
    command = many(protocol.SET, 4)
    replies = [b'STORED\r\nNOT_STORED\r\n', last]
    assert read_all([command], replies) is None
    assert not command.answered
    command.go_on()
    assert command.request == b''.join(
        protocol.store_request(protocol.SET, key, 0, 0, b'v')
        for key in (b'2', b'3')
    )
    answer(command, b'STORED\r\nNOT_STORED\r\n')
    assert (command.done, command.failed) == (4, [1, 3])
    command.start_over()
    assert command.request == many(protocol.SET, 4).request
    assert (command.done, command.failed) == (0, [])
    assert not command.answered


@pytest.mark.parametrize('answered', range(4))
@pytest.mark.parametrize('verb', [protocol.SET, protocol.DELETE])
def test_many_commands_and_an_error_line_where_they_go_on(verb, answered):
    """A value may be taken for a command then, whatever was sent before."""
    command = many(verb, 4)
    first = next(iter(verb.replies)) + b'\r\n'
    assert read_all([command], [first * answered]) is None
    command.go_on()
    refused = b'CLIENT_ERROR bad data chunk\r\n'
    rest = refused + first * (3 - answered)
    if verb is protocol.DELETE:
        assert answer(command, rest).failed == [answered]
        return
    with pytest.raises(protocol.OutOfStepError):
        read_all([command], [rest])
    assert (command.done, command.failed) == (answered + 1, [answered])


@pytest.mark.parametrize('line', [b'DELETED', b'5', b'', b'END'])
def test_many_commands_and_what_is_no_answer(line):
    """Those before it are answered, it and the rest are not."""
    command = many(protocol.SET, 3)
    with pytest.raises(protocol.ProtocolError):
        read_all([command], [b'STORED\r\n' + line + b'\r\n' * 9])
    succeeded = set(range(command.done)) - set(command.failed)
    assert succeeded == {0}
    assert not command.answered


# Where the servers are


def test_a_configuration():
    """It is as long as it says, and may have any lines."""
    command = protocol.Configuration()
    assert command.request == b'config get cluster\r\n'
    text = b'12\nhost|10.0.0.1|11211\n'
    reply = b'CONFIG cluster 0 %d\r\n%b\r\nEND\r\n' % (len(text), text)
    assert answer(command, reply).result == text
    for at in range(len(reply)):
        assert read_all([protocol.Configuration()], [reply[:at]]) is None
    for wrong in (
        reply.replace(b'END', b'ENDE'),
        reply.replace(b' 0 ', b' '),
        reply.replace(b'0 2', b'0 -2'),
        reply.replace(b'0 2', b'0 99999999'),
        b'END\r\n',
    ):
        command = protocol.Configuration()
        with pytest.raises(protocol.ProtocolError):
            answer(command, wrong)
        assert command.result is None


# Statistics


def test_statistics():
    """They are text by name, of each of the forms that memcached has."""
    command = answer(
        protocol.Statistics(),
        b'STAT pid 1\r\n'
        b'STAT version 1.6.18 of a kind\r\n'
        b'STAT empty \r\n'
        b'STAT bare\r\n'
        b'ITEM key [5 b; 0 s]\r\n'
        b'PREFIX p get 1 hit 0\r\n'
        b'END\r\n',
    )
    assert command.result == {
        'pid': '1',
        'version': '1.6.18 of a kind',
        'empty': '',
        'bare': '',
        'key': '[5 b; 0 s]',
        'p': 'get 1 hit 0',
    }


@pytest.mark.parametrize('line', [b'END', b'RESET', b'OK'])
def test_statistics_of_what_has_none(line):
    """Their end without any is an empty answer."""
    assert answer(protocol.Statistics(), line + b'\r\n').result == {}


def test_statistics_that_break_off():
    """Those that came before something else are not taken."""
    command = protocol.Statistics()
    with pytest.raises(protocol.ProtocolError):
        answer(command, b'STAT pid 1\r\nSTORED\r\n')
    assert command.result is None


@pytest.mark.parametrize('line', ERRORS)
def test_statistics_that_are_refused(line):
    """What comes behind a refusal in the place of one may be the others."""
    command = answer(protocol.Statistics(b'cachedump'), line + b'\r\n')
    assert command.answered
    command = protocol.Statistics()
    with pytest.raises(protocol.OutOfStepError):
        answer(command, b'STAT pid 1\r\n' + line + b'\r\n')
    assert command.answered
    assert command.result is None
    assert isinstance(command.error, protocol.RefusedError)


class Key(bytes):
    """A key that counts what it is compared with."""

    compared = 0

    __hash__ = bytes.__hash__

    def __eq__(self, other):
        Key.compared += 1
        return bytes(self) == bytes(other)


@pytest.mark.parametrize('size', [protocol.MAX_ASKED // 10, 70_000])
@pytest.mark.parametrize('count', [8, 1000, 5000])
def test_how_long_many_values_take(size, count):
    """It is in proportion to them, also where one line is not enough."""
    keys = [Key(b'key:%d' % number) for number in range(count)]
    reply = b''
    for line in protocol.Get(dict.fromkeys(keys)).request.splitlines():
        for key in line.split()[1:]:
            reply += b'VALUE %b 0 4\r\nabcd\r\n' % key
        reply += b'END\r\n'
    command = protocol.Get(dict.fromkeys(keys))
    Key.compared = 0
    assert read_all([command], cut(reply, range(0, len(reply), size))) == b''
    assert Key.compared <= 5 * count
    assert command.found == dict.fromkeys(keys, (0, b'abcd', None))


class Sliced(bytes):
    """What has come, which counts how much of it is copied."""

    copied = 0

    def __getitem__(self, place):
        part = super().__getitem__(place)
        Sliced.copied += len(part)
        return part


@pytest.mark.parametrize('size', [10_000, 100_000])
def test_large_values_are_copied_once(size):
    """However many there are."""
    keys = [b'key%d' % number for number in range(20)]
    value = b'x' * size
    reply = b''.join(
        b'VALUE %b 0 %d\r\n%b\r\n' % (k, size, value) for k in keys
    )
    command = protocol.Get(dict.fromkeys(keys))
    Sliced.copied = 0
    assert read_all([command], [Sliced(reply + b'END\r\n')]) == b''
    assert command.found == dict.fromkeys(keys, (0, value, None))
    assert Sliced.copied < len(reply) * 1.1


# Any number of replies, in any pieces

KEYS = [b'a', b'b', b'key', b'k' * 250, '\u00e9'.encode()]
NUMBERS = strategies.integers(0, 2**64 - 1)
DATA = strategies.one_of(
    strategies.binary(max_size=40),
    strategies.sampled_from([b'\r\n', b'END\r\n', b'VALUE a 0 1\r\nx']),
    strategies.integers(0, 70_000).map(lambda length: b'x' * length),
)


@strategies.composite
def lines(draw):
    """Draw a command that is answered by one line, and its answer."""
    name = draw(strategies.sampled_from(sorted(REPLIES)))
    line = draw(strategies.sampled_from(sorted(REPLIES[name])))
    command = COMMANDS[name]()
    return command, line + b'\r\n', (REPLIES[name][line], None)


@strategies.composite
def refusals(draw):
    """Draw a command that is refused, and the error."""
    name, error = draw(
        strategies.sampled_from(
            [(n, e) for n in COMMANDS for e in ERRORS if in_step(n, e)]
        )
    )
    command = COMMANDS[name]()
    nothing, _ = told(command)
    return command, error + b'\r\n', (nothing, protocol.RefusedError)


@strategies.composite
def reads(draw):
    """Draw a command that reads keys, and what the server holds of them."""
    some = strategies.sampled_from(KEYS)
    keys = draw(strategies.lists(some, min_size=1, unique=True))
    name = draw(strategies.sampled_from(['get', 'gets', 'gat', 'gats']))
    reply = b''
    found = {}
    for key in draw(strategies.permutations(keys)):
        if not draw(strategies.booleans()):
            continue
        flags = draw(strategies.integers(0, 2**32 - 1))
        data = draw(DATA)
        unique = draw(NUMBERS) if name.endswith('s') else None
        reply += b'VALUE %b %d %d' % (key, flags, len(data))
        reply += b'' if unique is None else b' %d' % unique
        reply += b'\r\n%b\r\n' % data
        found[key] = (flags, data, unique)
    exptime = 60 if name.startswith('gat') else None
    command = protocol.Get(dict.fromkeys(keys), name, exptime)
    return command, reply + b'END\r\n', (found, None)


@strategies.composite
def statistics(draw):
    """Draw ``stats``, and its answer."""
    word = strategies.text('abz:_0189', min_size=1, max_size=12)
    pairs = draw(strategies.dictionaries(word, word | strategies.just('a b')))
    reply = b''.join(
        f'STAT {name} {text}\r\n'.encode() for name, text in pairs.items()
    )
    return protocol.Statistics(), reply + b'END\r\n', (pairs, None)


@strategies.composite
def meta_reads(draw):
    """Draw a meta get, and what it is answered."""
    key = draw(strategies.sampled_from(KEYS))
    command = protocol.MetaGet(key, vivify=30)
    if draw(strategies.booleans()):
        return command, b'EN\r\n', ({}, None)
    flags, data, unique = draw(NUMBERS), draw(DATA), draw(NUMBERS)
    reply = b'VA %d k%b f%d c%d W\r\n%b\r\n' % (
        len(data),
        key,
        flags,
        unique,
        data,
    )
    return command, reply, ({key: (flags, data, unique)}, None)


@strategies.composite
def several(draw):
    """Draw commands that are one, and how they fare."""
    verb = draw(strategies.sampled_from([protocol.SET, protocol.DELETE]))
    line = strategies.sampled_from([*verb.replies, b'SERVER_ERROR busy'])
    replies = draw(strategies.lists(line, min_size=1, max_size=9))
    failed = [
        place
        for place, reply in enumerate(replies)
        if not verb.replies.get(reply)
    ]
    refused = b'SERVER_ERROR busy' in replies
    return (
        many(verb, len(replies)),
        b''.join(reply + b'\r\n' for reply in replies),
        (
            (len(replies), failed),
            protocol.RefusedError if refused else None,
        ),
    )


LIMITS = strategies.fixed_dictionaries(
    {
        # From how many missing bytes on a value is kept in pieces.
        'PIECE': strategies.sampled_from([0, 3, protocol.PIECE]),
        # From how many missing values on they are looked for at once.
        'SEVERAL': strategies.sampled_from([1, 3, protocol.SEVERAL]),
    }
)

EXCHANGES = strategies.lists(
    strategies.one_of(
        lines(), refusals(), reads(), statistics(), meta_reads(), several()
    ),
    min_size=1,
)


def told(command):
    """What a command has learned."""
    error = None if command.error is None else type(command.error)
    if isinstance(command, protocol.Many):
        return (command.done, command.failed), error
    return getattr(command, 'found', command.result), error


@hypothesis.given(
    exchanges=EXCHANGES,
    places=strategies.lists(strategies.integers(1, 5000)),
    limits=LIMITS,
)
@OFTEN
def test_replies_in_any_pieces(exchanges, places, limits):
    """However replies are cut, each command gets its own and no more."""
    commands = [command for command, _, _ in exchanges]
    data = b''.join(reply for _, reply, _ in exchanges)
    with mock.patch.multiple(protocol, **limits):
        assert read_all(commands, cut(data, places)) == b''
    assert [told(c) for c in commands] == [right for *_, right in exchanges]
    assert all(command.answered for command in commands)


@hypothesis.given(exchanges=EXCHANGES)
@hypothesis.settings(OFTEN, max_examples=100)
def test_replies_byte_by_byte(exchanges):
    """The least pieces that there are make no difference."""
    hypothesis.assume(sum(len(reply) for _, reply, _ in exchanges) < 5000)
    commands = [command for command, _, _ in exchanges]
    data = b''.join(reply for _, reply, _ in exchanges)
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert read_all(commands, pieces) == b''
    assert [told(c) for c in commands] == [right for *_, right in exchanges]


@hypothesis.given(
    exchange=reads() | meta_reads(),
    places=strategies.lists(NUMBERS),
    limits=LIMITS,
)
@OFTEN
def test_never_more_is_waited_for_than_comes(exchange, places, limits):
    """A connection that waits for what is said to be missing gets it."""
    command, data, _ = exchange
    incoming = protocol.Incoming()
    at = 0
    with mock.patch.multiple(protocol, **limits):
        for piece in cut(data, [place % len(data) for place in places]):
            missing = command.read(incoming)
            assert 0 < missing <= len(data) - at
            incoming.feed(piece)
            at += len(piece)
        assert command.read(incoming) == 0


@hypothesis.given(
    exchanges=EXCHANGES,
    at=NUMBERS,
    places=strategies.lists(strategies.integers(1, 5000)),
    limits=LIMITS,
)
@OFTEN
def test_replies_that_break_off(exchanges, at, places, limits):
    """Those that came whole are answers; the one that was cut is none."""
    commands = [command for command, _, _ in exchanges]
    data = b''.join(reply for _, reply, _ in exchanges)
    data = data[: at % len(data)]
    with mock.patch.multiple(protocol, **limits):
        assert read_all(commands, cut(data, places)) is None
    for command, reply, right in exchanges:
        whole = len(reply) <= len(data)
        data = data[len(reply) :] if whole else b''
        assert command.answered == whole
        if whole:
            assert told(command) == right
        elif isinstance(command, protocol.Many):
            assert command.done < command.count
        else:
            assert not told(command)[0]


# Anything at all

FRAGMENTS = strategies.sampled_from(
    [
        b'VALUE ',
        b'VALUE a 0 1\r\n',
        b'VALUE a 0 1 5\r\n',
        b'VALUE b 0 2\r\n',
        b'VALUE key 16 5\r\nvalue\r\n',
        b'VALUE other 0 1\r\nx\r\n',
        b'END\r\n',
        b'STORED\r\n',
        b'NOT_FOUND\r\n',
        b'DELETED\r\n',
        b'OK\r\n',
        b'STAT a b\r\n',
        b'VERSION 1\r\n',
        b'EN\r\n',
        b'HD\r\n',
        b'VA 1 ka f0 c1 W\r\n',
        b'ERROR\r\n',
        b'CLIENT_ERROR x\r\n',
        b'SERVER_ERROR x\r\n',
        b'\r\n',
        b'\r',
        b'\n',
        b' ',
        b'0',
        b'12\r\n',
        b'-1',
        b'999999999999',
        b'a',
        b'key',
        b'9' * 5000,
    ]
)
NOISE = strategies.lists(
    FRAGMENTS | strategies.binary(max_size=20), max_size=40
).map(b''.join)


@strategies.composite
def spoilt(draw):
    """Draw replies of which some bytes are lost, changed or too many."""
    exchanges = draw(EXCHANGES)
    commands = [command for command, _, _ in exchanges]
    data = b''.join(reply for _, reply, _ in exchanges)
    for _ in range(draw(strategies.integers(1, 4))):
        start = draw(strategies.integers(0, len(data)))
        end = start + draw(strategies.integers(0, 8))
        data = data[:start] + draw(NOISE | DATA) + data[end:]
    return commands, data


@strategies.composite
def noise(draw):
    """Draw commands, and replies that have nothing to do with them."""
    commands = [command for command, _, _ in draw(EXCHANGES)]
    return commands, draw(NOISE)


def was_sent(data, key, item):
    """Whether bytes have a value for a key."""
    flags, value, unique = item
    if b'VA %d ' % len(value) in data and re.search(
        rb'VA 0*%d (\S+ )*k%b((?!\r\n)[\x00-\xff])*\r\n%b\r\n'
        % (len(value), re.escape(key), re.escape(value)),
        data,
    ):
        return True
    pattern = rb'VALUE %b 0*%d 0*%d' % (re.escape(key), flags, len(value))
    pattern += b'' if unique is None else rb' 0*%d' % unique
    return re.search(pattern + b'\r\n' + re.escape(value) + b'\r\n', data)


@hypothesis.given(
    spoilt() | noise(), strategies.lists(strategies.integers(1, 5000)), LIMITS
)
@hypothesis.settings(OFTEN, max_examples=1000)
def test_anything_at_all(given, places, limits):
    """Nothing but a protocol error comes of it, and no value for a key that
    was not sent for this key."""
    commands, data = given
    with (
        mock.patch.multiple(protocol, **limits),
        contextlib.suppress(protocol.ProtocolError),
    ):
        read_all(commands, cut(data, places))
    after_end = False
    for command in commands:
        # Answers are read in order; behind one that is none there are none.
        assert not (after_end and command.answered)
        after_end = after_end or not command.answered
        found = getattr(command, 'found', {})
        if not command.answered or command.error is not None:
            assert not found
            assert not command.result
        for key, sent in found.items():
            assert key in getattr(
                command, 'keys', [command.request.split()[1]]
            )
            assert was_sent(data, key, sent)


# In one step


@hypothesis.given(exchanges=EXCHANGES, at=NUMBERS)
@hypothesis.example(
    exchanges=[
        (META['mg'](), b'VA 0 kkey f0 c2 W\r\n\r\n', None),
        (META['mg'](), b'EN\r\n', None),
    ],
    at=19,
)
@OFTEN
def test_what_is_taken_is_there(exchanges, at):
    """Of replies that break off at a line's end, none beyond that.

    What is taken is what would have been read.

    """
    data = b''.join(reply for _, reply, _ in exchanges)
    ends = [found.end() for found in re.finditer(b'\r\n', data)]
    end = next((end for end in ends if end >= at % len(data)), ends[-1])
    lines = data[:end].split(b'\r\n')
    place = 0
    for command, reply, right in exchanges:
        place = command.take(lines, place)
        if place < 0:
            break
        assert place < len(lines)
        whole, data = data[: len(reply)], data[len(reply) :]
        assert whole == reply
        if right is not None:
            assert told(command) == right
