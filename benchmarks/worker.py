"""One contender under one load, in a process of its own.

Reads from standard input what to run, as JSON, and prints the figures as
JSON. So contenders share no event loop, no garbage and no threads.
"""

import json
import sys

from benchmarks import blocking, bounds, contenders, loads, loops

ASYNCHRONOUS = {**contenders.ASYNCHRONOUS, **bounds.ASYNCHRONOUS}


def main():
    task = json.load(sys.stdin)
    if task.pop('kind') == 'blocking':
        figures = blocking.run(**task)
    else:
        figures = _in_loop(**task)
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


if __name__ == '__main__':
    main()
