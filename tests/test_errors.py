"""Errors name the argument, what was given, and what is expected."""

import datetime

import pytest
from tornado import web

from sprockets.clients import memcached

NOBODY = '127.0.0.1:1'

LONG = 'x' * 100_000


class Odd:
    """Something whose own code fails."""

    def __repr__(self):
        raise ZeroDivisionError


CALLS = {
    'a number for a key': (lambda c: c.get(3), 'key=3', 'text or bytes'),
    'None for a key': (lambda c: c.get(None), 'key=None', 'text or bytes'),
    'a blank': (lambda c: c.get('a b'), "key='a b'", 'expected'),
    'an empty key': (lambda c: c.get(''), "key=''", 'expected'),
    'bytes': (lambda c: c.get(b'a\n'), r"key='a\n'", 'expected'),
    'bytes that are no text': (lambda c: c.get(b'\xff '), r"\xff '", 'exp'),
    'half a character': (lambda c: c.get('\ud800'), r"'\ud800'", 'UTF-8'),
    'a tuple': (lambda c: c.get(('a', 'b')), "('a', 'b')", 'whole number'),
    'a long key': (lambda c: c.get('x' * 251), '251 bytes', 'expected 250'),
    'an odd key': (lambda c: c.get(Odd()), 'a Odd', 'text or bytes'),
    'a key_prefix': (lambda c: c.get_multi(['a'], 3), 'key_prefix=3', 'text'),
    'a bad key_prefix': (
        lambda c: c.get_multi(['a'], 'b c'),
        "key_prefix='b c'",
        'expected',
    ),
    'keys': (lambda c: c.get_multi(3), 'keys is 3', 'a list'),
    'keys to delete': (lambda c: c.delete_multi(None), 'keys is None', 'list'),
    'a mapping': (lambda c: c.set_multi(['a']), "mapping is ['a']", 'a dict'),
    'a text': (lambda c: c.set_multi('ab'), "mapping is 'ab'", 'a dict'),
    'a number': (lambda c: c.set_multi(3), 'mapping is 3', 'a dict'),
    'a time': (lambda c: c.set('a', 1, 'soon'), "time is 'soon'", 'seconds'),
    'a time for many': (lambda c: c.set_multi({}, []), 'time is []', 'sec'),
    'a length': (
        lambda c: c.set('a', 1, 0, 'x'),
        "min_compress_len is 'x'",
        'whole number',
    ),
    'a length for many': (
        lambda c: c.set_multi({'a': 1}, min_compress_len=-1),
        'min_compress_len is -1',
        '0 or more',
    ),
    'a delta': (lambda c: c.incr('a', 'x'), "delta is 'x'", 'whole number'),
    'a delay': (lambda c: c.delete('a', 3), 'time is 3', 'None or 0'),
    'a statistic': (lambda c: c.get_stats('a\n'), r"'a\n'", "'items'"),
    'a factory': (lambda c: c.get_or_set('a', 3), 'factory is 3', 'function'),
    'stale': (
        lambda c: c.get_or_set('a', int, stale=[]),
        'stale is []',
        'sec',
    ),
    'wait': (lambda c: c.get_or_set('a', int, wait={}), 'wait is {}', 'sec'),
    'lease': (lambda c: c.get_or_set('a', int, lease=0), 'lease is 0', '1 to'),
    'stale that is less than 0': (
        lambda c: c.get_or_set('a', int, stale=-1),
        'stale is -1',
        '0 to 2592000',
    ),
    'wait that is less than 0': (
        lambda c: c.get_or_set('a', int, wait=-1),
        'wait is -1',
        '0 or more seconds',
    ),
    'jitter that is less than 0': (
        lambda c: c.get_or_set('a', int, 60, jitter=-0.5),
        'jitter is -0.5',
        '0 or more seconds',
    ),
    'lease that is less than 0': (
        lambda c: c.get_or_set('a', int, lease=-1),
        'lease is -1',
        '1 to 2592000',
    ),
    'a time of a lock': (lambda c: c.lock('a', -1), 'time is -1', '1 to'),
    'a cas': (lambda c: c.cas('a', 1), "'a' was not", 'expected a gets'),
    'servers': (lambda c: c.set_servers([3]), '3 is', '(string, weight)'),
}

