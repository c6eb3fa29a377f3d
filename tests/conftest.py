"""What many tests need: a client of each kind, and peers to compare with.

``pytest --client=memcache tests/test_behaviour_*.py`` runs the tests of what
python-memcached does wrong against python-memcached itself, where each of
them has to fail.

``pytest --loop=uvloop`` runs tests in event loops of uvloop; ``debug`` in
asyncio's debug mode; ``eager`` with tasks that begin at once.

"""

import contextlib
import gc
import os
import signal

import faces
import faults
import loops
import memcache
import near
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached import notices, oversights
from sprockets.clients.memcached.loop import batches
from sprockets.clients.memcached.servers import events
from sprockets.clients.memcached.watch import tracing
from sprockets.clients.memcached.web import status, tally
from sprockets.clients.memcached.wire import resolver

MEMORY = ', memory'
"""What is behind a kind of client whose server is in this process."""

ENDS = {'kill', 'pause', 'restart', 'stop'}
"""What a test does to a server that is a process of its own."""

LONG = {'installation', 'long', 'time_intensive'}
"""The marks of tests that take longest."""

NEAR = {
    'test_appended',
    'test_behaviour_data',
    'test_behaviour_loss',
    'test_commands',
    'test_counts',
    'test_kinds',
    'test_leases',
    'test_limits',
    'test_locks',
    'test_methods',
    'test_missing',
    'test_namespaces',
    'test_parts',
    'test_set_and_stale',
    'test_times_of_values',
    'test_values',
}
"""Modules whose tests hold for what is in this process as well."""

KINDS = {
    'ours': ('Client', 'AsyncClient'),
    'memcache': ('memcache.Client',),
}


def pytest_addoption(parser):
    parser.addoption(
        '--client',
        choices=tuple(KINDS),
        default='ours',
        help=(
            'whose clients to test; with "memcache" all the tests of what '
            'python-memcached does wrong have to fail'
        ),
    )
    parser.addoption(
        '--loop',
        choices=loops.KINDS,
        default='asyncio',
        help='the event loops that tests run in',
    )


def pytest_configure(config):
    config.addinivalue_line(
        'markers',
        'kept: what python-memcached does right as well, or knows nothing of',
    )
    config.addinivalue_line(
        'markers', 'apart: what takes a server that is a process of its own'
    )
    config.addinivalue_line('markers', 'long: what takes many seconds')
    config.addinivalue_line(
        'markers', "time_intensive: dogpile.cache's, for what takes seconds"
    )
    if config.getoption('--loop') == 'uvloop':
        # A signal does not end what its loop waits for.
        config.option.timeout_method = 'thread'
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell does so for what it runs in the background, and programs
        # that tests start and interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption('--client') == 'memcache':
        # Its threads leave their sockets to the garbage collector.
        for category in (
            'ResourceWarning',
            'pytest.PytestUnraisableExceptionWarning',
            'pytest.PytestUnhandledThreadExceptionWarning',
        ):
            config.addinivalue_line('filterwarnings', f'ignore::{category}')


def pytest_generate_tests(metafunc):
    if 'client_kind' in metafunc.fixturenames:
        tested = metafunc.config.getoption('--client')
        kinds = KINDS[tested]
        if (
            tested == 'ours'
            and metafunc.module.__name__ in NEAR
            and 'memcached_server' in metafunc.fixturenames
            and metafunc.definition.get_closest_marker('apart') is None
            and ENDS.isdisjoint(metafunc.function.__code__.co_names)
        ):
            kinds += tuple(kind + MEMORY for kind in kinds)
        metafunc.parametrize('client_kind', kinds)


def pytest_collection_modifyitems(config, items):
    # None of several processes shall still be busy with one at the end.
    items.sort(
        key=lambda item: LONG.isdisjoint(
            mark.name for mark in item.iter_markers()
        )
    )
    if config.getoption('--loop') != 'asyncio':
        _deselect(config, items, lambda item: not _is_blocking(item))
    if config.getoption('--client') == 'ours':
        return
    _deselect(
        config,
        items,
        lambda item: (
            item.path.name.startswith('test_behaviour_')
            and 'client_kind' in item.fixturenames
            and item.get_closest_marker('kept') is None
        ),
    )
    for item in items:
        # One that passes is a failure.
        item.add_marker(
            pytest.mark.xfail(strict=True, reason='python-memcached')
        )


