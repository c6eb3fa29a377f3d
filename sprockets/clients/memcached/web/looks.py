"""What a method looks at of its request, beyond what its answer varies by."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import http.cookies
import inspect
import sys
import types
import typing
import urllib.parse
import weakref
from collections import abc

from tornado import httputil, locale, template, web

USER = 'current_user'
"""What is noted where a method looks who is asking."""

_FIND = web.RequestHandler.get_current_user.__name__

_NOTES = '_memcached_notes'
"""The attribute of a function that notes by itself that it is called."""

_NAMESPACE = web.RequestHandler.get_template_namespace.__name__

_OF_CONNECTIONS = {
    '__dict__',
    'connection',
    'remote_ip',
    'server_connection',
    'version',
}
"""Attributes of a request that say where it is from and how it came, and are
in no key; the first one has the others."""

_looking: contextvars.ContextVar[Looks | None] = contextvars.ContextVar(
    'memcached_looks', default=None
)
"""Who takes note of what the code that runs looks at."""


class Looks:
    """Takes note of what is looked at and makes no other answer.

    :param headers: the headers that make another one
    :param query: the arguments of the query that do; None for all
    :param bool user: whether who is asking does

    :ivar set seen: what was looked at, in words

    """

    def __init__(
        self,
        headers: abc.Iterable[str] = (),
        query: abc.Collection[str] | None = None,
        user: bool = False,
    ) -> None:
        self.seen: set[str] = set()
        # Where the answer is from is in every key.
        self._headers = {'host', *map(str.lower, headers)}
        self._query = query
        self._user = user
        self._original: abc.Callable[[], typing.Any] = _nothing
        self._copied: abc.Callable[[], _Request | None] = _nothing
        self._finished: asyncio.Future[None] | None = None
        self.answering: abc.Callable[[], typing.Any] = _nothing
        """Returns the copy of the handler that the method runs on."""

    def begin(self) -> None:
        """Take note as well of looks at the request itself.

        What was made before the method may have it, and be asked by that.

        """
        _looking.set(self)

    async def until_finished(self) -> None:
        """Wait for the answer of a method that lets others finish it."""
        self._finished = asyncio.get_running_loop().create_future()
        await self._finished

    def finish(self) -> None:
        """Take note that the answer is finished."""
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def end(self) -> None:
        """Take note of no more looks at the request itself."""
        self._original = self._copied = self.answering = _nothing

    def copy_in_place_of(
        self, request: httputil.HTTPServerRequest
    ) -> _Request | None:
        """Return the copy of this request, if it is of this one."""
        return self._copied() if self._original() is request else None

    def has(self, headers: httputil.HTTPHeaders) -> bool:
        """Whether these are the headers of the request itself."""
        original = self._original()
        # The attribute of the request is that of its copy for now.
        return original is not None and (
            object.__getattribute__(original, 'headers') is headers
        )

    def at_user(self) -> None:
        """Take note that somebody looks who is asking."""
        if not self._user and not _is_for_another_template():
            self.seen.add(USER)

    def user(self, find: abc.Callable[[], typing.Any]) -> typing.Any:
        """Return who is asking; take note that somebody looks."""
        before = set(self.seen)
        user = find()
        # Where it is from does not matter besides.
        self.seen = before
        self.at_user()
        return user

    def at_header(self, name: str) -> None:
        """Take note that somebody looks at a header."""
        if name.lower() not in self._headers:
            self.seen.add(f'the header {name}')

    def at_argument(self, name: str) -> None:
        """Take note that somebody looks at an argument of the query."""
        if self._query is not None and name not in self._query:
            self.seen.add(f'the query argument {name}')

    def at_headers(self) -> None:
        """Take note that somebody looks which headers there are."""
        self.seen.add('all headers')

    def at_arguments(self) -> None:
        """Take note that somebody looks which arguments there are."""
        if self._query is not None:
            self.seen.add('all arguments of the query')

    def at_connection(self, name: str) -> None:
        """Take note that somebody looks where the request is from."""
        self.seen.add(f'request.{name}')

    def at_handler(self) -> None:
        """Take note that something was written to the handler itself, as by a
        method of it that somebody had before."""
        self.seen.add('what was written to the handler itself')

    def at_language(self) -> None:
        """Take note that somebody looks which language is wanted."""
        self.at_header('Accept-Language')

    def language(
        self, found: locale.Locale, looked: abc.Iterable[str] = ()
    ) -> Language:
        """Return a language of which it is noted when it is used.

        :param looked: what was looked at to find it

        """
        return Language(found, functools.partial(self.seen_of, set(looked)))

    def seen_of(self, looked: set[str]) -> None:
        """Take note of what had been looked at."""
        self.seen |= looked

    def copy_of(
        self, request: httputil.HTTPServerRequest
    ) -> httputil.HTTPServerRequest:
        """Return a copy of a request that has each look at it noted.

        It asks for the whole, with GET.  As text its query is what makes
        another answer, and no more.

        """
        watched = _Request.__new__(_Request)
        for name, value in vars(request).items():
            # They are made of the headers when they are asked for.
            if name != '_cookies':
                setattr(watched, name, value)
        watched.looks = self
        watched.method = 'GET'
        watched.headers = _Headers(request.headers, self)
        if self._query is not None:
            watched.arguments = _Arguments(request.arguments, self)
            watched.query_arguments = _Arguments(request.query_arguments, self)
            watched.query = told(request, self._query)
            watched.uri = '?'.join(filter(None, (request.path, watched.query)))
        if type(request) is httputil.HTTPServerRequest:
            request.__class__ = _Original
        if type(request.headers) is httputil.HTTPHeaders:
            request.headers.__class__ = _OriginalHeaders
        self._original = weakref.ref(request)
        self._copied = weakref.ref(watched)
        return watched


def looking_at(request: httputil.HTTPServerRequest) -> Looks | None:
    """Return who takes note of looks at a request itself, if anybody does."""
    looks = _looking.get()
    if looks is None or looks.copy_in_place_of(request) is None:
        return None
    return looks


def looks_of(handler: typing.Any) -> Looks | None:
    """Return who takes note of looks at a handler, if anybody does."""
    seen: Looks | None = handler._memcached_looks
    return seen or looking_at(handler.request)


def answering(handler: typing.Any) -> typing.Any:
    """Return the handler whose answer is meant: the copy, for a method that
    runs on one and has the handler itself by way of another object."""
    if handler._memcached_looks is not None:
        return handler
    looks = looking_at(handler.request)
    return handler if looks is None else looks.answering() or handler


BEHIND: typing.Any = object()
"""In place of what a class does not have of its own."""


class User:
    """The ``current_user`` of handlers, each look at which is noted.

    :param own: what a class has of its own; BEHIND for what its bases have

    """

    def __init__(self, own: typing.Any = BEHIND) -> None:
        self._own = own

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self._own, '__isabstractmethod__', False)

    def _of(self, kind: type) -> typing.Any:
        """Return what a class of handlers has, as its own or its bases'."""
        if self._own is not BEHIND:
            return self._own
        classes = kind.__mro__
        behind = classes[classes.index(self._owner) + 1 :]
        return next(vars(base)[USER] for base in behind if USER in vars(base))

    def __get__(self, handler: typing.Any, owner: type) -> typing.Any:
        if handler is None:
            own = self._of(owner)
            find = getattr(type(own), '__get__', None)
            return own if find is None else find(own, None, owner)
        handler = answering(handler)
        seen = looks_of(handler)
        find = functools.partial(self._find, handler)
        return find() if seen is None else seen.user(find)

    def _find(self, handler: typing.Any) -> typing.Any:
        own = self._of(type(handler))
        kind = type(own)
        if not hasattr(kind, '__set__') and USER in vars(handler):
            return vars(handler)[USER]
        if hasattr(kind, '__get__'):
            return own.__get__(handler, type(handler))
        return own

    def __set__(self, handler: typing.Any, value: typing.Any) -> None:
        handler = answering(handler)
        own = self._of(type(handler))
        if hasattr(type(own), '__set__'):
            own.__set__(handler, value)
        else:
            vars(handler)[USER] = value

    def __delete__(self, handler: typing.Any) -> None:
        handler = answering(handler)
        own = self._of(type(handler))
        if hasattr(type(own), '__set__'):
            own.__delete__(handler)
        elif vars(handler).pop(USER, BEHIND) is BEHIND:
            raise AttributeError(USER)


