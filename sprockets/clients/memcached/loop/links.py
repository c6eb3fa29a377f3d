"""The connections that an event loop keeps to one server."""

from __future__ import annotations

import asyncio
import typing
import weakref

from sprockets.clients.memcached import process
from sprockets.clients.memcached.loop import permits
from sprockets.clients.memcached.servers import connections, endpoints


class Exchange(typing.Protocol):
    """What is under way on a link."""

    link: Link | None


class Lane(typing.Protocol):
    """Whose exchange it is."""

    def go_on(self, exchange: typing.Any) -> None:
        """Read what has come for an exchange."""


class Link:
    """A connection that a loop keeps, and reads from as things come.

    The loop watches it as long as it has it, so that it is known at once when
    the server ends it while it is idle.

    """

    __slots__ = ('descriptor', 'exchange', 'lane', 'loan')

    def __init__(self, loan: connections.Loan) -> None:
        self.loan = loan
        self.descriptor = loan.link.fileno()
        """What the loop watches; it is known when the link is closed too."""
        self.lane: Lane | None = None
        """Who is told of what comes, None while nothing should."""
        self.exchange: Exchange | None = None
        """What is under way on it."""

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop tell of what comes."""
        if self.descriptor < 0:
            # It is in this process, and tells by itself.
            self.loan.link.tell = self._is_told
            return
        self.loan.keeper = _Keeper(self.loan, loop)
        # A child that goes on with its parent's loop may have closed one of
        # the same number, which the loop does not know of.
        loop.remove_reader(self.descriptor)
        loop.add_reader(self.descriptor, self._readable)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop tell of it no more."""
        self.lane = self.exchange = None
        self.loan.link.tell = None
        is_watched = self.loan.keeper is not None
        self.loan.keeper = None
        if is_watched and not loop.is_closed():
            loop.remove_reader(self.descriptor)

    def _is_told(self) -> None:
        """Read what has come, once whoever sends has sent all."""
        asyncio.get_running_loop().call_soon(self._readable)

    def _readable(self) -> None:
        if self.lane is not None:
            self.lane.go_on(self.exchange)
        elif not self.loan.link.is_quiet():
            self.stop(asyncio.get_running_loop())
            self.loan.lose()


class _Keeper:
    """Lets a loop notice that one of its idle connections is to be closed.

    A loop can be told to watch it no more in its own thread alone.

    """

    __slots__ = ('_loan', '_loop')

    def __init__(
        self, loan: connections.Loan, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loan = weakref.ref(loan)
        self._loop = weakref.ref(loop)

    def __call__(self) -> bool:
        loan = self._loan()
        loop = self._loop()
        if loan is None or loop is None or loop.is_closed():
            return False
        if loop.is_running() and not _runs_here(loop):
            loan.link.shut_down()
            return True
        # Nobody waits for it just now, in another thread.
        if loan.keeper is not None:
            loan.keeper = None
            loop.remove_reader(loan.link.fileno())
        return False


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class Links:
    """A loop's connections to one server, and leave to use them.

    There is one for all the clients of the loop, which share them.

    :param Endpoint endpoint: the server

    """

    def __init__(self, endpoint: endpoints.Endpoint) -> None:
        self.permits = permits.Permits(endpoint.max_connections)
        self._idle: list[Link] = []
        self._loans: set[connections.Loan] = set()
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        # A loop may end, or be left, in the middle of an exchange.
        weakref.finalize(self, _end, self._loans).atexit = False

    def enter(self, user: object) -> None:
        """Take note of a client that uses them."""
        self._users.add(user)

    def let_go(self, user: object, loop: asyncio.AbstractEventLoop) -> None:
        """Take note that it does so no more.

        What the last one leaves is for whoever needs a connection.

        """
        self._users.discard(user)
        if not self._users:
            while self._idle:
                self.lend(loop)

    def take(
        self,
        endpoint: endpoints.Endpoint,
        loop: asyncio.AbstractEventLoop,
        now: float,
    ) -> Link | None:
        """Take an idle connection that is still good, if there is one."""
        while self._idle:
            link = self._idle.pop()
            try:
                if link.loan.resume(now):
                    return link
            # A signal's: nobody will have it.
            except BaseException:
                self.drop(link, loop)
                raise
            self.give_away(link, loop)
        loan = endpoint.ready()
        if loan is None:
            return None
        try:
            if loan.idle_since is not None:
                loan.began = loan.idle_since
            link = Link(loan)
            link.watch(loop)
            self._loans.add(loan)
        except BaseException:
            loan.drop()
            raise
        return link

    def put_back(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        """Let a connection be idle, if it is in step."""
        try:
            link.lane = link.exchange = None
            if link.loan.keep():
                self._idle.append(link)
                return
        except BaseException:
            self.drop(link, loop)
            raise
        self.give_away(link, loop)
        link.loan.put_back()

    def give_away(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        """Leave a connection to who has it now."""
        link.stop(loop)
        self._loans.discard(link.loan)

    def drop(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        """Close a connection, whatever is under way."""
        self.give_away(link, loop)
        link.loan.drop()

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a thread have an idle connection, if there is one."""
        if self._idle:
            link = self._idle.pop()
            self.give_away(link, loop)
            link.loan.put_back()


def _end(loans: set[connections.Loan]) -> None:
    """Close what a loop that is gone, or its clients, have left."""
    for loan in list(loans):
        keeper = loan.keeper
        if keeper is None or not keeper():
            loan.drop()


class _OfLoops:
    """The links of this process, by loop and by server."""

    def __init__(self) -> None:
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        """Begin without any: they are the parent's."""
        self._links: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop,
            weakref.WeakKeyDictionary[endpoints.Endpoint, Links],
        ] = weakref.WeakKeyDictionary()

    def get(
        self, loop: asyncio.AbstractEventLoop, endpoint: endpoints.Endpoint
    ) -> Links:
        """Return those of a loop to a server."""
        of_loop = self._links.get(loop)
        if of_loop is None:
            of_loop = self._links[loop] = weakref.WeakKeyDictionary()
        links = of_loop.get(endpoint)
        if links is None:
            links = of_loop[endpoint] = Links(endpoint)
        return links


_of_loops = _OfLoops()
of = _of_loops.get
process.after_fork(_of_loops)
