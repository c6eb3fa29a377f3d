"""Measures for how long an event loop is held up by what is large.

``benchmarks/holdups`` sets everything up and then runs this.
"""

import contextlib
import dataclasses
import json
import math
import re
import resource
import socket
import subprocess
import sys

from benchmarks import goals, revisions, servers, tables

PORTS = 1_000
KEYS = 500_000
MANY = 100_000

SECONDS = 150
"""Nothing that is measured may take longer."""

HELD = 0.05
DEADLINE = 3
LATE = 0.3
"""Seconds: the goals."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that may hold up a loop.

    :ivar str text: what it is, for people
    :ivar str name: the function of ``revisions/holdups.py``
    :ivar dict goals: by figure, ``(sign, bound)``
    :ivar int up: how many servers answer
    :ivar int down: how many refuse
    :ivar dict options: further arguments
    """

    text: str
    name: str
    goals: dict
    up: int = 0
    down: int = 0
    options: dict = dataclasses.field(default_factory=dict)


def _cases():
    held = {'held': ('<=', HELD)}
    ketama = {'distribution': 'ketama'}
    for up in (1, 100, PORTS):
        yield Case(
            f'get_multi of {MANY:,} keys, {up:,} up',
            'get_multi',
            {**held, 'found': ('>=', MANY)},
            up,
            options={'count': MANY, 'socket_timeout': 60},
        )
    yield Case(
        f'get_multi of {MANY:,} keys, {PORTS:,} up, ketama',
        'get_multi',
        {**held, 'found': ('>=', MANY)},
        PORTS,
        options={'count': MANY, 'socket_timeout': 60, **ketama},
    )
    for up in (1, PORTS):
        yield Case(
            f'set_multi of {MANY:,} keys, {up:,} up',
            'set_multi',
            held,
            up,
            options={'count': MANY, 'socket_timeout': 60},
        )
    for down in (200, PORTS):
        for kind in ('modula', 'ketama'):
            yield Case(
                f'get_multi of {MANY:,} keys, {down:,} refuse, {kind}',
                'get_multi',
                {**held, 'took': ('<=', DEADLINE + LATE)},
                down=down,
                options={
                    'count': MANY,
                    'socket_timeout': DEADLINE,
                    'distribution': kind,
                },
            )
    yield Case(
        f'get_multi of {MANY:,} keys, 900 up, 100 refuse',
        'get_multi',
        held,
        900,
        100,
        options={'count': MANY, 'socket_timeout': 60},
    )
    yield Case(
        f'set_servers of {PORTS:,}, ketama',
        'set_servers',
        held,
        PORTS,
        options=ketama,
    )
    for method, count in {
        'get': 200,
        'get_multi': 200,
        'gets': 1,
        'gat': 1,
        'get_or_set': 1,
    }.items():
        yield Case(
            f'{method}: {count} compressed, 4 MB',
            'large',
            held,
            1,
            options={'method': method, 'count': count},
        )
    yield Case(
        f'get_multi of {KEYS:,} keys, 1 up',
        'get_multi',
        {**held, 'found': ('>=', KEYS)},
        1,
        options={'count': KEYS, 'calls': 1, 'socket_timeout': 60},
    )
    yield Case(
        f'get_multi of {KEYS:,} keys, 1 up, blocking',
        'blocking_get_multi',
        {'found': ('>=', KEYS)},
        1,
        options={'count': KEYS},
    )
    yield Case(
        f'a client of {PORTS:,}, ketama',
        'make',
        {'took': ('<=', 1)},
        PORTS,
        options=ketama,
    )
    yield Case(
        'what a key of a dead server costs more, 900 up, 100 down, ketama',
        'dead_key',
        {'took': ('<=', 20e-6)},
        900,
        100,
        options={'count': MANY, **ketama},
    )


CASES = list(_cases())


@contextlib.contextmanager
def memcached():
    """Run a memcached that is found on many ports, with many keys.

    :rtype: list(int)
    """
    options = ('-c', '8192', '-m', '1024', '-I', '8m')
    with servers.memcached_on_many_ports(PORTS, *options) as ports:
        with socket.create_connection(('127.0.0.1', ports[0])) as connection:
            for first in range(0, KEYS, MANY):
                connection.sendall(
                    b''.join(
                        b'set key:%d 0 0 1 noreply\r\nv\r\n' % number
                        for number in range(first, first + MANY)
                    )
                )
            connection.sendall(b'version\r\n')
            if connection.recv(7) != b'VERSION':
                raise RuntimeError('memcached did not take all keys')
        yield ports


@contextlib.contextmanager
def refusing():
    """Hold many ports that refuse connections.

    :rtype: list(int)
    """
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(PORTS)]
        for each in bound:
            each.bind(('127.0.0.1', 0))
        yield [each.getsockname()[1] for each in bound]


def measure(case, place, up, down):
    """Return the figures of a case, without end where it took too long.

    :rtype: dict
    """
    ports = up[: case.up] + down[: case.down]
    arguments = {
        'servers': [f'127.0.0.1:{port}' for port in ports],
        **case.options,
    }
    try:
        said, _ = revisions.run(
            place,
            revisions.SCRIPTS / 'holdups.py',
            case.name,
            json.dumps(arguments),
            timeout=SECONDS,
            PYTHONHASHSEED='0',
        )
    except subprocess.TimeoutExpired:
        return {'held': math.inf, 'took': math.inf}
    return json.loads(said)


FIGURES = {
    'held': 'longest hold-up',
    'busy': '  its own work',
    'took': 'time',
    'found': 'found',
}


def rows(case, figures):
    """Return the rows of a case, one for each figure.

    :param dict figures: by checkout, what was measured
    """
    there = [
        name
        for name in FIGURES
        if name in case.goals
        or any(each.get(name) is not None for each in figures.values())
    ]
    yield [case.text, *([''] * (len(figures) + 2))]
    for name in there:
        sign, bound = case.goals.get(name, ('', None))
        values = [each.get(name) for each in figures.values()]
        target = goals.Target('', values[-1], sign, bound)
        yield [
            f'  {FIGURES[name]}',
            *(_shown(name, value) for value in values),
            f'{sign} {_shown(name, bound)}' if sign else '',
            target.verdict if sign else '',
        ]


def _shown(name, value):
    if name == 'found' or value is None:
        return tables.MISSING if value is None else f'{value:,}'
    if value == math.inf:
        return f'> {SECONDS} s'
    if value < 0.001:
        return f'{tables.number(value, 1e6)} us'
    if value < 1:
        return f'{tables.number(value, 1e3)} ms'
    return f'{tables.number(value)} s'


def main():
    """Print tables, and return 0: what is not reached is a result."""
    options = _parse()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = []
    with (
        memcached() as up,
        refusing() as down,
        revisions.places(options.against) as places,
    ):
        for case in CASES:
            if not re.search(options.only, case.text):
                continue
            print(f'  {case.text}', file=sys.stderr, flush=True)
            found += rows(
                case,
                {
                    name: measure(case, place, up, down)
                    for name, place in places.items()
                },
            )
    print(
        tables.table(
            'What holds up the loop, and for how long',
            ['', *places, 'to reach', ''],
            found,
        )
    )
    return 0


def _parse():
    parser = revisions.parser('benchmarks/holdups', __doc__.split('\n')[0])
    parser.add_argument(
        '--only',
        metavar='PATTERN',
        default='',
        help='only what this regular expression is found in',
    )
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