def note_users(owner: type) -> None:
    """Have it noted that a user is looked for, where a class says who."""
    found = inspect.getattr_static(owner, USER)
    if not isinstance(found, User):
        user = User(vars(owner).get(USER, BEHIND))
        user.__set_name__(owner, USER)
        setattr(owner, USER, user)
    function = inspect.getattr_static(owner, _FIND)
    if (
        isinstance(function, types.FunctionType)
        and function is not vars(web.RequestHandler)[_FIND]
        and not hasattr(function, _NOTES)
    ):
        setattr(
            owner, _FIND, _noting_user(owner, vars(owner).get(_FIND, BEHIND))
        )


def _noting_user(
    owner: type, own: abc.Callable[..., typing.Any]
) -> abc.Callable[..., typing.Any]:
    def get_current_user(
        self: typing.Any, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        if own is BEHIND:
            method = getattr(super(owner, self), _FIND)
        else:
            method = functools.partial(own, self)
        find = functools.partial(method, *args, **kwargs)
        seen = looks_of(self)
        return find() if seen is None else seen.user(find)

    if own is not BEHIND:
        functools.update_wrapper(get_current_user, own)
    setattr(get_current_user, _NOTES, True)
    return get_current_user


def _nothing() -> None:
    """Stand for a reference to what is gone."""


def told(request: httputil.HTTPServerRequest, names: abc.Iterable[str]) -> str:
    """Return the part of a query that has these arguments, in this order."""
    given = request.query_arguments
    return urllib.parse.urlencode(
        [(name, value) for name in names for value in given.get(name, ())]
    )


def _is_for_another_template() -> bool:
    """Whether Tornado looks who is asking for a template that does not.

    What a template may use is all looked up before it is rendered.

    """
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and (
        frame.f_code.co_name == USER or frame.f_globals is globals()
    ):
        frame = frame.f_back
    if (
        frame is None
        or frame.f_code
        is not web.RequestHandler.get_template_namespace.__code__
    ):
        return False
    frame = frame.f_back
    while frame is not None and frame.f_code.co_name == _NAMESPACE:
        # An extended one may take it from there, by its name.
        if USER in _constants_in(frame.f_code):
            return False
        frame = frame.f_back
    if (
        frame is None
        or frame.f_code is not web.RequestHandler.render_string.__code__
    ):
        return False
    found = frame.f_locals.get('t')
    return isinstance(found, template.Template) and USER not in _names_in(
        found.compiled
    )


def _constants_in(code: types.CodeType) -> set[typing.Any]:
    inner = [part for part in code.co_consts if isinstance(part, type(code))]
    return {*code.co_consts}.union(*map(_constants_in, inner))


def _names_in(code: types.CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, type(code))]
    return {*code.co_names}.union(*map(_names_in, inner))


