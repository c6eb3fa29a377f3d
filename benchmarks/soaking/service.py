"""A service that says nothing of servers that are in trouble.

``python -m benchmarks.soaking.service KIND PORT`` is
``python -m benchmarks.stopped KIND PORT`` otherwise.
"""

import logging

from benchmarks import stopped

if __name__ == '__main__':
    logging.getLogger('sprockets').setLevel(logging.ERROR)
    stopped.main()
