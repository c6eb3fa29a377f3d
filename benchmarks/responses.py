"""What a cached response costs, next to a handler that writes a constant.

``python -m benchmarks.responses`` runs an application under ``wrk -c64`` and
prints, for each handler, with and without ``If-None-Match``, the requests per
second and the time of the processor per request, in microseconds: the median
of rounds in turn, which another process disturbs little.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys

from tornado import httpserver, netutil, web

from benchmarks import servers

SIZE = 2000

HANDLERS = ('constant', 'cached')

TICKS = os.sysconf('SC_CLK_TCK')


async def serve():
    """Serve both handlers, and print the port."""
    from sprockets.clients import memcached

    body = b'x' * SIZE

    class Constant(web.RequestHandler):
        async def get(self):
            self.write(body)

    class Cached(memcached.MemcachedMixin, web.RequestHandler):
        @memcached.cached_response(600, query=['page'])
        async def get(self):
            self.write(body)

    application = web.Application(
        [('/constant', Constant), ('/cached', Cached)],
        log_function=lambda _: None,
    )
    sockets = netutil.bind_sockets(0, '127.0.0.1')
    httpserver.HTTPServer(application).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def application(port):
    """Run the application and return its process and its address."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.responses', '--serve'],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'MEMCACHED_SERVERS': f'127.0.0.1:{port}'},
    )
    try:
        yield process, f'http://127.0.0.1:{int(process.stdout.readline())}'
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def used(process):
    """Return the time of the processor that it has used, in seconds."""
    fields = pathlib.Path(f'/proc/{process.pid}/stat').read_text().split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def ask(url, seconds, *flags):
    """Return how many requests wrk has made, and how many in a second."""
    output = subprocess.run(
        ['wrk', '-t1', '-c64', f'-d{seconds}s', *flags, url],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    made = re.search(r'(\d+) requests in', output)
    rate = re.search(r'Requests/sec: *([0-9.]+)', output)
    return int(made[1]), float(rate[1])


def etag(url):
    """Return the ETag of a page."""
    output = subprocess.run(
        ['curl', '-si', '--noproxy', '*', url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.search(r'(?i)^etag: *(.*?)\s*$', output, re.MULTILINE)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--serve', action='store_true', help='be the server')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=int, default=3)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    figures = {}
    with servers.memcached() as port, application(port) as (process, address):
        tag = etag(f'{address}/cached')
        cells = [
            (handler, flags)
            for handler in HANDLERS
            for flags in ((), ('-H', f'If-None-Match: {tag}'))
        ]
        for _ in range(options.rounds):
            for cell in cells:
                handler, flags = cell
                before = used(process)
                made, rate = ask(
                    f'{address}/{handler}', options.seconds, *flags
                )
                spent = (used(process) - before) / made * 1e6
                figures.setdefault(cell, []).append((rate, spent))
            cells.append(cells.pop(0))
    first = None
    for (handler, flags), pairs in figures.items():
        rate, spent = map(statistics.median, zip(*pairs, strict=True))
        first = first or spent
        print(
            f'{handler:10} {"304" if flags else "200"} {rate:8.0f}/s'
            f' {spent:7.1f} us  {first / spent:5.2f}'
        )


if __name__ == '__main__':
    main()
