"""What the environment says, and how the servers are, for a terminal.

``python -m sprockets.clients.memcached --help`` tells the rest.

"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import functools
import importlib.util
import json
import logging
import os
import queue
import shutil
import signal
import sys
import textwrap
import time
import typing
from collections import abc

from sprockets.clients.memcached import (
    client,
    escaping,
    oversights,
    process,
    settings,
)
from sprockets.clients.memcached.servers import endpoints, journey
from sprockets.clients.memcached.watch import checks

OK, DOWN, WRONG, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit statuses: all servers answer; some do not; a variable or an argument
is wrong, or nobody takes what is written; Ctrl-C; SIGTERM."""

PAUSE = 1.0
"""Seconds between two checks of --watch."""

GLANCE = 0.2
"""Seconds in which a signal is noticed, whenever it comes."""

Report = dict[str, typing.Any]

Rows = list[tuple[str, ...]]
"""A table: its head, and then its rows."""


def main(arguments: abc.Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit status."""
    # Who has closed them wants to read nothing, but the exit status counts.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    options = _parser().parse_args(arguments)
    # What it would say is shown.
    logging.getLogger(__package__).addHandler(logging.NullHandler())
    made: dict[str | None, client.Client] = {}
    wrong = []
    for prefix in options.prefixes or [None]:
        try:
            made.setdefault(prefix and prefix.upper(), client.Client(prefix))
        except (ValueError, OSError) as error:
            wrong.append(_shown(f'error: {error}', sys.stderr))
    if wrong:
        _tell(*dict.fromkeys(wrong))
        return WRONG
    if not options.json:
        for text in dict.fromkeys(
            text
            for each in made.values()
            for _, text in oversights.of(each._shared.settings)
        ):
            _tell(_shown(f'note: {text}', sys.stderr))
    status = INTERRUPTED
    show = _shower(options)
    if options.watch:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with show:
            while True:
                reports = _reports(made)
                well = all(report['available'] for report in reports)
                status = OK if well else DOWN
                try:
                    show(reports)
                except OSError as error:
                    return _unwritten(error, status)
                if not options.watch:
                    break
                time.sleep(PAUSE)
    except KeyboardInterrupt:
        # It is how --watch ends.
        pass
    return status


def _terminate(*_: object) -> typing.NoReturn:
    """End by way of those who leave the terminal as it was."""
    raise SystemExit(TERMINATED)


def _nowhere() -> typing.TextIO:
    """Return a stream that takes all that is written, for nobody."""
    return open(os.devnull, 'w', encoding='utf-8')


def _give_up(stream: typing.TextIO) -> None:
    """Write what is left in a stream for nobody, so that its end is none."""
    with _nowhere() as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _tell(*lines: str) -> None:
    """Write lines to standard error, if that takes them."""
    try:
        print(*lines, sep='\n', file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def _unwritten(error: OSError, status: int) -> int:
    """Return the exit status where what is known cannot be written."""
    _give_up(sys.stdout)
    if isinstance(error, BrokenPipeError):
        # Whoever reads has seen enough.
        return status
    _tell(_shown(f'error: The output is not taken: {error}', sys.stderr))
    return WRONG


def _reports(made: abc.Mapping[str | None, client.Client]) -> list[Report]:
    """Return a report for each prefix, within the time of the slowest."""
    # An executor's threads would be waited for when Ctrl-C is pressed.
    coming = []
    for prefix, each in made.items():
        future: concurrent.futures.Future[Report] = concurrent.futures.Future()
        coming.append(future)
        job = (future, prefix, each._shared)
        try:
            process.start_thread('memcached report', _report, *job)
        except process.ThreadError:
            _report(*job)
    while concurrent.futures.wait(coming, GLANCE).not_done:
        # A signal that came just before a wait began does not end it.
        continue
    return [future.result() for future in coming]


def _report(
    future: concurrent.futures.Future[Report],
    prefix: str | None,
    shared: client.Shared,
) -> None:
    try:
        future.set_result(report_of(prefix, shared))
    # Whoever waits is in another thread and has to be told.
    except Exception as error:  # noqa: BLE001
        future.set_exception(error)


def report_of(prefix: str | None, shared: client.Shared) -> Report:
    """Return the settings with their sources, and the servers' states.

    Every server is asked, whatever was known of it before.

    """
    chosen = shared.settings
    deadline = time.monotonic() + shared.cluster.timeout
    # Where somebody else has to tell the servers, they are known then.
    journey.exchange_all(shared.cluster.waiting(), deadline)
    endpoints = shared.cluster.endpoints
    servers = [
        checks.describe(endpoint, seen)
        for endpoint, seen in zip(endpoints, _check(endpoints), strict=True)
    ]
    return {
        'prefix': prefix.upper() if prefix else None,
        'available': bool(servers) and all(s['up'] for s in servers),
        'settings': {
            name: {
                'value': _plain(getattr(chosen, name)),
                'source': chosen.sources[name],
            }
            for name in settings.OPTIONS
        },
        'servers': servers,
        'notes': [text for _, text in oversights.of(chosen)],
    }


def _check(
    servers: abc.Sequence[endpoints.Endpoint],
) -> list[checks.Finding]:
    """Check all servers at the same time."""
    done: queue.SimpleQueue[tuple[endpoints.Endpoint, checks.Finding]] = (
        queue.SimpleQueue()
    )
    timeout = max([endpoint.timeout for endpoint in servers], default=0)
    deadline = time.monotonic() + timeout

    begun: set[endpoints.Endpoint] = set()

    def job(endpoint: endpoints.Endpoint) -> None:
        begun.add(endpoint)
        done.put((endpoint, checks.check(endpoint, deadline)))

    for endpoint in servers:
        try:
            checks.submit(functools.partial(job, endpoint))
        except process.ThreadError:
            job(endpoint)
    seen: dict[endpoints.Endpoint, checks.Finding] = {}
    with contextlib.suppress(queue.Empty):
        for _ in servers:
            left = deadline + 0.1 - time.monotonic()
            endpoint, finding = done.get(timeout=max(left, 0))
            seen[endpoint] = finding
    return [
        seen.get(endpoint) or checks.in_vain(endpoint, endpoint in begun)
        for endpoint in servers
    ]


def _plain(value: typing.Any) -> typing.Any:
    """Return an option's value as JSON has it; a secret's is not shown."""
    if isinstance(value, bytes):
        return value.decode('utf-8', 'backslashreplace')
    if isinstance(value, list):
        return [
            server if isinstance(server, str) else f'{server[0]}:{server[1]}'
            for server in value
        ]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _text(value: typing.Any) -> str:
    """Return a plain value as it is written; nothing for none."""
    if isinstance(value, list):
        return ', '.join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f'{value:g}'
    return '' if value is None else str(value)


# As tables


def _shown(text: str, stream: typing.TextIO) -> str:
    """Return text as one line that a terminal takes, whoever wrote it."""
    line = escaping.printable(text, len(text))
    encoding = stream.encoding or 'ascii'
    return line.encode(encoding, 'backslashreplace').decode(encoding)


def _harmless(rows: Rows) -> Rows:
    return [tuple(_shown(text, sys.stdout) for text in row) for row in rows]


def _settings(report: Report) -> Rows:
    rows: Rows = [('Setting', 'Value', 'From')]
    for name, setting in report['settings'].items():
        text = _text(setting['value']) or 'none'
        rows.append((name.upper(), text, setting['source']))
    return rows


COLUMNS: list[tuple[str, abc.Callable[[dict[str, typing.Any]], str]]] = [
    ('Server', lambda server: str(server['address'])),
    ('State', lambda server: _state(server['up'], server['reason'])),
    ('For', lambda server: _known(server['since'], _span)),
    ('Version', lambda server: _known(server['version'], str)),
    ('Round trip', lambda server: _known(server['round_trip'], _millis)),
    ('Hit rate', lambda server: _known(server['hit_rate'], '{:.1%}'.format)),
    ('Memory', lambda server: _of(server['memory'], server['memory_limit'])),
    ('Evictions', lambda server: _known(server['evictions'], str)),
    ('Connections', lambda server: _known(server['connections'], str)),
]

NARROW = 5
"""How many columns fit into a terminal of 80 characters."""

WIDE = 120
"""Characters from which on a terminal has place for all columns."""


def _servers(report: Report, most: int | None = None) -> Rows:
    """Return a table of the servers.

    :param int most: how many rows there is place for, None for any; then
        those that are down come first

    """
    columns = COLUMNS
    if sys.stdout.isatty() and shutil.get_terminal_size().columns < WIDE:
        columns = COLUMNS[:NARROW]
    rows: Rows = [tuple(name for name, _ in columns)]
    servers = report['servers']
    left = []
    if most is not None:
        servers = sorted(servers, key=lambda server: bool(server['up']))
        if len(servers) > most:
            servers, left = servers[: most - 1], servers[most - 1 :]
    for server in servers:
        rows.append(tuple(write(server) for _, write in columns))
    blank = len(columns) - 2
    if left:
        up = sum(server['up'] for server in left)
        state = 'up' if up == len(left) else f'{up} up'
        rows.append((f'{len(left)} more', state, *[''] * blank))
    if not report['servers']:
        rows.append(('none is known', '-', *['-'] * blank))
    return rows


def _title(report: Report) -> str:
    servers = report['servers']
    up = sum(server['up'] for server in servers)
    name = report['prefix'] or 'No prefix'
    return f'{name}: {up} of {len(servers)} up'


def _watched(
    reports: abc.Sequence[Report], height: int
) -> list[tuple[str, Rows]]:
    """Return what fits into a terminal: the servers, and then settings.

    :return: tables with their titles

    """
    # Each has a title and a head; the cursor is on the last line.
    left = height - 1 - 2 * len(reports)
    tables = []
    for place, report in enumerate(reports):
        share = max(left // (len(reports) - place), 1)
        rows = _servers(report, share)
        left -= len(rows) - 1
        tables.append((_title(report), rows))
    now = datetime.datetime.now().astimezone()
    tables[0] = (f'{tables[0][0]}, {now:%H:%M:%S}', tables[0][1])
    for report in reports:
        head, *rows = _settings(report)
        chosen = [row for row in rows if row[-1] != 'default'][: left - 2]
        if left > 2 and chosen:
            name = report['prefix'] or 'No prefix'
            tables.append((f'{name}: what is set', [head, *chosen]))
            left -= 2 + len(chosen)
    return [
        (_shown(title, sys.stdout), _harmless(rows)) for title, rows in tables
    ]


def _blocks(
    reports: abc.Sequence[Report],
) -> list[tuple[str, Rows]]:
    """Return all that there is to tell, as tables with their titles."""
    blocks = []
    for report in reports:
        title = _title(report) if len(reports) > 1 else ''
        blocks += [
            (_shown(title, sys.stdout), _harmless(_settings(report))),
            ('', _harmless(_servers(report))),
        ]
    return blocks


def _state(up: bool, reason: str | None) -> str:
    return 'up' if up else f'down: {reason}'


def _known(value: typing.Any, write: abc.Callable[[typing.Any], str]) -> str:
    return '-' if value is None else write(value)


def _span(date: str) -> str:
    """Return how long ago a date was, in its two largest units."""
    since = datetime.datetime.fromisoformat(date)
    now = datetime.datetime.now(datetime.UTC)
    minutes, seconds = divmod(max(int((now - since).total_seconds()), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f'{days} d {hours} h'
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def _millis(seconds: float) -> str:
    return f'{seconds * 1000:.3g} ms'


def _of(used: int | None, limit: int | None) -> str:
    if used is None or not limit:
        return '-'
    return f'{used / limit:.0%} of {limit / (1 << 20):,.0f} MiB'


def _lines(rows: Rows) -> str:
    """Return a table as text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


# Ways to show a report


def _shower(options: argparse.Namespace) -> Shower:
    if options.json:
        return Json(options.watch)
    if sys.stdout.isatty() and importlib.util.find_spec('rich') is not None:
        return Rich(options.watch)
    return Plain(options.watch)


class Shower:
    """Shows one report after another.

    :param bool watch: whether there will be more than one

    """

    def __init__(self, watch: bool) -> None:
        self.watch = watch

    def __enter__(self) -> None:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def __call__(self, reports: abc.Sequence[Report]) -> None:
        """Show the reports of all prefixes."""
        raise NotImplementedError


class Json(Shower):
    """For scripts: an object, or a list if there are several prefixes.

    With --watch there is one on each line.

    """

    def __call__(self, reports: abc.Sequence[Report]) -> None:
        indent = None if self.watch else 2
        shown = reports[0] if len(reports) == 1 else reports
        # It is ASCII, in which all else is spelt out.
        print(json.dumps(shown, indent=indent, allow_nan=False), flush=True)


class Plain(Shower):
    """Text in columns, for files, pipes, and terminals without rich."""

    def __call__(self, reports: abc.Sequence[Report]) -> None:
        blocks = _blocks(reports)
        size = None
        if self.watch:
            size = shutil.get_terminal_size()
            height = size.lines if sys.stdout.isatty() else 1000
            blocks = _watched(reports, height)
        parts = []
        for title, rows in blocks:
            text = _lines(rows)
            if size is not None and sys.stdout.isatty():
                # Otherwise a line would take the place of two.
                text = '\n'.join(
                    line[: size.columns] for line in text.splitlines()
                )
            parts.append(f'{title}\n{text}' if title else text)
        print(('\n' if self.watch else '\n\n').join(parts), flush=True)


class Rich(Shower):
    """Tables in colour, which with --watch stay in their place."""

    def __init__(self, watch: bool) -> None:
        super().__init__(watch)
        import rich.console
        import rich.live

        self._console = rich.console.Console()
        self._live = rich.live.Live(
            console=self._console, auto_refresh=False, transient=False
        )

    def __enter__(self) -> None:
        if self.watch:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self.watch:
            self._live.stop()

    def __call__(self, reports: abc.Sequence[Report]) -> None:
        import rich.console
        import rich.text

        blocks = _blocks(reports)
        if self.watch:
            blocks = _watched(reports, self._console.size.height)
        parts = []
        for title, rows in blocks:
            if title:
                parts.append(rich.text.Text(title, style='bold'))
            parts.append(self._table(rows))
        shown = rich.console.Group(*parts)
        if self.watch:
            self._live.update(shown, refresh=True)
        else:
            self._console.print(shown)

    def _table(self, rows: Rows) -> typing.Any:
        import rich.box
        import rich.table
        import rich.text

        head, *body = rows
        cut: typing.Any = 'ellipsis'
        if self._console.options.ascii_only:
            # Where it cannot be written.
            cut = 'crop'
        table = rich.table.Table(
            box=None if self.watch else rich.box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for name in head:
            # In what is watched each row has one line.
            table.add_column(
                name,
                overflow=cut if self.watch else 'fold',
                no_wrap=self.watch,
            )
        for row in body:
            table.add_row(
                *[rich.text.Text(text, style=_style(text)) for text in row]
            )
        return table


def _style(text: str) -> str:
    if text == 'up':
        return 'bold green'
    if text.startswith('down: '):
        return 'bold red'
    return 'dim' if text in ('-', 'default', 'none') else ''


# The command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m sprockets.clients.memcached',
        description=textwrap.fill(
            'Show what the environment says to a client of'
            ' sprockets.clients.memcached, and how its servers are.  The exit'
            ' status is 0 if every server answers, 1 if one does not, and 2'
            ' if a variable is malformed or the output cannot be written.',
            79,
        ),
        epilog=_variables(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'prefixes',
        nargs='*',
        metavar='PREFIX',
        help='the prefix of a client, or of several; without one, variables'
        ' without one count',
    )
    package: typing.Any = sys.modules[__package__]
    parser.add_argument(
        '--version',
        action='version',
        version=f'{__package__} {package.__version__}',
    )
    parser.add_argument(
        '--watch',
        action='store_true',
        help='look again and again, until Ctrl-C: the servers first, those'
        ' that are down above; then the exit status is that of the last look',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='write JSON: an object, or a list for several prefixes; with'
        ' --watch on one line each time',
    )
    return parser


def _variables() -> str:
    lines = [
        'Each option is read from <PREFIX>_MEMCACHED_<OPTION>, else from',
        'MEMCACHED_<OPTION>, else it has its default:',
        '',
    ]
    width = max(map(len, settings.OPTIONS)) + 4
    for name, option in settings.OPTIONS.items():
        default = _text(_plain(option.default))
        text = f'{option.meaning} ({default})' if default else option.meaning
        lines += textwrap.wrap(
            text,
            79,
            initial_indent=f'  {name.upper()}'.ljust(width),
            subsequent_indent=' ' * width,
        )
    lines += [
        '',
        'Example:',
        '',
        '  python -m sprockets.clients.memcached pages sessions',
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
