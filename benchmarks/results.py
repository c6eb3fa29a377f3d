"""The figures of all rounds, and what is asked of them: medians, ratios."""

import json
import statistics

from benchmarks import contenders


class Results:
    """Figures by scenario, cell, contender and round.

    :param dict machine: what they were measured on
    :param str against: the other revision of this package, None for none
    :param bool is_baseline: whether goals compare with that revision
    :param list records: those to begin with
    """

    def __init__(self, machine, against=None, is_baseline=False, records=()):
        self.machine = machine
        self.against = against
        self.is_baseline = is_baseline
        self.records = list(records)

    @property
    def before(self):
        """The contender that is this package in the other revision.

        :rtype: str
        """
        return f'{contenders.OURS} at {self.against}'

    def add(self, scenario, cell, contender, number, figures):
        """Record a contender's figures of one round.

        :param str scenario: the scenario's name
        :param dict cell: what was measured, such as the number of callers
        :param str contender: its name
        :param int number: the round
        :param dict figures: by name; or an ``'error'``
        """
        self.records.append(
            {
                'scenario': scenario,
                'cell': cell,
                'contender': contender,
                'round': number,
                'figures': figures,
            }
        )

    def save(self, path):
        """Write everything to a file, as JSON."""
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(vars(self), file, indent=1)
            file.write('\n')

    @classmethod
    def load(cls, paths):
        """Read what :meth:`save` wrote into some files.

        What the later ones say of the machine and the other revision counts.
        """
        records = []
        known = {'machine': {}}
        for path in paths:
            with open(path, encoding='utf-8') as file:
                said = json.load(file)
            records += said.pop('records')
            known |= {name: value for name, value in said.items() if value}
        return cls(**known, records=records)

    def errors(self, scenario):
        """Return each different error of a scenario, with who had it.

        :rtype: list[tuple[str, str]]
        """
        found = {
            (record['contender'], record['figures']['error']): None
            for record in self._of(scenario)
            if 'error' in record['figures']
        }
        return list(found)

    def contenders(self, scenario, cell=None):
        """Return who took part, in order of appearance.

        :param dict cell: where; None for anywhere in the scenario
        :rtype: list[str]
        """
        return list(
            {
                record['contender']: None
                for record in self._of(scenario)
                if cell in (None, record['cell'])
            }
        )

    def cells(self, scenario):
        """Return what was measured, in order of appearance.

        :rtype: list[dict]
        """
        found = []
        for record in self._of(scenario):
            if record['cell'] not in found:
                found.append(record['cell'])
        return found

    def parts(self, scenario, name, **others):
        """Return what a part of the cells was, in order of appearance.

        :param str name: of the part
        :param others: what other parts of these cells are
        :rtype: list
        """
        return list(
            {
                cell[name]: None
                for cell in self.cells(scenario)
                if name in cell and cell.items() >= others.items()
            }
        )

    def _of(self, scenario):
        return [
            record for record in self.records if record['scenario'] == scenario
        ]

    def rounds(self, scenario, cell, contender, figure):
        """Return a figure in each round; those that failed are not in it.

        :rtype: list[float]
        """
        return [
            record['figures'][figure]
            for record in self._of(scenario)
            if record['cell'] == cell
            and record['contender'] == contender
            and record['figures'].get(figure) is not None
        ]

    def median(self, scenario, cell, contender, figure):
        """Return the median of a figure over all rounds.

        :returns: None if no round has it
        :rtype: float | None
        """
        values = self.rounds(scenario, cell, contender, figure)
        return statistics.median(values) if values else None

    def best(self, scenario, cell, names, figure, best=max):
        """Return the best median of a figure, and whose it is.

        :param list names: of contenders
        :param best: max or min: which of them is the best
        :returns: ``(None, None)`` if nobody has it
        :rtype: tuple[float | None, str | None]
        """
        medians = [
            (median, name)
            for name in names
            if (median := self.median(scenario, cell, name, figure))
            is not None
        ]
        return best(medians, default=(None, None))
