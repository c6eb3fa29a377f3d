"""The keys and values that every contender reads and writes."""

KEYS = 10_000
COUNTERS = 1_000
# Large values are fewer, so that all fit in memcached's memory.
MOST_BYTES = 64_000_000


def names(size):
    """Return the names of the keys that hold values of `size` bytes.

    :param int size: bytes of one value
    :rtype: list[str]
    """
    count = min(KEYS, MOST_BYTES // size)
    return [f'benchmark:{size}:{number:05}' for number in range(count)]


def counters():
    """Return the names of the keys that hold numbers.

    :rtype: list[str]
    """
    return [f'benchmark:counter:{number:05}' for number in range(COUNTERS)]


def value(name, size):
    """Return the value of a key: no other key has the same.

    :param str name: the key's name, as :func:`names` returns it
    :param int size: bytes of the value
    :rtype: bytes
    """
    own = name.encode()
    if size < len(own):
        # The number of the key is at the end of its name.
        return own[-size:].rjust(size, b'-')
    return own.ljust(min(size, 1_000), b'.').ljust(size, b'=')


def pairs(contender, size, count=KEYS):
    """Return keys as the contender takes them, and their values.

    :param int size: bytes of a value
    :param int count: how many, at most
    :rtype: list[tuple]
    """
    return [
        (contender.key(name), value(name, size))
        for name in names(size)[:count]
    ]
