"""Awaited calls under way, to one server and to several."""

from __future__ import annotations

import asyncio
import collections
import time as clock
import typing
from collections import abc

from sprockets.clients.memcached.loop import batches, futures, state
from sprockets.clients.memcached.requests import descriptions
from sprockets.clients.memcached.servers import cluster, endpoints, journey
from sprockets.clients.memcached.watch import observers
from sprockets.clients.memcached.wire import protocol

Future = futures.Future

AHEAD = 4
"""Commands of one call that wait for a server at the same time: as many as
keep it busy, and no more, for other calls come in between."""

SLICE = 0.005
"""Seconds that a call may work in one turn of the loop."""

BURST = 32
"""Commands that a call sends in one turn of the loop: each may take a thread
to connect, and each answer has to be taken."""

PAUSE = 0.002
"""Seconds that the loop is left to others after so many."""

PLACES = 2000
"""Keys for which servers are found between two looks at the clock."""


class Call:
    """One command of one caller, on its way to the server of its key.

    :param finish: makes what the caller gets of this call, when it is over;
        None for the command's result

    """

    __slots__ = (
        '_deadline',
        '_endpoint',
        '_finish',
        '_future',
        '_here',
        '_journey',
        '_observer',
        '_over',
        'calls',
        'command',
        'commands',
        'route',
        'size',
    )

    steps = 0

    def __init__(
        self,
        here: state.LoopState,
        command: protocol.Command,
        route: cluster.Route,
        only: endpoints.Endpoint | None,
        finish: abc.Callable[[typing.Any], typing.Any] | None,
        observer: observers.Observer | None,
    ) -> None:
        self._here = here
        self.route = route
        """Where the key is."""
        self._journey: journey.Journey | None = None
        """Its way, None as long as it may be the shortest."""
        if only is not None:
            self._journey = journey.Journey(here.cluster, only)
        self._finish = finish
        self._observer = observer
        self._endpoint: endpoints.Endpoint | None = None
        self._over = False
        self.calls = 1
        self.command = command
        self.commands = (command,)
        self.size = len(command.request)
        self._future: Future

    def start(self) -> Future:
        """Set out, and return the future for what the caller gets."""
        # As loop.create_future() does, in half the steps.
        future: Future = asyncio.Future()
        self._future = future
        self._deadline = clock.monotonic() + self._here.cluster.timeout
        self._send()
        return future

    @property
    def endpoint(self) -> endpoints.Endpoint | None:
        """The server that it was sent to, None if there is none."""
        return self._endpoint

    def _send(self, last: endpoints.Endpoint | None = None) -> None:
        """Set out for a server.

        :param Endpoint last: where it was in vain, None if nowhere

        """
        here = self._here
        command = self.command
        if self._journey is None:
            endpoint = here.cluster.pick(*self.route)
        else:
            endpoint = self._journey.to(*self.route)
        if endpoint is None:
            error = endpoints.UnavailableError()
            command.error = command.error or error
            here.failed_at(last, self.calls, self.steps)
            # Not at once: who only ever awaits this must let the loop turn.
            self._future.get_loop().call_soon(self._end)
            return
        self._endpoint = endpoint
        lane = here.lanes.get(endpoint) or here.lane(endpoint)
        lane.add(self, command.only_reads)

    def weigh(self) -> int:
        return 0

    def unpack(self) -> None:
        """Nothing: what it takes is done in the loop."""

    def back(self, sent: bool) -> None:
        """Come back from a server that it was sent to, or was not."""
        if sent:
            self._end()
            return
        endpoint, self._endpoint = self._endpoint, None
        assert endpoint is not None
        way = self._journey
        if way is None:
            way = self._journey = journey.Journey(self._here.cluster)
        further = way.goes_further
        if self._over or not way.turn_back(endpoint):
            # Nobody has tried if it went down while the call waited.
            self._endpoint = endpoint
            self._here.failed_at(endpoint, self.calls, self.steps)
            error = endpoints.UnavailableError(f'{endpoint} is down')
            self.command.error = self.command.error or error
            self._end()
            return
        if not further:
            self._here.limit(self._future, self._deadline, self.give_up)
        self.command.start_over()
        self._send(endpoint)

    def fail(self, error: BaseException) -> None:
        command = self.command
        if self.weigh():
            command.start_over()
        command.error = command.error or error
        self._end()

    def give_up(self) -> None:
        """End with a failure, for the time is over."""
        self.fail(TimeoutError('timed out'))

    def _end(self) -> None:
        if self._over:
            return
        try:
            futures.settle(self._future, self._make)
        # A signal's: nobody comes back to this.
        except BaseException as error:
            futures.fail(self._future, error)
            raise
        finally:
            self._over = True
        # It may have this call, and both would wait for the collector.
        self._finish = None
        if self._observer is not None:
            command = self.command
            batches.tell(
                self._observer.over,
                command.error,
                *descriptions.found(command),
                self._endpoint,
            )

    def _make(self) -> typing.Any:
        if self._finish is None:
            return self.command.result
        return self._finish(self)


