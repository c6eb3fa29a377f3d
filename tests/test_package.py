"""What the package has, and what it takes to import it."""

import subprocess
import sys

import pytest

from sprockets.clients import memcached

OF_TORNADO = {'ApplicationMixin', 'MemcachedMixin', 'StatusHandler'}


def run(*lines):
    """Return what a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, '-c', '\n'.join(lines)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_who_does_without_tornado_does_not_import_it():
    assert run(
        'import sys',
        'from sprockets.clients import memcached',
        'memcached.Client(), memcached.AsyncClient(), memcached.cached',
        "print('tornado' in sys.modules)",
        'from sprockets.clients.memcached import MemcachedMixin',
        "print('tornado' in sys.modules)",
    ) == ['False', 'True']


@pytest.mark.parametrize('name', memcached.__all__)
def test_all_names_can_be_imported(name):
    assert run(
        f'from sprockets.clients.memcached import {name}',
        'from sprockets.clients import memcached',
        f'print({name} is memcached.{name})',
    ) == ['True']


def test_all_names_are_listed():
    names = run(
        'from sprockets.clients import memcached',
        'print(*dir(memcached))',
    )
    assert {*memcached.__all__} <= {*names}
    assert {*memcached.__all__} >= OF_TORNADO


def test_all_of_them_at_once():
    names = run(
        'from sprockets.clients.memcached import *',
        'print(*globals())',
    )
    assert {*memcached.__all__} <= {*names}


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match=r"memcached' .*'Clinet'"):
        _ = memcached.Clinet
    with pytest.raises(ImportError, match='Clinet'):
        from sprockets.clients.memcached import Clinet  # noqa: F401
