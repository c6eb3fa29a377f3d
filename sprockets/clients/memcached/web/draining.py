"""Whom an application has to answer still, when it is to stop."""

from __future__ import annotations

import asyncio
import contextvars
import select
import typing
from collections import abc

from tornado import httputil, web

LINGER = 0.25
"""Seconds for which a connection without a request is kept, when all are to
end: its client may have sent one."""

Task = asyncio.Task[typing.Any]

_answering: contextvars.ContextVar[object] = contextvars.ContextVar(
    'memcached_answering', default=None
)
"""The mark of the request that is answered, or that started what runs."""


class _Visitor:
    """A connection that brings requests, one after another."""

    __slots__ = ('idle_since', 'is_last', 'loop', 'mark', 'server', 'task')

    def __init__(
        self, loop: asyncio.AbstractEventLoop, task: Task, server: typing.Any
    ) -> None:
        self.loop = loop
        self.task = task
        self.server = server
        self.mark = object()
        """Another one for each request."""
        self.idle_since: float | None = None
        """When it came, or its last request was answered (the loop's time);
        None while there is a request."""
        self.is_last = False
        """Whether its client is told that no other request is answered."""


class _Request(httputil.HTTPMessageDelegate):
    """Hands on what comes of a request, and notes that there is one."""

    def __init__(
        self,
        drain: Drain,
        visitor: _Visitor,
        delegate: httputil.HTTPMessageDelegate,
    ) -> None:
        self._drain = drain
        self._visitor = visitor
        self._delegate = delegate

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> abc.Awaitable[None] | None:
        self._visitor.idle_since = None
        self._visitor.is_last = self._drain.begun
        token = _answering.set(self._visitor.mark)
        try:
            return self._delegate.headers_received(start_line, headers)
        finally:
            _answering.reset(token)

    def data_received(self, chunk: bytes) -> abc.Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        # This is what makes the handler's task, which keeps the context.
        token = _answering.set(self._visitor.mark)
        try:
            self._delegate.finish()
        finally:
            _answering.reset(token)

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class _Farewell(web.OutputTransform):
    """Tells clients not to send another request, once all are to end."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def transform_first_chunk(
        self,
        status_code: int,
        headers: httputil.HTTPHeaders,
        chunk: bytes,
        finishing: bool,
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        if self._drain.begun:
            headers['Connection'] = 'close'
        return status_code, headers, chunk


class Drain:
    """The connections of an application, and who uses its clients.

    When it is to stop, requests under way are answered, connections without
    one are closed, and so are the others after their answer.

    """

    def __init__(self) -> None:
        self.begun = False
        """Whether all connections are to end."""
        self._visitors: dict[typing.Any, _Visitor] = {}
        self._users: dict[Task, object] = {}
        """Each with the mark of its request, None if it has none."""
        self._callers: list[object] = []
        """The marks of those that wait for the end, likewise."""
        self._farewell = _Farewell(self)

    def transform(self, _: httputil.HTTPServerRequest) -> web.OutputTransform:
        """Return what tells the client of a request when all are to end."""
        return self._farewell

    def request(
        self, server: typing.Any, delegate: httputil.HTTPMessageDelegate
    ) -> httputil.HTTPMessageDelegate:
        """Take note that a connection waits for a request.

        :param server: the connection, as the HTTP server has it
        :param HTTPMessageDelegate delegate: is told what comes of it
        :return: what is told in its place

        """
        visitor = self._visitors.get(server)
        if visitor is None:
            task = asyncio.current_task()
            if task is None or not hasattr(server, 'stream'):
                # It is no connection of Tornado's server.
                return delegate
            visitor = _Visitor(asyncio.get_running_loop(), task, server)
            self._visitors[server] = visitor
            task.add_done_callback(lambda _: self._visitors.pop(server, None))
        visitor.mark = object()
        visitor.idle_since = visitor.loop.time()
        if self.begun:
            self._dismiss(visitor)
        return _Request(self, visitor, delegate)

    def note_user(self) -> None:
        """Take note that a task uses a client, for as long as it runs."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            # Nothing runs that could be waited for.
            return
        if task is not None and task not in self._users:
            self._users[task] = _answering.get()
            task.add_done_callback(self._users.pop)

    def begin(self) -> None:
        """Let all connections end, each after the request that it has."""
        if not self.begun:
            self.begun = True
            for visitor in list(self._visitors.values()):
                # Those of a loop that is over have ended with it.
                if visitor.loop.is_running():
                    self._dismiss(visitor)

    def end(self) -> None:
        """Let connections that come later go on as ever.

        Unless somebody waits still, for those that there are.

        """
        if not self._callers:
            self.begun = False

    async def over(self) -> None:
        """Begin, and wait until nobody is left.

        The request that this is called for is not waited for, in whichever
        of its tasks, and nor are other requests that wait for the same.

        """
        self.begin()
        caller = _answering.get()
        self._callers.append(caller)
        try:
            # A connection that has just come is not known until its task runs.
            await asyncio.sleep(0)
            while left := self._left(caller):
                # Somebody may call this meanwhile.
                await asyncio.wait(left, timeout=LINGER)
        finally:
            self._callers.remove(caller)

    def _left(self, caller: object) -> list[Task]:
        """Return the tasks of the running loop that somebody has to wait for.

        :param object caller: the mark of a request, None for who is none

        """
        loop = asyncio.get_running_loop()
        this = asyncio.current_task()
        # Two requests would wait for each other.
        own = set(self._callers) - {None} if caller is not None else set()
        return [
            task
            for task, mark in (
                *((v.task, v.mark) for v in self._visitors.values()),
                *self._users.items(),
            )
            if task is not this and mark not in own and task.get_loop() is loop
        ]

    def _dismiss(self, visitor: _Visitor) -> None:
        """Close a connection once it has been without a request for a while.

        At the end of a request it is looked at again.

        """
        if not self.begun or visitor.idle_since is None:
            return
        stream = visitor.server.stream
        if stream.closed():
            return
        left = visitor.idle_since + LINGER - visitor.loop.time()
        if visitor.is_last:
            stream.close()
        elif left > 0:
            visitor.loop.call_later(left, self._dismiss, visitor)
        elif _has_come(stream):
            visitor.loop.call_later(LINGER, self._dismiss, visitor)
        else:
            stream.close()


def _has_come(stream: typing.Any) -> bool:
    """Whether the loop is about to read something, or has done so just now.

    Then nobody waits for it any more, and the request is not begun yet.

    """
    if not stream.reading():
        return True
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Alone:
    """Calls a function when no other task of the loop is left.

    It is not a task itself, for who runs the loop may wait for that too.

    """

    def __init__(self, function: abc.Callable[[], None]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._left = 0
        self._look()

    def _look(self) -> None:
        others = asyncio.all_tasks(self._loop) - {
            asyncio.current_task(self._loop)
        }
        self._left = len(others)
        for task in others:
            task.add_done_callback(self._one_less)
        if not others:
            self._function()

    def _one_less(self, _: Task) -> None:
        self._left -= 1
        if not self._left:
            self._look()