class Step(Call):
    """A command of a call that takes several, and counts as one itself."""

    __slots__ = ()

    steps = 1


class OneCall(Call):
    """A call that a description is about, of one key."""

    __slots__ = ('_made', '_request')

    def __init__(
        self,
        here: state.LoopState,
        command: protocol.Command,
        request: descriptions.One[typing.Any],
        observer: observers.Observer | None,
    ) -> None:
        super().__init__(
            here, command, request.route, request.only, None, observer
        )
        self._request = request
        self._made: abc.Callable[[], typing.Any] | None = None

    def weigh(self) -> int:
        return self._request.weight(self.command)

    def unpack(self) -> None:
        self._made = futures.outcome(self._request.unpack, self.command)

    def _make(self) -> typing.Any:
        self._request.note(self.command, self._endpoint)
        if self._made is not None:
            return self._made()
        return self._request.unpack(self.command)


def one(
    here: state.LoopState,
    request: descriptions.One[typing.Any],
    observe: observers.Observe | None,
    timeout: float | None = None,
) -> Future:
    """Run what is described, and return the future of its result.

    :param float timeout: the seconds for it, if the client's are not less

    """
    command = request.command
    if command is None:
        future = here.loop.create_future()
        futures.settle(future, lambda: request.failure)
        return future
    observer = None
    if observe is not None:
        observer = observe(request.name, (request.route.key,))
    call = OneCall(here, command, request, observer)
    future = call.start()
    if timeout is not None:
        here.within(future, timeout, call.give_up)
    return future


Unpack = abc.Callable[['Chunk'], typing.Any]


class Chunk:
    """Commands of a call for one server that travel in one batch."""

    __slots__ = (
        '_owner',
        '_unpacked',
        'calls',
        'commands',
        'endpoint',
        'places',
        'size',
        'steps',
    )

    def __init__(
        self,
        owner: Several,
        endpoint: endpoints.Endpoint,
        commands: abc.Sequence[protocol.Command],
        places: abc.Sequence[int],
    ) -> None:
        self._owner: Several | None = owner
        self._unpacked: Unpack | None = None
        self.endpoint = endpoint
        self.commands = commands
        self.places = places
        """The places of its keys among those of the call."""
        self.calls = sum([command.count for command in commands])
        self.size = sum([len(command.request) for command in commands])
        self.steps = 0

    def weigh(self) -> int:
        owner = self._owner
        return 0 if owner is None else owner.weigh(self)

    def unpack(self) -> None:
        owner = self._owner
        if owner is not None:
            outcome = futures.outcome(owner.unpack, self)
            self._unpacked = lambda _: outcome()

    def back(self, sent: bool) -> None:
        owner = self._owner
        if owner is not None:
            self._end(owner, sent, self._unpacked or owner.unpack)

    def fail(self, error: BaseException) -> None:
        owner = self._owner
        if owner is not None:
            for command in self.commands:
                command.error = command.error or error
            unpack = None if owner.weigh(self) else owner.unpack
            self._end(owner, True, unpack)

    def _end(self, owner: Several, sent: bool, unpack: Unpack | None) -> None:
        """Come back, once; it may be given up before or after."""
        try:
            owner.back(self, sent, unpack)
        except BaseException as error:
            owner.interrupt(error)
            raise
        finally:
            self._owner = None


