"""What belongs to an awaitable client, in whatever loop it is used."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time as clock
import typing
import weakref
from collections import abc

from sprockets.clients.memcached import core, process, settings
from sprockets.clients.memcached.loop import futures, state, threads
from sprockets.clients.memcached.servers import cluster, endpoints, events
from sprockets.clients.memcached.watch import counters, observers

CLOSED = 'the memcached client is closed'

JOIN = 0.1
"""Seconds to wait for idle threads to end."""


class Observed(typing.Protocol):
    """A client, as far as it matters here."""

    _observe: observers.Observe | None


class Engine:
    """What an :class:`AsyncClient` and its scopes have in common.

    :param Core belongings: what belongs to the client, whichever its face
    :param Executor executor: where its threads are from, None for its own
    :param computing: makes what is computed in one loop

    """

    def __init__(
        self,
        belongings: core.Core,
        executor: concurrent.futures.Executor | None,
        computing: abc.Callable[[], typing.Any],
    ) -> None:
        self.core = belongings
        self.settings = belongings.settings
        self.cluster = belongings.cluster
        self.encoding = belongings.encoding
        self.tracing = belongings.tracing
        self.threads: threads.Threads
        self._executor = executor
        self._make_computing = computing
        self.counters: dict[endpoints.Endpoint, counters.Counters] = {}
        self.unserved = counters.Counters()
        """Counts the calls for which no server was up."""
        self.began = clock.monotonic()
        """Since when it may be used, on the monotonic clock."""
        self.former = counters.NOTHING
        """What was done with servers that are gone."""
        self.closed = False
        """Whether calls are let in no more."""
        self.released = False
        """Whether those that were let in are over."""
        self.state: state.LoopState | None = None
        """What there is in the loop that it is used in, or was the last."""
        self.entered: state.LoopState | None = None
        """Likewise, where there is no need to :meth:`enter`."""
        self.flow: typing.Any = None
        """The steps of its calls, which are nothing to this."""
        self.client: weakref.ref[Observed] | None = None
        self._make_threads()
        process.after_fork(self)
        self.cluster.changed = weakref.WeakMethod(self._servers_changed)

    def _make_threads(self) -> None:
        self.threads = (
            threads.OwnThreads()
            if self._executor is None
            else threads.SharedThreads.of(self._executor, self.cluster)
        )

    def enter(self) -> state.LoopState:
        """Return what there is in the running loop, and use that from now on.

        :raises RuntimeError: if no loop runs, if the client is closed, or if
            it is used in another loop that is running

        """
        before = self.state
        # What is computed is let in until that is over.
        if self.closed and (
            self.released or before is None or not before.is_computing()
        ):
            raise RuntimeError(CLOSED)
        loop = asyncio.get_running_loop()
        if before is None or before.loop is not loop:
            if before is not None:
                if before.loop.is_running():
                    raise RuntimeError(
                        'the memcached client is used in another event loop,'
                        ' which is running; make one for each'
                    )
                before.forsake()
            self.state = state.LoopState(self, self._make_computing())
            client = None if self.client is None else self.client()
            if client is not None:
                client._observe = self.tracing.observe()
        assert self.state is not None
        if not self.closed:
            self.entered = self.state
        return self.state

    def set_servers(
        self, servers: abc.Iterable[settings.Weighted]
    ) -> futures.Future:
        """Use other servers, and return a future that says when.

        What takes long is a thread's; the old servers are used until then.

        :raises ValueError: for a server that cannot be one

        """
        future = self.enter().loop.create_future()
        change = self.cluster.change(servers)
        if change.takes_long:
            with contextlib.suppress(process.ThreadError):
                process.start_thread(
                    'memcached servers', _make_change, change, future
                )
                return future
        futures.settle(future, change.make)
        return future

    def watch_servers(self, callback: events.Listener) -> None:
        """Have a function called, in the loop, when something happens.

        Whoever notices it may be in another thread.

        """

        def told(event: events.ServerEvent) -> None:
            here = self.state
            # A loop that is closed has nobody who wants to know.
            if here is not None:
                with contextlib.suppress(RuntimeError):
                    here.loop.call_soon_threadsafe(
                        events.tell, (callback,), event
                    )

        self.cluster.listeners.append(told)

    def _servers_changed(self) -> None:
        """Take note, in any thread, that there are other servers."""
        here = self.state
        if here is not None:
            # A loop that is closed has nothing of ours any more.
            with contextlib.suppress(RuntimeError):
                here.loop.call_soon_threadsafe(here.drop_gone)

    async def close(self) -> None:
        """Let no more calls in, and release what there is when it is over."""
        self.closed = True
        self.entered = None
        here = self.state
        if here is not None:
            if here.loop is asyncio.get_running_loop():
                await here.finish()
                here.end()
            else:
                here.forsake()
        self.released = True
        ending = [*self.cluster.close(), *self.threads.stop()]
        # They have nothing to do but to end, unless another client's calls
        # are still with them; a thread has no event to wait for.
        until = clock.monotonic() + JOIN
        while (  # noqa: ASYNC110
            any(t.is_alive() for t in ending) and clock.monotonic() < until
        ):
            # Not 0: a loop that turns and turns keeps the GIL from them.
            await asyncio.sleep(0.001)

    def abandon(self) -> None:
        """Release what there is, when its loop will not run any more.

        One that runs, in another thread, is left alone.

        """
        if self.state is not None and self.state.loop.is_running():
            return
        self.closed = self.released = True
        self.entered = None
        if self.state is not None:
            self.state.forsake()
            self.state.end()
        self.cluster.close()
        self.threads.stop()

    def forget_after_fork(self) -> None:
        """Leave the parent's loop and its callers to the parent."""
        self.state = self.entered = None
        self._make_threads()


def _make_change(change: cluster.Change, future: futures.Future) -> None:
    """Make a change of the servers, in a thread, and tell the loop."""
    outcome = futures.outcome(change.make)
    # A loop that is closed has nobody who waits.
    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(futures.settle, future, outcome)
