"""Rounds in which contenders take turns, each in a process of its own."""

import dataclasses
import json
import subprocess
import sys

from benchmarks import contenders, revisions

# Seconds that a worker has beyond those that it measures.
PATIENCE = 60


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often and how long things are measured."""

    rounds: int
    seconds: float
    warm_up: float
    # wrk counts whole seconds.
    wrk_seconds: int
    blocking_turns: int
    # Of instructions, of which the least counts.
    counts: int
    # Of Python, in each round.
    starts: int


FULL = Pace(
    rounds=5,
    seconds=1.0,
    warm_up=0.4,
    wrk_seconds=3,
    blocking_turns=101,
    counts=3,
    starts=10,
)
QUICK = Pace(
    rounds=2,
    seconds=0.25,
    warm_up=0.15,
    wrk_seconds=1,
    blocking_turns=21,
    counts=1,
    starts=3,
)


class Rounds:
    """Runs tasks in rounds and records their figures.

    :param Pace pace: how many rounds, and how long
    :param benchmarks.results.Results results: where the figures go
    :param benchmarks.revisions.Revision revision: another one of this
        package, which takes part where this one does; None for none
    """

    def __init__(self, pace, results, revision=None):
        self.pace = pace
        self.results = results
        self.revision = revision

    def interleave(self, scenario, cell, tasks):
        """Run every task once in each round.

        :param str scenario: the scenario's name
        :param dict cell: what all tasks have in common, such as callers
        :param dict tasks: by contender's name, what its worker is to do
        """
        self.each_in_turn(
            scenario,
            cell,
            {
                name: {'name': name, **task}
                for name, task in self.with_revision(tasks).items()
            },
            self._in_loop,
        )

    def each_in_turn(self, scenario, cell, tasks, measure):
        """Call a function once for every task in each round.

        :param str scenario: the scenario's name
        :param dict cell: what all tasks have in common
        :param dict tasks: by contender's name, keyword arguments
        :param measure: is given the number of the round and the arguments,
            and returns figures, or under ``'error'`` why there are none
        """
        self.progress(scenario, cell)
        names = list(tasks)
        for number in range(self.pace.rounds):
            for name in names:
                figures = measure(number, **tasks[name])
                self.results.add(scenario, cell, name, number, figures)
            # Nobody always follows the same other one.
            names.append(names.pop(0))

    def with_revision(self, tasks):
        """Return tasks with that of the other revision, if there is one.

        It is the same as ours, at its own place.

        :rtype: dict
        """
        if self.revision is None or contenders.OURS not in tasks:
            return tasks
        of_ours = tasks[contenders.OURS]
        place = {'name': contenders.OURS, 'place': self.revision.place}
        return {**tasks, self.results.before: {**of_ours, **place}}

    def _in_loop(
        self,
        number,
        *,
        name,
        ports,
        load='closed',
        loop='asyncio',
        options=None,
        place=revisions.ROOT,
        **parameters,
    ):
        if load == 'poisson':
            parameters['seed'] = number
        return work(
            {
                'kind': 'asynchronous',
                'loop': loop,
                'contender': name,
                'options': options or {},
                'load': load,
                'addresses': [('127.0.0.1', port) for port in ports],
                'seconds': self.pace.seconds,
                'warm_up': self.pace.warm_up,
                **parameters,
            },
            place,
        )

    def progress(self, scenario, cell):
        """Say on standard error what is being measured."""
        print(f'  {row(scenario, cell)}', file=sys.stderr, flush=True)


def row(scenario, cell):
    """Return what people call a row: ``callers: loop uvloop, callers 8``.

    :param str scenario: the scenario's name
    :param dict cell: what is measured there
    :rtype: str
    """
    parts = ', '.join(
        str(value) if name == 'what' else f'{name} {value}'
        for name, value in cell.items()
    )
    return f'{scenario}: {parts}'


def work(task, place=revisions.ROOT):
    """Have a new process do a task.

    :param dict task: what :mod:`benchmarks.worker` reads
    :param pathlib.Path place: the folder that this package is in
    :returns: the figures, or under ``'error'`` why there are none
    :rtype: dict
    """
    try:
        printed, _ = revisions.run(
            place,
            *('-m', 'benchmarks.worker'),
            given=json.dumps(task),
            timeout=task.get('seconds', 0) + PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return {'error': 'it did not end'}
    except RuntimeError as failed:
        return {'error': str(failed).splitlines()[-1]}
    return json.loads(printed)
