"""Draws which keys move, and how even they are spread, by number of servers.

``benchmarks/continuum FOLDER`` writes ``ketama.svg`` into the folder. What it
shows is counted, not measured: the same on any machine.
"""

import collections
import pathlib
import sys

import matplotlib as mpl
from matplotlib import pyplot, ticker

from benchmarks import chart
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.servers import distribution

KEYS = [b'key:%d' % number for number in range(50_000)]
SERVERS = range(2, 65)
LOOKS = {
    'modula': {'color': chart.COLORS['aiomcache'], 'linewidth': 1.6},
    'ketama': {'color': chart.COLORS[chart.OURS], 'linewidth': 3},
}


class Server:
    """One that is up."""

    retry_at = None

    def available(self):
        return True


def placed(kind, count):
    """Return the number of the server of each key.

    :param str kind: the distribution
    :param int count: how many servers there are
    """
    servers = [Server() for _ in range(count)]
    pick = distribution.make(
        kind,
        [
            (settings.Address('', f'10.0.0.{number}', 11211), 1, server)
            for number, server in enumerate(servers, 1)
        ],
        True,
    ).pick
    numbers = {server: number for number, server in enumerate(servers)}
    return [numbers[pick(key)] for key in KEYS]


def count(kind):
    """Return the shares of keys that move, and those of the servers.

    :param str kind: the distribution
    :returns: by number of servers, in percent: of all keys, those that move
        when one server more comes; of an even share of the keys, those of
        the server with the fewest, and with the most
    """
    moved, fewest, most = [], [], []
    before = placed(kind, SERVERS[0])
    for size in SERVERS:
        keys = collections.Counter(before)
        even = len(KEYS) / size
        fewest.append(100 * min(keys[number] for number in range(size)) / even)
        most.append(100 * max(keys.values()) / even)
        after = placed(kind, size + 1)
        pairs = zip(before, after, strict=True)
        moved.append(
            100 * sum(one != other for one, other in pairs) / len(KEYS)
        )
        before = after
    return moved, fewest, most


def draw(folder):
    """Draw the chart.

    :param folder: where to write the file
    """
    path = pathlib.Path(folder, 'ketama.svg')
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(chart.STYLE):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(11, 4.2), layout='constrained'
        )
        for kind, look in LOOKS.items():
            moved, fewest, most = count(kind)
            left.plot(SERVERS, moved, label=kind, **look)
            right.plot(SERVERS, most, **look)
            right.plot(SERVERS, fewest, **look)
            right.fill_between(
                SERVERS, fewest, most, color=look['color'], alpha=0.15
            )
        left.plot(
            SERVERS,
            [100 / (size + 1) for size in SERVERS],
            label='what an even share would be',
            color=chart.INK,
            linestyle=':',
        )
        left.set_ylabel('keys that move when a server is added, %')
        left.set_ylim(0, 100)
        right.set_ylabel(
            'fewest and most keys of a server,\n% of an even share'
        )
        right.set_ylim(0, 160)
        for axes in (left, right):
            axes.set_xlabel('servers of equal weight')
            axes.set_xscale('log', base=2)
            axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
            axes.grid(axis='y', color=chart.INK, alpha=0.25)
        figure.legend(loc='outside lower center', ncols=3, frameon=False)
        chart.save(figure, path)
    print(path)


def main():
    if len(sys.argv) != 2:
        sys.exit('usage: benchmarks/continuum FOLDER')
    draw(sys.argv[1])


if __name__ == '__main__':
    main()
