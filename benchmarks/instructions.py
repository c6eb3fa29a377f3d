"""Counts the instructions of an awaited read, with valgrind's callgrind.

``benchmarks/instructions`` sets everything up and then runs this.
"""

import sys

from benchmarks import main, scenarios

if __name__ == '__main__':
    sys.exit(
        main.main(
            'benchmarks/instructions',
            __doc__.splitlines()[0],
            scenarios.COUNTED,
        )
    )
