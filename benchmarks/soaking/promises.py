"""What calls brought and how long they took, and which promises that broke."""

import collections
import itertools
import math
import threading
import time

from benchmarks.soaking import lags, stamps

EXAMPLES = 3
"""Of each broken promise so many are told."""

WRONG = 'wrong values'
LOST = 'lost acknowledged cas'
TWICE = 'updates made twice'
UNSEEN = 'own writes not seen'
LATE = 'calls past their deadline'
RAISED = 'errors raised or logged'
AWAY = 'servers not found again'
PERMITS = 'connections not to be used again'
STOPPED = 'requests lost by services that stop'
GROWTH = 'growth'

# What the promises are checked on is counted by these names.
VALUES = 'values read'
CAS = 'cas acknowledged'
READS = 'reads of own keys'
REQUESTS = 'services: requests'

PROMISES = {
    WRONG: VALUES,
    LOST: CAS,
    TWICE: CAS,
    UNSEEN: READS,
    LATE: 'calls',
    RAISED: 'calls',
    AWAY: None,
    PERMITS: None,
    STOPPED: REQUESTS,
    GROWTH: None,
}
"""Each with the name of what it was checked on so often."""

COPIES = 1_000
"""So many copies of counters, on servers that had to stand in, are known."""

TOLERANCE = 0.3
"""Seconds that a call may be late in any case."""

LAGGING = 3
"""How often a call may come upon the longest lag that was measured while it
was under way: in its thread, in the loop, and in its task."""


class Ledger:
    """What all callers found.

    :ivar Lags loop_lags: of the loop
    :ivar Lags thread_lags: of a thread
    :ivar Counter calls: how many there were, by method
    :ivar dict longest: seconds of the longest one, by method
    :ivar Counter broken: how often each promise was
    :ivar dict examples: texts that say how
    :ivar Counter counts: of what else there is to count, by name
    """

    def __init__(self):
        self.loop_lags = lags.Lags()
        self.thread_lags = lags.Lags()
        self.calls = collections.Counter()
        self.longest = collections.defaultdict(float)
        self.broken = collections.Counter()
        self.examples = collections.defaultdict(list)
        self.counts = collections.Counter()
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)
        self._issued = 0
        # Of each counter the highest number that was acknowledged, by life,
        # and all that were.
        self._highest = collections.defaultdict(dict)
        self._numbers = collections.defaultdict(set)
        self._copies = collections.deque()

    def report(self, promise, text):
        """Take down that a promise was broken."""
        with self._lock:
            self.broken[promise] += 1
            if len(self.examples[promise]) < EXAMPLES:
                self.examples[promise].append(text)

    def checked(self, promise):
        """Return how often a promise was checked, None if that is no number.

        :rtype: int
        """
        name = PROMISES[promise]
        if name == 'calls':
            return sum(self.calls.values())
        return None if name is None else self.counts[name]

    def count(self, what, number=1):
        """Count something."""
        with self._lock:
            self.counts[what] += number

    # Time

    def over(self, method, caller, took, bound, busy):
        """Take down a call that is over.

        :param float took: seconds
        :param float bound: seconds that it may take
        :param float busy: seconds of its time that it did not wait, as far
            as that is known
        """
        with self._lock:
            self.calls[method] += 1
            self.longest[method] = max(self.longest[method], took)
        if took > bound + TOLERANCE:
            self._late(f'{method} of {caller}', took, bound, busy)

    def never_over(self, method, began):
        """Take down a call that nobody waits for any longer."""
        took = time.monotonic() - began
        self.report(LATE, f'{method} not over after {took:.1f} s')

    def _late(self, what, took, bound, busy):
        began = time.monotonic() - took
        lag = max(self.loop_lags.since(began), self.thread_lags.since(began))
        if took > bound + TOLERANCE + LAGGING * lag + busy:
            self.report(
                LATE,
                f'{what} took {took:.3f} s, {bound:.1f} s are the bound;'
                f' {busy:.3f} s of it was work, and the longest lag was'
                f' {lag:.3f} s',
            )
        else:
            self.count('late calls on a machine that lagged as much')

    # Values

    def issue(self):
        """Return a sequence number for a new value."""
        with self._lock:
            self._issued = next(self._sequence)
            return self._issued

    def check(self, key, value):
        """Return the sequence number of a value, None if it is wrong."""
        return self._checked(stamps.read, key, value, self._issued)

    def check_number(self, key, value):
        """Return how far a number has come, None if it is wrong."""
        return self._checked(stamps.read_number, key, value)

    def _checked(self, read, key, value, limit=math.inf):
        self.count(VALUES)
        try:
            sequence = read(key, value)
        except stamps.WrongValueError as error:
            self.report(WRONG, str(error))
            return None
        if sequence > limit:
            self.report(WRONG, f'{key}: {sequence} was never stored')
            return None
        return sequence

    # Counters

    def highest(self, key):
        """Return the highest numbers acknowledged so far, by life.

        It is for :meth:`check_count` of what is read later.
        """
        return dict(self._highest[key])

    def check_count(self, key, value, highest):
        """Return what a counter is at, None if the value is wrong."""
        self.count(VALUES)
        try:
            count = stamps.read_count(key, value)
        except stamps.WrongValueError as error:
            self.report(WRONG, str(error))
            return None
        acknowledged = highest.get(count.life, 0)
        if count.number < acknowledged:
            self.report(
                LOST,
                f'{key}: {acknowledged} was acknowledged in its life'
                f' {count.life}, and then it is {count.number}',
            )
        return count

    def acknowledge(self, key, count):
        """Take down an increment that the client says was stored."""
        with self._lock:
            self.counts[CAS] += 1
            if (key, count.life) not in self._numbers:
                self._copy_begins(key, count.life)
            numbers = self._numbers[key, count.life]
            twice = count.number in numbers
            numbers.add(count.number)
            highest = self._highest[key]
            highest[count.life] = max(highest.get(count.life, 0), count.number)
        if twice:
            self.report(
                LOST, f'{key}: {count} was acknowledged to two callers'
            )

    def _copy_begins(self, key, life):
        """Drop what is known of the oldest copy where there are too many.

        The lives of the others end with their server's, and are forgotten.
        """
        if not life.startswith(stamps.COPY):
            return
        self._copies.append((key, life))
        if len(self._copies) > COPIES:
            key, life = self._copies.popleft()
            self._highest[key].pop(life, None)
            self._numbers.pop((key, life), None)

    def check_site(self, site):
        """Look at the counters in memcached itself, while it lives."""
        highest = {key: self.highest(key) for key in site.counter_keys}
        found = site.counters()
        for key in site.counter_keys:
            if key not in found:
                self.report(LOST, f'{key} is gone from {site}')
                continue
            count = self.check_count(key, found[key], highest[key])
            if count is not None and count.life != site.life_name:
                self.report(
                    LOST,
                    f'{key} on {site} is of life {count.life} in life'
                    f' {site.life_name}',
                )
            self.count('counters compared in memcached itself')

    def forget_all(self):
        """Drop what is known of counters and lags: nobody calls any more."""
        with self._lock:
            for each in (
                *(self._highest, self._numbers, self._copies),
                *(self.loop_lags, self.thread_lags),
            ):
                each.clear()

    def forget(self, keys, life):
        """Drop what is known of counters in a life that is over."""
        with self._lock:
            for key in keys:
                self._highest[key].pop(life, None)
                self._numbers.pop((key, life), None)
