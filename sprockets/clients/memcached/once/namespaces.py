"""What the methods of a namespace do, whichever face it has."""

from __future__ import annotations

import functools
import inspect
import typing
from collections import abc

from sprockets.clients.memcached.once import counts, leases, limits, plans
from sprockets.clients.memcached.requests import (
    arguments,
    encodings,
    methods,
)
from sprockets.clients.memcached.wire import protocol

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


_STORED = {
    verb.name: verb
    for verb in (
        protocol.SET,
        protocol.ADD,
        protocol.REPLACE,
        protocol.CAS,
        protocol.APPEND,
        protocol.PREPEND,
    )
}
_COUNTED = {verb.name: verb for verb in (protocol.INCR, protocol.DECR)}
_OF_MANY = frozenset(('get_multi', 'set_multi', 'delete_multi'))
_DELETES = frozenset(('delete', 'delete_multi'))


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
    if 'time' in given:
        if method.__name__ in _DELETES:
            arguments.check_no_delay(given['time'])
        else:
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


def checked(
    encoding: encodings.Encoding,
    method: abc.Callable[..., typing.Any],
    args: tuple[typing.Any, ...],
    kwargs: dict[str, typing.Any],
) -> abc.Iterator[None]:
    """Say what else is wrong with a call for which no server answers.

    Where one does, the call itself says it.  It takes long if there are many
    keys, and so it is done in parts.

    :param Encoding encoding: how keys are sent in some generation
    :raises Exception: what is wrong with an argument

    """
    name = method.__name__
    bound = _signature(method).bind(None, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments

    def these(*names: str) -> list[typing.Any]:
        return [given[name] for name in names]

    if name == 'get':
        methods.get(encoding, *these('key', 'default', 'kind'))
    elif name in _STORED:
        # It is not asked whether there was a gets, which is not known.
        methods.store(
            _STORED[name],
            encoding,
            *these('key', 'val', 'time', 'min_compress_len'),
        )
    elif name in _COUNTED:
        verb = _COUNTED[name]
        if not counts.check(
            encoding, verb, *these('key', 'delta', 'initial', 'time')
        ):
            methods.count(verb, encoding, *these('key', 'delta', 'noreply'))
    elif name == 'delete':
        methods.delete(encoding, *these('key', 'time'))
    elif name == 'mark_stale':
        arguments.whole_seconds('stale', given['stale'], 1)
    elif name == 'update':
        plans.check_callable('function', given['function'])
        arguments.attempts(given['attempts'])
        arguments.min_compress_len(given['min_compress_len'])
    elif name == 'get_multi':
        keys = methods.get_multi(encoding, *these('keys', 'key_prefix'))
        while keys.prepare():
            yield
    elif name == 'set_multi':
        values = methods.set_multi(
            encoding,
            *these('mapping', 'time', 'key_prefix', 'min_compress_len'),
        )
        while values.prepare():
            yield
    elif name == 'delete_multi':
        gone = methods.delete_multi(
            encoding, *these('keys', 'time', 'key_prefix')
        )
        while gone.prepare():
            yield


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
