"""Values that tell which key they belong to, which one it is, and a sum.

So whoever reads one can tell whether it is what was stored there.
"""

import string
import typing
import zlib

SIZES = (10, 40, 100, 300, 1_000)
LARGE = 20_000
HUGE = 150_000
PATTERN = string.ascii_letters + string.digits

COPY = 'copy'
"""How the life of a counter begins that is not on its own server."""

COUNT_BITS = 24
"""The lower bits of a number; above them is the checksum of its key."""


class WrongValueError(Exception):
    """What was read is not what anybody stored under this key."""


def make(key, sequence, rng):
    """Return a value for a key: text, bytes or a dict, mostly a small one.

    :param str key: the key
    :param int sequence: which of the key's values it is
    :param random.Random rng: decides what it is like
    """
    chance = rng.random()
    if chance < 0.001:
        size = HUGE
    elif chance < 0.02:
        size = LARGE
    else:
        size = rng.choice(SIZES)
    start = sequence % len(PATTERN)
    padding = (PATTERN * (size // len(PATTERN) + 2))[start : start + size]
    kind = sequence % 3
    if kind == 2:
        return {
            'key': key,
            'sequence': sequence,
            'padding': padding,
            'sum': _sum(_text(key, sequence, padding)),
        }
    stamped = _signed(_text(key, sequence, padding))
    return stamped.encode() if kind else stamped


def read(key, value):
    """Return the sequence number of a value.

    :raises WrongValueError: if it was not made for this key
    """
    try:
        if isinstance(value, dict):
            text = _text(value['key'], value['sequence'], value['padding'])
            if value['sum'] != _sum(text):
                raise ValueError('another checksum')
            stamped, sequence = value['key'], value['sequence']
        else:
            text = value.decode() if isinstance(value, bytes) else value
            stamped, sequence, _ = _unsigned(text)
        sequence = int(sequence)
        kind = (str, bytes, dict)[sequence % 3]
        if stamped != key or type(value) is not kind:
            raise ValueError(f'{kind.__name__} {sequence} of {stamped}')
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong(key, value, error) from None
    return sequence


class Count(typing.NamedTuple):
    """What a counter is at."""

    life: str
    """Which life of the counter it is, begun at 0 each time."""
    number: int
    call: int
    """The call that made it so, 0 if none did."""

    def after(self, call):
        """Return what it is at after one more call."""
        return Count(self.life, self.number + 1, call)


def make_count(key, count):
    """Return the value of a counter, the same bytes for every client."""
    return _signed(_text(key, *count)).encode()


def read_count(key, value):
    """Return what a counter is at.

    :raises WrongValueError: if the value was not made for this key
    """
    try:
        stamped, life, number, call = _unsigned(value.decode())
        if stamped != key:
            raise ValueError(f'a value of {stamped}')
        return Count(life, int(number), int(call))
    except (AttributeError, ValueError) as error:
        raise _wrong(key, value, error) from None


def make_number(key, number):
    """Return a whole number that ``incr`` can be used on."""
    return zlib.crc32(key.encode()) << COUNT_BITS | number


def read_number(key, value):
    """Return how far a number has come.

    :raises WrongValueError: if it was not made for this key
    """
    if type(value) is not int or value >> COUNT_BITS != zlib.crc32(
        key.encode()
    ):
        raise _wrong(key, value, 'no number of this key')
    return value & (1 << COUNT_BITS) - 1


def _wrong(key, value, reason):
    return WrongValueError(f'{key}: {str(value)[:80]!r}, {reason}')


def _text(*parts):
    return '|'.join(map(str, parts))


def _sum(text):
    return zlib.crc32(text.encode())


def _signed(text):
    return f'{text}|{_sum(text)}'


def _unsigned(text):
    text, _, found = text.rpartition('|')
    if str(_sum(text)) != found:
        raise ValueError('another checksum')
    return text.split('|')
