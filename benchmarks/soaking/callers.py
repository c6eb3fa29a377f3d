"""Callers that use all there is to a client, and check what they get."""

import asyncio
import itertools
import time

from benchmarks.soaking import internals, lags, promises, site, stamps
from sprockets.clients import memcached

PAUSE = 0.02
"""Seconds that a caller does nothing between two calls, on an average."""

TIMEOUT = 1.0
"""Seconds for a call: the clients' socket_timeout."""

DEAD_RETRY = 0.25
"""Seconds until a server that was down is tried again."""

LEASE = 1
WAIT = 2

ONE = TIMEOUT + internals.GRACE
"""Seconds that one exchange may take; AsyncClient lets a thread be late."""

BOUNDS = {
    # Where there is no value: its lease as well, and once more the key.
    'invalidate': 3 * ONE,
    # One at a time of those in this process; a server that does not answer
    # lets a few of them wait, the others are told at once.
    'update': 6 * ONE,
    # A read, a lease, the wait for another one's value, then one's own.
    'get_or_set': 6 * ONE + WAIT + LEASE,
}
"""Seconds that a call may take which needs more than one exchange."""


def bound(method):
    """Return the seconds that a call of a method may take.

    :rtype: float
    """
    return BOUNDS.get(method, ONE)


SHARED = [f'shared:{number}' for number in range(300)]
COMPUTED = [f'computed:{number}' for number in range(60)]

BUSY = [f'counter:{number}' for number in range(24)]
QUIET = [f'quiet:{number}' for number in range(400)]
"""Counters that are hardly ever changed by two callers at a time."""

THOUGHT = 1.5
"""Seconds that a caller takes at most to change such a counter: its server
may die meanwhile, and live again."""

NEVER = 3600
"""Seconds after which a value expires that is to outlive the soak."""

OWN = 4
"""Keys that each caller has for itself, and as many numbers."""


class Gate:
    """Lets callers go on, wait, or go home."""

    def __init__(self):
        self.is_open = True
        self.is_over = False


class Outcome:
    """How a call went: a client's observer."""

    __slots__ = ('answered', 'keys')

    def __init__(self):
        self.answered = False
        self.keys = 0

    def over(self, error, hits, misses, *where):
        """Take note that the call is over."""
        self.answered = error is None
        self.keys = hits + misses


class Own:
    """A key that one caller alone writes, and so knows the value of.

    A write whose outcome is not known may still come true later: from then
    on another key is used.  The same goes for one that was acknowledged, but
    may have been sent twice since the line was cut meanwhile.

    :ivar str key: the present one
    :ivar Site site: where it is
    :ivar int sequence: of its value, None if there is none
    :ivar int life: the server's when that was stored
    :ivar bool doubled: whether the last write may come true a second time
    """

    def __init__(self, name, sites):
        self._names = (f'{name}:{number}' for number in itertools.count())
        self._sites = sites
        self.renew()

    def renew(self):
        """Begin another key, which has no value yet."""
        self.key = next(self._names)
        self.site = self._sites[site.place(self.key, len(self._sites))]
        self.sequence = None
        self.life = None
        self.doubled = False

    @property
    def kept(self):
        """Whether the value is sure to be there still."""
        return (
            self.sequence is not None
            and self.life % 2 == 0
            and self.life == self.site.life
        )


