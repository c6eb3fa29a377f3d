"""The soak keeps its own promises: it ends, and finds what is wrong."""

import asyncio
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import stopped  # noqa: E402
from benchmarks.soaking import (  # noqa: E402
    callers,
    footprint,
    guest,
    host,
    promises,
    site,
    stamps,
    visitors,
)
from sprockets.clients import memcached  # noqa: E402

SECONDS = 100
"""What a soak of a few seconds may take where much else runs."""


def soak(*arguments, **options):
    """Start a soak in a process of its own."""
    return subprocess.Popen(
        [sys.executable, '-W', 'error', '-m', 'benchmarks.soak', *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


# The whole


@pytest.mark.long
def test_a_short_soak_keeps_all_promises():
    """Its table says what was called, what went wrong, and what came of it."""
    with soak('--seconds', '4', '--seed', '1') as process:
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    for promise in promises.PROMISES:
        assert re.search(rf'(?m)^{promise} +0 ', said), said
    for checked in (
        promises.VALUES,
        promises.CAS,
        promises.READS,
        'guest: calls',
    ):
        (count,) = re.findall(rf'(?m)^{checked} +([\d,]+)$', said)
        assert int(count.replace(',', '')) > 0
    (faults,) = re.findall(r'(?m)^all +(\d+)$', said)
    assert int(faults) > 0
    assert re.search(r'(?m)^get_or_set +\d', said)
    assert re.search(r'(?m)^memory +\d', said)


def processes_of(pid):
    """Return the ids of the processes that a process has started."""
    found = set()
    for children in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
        for child in children.read_text().split():
            found |= {int(child), *processes_of(child)}
    return found


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_soak_that_is_stopped_takes_its_processes_along(number):
    """Neither a memcached nor a proxy stays."""
    with soak('--seconds', '60') as process:
        assert process.stdout.readline().startswith('4 servers')
        until = time.monotonic() + SECONDS
        started = set()
        while len(started) < 8 and time.monotonic() < until:
            started = processes_of(process.pid)
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
        assert process.returncode != 0
    while time.monotonic() < until:
        left = [
            pid for pid in started if pathlib.Path(f'/proc/{pid}').exists()
        ]
        if not left:
            break
        time.sleep(0.05)
    assert len(started) >= 8
    assert left == []


# Values


@pytest.mark.parametrize('sequence', [3, 4, 5])
def test_a_value_tells_its_number(sequence):
    """It does so as text, as bytes and as a dict."""
    value = stamps.make('key', sequence, random.Random(1))
    assert stamps.read('key', value) == sequence


@pytest.mark.parametrize('sequence', [3, 4, 5])
def test_a_value_of_another_key_is_wrong(sequence):
    """So is none at all, and one of another type."""
    value = stamps.make('another', sequence, random.Random(1))
    for wrong in (value, None, 7, str(value)[1:]):
        with pytest.raises(stamps.WrongValueError):
            stamps.read('key', wrong)


def test_a_value_that_was_damaged_is_wrong():
    """Its checksum is another one then."""
    value = stamps.make('key', 3, random.Random(1))
    assert value.startswith('key|3|')
    with pytest.raises(stamps.WrongValueError):
        stamps.read('key', value.replace('key|3|', 'key|6|'))
    value = stamps.make('key', 5, random.Random(1))
    with pytest.raises(stamps.WrongValueError):
        stamps.read('key', {**value, 'sequence': 8})


def test_a_number_of_another_key_is_wrong():
    """A number has no room for more than its key's checksum."""
    assert stamps.read_number('key', stamps.make_number('key', 7)) == 7
    with pytest.raises(stamps.WrongValueError):
        stamps.read_number('key', stamps.make_number('another', 7))


# The ledger


def test_a_number_that_is_acknowledged_twice_is_a_lost_cas():
    """One of the two overwrote what the other had stored."""
    ledger = promises.Ledger()
    ledger.acknowledge('key', stamps.Count('0.0', 1, 11))
    ledger.acknowledge('key', stamps.Count('0.2', 1, 12))
    ledger.acknowledge('another', stamps.Count('0.0', 1, 13))
    assert not ledger.broken
    ledger.acknowledge('key', stamps.Count('0.0', 1, 14))
    assert ledger.broken == {promises.LOST: 1}


def test_a_counter_that_goes_back_is_a_lost_cas():
    """What was acknowledged before it was read has to be in it."""
    ledger = promises.Ledger()
    old = stamps.make_count('key', stamps.Count('0.0', 1, 11))
    before = ledger.highest('key')
    ledger.acknowledge('key', stamps.Count('0.0', 2, 12))
    ledger.check_count('key', old, before)
    assert not ledger.broken
    ledger.check_count('key', old, ledger.highest('key'))
    assert ledger.broken == {promises.LOST: 1}


def test_a_call_is_late_unless_the_machine_is():
    """A lag that was measured meanwhile excuses it, and its own work."""
    ledger = promises.Ledger()
    ledger.over('get', 'caller', 1.2, bound=1.1, busy=0)
    ledger.over('get', 'caller', 2.5, bound=1.1, busy=1.2)
    assert not ledger.broken
    ledger.over('get', 'caller', 2.5, bound=1.1, busy=0)
    assert ledger.broken == {promises.LATE: 1}
    ledger.loop_lags.note(time.monotonic() - 0.5)
    ledger.over('get', 'caller', 2.5, bound=1.1, busy=0)
    assert ledger.broken == {promises.LATE: 1}
    assert ledger.longest == {'get': 2.5}


def test_growth_is_reported():
    """So are connections that are left."""
    ledger = promises.Ledger()
    limits = footprint.Footprint(100, 50, 60, 10, 10, [4, 4], [4, 4])
    closed = footprint.Footprint(100, 50, 60, 2, 2, [0, 0], [0, 0])
    footprint.compare(ledger, limits, limits, limits, closed)
    assert not ledger.broken
    for grown in (
        limits._replace(memory=101),
        limits._replace(blocks=51),
        limits._replace(allocated=61),
        limits._replace(threads=11),
        limits._replace(files=11),
        limits._replace(connections=[4, 5]),
    ):
        footprint.compare(ledger, limits, grown, limits, closed)
    for left in (
        closed._replace(accepted=[0, 1]),
        closed._replace(blocks=51),
        closed._replace(allocated=61),
    ):
        footprint.compare(ledger, limits, limits, limits, left)
    assert ledger.broken == {promises.GROWTH: 9}


def test_what_is_in_use_is_measured():
    """Objects as well as what the C library has, which is free after that."""
    with site.Site(0, ['counter:1']) as server:
        before = footprint.take([server])
        kept = [[number] for number in range(10_000)]
        large = bytearray(3 << 20)
        grown = footprint.take([server])
        del kept, large
        after = footprint.take([server])
    assert grown.blocks >= before.blocks + 10_000
    assert after.blocks < before.blocks + 1_000
    if before.allocated:
        assert grown.allocated >= before.allocated + (3 << 20)
        assert after.allocated < before.allocated + (1 << 20)


# Callers


class Steady:
    """A server to which nothing happens."""

    number = 0
    life = 0
    cuts = 0


class Client:
    """A blocking client that stores, and then says what a test wants."""

    def __init__(self, **answers):
        self._answers = answers
        self.values = {}

    def set(self, key, value, *arguments):
        self.values[key] = value
        return True

    def __getattr__(self, method):
        # Other methods give what they give where there is no server.
        answer = self._answers.get(method, lambda client, key: None)
        return lambda key, *arguments, **options: answer(self, key)


def caller(client, ledger):
    """Return a caller of a blocking client with one server."""
    return callers.Caller(
        'me', client, False, True, [Steady()], ledger, random.Random(1)
    )


def read_own(client):
    """Have a caller read what it wrote, and return what was broken."""
    ledger = promises.Ledger()
    one = caller(client, ledger)

    async def main():
        for _ in range(callers.OWN * 5):
            await one._set_own()
            await one._get_own()

    asyncio.run(main())
    return ledger.broken


def test_a_caller_that_reads_what_it_wrote_has_nothing_to_report():
    """Nor has one that is told that there is nothing, for all it knows."""
    client = Client(get=lambda client, key: client.values.get(key))
    assert read_own(client) == {}
    assert read_own(Client(get=lambda client, key: None)) == {}


def test_a_caller_notices_another_keys_value():
    """It is a wrong value."""
    client = Client(get=lambda client, key: 'another|3|abc|123')
    assert read_own(client)[promises.WRONG] > 0


def test_a_caller_notices_an_old_value():
    """It is the key's, and still not the one that was written last."""
    old = {}
    client = Client(
        get=lambda client, key: old.setdefault(key, client.values.get(key))
    )
    broken = read_own(client)
    assert set(broken) == {promises.UNSEEN}


def test_a_caller_notices_an_error():
    """A cache that is down raises nothing."""
    gate = callers.Gate()

    def fail(client, key):
        gate.is_over = True
        raise OSError('down')

    client = Client(**dict.fromkeys(('get', 'get_multi', 'gets'), fail))
    ledger = promises.Ledger()
    one = caller(client, ledger)
    asyncio.run(one.run(gate))
    assert ledger.broken == {promises.RAISED: 1}


# Servers


def test_a_server_that_lives_again_has_its_counters():
    """At 0, in another life, and with the cas uniques from before."""
    keys = ['counter:1', 'counter:2']
    with site.Site(0, keys) as server:
        first = server._read()
        server.kill()
        assert server.life % 2 == 1
        server.start()
        second = server._read()
        assert server.connections() == 0
    uniques = [
        {key: unique for key, (_, unique) in each.items()}
        for each in (first, second)
    ]
    assert uniques[0] == uniques[1]
    counts = [
        stamps.read_count(key, each[key][0])
        for each in (first, second)
        for key in keys
    ]
    assert counts == [
        stamps.Count(life, 0, 0) for life in ('0.0', '0.2') for _ in keys
    ]


# The guest's troubles


def test_no_thread_can_be_started_for_a_while():
    """It fails as where there are too many, and nothing is left of it."""
    thread = threading.Thread(target=int)
    with (
        guest.no_threads(),
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        thread.start()
    another = threading.Thread(target=int)
    another.start()
    another.join()


def test_no_file_can_be_opened_for_a_while():
    """Nor a socket."""
    with guest.no_files(), pytest.raises(OSError, match='Too many open'):
        socket.socket()
    socket.socket().close()


def test_the_process_is_stopped_for_a_while():
    """Until that is over, whoever waits for it."""
    program = (
        'import time; from benchmarks.soaking import guest\n'
        'longest, then = 0, time.monotonic()\n'
        'with guest.stopped(0.5):\n'
        '    while longest < 0.4:\n'
        '        now = time.monotonic()\n'
        '        longest, then = max(longest, now - then), now\n'
    )
    subprocess.run(
        [sys.executable, '-W', 'error', '-c', program],
        cwd=ROOT,
        timeout=SECONDS,
        check=True,
    )


# Services that are told to stop


@pytest.mark.parametrize('stopped_for', [0, 0.4])
@pytest.mark.parametrize('kind', stopped.KINDS)
def test_a_service_that_stops_is_visited(memcached_server, kind, stopped_for):
    """All that was begun was answered, which is what is counted."""
    people = visitors.Visitors(1, [memcached_server.address])
    people.visit(kind, signal.SIGTERM, '/read/50', 0.5, stopped_for)
    counts, broken = people.tell()
    assert broken == []
    assert counts[promises.REQUESTS] > 0


def test_a_request_that_is_lost_is_noticed(monkeypatch, memcached_server):
    """So is one that is answered otherwise, and an exit status."""
    monkeypatch.setattr(visitors, 'SERVICE', ('-c', LOSING))
    people = visitors.Visitors(1, [memcached_server.address])
    people.visit('any', signal.SIGTERM, '/', 0.5)
    _, [(promise, text)] = people.tell()
    assert promise == promises.STOPPED
    assert re.search(r"[12] lost, .*\(500, 'oh'\): \d+.*, status 3, why", text)


LOSING = """
import http.server, signal, sys

count = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        self.send_response(500)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'oh')

    def log_message(self, *arguments):
        pass

def end(*arguments):
    # One more than there were, beside one that may be under way.
    print(count + 1)
    print('why', file=sys.stderr)
    sys.stdout.flush()
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
port = int(sys.argv[2])
http.server.HTTPServer(('127.0.0.1', port), Handler).serve_forever()
"""


def test_an_executor_that_refuses_and_drops():
    """And works again after that."""
    executor = guest.Executor(1)
    try:
        with executor.refusing(), pytest.raises(RuntimeError):
            executor.submit(int)
        with executor.dropping():
            waiting = executor.submit(int)
            assert not waiting.done()
        assert waiting.cancelled()
        assert executor.submit(int).result(SECONDS) == 0
    finally:
        executor.shutdown()


def test_a_ctrl_c_that_comes_while_it_is_wanted():
    """And does not where all was over before."""
    handler = signal.getsignal(signal.SIGALRM)
    try:
        interrupt = guest.Interrupt()
        with pytest.raises(KeyboardInterrupt), interrupt.after(0.01):
            time.sleep(SECONDS)
        with interrupt.after(0.05):
            pass
        time.sleep(0.1)
    finally:
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize('connections', [3, 4])
def test_a_connection_that_is_missing_is_noticed(connections):
    """A client has one fewer in flight then."""
    ledger = promises.Ledger()

    async def main(server):
        client = memcached.AsyncClient(
            servers=server.address,
            socket_timeout=guest.TIMEOUT,
            max_connections=connections,
        )
        await host.fill(
            server, ledger, 'client', lambda: guest.fill(client, 0)
        )
        await client.close()

    with site.Site(0, ['counter:1']) as server:
        asyncio.run(main(server))
    assert ledger.broken == ({} if connections == 4 else {promises.PERMITS: 1})
