"""The event loops that things are measured in."""

import asyncio

from benchmarks import packages

ALL = ['asyncio']
if packages.missing('uvloop') is None:
    ALL.append('uvloop')


def new(name):
    """Return a new event loop.

    :param str name: of :data:`ALL`
    """
    if name == 'uvloop':
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
