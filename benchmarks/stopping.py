"""Counts the requests that a service loses when it is told to stop.

``benchmarks/stopping`` sets everything up and then runs this.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

from benchmarks import ports, servers, stopped, tables

CONNECTIONS = 32
MILLISECONDS = (0, 50, 1000)
BEFORE = 1.3
"""Seconds of load before it: in the middle of requests of one second."""
PATIENCE = 120


def arguments():
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog='benchmarks/stopping', description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        '--runs', type=int, default=10, help='of each case (10)'
    )
    parser.add_argument(
        '--only',
        choices=tuple(stopped.KINDS),
        action='append',
        help='only this kind of service; may be repeated',
    )
    return parser.parse_args()


def start(kind, memcached):
    """Start a service, and return its process and its port once it serves.

    :param str kind: one of ``stopped.KINDS``
    :param int memcached: memcached's port
    """
    port = ports.free_port()
    process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.stopped', kind, str(port)],
        env={**os.environ, 'MEMCACHED_SERVERS': f'127.0.0.1:{memcached}'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A signal is for all of its processes, as systemd and Ctrl-C send it.
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            return process, port
        except ConnectionRefusedError:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    raise RuntimeError(f'{kind} does not start: {errors}')


def run(kind, path, number, memcached):
    """Stop a service under load once, and return what came of it.

    :param str path: what wrk asks for
    :param signal.Signals number: what tells the service to stop
    :rtype: dict
    """
    process, port = start(kind, memcached)
    load = subprocess.Popen(
        [
            *('wrk', '-t1', f'-c{CONNECTIONS}'),
            # It is told to end, but behind the service: what it waits for by
            # then would seem to be lost.
            f'-d{2 * PATIENCE}s',
            f'http://127.0.0.1:{port}{path}',
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(BEFORE)
        os.killpg(process.pid, number)
        begun = time.monotonic()
        counts, errors = process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - begun
        load.send_signal(signal.SIGINT)
        output, _ = load.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        load.kill()
    answered = _number(r'(\d+) requests in', output)
    return {
        'answered': answered,
        'refused': _number(r'Non-2xx or 3xx responses: (\d+)', output),
        # wrk's own errors are connections that were refused afterwards.
        'lost': sum(map(int, counts.split())) - answered,
        'seconds': seconds,
        'status': process.returncode,
        'errors': errors,
    }


def _number(pattern, output):
    found = re.search(pattern, output)
    return int(found[1]) if found else 0


def case(kind, path, number, runs, memcached):
    """Return a row of the table, and whether all is as it should be."""
    results = [run(kind, path, number, memcached) for _ in range(runs)]
    for result in results:
        if result['errors']:
            print(result['errors'], file=sys.stderr)
    bad = [
        result
        for result in results
        if result['refused']
        or result['lost']
        or result['status']
        or result['errors']
        or not result['answered']
    ]
    row = [
        f'{kind}, {path}, {signal.Signals(number).name}',
        tables.number(sum(result['answered'] for result in results)),
        str(sum(result['refused'] for result in results)),
        str(sum(result['lost'] for result in results)),
        f'{max(result["seconds"] for result in results):.2f}',
        f'{runs - len(bad)} of {runs}',
    ]
    return row, not bad


def main():
    """Measure, and return the exit status."""
    options = arguments()
    good = True
    rows = []
    with servers.memcached() as memcached:
        for kind in options.only or stopped.KINDS:
            for number in (signal.SIGTERM, signal.SIGINT):
                for what in ('read', 'computed'):
                    for milliseconds in MILLISECONDS:
                        row, right = case(
                            kind,
                            f'/{what}/{milliseconds}',
                            number,
                            options.runs,
                            memcached,
                        )
                        print(*row, sep='  ', file=sys.stderr, flush=True)
                        rows.append(row)
                        good = good and right
    print(
        tables.table(
            f'Stopped under wrk -c{CONNECTIONS}',
            [
                *('service, path, signal', 'answered', 'not 200', 'lost'),
                *('seconds to end', 'clean runs'),
            ],
            rows,
        )
    )
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
