"""How a future ends: with a result, or with the error of making it."""

from __future__ import annotations

import asyncio
import functools
import typing
from collections import abc

Future = asyncio.Future[typing.Any]


class Receiver(typing.Protocol):
    """What takes a result, or an error, as a future does."""

    def done(self) -> bool:
        """Whether it has one, or nobody wants it any more."""

    def set_result(self, result: typing.Any, /) -> None:
        """Take a result."""

    def set_exception(self, error: BaseException, /) -> None:
        """Take an error."""

    def exception(self) -> BaseException | None:
        """Return the error that it took."""

    def cancel(self) -> bool:
        """Take note that none comes."""

    def add_done_callback(
        self, callback: abc.Callable[[Future], object], /
    ) -> None:
        """Have a function called when it has one."""


def settle(
    future: Future, make: abc.Callable[..., typing.Any], *args: typing.Any
) -> None:
    """Give a future what ``make(*args)`` returns, or what it raises.

    One that is done already, for its caller was cancelled or has timed out,
    is left alone, and nothing is made for it.  What is to end the process, as
    Ctrl-C is, reaches both the future and the caller of this.

    """
    if future.done():
        return
    try:
        result = make(*args)
    except BaseException as error:
        fail(future, error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return
    if not future.done():
        future.set_result(result)


def fail(future: Receiver, error: BaseException) -> None:
    """Let a future that is not done end with an error, of any kind."""
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    elif isinstance(error, StopIteration):
        # asyncio takes it for the end of a coroutine.
        future.set_exception(RuntimeError(f'raised {error!r}'))
    else:
        future.set_exception(error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            # It is raised as well, and is no news where nobody waits.
            future.exception()


def outcome(
    make: abc.Callable[..., typing.Any], *args: typing.Any
) -> abc.Callable[[], typing.Any]:
    """Return what gives, in another thread, what a function gave in this.

    That is its result, or the error that it raised.

    """
    try:
        result = make(*args)
    # It is the caller's, who waits in the loop.
    except BaseException as error:  # noqa: BLE001
        return functools.partial(_raise, error)
    return functools.partial(_identity, result)


def _identity(value: typing.Any) -> typing.Any:
    return value


def _raise(error: BaseException) -> typing.NoReturn:
    raise error