class Language:
    """A :class:`tornado.locale.Locale` that tells when it is used."""

    def __init__(
        self, found: locale.Locale, tell: abc.Callable[[], None]
    ) -> None:
        self._found = found
        self._tell = tell

    if not typing.TYPE_CHECKING:

        @property
        def __class__(self):
            # Whatever asks for a language takes it.
            return type(self._found)

    def __eq__(self, other: object) -> bool:
        self._tell()
        if type(other) is Language:
            other = other._found
        return self._found == other

    def __hash__(self) -> int:
        self._tell()
        return hash(self._found)

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.Any:
        self._tell()
        return self._found.__reduce_ex__(protocol)

    def __getattr__(self, name: str) -> typing.Any:
        part = getattr(self._found, name)
        if not callable(part):
            self._tell()
            return part

        @functools.wraps(part)
        def call(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
            self._tell()
            return part(*args, **kwargs)

        return call


def _noting_all(name: str) -> typing.Any:
    """Return a method of dict before which a look at all is noted."""
    method = getattr(dict, name)

    @functools.wraps(method)
    def call(self: typing.Any, *args: typing.Any) -> typing.Any:
        self._note_all()
        return method(self, *args)

    return call


class _Watched(dict[str, typing.Any]):
    """A dict that tells its kind of each look at a value, or at all."""

    def __init__(
        self, values: abc.Mapping[str, typing.Any], looks: Looks
    ) -> None:
        super().__init__(values)
        self._looks = looks

    def _note(self, name: str) -> None:
        raise NotImplementedError

    def _note_all(self) -> None:
        raise NotImplementedError

    def __getitem__(self, name: str) -> typing.Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: str, default: typing.Any = None) -> typing.Any:
        self._note(name)
        return super().get(name, default)

    def pop(self, name: str, *default: typing.Any) -> typing.Any:
        self._note(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: typing.Any = None) -> typing.Any:
        self._note(name)
        return super().setdefault(name, default)

    __hash__ = dict.__hash__
    __eq__ = _noting_all('__eq__')
    __ne__ = _noting_all('__ne__')
    __iter__ = _noting_all('__iter__')
    __or__ = _noting_all('__or__')
    __ror__ = _noting_all('__ror__')
    __repr__ = _noting_all('__repr__')
    copy = _noting_all('copy')
    items = _noting_all('items')
    popitem = _noting_all('popitem')
    values = _noting_all('values')


