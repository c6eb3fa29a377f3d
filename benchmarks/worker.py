"""One contender under one load, in a process of its own.

Reads from standard input what to run, as JSON, and prints the figures as
JSON. So contenders share no event loop, no garbage and no threads.
"""

import asyncio
import json
import sys

from benchmarks import blocking, contenders, loads


def main():
    task = json.load(sys.stdin)
    if task.pop('kind') == 'blocking':
        figures = blocking.run(**task)
    else:
        figures = _in_loop(**task)
    json.dump(figures, sys.stdout)


def _in_loop(loop, contender, options, load, addresses, **parameters):
    if loop == 'uvloop':
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    addresses = [(host, port) for host, port in addresses]
    contestant = contenders.ASYNCHRONOUS[contender](**options)
    try:
        return loop.run_until_complete(
            loads.run(contestant, load, addresses, **parameters)
        )
    finally:
        loop.close()


if __name__ == '__main__':
    main()