def pytest_collection_finish():
    """Leave the thousands of tests out of all that is collected later.

    A test that looks for what it has left behind would look at each of them.
    """
    gc.collect()
    gc.freeze()


def _deselect(config, items, wanted):
    """Leave only the tests that are wanted."""
    left = [item for item in items if wanted(item)]
    others = [item for item in items if not wanted(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = left


def _is_blocking(item):
    """Return whether a test is of a blocking client, which has no loop."""
    callspec = getattr(item, 'callspec', None)
    return callspec is not None and any(
        value in ('Client', 'Client in a thread')
        for value in callspec.params.values()
        if isinstance(value, str)
    )


@pytest.fixture(scope='session', autouse=True)
def event_loops(request):
    """All tests run in event loops of the kind that was asked for."""
    with loops.used(request.config.getoption('--loop')):
        yield


@pytest.fixture
def descriptors(request):
    """Leave this process so few descriptors, beside those of its loop."""
    own = loops.DESCRIPTORS.get(request.config.getoption('--loop'), 0)
    return lambda left: faults.descriptors(left + own)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test leaves its variables or its garbage collector to the next."""
    before = dict(os.environ)
    collector = gc.isenabled(), gc.get_threshold()
    yield
    left = dict(os.environ)
    for variables in before, left:
        variables.pop('PYTEST_CURRENT_TEST', None)
    assert left == before
    assert (gc.isenabled(), gc.get_threshold()) == collector


@pytest.fixture(autouse=True)
def nothing_is_frozen(nothing_is_left, monkeypatch):
    """No test freezes objects of this process, or thaws the collected tests.

    What is frozen refers to nothing as far as ``gc.get_referrers`` knows,
    which Hypothesis asks.  To count what is frozen after each test would take
    longer than most tests.

    """

    def refuse():
        raise AssertionError('that is for a process of its own')

    monkeypatch.setattr(gc, 'freeze', refuse)
    monkeypatch.setattr(gc, 'unfreeze', refuse)


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    """What was logged in another test is logged in this one as well."""
    for module in (batches, events, resolver, status, tally, tracing):
        quiet = module.NOTICES._quiet
        fresh = notices.Notices(module.LOGGER, quiet)
        monkeypatch.setattr(module, 'NOTICES', fresh)
    monkeypatch.setattr(oversights, '_said', set())


@pytest.fixture
def memcached_server(request, monkeypatch):
    """A server, or what is in this process where that is tested."""
    kind = ''
    if 'client_kind' in request.fixturenames:
        kind = request.getfixturevalue('client_kind')
    if not kind.endswith(MEMORY):
        yield request.getfixturevalue('memcached_server')
        return
    with near.Server() as server:
        prefixes = request.getfixturevalue('memcached_prefixes')
        for name, value in server.environ(*prefixes).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def connect(client_kind):
    """Make a client of the kind that is tested, with its face.

    It takes the servers' addresses, or ``(address, weight)``; without any the
    client is told by the environment.  Options are keywords.

    """
    with contextlib.ExitStack() as stack:

        def make(*servers, **options):
            face = _make(client_kind, list(servers), options)
            stack.callback(face.close)
            return face

        yield make


def _make(kind, servers, options):
    if kind == 'memcache.Client':
        if not servers:
            return faces.Blocking(faces.Published(**options))
        # Where it hangs it should not do so for long.
        options['socket_timeout'] = min(
            options.get('socket_timeout', 0.1), 0.6
        )
        return faces.Blocking(memcache.Client(servers, **options))
    if kind.endswith(MEMORY):
        kind = kind.removesuffix(MEMORY)
        servers = [near.instead(server) for server in servers]
    if servers:
        options['servers'] = servers
    if kind == 'Client':
        face = faces.Blocking(memcached.Client(**options))
    else:
        face = faces.Awaitable(memcached.AsyncClient(**options))
    # The port may have been another server's, which was found dead.
    face.forget_dead_hosts()
    return face
