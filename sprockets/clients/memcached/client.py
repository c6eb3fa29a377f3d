"""The blocking client: python-memcached's, configured by the environment."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import logging
import operator
import threading
import time as clock
import types
import typing
from collections import abc

import memcache

from sprockets.clients.memcached import core, notices, settings
from sprockets.clients.memcached.once import (
    computations,
    counts,
    generations,
    leases,
    limits,
    locks,
    missing,
    namespaces,
    nesting,
    plans,
    steps,
)
from sprockets.clients.memcached.requests import (
    arguments,
    descriptions,
    encodings,
    errors,
    methods,
    tokens,
)
from sprockets.clients.memcached.servers import (
    endpoints,
    events,
    journey,
)
from sprockets.clients.memcached.watch import tracing
from sprockets.clients.memcached.wire import protocol

LOGGER = notices.harmless(logging.getLogger(__name__))

T = typing.TypeVar('T')
D = typing.TypeVar('D')

READY_PAUSE = 0.05
"""Seconds between two looks whether all servers answer."""


class Shared(core.Core):
    """What the threads that use a client have in common."""

    def __init__(
        self, prefix: str | None, options: abc.Mapping[str, typing.Any]
    ) -> None:
        super().__init__(prefix, options)
        self.flow = leases.Flow(self.encoding, self.cluster)
        self.computations = computations.Computations()
        self.pickler_is_keyword = True
        self._counts = _counts()

    def count(self, method: str) -> None:
        """Count a call, as python-memcached does in its ``stats``."""
        self._counts[threading.get_ident()][method] += 1

    @property
    def stats(self) -> dict[str, int]:
        """How often each method was called, in all threads together."""
        total: dict[str, int] = {}
        for own in list(self._counts.values()):
            for method, count in [*own.items()]:
                total[method] = total.get(method, 0) + count
        return total

    @stats.setter
    def stats(self, stats: abc.Mapping[str, int]) -> None:
        # No thread has this number.
        counts = _counts()
        counts[0].update(stats)
        self._counts = counts

    # The way to the servers

    def run(
        self,
        name: str,
        command: protocol.Command,
        route: tuple[bytes, int | None],
        only: endpoints.Endpoint | None = None,
        timeout: float | None = None,
    ) -> endpoints.Endpoint | None:
        """Run a command on the server of its key, and let it be traced.

        :param Route route: the key as it is sent, and the hash given with it
        :param float timeout: the seconds for it, if the client's are not less

        """
        if self.tracing.off():
            return journey.run(self.cluster, command, route, only, timeout)
        with self.tracing.traced(name, (route[0],)) as call:
            call.endpoint = journey.run(
                self.cluster, command, route, only, timeout
            )
            call.error = command.error
            call.found = descriptions.found(command)
        return call.endpoint

    def one(
        self, request: descriptions.One[T], timeout: float | None = None
    ) -> T:
        """Run what is described, count it, and let it be traced.

        :raises ValueError: if the timeout is none
        :raises MemcachedError: what goes wrong, for a strict client

        """
        seconds = errors.timeout(timeout)
        self.count(request.name)
        if self.strict:
            request = errors.One(request)
        command = request.command
        if command is None:
            return request.failure
        endpoint = self.run(
            request.name, command, request.route, request.only, seconds
        )
        if self.cluster.debug and isinstance(command, protocol.Line):
            self._debug_reply(request.wanted, command.reply)
        request.note(command, endpoint)
        return request.unpack(command)

    def many(
        self, request: descriptions.Many[T], timeout: float | None = None
    ) -> T:
        """Run what is described, likewise."""
        seconds = errors.timeout(timeout)
        self.count(request.name)
        if self.strict:
            request = errors.Many(request)
        return self.run_many(request, seconds)

    def run_many(
        self, request: descriptions.Many[T], timeout: float | None = None
    ) -> T:
        """Run what is described, and let it be traced."""
        keys = request.keys
        call = self.tracing.call(request.name, keys.keys)
        with call or contextlib.nullcontext():
            done = journey.run_many(self.cluster, request, timeout)
            if call is not None:
                call.error, *found = descriptions.outcome(done, request)
                call.found = found[0], found[1]
        for command in done:
            request.unpack(command)
            if self.cluster.debug and isinstance(command, protocol.Many):
                for line in command.others:
                    self._debug_reply(command.wanted, line)
        return request.result()

    def everywhere(self, request: descriptions.Everywhere[T]) -> T:
        """Run what is described, likewise."""
        self.count(request.name)
        return self.run_everywhere(request, self.cluster.timeout)

    def run_everywhere(
        self, request: descriptions.Everywhere[T], seconds: float
    ) -> T:
        """Run what is described, and let it be traced.

        :param float seconds: the time for it, if the timeout is not less

        """
        deadline = clock.monotonic() + min(seconds, self.cluster.timeout)
        if waiting := self.cluster.waiting():
            journey.exchange_all(waiting, deadline)
        asked = {
            endpoint: request.make()
            for endpoint in self.cluster.endpoints
            if endpoint.usable()
        }
        call = self.tracing.call(request.name, ())
        with call or contextlib.nullcontext():
            reached = journey.exchange_all(
                {endpoint: [command] for endpoint, command in asked.items()},
                deadline,
            )
            if call is not None:
                call.error = descriptions.outcome(asked.values())[0]
        return request.result({e: c for e, c in asked.items() if e in reached})

    def follow(
        self,
        work: steps.Steps[typing.Any],
        function: abc.Callable[..., typing.Any] | None = None,
        *,
        name: str | None = None,
        timeout: float | None = None,
        strict: bool = False,
        at_first: bool = False,
        call: tracing.TracedCall | None = None,
    ) -> typing.Any:
        """Do one step after another, and return what came of it.

        :param str name: the method that all of them are for, which is traced
            as one call; None if it was traced already
        :param float timeout: the seconds for them all, if the client's are
            not less
        :param bool strict: whether to raise what goes wrong with the last of
            its commands, which does what the others are for
        :param bool at_first: whether the call is over, as far as traces go,
            when the first of its commands is
        :param TracedCall call: what takes note of the last command, which
            does what the others are for

        """
        until = None if timeout is None else clock.monotonic() + timeout
        begins = name if call is None else None
        last: protocol.Command | None = None

        def ask(step: steps.Ask) -> endpoints.Endpoint | None:
            nonlocal begins, call, last
            if begins is not None:
                call, begins = self.tracing.call(begins, step.route[:1]), None
                if call is not None:
                    ended.enter_context(call)
            left = None if until is None else until - clock.monotonic()
            last = step.command
            endpoint = journey.run(self.cluster, *step, left)
            if call is not None:
                call.endpoint, call.error = endpoint, last.error
            if at_first:
                ended.close()
            return endpoint

        with contextlib.ExitStack() as ended:
            result = steps.follow(
                work, ask, function, lambda step: self.run_many(step.request)
            )
        if strict and last is not None:
            error = errors.about(name or last.name, last)
            if error is not None:
                raise error
        return result

    def look(self, want: plans.Want) -> tuple[typing.Any, typing.Any]:
        """Look for a value that may be stale, and let it be traced."""
        call = self.tracing.call('get_or_set', (want.route.key,))
        with call or contextlib.nullcontext():
            value, stale = self.follow(self.flow.look(want), call=call)
            if call is not None:
                if value is not plans.MISS:
                    call.error, call.found = None, (1, 0)
                elif call.error is None:
                    call.found = 0, 1
        return value, stale

    def _debug_reply(self, wanted: str, reply: bytes) -> None:
        """Print a reply that python-memcached prints too."""
        line = reply.decode('ascii', 'backslashreplace')
        if wanted and line and line != wanted:
            self.cluster.debuglog(
                f'while expecting {wanted!r}, got unexpected response {line!r}'
            )


def _counts() -> abc.MutableMapping[int, abc.MutableMapping[str, int]]:
    """Return counts of calls, none so far, by thread and by method.

    To add one to what other threads add to is more than one step.

    """
    return collections.defaultdict(lambda: collections.defaultdict(int))


def _attribute(path: str) -> property:
    """Return an attribute of python-memcached's that all threads share."""
    where = operator.attrgetter(path)

    def get(self: Client) -> typing.Any:
        return where(self._shared)

    def set_(self: Client, value: typing.Any) -> None:
        self._shared.assign(path, value)

    return property(get, set_)


