"""What a lane has threads do: which jobs wait for one, and how each ends."""

from __future__ import annotations

import concurrent.futures
import enum
import logging
import threading
import typing
from collections import abc

from sprockets.clients.memcached import notices
from sprockets.clients.memcached.loop import permits, threads

LOGGER = notices.harmless(logging.getLogger(__name__))


class Purpose(typing.Protocol):
    """What a job is for: a batch, say."""

    job: typing.Any
    """The job, None while there is none."""


P = typing.TypeVar('P', bound=Purpose)
P_contra = typing.TypeVar('P_contra', bound=Purpose, contravariant=True)


class Lane(permits.Waiter, typing.Protocol[P_contra]):
    """Whose jobs they are: the way to a server, say."""

    def refused(self, purpose: P_contra, error: BaseException) -> None:
        """Take note that no thread does a job, nor will."""


class _State(enum.Enum):
    WAITING = 'waiting'
    TAKEN = 'taken'
    OVER = 'over'
    DROPPED = 'dropped'


class Job(typing.Generic[P]):
    """Something for a thread, which one takes, or nobody does.

    Once it is taken back no thread does it, however late one comes to it.

    :param Lane lane: whose it is
    :param Crew crew: the jobs that it is one of
    :param purpose: what it is for
    :param work: what to do; it does its own error handling
    :param over: is called with that, in the loop, when it is done

    """

    def __init__(
        self,
        lane: Lane[P],
        crew: Crew,
        purpose: P,
        work: abc.Callable[[], None],
        over: abc.Callable[[P], None],
    ) -> None:
        self.permit: permits.Permit | None = None
        """Leave to have a thread, where one is needed."""
        self.purpose = purpose
        self._lane = lane
        self._crew = crew
        self._work = work
        self._over = over
        self._lock = threading.Lock()
        self._state = _State.WAITING

    @property
    def is_over(self) -> bool:
        """Whether a thread has done it, and only the loop is late."""
        return self._state is _State.OVER

    def __call__(self) -> None:
        """Do it, in a thread, unless it was taken back."""
        if not self._leave_waiting(_State.TAKEN):
            return
        try:
            self._work()
        finally:
            self._state = _State.OVER
            self.release()
            self._tell(self.end)

    def end(self) -> None:
        """Take note, in the loop, that it is over; once is enough."""
        if self.purpose.job is not self:
            return
        self._crew.leave(self)
        self.purpose.job = None
        self._over(self.purpose)

    def take_back(self) -> bool:
        """Whether no thread has it, nor ever will; in the loop."""
        if not self._leave_waiting(_State.DROPPED):
            return self._state is _State.DROPPED
        self.release()
        self._crew.leave(self)
        if self.purpose.job is self:
            self.purpose.job = None
        return True

    def refuse(self, error: BaseException) -> None:
        """Take note, in the loop, that no thread will do it."""
        if self.take_back():
            self._lane.refused(self.purpose, error)

    def note(self, future: concurrent.futures.Future[None]) -> None:
        """Take note, in any thread, that an executor is done with it."""
        if future.cancelled():
            error: BaseException | None = RuntimeError('it was dropped')
        else:
            # An executor that could not begin it.
            error = future.exception()
        if error is not None:
            self.release()
            self._tell(self.refuse, error)

    def _leave_waiting(self, state: _State) -> bool:
        with self._lock:
            if self._state is not _State.WAITING:
                return False
            self._state = state
            return True

    def release(self) -> None:
        """Let another job have the thread."""
        if self.permit is not None:
            self.permit.release()

    def _tell(self, whom: abc.Callable[..., None], *what: typing.Any) -> None:
        try:
            self._lane.loop.call_soon_threadsafe(whom, *what)
        except RuntimeError:
            LOGGER.debug('The loop was closed while a thread was at work')


class Crew:
    """A lane's jobs of one kind.

    It does not hold the lane, which is gone when nobody else does.

    :param Threads threads: where there are threads
    :param submit: has a thread do a job; raises what it likes if none will

    """

    __slots__ = ('_running', '_submit', '_threads', 'waiting')

    def __init__(
        self,
        threads: threads.Source,
        submit: abc.Callable[[threads.Job], None],
    ) -> None:
        self._threads = threads
        self._submit = submit
        # Few at a time, and mostly none: then a list is the smallest there
        # is, and every lane has some.
        self.waiting: list[Job[typing.Any]] = []
        """Those that wait for a thread."""
        self._running: list[Job[typing.Any]] = []

    def take(self, lane: Lane[P], job: Job[P]) -> bool:
        """Whether there is a thread for a job now."""
        return self._threads.take(lane, job, len(self._running))

    def put(self, lane: Lane[P], job: Job[P]) -> None:
        """Have a thread do a job when there is one."""
        job.purpose.job = job
        self.waiting.append(job)
        self.start(lane)

    def start(self, lane: Lane[typing.Any]) -> None:
        """Give threads to those that wait, as far as there are any."""
        while self.waiting:
            job = self.waiting[0]
            try:
                if not self.take(lane, job):
                    return
                del self.waiting[0]
                self.run(lane, job)
            # A signal's: nobody may know of the job.
            except BaseException:
                job.release()
                raise

    def run(self, lane: Lane[P], job: Job[P]) -> None:
        """Have a thread do a job that has a permit for it."""
        job.purpose.job = job
        self._running.append(job)
        try:
            self._submit(job)
        # An executor may refuse with whatever it likes.
        except Exception as error:  # noqa: BLE001
            # The loop may end before it turns.
            job.release()
            # Not at once: who only ever awaits this must let the loop turn.
            lane.loop.call_soon(job.refuse, error)

    def leave(self, job: Job[typing.Any]) -> None:
        """Take note that a job is not there any more."""
        for jobs in (self._running, self.waiting):
            if job in jobs:
                jobs.remove(job)
