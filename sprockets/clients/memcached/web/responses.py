"""The decorator that caches what a handler's method answers."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import logging
import re
import sys
import time as clock
import typing
from collections import abc

from tornado import web

from sprockets.clients.memcached import aio, notices, process, settings
from sprockets.clients.memcached.once import plans
from sprockets.clients.memcached.requests import anykeys, arguments
from sprockets.clients.memcached.web import (
    entries,
    handlers,
    looks,
    recordings,
)

LOGGER = notices.harmless(logging.getLogger(__name__))

NOTICES = notices.Notices(LOGGER)

MAX_KEY = 200
"""Bytes of a key, which leaves room for ``KEY_PREFIX`` in memcached's 250."""

MAX_REMEMBERED = 2048
"""Bytes of what a key is made of that is remembered."""

LASTING = {200, 203, 204, 300, 301, 308}
"""What is stored unless told otherwise: what HTTP allows caches to keep by
itself (RFC 9110, 15.1) and is no error."""

_UNSAFE = {'post', 'put', 'patch', 'delete', 'options'}

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What may be the name of a header (RFC 9110, 5.6.2)."""

H = typing.TypeVar('H', bound=handlers.MemcachedMixin)
P = typing.ParamSpec('P')

_Method = abc.Callable[typing.Concatenate[H, P], abc.Awaitable[None] | None]
_Cached = abc.Callable[
    typing.Concatenate[H, P], abc.Coroutine[typing.Any, typing.Any, None]
]

_Text = str | bytes | int | None

_KEYS = (str, bytes, type(None))

_PLAIN = (str, bytes, int)

User = abc.Callable[[typing.Any], _Text] | bool

Vary = abc.Callable[[typing.Any], _Text | abc.Awaitable[_Text]]


class Decorator(typing.Protocol):
    """What :func:`cached_response` returns."""

    def __call__(self, method: _Method[H, P], /) -> _Cached[H, P]: ...


def cached_response(
    time: typing.Any,
    *,
    query: bool | abc.Iterable[str] = True,
    headers: abc.Iterable[str] = (),
    user: User = False,
    vary: Vary | None = None,
    stale: typing.Any = 0,
    lease: typing.Any = 10,
    wait: typing.Any = None,
    max_age: typing.Any = None,
    statuses: abc.Iterable[int] = (),
    cookies: bool = False,
    authorization: bool = False,
    prefix: str | None = None,
) -> Decorator:
    """Return a decorator that caches what a handler's method answers.

    .. code-block:: python

        class Article(memcached.MemcachedMixin, web.RequestHandler):
            @memcached.cached_response(60, query=['page'], stale=600)
            async def get(self, slug):
                self.render('article.html', article=await load(slug))

            head = get

    Status, body and the headers that the method sets are stored, with an
    ``ETag``: who has the response gets 304.  Of all who ask for it at the
    same time one has it computed.  A response that is not new has ``Age``.

    What is stored is for one host and path, one handler and its method, and
    what else it is told here.  The method runs on a copy of its handler, and
    where it looks at more of the request than that, its answer is not stored.
    Neither are errors, and what sets cookies or says ``no-store`` or
    ``private``.  The how-to :doc:`/howto/responses` has all of it.

    Without a server each response is computed for its request.

    :param time: when the response is to be computed anew; see
        :meth:`.Client.set`
    :param query: the arguments of the query that make another response; True
        for the query as it is
    :param headers: the names of the request's headers that do; ``Vary`` tells
        them
    :param user: whether ``current_user`` does, or a function that returns who
        it is, given the handler
    :param vary: a function that returns whatever else makes another response,
        given the handler, and may be awaited; None is for one that is neither
        to be stored nor taken from memcached
    :param stale: see :meth:`.Client.get_or_set`; likewise ``lease`` and
        ``wait``
    :param max_age: seconds for which browsers and proxies may keep it without
        asking, in ``Cache-Control`` unless the method has set that; None for
        the ``time``, or 0 with ``user``
    :param statuses: those to be stored as well, 404 say
    :param bool cookies: whether a response with cookies is stored, and gives
        the same ones to all
    :param bool authorization: whether a request with ``Authorization`` is
        answered like others
    :param str prefix: the prefix of the variables for the client; None for
        the handler's
    :raises ValueError: for what is no time, header or status
    :raises TypeError: for a method that changes something, as ``post``, and
        for a prefix that is no text; in a request, for a handler that has no
        ``memcached``, and for a method that is called with what tells no
        response from others

    .. versionadded:: 2.0

    """
    if callable(time):
        raise TypeError('cached_response needs a time: @cached_response(60)')
    plan = plans.plan(time, stale, lease, wait, True, 0)
    names = _names('headers', headers)
    for name in names:
        if not _HEADER.fullmatch(name):
            raise ValueError(f'headers has {name!r}; expected a name')
    settings.prefix_name(prefix)
    rules = _Rules(
        plan=plan,
        asked={'time': time, 'stale': stale, 'lease': lease, 'wait': wait},
        query=None if query is True else _names('query', query or ()),
        headers=names,
        user=_checked('user', user, bool),
        vary=_checked('vary', vary, type(None)),
        max_age=None
        if max_age is None
        else arguments.whole_seconds('max_age', max_age, 0),
        statuses=frozenset({*LASTING, *_statuses(statuses)}),
        cookies=cookies,
        authorization=authorization,
        prefix=prefix,
    )

    def decorate(method: _Method[H, P]) -> _Cached[H, P]:
        given: typing.Any = method
        name = getattr(given, '__name__', None)
        if not callable(given) or name is None:
            raise TypeError(f'{given!r} is no method of a handler')
        if name in _UNSAFE:
            raise TypeError(
                f'{given.__qualname__} changes something: only get and head'
                ' can be cached'
            )

        @functools.wraps(method)
        async def cached(
            self: H, /, *args: P.args, **kwargs: P.kwargs
        ) -> None:
            await _Answer(rules, cached, method, self, args, kwargs).give()

        return cached

    return decorate


class _Rules(typing.NamedTuple):
    """What responses are stored, and what tells them apart."""

    plan: plans.Plan
    asked: dict[str, typing.Any]
    """The arguments of ``get_or_set`` that the plan is made of."""
    query: tuple[str, ...] | None
    headers: tuple[str, ...]
    user: typing.Any
    vary: typing.Any
    max_age: int | None
    statuses: frozenset[int]
    cookies: bool
    authorization: bool
    prefix: str | None

    def looks(self) -> looks.Looks:
        """Return who takes note of what else is looked at."""
        headers = self.headers
        by_user = self.user is not False
        if by_user:
            # It says who is asking, and nothing else.
            headers = (*headers, 'Authorization')
        return looks.Looks(headers, self.query, by_user)

    def cache_control(self) -> str:
        """Return what browsers are told who are told nothing else."""
        plan = self.plan
        age = self.max_age
        if age is None:
            exptime = plan.exptime
            if exptime > arguments.MONTH:
                exptime -= int(clock.time())
            age = 0 if self.user is not False else exptime
        whose = '' if self.user is False else 'private, '
        return f'{whose}max-age={age}' if age > 0 else f'{whose}no-cache'


@functools.lru_cache(maxsize=1024, typed=True)
def _key_of(
    kind: typing.Any, cached: typing.Any, path: str, /, *parts: typing.Any
) -> str | bytes:
    """Return the key of a response; the same few come again and again."""
    name = (
        f'response:{_class_name(kind)}.{_name_in(kind, cached)}:{path}'
        f' {parts!r}'
    )
    key = anykeys.fit(name.encode('utf-8', 'surrogatepass'), MAX_KEY)
    return key.decode() if key.isascii() else key


def _class_name(kind: type) -> str:
    return f'{process.module_name(kind.__module__)}.{kind.__qualname__}'


def _name_in(kind: type, cached: typing.Any) -> str:
    """Return what a cached method is called in the class of a handler.

    What the function is called may be that of a decorator below, which others
    have as well; and a method that is called by way of ``super`` is another
    one, of the same name.

    """
    for base in kind.__mro__:
        for name, value in vars(base).items():
            if _is_around(value, cached):
                where = f'{_class_name(base)}.'
                return name if base is kind else f'{where}{name}'
    return str(cached.__qualname__)


def _is_around(value: typing.Any, cached: typing.Any) -> bool:
    """Whether it is a cached method, or one with other decorators around."""
    try:
        found = inspect.unwrap(value, stop=lambda each: each is cached)
    # Anything else may be there, which answers in its own way.
    except Exception:  # noqa: BLE001
        return False
    return found is cached


class _NotStoredError(Exception):
    """The response is an error that the method has answered."""


class _Answer:
    """The answer to one request."""

    __slots__ = (
        'args',
        'cached',
        'handler',
        'kwargs',
        'method',
        'mine',
        'refusal',
        'rules',
        'tried',
    )

    def __init__(
        self,
        rules: _Rules,
        cached: recordings.Method,
        method: recordings.Method,
        handler: handlers.MemcachedMixin,
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> None:
        self.rules = rules
        self.cached = cached
        self.method = method
        self.handler = handler
        self.args = args
        self.kwargs = kwargs
        self.mine: recordings.Recording | None = None
        """What was computed for this request."""
        self.refusal: web.HTTPError | None = None
        """With what it was refused instead."""
        self.tried: recordings.Recording | None = None
        """What was begun for this request."""

    async def give(self) -> None:
        """Answer the request.

        :raises Exception: what the method raises

        """
        try:
            await self._give()
        except Exception:
            # Tornado answers an error, with these.
            if self.tried is not None:
                self.tried.give_cookies(self.handler)
            raise

    async def _give(self) -> None:
        handler = self.handler
        given: typing.Any = handler
        if not isinstance(given, handlers.MemcachedMixin):
            raise TypeError(
                f'{type(given).__qualname__} has no memcached: cached_response'
                ' is for handlers with MemcachedMixin'
            )
        key: typing.Any = None
        # A method may call another one that is cached, by way of an object
        # that has the handler as well.
        handler = self.handler = looks.answering(handler)
        if handler._memcached_looks is None and self._may_be_stored():
            found = self._key()
            key = found if type(found) in _KEYS else await found
        if key is None:
            result = self.method(handler, *self.args, **self.kwargs)
            if result is not None:
                await result
            return
        prefix = self.rules.prefix
        scope = (
            handler.memcached
            if prefix is None
            else handler.memcached_for(prefix)
        )
        if scope._strict:
            # There is an answer, whatever becomes of it in the cache.
            scope = copy.copy(scope)
            scope._strict = False
        entry = await self._stored(scope, key)
        if entry is not None and entry.is_over and self.mine is None:
            stale = self.rules.plan.stale
            if stale:
                await scope.mark_stale(key, stale)
            else:
                await scope.delete(key)
            entry = await self._stored(scope, key)
        if entry is None and self.mine is None and self.refusal is None:
            entry = await self._store_anew(scope, key)
        if entry is not None:
            entry.give(handler, self.mine is not None)
        elif self.refusal is not None:
            raise self.refusal
        elif self.mine is not None:
            self.mine.give(handler)

    async def _stored(
        self, scope: aio.Methods, key: str | bytes
    ) -> entries.Entry | None:
        """Return the response that is stored, or is now.

        :return: None if it is none that can be

        """
        compute = functools.partial(self._compute, scope, key)
        try:
            stored = await scope.get_or_set(key, compute, **self.rules.asked)
        except _NotStoredError:
            # It is the answer to another request.
            return None
        return entries.decode(stored)

    def _may_be_stored(self) -> bool:
        request = self.handler.request
        headers = request.headers
        # A body would be in no key, and its arguments are among the others.
        return (
            request.method in ('GET', 'HEAD')
            and (self.rules.authorization or 'Authorization' not in headers)
            and 'Transfer-Encoding' not in headers
            and headers.get('Content-Length', '0') == '0'
        )

    def _key(self) -> typing.Any:
        """Return the key of the response, None if it may have none.

        It is awaited where what makes another one is.

        """
        rules, handler = self.rules, self.handler
        request = handler.request
        parts: list[typing.Any] = [request.protocol, request.host]
        if handler._memcached_route:
            parts.append(_of_route(handler._memcached_route))
        if rules.query is None:
            parts.append(request.query)
        elif rules.query:
            parts.append(looks.told(request, rules.query))
        parts += [request.headers.get(name) for name in rules.headers]
        if not self._is_called_with_path():
            parts.append(self._called_with())
        if rules.user is not False:
            user = (
                handler.current_user
                if rules.user is True
                else rules.user(handler)
            )
            parts.append(_text('user', user))
        if rules.vary is not None:
            more = rules.vary(handler)
            if inspect.isawaitable(more):
                return self._awaited_key(more, parts)
            if more is None:
                return None
            parts.append(_text('vary', more))
        return self._named(parts)

    def _is_called_with_path(self) -> bool:
        """Whether the method has the arguments of the path, and no others."""
        args, kwargs = self.handler._memcached_path
        decode = self.handler.decode_argument
        return list(self.args) == list(map(decode, args)) and self.kwargs == {
            name: decode(value, name=name) for name, value in kwargs.items()
        }

    def _called_with(self) -> str:
        """Return what tells a call from others of the same path.

        :raises TypeError: if it is called with what does not

        """
        for argument in (*self.args, *self.kwargs.values()):
            if type(argument) not in (*_PLAIN, float, bool, type(None)):
                raise TypeError(
                    f'{self.method.__qualname__} is called with'
                    f' {type(argument).__qualname__}; expected what the path'
                    ' has, text or numbers'
                )
        return f'{self.args!r} {sorted(self.kwargs.items())!r}'

    async def _awaited_key(
        self, vary: abc.Awaitable[_Text], parts: list[typing.Any]
    ) -> str | bytes | None:
        more = await vary
        if more is None:
            return None
        return self._named([*parts, _text('vary', more)])

    def _named(self, parts: list[typing.Any]) -> str | bytes:
        kind: typing.Any = type(self.handler)
        path = self.handler.request.path
        key_of: abc.Callable[..., str | bytes] = _key_of
        if sum(map(sys.getsizeof, (path, *parts))) > MAX_REMEMBERED:
            key_of = _key_of.__wrapped__
        return key_of(kind, self.cached, path, *parts)

    async def _compute(self, scope: aio.Methods, key: str | bytes) -> bytes:
        """Return the response, as it is to be stored.

        :raises _NotStoredError: if it is an error
        :raises Exception: what the method raises

        """
        recording = recordings.Recording(self.handler, self.rules.looks())
        self.tried = recording
        try:
            await recording.run(self.method, self.args, self.kwargs)
        except web.HTTPError as error:
            if error.status_code not in self.rules.statuses:
                await self._drop(scope, key, error.status_code)
                if error.status_code >= 500:
                    raise
                # It may be about whoever asks here, and nobody else.
                self.refusal = error
                raise _NotStoredError(str(error)) from error
            recording.handler.send_error(
                error.status_code, exc_info=(type(error), error, None)
            )
        finally:
            recording.end()
        self.mine = recording
        if recording.status not in self.rules.statuses:
            if recording.status >= 400:
                await self._drop(scope, key, recording.status)
                raise _NotStoredError(f'the answer is a {recording.status}')
            return entries.PASS
        return self._entry(recording)

    async def _drop(
        self, scope: aio.Methods, key: str | bytes, status: int
    ) -> None:
        """Have no old response served of what is not there any more."""
        if self.rules.plan.stale and status < 500:
            await scope.delete(key)

    def _entry(self, recording: recordings.Recording) -> bytes:
        """Return what is stored of a response."""
        rules = self.rules
        seen = recording.handler._memcached_looks
        if seen is not None and seen.seen:
            NOTICES.warning(
                'The answer of %s is not stored: it depends on %s, which'
                ' cached_response was not told',
                self.method.__qualname__,
                ' and '.join(sorted(seen.seen)),
                about=(self.method, frozenset(seen.seen)),
            )
            return entries.PASS
        headers = recording.headers
        if recording.cookies and not rules.cookies:
            return entries.PASS
        varies = entries.names_in(headers.get_list('Vary'))
        # What was said before the method is about what comes after it.
        varies -= entries.names_in(recording.before.get_list('Vary'))
        if not varies.issubset(map(str.lower, rules.headers)):
            return entries.PASS
        control = headers.get_list('Cache-Control')
        said = entries.names_in(control)
        lasts = entries.lasts(control)
        if lasts == 0:
            return entries.PASS
        if 'no-store' in said or ('private' in said and rules.user is False):
            return entries.PASS
        for name in rules.headers:
            if name.lower() not in varies:
                recording.handler.add_header('Vary', name)
        if not said:
            recording.handler.set_header(
                'Cache-Control', rules.cache_control()
            )
        entry = entries.entry_of(recording, rules.cookies, clock.time(), lasts)
        return entry.encode()

    async def _store_anew(
        self, scope: aio.Methods, key: str | bytes
    ) -> entries.Entry | None:
        """Compute a response that could not be stored the last time."""
        try:
            made = await self._compute(scope, key)
        except _NotStoredError:
            return None
        entry = entries.decode(made)
        if entry is not None:
            await scope.set(key, made, self.rules.plan.time)
        return entry


def _of_route(given: abc.Mapping[str, typing.Any]) -> str:
    """Return a hash of what a route has for a handler, as far as it is told.

    It may be a password, and keys are read by many.

    """
    told = {
        name: value
        for name, value in given.items()
        if type(value) in (*_PLAIN, float, bool, type(None))
    }
    made = repr(sorted(told.items())).encode('utf-8', 'surrogatepass')
    return hashlib.blake2b(made, digest_size=16).hexdigest()


def _names(argument: str, given: typing.Any) -> tuple[str, ...]:
    """Return the names that an argument lists.

    :raises ValueError: if they are none

    """
    try:
        names = () if isinstance(given, str | bytes) else tuple(given)
    except TypeError:
        names = (None,)
    if isinstance(given, str | bytes) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise ValueError(f'{argument} is {given!r}; expected a list of names')
    return typing.cast(tuple[str, ...], names)


def _checked(argument: str, given: typing.Any, kind: type) -> typing.Any:
    if not isinstance(given, kind) and not callable(given):
        raise TypeError(
            f'{argument} is {given!r}; expected a function that takes the'
            ' handler'
        )
    return given


def _statuses(given: typing.Any) -> list[int]:
    if isinstance(given, str | bytes) or not isinstance(given, abc.Iterable):
        raise ValueError(f'statuses is {given!r}; expected a list of numbers')
    statuses = [*given]
    for status in statuses:
        if type(status) is not int or not 200 <= status <= 599:
            raise ValueError(f'statuses has {status!r}; expected 200 to 599')
    return statuses


def _text(argument: str, given: typing.Any) -> typing.Any:
    """Return what tells a response from others.

    :raises TypeError: if that is for somebody else to say

    """
    if given is not None and type(given) not in _PLAIN:
        raise TypeError(
            f'{argument} is {type(given).__qualname__}; expected text or a'
            f' number: write {argument}=, a function that takes the handler'
            ' and returns what tells it apart'
        )
    return given
