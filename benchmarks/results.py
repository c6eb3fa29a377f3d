"""The figures of all rounds, and what is asked of them: medians, ratios."""

import json
import statistics


class Results:
    """Figures by scenario, cell, contender and round.

    :param dict machine: what they were measured on
    :param list records: those to begin with
    """

    def __init__(self, machine, records=()):
        self.machine = machine
        self.records = list(records)

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
            json.dump(
                {'machine': self.machine, 'records': self.records},
                file,
                indent=1,
            )
            file.write('\n')

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote."""
        with open(path, encoding='utf-8') as file:
            return cls(**json.load(file))

    def errors(self, scenario):
        """Return each different error of a scenario, with who had it.

        :rtype: list[tuple[str, str]]
        """
        found = {
            (record['contender'], record['figures']['error']): None
            for record in self.records
            if record['scenario'] == scenario and 'error' in record['figures']
        }
        return list(found)

    def contenders(self, scenario):
        """Return who took part in a scenario, in order of appearance.

        :rtype: list[str]
        """
        return list(
            {
                record['contender']: None
                for record in self.records
                if record['scenario'] == scenario
            }
        )

    def cells(self, scenario, name):
        """Return what a part of the cell was, in order of appearance.

        :rtype: list
        """
        return list(
            {
                record['cell'][name]: None
                for record in self.records
                if record['scenario'] == scenario and name in record['cell']
            }
        )

    def rounds(self, scenario, cell, contender, figure):
        """Return a figure by round; rounds that failed are not in it.

        :rtype: dict[int, float]
        """
        return {
            record['round']: record['figures'][figure]
            for record in self.records
            if record['scenario'] == scenario
            and record['cell'] == cell
            and record['contender'] == contender
            and record['figures'].get(figure) is not None
        }

    def median(self, scenario, cell, contender, figure):
        """Return the median of a figure over all rounds.

        :returns: None if no round has it
        :rtype: float | None
        """
        values = self.rounds(scenario, cell, contender, figure).values()
        return statistics.median(values) if values else None

    def ratio(self, scenario, cell, contender, others, figure, best=max):
        """Return how many times that of the best other a figure is.

        It is the median of the rounds' ratios, the best other being chosen
        anew in each round: so what slows down one round, and all in it,
        leaves it as it is, and chance favours the others.

        :param list others: names of contenders
        :param best: max or min: which of them is the best
        :returns: None if no round has it
        :rtype: float | None
        """
        own = self.rounds(scenario, cell, contender, figure)
        others = [
            self.rounds(scenario, cell, other, figure) for other in others
        ]
        ratios = [
            value / best(rivals)
            for number, value in own.items()
            if (rivals := [each[number] for each in others if number in each])
        ]
        return statistics.median(ratios) if ratios else None

    def growth(self, scenario, cells, contender, figure):
        """Return how many times the one before a figure is, cell by cell.

        :param list cells: two of them
        :returns: the median of the rounds' ratios; None if no round has it
        :rtype: float | None
        """
        before, after = (
            self.rounds(scenario, cell, contender, figure) for cell in cells
        )
        ratios = [
            after[number] / before[number]
            for number in before
            if number in after
        ]
        return statistics.median(ratios) if ratios else None