class Caller:
    """One of many callers; the same for both kinds of client.

    :param str name: what its own keys begin with
    :param client: ``Client`` or ``AsyncClient``
    :param bool awaitable: whether its methods give futures
    :param bool strict: whether keys stay on their server (FAILOVER=false),
        so that a caller sees what it wrote
    :param list sites: the servers, in order
    :param Ledger ledger: is told everything
    :param random.Random rng: decides what is called
    :ivar tuple current: the call under way, and since when; None if none is
    :ivar bool waits: whether it waits at the gate
    """

    _lives = itertools.count()

    def __init__(self, name, client, awaitable, strict, sites, ledger, rng):
        self.current = None
        self.waits = False
        self._outcome = Outcome()
        # Only an observer can tell a miss from a server that is away.
        self._client = client.scope(self._observe) if awaitable else client
        self._awaitable = awaitable
        self._strict = strict
        self._sites = sites
        self._ledger = ledger
        self._rng = rng
        self._name = f'{name}, {"strict" if strict else "failover"}'
        self._own = [Own(f'{name}:{n}', sites) for n in range(OWN)]
        self._numbers = [Own(f'{name}:number:{n}', sites) for n in range(OWN)]
        self._deeds = {
            self._get: 20,
            self._get_multi: 8,
            self._set: 8,
            self._set_multi: 4,
            self._add: 3,
            self._delete: 3,
            self._invalidate: 2,
            self._touch: 2,
            self._compute: 8,
            self._look_at_counter: 3,
            self._swap: 8,
            self._swap_after_a_thought: 4,
            self._update: 6,
            self._count: 16,
            self._set_own: 6,
            self._set_own_multi: 3,
            self._get_own: 8,
            self._get_own_multi: 4,
            self._add_own: 2,
            self._touch_own: 2,
            self._delete_own: 2,
            self._compute_own: 2,
            self._set_and_get: 3,
        }
        if awaitable:
            self._deeds |= {self._cancel_get: 1, self._cancel_set: 1}

    async def run(self, gate):
        """Call one thing after another until it is over."""
        deeds, weights = list(self._deeds), list(self._deeds.values())
        while not gate.is_over:
            if not gate.is_open:
                self.waits = True
                await asyncio.sleep(PAUSE)
                continue
            self.waits = False
            (deed,) = self._rng.choices(deeds, weights)
            try:
                await deed()
            # A cache that is down raises nothing.
            except Exception as error:  # noqa: BLE001
                self._ledger.report(
                    promises.RAISED, f'{deed.__name__}: {error!r}'
                )
                for own in self._own + self._numbers:
                    own.renew()
            await asyncio.sleep(self._rng.expovariate(1 / PAUSE))
        self.waits = True

    # Calls

    def _observe(self, method, *keys):
        # Of a call that was cancelled the end may come during the next one.
        self._outcome = Outcome()
        return self._outcome

    def _was_answered(self, keys=0):
        """Whether the server has answered the last call, for so many keys.

        With the blocking client that is not to be known.
        """
        return self._outcome.answered and self._outcome.keys == keys

    async def _call(self, method, *arguments, **options):
        # In the loop it is no matter of a single call.
        busy = 0 if self._awaitable else lags.busy()
        began = time.monotonic()
        self.current = method, began
        try:
            result = getattr(self._client, method)(*arguments, **options)
            return await result if self._awaitable else result
        finally:
            took = time.monotonic() - began
            busy = 0 if self._awaitable else lags.busy() - busy
            self.current = None
            self._ledger.over(method, self._name, took, bound(method), busy)

    def _make(self, key):
        sequence = self._ledger.issue()
        return sequence, stamps.make(key, sequence, self._rng)

    def _check(self, key, value):
        return None if value is None else self._ledger.check(key, value)

    # Keys of all callers

    async def _get(self):
        key = self._rng.choice(SHARED)
        self._check(key, await self._call('get', key))

    async def _get_multi(self):
        keys = self._rng.sample(SHARED, 10)
        for key, value in (await self._call('get_multi', keys)).items():
            self._check(key, value)

    async def _set(self):
        key = self._rng.choice(SHARED)
        _, value = self._make(key)
        await self._call(
            'set', key, value, NEVER, self._rng.choice([0, 0, 2000])
        )

    async def _set_multi(self):
        keys = self._rng.sample(SHARED, 5)
        await self._call(
            'set_multi', {key: self._make(key)[1] for key in keys}, NEVER
        )

    async def _add(self):
        key = self._rng.choice(SHARED)
        await self._call('add', key, self._make(key)[1], NEVER)

    async def _delete(self):
        await self._call('delete', self._rng.choice(SHARED))

    async def _invalidate(self):
        await self._call('invalidate', self._rng.choice(COMPUTED))

    async def _touch(self):
        await self._call('touch', self._rng.choice(SHARED), NEVER)

    async def _compute(self):
        key = self._rng.choice(COMPUTED)
        value = await self._call(
            'get_or_set',
            key,
            self._factory(key),
            self._rng.choice([1, 2, NEVER]),
            stale=self._rng.choice([0, 0, 5]),
            lease=LEASE,
            wait=WAIT,
        )
        self._ledger.check(key, value)

    def _factory(self, key, made=None):
        """Return what computes a value; its number is put into a list."""
        seconds = self._rng.choice([0, 0, 0.005, 0.02])

        def compute():
            sequence, value = self._make(key)
            if made is not None:
                made.append(sequence)
            return value

        async def compute_slowly():
            await asyncio.sleep(seconds)
            return compute()

        def compute_slowly_in_a_thread():
            time.sleep(seconds)
            return compute()

        if not seconds:
            return compute
        if self._awaitable:
            return compute_slowly
        return compute_slowly_in_a_thread

    async def _cancel_get(self):
        await self._cancel(self._client.get(self._rng.choice(SHARED)))

    async def _cancel_set(self):
        own = self._rng.choice(self._own)
        _, value = self._make(own.key)
        await self._cancel(self._client.set(own.key, value, NEVER))
        own.renew()

    async def _cancel(self, call):
        await asyncio.sleep(self._rng.choice([0, 0.001]))
        call.cancel()
        self._ledger.count('calls cancelled')

    # Counters

    async def _look_at_counter(self):
        key = self._rng.choice(BUSY)
        seen = self._before(key)
        value = await self._call('get', key)
        self._check_counter(key, value, seen, self._was_answered(1))

    async def _swap(self):
        await self._swap_one(self._rng.choice(BUSY), 0)

    async def _swap_after_a_thought(self):
        seconds = self._rng.uniform(0, THOUGHT)
        await self._swap_one(self._rng.choice(QUIET), seconds)

    async def _swap_one(self, key, seconds):
        if self._awaitable and self._rng.random() < 0.1:
            # What it sees, perhaps late, is not what cas is about.
            await self._cancel(self._client.gets(key))
        seen = self._before(key)
        value = await self._call('gets', key)
        count = self._check_counter(key, value, seen, self._was_answered(1))
        if count is None:
            return
        count = count.after(self._ledger.issue())
        if seconds:
            await asyncio.sleep(seconds)
        if await self._call('cas', key, stamps.make_count(key, count)):
            self._ledger.acknowledge(key, count)

    async def _update(self):
        key = self._rng.choice(BUSY)
        seen = self._before(key)
        number = self._ledger.issue()
        stored = None

        def add_one(value):
            nonlocal stored
            count = self._check_counter(key, value, seen, True)
            if count is None:
                count = self._new_life()
            elif count.call == number:
                self._ledger.report(promises.TWICE, f'{key}: {count}')
            stored = count.after(number)
            return stamps.make_count(key, stored)

        try:
            await self._call('update', key, add_one)
        except memcached.UpdateError as error:
            reason, _, _ = str(error).partition(':')
            self._ledger.count(f'updates that failed: {reason}')
        else:
            self._ledger.acknowledge(key, stored)

    def _before(self, key):
        """Return what is known of a counter before it is read."""
        where = self._sites[site.place(key, len(self._sites))]
        # In an odd one the process may live for another moment.
        return self._ledger.highest(key), where, where.life & ~1

    def _check_counter(self, key, value, seen, answered):
        """Return what a counter is at, None if that cannot be told."""
        highest, where, life = seen
        if value is None:
            if self._strict and answered:
                self._ledger.report(
                    promises.LOST, f'{where} says that there is no {key}'
                )
            elif not self._strict:
                return self._new_life()
            return None
        count = self._ledger.check_count(key, value, highest)
        if count is None:
            return None
        number, _, lived = count.life.partition('.')
        if number == stamps.COPY:
            if self._strict:
                self._ledger.report(
                    promises.WRONG, f'{key}: {where} has a copy, {count}'
                )
        elif int(number) != where.number or int(lived) < life:
            self._ledger.report(
                promises.WRONG,
                f'{key}: {count} on {where} in its life {life}',
            )
        return count

    def _new_life(self):
        """Return a counter at 0 for a server that has it not yet."""
        return stamps.Count(f'{stamps.COPY}.{next(self._lives)}', 0, 0)

    # Keys of this caller alone

    async def _count(self):
        own = self._rng.choice(self._numbers)
        if own.sequence is None:
            await self._write(
                own, 'set', 0, stamps.make_number(own.key, 0), NEVER
            )
            return
        if self._rng.random() < 0.5:
            value = await self._call('get', own.key)
            self._compare(own, value, self._ledger.check_number, 1)
            return
        before = self._before_write(own)
        kept = own.kept
        value = await self._call('incr', own.key)
        if value is None:
            if self._strict and self._was_answered() and own.kept:
                self._unseen(own, 'incr finds none')
            own.renew()
            return
        number = self._ledger.check_number(own.key, value)
        if self._strict and number != own.sequence + 1:
            self._unseen(own, f'incr gives {number}')
        self._wrote(own, before, number)
        if not kept:
            # It may be of the life before, or of this one.
            own.renew()

    async def _set_own(self):
        own = self._rng.choice(self._own)
        self._before_write(own)
        sequence, value = self._make(own.key)
        await self._write(own, 'set', sequence, value, NEVER)

    async def _add_own(self):
        own = self._rng.choice(self._own)
        before = self._before_write(own)
        kept = own.kept
        sequence, value = self._make(own.key)
        if await self._call('add', own.key, value, NEVER):
            if self._strict and kept and own.kept:
                self._unseen(own, 'add finds none')
            self._wrote(own, before, sequence)
        elif not self._was_answered():
            own.renew()
        elif self._strict and own.sequence is None:
            self._unseen(own, 'add finds one')

    async def _write(self, own, method, sequence, *arguments):
        before = self._before_write(own)
        if await self._call(method, own.key, *arguments):
            self._wrote(own, before, sequence)
        else:
            own.renew()

    async def _set_own_multi(self):
        before = [self._before_write(own) for own in self._own]
        made = {own.key: self._make(own.key) for own in self._own}
        failed = await self._call(
            'set_multi', {key: value for key, (_, value) in made.items()}
        )
        for own, then in zip(self._own, before, strict=True):
            if own.key in failed:
                own.renew()
            else:
                self._wrote(own, then, made[own.key][0])

    async def _get_own(self):
        own = self._rng.choice(self._own)
        value = await self._call('get', own.key)
        self._compare(own, value, self._ledger.check, 1)

    async def _get_own_multi(self):
        shared = self._rng.sample(SHARED, 5)
        keys = [own.key for own in self._own] + shared
        values = await self._call('get_multi', keys)
        answered = self._was_answered(len(keys))
        for key in shared:
            self._check(key, values.get(key))
        for own in self._own:
            self._compare_as(
                own, values.get(own.key), self._ledger.check, answered
            )

    async def _touch_own(self):
        own = self._rng.choice(self._own)
        touched = await self._call('touch', own.key, NEVER)
        if not self._strict:
            return
        if touched and own.sequence is None:
            self._unseen(own, 'touch finds one')
        elif not touched and self._was_answered() and own.kept:
            self._unseen(own, 'touch finds none')

    async def _delete_own(self):
        own = self._rng.choice(self._own)
        before = self._before_write(own)
        if await self._call('delete', own.key):
            if self._strict and own.sequence is None:
                self._unseen(own, 'delete finds one')
            self._wrote(own, before, None)
            return
        if (
            self._strict
            and self._was_answered()
            and self._is_steady(own, before)
            and own.kept
        ):
            self._unseen(own, 'delete finds none')
        own.renew()

    async def _compute_own(self):
        own = self._rng.choice(self._own)
        self._before_write(own)
        made = []
        value = await self._call(
            'get_or_set',
            own.key,
            self._factory(own.key, made),
            NEVER,
            lease=LEASE,
            wait=WAIT,
        )
        if not made:
            self._compare_as(own, value, self._ledger.check, True)
            return
        if self._ledger.check(own.key, value) != made[-1] and self._strict:
            self._unseen(own, f'{made} was computed')
        own.renew()

    async def _set_and_get(self):
        """Read what is written in the same turn: it is what was written."""
        own = self._rng.choice(self._own)
        before = self._before_write(own)
        sequence, value = self._make(own.key)
        if self._awaitable:
            stored, seen = await asyncio.gather(
                self._call('set', own.key, value, NEVER),
                self._call('get', own.key),
            )
        else:
            stored = await self._call('set', own.key, value, NEVER)
            seen = await self._call('get', own.key)
        if not stored:
            self._check(own.key, seen)
            own.renew()
            return
        self._wrote(own, before, sequence)
        self._compare(own, seen, self._ledger.check)

    def _before_write(self, own):
        """Return what is known of a server before something is written."""
        if own.doubled:
            own.renew()
        return own.site.life, own.site.cuts

    def _is_steady(self, own, before):
        """Whether nothing has happened to the server or its line since."""
        life, cuts = before
        now = own.site.life, own.site.cuts
        return before == now and life % 2 == 0 and cuts % 2 == 0

    def _wrote(self, own, before, sequence):
        """Take note of a write that was acknowledged."""
        own.sequence = sequence
        own.life, _ = before
        own.doubled = not self._is_steady(own, before)

    def _compare(self, own, value, check, keys=None):
        """Compare what was read with what was written.

        :param keys: how many keys were asked for, if a miss is to be told
            from a server that did not answer; None if it cannot be
        """
        answered = keys is not None and self._was_answered(keys)
        self._compare_as(own, value, check, answered)

    def _compare_as(self, own, value, check, answered):
        if value is None:
            if self._strict and answered and own.kept:
                self._unseen(own, 'there is none')
            return
        sequence = check(own.key, value)
        if not self._strict:
            return
        self._ledger.count(promises.READS)
        if sequence != own.sequence:
            self._unseen(own, f'there is {sequence}')

    def _unseen(self, own, found):
        self._ledger.report(
            promises.UNSEEN,
            f'{own.key} on {own.site}: {own.sequence} was written in life'
            f' {own.life}, now {own.site.life}: {found}',
        )
