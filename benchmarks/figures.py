"""The figures that are measured: what they are called, and which is better."""

import dataclasses
import typing


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure.

    :ivar str text: what it is, for people
    :ivar best: min or max: which of several is the best
    :ivar float scale: what to multiply it with, such as seconds to ms
    :ivar str unit: of what comes of that
    """

    text: str
    best: typing.Callable
    scale: float = 1
    unit: str = ''

    @property
    def title(self):
        """Return what it is, with its unit."""
        text = self.text
        if text not in ('p50', 'p99'):
            text = text[0].upper() + text[1:]
        return f'{text}, {self.unit}' if self.unit else text


ALL = {
    'reads_per_second': Figure('reads per second', max),
    'requests_per_second': Figure('requests per second', max),
    'left': Figure('requests, to those without a read', max),
    'p50': Figure('p50', min, 1e3, 'ms'),
    'p99': Figure('p99', min, 1e3, 'ms'),
    'noticed_p50': Figure('p50 until it was noticed', min, 1e3, 'ms'),
    'noticed_p99': Figure('p99 until it was noticed', min, 1e3, 'ms'),
    'longest': Figure('longest wait', min, 1e3, 'ms'),
    'held': Figure('longest hold-up', min, 1e3, 'ms'),
    'busy': Figure('own work in a hold-up', min, 1e3, 'ms'),
    'cpu_per_read': Figure('CPU of a read', min, 1e6, 'us'),
    'cpu': Figure('CPU of a call', min, 1e6, 'us'),
    'seconds': Figure('time of a call', min, 1e6, 'us'),
    'start_cpu': Figure('CPU of an import', min, 1e3, 'ms'),
    'start_seconds': Figure('time of an import', min, 1e3, 'ms'),
    'instructions': Figure('instructions of a read', min),
    'collecting': Figure('collecting garbage', min, 100, '%'),
    'collection': Figure('longest collection', min, 1e3, 'ms'),
    'bytes': Figure('memory', min, 1, 'bytes'),
    'connections': Figure('connections', min),
    'computations': Figure('computations', min),
    'anew': Figure('computations of a life', min),
    'waiting': Figure('reads that waited', min, 100, '%'),
    'age': Figure('age p50', min, 1, 's'),
    'oldest': Figure('age p99', min, 1, 's'),
    'holders': Figure('holders a second', max),
    'at_once': Figure('holders at once', min),
    'errors': Figure('errors', min),
}
