"""What a handler asks of a request before it believes it."""

import json
import urllib.parse

from tornado import web

SAFE = ('GET', 'HEAD', 'OPTIONS')
"""The methods that change nothing, and so may come from anywhere."""

MAX_BODY = 16 * 1024
"""Bytes that a request may bring; nothing here wants as many."""


class Guarded(web.RequestHandler):
    """A request that changes something only for a page of our own.

    Every page in the world can have a browser send a form, or fetch(), to
    here, and the browser adds our cookie where the cookie lets it.  It says,
    too, where that came from, and no page can make it say something else.

    To put behind :class:`memcached.MemcachedMixin`, and before a handler's
    own ``prepare``, which calls this one.

    """

    private = True
    """Whether answers are for whoever asked, and for nobody else."""

    def set_default_headers(self):
        if self.private:
            # Neither a proxy nor the browser of a shared computer keeps it.
            self.set_header('Cache-Control', 'no-store')
        # What is sent is what it says that it is, and no script.
        self.set_header('X-Content-Type-Options', 'nosniff')

    def prepare(self):
        prepared = super().prepare()
        if self.request.method not in SAFE and not self.is_ours():
            raise web.HTTPError(403)
        return prepared

    def is_ours(self):
        """Whether a request was made by a page of ours, or by no page."""
        headers = self.request.headers
        site = headers.get('Sec-Fetch-Site')
        if site is not None:
            # Not ``same-site``: that is any other name of our domain.
            return site in ('same-origin', 'none')
        # An older browser.  Behind a proxy that speaks HTTPS for us the
        # scheme may be another one, the host is not.
        origin = headers.get('Origin')
        if origin is not None:
            host = urllib.parse.urlsplit(origin).netloc
            return host.lower() == self.request.host.lower()
        # No browser, then: a program, which brings what cookies it has.
        return True

    def json(self):
        """Return the JSON object in the body; 400 for anything else."""
        try:
            given = json.loads(self.request.body)
        # One that is nested too deeply is a RecursionError.
        except (ValueError, RecursionError):
            raise web.HTTPError(400) from None
        if not isinstance(given, dict):
            raise web.HTTPError(400)
        return given


COOKIE = {
    # No script can read it,
    'httponly': True,
    # other sites cannot use it,
    'samesite': 'Lax',
    # and nobody on the way sees it, whatever speaks HTTPS for us.  Browsers
    # take it from http://127.0.0.1 as well, to try it.
    'secure': True,
    # It is for all of this host, which ``__Host-`` wants.
    'path': '/',
}
"""How a cookie is set, and cleared, whose name begins with ``__Host-``.

With that name a browser takes it from this host alone, over HTTPS: another
name of the domain cannot plant one here.

"""
