"""Figures as tables, of plain text and of reStructuredText."""

import dataclasses

from benchmarks import figures

MISSING = '-'


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


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the first column to the left, the others right.

    :ivar str title: what it shows, with its unit
    :ivar list header: a text for each column
    :ivar list rows: lists of texts
    """

    title: str
    header: list
    rows: list

    def __str__(self):
        first, *rest, rule = _aligned([self.header, *self.rows], '-')
        return '\n'.join([self.title, '', first, rule, *rest, ''])

    def rst(self):
        """Return it as reStructuredText, the title above the first column.

        :rtype: str
        """
        part, *others = self.header
        title = f'{self.title}, by {part}' if part else self.title
        rows = [
            # Alone it would begin a list.
            [f'\\{cell}' if cell == MISSING else cell for cell in row]
            for row in self.rows
        ]
        first, *rest, rule = _aligned([[title, *others], *rows], '=')
        return '\n'.join([rule, first, rule, *rest, rule, ''])


def _aligned(rows, sign):
    """Return the lines of a table, and at the end the rule that it needs."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(
            [row[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
        ).rstrip()
        for row in rows
    ]
    return [*lines, '  '.join(sign * width for width in widths)]


def table(title, header, rows):
    """Return a table as plain text.

    :rtype: str
    """
    return str(Table(title, header, rows))


def by_contender(results, scenario, name, figure, title=None, **others):
    """Return a table of medians: contenders by what a cell's part was.

    :param benchmarks.results.Results results: all of them
    :param str scenario: its name
    :param str name: the part of the cell that the columns show
    :param str figure: of :data:`benchmarks.figures.ALL`; or several
    :param str title: if not that of the figure, which has its unit
    :param others: what other parts of the cell are
    :rtype: Table
    """
    names = [figure] if isinstance(figure, str) else figure
    shown = [figures.ALL[each] for each in names]
    cells = {
        column: {**others, name: column}
        for column in results.parts(scenario, name, **others)
    }
    medians = {
        contender: {
            column: [
                (results.median(scenario, cell, contender, each), each)
                for each in names
            ]
            for column, cell in cells.items()
        }
        for contender in results.contenders(scenario)
    }
    # Rows and columns without a figure are left out.
    columns = [
        column
        for column in cells
        if any(_measured(of[column]) for of in medians.values())
    ]
    return Table(
        title or ' / '.join(each.title for each in shown),
        ['' if name == 'what' else name, *columns],
        [
            [contender, *(_joined(of[column]) for column in columns)]
            for contender, of in medians.items()
            if any(map(_measured, of.values()))
        ],
    )


def _measured(medians):
    return any(value is not None for value, _ in medians)


def _joined(medians):
    return ' / '.join(
        number(value, figures.ALL[name].scale) for value, name in medians
    )
