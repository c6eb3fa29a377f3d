"""What takes several steps, and who does them: blocking, and awaited.

The steps are generators without any I/O.  They yield what is to be done next,
and are sent what came of it: so both clients do the same.

"""

from __future__ import annotations

import asyncio
import inspect
import time
import typing
from collections import abc

from sprockets.clients.memcached.requests import descriptions
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol


class Ask(typing.NamedTuple):
    """Run a command; the server that it went to is sent back."""

    command: protocol.Command
    route: cluster.Route
    only: endpoints.Endpoint | None = None


class AskMany(typing.NamedTuple):
    """Run what is described, of many keys; its result is sent back."""

    request: descriptions.Many[typing.Any]


class Pause(typing.NamedTuple):
    """Do nothing for some seconds."""

    seconds: float


class Make(typing.NamedTuple):
    """Make a value of what a server holds; it is sent back."""

    function: abc.Callable[[], typing.Any]
    weight: int
    """What that takes, in bytes to deserialize."""


class Compute(typing.NamedTuple):
    """Call the caller's function.

    What it returns is sent back, or a :class:`Failure`.

    """

    arguments: tuple[typing.Any, ...] = ()


class Failure:
    """What the caller's function raised, whatever it is.

    The steps clean up and return it, to be raised.  It is not thrown into
    them: of GeneratorExit and StopIteration they could not tell whose it is.

    """

    __slots__ = ('error',)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def take(self) -> BaseException:
        """Return the error, and leave it to whoever raises it.

        Its traceback has frames that have this, and both would wait for the
        collector.

        """
        error, self.error = self.error, None
        assert error is not None
        return error


Step = Ask | AskMany | Pause | Make | Compute
T = typing.TypeVar('T')
Steps = abc.Generator[Step, typing.Any, T]

Function = abc.Callable[..., typing.Any]


def follow(
    steps: Steps[T | Failure],
    ask: abc.Callable[[Ask], endpoints.Endpoint | None],
    function: Function | None = None,
    ask_many: abc.Callable[[AskMany], typing.Any] | None = None,
) -> T:
    """Do one step after another, and return what came of it.

    :param ask: runs a command
    :param ask_many: runs what is described, of many keys
    :raises BaseException: what the function raises

    """
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Ask):
                    result: typing.Any = ask(step)
                elif isinstance(step, AskMany):
                    assert ask_many is not None
                    result = ask_many(step)
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                    result = None
                elif isinstance(step, Make):
                    result = step.function()
                else:
                    result = not_awaited(_call(function, step.arguments))
            # It is for the steps to clean up, or to let it pass.
            except BaseException as error:  # noqa: BLE001
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        result = stop.value
    if isinstance(result, Failure):
        raise result.take()
    return typing.cast(T, result)


def _call(
    function: Function | None, arguments: tuple[typing.Any, ...]
) -> typing.Any:
    assert function is not None
    try:
        return function(*arguments)
    except BaseException as error:  # noqa: BLE001
        return Failure(error)


def not_awaited(result: typing.Any) -> typing.Any:
    """Return what a function returned, if that is a value.

    What is to be awaited is none, and there is no loop to await it in.

    """
    if not inspect.isawaitable(result):
        return result
    if inspect.iscoroutine(result):
        # Nobody will, which Python would say.
        result.close()
    return Failure(
        TypeError(
            f'the function returned a {type(result).__qualname__}, which a'
            ' blocking client cannot await; give it to an AsyncClient, or'
            ' write "async def"'
        )
    )


class Runner(typing.Protocol):
    """Who does in a loop what steps ask for."""

    def ask(self, step: Ask) -> abc.Awaitable[endpoints.Endpoint | None]:
        """Run a command."""

    def ask_many(self, step: AskMany) -> abc.Awaitable[typing.Any]:
        """Run what is described, of many keys."""

    def make(self, step: Make) -> abc.Awaitable[typing.Any]:
        """Make a value, in a thread if that takes long."""

    def spawn(
        self, work: abc.Coroutine[typing.Any, typing.Any, T]
    ) -> asyncio.Task[T]:
        """Let a task work on its own, whoever waits for it."""


async def follow_awaited(
    steps: Steps[T | Failure],
    runner: Runner,
    function: Function | None = None,
) -> T:
    """Do one step after another, likewise.

    The function may be a coroutine function too.  Where this is cancelled,
    what the steps do then is done, though it is cancelled once more.

    :param Runner runner: runs commands and makes values

    """
    try:
        result = await _go_on(steps, next(steps), runner, function)
    except StopIteration as stop:
        result = stop.value
    if isinstance(result, Failure):
        raise result.take()
    return result


async def _go_on(
    steps: Steps[T | Failure],
    step: Step,
    runner: Runner,
    function: Function | None,
    is_cancelled: bool = False,
) -> T | Failure:
    """Do one step after another, from one on.

    :param bool is_cancelled: whether the steps were told so, and clean up

    """
    try:
        while True:
            try:
                if isinstance(step, Ask):
                    result: typing.Any = await runner.ask(step)
                elif isinstance(step, AskMany):
                    result = await runner.ask_many(step)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    result = None
                elif isinstance(step, Make):
                    result = await runner.make(step)
                else:
                    result = await _call_awaited(function, step.arguments)
            except BaseException as error:  # noqa: BLE001
                step = steps.throw(error)
                if not is_cancelled and isinstance(
                    error, asyncio.CancelledError
                ):
                    break
            else:
                step = steps.send(result)
    except StopIteration as stop:
        return typing.cast(T | Failure, stop.value)
    # Some cancel a task each time that it waits, as anyio does.
    return await asyncio.shield(
        runner.spawn(_go_on(steps, step, runner, function, True))
    )


async def _call_awaited(
    function: Function | None, arguments: tuple[typing.Any, ...]
) -> typing.Any:
    result = _call(function, arguments)
    if not inspect.isawaitable(result):
        return result
    task = asyncio.current_task()
    try:
        return await result
    except GeneratorExit as error:
        if is_collected(task):
            raise
        return Failure(error)
    except BaseException as error:  # noqa: BLE001
        return Failure(error)
    finally:
        # It gets the error, whose traceback has this frame.
        task = None


def is_collected(task: asyncio.Task[typing.Any] | None) -> bool:
    """Whether a task is at its end because its loop is gone.

    Then nobody has raised the GeneratorExit, and there is nothing to await.

    """
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True
