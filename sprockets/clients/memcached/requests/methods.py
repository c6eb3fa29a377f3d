"""Each method once: its arguments, checked, as what is asked of the servers.

Whatever is wrong with an argument raises here, before anything is sent.  How
the methods are called, and what they return, is said where they are public:
:class:`~sprockets.clients.memcached.Client`.

"""

from __future__ import annotations

import math
import typing
from collections import abc

from sprockets.clients.memcached import words
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    statistics,
    tokens,
)
from sprockets.clients.memcached.servers import cluster, endpoints
from sprockets.clients.memcached.wire import protocol

T = typing.TypeVar('T')
M = typing.TypeVar('M', bound=descriptions.Many[typing.Any])

Asked = abc.Mapping[endpoints.Endpoint, protocol.Command]
"""What was asked of servers."""

Versions = dict[str, str]
"""The versions of servers by their addresses."""

FEW = 100
"""Values of a call that are encoded at a time, for pickling takes longer than
to encode a key."""

# Reading


def get(
    encoding: encodings.Encoding,
    key: typing.Any,
    default: typing.Any,
    kind: typing.Any = None,
) -> descriptions.One[typing.Any]:
    route = encoding.route(key)
    command = encoding.get((route.key,))
    if kind is not None:
        _check_class(kind)
        return descriptions.ReadKind(
            'get', command, route, encoding.codec, default, kind
        )
    return descriptions.Read('get', command, route, encoding.codec, default)


def _check_class(kind: typing.Any) -> None:
    """Refuse what values cannot be told to be of.

    :raises TypeError: if it is no class, or one of which that is not known, as
        of a TypedDict

    """
    if isinstance(kind, type):
        try:
            isinstance(None, kind)
        except TypeError:
            pass
        else:
            return
    raise TypeError(
        f'kind is {words.shown(kind)}; expected a class, of which isinstance'
        ' can tell'
    )


def gets(
    encoding: encodings.Encoding, key: typing.Any, saw: tokens.Tokens
) -> descriptions.One[typing.Any]:
    route = encoding.route(key)
    command = encoding.get((route.key,), 'gets')
    return descriptions.ReadForCas('gets', command, route, encoding.codec, saw)


def gat(
    encoding: encodings.Encoding,
    key: typing.Any,
    time: typing.Any,
    default: typing.Any,
) -> descriptions.One[typing.Any]:
    route = encoding.route(key)
    command = encoding.get((route.key,), 'gat', arguments.exptime(time))
    return descriptions.Read('gat', command, route, encoding.codec, default)


def gats(
    encoding: encodings.Encoding,
    key: typing.Any,
    time: typing.Any,
    saw: tokens.Tokens,
) -> descriptions.One[typing.Any]:
    route = encoding.route(key)
    command = encoding.get((route.key,), 'gats', arguments.exptime(time))
    return descriptions.ReadForCas('gats', command, route, encoding.codec, saw)


def get_multi(
    encoding: encodings.Encoding,
    keys: abc.Iterable[typing.Any],
    key_prefix: typing.Any,
) -> descriptions.Many[dict[typing.Any, typing.Any]]:
    originals = arguments.items('keys', keys)
    parts = encoding.parts(originals, key_prefix)
    return _begun(
        descriptions.ReadMany(
            'get_multi', originals, parts, encoding.codec, encoding.get
        )
    )


def _begun(request: M) -> M:
    """Have the first part of the keys checked, where it is called."""
    request.prepare()
    return request


# Writing


def store(
    verb: protocol.Verb,
    encoding: encodings.Encoding,
    key: typing.Any,
    val: typing.Any,
    time: typing.Any,
    min_compress_len: typing.Any,
) -> descriptions.One[int]:
    """Describe ``set``, ``add``, ``replace``, ``append`` and ``prepend``."""
    route = encoding.route(key)
    when = arguments.exptime(time)
    if min_compress_len != 0:
        arguments.min_compress_len(min_compress_len)
    data = encoding.encoded(verb, val, min_compress_len)
    command: protocol.Command | None = None
    if data is not None:
        command = encoding.store(verb, route.key, data[0], when, data[1])
    elif verb is protocol.SET:
        # The old value is served no more.
        request = protocol.delete_request(route.key)
        command = protocol.Line(descriptions.DROP, request)
    return descriptions.Store(verb.name, command, route)


