"""The pytest fixtures: a real memcached, running and empty for each test.

pytest finds them where the package is installed; nothing has to be imported.

.. code-block:: python

    @pytest.fixture
    def memcached_prefixes():
        return ['pages', 'sessions']

    def test_pages_are_cached(memcached_server):
        assert memcached.Client('pages').set('key', 'value')

"""

from __future__ import annotations

import typing

import pytest

from sprockets.clients.memcached import current, settings, testing

if typing.TYPE_CHECKING:
    from collections import abc


@pytest.fixture(scope='session')
def _memcached_process() -> abc.Iterator[testing.MemcachedServer]:
    with testing.MemcachedServer() as server:
        yield server


@pytest.fixture
def memcached_prefixes() -> abc.Sequence[str | None]:
    """The prefixes whose variables name the server; no prefix by default.

    A fixture of the same name in a ``conftest.py``, a module or a class, or
    ``pytest.mark.parametrize``, says which others; None is no prefix.
    """
    return [None]


@pytest.fixture
def memcached_server(
    _memcached_process: testing.MemcachedServer,
    memcached_prefixes: abc.Sequence[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> abc.Iterator[testing.MemcachedServer]:
    """A real memcached, running and empty, which the environment names.

    The process serves all tests of the session, and each worker of
    pytest-xdist has its own; whatever a test did to it, the next finds it as
    it was at first.
    """
    _memcached_process.reset()
    names = settings.prefix_names(memcached_prefixes)
    variables = _memcached_process.environ(*names)
    # A patch of its own could be undone before what a test changes by
    # ``monkeypatch``, which would then put the server's address back.
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    current.forget()
    yield _memcached_process
    current.forget()
