"""What in the environment may be a mistake: variables that nobody reads."""

from __future__ import annotations

import logging
import os
import re
import typing
from collections import abc

from sprockets.clients.memcached import notices, settings, words

LOGGER = notices.harmless(logging.getLogger(__name__))

_KUBERNETES = re.compile(
    r'(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP)(_\w+)?)?)'
)
"""What it sets for a service that is named ``memcached``, or ends so."""

_said: set[str] = set()
"""What was logged already: the environment is the process's."""


class Oversight(typing.NamedTuple):
    """What may be a mistake, in words."""

    level: int
    """How it is logged."""
    text: str


def of(chosen: settings.Settings) -> list[Oversight]:
    """Return what may be a mistake about a client's variables.

    :param Settings chosen: the client's

    """
    prefix = chosen.prefix
    found = []
    if prefix is not None:
        found += _odd_prefix(prefix)
        found += _nothing_set(prefix, chosen)
    return found + [
        Oversight(logging.WARNING, text) for text in _misspelt(prefix)
    ]


def log(chosen: settings.Settings) -> None:
    """Log what may be a mistake, once in a process."""
    for level, text in of(chosen):
        if text not in _said:
            _said.add(text)
            if level == logging.WARNING:
                LOGGER.warning('Look at the environment: %s', text)
            else:
                LOGGER.info('In the environment: %s', text)


def _odd_prefix(prefix: str) -> list[Oversight]:
    plain = settings.plain_prefix(prefix)
    if plain == prefix:
        return []
    text = (
        f'The prefix {prefix!r} has characters that no shell exports, so that'
        f' {plain}_MEMCACHED_<OPTION> is read too'
    )
    return [Oversight(logging.INFO, text)]


def _nothing_set(prefix: str, chosen: settings.Settings) -> list[Oversight]:
    starts = {
        settings.variable('', name)
        for name in (prefix, settings.plain_prefix(prefix))
    }
    if any(
        os.environ[name].strip() and name.startswith(start)
        for start in starts
        for name in os.environ
    ):
        return []
    source = chosen.sources['servers']
    if source == 'keyword':
        return []
    others = sorted(
        name
        for name, text in os.environ.items()
        if name.endswith('_MEMCACHED_SERVERS') and text.strip()
    )
    start = settings.variable('', settings.plain_prefix(prefix))
    where = 'the default' if source == 'default' else f'those of {source}'
    text = f'No variable begins with {start}, and the servers are {where}'
    if others:
        text += f'; set are {", ".join(others)}'
    # One variable for all prefixes is a usual thing.
    is_usual = source != 'default' and not _likely(prefix, others)
    return [Oversight(logging.INFO if is_usual else logging.WARNING, text)]


def _likely(prefix: str, others: abc.Iterable[str]) -> bool:
    """Whether one of other prefixes may be meant by this one."""
    names = [name.removesuffix('_MEMCACHED_SERVERS') for name in others]
    return words.meant(settings.plain_prefix(prefix), names) is not None


def _misspelt(prefix: str | None) -> abc.Iterator[str]:
    options = {name.upper(): name for name in settings.OPTIONS}
    starts = {settings.variable('', None): False}
    if prefix is not None:
        for name in (prefix, settings.plain_prefix(prefix)):
            starts[settings.variable('', name)] = True
    for start, is_own in starts.items():
        for name in sorted(os.environ):
            option = name.removeprefix(start)
            if (
                not name.startswith(start)
                or option in options
                or _KUBERNETES.fullmatch(option)
            ):
                continue
            meant = words.meant(option, options)
            if meant is not None:
                yield f'Nobody reads {name}: is {start}{meant} meant?'
            elif is_own:
                yield f'Nobody reads {name}: there is no such option'
