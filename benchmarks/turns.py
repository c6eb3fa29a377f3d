"""What is asked of libraries of caching: an operation again and again.

All contenders are in one process and take turns of some hundredths of a
second, so that whatever else the machine does meets all of them.  What counts
is the CPU of the process, of all its threads, which others do not use up.
"""

import asyncio
import contextlib
import functools
import gc
import itertools
import threading
import time

from benchmarks import libraries

SECONDS = 0.02

PATIENCE = 2
"""Seconds that those who wait for a lock are given, at the end, to get it."""


def run(operation, names, callers, port, turns):
    """Measure an operation of each contender.

    :param str operation: a method of contenders
    :param list names: of those that have it
    :param int callers: who await it at once; 0 for one thread that blocks
    :param int port: the server's
    :param int turns: how often each contender has its turn
    :returns: by contender, its figures in each turn, or under ``'error'`` why
        there are none
    :rtype: dict[str, dict]
    """
    return asyncio.run(_run(operation, names, callers, port, turns))


async def _run(operation, names, callers, port, turns):
    figures = {}
    taken = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            contender = _contenders(callers)[name](port)
            try:
                await contender.start()
                stack.push_async_callback(contender.stop)
                call = getattr(contender, operation)()
                turn = functools.partial(
                    _turn if callers else _blocking_turn,
                    *(call, _arguments(operation, callers)),
                )
                # The first connects, and computes what the others find.
                await turn(0)
            except Exception as error:  # noqa: BLE001
                # Whatever a contender raises is its own result.
                figures[name] = {'error': f'{type(error).__name__}: {error}'}
            else:
                figures[name] = {'turns': []}
                taken[name] = turn
        gc.collect()
        gc.freeze()
        order = list(taken)
        for _ in range(turns):
            for name in order:
                figures[name]['turns'].append(await taken[name](SECONDS))
            # Nobody always follows the same other one.
            order.append(order.pop(0))
    return figures


def _contenders(callers):
    return libraries.AWAITED if callers else libraries.BLOCKING


def _arguments(operation, callers):
    """Return what each caller calls with, again and again, and what comes.

    :rtype: list
    """
    numbers = range(callers or 1)
    if operation == 'missing':
        new = map(libraries.keys_of, itertools.count(libraries.FIRST_NEW))
        return [new for _ in numbers]
    if operation in ('many', 'cached_many'):
        return [
            itertools.repeat(libraries.keys_of(number)) for number in numbers
        ]
    return [itertools.repeat(number) for number in numbers]


def _check(answer, given):
    right = libraries.VALUE
    if isinstance(given, list):
        right = dict.fromkeys(given, right)
    if answer != right:
        raise ValueError(f'{given!r}: {answer!r}'[:200])


async def _turn(call, arguments, seconds):
    """Return the CPU that a call takes, of callers that go on so long."""
    calls = 0

    async def go_on(given):
        nonlocal calls
        for each in given:
            _check(await call(each), each)
            calls += 1
            if time.perf_counter() > end:
                break

    before = time.process_time()
    end = time.perf_counter() + seconds
    await asyncio.gather(*map(go_on, arguments))
    return {'cpu': (time.process_time() - before) / calls}


async def _blocking_turn(call, arguments, seconds):
    calls = 0
    before = time.process_time()
    end = time.perf_counter() + seconds
    for each in arguments[0]:
        _check(call(each), each)
        calls += 1
        if time.perf_counter() > end:
            break
    return {'cpu': (time.process_time() - before) / calls}


def hold(name, awaited, callers, port, seconds):
    """Let callers have a lock, each again as soon as it has had it.

    :param str name: of a contender
    :param bool awaited: whether they are in a loop, or in threads
    :param float seconds: how long they go on
    :returns: when they wanted it, had it, and gave it back, and what
        was raised
    :rtype: dict
    """
    return asyncio.run(_hold(name, awaited, callers, port, seconds))


async def _hold(name, awaited, callers, port, seconds):
    contender = _contenders(awaited)[name](port)
    await contender.start()
    held = contender.hold()
    turns = []
    errors = []
    begin = time.monotonic()
    end = begin + seconds

    @contextlib.contextmanager
    def working(turn):
        turn.append(time.monotonic())
        yield
        turn.append(time.monotonic())

    def next_turn():
        turns.append([time.monotonic()])
        return working(turns[-1])

    def failed(error):
        errors.append(f'{type(error).__name__}: {error}')

    async def go_on():
        while time.monotonic() < end:
            try:
                await held(next_turn())
            # It is a figure, and not the end of the others.
            except Exception as error:  # noqa: BLE001
                failed(error)

    def go_on_blocking():
        while time.monotonic() < end:
            try:
                held(next_turn())
            except Exception as error:  # noqa: BLE001
                failed(error)

    if awaited:
        tasks = [asyncio.create_task(go_on()) for _ in range(callers)]
        await asyncio.wait(tasks, timeout=seconds + PATIENCE)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    else:
        # One that sleeps for minutes is not waited for.
        threads = [
            threading.Thread(target=go_on_blocking, daemon=True)
            for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, end + PATIENCE - time.monotonic()))
    await contender.stop()
    return {'begin': begin, 'end': end, 'turns': turns, 'errors': errors}
