"""Draws the charts of the documentation.

``benchmark.svg``
    reads per second by number of callers, ours and the others';
``benchmark-growth.svg``
    the CPU of a read by number of callers and of servers, and by size.

They have no background, and colours of a middle brightness, to be read on a
light page and on a dark one.
"""

import pathlib

import matplotlib as mpl
from matplotlib import pyplot, ticker

from benchmarks import contenders
from benchmarks.contenders import OURS

INK = '#7a7f87'
LABELS = {OURS: 'sprockets.clients.memcached'}
COLORS = {
    OURS: '#e8590c',
    'aiomcache': '#2b8ad6',
    'emcache': '#2f9e6e',
    'emcache, batching': '#8f7ee0',
    'memcachio': '#d6336c',
    'python-memcached, executor': '#b08900',
    'pymemcache, executor': '#c2629f',
    'pylibmc, executor': '#6f8f9a',
    'libmc, executor': '#5c940d',
    'meta-memcache, executor': '#a9745b',
}
"""By contender."""
STYLE = {
    'svg.fonttype': 'path',
    # The same figures make the same file.
    'svg.hashsalt': 'benchmarks',
    'font.size': 11,
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.spines.top': False,
    'axes.spines.right': False,
}
ASYNCIO = {'loop': 'asyncio'}
PANELS = [
    ('callers', 'callers', ASYNCIO, 'callers'),
    ('servers', 'servers', {}, 'servers, 64 callers'),
    ('values', 'bytes', {}, 'bytes of a value, 64 callers'),
]
"""Scenario, the part of its rows, what other parts are, and a label."""


def draw(measured, folder):
    """Draw the charts whose scenarios were measured.

    :param benchmarks.results.Results measured: the figures
    :param folder: where to write the files
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        if measured.contenders('callers'):
            _reads(measured, folder / 'benchmark.svg')
        if all(measured.contenders(scenario) for scenario, *_ in PANELS):
            _growth(measured, folder / 'benchmark-growth.svg')


def _reads(measured, path):
    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout='constrained')
    _lines(
        axes, measured, 'callers', 'callers', ASYNCIO, 'reads_per_second', 1
    )
    axes.set_xlabel('callers that await a read at the same time')
    axes.set_ylabel('reads per second')
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_ylim(bottom=0)
    figure.legend(loc='outside lower center', ncols=2, frameon=False)
    save(figure, path)


def _growth(measured, path):
    figure, panels = pyplot.subplots(
        1, len(PANELS), figsize=(11, 4.2), layout='constrained', sharey=True
    )
    for axes, (scenario, part, others, label) in zip(
        panels, PANELS, strict=True
    ):
        _lines(axes, measured, scenario, part, others, 'cpu_per_read', 1e6)
        axes.set_yscale('log')
        axes.set_xlabel(label)
    panels[0].set_ylabel('CPU of the client per read, us')
    panels[0].yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=3, frameon=False
    )
    save(figure, path)


def _lines(axes, measured, scenario, part, others, figure, scale):
    """Draw a line for each contender, ours on top of the others."""
    places = measured.parts(scenario, part, **others)
    there = measured.contenders(scenario)
    for name in [*contenders.others(there), OURS]:
        points = [
            (place, value * scale)
            for place in places
            if (
                value := measured.median(
                    scenario, {**others, part: place}, name, figure
                )
            )
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=LABELS.get(name, name),
                color=COLORS[name],
                linewidth=3 if name == OURS else 1.6,
                marker='o',
                markersize=6 if name == OURS else 4,
                zorder=3 if name == OURS else 2,
            )
    axes.set_xscale('log')
    axes.set_xticks(places)
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(axis='y', color=INK, alpha=0.25)


def _thousands(value, position):
    return f'{value:,.0f}'


def save(figure, path):
    """Write a chart so that the same one is the same file.

    :param figure: the chart
    :param pathlib.Path path: where to write it
    """
    figure.savefig(path, transparent=True, metadata={'Date': None})
    pyplot.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    lines = path.read_text('utf-8').splitlines()
    path.write_text(''.join(f'{line.rstrip()}\n' for line in lines), 'utf-8')