def cas(
    encoding: encodings.Encoding,
    key: typing.Any,
    val: typing.Any,
    time: typing.Any,
    min_compress_len: typing.Any,
    saw: tokens.Tokens,
) -> descriptions.One[int]:
    route = encoding.route(key)
    return cas_of(encoding, route, val, time, min_compress_len, saw)


def cas_of(
    encoding: encodings.Encoding,
    route: cluster.Route,
    val: typing.Any,
    time: typing.Any,
    min_compress_len: typing.Any,
    saw: tokens.Tokens,
) -> descriptions.One[int]:
    """Describe ``cas`` of a key that is checked and encoded already."""
    when = arguments.exptime(time)
    if min_compress_len != 0:
        arguments.min_compress_len(min_compress_len)
    data = encoding.encoded(protocol.CAS, val, min_compress_len)
    token = saw.take(route)
    command: protocol.Command | None = None
    if data is not None and token.endpoint is not None:
        if token.unique is None:
            command = encoding.store(
                protocol.ADD, route.key, data[0], when, data[1]
            )
        else:
            command = encoding.compare_and_swap(
                route.key,
                data[0],
                when,
                data[1],
                token.unique,
                token.incarnation,
            )
    return descriptions.One('cas', command, route, token.endpoint)


def set_multi(
    encoding: encodings.Encoding,
    mapping: abc.Mapping[typing.Any, typing.Any],
    time: typing.Any,
    key_prefix: typing.Any,
    min_compress_len: typing.Any,
    added: abc.Set[typing.Any] = frozenset(),
) -> descriptions.Many[list[typing.Any]]:
    """Describe ``set_multi``.

    :param added: the keys of values that are stored where there is none

    """
    when = arguments.exptime(time)
    originals, vals = arguments.mapping(mapping)
    arguments.min_compress_len(min_compress_len)
    requests: list[bytes] = []
    dropped: set[int] = set()
    alone: dict[int, protocol.Line] = {}
    parts = encoding.parts(originals, key_prefix, FEW)
    return _begun(
        descriptions.StoreMany(
            'set_multi',
            originals,
            _storing(
                encoding,
                parts,
                zip(originals, vals, strict=True),
                when,
                min_compress_len,
                requests,
                dropped,
                alone,
                added,
            ),
            protocol.ADD if added else protocol.SET,
            requests,
            dropped,
            alone,
        )
    )


def _storing(
    encoding: encodings.Encoding,
    parts: abc.Iterator[cluster.Keys],
    pairs: abc.Iterator[tuple[typing.Any, typing.Any]],
    when: int,
    min_compress_len: typing.Any,
    requests: list[bytes],
    dropped: set[int],
    alone: dict[int, protocol.Line],
    added: abc.Set[typing.Any],
) -> abc.Iterator[cluster.Keys]:
    """Yield each part of the keys when there are requests for it.

    :param pairs: all keys as they were given, each with its value

    """
    put = requests.append
    join = b''.join
    encode = encoding.codec.encode
    most = encoding.room or encoding.codec.max_length or math.inf
    # Values of one kind and length are common: so is what precedes them.
    heads: dict[tuple[int, int], bytes] = {}
    for part in parts:
        for key, (original, val) in zip(part.keys, pairs, strict=False):
            try:
                flags, value = encode(val, min_compress_len)
            except Exception as error:
                _name_key(error, original)
                raise
            size = len(value)
            is_added = added and original in added
            if size > most:
                if encoding.is_too_large(size):
                    encoding.log_too_large(size)
                    dropped.add(len(requests))
                    put(protocol.delete_request(key))
                else:
                    verb = protocol.ADD if is_added else protocol.SET
                    command = encoding.store(verb, key, flags, when, value)
                    alone[len(requests)] = command
                    put(command.request)
                continue
            try:
                head = heads[flags, size]
            except KeyError:
                head = b' %d %d %d\r\n' % (flags, when, size)
                heads[flags, size] = head
            word = b'add ' if is_added else b'set '
            put(join((word, key, head, value, b'\r\n')))
        yield part