class Several:
    """The commands of one call for several servers.

    It works in slices, so that a call of many keys lets others come in
    between: those of the loop, and those that wait for the same server.

    """

    is_step = False
    """Whether it is a part of another call, which counts itself."""

    def __init__(
        self,
        here: state.LoopState,
        future: Future,
        observer: observers.Observer | None,
    ) -> None:
        self._here = here
        self._future = future
        self._loop = future.get_loop()
        self._observer = observer
        self._deadline = clock.monotonic() + here.cluster.timeout
        self._is_limited = False
        self._is_scheduled = False
        self._is_over = False
        self._away = 0
        self._burst = 0

    def start(self) -> None:
        """Set out for the first servers."""
        self._work()
        if not self._away and not self._is_scheduled:
            # Not at once: who only ever awaits this must let the loop turn.
            self._loop.call_soon(self._end)
            self.limit()

    def step(self) -> bool:
        """Do a little of what is to be done before anything comes back.

        :return: False if nothing is

        """
        raise NotImplementedError

    def weigh(self, chunk: Chunk) -> int:
        """Return how much :meth:`unpack` has to do."""
        return 0

    def unpack(self, chunk: Chunk) -> None:
        """Take what came, in any thread."""

    def take(self, chunk: Chunk, sent: bool) -> None:
        """Take note, in the loop, of how far something has come."""
        raise NotImplementedError

    def result(self) -> typing.Any:
        """Return what the caller gets."""
        raise NotImplementedError

    def outcome(self) -> tuple[BaseException | None, int, int]:
        """Return what an observer is told."""
        raise NotImplementedError

    def send(
        self,
        endpoint: endpoints.Endpoint,
        commands: abc.Sequence[protocol.Command],
        places: abc.Sequence[int] = (),
    ) -> None:
        """Let commands travel to a server together."""
        here = self._here
        lane = here.lanes.get(endpoint) or here.lane(endpoint)
        self._away += 1
        self._burst += 1
        chunk = Chunk(self, endpoint, commands, places)
        if self.is_step:
            chunk.steps = chunk.calls
        lane.add(chunk, commands[0].only_reads)

    def back(self, chunk: Chunk, sent: bool, unpack: Unpack | None) -> None:
        """Go on with what came back from a server, or did not get there.

        :param unpack: takes what came, None if there is no time for that

        """
        self._away -= 1
        if self._future.done():
            # Nobody waits any more, and what is left is not sent.
            if sent:
                self.take(chunk, sent)
            else:
                self._here.failed_at(chunk.endpoint, chunk.calls, chunk.steps)
            if not self._away:
                self._end()
            return
        if sent and unpack is not None:
            unpack(chunk)
        self.take(chunk, sent)
        if not self._is_scheduled:
            self._go_on()

    def interrupt(self, error: BaseException) -> None:
        """Let the caller know of what came in between."""
        self._is_over = True
        futures.fail(self._future, error)

    def _work(self) -> None:
        self._is_scheduled = False
        self._burst = 0
        until = clock.monotonic() + SLICE
        while not self._future.done() and self.step():
            if self._burst >= BURST:
                self.limit()
                self._is_scheduled = True
                self._loop.call_later(PAUSE, self._go_on)
                return
            if clock.monotonic() >= until:
                self.limit()
                self._is_scheduled = True
                self._loop.call_soon(self._go_on)
                return

    def _go_on(self) -> None:
        self._work()
        if not self._away and not self._is_scheduled:
            self._end()

    def limit(self) -> None:
        """Keep the deadline, for what is sent later has more time."""
        if not self._is_limited:
            self._is_limited = True
            self._here.limit(self._future, self._deadline, self.give_up)
            self._here.hold(self._future)

    def give_up(self) -> None:
        """End with what has come, for the time is over."""
        self._end()

    def _end(self) -> None:
        if self._is_over:
            return
        futures.settle(self._future, self.result)
        self._is_over = True
        if self._observer is not None:
            batches.tell(self._observer.over, *self.outcome())


