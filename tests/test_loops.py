"""Tests run in the event loops that they are to run in."""

import asyncio

import loops
import pytest
from tornado import ioloop


def kind_of(loop):
    """Return of which kind a running loop is."""
    module = type(loop).__module__.partition('.')[0]
    if module != 'asyncio':
        return module
    if loop.get_debug():
        return 'debug'
    if loop.get_task_factory() is not None:
        return 'eager'
    return 'asyncio'


async def running():
    return kind_of(asyncio.get_running_loop())


def runs():
    """Yield what each way to have a loop runs in."""
    yield asyncio.run(running())
    with asyncio.Runner() as runner:
        yield runner.run(running())
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete(running())
    loop.close()
    tornado = ioloop.IOLoop(make_current=False)
    yield tornado.run_sync(running)
    tornado.close()


def test_all_loops_are_what_was_asked_for(request):
    """However they are made."""
    assert {*runs()} == {request.config.getoption('--loop')}


@pytest.mark.parametrize('kind', loops.KINDS)
def test_a_loop_of_each_kind(kind):
    """Whatever was asked for."""
    with asyncio.Runner(loop_factory=loops.factory(kind)) as runner:
        assert runner.run(running()) == kind
