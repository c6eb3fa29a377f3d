"""Rounds in which contenders take turns, each in a process of its own."""

import dataclasses
import json
import subprocess
import sys

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


FULL = Pace(
    rounds=5, seconds=1.0, warm_up=0.4, wrk_seconds=3, blocking_turns=101
)
QUICK = Pace(
    rounds=2, seconds=0.25, warm_up=0.15, wrk_seconds=1, blocking_turns=21
)


class Rounds:
    """Runs tasks in rounds and records their figures.

    :param Pace pace: how many rounds, and how long
    :param benchmarks.results.Results results: where the figures go
    """

    def __init__(self, pace, results):
        self.pace = pace
        self.results = results

    def interleave(self, scenario, cell, tasks):
        """Run every task once in each round.

        :param str scenario: the scenario's name
        :param dict cell: what all tasks have in common, such as callers
        :param dict tasks: by contender's name, what its worker is to do
        """
        self.progress(scenario, cell)
        names = list(tasks)
        for number in range(self.pace.rounds):
            for name in names:
                figures = self._in_loop(name, number, **tasks[name])
                self.results.add(scenario, cell, name, number, figures)
            # Nobody always follows the same other one.
            names.append(names.pop(0))

    def _in_loop(
        self,
        contender,
        number,
        *,
        ports,
        load='closed',
        loop='asyncio',
        options=None,
        name=None,
        **parameters,
    ):
        if load == 'poisson':
            parameters['seed'] = number
        return work(
            {
                'kind': 'asynchronous',
                'loop': loop,
                'contender': name or contender,
                'options': options or {},
                'load': load,
                'addresses': [('127.0.0.1', port) for port in ports],
                'seconds': self.pace.seconds,
                'warm_up': self.pace.warm_up,
                **parameters,
            }
        )

    def progress(self, scenario, cell):
        """Say on standard error what is being measured."""
        text = ', '.join(f'{name} {value}' for name, value in cell.items())
        print(f'  {scenario}: {text}', file=sys.stderr, flush=True)


def work(task):
    """Have a new process do a task.

    :param dict task: what :mod:`benchmarks.worker` reads
    :returns: the figures, or under ``'error'`` why there are none
    :rtype: dict
    """
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'benchmarks.worker'],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=True,
            timeout=task.get('seconds', 0) + PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return {'error': 'it did not end'}
    except subprocess.CalledProcessError as failed:
        lines = failed.stderr.strip().splitlines() or ['']
        return {'error': lines[-1] or f'exited with {failed.returncode}'}
    return json.loads(done.stdout)