class Client(memcache.Client):  # type: ignore[misc]
    """:class:`memcache.Client`, configured by the environment.

    .. code-block:: python

        client = memcached.Client('pages')    # PAGES_MEMCACHED_SERVERS
        client.set('front', 'Hello', time=60)
        client.get('front')

    One client serves any number of threads: they share the connections and
    what is known of the servers' health.  Only what ``gets`` saw, for
    ``cas``, is each thread's own.  A process that was forked has no
    connections but those that it makes itself.

    A cache that is down is a cache that misses: nothing raises but for what
    the caller got wrong.

    :param str prefix: the prefix of the variables, ``PAGES`` for
        ``PAGES_MEMCACHED_SERVERS``; upper-cased.  Default: ``None``
    :param options: any option of the environment by its name in lower case,
        and the arguments of :class:`memcache.Client` but ``servers``.
        ``strict=True`` has calls raise what goes wrong, a
        :exc:`.MemcachedError`
    :raises TypeError: for an option that there is not
    :raises ValueError: for a value that cannot be; it names the variable

    .. versionchanged:: 2.0
       Options besides the servers; see the version history for what is safer
       than in python-memcached and so in 1.1.0.

    """

    # On the object itself, not in the dict that each thread has of its own.
    __slots__ = ('_shared',)

    _shared: Shared

    _group: generations.Group = ()
    """The generations that its keys have to have: a namespace's."""

    debug = _attribute('cluster.debug')
    cache_cas = _attribute('cache_cas')
    stats = _attribute('stats')
    dead_retry = _attribute('cluster.dead_retry')
    picklerIsKeyword = _attribute('pickler_is_keyword')  # noqa: N815
    socket_timeout = _attribute('cluster.timeout')
    flush_on_reconnect = _attribute('cluster.flush_on_reconnect')
    servers = _attribute('cluster.servers')
    buckets = _attribute('cluster.buckets')
    do_check_key = _attribute('encoding.do_check_key')
    key_encoder = _attribute('encoding.key_encoder')
    server_max_key_length = _attribute('encoding.server_max_key_length')
    server_max_value_length = _attribute('codec.max_length')
    pickleProtocol = _attribute('codec.pickle_protocol')  # noqa: N815
    pickler = _attribute('codec.pickler')
    unpickler = _attribute('codec.unpickler')
    compressor = _attribute('codec.compressor')
    decompressor = _attribute('codec.decompressor')
    persistent_id = _attribute('codec.persistent_id')
    persistent_load = _attribute('codec.persistent_load')

    def __new__(cls, *args: typing.Any, **options: typing.Any) -> typing.Self:
        if isinstance(options.get('servers'), abc.Iterator):
            # They can be read once, which is done when it is initialized.
            options['servers'] = ()
        # threading.local keeps them, for each thread that comes.
        core.hide(options)
        return typing.cast(typing.Self, super().__new__(cls, *args, **options))

    def __init__(
        self, prefix: str | None = None, **options: typing.Any
    ) -> None:
        core.hide(options)
        # Each thread's own, and so not a slot.
        self._tokens = tokens.Tokens()  # type: ignore[misc]
        # threading.local calls this again in each thread that comes.
        if hasattr(self, '_shared'):
            return
        self._shared = shared = Shared(prefix, options)
        LOGGER.debug('Servers are %s', shared.settings.servers)
        given = {k: v for k, v in options.items() if k in core.BASE_OPTIONS}
        for name in ('socket_timeout', 'dead_retry'):
            if shared.settings.sources[name] != 'default':
                given[name] = getattr(shared.settings, name)
        if (
            shared.settings.sources['max_value_len'] != 'default'
            and given.get('server_max_value_length') is None
        ):
            given['server_max_value_length'] = shared.settings.max_value_len
        codec = shared.codec
        ours = codec.pickle_protocol, codec.decompressor, codec.compressor
        super().__init__(shared.settings.servers, **given)
        if 'pickleProtocol' not in options:
            codec.pickle_protocol = ours[0]
        if 'decompressor' not in options:
            codec.decompressor = ours[1]
        if 'compressor' not in options:
            codec.compressor = ours[2]
        if options.get('key_encoder') is None:
            shared.encoding.key_encoder = None

    # Servers

    def set_servers(self, servers: abc.Iterable[settings.Weighted]) -> None:
        """Use other servers from now on, in every thread.

        :param servers: a list of strings, or of ``(string, weight)``; or text,
            with commas between them
        :raises ValueError: for a server that cannot be one, and for what is
            no list

        """
        servers = settings.hide_servers(servers)
        self._shared.set_servers(servers)

    def watch_servers(self, callback: events.Listener) -> None:
        """Have a function called when something happens to a server.

        :param callback: is called in the thread that has noticed it, with a
            :class:`.ServerEvent`; it should not take long

        .. versionadded:: 2.0

        """
        plans.check_callable('callback', callback)
        self._shared.cluster.listeners.append(callback)

    def forget_dead_hosts(self) -> None:
        """Take every server for one that is up, in every thread."""
        self._shared.forget_dead_hosts()

    def disconnect_all(self) -> None:
        """Close the connections of every thread.

        Calls that are under way end first; later ones connect anew.

        """
        self._shared.disconnect_all()

    def quit_all(self) -> None:
        """Close the connections, as :meth:`disconnect_all` does."""
        self.disconnect_all()

    def flush_all(self) -> None:
        """Make every value on every server that is up expire.

        It never raises; a server that refuses is logged.

        """
        self._shared.everywhere(methods.flush_all())

    def get_stats(
        self, stat_args: str | None = None
    ) -> list[tuple[str, dict[str, str]]]:
        """Return the statistics of each server that answers.

        :param str stat_args: what to put behind ``stats``: ``items``, say
        :return: pairs of a server, named ``host:port (weight)``, and its
            statistics by name, all of them text
        :rtype: list
        :raises ValueError: for an argument that memcached refuses

        """
        shared = self._shared
        return shared.everywhere(methods.get_stats(shared.cluster, stat_args))

    def get_slab_stats(self) -> list[tuple[str, dict[str, typing.Any]]]:
        """Return ``stats slabs`` of each server that answers.

        :return: pairs of a server and a dict: for each slab's number a dict
            of its statistics, and the two of the server as a whole
        :rtype: list

        """
        shared = self._shared
        return shared.everywhere(methods.get_slab_stats(shared.cluster))

    def get_slabs(self) -> list[tuple[str, dict[str, typing.Any]]]:
        """Return ``stats items`` of each server that answers.

        :return: pairs of a server and a dict: for each slab's number a dict
            of the statistics of its items
        :rtype: list

        """
        shared = self._shared
        return shared.everywhere(methods.get_slabs(shared.cluster))

    def ping(self) -> bool:
        """Return whether every server answers.

        .. versionadded:: 2.0

        """
        shared = self._shared
        return shared.everywhere(methods.ping(shared.cluster))

    def version(self) -> dict[str, str]:
        """Return the version of each server that tells it.

        :return: the versions by the servers' addresses, ``host:port``
        :rtype: dict

        .. versionadded:: 2.0

        """
        shared = self._shared
        return shared.everywhere(methods.version(shared.cluster))

    def wait_until_ready(self, seconds: typing.Any) -> bool:
        """Wait until every server answers.

        Those that are down are asked as well, again and again.

        :param seconds: how long to wait at most; seconds or a timedelta
        :return: whether they do
        :rtype: bool
        :raises ValueError: for what is no time

        .. versionadded:: 2.0

        """
        until = clock.monotonic() + arguments.seconds('seconds', seconds)
        shared = self._shared
        shared.count('wait_until_ready')
        request = methods.ping(shared.cluster)
        while True:
            for endpoint in shared.cluster.endpoints:
                endpoint.try_soon()
            left = max(until - clock.monotonic(), 0.001)
            if shared.run_everywhere(request, left):
                return True
            if clock.monotonic() + READY_PAUSE >= until:
                return False
            clock.sleep(READY_PAUSE)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.disconnect_all()

    def __repr__(self) -> str:
        name = type(self).__name__
        if not hasattr(self, '_shared'):
            # A debugger may ask while it is made.
            return f'<{name}>'
        return self._shared.describe(name)

    # Reading

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: None = None,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> T | None: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: D,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> T | D: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: None = None,
    ) -> typing.Any: ...

    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: type[typing.Any] | None = None,
    ) -> typing.Any:
        """Return the value of a key.

        :param str key: text, bytes, or ``(hash, key)``
        :param default: what to return for a miss, for a value that cannot be
            decoded, and where no server answers
        :param float timeout: seconds for this call, where the client's are not
            less; when they are over, it returns what it does where no server
            answers.  So it is of all methods that have it
        :param kind: a class of which the value is to be; any other is a miss
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a timeout that cannot be one
        :raises TypeError: for a kind that is no class

        """
        shared = self._shared
        if timeout is not None or kind is not None or shared.strict:
            return shared.one(
                methods.get(shared.encoding, key, default, kind), timeout
            )
        shared.count('get')
        sent, hashed = shared.encoding.key(key), None
        if sent is None:
            sent, hashed = shared.encoding.route(key)
        command = shared.encoding.get((sent,))
        shared.run('get', command, (sent, hashed))
        if command.in_order is not None:
            data = command.in_order[0]
            return shared.codec.decode_or(command.flags, data, default)
        item = command.found.get(sent)
        if item is None:
            return default
        return shared.codec.decode_or(item[0], item[1], default)

    def gets(
        self,
        key: typing.Any,
        *,
        timeout: float | None = None,
    ) -> typing.Any:
        """Return the value of a key, and remember it for :meth:`cas`.

        :param str key: text, bytes, or ``(hash, key)``
        :param float timeout: see :meth:`get`
        :return: the value, None as in :meth:`get`
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key

        """
        shared = self._shared
        return shared.one(
            methods.gets(shared.encoding, key, self._tokens), timeout
        )

    def get_multi(
        self,
        keys: abc.Iterable[typing.Any],
        key_prefix: typing.Any = '',
        *,
        timeout: float | None = None,
    ) -> dict[typing.Any, typing.Any]:
        """Return the values of many keys.

        :param list keys: text, bytes, ``(hash, key)``, or anything else, of
            which the ``str()`` is sent
        :param str key_prefix: put before each key for the server only
        :param float timeout: see :meth:`get`
        :return: the values that there are, by the keys as they were given
        :rtype: dict
        :raises memcache.Client.MemcachedKeyError: what is wrong with a key

        """
        shared = self._shared
        return shared.many(
            methods.get_multi(shared.encoding, keys, key_prefix), timeout
        )

    def gat(
        self,
        key: typing.Any,
        time: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
    ) -> typing.Any:
        """Return the value of a key, and give it another time to expire.

        :param str key: text, bytes, or ``(hash, key)``
        :param time: when it expires; see :meth:`set`
        :param default: as for :meth:`get`
        :param float timeout: see :meth:`get`
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        .. versionadded:: 2.0

        """
        shared = self._shared
        return shared.one(
            methods.gat(shared.encoding, key, time, default), timeout
        )

    def gats(
        self,
        key: typing.Any,
        time: typing.Any,
        *,
        timeout: float | None = None,
    ) -> typing.Any:
        """Return the value of a key as :meth:`gat`, for :meth:`cas` later.

        .. versionadded:: 2.0

        """
        shared = self._shared
        return shared.one(
            methods.gats(shared.encoding, key, time, self._tokens), timeout
        )

    # Writing

    def set(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Store a value.

        A value that is too large is not stored, and the old one is deleted;
        with ``max_parts`` it is stored in parts.

        :param str key: text, bytes, or ``(hash, key)``
        :param val: any value that can be serialized
        :param time: when it expires: seconds or a timedelta from now, or a
            date in seconds since the epoch; 0 for never.  A part of a second
            counts as a whole one
        :param int min_compress_len: compress from this many bytes; 0 for what
            the client is set to
        :param bool noreply: the caller does not care; the reply is read all
            the same, so that it cannot be taken for another one
        :param float timeout: see :meth:`get`
        :return: nonzero if it was stored
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        """
        shared = self._shared
        return shared.one(
            methods.store(
                protocol.SET,
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def add(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Store a value if the key has none; otherwise as :meth:`set`."""
        shared = self._shared
        return shared.one(
            methods.store(
                protocol.ADD,
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def replace(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Store a value if the key has one; otherwise as :meth:`set`."""
        shared = self._shared
        return shared.one(
            methods.store(
                protocol.REPLACE,
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def append(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Put text, bytes or an int behind the value of a key, if it has one.

        Neither the time nor the compression of the value change; otherwise
        as :meth:`set`.

        :raises TypeError: for what would be pickled, or be JSON: no value that
            it is put behind could be read any more

        """
        shared = self._shared
        return shared.one(
            methods.store(
                protocol.APPEND,
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def prepend(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Put text, bytes or an int before the value of a key, if it has one.

        Neither the time nor the compression of the value change; otherwise
        as :meth:`set`.

        :raises TypeError: as :meth:`append`

        """
        shared = self._shared
        return shared.one(
            methods.store(
                protocol.PREPEND,
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
            ),
            timeout,
        )

    def cas(
        self,
        key: typing.Any,
        val: typing.Any,
        time: typing.Any = 0,
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Store a value if the key still has what this thread's gets saw.

        If :meth:`gets` found nothing, it is stored if there is still nothing.
        Each ``gets`` serves for one ``cas``.  The arguments are those of
        :meth:`set`.

        :return: nonzero if it was stored; 0 also where that cannot be told,
            as when the server was lost or restarted since
        :rtype: int
        :raises RuntimeError: if there was no ``gets`` of the key
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        """
        shared = self._shared
        return shared.one(
            methods.cas(
                shared.encoding,
                key,
                val,
                time,
                min_compress_len,
                self._tokens,
            ),
            timeout,
        )

    def set_multi(
        self,
        mapping: abc.Mapping[typing.Any, typing.Any],
        time: typing.Any = 0,
        key_prefix: typing.Any = '',
        min_compress_len: int = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> list[typing.Any]:
        """Store many values.

        :param dict mapping: the values by their keys; see :meth:`get_multi`
        :param time: when they expire; see :meth:`set`
        :param str key_prefix: put before each key for the server only
        :param int min_compress_len: see :meth:`set`
        :param bool noreply: see :meth:`set`
        :param float timeout: see :meth:`get`
        :return: the keys of which it is not certain that they were stored
        :rtype: list
        :raises memcache.Client.MemcachedKeyError: what is wrong with a key
        :raises ValueError: for a time that cannot be one
        :raises Exception: what pickling raises; it names the key

        """
        shared = self._shared
        return shared.many(
            methods.set_multi(
                shared.encoding,
                mapping,
                time,
                key_prefix,
                min_compress_len,
            ),
            timeout,
        )

    # The value computed once

    def get_or_set(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        time: typing.Any = 0,
        *,
        stale: typing.Any = 0,
        lease: typing.Any = 10,
        wait: typing.Any = None,
        default: typing.Any = plans.MISS,
        cache_none: bool = True,
        min_compress_len: int = 0,
        tags: tuple[str, ...] = (),
        jitter: typing.Any = 0,
        when: abc.Callable[[typing.Any], typing.Any] | None = None,
    ) -> typing.Any:
        """Return the value of a key, or what ``factory()`` returns, stored.

        Of all who miss the value at the same time, in all processes, one
        computes it, and the others wait for it.  If the factory raises, those
        who wait in this process get the error as well, and the next caller
        computes.  If a process dies at it, its lease runs out.  Where the
        server is down, each process computes for itself.

        Each caller gets an object of its own.  A value that cannot be decoded
        is computed anew.  What somebody else stores meanwhile is left alone,
        and what was computed before an :meth:`invalidate` does not stay.

        :param str key: text, bytes, or ``(hash, key)``
        :param factory: computes the value; called without arguments
        :param time: when the value is to be computed anew; see :meth:`set`.
            Or a function that is given the value and returns that: what it
            says is less than 0 is over already, and is not stored
        :param stale: seconds or a timedelta, for which the value is served
            after that while one caller computes it anew.  On an error the old
            value is served, the error is logged, and the factory is left
            alone for half a second, for longer each time
        :param lease: seconds or a timedelta that a computation may take
            before another process begins one; at most a second longer
        :param wait: seconds or a timedelta to wait for another process; then
            one's own factory is called.  Default: twice the lease and two
            seconds, so that one process may die and another one compute
        :param default: what to return rather than wait for anybody
        :param bool cache_none: whether None is a value that is stored; if
            not, the factory is called each time that it returns None
        :param int min_compress_len: see :meth:`set`
        :param tags: names of what the value is made of.  It is found as long
            as none of them is ended by :meth:`invalidate_tags`, and by calls
            with the same tags only
        :param jitter: seconds or a timedelta by which it is computed anew
            sooner, at most: by chance, so that what was stored at once does
            not end at once
        :param when: a function that is given the value and returns whether
            it is stored; None stores any
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one or is less than 0,
            and for what is no tag
        :raises TypeError: if the factory cannot be called
        :raises Exception: what the factory raises

        .. versionadded:: 2.0

        """
        shared = self._shared
        shared.count('get_or_set')
        plans.check_callable('factory', factory)
        plan = plans.plan(
            time,
            stale,
            lease,
            wait,
            cache_none,
            min_compress_len,
            jitter,
            when,
        )
        group = shared.flow.generations.tags(tags) if tags != () else ()
        if group:
            # What is wrong with the key is said before anything is sent.
            shared.flow.generations.apart().route(key)
            within = self._grouped(group, apart=True)
            assert within is not None
            return within._get_or_compute(key, factory, plan, default)
        return self._get_or_compute(key, factory, plan, default)

    def _get_or_compute(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
        default: typing.Any,
    ) -> typing.Any:
        """Do what :meth:`get_or_set` does, once its arguments are checked."""
        shared = self._shared
        route = shared.encoding.route(key)
        want = plans.Want(route, plan, default)
        if plan.stale and not shared.flow.failures.are_recent(route):
            value = self._get_stale(want, factory)
        else:
            command = shared.encoding.get((route.key,))
            shared.run('get_or_set', command, route)
            item = command.found.get(route.key)
            value = plans.MISS
            if item is not None:
                value = shared.codec.decode_or(item[0], item[1], plans.MISS)
        if value is not plans.MISS:
            return value
        flow = shared.flow
        outcome = shared.computations.run(
            route,
            lambda: self._follow(flow.compute_once(want), factory),
            plan.patience if default is plans.MISS else None,
            lambda: self._follow(flow.compute_alone(want), factory),
        )
        return default if outcome is None else outcome.take()

    def get_or_set_multi(
        self,
        keys: abc.Iterable[typing.Any],
        factory: abc.Callable[
            [list[typing.Any]], abc.Mapping[typing.Any, typing.Any]
        ],
        time: typing.Any = 0,
        *,
        key_prefix: typing.Any = '',
        cache_none: bool = True,
        min_compress_len: int = 0,
    ) -> dict[typing.Any, typing.Any]:
        """Return the values of many keys, and compute those that are missing.

        It is one read, one call of the factory, and one write.  What somebody
        else stores meanwhile is left alone.  Unlike :meth:`get_or_set` it
        takes no lease: two callers who miss the same at the same time both
        compute it.  Where a server is down, its keys are computed each time.

        :param list keys: see :meth:`get_multi`
        :param factory: is called with the list of the keys that are missing,
            each once and as it was given, and returns a dict of their values.
            What it leaves out is not stored, and is not in the result; what
            it was not asked for is ignored
        :param time: when the values expire; see :meth:`set`.  0 or more
        :param str key_prefix: put before each key for the server only
        :param bool cache_none: whether None is a value that is stored
        :param int min_compress_len: see :meth:`set`
        :return: the values by the keys, in the order of these
        :rtype: dict
        :raises memcache.Client.MemcachedKeyError: what is wrong with a key
        :raises ValueError: if the time is none, or less than 0; likewise
            for ``min_compress_len``
        :raises TypeError: for keys that are none, and for a factory that
            cannot be called, or returns no dict
        :raises Exception: what the factory raises, and what serializing does

        .. versionadded:: 2.0

        """
        shared = self._shared
        wanted = missing.want(
            shared.encoding,
            keys,
            factory,
            time,
            key_prefix,
            cache_none,
            min_compress_len,
        )
        shared.count('get_or_set_multi')
        found = self._follow(missing.get(wanted), factory)
        return typing.cast('dict[typing.Any, typing.Any]', found)

    def _get_stale(
        self, want: plans.Want, factory: abc.Callable[[], typing.Any]
    ) -> typing.Any:
        """Return a value, computed anew if that is for this caller to do."""
        flow = self._shared.flow
        value, stale = self._shared.look(want)
        if stale is None or not self._follow(flow.is_stale(want, stale)):
            return value
        try:
            return self._follow(flow.recompute(want, stale), factory).take()
        except Exception as error:  # noqa: BLE001
            flow.failures.log(
                'A stale value could not be computed anew', error
            )
            return value

    def _refresh(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
    ) -> typing.Any:
        """Compute a value anew, though there may be one."""
        shared = self._shared
        route = shared.encoding.route(key)
        work, asked_by = (shared.computations, route), nesting.runner()
        nesting.check(work, asked_by)
        shared.computations.forget(route)
        want = plans.Want(route, plan, plans.MISS)
        with nesting.part_of(work, asked_by):
            return shared.follow(
                shared.flow.refresh(want),
                factory,
                name='refresh',
                at_first=True,
            ).take()

    def _put(
        self, key: typing.Any, value: typing.Any, plan: plans.Plan
    ) -> int:
        """Store a value as if it had been computed."""
        shared = self._shared
        route = shared.encoding.route(key)
        shared.computations.forget(route)
        want = plans.Want(route, plan, plans.MISS)
        work = shared.flow.put(want, value)
        result = self._follow(work, None, 'set', strict=shared.strict)
        return typing.cast(int, result)

    def _as_read(self, computed: missing.Found) -> missing.Found:
        """Return what was computed as it is when it is read the next time."""
        found = self._follow(missing.as_read(self._shared.codec, computed))
        return typing.cast(missing.Found, found)

    def invalidate(self, key: typing.Any) -> int:
        """Delete a key, and let nothing stay that was computed before.

        What :meth:`get_or_set` is computing just now, in whatever process, is
        given to those who wait for it, but it is not stored.  It costs a
        second command.

        :param str key: text, bytes, or ``(hash, key)``
        :return: nonzero if there was such a key
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key

        .. versionadded:: 2.0

        """
        shared = self._shared
        shared.count('invalidate')
        route = shared.encoding.route(key)
        shared.computations.forget(route)
        work = leases.invalidate(route)
        strict = shared.strict
        result = self._follow(work, None, 'invalidate', strict=strict)
        return typing.cast(int, result)

    def mark_stale(self, key: typing.Any, stale: typing.Any = 60) -> int:
        """Have a value computed anew, though its time has not passed.

        :meth:`get_or_set` with ``stale`` serves it on while one caller
        computes it; for everybody else it is there as before.

        :param str key: text, bytes, or ``(hash, key)``
        :param stale: seconds or a timedelta until it is dropped
        :return: nonzero if there was such a key
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        .. versionadded:: 2.0

        """
        shared = self._shared
        shared.count('mark_stale')
        route = shared.encoding.route(key)
        seconds = arguments.whole_seconds('stale', stale, 1)
        shared.computations.forget(route)
        work = shared.flow.mark_stale(route, seconds)
        strict = shared.strict
        result = self._follow(work, None, 'mark_stale', strict=strict)
        return typing.cast(int, result)

    def update(
        self,
        key: typing.Any,
        function: abc.Callable[[typing.Any], typing.Any],
        time: typing.Any = 0,
        *,
        attempts: int = 100,
        min_compress_len: int = 0,
    ) -> typing.Any:
        """Read a value, change it and store it, until nobody came in between.

        Updates of a key in one process come one after another, so that only
        other processes can come in between.

        :param str key: text, bytes, or ``(hash, key)``
        :param function: is called with the value, None if there is none, and
            returns the new one; perhaps several times
        :param time: when the new value expires; see :meth:`set`
        :param int attempts: how often to try
        :param int min_compress_len: see :meth:`set`
        :return: the new value, stored
        :raises UpdateError: if it did not come about, or if it is not known
            whether it did: no server, too many others, a value too large
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        .. versionadded:: 2.0

        """
        shared = self._shared
        shared.count('update')
        plans.check_callable('function', function)
        route = shared.encoding.route(key)
        arguments.exptime(time)
        arguments.attempts(attempts)
        arguments.min_compress_len(min_compress_len)
        with shared.computations.locked(route):
            return self._follow(
                shared.flow.update(route, time, min_compress_len, attempts),
                function,
                'update',
            )

    def _follow(
        self,
        work: steps.Steps[typing.Any],
        function: abc.Callable[..., typing.Any] | None = None,
        name: str | None = None,
        timeout: float | None = None,
        strict: bool = False,
    ) -> typing.Any:
        """Do one step after another.

        :param function: what is to be called
        :param str name: the method that all of them are for, for traces; None
            for what each of them is
        :param float timeout: the seconds for them all, if the client's are
            not less
        :param bool strict: whether to raise what goes wrong with the last
            of them

        """
        return self._shared.follow(
            work, function, name=name, timeout=timeout, strict=strict
        )

    # What ends together

    def namespace(self, name: str) -> Namespace:
        """Return these methods for keys that end together.

        .. code-block:: python

            user = client.namespace('user:7')
            user.set('cart', cart, time=3600)
            user.get('cart')
            user.invalidate()     # nothing of it is found any more

        The namespace has a generation, a value of its own, which is in front
        of its keys (17 bytes).  It is read with each call, in the same batch
        where that can be.  ``invalidate()`` without a key gives it another
        one, for everybody and at once, and returns 0 if that could not be
        done.  Where the generation is lost, or its server is down, nothing
        is found: never something old.

        ``namespace('orders').namespace('open')`` is one within another, with
        which it ends.  The methods that are about servers are the client's.

        :param str name: text that can be printed
        :rtype: Namespace
        :raises ValueError: if it is empty, or not to be printed
        :raises TypeError: if it is no text

        .. versionadded:: 2.0

        """
        generations.checked('name', name)
        return Namespace(self, (), (name,))

    def invalidate_tags(self, *tags: str) -> int:
        """Let nothing be found any more that has one of the tags.

        It is for everybody and at once; see the ``tags`` of
        :meth:`get_or_set`.

        :param str tags: the tags
        :return: nonzero if that was done; 0 if a server does not answer.  Then
            this client does it before it uses the tag again
        :raises ValueError: for a tag that is empty, or not to be printed
        :raises TypeError: for one that is no text

        .. versionadded:: 2.0

        """
        shared = self._shared
        shared.count('invalidate_tags')
        group = shared.flow.generations.tags(tags)
        return self._end(group, 'invalidate_tags')

    def _end(self, group: generations.Group, method: str) -> int:
        """Give groups other generations; return whether all of them have.

        :param str method: what is called, for errors

        """
        end = self._shared.flow.generations.end
        raises = method if self._shared.strict else None
        ended = []
        failed: list[errors.MemcachedError] = []
        for key in group:
            try:
                ended.append(self._follow(end(key, raises)))
            except errors.MemcachedError as error:
                # The others are to end all the same.
                failed.append(error)
        if failed:
            raise failed[0]
        return int(all(ended))

    def _grouped(
        self,
        group: generations.Group,
        method: str | None = None,
        timeout: float | None = None,
        apart: bool = False,
    ) -> _Within | None:
        """Return the methods in the generations of a group.

        :param str method: what raises, in a strict client, where these are
            not known; None for what goes on
        :param bool apart: whether to return them, if the generations are not
            known, for what nobody is to find; else it is None

        """
        look = self._shared.flow.generations.look
        raises = method if self._shared.strict else None
        known = self._follow(look(group, raises), timeout=timeout)
        if known is not None:
            found = self._shared.flow.generations
            return _Within(self, found.within(group, known))
        if apart:
            return _Within(self, self._shared.flow.generations.apart())
        return None

    def _with_tags(
        self,
        tags: tuple[str, ...],
        method: str,
        call: abc.Callable[[Client], typing.Any],
        failure: typing.Any,
    ) -> typing.Any:
        """Call something with the methods for what has some tags.

        :param str method: what it is
        :param failure: what to return where these are not known; MISS to call
            it with those for what nobody is to find

        """
        group = self._group + self._shared.flow.generations.tags(tags)
        if failure is plans.MISS:
            within = self._grouped(group, apart=True)
        else:
            within = self._grouped(group, method)
        return failure if within is None else call(within)

    # What processes have in common

    def lock(
        self, name: str, time: typing.Any, *, wait: typing.Any = None
    ) -> locks.Lock:
        """Return a lock that processes have in common.

        .. code-block:: python

            with client.lock('import', time=30) as held:
                if held:
                    ...

        It is true while it is surely held.  If it was not to be had, it is
        false: because another one held it for too long, or because its server
        does not answer.  Only its owner releases it.  It ends by itself after
        its time, so that nobody holds it who is dead; ``prolong()`` lets it
        last.  It is not good for what must never be done twice, for memcached
        may lose it: the how-to :doc:`/howto/locks` says more.

        Who has it already waits for it like everybody else; to acquire the
        same object twice is an error.

        :param str name: text that can be printed
        :param time: seconds or a timedelta, up to 30 days, for which it is
            held at most; whole seconds
        :param wait: seconds or a timedelta to wait for it; 0 not to wait.
            Default: as long as it may be held by another
        :rtype: Lock
        :raises ValueError: for what is no time, and no name
        :raises TypeError: for a name that is no text

        .. versionadded:: 2.0

        """
        claim = locks.Claim(self._shared.flow, name, time, wait)
        return locks.Lock(claim, self._follow)

    def limit(
        self,
        key: typing.Any,
        calls: int,
        seconds: typing.Any,
        *,
        default: bool = True,
    ) -> limits.Allowance:
        """Count a call, and say whether it is one of so many in a while.

        .. code-block:: python

            if not client.limit('search:ada', 10, 60):
                ...     # 10 calls in this minute, and this is another one

        The while begins with the first call, and ends after its seconds; calls
        that are not allowed are counted, and do not prolong it.  It is one
        round trip, and exact however many processes count.  But in the
        seconds around the end of one while and the begin of the next there
        may be twice as many calls; and memcached may lose the count, in which
        case it begins anew.

        :param str key: what is counted, and where: text, bytes, or
            ``(hash, key)``
        :param int calls: how many there may be
        :param seconds: in how many seconds; or a timedelta
        :param bool default: what to say where memcached does not answer: True
            lets everybody in, False nobody
        :return: an object that is true if the call is allowed, with ``left``,
            how many more there may be, None if that is not known, and
            ``seconds``, until it begins anew
        :rtype: Allowance
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for no calls, and for no time

        .. versionadded:: 2.0

        """
        shared = self._shared
        limit = limits.check(shared.encoding, key, calls, seconds, default)
        shared.count('limit')
        work = limits.take(shared.flow, limit)
        return typing.cast(limits.Allowance, self._follow(work, None, 'limit'))

    # Numbers

    def incr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
        timeout: float | None = None,
    ) -> int | None:
        """Add to a number.

        With ``initial`` it is made where there is none, in one step: whoever
        counts at the same time counts on from there.  :meth:`get` returns
        what was made so as bytes, for memcached makes it.

        :param str key: text, bytes, or ``(hash, key)``
        :param int delta: how much, from 0 to 2**64 - 1
        :param bool noreply: return None in any case
        :param int initial: what the number is, without the delta, where there
            was none: from 0 to 2**64 - 1; None not to make it
        :param time: when what is made expires; see :meth:`set`.  To count on
            does not prolong it
        :param float timeout: see :meth:`get`
        :return: the new number, which begins again at 0 after 2**64 - 1; None
            if there is no number, and where the server does not answer
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a delta or an initial number that cannot be
            one, and for a time without an initial number

        .. versionchanged:: 2.0
           ``initial`` and ``time``.

        """
        return self._count(
            protocol.INCR, key, delta, noreply, initial, time, timeout
        )

    def decr(
        self,
        key: typing.Any,
        delta: int = 1,
        noreply: bool = False,
        *,
        initial: int | None = None,
        time: typing.Any = 0,
        timeout: float | None = None,
    ) -> int | None:
        """Take from a number, which ends at 0; otherwise as :meth:`incr`."""
        return self._count(
            protocol.DECR, key, delta, noreply, initial, time, timeout
        )

    def _count(
        self,
        verb: protocol.Verb,
        key: typing.Any,
        delta: int,
        noreply: bool,
        initial: int | None,
        time: typing.Any,
        timeout: float | None,
    ) -> int | None:
        shared = self._shared
        asked = counts.check(shared.encoding, verb, key, delta, initial, time)
        if asked is None:
            return shared.one(
                methods.count(verb, shared.encoding, key, delta, noreply),
                timeout,
            )
        seconds = errors.timeout(timeout)
        shared.count(verb.name)
        number = self._follow(
            counts.number(shared.flow, asked),
            None,
            verb.name,
            seconds,
            shared.strict,
        )
        return None if noreply else typing.cast('int | None', number)

    # Expiry and deletion

    def touch(
        self,
        key: typing.Any,
        time: typing.Any = 0,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Give a key another time to expire.

        :param str key: text, bytes, or ``(hash, key)``
        :param time: when it expires; see :meth:`set`
        :param bool noreply: see :meth:`set`
        :param float timeout: see :meth:`get`
        :return: nonzero if there was such a key
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time that cannot be one

        """
        shared = self._shared
        return shared.one(methods.touch(shared.encoding, key, time), timeout)

    def delete(
        self,
        key: typing.Any,
        time: typing.Any = None,
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Delete a key.

        :param str key: text, bytes, or ``(hash, key)``
        :param int time: None or 0: memcached has no delayed deletion any more
        :param bool noreply: see :meth:`set`
        :param float timeout: see :meth:`get`
        :return: nonzero if there was such a key
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with the key
        :raises ValueError: for a time other than 0

        """
        shared = self._shared
        return shared.one(methods.delete(shared.encoding, key, time), timeout)

    def delete_multi(
        self,
        keys: abc.Iterable[typing.Any],
        time: typing.Any = None,
        key_prefix: typing.Any = '',
        noreply: bool = False,
        *,
        timeout: float | None = None,
    ) -> int:
        """Delete many keys.

        :param list keys: see :meth:`get_multi`
        :param int time: None or 0: memcached has no delayed deletion any more
        :param str key_prefix: put before each key for the server only
        :param bool noreply: see :meth:`set`
        :param float timeout: see :meth:`get`
        :return: 1 if every server that has one of the keys did its part,
            whether it had the key or not, else 0
        :rtype: int
        :raises memcache.Client.MemcachedKeyError: what is wrong with a key
        :raises ValueError: for a time other than 0

        """
        shared = self._shared
        return shared.many(
            methods.delete_multi(shared.encoding, keys, time, key_prefix),
            timeout,
        )

    def reset_cas(self) -> None:
        """Forget what this thread's :meth:`gets` saw."""
        self._tokens.clear()


class _Within(Client):
    """The methods of another client, in some generation."""

    def __init__(self, parent: Client, encoding: encodings.Encoding) -> None:
        # threading.local calls this again in each thread that comes.
        self._tokens = parent._tokens
        if not hasattr(self, '_shared'):
            self._shared = shared = copy.copy(parent._shared)
            shared.encoding = encoding


class Namespace(Client):
    """The methods of a client for keys that end together.

    It comes from :meth:`.Client.namespace`.

    """

    __slots__ = ('_group', '_names', '_parent')

    _group: generations.Group
    _names: tuple[str, ...]
    _parent: Client

    def __init__(
        self,
        parent: Client,
        outer: generations.Group,
        names: tuple[str, ...],
    ) -> None:
        # Likewise.
        self._tokens = parent._tokens  # type: ignore[misc]
        if hasattr(self, '_shared'):
            return
        self._shared = parent._shared
        self._parent = parent
        self._names = names
        own = parent._shared.flow.generations.key('namespace', *names)
        self._group = (*outer, own)

    def __repr__(self) -> str:
        return self._shared.describe(type(self).__name__, *self._names)

    def namespace(self, name: str) -> Namespace:
        """Return a namespace within this one, with which it ends."""
        generations.checked('name', name)
        return Namespace(self._parent, self._group, (*self._names, name))

    def invalidate(self, key: typing.Any = namespaces.WHOLE) -> int:
        """Let nothing be found any more; with a key, delete that alone.

        :param str key: text, bytes, or ``(hash, key)``
        :return: nonzero if that was done, or there was such a key

        """
        if key is namespaces.WHOLE:
            self._shared.count('invalidate')
            return self._end(self._group[-1:], 'invalidate')
        return typing.cast(int, self._call(Client.invalidate, (key,), {}))

    def get_or_set(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        time: typing.Any = 0,
        *,
        stale: typing.Any = 0,
        lease: typing.Any = 10,
        wait: typing.Any = None,
        default: typing.Any = plans.MISS,
        cache_none: bool = True,
        min_compress_len: int = 0,
        tags: tuple[str, ...] = (),
        jitter: typing.Any = 0,
        when: abc.Callable[[typing.Any], typing.Any] | None = None,
    ) -> typing.Any:
        shared = self._shared
        shared.count('get_or_set')
        plans.check_callable('factory', factory)
        plan = plans.plan(
            time,
            stale,
            lease,
            wait,
            cache_none,
            min_compress_len,
            jitter,
            when,
        )
        group = self._group
        if tags != ():
            group += shared.flow.generations.tags(tags)
        shared.flow.generations.apart().route(key)
        within = self._grouped(group, apart=True)
        assert within is not None
        return within._get_or_compute(key, factory, plan, default)

    def _refresh(
        self,
        key: typing.Any,
        factory: abc.Callable[[], typing.Any],
        plan: plans.Plan,
    ) -> typing.Any:
        return self._with_tags(
            (),
            'refresh',
            lambda within: within._refresh(key, factory, plan),
            plans.MISS,
        )

    def _put(
        self, key: typing.Any, value: typing.Any, plan: plans.Plan
    ) -> int:
        stored = self._with_tags(
            (), 'set', lambda within: within._put(key, value, plan), 0
        )
        return typing.cast(int, stored)

    def lock(
        self, name: str, time: typing.Any, *, wait: typing.Any = None
    ) -> locks.Lock:
        """Return a lock; see :meth:`.Client.lock`.

        It is this namespace's, and does not end with it.

        """
        flow = self._shared.flow
        claim = locks.Claim(flow, name, time, wait, self._names)
        return locks.Lock(claim, self._follow)

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: None = None,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> T | None: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: D,
        *,
        timeout: float | None = None,
        kind: type[T],
    ) -> T | D: ...

    @typing.overload
    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: None = None,
    ) -> typing.Any: ...

    def get(
        self,
        key: typing.Any,
        default: typing.Any = None,
        *,
        timeout: float | None = None,
        kind: type[typing.Any] | None = None,
    ) -> typing.Any:
        shared = self._shared
        known = shared.flow.generations
        guess = known.guess(self._group)
        plain = timeout is None and kind is None and not shared.strict
        if plain and guess is not None and not known.is_owed(self._group):
            route = guess.encoding.route(key)
            (home, *others) = {shared.cluster.home(k) for k in self._group}
            if not others and home is shared.cluster.pick(*route):
                # It takes no more than a get.
                command = shared.encoding.get((*self._group, route.key))
                shared.run('get', command, route, home)
                found = command.found
                if guess.tokens == tuple(
                    [found[k][1] for k in self._group if k in found]
                ):
                    shared.count('get')
                    item = found.get(route.key)
                    return shared.codec.value_of(item, default)
        more = {'timeout': timeout, 'kind': kind}
        return self._call(Client.get, (key, default), more)

    def _call(
        self,
        method: abc.Callable[..., typing.Any],
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> typing.Any:
        """Call a method once the generations are known."""
        apart = self._shared.flow.generations.apart()
        namespaces.check(apart, method, args, kwargs)
        seconds = errors.timeout(kwargs.get('timeout'))
        until = clock.monotonic() + (seconds or 0)
        name = method.__name__
        goes_on = name in namespaces.GOING_ON
        try:
            within = self._grouped(
                self._group,
                None if goes_on else name,
                seconds,
                method is Client.get_or_set_multi,
            )
        except errors.MemcachedError:
            # What the caller got wrong is said all the same.
            for _ in namespaces.checked(apart, method, args, kwargs):
                pass
            raise
        if seconds is not None:
            left = max(until - clock.monotonic(), 0.001)
            kwargs = {**kwargs, 'timeout': left}
        if within is None:
            for _ in namespaces.checked(apart, method, args, kwargs):
                pass
            return namespaces.failure(apart, method, args, kwargs)
        saw = False
        if method in _WITH_TOKENS:
            key = namespaces.key_of(method, args, kwargs)
            what = self._group, self._shared.encoding.route(key)
            if method is Client.cas:
                saw = self._tokens.is_expected(what)
            else:
                self._tokens.expect(what)
        try:
            return method(within, *args, **kwargs)
        except RuntimeError:
            if method is Client.cas and saw:
                # What gets saw was in another generation.
                return 0
            raise


_WITH_TOKENS = (Client.gets, Client.gats, Client.cas)


def _in_namespace(name: str) -> abc.Callable[..., typing.Any]:
    """Return a method of a namespace."""
    method = getattr(Client, name)

    @functools.wraps(method)
    def within(
        self: Namespace, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        return self._call(method, args, kwargs)

    return within


for _name in namespaces.AGAIN | namespaces.STEPS:
    setattr(Namespace, _name, _in_namespace(_name))
