"""Event loops of each kind that an application may run in."""

import asyncio
import contextlib
import functools

import pytest

PATIENCE = 60
"""Seconds that a callback may take before asyncio's debug mode says so, which
is of no interest on a busy machine."""


def _plain(new_event_loop):
    return new_event_loop()


def _uvloop(new_event_loop):
    uvloop = pytest.importorskip('uvloop', reason='uvloop is not installed')
    return uvloop.new_event_loop()


def _debug(new_event_loop):
    loop = new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = PATIENCE
    return loop


def _eager(new_event_loop):
    if not hasattr(asyncio, 'eager_task_factory'):
        pytest.skip('eager tasks take Python 3.12')
    loop = new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


_MAKE = {
    'asyncio': _plain,
    'uvloop': _uvloop,
    'debug': _debug,
    'eager': _eager,
}

KINDS = tuple(_MAKE)

DESCRIPTORS = {'uvloop': 2}
"""How many descriptors a loop opens whenever it is run, and closes then."""


def factory(kind):
    """Return what makes event loops of a kind, or skips where it cannot.

    :param str kind: one of :data:`KINDS`

    """
    return functools.partial(_MAKE[kind], asyncio.SelectorEventLoop)


@contextlib.contextmanager
def used(kind):
    """Let whoever makes an event loop get one of a kind, or skip likewise.

    ``asyncio.run``, ``asyncio.Runner`` and Tornado ask for theirs there too.
    A policy would do the same, but is deprecated since Python 3.14.

    :param str kind: one of :data:`KINDS`

    """
    with pytest.MonkeyPatch.context() as patch:
        make = functools.partial(_MAKE[kind], asyncio.new_event_loop)
        # It has to be known before tests begin.
        make().close()
        for module in asyncio, asyncio.events:
            patch.setattr(module, 'new_event_loop', make)
        yield
