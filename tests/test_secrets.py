"""A password is in no frame of any error, whatever else is wrong."""

import asyncio
import copy
import gc
import pickle
import sys
import threading
import traceback
import uuid

import pytest
from tornado import web

from sprockets.clients import memcached
from sprockets.clients.memcached import current, settings
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.web import handlers

PASSWORD = 'correct-horse'


def parts(value, depth=3):
    """Yield a value and what it consists of."""
    yield value
    if depth == 0:
        return
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif type(value).__module__.startswith('sprockets'):
        inner = [vars(value)] if hasattr(value, '__dict__') else []
    else:
        inner = []
    for each in inner:
        yield from parts(each, depth - 1)


def frames(error, seen=None):
    """Yield the frames of an error, and of those behind it."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame
    yield from frames(error.__cause__, seen)
    yield from frames(error.__context__, seen)


def errors(error):
    """Yield an error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def look_through(error):
    """Look for the password, as an error tracker would show it."""
    looked = 0
    for each in errors(error):
        assert PASSWORD not in str(each)
        assert PASSWORD not in repr(vars(each))
        assert PASSWORD not in repr(each.args)
        # That of a UnicodeError is what it is about.
        assert PASSWORD not in str(getattr(each, 'object', ''))
    for frame in frames(error):
        if frame.f_code.co_filename == __file__:
            # Whoever calls has it.
            continue
        looked += 1
        for name, value in frame.f_locals.items():
            for part in parts(value):
                where = f'{name} of {frame.f_code.co_qualname}'
                assert PASSWORD not in repr(part), where
    assert looked


BY_KEYWORD = {
    'a keyword': {'username': 'alice', 'password': PASSWORD},
    'bytes': {'username': 'alice', 'password': PASSWORD.encode()},
    'a list': {'username': 'alice', 'password': [PASSWORD]},
    'with a line end': {'username': 'alice', 'password': f'{PASSWORD}\n'},
    'with half a pair': {'username': 'a', 'password': f'{PASSWORD}\ud800'},
    'without a name': {'password': PASSWORD},
    'behind the name': {'username': f'alice {PASSWORD}', 'password': 'x'},
    'misspelt': {'pasword': PASSWORD},
    'in upper case': {'PASSWORD': PASSWORD},
    'in the servers': {'servers': f'alice:{PASSWORD}@a:1'},
    'in a URL': {'servers': f'memcached://alice:{PASSWORD}@a:1'},
    'beside a socket': {'servers': f'unix:/a,alice:{PASSWORD}@a:1'},
    'before a socket': {'servers': f'alice:{PASSWORD}@a:1,unix:/a'},
    'with a comma': {'servers': f'alice:{PASSWORD},{PASSWORD}@a:1'},
    'in a list': {'servers': ['a:1', f'alice:{PASSWORD}@a:1']},
    'in a tuple': {'servers': (f'alice:{PASSWORD}@a:1',)},
    'with a weight': {'servers': [(f'alice:{PASSWORD}@a:1', 2)]},
    'in bytes': {'servers': [f'alice:{PASSWORD}@a:1'.encode()]},
    'to discover': {'servers': f'discover:alice:{PASSWORD}@a:1'},
    'to discover, listed': {'servers': [f'discover:a:{PASSWORD}@a:1', 'b']},
}

BY_VARIABLE = {
    'a variable': {'USERNAME': 'alice', 'PASSWORD': PASSWORD},
    'with a line end': {'USERNAME': 'alice', 'PASSWORD': f'{PASSWORD}\n'},
    'without a name': {'PASSWORD': PASSWORD},
    'in the servers': {'SERVERS': f'alice:{PASSWORD}@a:1'},
    'beside a socket': {'SERVERS': f'unix:/a,alice:{PASSWORD}@a:1'},
    'with a comma': {'SERVERS': f'alice:{PASSWORD},{PASSWORD}@a:1'},
    'to discover': {'SERVERS': f'discover:alice:{PASSWORD}@a:1'},
}

MISTAKES = {
    'an unknown option': {'colour': 'red'},
    'a timeout': {'socket_timeout': -1},
    'a number': {'max_connections': 'many'},
    'a choice': {'distribution': 'random'},
    'a serializer': {'serializer': 7},
    'a file': {'tls': True, 'tls_ca_file': '/nowhere'},
    'what belongs together': {'tls_server_name': 'a'},
    'idle': {'max_idle': 1, 'socket_timeout': 3},
    'the servers': {'servers': 'a:b'},
    'no servers': {'servers': 7},
    'a key prefix': {'key_prefix': 'a b'},
    'an executor': {'executor': 'none'},
}

MAKERS = {
    'Client': memcached.Client,
    'AsyncClient': memcached.AsyncClient,
    'Settings': lambda prefix=None, **o: settings.Settings(prefix, o),
    'client_of': lambda prefix=None, **o: handlers.client_of(
        web.Application(), prefix, **o
    ),
}


