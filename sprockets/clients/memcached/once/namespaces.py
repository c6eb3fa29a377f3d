"""What the methods of a namespace do, whichever face it has."""

from __future__ import annotations

import functools
import inspect
import typing
from collections import abc

from sprockets.clients.memcached.once import leases, limits
from sprockets.clients.memcached.requests import arguments, encodings

WHOLE: typing.Any = object()
"""In place of a key, where the whole namespace is meant."""

AGAIN = frozenset(
    (
        *('gets', 'gat', 'gats', 'get_multi', 'set', 'add', 'replace'),
        *('append', 'prepend', 'set_multi', 'incr', 'decr', 'touch'),
        *('delete', 'delete_multi', 'cas'),
    )
)
"""Methods that do no harm in a generation that is over: nobody asks for what
is there."""

STEPS = frozenset(('get_or_set_multi', 'update', 'mark_stale', 'limit'))
"""Methods of several steps, which have to know the generation."""

GOING_ON = frozenset(('get_or_set', 'get_or_set_multi', 'limit', 'update'))
"""Those that have something to return without a server, or an error of their
own."""


_OF_MANY = frozenset(('get_multi', 'set_multi', 'delete_multi'))


@functools.cache
def _signature(method: abc.Callable[..., typing.Any]) -> inspect.Signature:
    return inspect.signature(method)


def check(
    encoding: encodings.Encoding,
    method: abc.Callable[..., typing.Any],
    args: tuple[typing.Any, ...],
    kwargs: dict[str, typing.Any],
) -> None:
    """Say what is wrong with a key or a time, before anything is sent.

    :param Encoding encoding: how keys are sent in some generation

    """
    given = _signature(method).bind(None, *args, **kwargs).arguments
    if 'key' in given:
        encoding.route(given['key'])
    if given.get('time') is not None:
        arguments.exptime(given['time'])
    if method.__name__ == 'limit':
        limits.check(
            encoding, given['key'], given['calls'], given['seconds'], False
        )


def key_of(
    method: abc.Callable[..., typing.Any],
    args: tuple[typing.Any, ...],
    kwargs: dict[str, typing.Any],
) -> typing.Any:
    """Return the key that a method is given, by its place or its name."""
    return _signature(method).bind(None, *args, **kwargs).arguments['key']


def taken(
    method: abc.Callable[..., typing.Any],
    args: tuple[typing.Any, ...],
    kwargs: dict[str, typing.Any],
) -> tuple[tuple[typing.Any, ...], dict[str, typing.Any]]:
    """Return the arguments of a method as they are when it is called.

    It may be called once more, in another generation, when what its caller
    gave has been gone through, or has changed.

    :raises TypeError: for what are no keys, and no mapping

    """
    if method.__name__ not in _OF_MANY:
        return args, kwargs
    bound = _signature(method).bind(None, *args, **kwargs)
    given = bound.arguments
    if 'keys' in given:
        given['keys'] = arguments.items('keys', given['keys'])
    else:
        keys, values = arguments.mapping(given['mapping'])
        given['mapping'] = dict(zip(keys, values, strict=True))
    return bound.args[1:], bound.kwargs


def failure(
    encoding: encodings.Encoding,
    method: abc.Callable[..., typing.Any],
    args: tuple[typing.Any, ...],
    kwargs: dict[str, typing.Any],
) -> typing.Any:
    """Return what a method returns where no server answers.

    :param Encoding encoding: how keys are sent in some generation
    :raises UpdateError: for ``update``

    """
    name = method.__name__
    given = _signature(method).bind(None, *args, **kwargs)
    given.apply_defaults()
    values = given.arguments
    if name in ('get', 'gat'):
        return values['default']
    if name in ('gets', 'gats', 'incr', 'decr'):
        return None
    if name == 'get_multi':
        return {}
    if name == 'set_multi':
        return list(values['mapping'])
    if name == 'limit':
        asked = limits.check(
            encoding,
            values['key'],
            values['calls'],
            values['seconds'],
            values['default'],
        )
        return asked.unknown
    if name == 'update':
        raise leases.UpdateError(
            'no server answers: the namespace is not known'
        )
    return 0
