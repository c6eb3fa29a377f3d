"""What is asked of blocking clients: one call after another, in turns.

All contenders are in one process, which is fair since none has threads or
anything else that goes on when it is another's turn, and takes turns of some
10 ms, so that whatever else the machine does meets all of them.
"""

import concurrent.futures
import gc
import time

from benchmarks import bounds, contenders, data

MANY = 100
TURN_SECONDS = 0.01
CLIENTS = {**contenders.BLOCKING, **bounds.BLOCKING}


def run(names, operation, size, addresses, turns, thread=False):
    """Time an operation of each contender.

    :param list names: of :data:`CLIENTS`; who lacks the operation is left out
    :param str operation: get, set, get_multi or set_multi
    :param int size: bytes of a value
    :param addresses: host and port of each server
    :param int turns: how often each has its turn
    :param bool thread: whether to call it in another than the main thread
    :returns: by contender, the seconds that one call took in each turn, and
        those of CPU, or under ``'error'`` why there are none
    :rtype: dict[str, dict]
    """
    if thread:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(
                run, names, operation, size, addresses, turns
            ).result()
    results = {}
    calls = {}
    for name in names:
        try:
            client = CLIENTS[name](addresses)
            if not hasattr(client, operation):
                continue
            call = _calls(client, operation, size)
            # The first connects, the others show how many make a turn.
            call(1)
            count = max(1, round(TURN_SECONDS / call(3)['seconds']))
        except Exception as error:  # noqa: BLE001
            # Whatever a contender raises is its own result.
            results[name] = {'error': f'{type(error).__name__}: {error}'}
        else:
            calls[name] = call, count
            results[name] = {'turns': []}
    order = list(calls)
    gc.collect()
    gc.freeze()
    for _ in range(turns):
        for name in order:
            call, count = calls[name]
            results[name]['turns'].append(call(count))
        # Nobody always follows the same other one.
        order.append(order.pop(0))
    return results


def _calls(client, operation, size):
    """Return a function that makes calls and returns one's mean figures."""
    pairs = [(name, data.value(name, size)) for name in data.names(size)]
    method = getattr(client, operation)
    if operation == 'get':
        calls = [((name,), (value,)) for name, value in pairs]
    elif operation == 'set':
        calls = [(pair, (True,)) for pair in pairs]
    else:
        groups = [
            dict(pairs[start : start + MANY])
            for start in range(0, len(pairs) - MANY + 1, MANY)
        ]
        if operation == 'get_multi':
            calls = [((list(group),), (group,)) for group in groups]
        else:
            # That all is stored, or what could not be.
            calls = [((group,), (True, [])) for group in groups]
    return lambda count: _timed(method, _some(calls, count))


def _some(items, count):
    """Return `count` items from all over."""
    return [
        items[number * len(items) // count % len(items)]
        for number in range(count)
    ]


def _timed(method, calls):
    now, works = time.perf_counter, time.thread_time
    seconds = cpu = 0.0
    for arguments, right in calls:
        worked, begin = works(), now()
        answer = method(*arguments)
        seconds += now() - begin
        cpu += works() - worked
        if answer not in right:
            raise ValueError(f'{arguments[0]!r}: {answer!r}'[:200])
    return {'seconds': seconds / len(calls), 'cpu': cpu / len(calls)}
