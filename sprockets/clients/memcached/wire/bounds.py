"""How large what a server sends may be: each number, text and reply.

An honest server passes none of these bounds.  What does so makes that one
thing unknown, and nothing else, or its reply none at all where nobody knows
any more where it ends.

"""

from __future__ import annotations

import typing

from sprockets.clients.memcached import settings

DIGITS = 20
"""No number that memcached knows has more."""

ANY = 10**DIGITS - 1
"""Whatever can be written with so many."""


class Number(typing.NamedTuple):
    """A whole number, 0 or more."""

    name: str
    most: int

    def read(self, text: bytes | str) -> int | None:
        """Return the number, None if it is none, or a larger one."""
        # Its length comes first: Python takes long for many digits, and
        # raises for more than 4,300.
        if len(text) > DIGITS or not (text.isascii() and text.isdigit()):
            return None
        number = int(text)
        return number if number <= self.most else None

    def __str__(self) -> str:
        return f'{self.most:,}'


class Text(typing.NamedTuple):
    """A text of which so much is shown: what is no ASCII is spelt out."""

    name: str
    most: int

    def __str__(self) -> str:
        return f'{self.most:,} bytes'


class Size(typing.NamedTuple):
    """So many bytes, or things."""

    name: str
    most: int
    unit: str = 'bytes'

    def __str__(self) -> str:
        return f'{self.most:,} {self.unit}'


LINE = Size('line of a reply', 4096)
FLAGS = Number('flags of a value', ANY)
UNIQUE = Number('cas unique', ANY)
COUNT = Number('result of incr and decr', 2**64 - 1)
VALUE = Number('length of a value', 1 << 30)
"""The largest item that memcached can be made to store (-I)."""
PARTS = Number('parts of a value', settings.MOST_PARTS)
SECONDS = Number('seconds that a key has left', ANY)
ERROR = Text('error line', 200)
VERSION = Text('version', 64)
STATISTICS = Size('statistics of a server', 8 << 20)
STATISTICS_NAMES = Size('statistics of a server, names', 100_000, 'names')
"""More than any server has, or items to dump."""
STATISTIC = Number('number among the statistics', ANY)
TIME = Number('time of a server', 253_402_300_799)
"""The last second of the year 9999, in which dates end."""
CONFIGURATION = Number('length of a configuration', 1 << 20)
"""Bytes in which all the nodes that a cluster may have are named."""
CONFIGURATION_VERSION = Number('version of a configuration', ANY)

TABLE: tuple[Number | Text | Size, ...] = (
    LINE,
    FLAGS,
    UNIQUE,
    COUNT,
    VALUE,
    PARTS,
    SECONDS,
    ERROR,
    VERSION,
    STATISTICS,
    STATISTICS_NAMES,
    STATISTIC,
    TIME,
    CONFIGURATION,
    CONFIGURATION_VERSION,
)
"""All of them; ``docs/security.rst`` has them too."""

UNKNOWN_FLAGS = ANY + 1
"""In place of flags that are out of bounds.  There is no value with them."""

UNKNOWN_UNIQUE = 0
"""In place of a cas unique that is.  It is what servers say that keep none,
and stores nothing where they keep one."""