class ManyCall(Several):
    """A call that a description is about, of many keys.

    All of it is encoded before anything is sent, in as many turns as it takes.

    """

    def __init__(
        self,
        here: state.LoopState,
        future: Future,
        request: descriptions.Many[typing.Any],
        observe: observers.Observe | None,
    ) -> None:
        super().__init__(here, future, None)
        self._request = request
        self._observe = observe
        self._is_encoded = False
        self._journey = journey.Journey(here.cluster)
        self._done: list[protocol.Command] = []
        # The places of keys that no server was found for yet; of those that
        # are for a server, by server; and how much is with it.
        self._unplaced: collections.deque[abc.Sequence[int]] = (
            collections.deque()
        )
        self._placed: dict[endpoints.Endpoint, list[abc.Sequence[int]]] = {}
        self._with: dict[endpoints.Endpoint, int] = {}
        self._hungry: collections.deque[endpoints.Endpoint] = (
            collections.deque()
        )

    def step(self) -> bool:
        if not self._is_encoded:
            return self._encode()
        if self._unplaced:
            places = self._unplaced.popleft()
            if len(places) > PLACES and len(self._here.cluster.servers) > 1:
                self._unplaced.appendleft(places[PLACES:])
                places = places[:PLACES]
            if places:
                lost = self._journey.spread(
                    self._request.keys, places, self._placed
                )
                if lost:
                    self._here.failed_at(
                        None, lost, lost if self.is_step else 0
                    )
            if not self._unplaced:
                self._hungry.extend(self._placed)
            return True
        if self._hungry:
            self._feed(self._hungry.popleft())
            return True
        return False

    def _encode(self) -> bool:
        """Check and encode a part.

        :return: False if there is something wrong, of which the caller knows

        """
        try:
            is_encoded = not self._request.prepare()
        except BaseException as error:
            if not self._is_limited:
                # It is called just now.
                raise
            self.interrupt(error)
            if isinstance(error, Exception):
                return False
            raise
        if is_encoded:
            self._is_encoded = True
            keys = self._request.keys.keys
            self._unplaced.append(range(len(keys)))
            self._begin_observing(keys)
        return True

    def _begin_observing(self, keys: abc.Sequence[bytes]) -> None:
        if self._observe is not None:
            self._observer = self._observe(self._request.name, keys)

    def _feed(self, endpoint: endpoints.Endpoint) -> None:
        """Send a server as much as it gets at a time."""
        left = self._placed.get(endpoint)
        if left is None:
            return
        # Others wait until it is known whether it is back.
        ahead = AHEAD if endpoint.retry_at is None else 1
        while left and self._with.get(endpoint, 0) < ahead:
            places = left.pop()
            some = places[: self._request.fit(places, batches.MAX_BYTES)]
            if len(some) < len(places):
                left.append(places[len(some) :])
                # What is sent when some has come back has more time.
                self.limit()
            self._with[endpoint] = self._with.get(endpoint, 0) + 1
            self.send(endpoint, self._request.commands_for(some), some)
        if not left:
            del self._placed[endpoint]

    def give_up(self) -> None:
        self._request.late()
        super().give_up()

    def back(self, chunk: Chunk, sent: bool, unpack: Unpack | None) -> None:
        if sent and unpack is None:
            self._request.late()
        super().back(chunk, sent, unpack)

    def weigh(self, chunk: Chunk) -> int:
        return sum([self._request.weight(c) for c in chunk.commands])

    def unpack(self, chunk: Chunk) -> None:
        for command in chunk.commands:
            self._request.unpack(command)

    def take(self, chunk: Chunk, sent: bool) -> None:
        endpoint = chunk.endpoint
        self._with[endpoint] -= 1
        if sent:
            if self._observer is not None:
                self._done.extend(chunk.commands)
            if endpoint in self._placed:
                self._hungry.append(endpoint)
            return
        left = self._placed.pop(endpoint, [])
        if self._journey.turn_back(endpoint):
            self.limit()
            self._unplaced.extend((chunk.places, *left))
        else:
            count = sum([len(places) for places in (chunk.places, *left)])
            self._here.failed_at(endpoint, count, count if self.is_step else 0)

    def result(self) -> typing.Any:
        return self._request.result()

    def _end(self) -> None:
        if not (self._is_encoded or self._is_over):
            # Its time is over before anything was asked.
            self._begin_observing(())
        super()._end()

    def outcome(self) -> tuple[BaseException | None, int, int]:
        if self._future.cancelled() and (
            self._unplaced or self._placed or not self._is_encoded
        ):
            # That not all were asked for is no server's fault.
            return descriptions.outcome(self._done)
        return descriptions.outcome(self._done, self._request)


