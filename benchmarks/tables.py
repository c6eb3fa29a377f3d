"""Figures as plain text: tables, and whether targets are reached."""

import dataclasses
import statistics

MISSING = '-'


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be reached, and what was measured."""

    text: str
    measured: float | None
    sign: str
    bound: float
    unit: str = ''

    @property
    def verdict(self):
        """``reached``, ``not reached`` or, without a figure, ``-``."""
        if self.measured is None:
            return MISSING
        # As it is shown: nobody can see more digits than that.
        shown = float(f'{self.measured:.3g}')
        reached = (
            shown >= self.bound if self.sign == '>=' else shown <= self.bound
        )
        return 'reached' if reached else 'not reached'


def median(values):
    """Return the median of values, or None if there are none."""
    values = list(values)
    return statistics.median(values) if values else None


def number(value, scale=1):
    """Return a figure with three significant digits.

    :param float value: None for none
    :param float scale: what to multiply it with, such as seconds to ms
    :rtype: str
    """
    if value is None:
        return MISSING
    value *= scale
    if abs(value) >= 100:
        return f'{round(value, 2 - len(str(int(abs(value)))) + 1):,.0f}'
    return f'{value:#.3g}'.rstrip('.')


def table(title, header, rows):
    """Return a table: the first column to the left, the others right.

    :param str title: what it shows, with its unit
    :param list header: a text for each column
    :param list rows: lists of texts
    :rtype: str
    """
    lines = [[str(each) for each in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        '  '.join(
            [row[0].ljust(widths[0])]
            + [
                each.rjust(width)
                for each, width in zip(row[1:], widths[1:], strict=True)
            ]
        ).rstrip()
        for row in lines
    ]
    rule = '  '.join('-' * width for width in widths)
    return '\n'.join([title, '', text[0], rule, *text[1:], ''])


def targets(items):
    """Return the table of targets.

    :param list items: of :class:`Target`
    :rtype: str
    """
    return table(
        'Targets',
        ['', 'measured', 'to reach', ''],
        [
            [
                each.text,
                f'{number(each.measured)} {each.unit}'.rstrip(),
                f'{each.sign} {each.bound:g} {each.unit}'.rstrip(),
                each.verdict,
            ]
            for each in items
        ],
    )


def by_contender(results, scenario, name, title, figure, scale=1):
    """Return a table of medians: contenders by what a cell's part was.

    :param benchmarks.results.Results results: all of them
    :param str scenario: its name
    :param str name: the part of the cell that the columns show
    :param str title: what the table shows, with its unit
    :param str figure: which figure; or several
    :param float scale: what to multiply it with
    :rtype: str
    """
    figures = [figure] if isinstance(figure, str) else figure
    columns = results.cells(scenario, name)
    return table(
        title,
        [name, *columns],
        [
            [
                contender,
                *(
                    ' / '.join(
                        number(
                            results.median(
                                scenario, {name: column}, contender, each
                            ),
                            scale,
                        )
                        for each in figures
                    )
                    for column in columns
                ),
            ]
            for contender in results.contenders(scenario)
        ],
    )
