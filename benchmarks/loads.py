"""What is asked of an asynchronous contender: closed and open loops.

Each load is given a contender and ``start``, which has to be awaited before
the contender is used, and returns its figures:

``reads_per_second``
    Answers in the time measured (of the mix: calls of all kinds).
``p50``, ``p99``
    Seconds that callers waited.
``cpu_per_read``
    Seconds of this process' CPU, all of its threads, for each answer. The
    server's and the proxy's are not in it; the load's own are: some 0.5 us.
``held``, ``busy``
    Seconds of the loop's longest turn, and of the turn that took most of its
    thread's CPU.
``bytes``
    Memory that Python has given out.
``connections``
    How many the first server has from the contender after the load;
    ``connections_opened``: during all of it.

Every answer is compared with what was stored: one that is wrong, or missing,
makes the load fail.
"""

import array
import asyncio
import contextlib
import gc
import importlib
import itertools
import random
import socket
import subprocess
import sys
import time
import tracemalloc

from benchmarks import arrivals, data, servers, ticker

COMMANDS = ('get', 'set', 'incr')
RECEIVE_BYTES = 65_536
SEED = 20_000

WARM_UP_READS = 20
"""Reads of each caller that come before those that are counted."""

WAITING = 10_000
"""Reads that wait while their memory is looked at."""

IDLE_READS = 1_000
"""So many that each of some servers has one."""

QUIET_SECONDS = 0.2
"""After that, nothing goes on that was begun before."""


RARELY = 50_000, 20, 100
"""Thresholds of a garbage collector that is left little to do."""


def _freeze_and_collect_rarely():
    gc.freeze()
    gc.set_threshold(*RARELY)


COLLECTORS = {
    'as it is': lambda: None,
    'frozen': gc.freeze,
    'frozen, rare': _freeze_and_collect_rarely,
    'off': gc.disable,
}
"""What an application may do with its garbage collector once it has begun."""


class Collections:
    """Counts the time of the garbage collector, in a ``with`` block.

    :ivar float seconds: of all collections
    :ivar float longest: seconds of the longest
    """

    def __init__(self):
        self.seconds = self.longest = 0.0
        self._began = 0.0

    def __enter__(self):
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *error):
        gc.callbacks.remove(self._note)

    def _note(self, phase, info):
        now = time.perf_counter()
        if phase == 'start':
            self._began = now
            return
        seconds = now - self._began
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


class WrongAnswerError(Exception):
    """A contender gave another answer than the right one."""


def percentile(ordered, percent):
    """Return the value below which `percent` of the ordered values lie.

    :param list ordered: at least one value
    :param float percent: 0 to 100
    """
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def closed(
    contender,
    start,
    *,
    callers,
    seconds,
    warm_up,
    size=100,
    objects=0,
    collector='frozen',
):
    """Let callers read, each the next key as soon as it has its answer.

    :param int callers: how many at once
    :param float seconds: how long is measured
    :param float warm_up: seconds before that
    :param int size: bytes of a value
    :param int objects: how many the application holds besides
    :param str collector: a name of :data:`COLLECTORS`
    :rtype: dict
    """
    held = [[number] for number in range(objects)]
    await start()
    pairs = data.pairs(contender, size)
    source = random.Random(SEED)
    get = contender.get
    now = time.perf_counter
    waits = []
    going = [True]

    async def read(pairs):
        record = waits.append
        for key, expected in pairs:
            begin = now()
            if await get(key) != expected:
                raise WrongAnswerError(key)
            record(now() - begin)
            if not going:
                break

    # Each walks through all keys from a place of its own.
    readers = [read(_from_anywhere(pairs, source)) for _ in range(callers)]
    figures = await _measure(
        *(get(pairs[0][0]), readers, waits, going, seconds, warm_up),
        collector=collector,
    )
    del held
    return figures


async def mixed(
    contender, start, *, callers, seconds, warm_up, shares, size=100
):
    """Like :func:`closed`, with reads, writes and increments.

    :param shares: the shares of get, set and incr
    :rtype: dict
    """
    await start()
    pairs = data.pairs(contender, size)
    counters = [contender.key(name) for name in data.counters()]
    source = random.Random(SEED)
    get, set_, incr = contender.get, contender.set, contender.incr
    now = time.perf_counter
    waits = []
    going = [True]

    async def call(commands, pairs, counters):
        record = waits.append
        for command, (key, expected) in zip(commands, pairs, strict=False):
            begin = now()
            if command == 'get':
                right = await get(key) == expected
            elif command == 'set':
                right = await set_(key, expected)
            else:
                right = await incr(next(counters)) > 1
            if not right:
                raise WrongAnswerError(command, key)
            record(now() - begin)
            if not going:
                break

    workers = [
        call(
            itertools.cycle(source.choices(COMMANDS, shares, k=1_000)),
            _from_anywhere(pairs, source),
            _from_anywhere(counters, source),
        )
        for _ in range(callers)
    ]
    return await _measure(
        get(pairs[0][0]), workers, waits, going, seconds, warm_up
    )


