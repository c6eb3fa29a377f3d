"""What Python gives out for a read that waits, and for a client at rest."""

from benchmarks import contenders, servers, tables

NAME = 'memory'
TITLE = 'asyncio: memory'
FIGURES = ['bytes']

SERVERS = 64
WAITING = {'what': 'a waiting get'}
IDLE = {'what': f'an idle client of {SERVERS} servers'}
CELLS = [WAITING, IDLE]


def measure(bench, cells):
    # An executor would wait for the threads that wait for the server.
    if WAITING in cells:
        with servers.silent() as port:
            task = {'load': 'waiting', 'ports': [port], 'counting': False}
            bench.interleave(
                NAME, WAITING, dict.fromkeys(contenders.AWAITED, task)
            )
    if IDLE in cells:
        with servers.memcached_on_many_ports(SERVERS) as ports:
            servers.fill(ports[0], [100])
            task = {'load': 'idle', 'ports': ports}
            names = [
                name
                for name in contenders.AWAITED
                if name not in contenders.OF_ONE_SERVER
            ]
            bench.interleave(NAME, IDLE, dict.fromkeys(names, task))


def report(results):
    return [tables.by_contender(results, NAME, 'what', 'bytes')]
