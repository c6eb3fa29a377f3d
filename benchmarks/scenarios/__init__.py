"""What is measured, one scenario a module.

Each has

``NAME``, ``TITLE``
    what it is called in a command line, and above its tables
``CELLS``
    its rows: what is measured, such as so many callers
``FIGURES``
    the figures that count, of :data:`benchmarks.figures.ALL`
``measure(bench, cells)``
    measures some of the rows
``report(results)``
    returns tables

What is to be reached is in :mod:`benchmarks.goals`.
"""

from benchmarks.scenarios import (
    arrivals,
    blocking,
    callers,
    distance,
    early,
    garbage,
    imports,
    in_flight,
    instructions,
    libraries,
    memory,
    mix,
    servers,
    stampede,
    tls,
    tornado,
    values,
)

IN_SECONDS = [
    blocking,
    callers,
    tls,
    mix,
    arrivals,
    distance,
    servers,
    values,
    in_flight,
    stampede,
    early,
    libraries,
    tornado,
    garbage,
    memory,
    imports,
]
"""What ``benchmarks/run`` measures."""

COUNTED = [instructions]
"""What ``benchmarks/instructions`` counts."""

ALL = [*IN_SECONDS, *COUNTED]