def _from_anywhere(items, source):
    """Cycle through items from a random one on."""
    start = source.randrange(len(items))
    return itertools.islice(itertools.cycle(items), start, None)


async def _measure(
    first, callers, waits, going, seconds, warm_up, collector='frozen'
):
    """Run the callers for a while, then let each have its last answer."""
    # Pools that are made by the first call are not made by all at once.
    await first
    running = asyncio.gather(*callers)
    await _unless_failed(running, warm_up)
    gc.collect()
    COLLECTORS[collector]()
    waits.clear()
    with Collections() as collections:
        cpu, begin = time.process_time(), time.perf_counter()
        await _unless_failed(running, seconds)
        cpu = time.process_time() - cpu
        duration = time.perf_counter() - begin
    answers = len(waits)
    going.clear()
    # Who waited all the time for nothing counts too, in p50 and p99.
    await running
    waits.sort()
    return {
        'reads_per_second': answers / duration,
        'p50': percentile(waits, 50),
        'p99': percentile(waits, 99),
        'cpu_per_read': cpu / answers if answers else None,
        'collecting': collections.seconds / duration,
        'collection': collections.longest,
    }


async def _unless_failed(running, seconds):
    """Sleep, or raise at once what one of the callers raised."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(running), seconds)


async def poisson(
    contender, start, *, rate, seconds, warm_up, size=100, seed=0
):
    """Read once for every arrival, whether the last answer is there or not.

    An answer's time counts from the moment the arrival was planned for, so a
    contender that holds the loop up pays for all who came meanwhile.

    :param float rate: arrivals a second
    :param int seed: of the arrivals
    :rtype: dict
    """
    await start()
    pairs = data.pairs(contender, size)
    keys = _from_anywhere(pairs, random.Random(SEED + seed))
    unmeasured = rate * warm_up
    loop = asyncio.get_running_loop()
    get = contender.get
    now = time.monotonic
    waits = array.array('d')
    notices = array.array('d')
    tasks = set()
    failures = []
    done = asyncio.Event()
    rest = bytearray()

    async def read(planned, measured, key, expected):
        if await get(key) != expected:
            raise WrongAnswerError(key)
        if measured:
            waits.append(now() - planned)

    def finished(task):
        tasks.discard(task)
        if task.exception():
            failures.append(task.exception())

    def arrived(source):
        received = source.recv(RECEIVE_BYTES)
        if not received:
            loop.remove_reader(source)
            done.set()
        rest.extend(received)
        whole = len(rest) - len(rest) % arrivals.MOMENT.size
        noticed = now()
        for (planned,) in arrivals.MOMENT.iter_unpack(rest[:whole]):
            notices.append(noticed - planned)
            measured = len(notices) > unmeasured
            task = loop.create_task(read(planned, measured, *next(keys)))
            tasks.add(task)
            task.add_done_callback(finished)
        del rest[:whole]

    # Pools that are made by the first call are not made by all at once.
    await get(pairs[0][0])
    await asyncio.gather(*[get(key) for key, _ in pairs[:64]])
    gc.collect()
    gc.freeze()
    with _arriving(rate, warm_up + seconds, seed) as source:
        cpu = time.process_time()
        loop.add_reader(source, arrived, source)
        await done.wait()
        if tasks:
            await asyncio.wait(tasks)
        cpu = time.process_time() - cpu
    if failures:
        raise failures[0]
    noticed = sorted(notices[int(unmeasured) :])
    return {
        'reads_per_second': len(waits) / seconds,
        'p50': percentile(sorted(waits), 50),
        'p99': percentile(sorted(waits), 99),
        'noticed_p50': percentile(noticed, 50),
        'noticed_p99': percentile(noticed, 99),
        'cpu_per_read': cpu / len(notices),
    }


@contextlib.contextmanager
def _arriving(rate, seconds, seed):
    """Run the process that says when somebody arrives.

    :returns: the socket that it writes to
    :rtype: socket.socket
    """
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, '-m', 'benchmarks.arrivals'),
                    *map(str, (rate, seconds, seed, theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
            )
        try:
            yield ours
        finally:
            process.terminate()
            process.wait()


async def begun(contender, start, *, callers, seconds, warm_up, size=100):
    """Let callers read that all begin at once, and watch the loop.

    All that a client does when it begins is in it, handshakes too, but for
    what is imported, which a service does before.

    :param int callers: how many at once
    :param float seconds: how long they go on
    :param int size: bytes of a value
    :rtype: dict
    """
    pairs = data.pairs(contender, size)
    source = random.Random(SEED)
    going = [True]
    walks = [_from_anywhere(pairs, source) for _ in range(callers)]
    for walk in walks:
        # To where it begins, which takes a while.
        next(walk)

    async def read(pairs):
        for key, expected in pairs:
            if await contender.get(key) != expected:
                raise WrongAnswerError(key)
            if not going:
                break

    importlib.import_module(getattr(contender, 'module', contender.package))
    gc.collect()
    gc.freeze()
    async with ticker.ticking() as watch:
        await start()
        # Pools that are made by the first call are not made by all at once.
        await contender.get(pairs[0][0])
        running = asyncio.gather(*map(read, walks))
        await _unless_failed(running, seconds)
        going.clear()
        await running
    return {'held': watch.held, 'busy': watch.busy}


async def counted(
    contender, start, *, callers, reads, seconds, warm_up, size=100
):
    """Let callers read a number of times each, for who counts what that takes.

    Each has a key of its own.

    :param int callers: how many at once
    :param int reads: of each
    :rtype: dict
    """
    await start()
    pairs = data.pairs(contender, size, callers)
    get = contender.get

    async def read(key, expected, times):
        for _ in range(times):
            if await get(key) != expected:
                raise WrongAnswerError(key)

    for times in (WARM_UP_READS, reads):
        await asyncio.gather(*[read(*pair, times) for pair in pairs])
        # What was made until now is not looked through again.
        gc.collect()
        gc.freeze()
    return {}


async def waiting(contender, start, *, seconds, warm_up, size=100):
    """Let many reads wait for a server that does not answer.

    :returns: the bytes that one of them takes
    :rtype: dict
    """
    keys = [contender.key(name) for name in data.names(size)][:WAITING]
    reads = [None] * len(keys)
    await start()
    # What is made once is made by this one.
    first = asyncio.ensure_future(contender.get(keys[0]))
    await asyncio.sleep(QUIET_SECONDS)
    gc.collect()
    tracemalloc.start()
    for number, key in enumerate(keys):
        reads[number] = asyncio.ensure_future(contender.get(key))
    await asyncio.sleep(QUIET_SECONDS)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answered = sum(read.done() for read in reads)
    for read in (first, *reads):
        read.cancel()
    await asyncio.gather(first, *reads, return_exceptions=True)
    # One whose connection could not be made in time may have failed.
    if answered > len(keys) / 100:
        raise WrongAnswerError(f'{answered} of {len(reads)} did not wait')
    return {'bytes': used / len(keys)}


async def idle(contender, start, *, seconds, warm_up, size=100):
    """Read from all servers, and then do nothing.

    :returns: the bytes that the client takes
    :rtype: dict
    """
    pairs = data.pairs(contender, size, IDLE_READS)
    # What is imported and made once is made by this one.
    await start()
    await contender.close()
    gc.collect()
    tracemalloc.start()
    await start()
    for key, expected in pairs:
        if await contender.get(key) != expected:
            raise WrongAnswerError(key)
    await asyncio.sleep(QUIET_SECONDS)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {'bytes': used}


LOADS = {
    load.__name__: load
    for load in (begun, closed, counted, idle, mixed, poisson, waiting)
}


async def run(
    contender, load, addresses, authority=None, counting=True, **parameters
):
    """Put a load on a contender, and close it.

    :param str load: a name of :data:`LOADS`
    :param addresses: host and port of each server
    :param str authority: the file of who signs the servers' certificates;
        None for servers without TLS
    :param bool counting: whether the first server is asked for its
        connections
    :returns: the figures
    :rtype: dict
    """
    started = False

    async def start():
        nonlocal started
        await contender.start(addresses, authority)
        started = True

    port = addresses[0][1]
    if counting:
        open_before, opened_before = servers.connections(port, authority)
    try:
        figures = await LOADS[load](contender, start, **parameters)
        if counting:
            open_now, opened = servers.connections(port, authority)
            figures |= {
                'connections': open_now - open_before,
                # One of them was for these statistics.
                'connections_opened': opened - opened_before - 1,
            }
    finally:
        if started:
            await contender.close()
    return figures
