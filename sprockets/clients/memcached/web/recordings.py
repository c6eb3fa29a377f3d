"""What a handler's method answers, recorded instead of sent."""

from __future__ import annotations

import contextlib
import functools
import types
import typing
import weakref
from collections import abc

from tornado import httputil, web

from sprockets.clients.memcached.web import handlers, looks

Method = abc.Callable[..., typing.Any]

_ANSWER = (
    '_status_code',
    '_reason',
    '_headers',
    '_write_buffer',
    '_new_cookie',
)
"""The attributes of a handler that are what it is going to send."""

_ANSWERING = (
    'add_header',
    'clear',
    'clear_header',
    'get_status',
    'send_error',
    'set_cookie',
    'set_header',
    'set_status',
    'write',
)
"""The methods of a handler that are about what it is going to send, beside
those that the mixin extends."""

_OF_REQUESTS = ('_new_cookie', '_raw_xsrf_token', '_xsrf_token')
"""Attributes that say nothing of where they are from: without them a method
has to look once more."""


class Recording:
    """A method that runs on a copy of its handler, which sends nothing.

    The handler itself may have been finished, with an old answer, before the
    method is.

    :param handler: the handler, prepared for its request
    :param Looks seen: is told what the method looks at

    """

    def __init__(
        self, handler: handlers.MemcachedMixin, seen: looks.Looks
    ) -> None:
        self._seen = seen
        self._original: handlers.MemcachedMixin | None = handler
        self._buffer = handler._write_buffer
        self._length = len(self._buffer)
        self.before = handler._headers
        self._written: list[bytes] = []
        copied = self.handler = type(handler).__new__(type(handler))
        copied.__dict__.update(handler.__dict__)
        _copy_slots(handler, copied)
        _answer_alone(copied)
        copied.request = seen.copy_of(handler.request)
        copied._headers = _Headers(handler._headers)
        copied.__dict__['clear'] = functools.partial(self._clear, copied)
        # What was written, set and found out before is this request's alone.
        copied._write_buffer = self._written
        for name in _OF_REQUESTS:
            copied.__dict__.pop(name, None)
        if copied.__dict__.get('_locale') is copied._memcached_found_locale:
            copied.__dict__.pop('_locale', None)
        copied._memcached_looks = seen
        seen.answering = weakref.ref(copied)
        # It may go on for longer than what the request remembers is good.
        copied._memcached = copied._memcached_others = None
        _renew_modules(copied)
        _answer_by_copies(handler)

    async def run(
        self,
        method: Method,
        args: tuple[typing.Any, ...],
        kwargs: dict[str, typing.Any],
    ) -> None:
        """Run the method to its end.

        :raises Exception: what it raises

        """
        self._seen.begin()
        try:
            result = method(self.handler, *args, **kwargs)
            if result is not None:
                await result
            if not (self.handler._auto_finish or self.handler._finished):
                await self._seen.until_finished()
        except web.Finish as error:
            if not self.handler._finished:
                self.handler.finish(*error.args)

    def _clear(self, copied: handlers.MemcachedMixin) -> None:
        """Let the method begin its answer anew, as that of its class does."""
        type(copied).clear(copied)
        self.before = copied._headers
        copied._headers = _Headers(self.before)

    def end(self) -> None:
        """Let go of the copy, which nobody uses any more."""
        self._seen.end()
        self.handler.ui = typing.cast(typing.Any, None)
        self.handler.__dict__.pop('clear', None)
        original, self._original = self._original, None
        if original is not None:
            if (
                original._write_buffer is self._buffer
                and len(self._buffer) > self._length
            ):
                self._seen.at_handler()
            original._memcached_recordings -= 1
            if not original._memcached_recordings:
                _answer_alone(original)

    @property
    def status(self) -> int:
        return self.handler.get_status()

    @property
    def reason(self) -> str:
        return self.handler._reason

    @property
    def headers(self) -> httputil.HTTPHeaders:
        return self.handler._headers

    def sets(self, name: str) -> bool:
        """Whether the method has set a header, to whatever it was before."""
        headers = self.headers
        return isinstance(headers, _Headers) and name.lower() in headers.told

    @property
    def body(self) -> bytes:
        return b''.join(self.handler._write_buffer)

    @property
    def is_whole(self) -> bool:
        """Whether the method has dropped what was written before it."""
        return self.handler._write_buffer is not self._written

    @property
    def cookies(self) -> list[str]:
        """The ``Set-Cookie`` of each cookie that the method sets."""
        new = self.handler.__dict__.get('_new_cookie')
        before = self.before.get_list('Set-Cookie')
        return [
            *(
                cookie
                for cookie in self.headers.get_list('Set-Cookie')
                if cookie not in before
            ),
            *(morsel.OutputString(None) for morsel in (new or {}).values()),
        ]

    def give(self, handler: handlers.MemcachedMixin) -> None:
        """Let a handler answer the same, cookies and all."""
        mine = self.handler.__dict__
        cookies = handler.__dict__.get('_new_cookie')
        written = [] if self.is_whole else handler._write_buffer
        handler.__dict__.update(
            {name: mine[name] for name in _ANSWER if name in mine}
        )
        handler._write_buffer = [*written, *handler._write_buffer]
        if cookies is not None:
            new = handler.__dict__['_new_cookie']
            if new is not cookies:
                for name, morsel in cookies.items():
                    new.setdefault(name, morsel)

    def give_cookies(self, handler: handlers.MemcachedMixin) -> None:
        """Let a handler that answers something else set the same cookies."""
        new = self.handler.__dict__.get('_new_cookie')
        if new:
            handler.__dict__.setdefault('_new_cookie', type(new)()).update(new)


