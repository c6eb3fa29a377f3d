"""Counts the instructions of an awaited read, with valgrind's callgrind.

``benchmarks/instructions`` sets everything up and then runs this.
"""

import concurrent.futures
import importlib.util
import itertools
import os
import re
import sys

from benchmarks import revisions, servers, tables

CALLGRIND = (
    *('valgrind', '--tool=callgrind'),
    f'--callgrind-out-file={os.devnull}',
)

READS = {1: (100, 600), 64: (10, 90)}
"""By callers, how often each reads: once less and once more."""


def count(address, place, loop, callers, reads):
    """Return how many instructions a process takes for some reads.

    :rtype: int
    """
    _, said = revisions.run(
        place, 'reads.py', address, loop, callers, reads, under=CALLGRIND
    )
    return int(re.search(r'Collected : (\d+)', said)[1])


def of_a_read(least, callers):
    """Return the instructions of one read.

    :param least: by reads of each caller, the instructions of a process
    :rtype: float
    """
    few, many = READS[callers]
    return (least[many] - least[few]) / ((many - few) * callers)


def measure(address, places, loops, rounds):
    """Return the instructions of a read, by checkout, loop and callers.

    :rtype: dict
    """
    tasks = [
        (name, loop, callers, reads)
        for _ in range(rounds)
        for loop, callers in itertools.product(loops, READS)
        for name in places
        for reads in READS[callers]
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        counts = executor.map(
            lambda task: count(address, places[task[0]], *task[1:]), tasks
        )
        least = {}
        for (*what, reads), found in zip(tasks, counts, strict=True):
            # What comes on top, such as a look that found nothing yet, is
            # the machine's.
            of_this = least.setdefault(tuple(what), {})
            of_this[reads] = min(found, of_this.get(reads, found))
    return {what: of_a_read(each, what[-1]) for what, each in least.items()}


def report(found, places):
    """Return the counts as text.

    :rtype: str
    """
    this = revisions.THIS
    others = [name for name in places if name != this]
    header = ['', *places, *(f'{this} / {name}' for name in others)]
    rows = []
    for _, loop, callers in [key for key in found if key[0] == this]:
        of = {name: found[name, loop, callers] for name in places}
        rows.append(
            [
                f'{loop}, {callers} caller{"s" if callers > 1 else ""}',
                *(f'{of[name]:,.0f}' for name in places),
                *(f'{of[this] / of[name]:.3f}' for name in others),
            ]
        )
    return tables.table('Instructions of an awaited read', header, rows)


def main():
    """Print a table, and return 0."""
    parser = revisions.parser(
        'benchmarks/instructions', __doc__.split('\n')[0]
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='how often all is counted, of which the least is taken;'
        ' %(default)s if not given',
    )
    options = parser.parse_args()
    loops = ['asyncio']
    if importlib.util.find_spec('uvloop') is not None:
        loops.append('uvloop')
    with (
        servers.memcached() as port,
        revisions.places(options.against) as places,
    ):
        address = f'127.0.0.1:{port}'
        found = measure(address, places, loops, options.rounds)
    print(report(found, places))
    return 0


if __name__ == '__main__':
    sys.exit(main())