def all_mistakes():
    for way, given in BY_KEYWORD.items():
        for mistake, options in MISTAKES.items():
            # What is right does not raise; together with a mistake it does.
            yield pytest.param(options | given, id=f'{way}, {mistake}')


@pytest.mark.parametrize('maker', MAKERS)
@pytest.mark.parametrize('options', list(all_mistakes()))
def test_every_keyword_with_every_other_mistake(maker, options):
    """The error has its message, and the password is nowhere."""
    with pytest.raises((TypeError, ValueError)) as caught:
        MAKERS[maker](**options)
    look_through(caught.value)


@pytest.mark.parametrize(
    'maker, way',
    [
        (maker, way)
        for maker in (*MAKERS, 'current', '_get_servers')
        for way in BY_VARIABLE
        # It looks at no more than the servers.
        if maker != '_get_servers' or 'SERVERS' in BY_VARIABLE[way]
    ],
)
@pytest.mark.parametrize('prefix', ['pages', None])
@pytest.mark.parametrize('mistake', MISTAKES)
def test_every_variable_with_every_other_mistake(
    monkeypatch, maker, prefix, way, mistake
):
    """Likewise, and by whichever face."""
    options = MISTAKES[mistake]
    for name, text in BY_VARIABLE[way].items():
        monkeypatch.setenv(settings.variable(name, prefix), text)
    if 'SERVERS' in BY_VARIABLE[way]:
        options = {k: v for k, v in options.items() if k != 'servers'}
    with pytest.raises((TypeError, ValueError)) as caught:  # noqa: PT012
        if maker == 'current':
            monkeypatch.setenv('MEMCACHED_DEAD_RETRY', 'never')
            current.forget()
            current.blocking(prefix)
        elif maker == '_get_servers':
            memcached._get_servers(prefix)
        else:
            MAKERS[maker](prefix, **options)
            # They were the mistake, and are in the variable now.
            raise ValueError
    if caught.value.__traceback__.tb_next is not None:
        look_through(caught.value)


def test_in_a_loop(monkeypatch):
    """The process's own client, as functions with ``cached`` have it."""
    monkeypatch.setenv('MEMCACHED_PASSWORD', f'{PASSWORD}\n')

    async def ask():
        current.awaitable(None)

    with pytest.raises(ValueError, match='control') as caught:
        asyncio.run(ask())
    look_through(caught.value)


def test_other_servers():
    """set_servers shows none of them, either."""
    client = memcached.Client()

    async def change():
        await memcached.AsyncClient().set_servers([f'a:{PASSWORD}@b'])

    with pytest.raises(ValueError, match='credentials') as caught:
        client.set_servers(['a', (f'alice:{PASSWORD}@b', 1)])
    look_through(caught.value)
    with pytest.raises(ValueError, match='credentials') as caught:
        asyncio.run(change())
    look_through(caught.value)


def test_a_socket_may_have_an_at_sign():
    """In its path it is no password."""
    for servers in ('unix:/run/a@b.sock:2,c', ['unix:/run/a@b.sock:2', 'c']):
        client = memcached.Client(servers=servers)
        assert [str(s.endpoint) for s in client.servers] == [
            'unix:/run/a@b.sock',
            'c:11211',
        ]
        client.set_servers(['unix:/run/c@d.sock'])


def test_settings_are_not_pickled_with_it():
    """Without a password they are; copies have it still."""
    pickle.dumps(settings.Settings(None, {}))
    chosen = settings.Settings(
        None, {'username': 'alice', 'password': PASSWORD}
    )
    with pytest.raises(TypeError, match='a password is not pickled'):
        pickle.dumps(chosen)
    for made in (copy.copy(chosen), copy.deepcopy(chosen)):
        assert made.password.value == PASSWORD


def test_it_still_works_in_every_thread(tmp_path):
    """A thread of its own, which begins with what the first one was given."""
    path = tmp_path / 'users'
    path.write_text(f'alice:{PASSWORD}\n')
    found = []
    with MemcachedServer('-Y', str(path)) as server:
        client = memcached.Client(
            servers=server.address, username='alice', password=PASSWORD
        )
        assert client.set('key', 'value')
        thread = threading.Thread(
            target=lambda: found.append(client.get('key'))
        )
        thread.start()
        thread.join()
        client.disconnect_all()
    assert found == ['value']


def test_a_client_keeps_it_wrapped():
    """What a thread-local has for other threads is wrapped, too."""
    password = str(uuid.uuid4())
    client = memcached.Client(username='alice', password=password)
    gc.collect()
    holders = [
        holder
        for holder in gc.get_referrers(password)
        if isinstance(holder, dict) and holder.get('password') is password
    ]
    assert holders == []
    # Its name here, the argument of the call, and its wrappings.
    assert sys.getrefcount(password) < 8
    del client