def _name_key(error: Exception, key: typing.Any) -> None:
    """Make an error say which key's value it is about."""
    if isinstance(error, UnicodeEncodeError):
        error.reason += f', in the value of {key!r}'
    elif error.args and isinstance(error.args[0], str):
        error.args = (f'value of {key!r}: {error.args[0]}', *error.args[1:])
    elif hasattr(error, 'add_note'):
        error.add_note(f'This was the value of {key!r}.')


# Numbers


def count(
    verb: protocol.Verb,
    encoding: encodings.Encoding,
    key: typing.Any,
    delta: typing.Any,
    noreply: typing.Any,
) -> descriptions.One[int | None]:
    """Describe ``incr`` and ``decr``."""
    route = encoding.route(key)
    command = protocol.count(verb, route.key, arguments.delta(delta))
    if noreply:
        return descriptions.Silent(verb.name, command, route)
    return descriptions.One(verb.name, command, route)


# Expiry and deletion


def touch(
    encoding: encodings.Encoding, key: typing.Any, time: typing.Any
) -> descriptions.One[int]:
    route = encoding.route(key)
    command = encoding.touch(route.key, arguments.exptime(time))
    return descriptions.One('touch', command, route)


def delete(
    encoding: encodings.Encoding, key: typing.Any, time: typing.Any
) -> descriptions.One[int]:
    arguments.check_no_delay(time)
    route = encoding.route(key)
    return descriptions.One('delete', protocol.delete(route.key), route)


def delete_multi(
    encoding: encodings.Encoding,
    keys: abc.Iterable[typing.Any],
    time: typing.Any,
    key_prefix: typing.Any,
) -> descriptions.Many[int]:
    arguments.check_no_delay(time)
    originals = arguments.items('keys', keys)
    requests: list[bytes] = []
    return _begun(
        descriptions.DeleteMany(
            'delete_multi',
            originals,
            _deleting(encoding.parts(originals, key_prefix), requests),
            protocol.DELETE_ANY,
            requests,
        )
    )


def _deleting(
    parts: abc.Iterator[cluster.Keys], requests: list[bytes]
) -> abc.Iterator[cluster.Keys]:
    """Yield each part of the keys when there are requests for it."""
    for part in parts:
        requests += map(protocol.delete_request, part.keys)
        yield part


# Servers


def flush_all() -> descriptions.Everywhere[None]:
    return descriptions.Everywhere(
        'flush_all', protocol.flush_all, lambda asked: None
    )


def ping(servers: cluster.Cluster) -> descriptions.Everywhere[bool]:
    """Describe ``ping``, for which any server has an answer."""

    def result(asked: Asked) -> bool:
        answered = [
            endpoint
            for endpoint, command in asked.items()
            if command.answered and command.error is None
        ]
        return bool(answered) and len(answered) == len(servers.endpoints)

    return descriptions.Everywhere(
        'ping', lambda: protocol.Probe((endpoints.PROBE,)), result
    )


def version(servers: cluster.Cluster) -> descriptions.Everywhere[Versions]:
    def result(asked: Asked) -> Versions:
        return {
            str(endpoint): asked[endpoint].result
            for endpoint in servers.endpoints
            if endpoint in asked and asked[endpoint].result is not None
        }

    return descriptions.Everywhere('version', protocol.Version, result)


def get_stats(
    servers: cluster.Cluster, argument: typing.Any
) -> descriptions.Everywhere[statistics.Pairs]:
    sent = statistics.argument(argument)
    return descriptions.Everywhere(
        'get_stats',
        lambda: protocol.Statistics(sent),
        lambda asked: statistics.of_argument(servers.servers, asked),
    )


def get_slab_stats(
    servers: cluster.Cluster,
) -> descriptions.Everywhere[statistics.BySlab]:
    return descriptions.Everywhere(
        'get_slab_stats',
        lambda: protocol.Statistics(b'slabs'),
        lambda asked: statistics.by_slab(
            statistics.of(servers.servers, asked)
        ),
    )


def get_slabs(
    servers: cluster.Cluster,
) -> descriptions.Everywhere[statistics.BySlab]:
    return descriptions.Everywhere(
        'get_slabs',
        lambda: protocol.Statistics(b'items'),
        lambda asked: statistics.items_by_slab(
            statistics.of(servers.servers, asked)
        ),
    )
