"""Fills the documentation with the figures of a run, and draws its charts.

``benchmarks/document FILE...`` takes what ``benchmarks/run --json FILE`` and
``benchmarks/instructions --json FILE`` wrote.  In ``docs/speed.rst`` whatever
is between ``.. figures: NAME`` and ``.. end of figures`` is what this writes,
if it was measured.
"""

import argparse
import dataclasses
import re

from benchmarks import goals, results, revisions, scenarios, tables

DOCS = revisions.ROOT / 'docs'
PAGE = DOCS / 'speed.rst'

BLOCK = re.compile(
    r'^(\.\. figures: ([^\n]+)\n\n)(.*?)(^\.\. end of figures$)',
    re.MULTILINE | re.DOTALL,
)


def _machine(found):
    names = ['cores', 'processor', 'Python', 'memcached', 'tornado']
    names += [name for name in found.machine if name not in (*names, 'system')]
    rows = [
        [name, found.machine[name]] for name in names if name in found.machine
    ]
    return tables.Table('Measured with', ['', 'version'], rows)


def _table(scenario, part, figure, title=None, **others):
    return lambda found: tables.by_contender(
        found, scenario, part, figure, title, **others
    )


def _instructions(over):
    return lambda found: scenarios.instructions.side_by_side(found, over)


WAITED = ['p50', 'p99']
SECTIONS = {
    'machine': _machine,
    'reads': _table('callers', 'callers', 'reads_per_second', loop='asyncio'),
    'waits': _table('callers', 'callers', 'p99', loop='asyncio'),
    'uvloop': _table('callers', 'callers', 'reads_per_second', loop='uvloop'),
    'instructions': _instructions('TCP'),
    'instructions over TLS': _instructions('TLS'),
    'mix': _table('mix', 'callers', 'reads_per_second', 'Calls per second'),
    'servers': _table('servers', 'servers', 'reads_per_second'),
    'arrivals': _table(
        *('arrivals', 'rate', WAITED, 'p50 / p99, ms'), **{'ms away': 0}
    ),
    'arrivals, far': _table(
        *('arrivals', 'rate', WAITED, 'p50 / p99, ms'), **{'ms away': 1}
    ),
    'tornado': _table('tornado', 'reads', 'left'),
    'TLS': _table('tls', 'callers', 'reads_per_second'),
    'TLS, held up': _table('tls', *scenarios.tls.BEGIN, 'held'),
    'blocking': _table('blocking', 'operation', 'cpu'),
    'garbage': scenarios.garbage.by_collector,
    'memory': _table('memory', 'what', 'bytes'),
    'hits': scenarios.stampede.hits,
    'early': scenarios.early.side_by_side,
    'libraries': scenarios.libraries.by_operation,
    'holders': scenarios.libraries.by_holders,
    'in flight': _table(
        *('in_flight', 'ms away', WAITED, 'p50 / p99, ms'), load='4,000/s'
    ),
    'goals': goals.table,
    'behind': lambda found: goals.behind(found, scenarios.ALL),
}
"""By the name of a block of the page, a function that returns its table."""


def fill(text, found):
    """Return the page with the tables of what was measured.

    :param str text: the page
    :param benchmarks.results.Results found: the figures
    :rtype: str
    """

    def filled(match):
        begin, name, _, end = match.groups()
        table = SECTIONS[name](found)
        # What it was before is not what it is now.
        rows = [row for row in table.rows if row[0] != found.before]
        if not rows:
            return match[0]
        shown = dataclasses.replace(table, rows=rows)
        return f'{begin}{shown.rst()}\n{end}'

    return BLOCK.sub(filled, text)


def main():
    parser = argparse.ArgumentParser(
        prog='benchmarks/document', description=__doc__.split('\n')[0]
    )
    parser.add_argument(
        'files',
        nargs='+',
        metavar='FILE',
        help='what benchmarks/run --json has written, or several of these',
    )
    found = results.Results.load(parser.parse_args().files)
    # Nothing else needs matplotlib.
    from benchmarks import chart

    chart.draw(found, DOCS / '_static')
    PAGE.write_text(fill(PAGE.read_text('utf-8'), found), 'utf-8')


if __name__ == '__main__':
    main()
