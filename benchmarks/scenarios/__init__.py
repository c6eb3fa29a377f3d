"""What is measured, one scenario a module.

Each has a ``NAME``, a ``TITLE``, ``measure(rounds)`` and ``report(results)``,
which returns tables as text and a list of targets.
"""

from benchmarks.scenarios import (
    arrivals,
    blocking,
    callers,
    distance,
    in_flight,
    mix,
    servers,
    stampede,
    tornado,
    uvloop,
    values,
)

ALL = {
    scenario.NAME: scenario
    for scenario in (
        blocking,
        callers,
        uvloop,
        mix,
        arrivals,
        distance,
        servers,
        values,
        in_flight,
        stampede,
        tornado,
    )
}
