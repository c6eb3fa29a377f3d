"""One contender under one load, in a process of its own.

Reads from standard input what to run, as JSON, and prints the figures as
JSON. So contenders share no event loop, no garbage and no threads.
"""

import json
import sys

from benchmarks import (
    blocking,
    bounds,
    contenders,
    early,
    loads,
    loops,
    turns,
)

ASYNCHRONOUS = {**contenders.ASYNCHRONOUS, **bounds.ASYNCHRONOUS}


def main():
    task = json.load(sys.stdin)
    figures = KINDS[task.pop('kind')](**task)
    json.dump(figures, sys.stdout)


def _in_loop(loop, contender, options, load, addresses, **parameters):
    loop = loops.new(loop)
    addresses = [(host, port) for host, port in addresses]
    contestant = ASYNCHRONOUS[contender](**options)
    try:
        return loop.run_until_complete(
            loads.run(contestant, load, addresses, **parameters)
        )
    finally:
        loop.close()


KINDS = {
    'asynchronous': _in_loop,
    'blocking': blocking.run,
    'turns': turns.run,
    'holders': turns.hold,
    'early': early.run,
}


if __name__ == '__main__':
    main()
