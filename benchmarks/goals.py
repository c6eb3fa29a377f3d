"""What is to be reached, and whether the figures measured reach it."""

import dataclasses
import operator

from benchmarks import contenders, figures, rounds, tables
from benchmarks.contenders import OURS

SIGNS = {
    '<=': operator.le,
    '<': operator.lt,
    '>=': operator.ge,
    '>': operator.gt,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be reached, and what was measured.

    :ivar str text: what it is
    :ivar float measured: None for none
    :ivar str sign: of :data:`SIGNS`
    :ivar float bound: None where nothing is to be reached
    :ivar str unit: of both
    :ivar str to: whose figure it is compared with, if it is
    """

    text: str
    measured: float | None
    sign: str
    bound: float | None
    unit: str = ''
    to: str = ''

    @property
    def verdict(self):
        """``reached``, ``not reached`` or, without a figure, ``-``."""
        if self.measured is None or self.bound is None:
            return tables.MISSING
        # As it is shown: nobody can see more digits than that.
        shown = float(f'{self.measured:.3g}')
        reached = SIGNS[self.sign](shown, self.bound)
        return 'reached' if reached else 'not reached'

    @property
    def row(self):
        """Return its row in a table."""
        measured = bound = tables.MISSING
        if self.measured is not None:
            measured = f'{tables.number(self.measured)} {self.unit}'.rstrip()
        if self.bound is not None:
            bound = f'{self.sign} {self.bound:g} {self.unit}'.rstrip()
        return [self.text, self.to, measured, bound, self.verdict]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound for a figure of ours, as it is.

    :ivar str scenario: where it is measured
    :ivar dict cell: in which row
    :ivar str figure: of :data:`benchmarks.figures.ALL`
    :ivar str sign: of :data:`SIGNS`
    :ivar float bound: in the figure's unit, or of the ratio
    :ivar str ours: the contender that it is for
    """

    scenario: str
    cell: dict
    figure: str
    sign: str
    bound: float
    ours: str = OURS

    def target(self, results):
        """Return what is to be reached, and what was measured.

        :param benchmarks.results.Results results: all figures
        :rtype: Target
        """
        figure = figures.ALL[self.figure]
        own = self.own(results)
        own = None if own is None else own * figure.scale
        return Target(self.text, own, self.sign, self.bound, figure.unit)

    @property
    def text(self):
        """Return what it is, for people."""
        who = '' if self.ours == OURS else f'{self.ours}, '
        row = rounds.row(self.scenario, self.cell)
        return f'{row}: {who}{figures.ALL[self.figure].text}'

    @property
    def cells(self):
        """Return the rows that it takes."""
        return [self.cell]

    def own(self, results):
        """Return our median."""
        return results.median(self.scenario, self.cell, self.ours, self.figure)

    def ratio(self, results, other, to):
        """Return the target for how many times another figure ours is."""
        own = self.own(results)
        measured = None if own is None or not other else own / other
        return Target(self.text, measured, self.sign, self.bound, to=to)


@dataclasses.dataclass(frozen=True)
class Longest(Goal):
    """A bound for the largest figure of all rounds."""

    def own(self, results):
        return max(
            results.rounds(self.scenario, self.cell, self.ours, self.figure),
            default=None,
        )


@dataclasses.dataclass(frozen=True)
class ToBest(Goal):
    """A bound for our figure, to that of the best of others.

    :ivar tuple names: of these; None for all that took part
    """

    names: tuple | None = None

    def target(self, results):
        names = self.names
        if names is None:
            names = contenders.others(
                results.contenders(self.scenario, self.cell)
            )
        other, name = results.best(
            self.scenario,
            self.cell,
            names,
            self.figure,
            figures.ALL[self.figure].best,
        )
        return self.ratio(results, other, name or ' or '.join(names))


@dataclasses.dataclass(frozen=True)
class ToBefore(Goal):
    """A bound for our figure, to that of the revision of the goals.

    To that of any other revision there is no bound.
    """

    def target(self, results):
        other = results.median(
            self.scenario, self.cell, results.before, self.figure
        )
        bound = self.bound if results.is_baseline else None
        target = self.ratio(results, other, results.before)
        return dataclasses.replace(target, bound=bound)


@dataclasses.dataclass(frozen=True)
class ToFigure(Goal):
    """A bound for our figure, to another one of ours.

    :ivar str other: its name, if it is another one
    :ivar dict at: its row, if it is that of another
    """

    other: str | None = None
    at: dict | None = None

    @property
    def cells(self):
        return [self.cell, self.at or self.cell]

    def target(self, results):
        cell, figure = self.at or self.cell, self.other or self.figure
        other = results.median(self.scenario, cell, self.ours, figure)
        to = [] if self.at is None else [rounds.row(self.scenario, self.at)]
        if self.other is not None:
            to.append(figures.ALL[self.other].text)
        return self.ratio(results, other, ', '.join(to))


def _all():
    yield from _instructions()
    yield from _callers()
    yield from _tls()
    yield ToBefore('servers', {'servers': 16}, 'reads_per_second', '>=', 2)
    mix = {'callers': 64}
    yield ToBefore('mix', mix, 'reads_per_second', '>=', 1.3)
    yield ToBest('mix', mix, 'reads_per_second', '>', 1)
    yield Goal('tornado', {'reads': 1}, 'left', '>=', 0.97)
    yield Goal('tornado', {'reads': 10}, 'left', '>=', 0.8)
    for delay in (0, 1):
        for rate in (1_000, 4_000, 10_000):
            cell = {'rate': rate, 'ms away': delay}
            yield ToBest('arrivals', cell, 'p50', '<=', 1)
            yield ToBest('arrivals', cell, 'p99', '<=', 1)
    yield from _blocking()
    waiting = {'what': 'a waiting get'}
    yield ToBefore('memory', waiting, 'bytes', '<=', 0.85)
    yield ToBest(
        *('imports', {'over': 'nothing'}, 'start_cpu', '<=', 1.3),
        names=('tornado.web and memcache',),
    )
    yield from _distance()
    yield from _stampede()
    yield from _libraries()


def _instructions():
    for loop, one, many in [('asyncio', 0.45, 0.8), ('uvloop', 0.45, 0.75)]:
        for callers, bound in [(1, one), (64, many)]:
            cell = {'loop': loop, 'callers': callers, 'over': 'TCP'}
            yield ToBefore('instructions', cell, 'instructions', '<=', bound)
            if callers > 1:
                yield ToBest(
                    *('instructions', cell, 'instructions', '<=', 0.95),
                    names=('emcache, batching',),
                )


def _callers():
    for loop in ('asyncio', 'uvloop'):
        for callers in (1, 2, 8, 32, 64, 512):
            yield ToBest(
                'callers',
                {'loop': loop, 'callers': callers},
                'reads_per_second',
                '>=',
                1.1 if callers < 64 else 1.15,
            )
    for fewer, more in [(1, 8), (8, 64), (64, 512), (512, 4096)]:
        # Two figures of the same client, on the same machine, are as far
        # from each other when nothing changes.
        yield ToFigure(
            'callers',
            {'loop': 'asyncio', 'callers': more},
            *('cpu_per_read', '<=', 1.05),
            at={'loop': 'asyncio', 'callers': fewer},
        )
    for callers, bound in [(512, 5), (4096, 3)]:
        cell = {'loop': 'asyncio', 'callers': callers}
        yield ToFigure('callers', cell, 'p99', '<=', bound, other='p50')
    cell = {'loop': 'asyncio', 'callers': 512}
    yield Goal('callers', cell, 'connections', '<=', 4)


def _tls():
    for callers in (1, 64, 512):
        cell = {'callers': callers}
        yield ToBest(
            *('tls', cell, 'reads_per_second', '>=', 0.85),
            names=(contenders.WITHOUT_TLS,),
        )
        yield ToBest('tls', cell, 'reads_per_second', '>', 1)
    # In the longest turn there is also what it waited for a core.
    for figure in ('held', 'busy'):
        yield Longest('tls', {'callers that begin': 512}, figure, '<=', 20)


def _blocking():
    for operation in ('get', 'set'):
        cell = {'operation': f'{operation} 100 B'}
        yield ToBest(
            *('blocking', cell, 'cpu', '<=', 0.8),
            names=('python-memcached',),
        )
        for other in ('pymemcache', 'libmc', 'pylibmc'):
            yield ToBest('blocking', cell, 'cpu', '<', 1, names=(other,))
    for operation in ('get_multi', 'set_multi'):
        cell = {'operation': f'{operation} 100 B'}
        yield ToBest(
            *('blocking', cell, 'cpu', '<=', 0.4),
            names=('python-memcached',),
        )
        for figure in ('cpu', 'seconds'):
            yield ToBest(
                *('blocking', cell, figure, '<=', 1.5),
                names=(f'{contenders.BARE} socket',),
            )
    for size in (100_000, 1_000_000):
        cell = {'operation': f'get {size:,} B'}
        yield ToBest(
            *('blocking', cell, 'seconds', '<=', 1),
            names=('python-memcached', 'pymemcache'),
        )


def _distance():
    cell = {'callers': 64}
    yield Goal('distance', cell, 'p50', '<=', 2.2)
    yield ToBest(
        *('distance', cell, 'reads_per_second', '>=', 8),
        names=('aiomcache', 'emcache'),
    )


def _stampede():
    expiry = {'what': 'expiry'}
    for ours in (
        'get_or_set',
        'get_or_set, stale',
        'cached',
        'get_or_set, threads',
    ):
        yield Goal('stampede', expiry, 'computations', '<=', 1, ours=ours)
    yield Goal(
        *('stampede', expiry, 'longest', '<=', 200),
        ours='get_or_set, stale',
    )
    for what in ('64 callers', '1 caller', '1 thread'):
        for ours in ('get_or_set', 'cached'):
            yield ToBest(
                *('stampede', {'what': what}, 'p99', '<=', 1.1),
                ours=ours,
                names=('get',),
            )


def _libraries():
    for operation, bound in [
        ('a hit of a cached function', 1.1),
        ('a hit of get_or_set', 1.1),
        ('a hit with a tag', 1.6),
        ('100 hits at once', 1.15),
    ]:
        cell = {'operation': operation, 'by': '64 callers'}
        yield ToBest('libraries', cell, 'cpu', '<=', bound, names=('get',))
    for face in ('awaited', 'in threads'):
        cell = {'operation': 'a lock that 8 want, in 2 processes', 'by': face}
        yield Longest('libraries', cell, 'at_once', '<=', 1)


ALL = list(_all())
"""The goals, of all scenarios."""


def targets(results):
    """Return what is to be reached where all that it takes was measured.

    :param benchmarks.results.Results results: all figures
    :rtype: list[Target]
    """
    return [
        goal.target(results)
        for goal in ALL
        if all(cell in results.cells(goal.scenario) for cell in goal.cells)
        if results.against is not None or not isinstance(goal, ToBefore)
    ]


def table(results):
    """Return the table of what is to be reached.

    :rtype: tables.Table
    """
    return tables.Table(
        'Goals',
        ['', 'to', 'measured', 'to reach', ''],
        [target.row for target in targets(results)],
    )


def changes(results, measured):
    """Return the table of our figures, to those of the other revision.

    :param benchmarks.results.Results results: all figures
    :param measured: the scenarios
    :rtype: tables.Table
    """
    rows = []
    for scenario, cell, name in _figures(results, measured):
        own, before = (
            results.median(scenario, cell, who, name)
            for who in (OURS, results.before)
        )
        if own is not None and before:
            text = f'{rounds.row(scenario, cell)}: {figures.ALL[name].text}'
            rows.append([text, tables.number(own / before)])
    return tables.Table(f'Ours, to {results.before}', ['', 'ratio'], rows)


def behind(results, measured):
    """Return the table of the rows where another client is ahead of ours.

    :param benchmarks.results.Results results: all figures
    :param measured: the scenarios
    :rtype: tables.Table
    """
    rows = []
    for scenario, cell, name in _figures(results, measured):
        figure = figures.ALL[name]
        other, who = results.best(
            scenario,
            cell,
            contenders.others(results.contenders(scenario, cell)),
            name,
            figure.best,
        )
        own = results.median(scenario, cell, OURS, name)
        if own is None or other is None or figure.best(own, other) == own:
            continue
        text = f'{rounds.row(scenario, cell)}: {figure.text}'
        rows.append([text, who, tables.number(own / other)])
    return tables.Table(
        'Where another is ahead', ['', 'who', 'ours, to theirs'], rows
    )


def _figures(results, measured):
    for scenario in measured:
        for cell in results.cells(scenario.NAME):
            for name in scenario.FIGURES:
                yield scenario.NAME, cell, name