STEPS = {
    'a function': (lambda c: c.update('a', 3), 'function is 3', 'function'),
    'attempts': (
        lambda c: c.update('a', int, attempts=0),
        'attempts is 0',
        '1 or more',
    ),
    'attempts as text': (
        lambda c: c.update('a', int, attempts='x'),
        "attempts is 'x'",
        'whole number',
    ),
    'stale': (
        lambda c: c.mark_stale('a', datetime.timedelta(-1)),
        'stale is ',
        '1 to 2592000 seconds, or a timedelta',
    ),
}


def raised(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    text = str(caught.value)
    assert len(text) < 500
    assert 'binary string' not in text
    return text


@pytest.mark.parametrize('case', {**CALLS, **STEPS})
def test_arguments(connect, case):
    """Whatever is wrong is said before anything is sent."""
    call, given, expected = {**CALLS, **STEPS}[case]
    text = raised(lambda: call(connect(NOBODY)))
    assert given in text
    assert expected in text


@pytest.mark.parametrize(
    'call',
    [
        lambda c: c.get(LONG),
        lambda c: c.get([LONG] * 10),
        lambda c: c.set('a', 1, LONG),
        lambda c: c.incr('a', LONG),
        lambda c: c.get_or_set('a', LONG),
        lambda c: c.get_or_set('a', int, stale=LONG),
        lambda c: c.get_stats(LONG + '\n'),
        lambda c: c.set_multi(LONG),
        lambda c: c.get('a', kind=LONG),
        lambda c: c.get_or_set('a', int, tags=LONG),
        lambda c: c.get_or_set('a', int, tags=(LONG + '\n',)),
        lambda c: c.invalidate_tags(LONG + '\n'),
        lambda c: c.lock(LONG + '\n', 30),
        lambda c: c.namespace(LONG + '\n'),
    ],
)
def test_what_is_long_is_cut(connect, call):
    raised(lambda: call(connect(NOBODY)))


@pytest.mark.parametrize(
    'options, given, expected',
    [
        ({'servers': 3}, 'servers: 3', 'host[:port]'),
        ({'servers': [3]}, 'servers: 3', '(string, weight)'),
        ({'servers': [('a', 'b', 'c')]}, "('a', 'b', 'c')", 'weight'),
        ({'servers': [(1, 2)]}, 'servers: (1, 2)', '(string, weight)'),
        ({'servers': b'a'}, "servers: b'a'", 'in a list'),
        ({'key_prefix': '\ud800'}, r"'\ud800'", 'expected text'),
        ({'socket_timout': 3}, "'socket_timout'", 'socket_timeout?'),
        ({'colour': 3}, "'colour'", 'socket_timeout'),
        ({'tls_ca_file': 3}, 'tls_ca_file: 3', 'a file'),
        ({'serializer': 3}, 'serializer: 3', 'dumps and loads'),
        ({'username': 'a'}, 'username: no password', 'both'),
        ({'password': 3}, 'password: ', 'expected text'),
        ({'prefix': 3}, 'prefix is 3', "Client('pages')"),
    ],
)
@pytest.mark.parametrize('kind', [memcached.Client, memcached.AsyncClient])
def test_options(kind, options, given, expected):
    text = raised(lambda: kind(**options))
    assert given in text
    assert expected in text


def test_what_is_cached():
    assert '3 is not a function; cached needs' in raised(
        lambda: memcached.cached(60)(3)
    )


def test_options_for_a_client_that_there_is():
    class Application(memcached.ApplicationMixin, web.Application):
        pass

    application = Application()
    application.memcached_client('pages', servers='a')
    text = raised(
        lambda: application.memcached_client('pages', failover=False)
    )
    assert "'pages'" in text
    assert 'failover' in text