class Namespace(_Watched):
    """What a template may use, each look at whose user is noted.

    Tornado, which hands on all of it to a template, has not looked.  Whoever
    else does so may have.

    """

    def _note(self, name: str) -> None:
        if name == USER:
            self._note_all()

    def _note_all(self) -> None:
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals is globals():
            frame = frame.f_back
        render = web.RequestHandler.render_string.__code__
        if frame is None or frame.f_code is not render:
            self._looks.at_user()


class _Request(httputil.HTTPServerRequest):
    """A request, each look at whose connection is noted."""

    looks: Looks | None = None

    def __getattribute__(self, name: str) -> typing.Any:
        if name in _OF_CONNECTIONS and self.looks is not None:
            self.looks.at_connection(name)
        return super().__getattribute__(name)

    @property
    def cookies(self) -> dict[str, http.cookies.Morsel[typing.Any]]:
        if self.looks is not None:
            # They are made of it once, for whoever looks first.
            self.looks.at_header('Cookie')
        return super().cookies


class _Original(httputil.HTTPServerRequest):
    """A request itself; for a method that runs on a copy it is that."""

    def __getattribute__(self, name: str) -> typing.Any:
        looks = _looking.get()
        copied = None if looks is None else looks.copy_in_place_of(self)
        if copied is not None:
            return getattr(copied, name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: typing.Any) -> None:
        looks = _looking.get()
        copied = None if looks is None else looks.copy_in_place_of(self)
        if copied is not None:
            setattr(copied, name, value)
        super().__setattr__(name, value)


class _Headers(httputil.HTTPHeaders):
    """The headers of a request, each look at which is noted."""

    def __init__(self, headers: httputil.HTTPHeaders, looks: Looks) -> None:
        self._looks: Looks | None = None
        super().__init__()
        for name, value in headers.get_all():
            self.add(name, value, _chars_are_bytes=False)
        self._looks = looks

    def _told(self) -> Looks | None:
        return self._looks

    def _note(self, name: str) -> None:
        looks = self._told()
        if looks is not None:
            looks.at_header(name)

    def __getitem__(self, name: str) -> str:
        self._note(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._note(str(name))
        return super().__contains__(name)

    def get_list(self, name: str) -> list[str]:
        self._note(name)
        return super().get_list(name)

    # Whoever looks at all of them sees what is not there, too.

    def _note_all(self) -> None:
        looks = self._told()
        if looks is not None:
            looks.at_headers()

    def get_all(self) -> abc.Iterable[tuple[str, str]]:
        self._note_all()
        for name, value in super().get_all():
            self._note(name)
            yield name, value

    def __iter__(self) -> typing.Iterator[str]:
        self._note_all()
        for name in super().__iter__():
            self._note(name)
            yield name

    def __len__(self) -> int:
        self._note_all()
        return super().__len__()

    def __reduce_ex__(self, _: typing.SupportsIndex) -> typing.Any:
        # Nobody is told of looks at a deep copy, or in another process.
        return copy.copy, (httputil.HTTPHeaders(self),)


class _OriginalHeaders(_Headers):
    """The headers of a request itself, which a method may look at as well."""

    def _told(self) -> Looks | None:
        looks = _looking.get()
        return looks if looks is not None and looks.has(self) else None


class _Arguments(_Watched):
    """The arguments of a request, each look at which is noted.

    Here it makes a difference as well which there are.

    """

    def __contains__(self, name: object) -> bool:
        self._note(str(name))
        return super().__contains__(name)

    def __reduce_ex__(self, _: typing.SupportsIndex) -> typing.Any:
        return dict, (dict(self),)

    def _note(self, name: str) -> None:
        self._looks.at_argument(name)

    def _note_all(self) -> None:
        self._looks.at_arguments()
        for name in dict.__iter__(self):
            self._looks.at_argument(name)

    __len__ = _noting_all('__len__')
    __reversed__ = _noting_all('__reversed__')
    keys = _noting_all('keys')