class _Headers(httputil.HTTPHeaders):
    """The headers of an answer, which know what was set."""

    def __init__(self, before: httputil.HTTPHeaders) -> None:
        self.told: set[str] = set()
        super().__init__(before)
        self.told.clear()

    def __setitem__(self, name: str, value: str) -> None:
        self.told.add(name.lower())
        super().__setitem__(name, value)


def _answer(
    handler: handlers.MemcachedMixin,
    name: str,
    /,
    *args: typing.Any,
    **kwargs: typing.Any,
) -> typing.Any:
    """Do what a method of a handler does, in the copy that is meant."""
    meant = looks.answering(handler)
    if meant is handler:
        return getattr(type(meant), name)(meant, *args, **kwargs)
    return getattr(meant, name)(*args, **kwargs)


def _answer_by_copies(handler: handlers.MemcachedMixin) -> None:
    """Let what a recorded method answers by way of the handler be recorded."""
    handler._memcached_recordings += 1
    for name in _ANSWERING:
        call = functools.partial(_answer, handler, name)
        handler.__dict__.setdefault(name, call)


def _answer_alone(handler: handlers.MemcachedMixin) -> None:
    """Let a handler answer itself, whoever calls its methods."""
    handler._memcached_recordings = 0
    for name in _ANSWERING:
        if getattr(handler.__dict__.get(name), 'func', None) is _answer:
            del handler.__dict__[name]


def _copy_slots(handler: typing.Any, copied: typing.Any) -> None:
    for kind in type(handler).__mro__:
        for slot in vars(kind).values():
            if isinstance(slot, types.MemberDescriptorType):
                # Nothing may be in it.
                with contextlib.suppress(AttributeError):
                    slot.__set__(copied, slot.__get__(handler))


def _renew_modules(handler: handlers.MemcachedMixin) -> None:
    """Let what a template calls have the copy for its handler."""
    application = handler.application
    modules = web._UIModuleNamespace(handler, application.ui_modules)
    # It may have more, which was put there before.
    handler.ui = type(handler.ui)(handler.ui)
    for name, method in application.ui_methods.items():
        handler.ui[name] = handler._ui_method(method)
    handler.ui['_tt_modules'] = handler.ui['modules'] = modules
    handler.__dict__.pop('_active_modules', None)
