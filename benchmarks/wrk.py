"""Requests to a Tornado application, made by wrk."""

import contextlib
import re
import subprocess
import sys

CONNECTIONS = 64
PATIENCE = 30


@contextlib.contextmanager
def application(contender, port):
    """Run the application with a contender for its cache.

    :param str contender: its name
    :param int port: memcached's port
    :returns: the application's address; None if it does not start
    :rtype: str | None
    """
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'benchmarks.application'),
            *(contender, str(port)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        yield f'http://127.0.0.1:{int(line)}' if line else None
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def run(address, reads, seconds):
    """Ask for pages that take some reads each.

    :param str address: the application's; None if it did not start
    :param int reads: 0, 1 or 10
    :param int seconds: how long
    :returns: the figures, or under ``'error'`` why there are none
    :rtype: dict
    """
    if address is None:
        return {'error': 'the application did not start'}
    output = subprocess.run(
        [
            *('wrk', '-t1', f'-c{CONNECTIONS}', f'-d{seconds}s'),
            f'{address}/{reads}',
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + PATIENCE,
    ).stdout
    wrong = re.search(r'^ *(Non-2xx.*|Socket errors.*)$', output, re.MULTILINE)
    if wrong:
        return {'error': wrong[1]}
    rate = re.search(r'^Requests/sec: *([0-9.]+)', output, re.MULTILINE)
    return {'requests_per_second': float(rate[1])}
