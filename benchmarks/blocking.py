"""What is asked of blocking clients: one call after another, in turns.

All contenders are in one process, which is fair since none has threads or
anything else that goes on when it is another's turn, and takes turns of some
10 ms, so that whatever else the machine does meets all of them.
"""

import gc
import time

from benchmarks import contenders, data

MANY = 100
TURN_SECONDS = 0.01


def run(names, operation, size, addresses, turns):
    """Time an operation of each contender.

    :param list names: of :data:`benchmarks.contenders.BLOCKING`
    :param str operation: get, set, get_multi or set_multi
    :param int size: bytes of a value
    :param addresses: host and port of each server
    :param int turns: how often each has its turn
    :returns: by contender, the seconds that one call took in each turn, or
        under ``'error'`` why there are none
    :rtype: dict[str, dict]
    """
    results = {}
    calls = {}
    for name in names:
        try:
            client = contenders.BLOCKING[name](addresses)
            call = _calls(client, operation, size)
            # The first connects, the others show how many make a turn.
            call(1)
            count = max(1, round(TURN_SECONDS / call(3)))
        except Exception as error:  # noqa: BLE001
            # Whatever a contender raises is its own result.
            results[name] = {'error': f'{type(error).__name__}: {error}'}
        else:
            calls[name] = call, count
            results[name] = {'seconds': []}
    order = list(calls)
    gc.collect()
    gc.freeze()
    for _ in range(turns):
        for name in order:
            call, count = calls[name]
            results[name]['seconds'].append(call(count))
        # Nobody always follows the same other one.
        order.append(order.pop(0))
    return results


def _calls(client, operation, size):
    """Return a function that makes calls and returns one's mean seconds."""
    pairs = [(name, data.value(name, size)) for name in data.names(size)]
    method = getattr(client, operation)
    if operation == 'get':
        return lambda count: _timed_gets(method, pairs, count)
    if operation == 'set':
        return lambda count: _timed_sets(method, pairs, count)
    groups = [
        dict(pairs[start : start + MANY])
        for start in range(0, len(pairs) - MANY + 1, MANY)
    ]
    if operation == 'get_multi':
        return lambda count: _timed_multi_gets(method, groups, count)
    return lambda count: _timed_multi_sets(method, groups, count)


def _some(items, count):
    """Return `count` items from all over."""
    return [
        items[number * len(items) // count % len(items)]
        for number in range(count)
    ]


def _timed_gets(method, pairs, count):
    now = time.perf_counter
    spent = 0.0
    for key, expected in _some(pairs, count):
        begin = now()
        value = method(key)
        spent += now() - begin
        assert value == expected, key
    return spent / count


def _timed_sets(method, pairs, count):
    now = time.perf_counter
    spent = 0.0
    for key, value in _some(pairs, count):
        begin = now()
        stored = method(key, value)
        spent += now() - begin
        assert stored, key
    return spent / count


def _timed_multi_gets(method, groups, count):
    now = time.perf_counter
    spent = 0.0
    for expected in _some(groups, count):
        keys = list(expected)
        begin = now()
        values = method(keys)
        spent += now() - begin
        assert values == expected, keys[0]
    return spent / count


def _timed_multi_sets(method, groups, count):
    now = time.perf_counter
    spent = 0.0
    for values in _some(groups, count):
        begin = now()
        failed = method(values)
        spent += now() - begin
        assert not failed, failed
    return spent / count
