"""A whole response, as it is stored."""

from __future__ import annotations

import functools
import json
import math
import re
import time
import typing
from collections import abc

from sprockets.clients.memcached.web import handlers, recordings

_BEGINNING = b'response 1 '

PASS = b'response 1 pass'
"""What is stored in place of a response that is not to be stored, so that its
requests need not wait for each other."""

_CONTROLS = re.compile(r'[\x00-\x08\x0a-\x1f\x7f]')

_OF_CONNECTIONS = {
    'Age',
    'Connection',
    'Content-Length',
    'Date',
    'Etag',
    'Keep-Alive',
    'Proxy-Authenticate',
    'Proxy-Connection',
    'Server',
    'Server-Timing',
    'Set-Cookie',
    'Te',
    'Trailer',
    'Transfer-Encoding',
    'Upgrade',
}
"""Headers of one answer, or of the way that it takes: another one has its
own."""


class Entry(typing.NamedTuple):
    """A response that is, or may be, stored."""

    status: int
    reason: str
    etag: str | None
    made: float
    """When it was computed, in seconds since the epoch."""
    lasts: int | None
    """For how many seconds it may be given, as the method has said."""
    headers: list[tuple[str, list[str]]]
    """Those that the method has set, with all of their values."""
    added: list[tuple[str, list[str]]]
    """What it has added to those that were set before."""
    removed: list[str]
    """Those that were set before it, and that it has removed."""
    is_whole: bool
    """Whether nothing is sent that was written before it."""
    body: bytes

    @property
    def is_over(self) -> bool:
        """Whether it is older than the method has said it may be."""
        return self.lasts is not None and self.age >= self.lasts

    @property
    def age(self) -> int:
        """How many seconds ago it was computed."""
        return max(int(time.time() - self.made), 0)

    def encode(self) -> bytes:
        """Return the bytes that are stored, which no client unpickles."""
        head = json.dumps(self[:-1], separators=(',', ':'))
        return b'%b%b\n%b' % (_BEGINNING, head.encode(), self.body)

    def give(self, handler: handlers.MemcachedMixin, is_new: bool) -> None:
        """Let a handler answer it.

        :param bool is_new: whether it was computed for this request

        """
        if self.is_whole:
            handler.clear()
        # Another one may have been set before.
        if (self.status, self.reason) != (
            handler._status_code,
            handler._reason,
        ):
            handler.set_status(self.status, self.reason)
        headers = handler._headers
        # They were set before, for this request, and not by the method.
        cookies = handler.__dict__.get('_new_cookie') or {}
        has_cookies = bool(cookies) or 'Set-Cookie' in headers
        for name in self.removed:
            handler.clear_header(name)
        # They were looked at when they were set first.
        for name, values in self.headers:
            headers[name] = values[0]
            for value in values[1:]:
                headers.add(name, value)
        for name, values in self.added:
            for value in values:
                headers.add(name, value)
                if name == 'Set-Cookie':
                    # Else one of the same name comes behind it.
                    cookies.pop(value.partition('=')[0], None)
        if not is_new:
            headers['Age'] = str(self.age)
        if has_cookies:
            headers['Cache-Control'] = 'private, no-cache'
        body = [self.body] if self.body else []
        if self.is_whole or not handler._write_buffer:
            handler._write_buffer = body
            if self.etag is not None:
                handler._memcached_etag = self.etag, list(body)
        else:
            handler._write_buffer = [*handler._write_buffer, *body]


def decode(stored: typing.Any) -> Entry | None:
    """Return the response that was stored, None if there is none."""
    if type(stored) is not bytes or not stored.startswith(_BEGINNING):
        return None
    head, _, body = stored.partition(b'\n')
    try:
        return Entry._make((*_parts(head), body))
    except (ValueError, TypeError, RecursionError):
        return None


@functools.lru_cache(maxsize=1024)
def _parts(head: bytes) -> tuple[typing.Any, ...]:
    """Return a response without its body; the same few come again.

    Whoever can write to the server can have stored anything.

    :raises ValueError: if it is none
    :raises TypeError: likewise
    :raises RecursionError: likewise

    """
    parts = json.loads(head[len(_BEGINNING) :])
    status, reason, etag, made, lasts, headers, added, removed, whole = parts
    if not (
        type(status) is int
        and 200 <= status <= 599
        and type(made) is float
        and math.isfinite(made)
        and (lasts is None or type(lasts) is int)
        and _are_text([reason, *([] if etag is None else [etag]), *removed])
        and all(
            values and _are_text([name, *values])
            for name, values in headers + added
        )
        and type(whole) is bool
    ):
        raise ValueError('this is no response')
    return tuple(parts)


def _are_text(parts: abc.Iterable[typing.Any]) -> bool:
    """Whether all of them may be parts of a header."""
    return all(
        type(part) is str and not _CONTROLS.search(part) for part in parts
    )


def entry_of(
    recording: recordings.Recording,
    with_cookies: bool,
    now: float,
    lasts: int | None,
) -> Entry:
    """Return what a method has answered, as it is to be stored."""
    before = recording.before
    after = recording.headers
    headers: list[tuple[str, list[str]]] = []
    added: list[tuple[str, list[str]]] = []
    for name in after:
        was, values = before.get_list(name), after.get_list(name)
        # Tornado makes one for 200, and leaves those of others as they are.
        other = name == 'Etag' and recording.status != 200
        is_set = recording.sets(name)
        if (name in _OF_CONNECTIONS and not other) or (
            was == values and not is_set
        ):
            continue
        if was and values[: len(was)] == was and not is_set:
            added.append((name, values[len(was) :]))
        else:
            headers.append((name, values))
    if with_cookies and recording.cookies:
        added.append(('Set-Cookie', recording.cookies))
    return Entry(
        recording.status,
        recording.reason,
        after.get('Etag') or recording.handler.compute_etag(),
        now,
        lasts,
        headers,
        added,
        [
            name
            for name in before
            if name not in after and name not in _OF_CONNECTIONS
        ],
        recording.is_whole,
        recording.body,
    )


def names_in(values: abc.Iterable[str]) -> set[str]:
    """Return the names in a header that is a list of them, or of
    directives, in small letters."""
    return {
        part.partition('=')[0].strip().lower()
        for value in values
        for part in value.split(',')
        if part.strip()
    }


def lasts(values: abc.Iterable[str]) -> int | None:
    """Return how long a response may be given, as ``Cache-Control`` says.

    What is said to caches that others share comes first (RFC 9111, 5.2.2.10).

    :return: seconds, None if nothing is said

    """
    said = dict(
        re.findall(
            r'(s-maxage|max-age) *= *"?([0-9]{1,9})', ','.join(values).lower()
        )
    )
    seconds = said.get('s-maxage', said.get('max-age'))
    return None if seconds is None else int(seconds)
