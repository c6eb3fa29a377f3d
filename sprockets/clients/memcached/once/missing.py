"""The values of many keys: one read, one computation, one write."""

from __future__ import annotations

import functools
import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.once import plans
from sprockets.clients.memcached.once.steps import (
    AskMany,
    Compute,
    Failure,
    Make,
    Steps,
)
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    methods,
)
from sprockets.clients.memcached.wire import protocol

Found = dict[typing.Any, typing.Any]
"""Values by their keys, as these were given."""


class Read(descriptions.ReadMany):
    """The read of many keys, which knows what is there and is no value.

    :ivar originals: each key once, as it was given

    """

    def __init__(
        self,
        encoding: encodings.Encoding,
        keys: abc.Iterable[typing.Any],
        key_prefix: typing.Any,
    ) -> None:
        self.originals = list(dict.fromkeys(keys))
        self.broken: set[typing.Any] = set()
        """The keys of what cannot be decoded."""
        super().__init__(
            'get_or_set_multi',
            self.originals,
            encoding.parts(self.originals, key_prefix),
            encoding.codec,
            encoding.get,
        )

    def unpack(self, command: protocol.Command) -> None:
        before = len(self._made)
        super().unpack(command)
        get = typing.cast(protocol.Get, command)
        if sum(self._made[before:]) == len(get.found) + len(get.lost):
            return
        there = get.found.keys() | get.lost.keys()
        for place in self._places[command]:
            original = self._originals[place]
            if (
                self._values[original] is values.MISS
                and self._encoded[place] in there
            ):
                self.broken.add(original)


class Want(typing.NamedTuple):
    """What is wanted: values, and how those that are missing are stored."""

    encoding: encodings.Encoding
    """How keys are sent: those of a namespace are, in its generation."""
    read: Read
    time: typing.Any
    key_prefix: typing.Any
    cache_none: bool
    min_compress_len: int


def want(
    encoding: encodings.Encoding,
    keys: abc.Iterable[typing.Any],
    factory: typing.Any,
    time: typing.Any,
    key_prefix: typing.Any,
    cache_none: bool,
    min_compress_len: int,
) -> Want:
    """Return what is wanted, with its arguments checked.

    :raises memcache.Client.MemcachedKeyError: what is wrong with a key
    :raises ValueError: for what is no time, and no length
    :raises TypeError: for keys that are none, or a factory

    """
    plans.check_callable('factory', factory)
    arguments.lifetime(time)
    arguments.min_compress_len(min_compress_len)
    if isinstance(keys, (str, bytes)) or not isinstance(keys, abc.Iterable):
        raise TypeError(
            f'keys is {words.shown(keys)}; expected a list of keys'
        )
    read = Read(encoding, keys, key_prefix)
    read.prepare()
    return Want(encoding, read, time, key_prefix, cache_none, min_compress_len)


def get(wanted: Want) -> Steps[Found | Failure]:
    """Get the values of many keys, and compute those that are missing."""
    read = wanted.read
    found: Found = yield AskMany(read)
    if len(found) == len(read.originals):
        return found
    return (yield from complete(wanted, found))


def as_read(codec: values.Codec, computed: Found) -> Steps[Found]:
    """Return what was computed as it is when it is read the next time.

    :raises Exception: what serializing raises for what it cannot do

    """
    if not codec.rewrites:
        return computed
    job = functools.partial(codec.rewritten, computed)
    made = yield Make(job, values.HEAVY + 1)
    return computed if made is values.MISS else typing.cast(Found, made)


def complete(wanted: Want, found: Found) -> Steps[Found | Failure]:
    """Compute what was not found, and store it."""
    read = wanted.read
    missing = [key for key in read.originals if key not in found]
    made = yield Compute((missing,))
    if isinstance(made, Failure):
        return made
    if not isinstance(made, abc.Mapping):
        return Failure(
            TypeError(
                f'the factory returned {words.shown(made)}; expected a dict of'
                ' the values by their keys'
            )
        )
    computed = {key: made[key] for key in missing if key in made}
    kept = computed
    if not wanted.cache_none:
        kept = {k: v for k, v in computed.items() if v is not None}
    if kept:
        try:
            write = methods.set_multi(
                wanted.encoding,
                kept,
                wanted.time,
                wanted.key_prefix,
                wanted.min_compress_len,
                # What somebody has stored meanwhile is left alone.
                kept.keys() - read.broken,
            )
            computed |= yield from as_read(wanted.encoding.codec, kept)
            yield AskMany(write)
        # It is the values' own code that serializes them.
        except Exception as error:  # noqa: BLE001
            return Failure(error)
    found |= computed
    return {key: found[key] for key in read.originals if key in found}