def many(
    here: state.LoopState,
    request: descriptions.Many[typing.Any],
    observe: observers.Observe | None,
    timeout: float | None = None,
    is_step: bool = False,
) -> Future:
    """Run what is described, likewise.

    :param bool is_step: whether it is a part of another call

    """
    future = here.loop.create_future()
    call = ManyCall(here, future, request, observe)
    call.is_step = is_step
    call.start()
    if timeout is not None:
        here.within(future, timeout, call.give_up)
    return future


class EverywhereCall(Several):
    """A call that a description is about, of every server that is up."""

    def __init__(
        self,
        here: state.LoopState,
        future: Future,
        request: descriptions.Everywhere[typing.Any],
        observer: observers.Observer | None,
    ) -> None:
        super().__init__(here, future, observer)
        self._request = request
        self._asked: dict[endpoints.Endpoint, protocol.Command] = {}
        self._reached: list[endpoints.Endpoint] = []
        self._left: collections.deque[endpoints.Endpoint] | None = None

    def start(self) -> None:
        # Where the servers are not known yet, that comes first.
        for endpoint, commands in self._here.cluster.waiting().items():
            self.limit()
            self.send(endpoint, commands)
        if not self._away:
            super().start()

    def step(self) -> bool:
        if self._left is None:
            self._left = collections.deque(self._here.cluster.endpoints)
        if not self._left:
            return False
        endpoint = self._left.popleft()
        if endpoint.usable():
            self._asked[endpoint] = command = self._request.make()
            self.send(endpoint, (command,))
        return True

    def take(self, chunk: Chunk, sent: bool) -> None:
        if sent and chunk.endpoint in self._asked:
            self._reached.append(chunk.endpoint)

    def result(self) -> typing.Any:
        return self._request.result(
            {
                endpoint: command
                for endpoint, command in self._asked.items()
                if endpoint in self._reached
            }
        )

    def outcome(self) -> tuple[BaseException | None, int, int]:
        return descriptions.outcome(self._asked.values())


def everywhere(
    here: state.LoopState,
    request: descriptions.Everywhere[typing.Any],
    observe: observers.Observe | None,
) -> Future:
    """Run what is described, likewise."""
    future = here.loop.create_future()
    observer = None if observe is None else observe(request.name, ())
    EverywhereCall(here, future, request, observer).start()
    return future


def endpoint_of(call: Call) -> endpoints.Endpoint | None:
    return call.endpoint
