"""Page caching with ETag: a guestbook whose pages are drawn once.

    python examples/pages.py --port 8000

    curl -i http://127.0.0.1:8000/        # twice: the second one has an Age
    curl -i -H 'If-None-Match: "..."' http://127.0.0.1:8000/
    curl -i -d 'text=Hello' http://127.0.0.1:8000/
    curl -i 'http://127.0.0.1:8000/?page=1'

A new entry moves all the others down, so that every page changes at once.
They need not be found and deleted: each key has the number of a generation in
it, and an entry begins a new one.  The old pages are not asked for any more,
and expire.

``cached_response`` does the rest: of all who want a page at the same time one
has it drawn, and a browser that has it already gets 304 and no page, whether
it would come from memcached or was drawn just now.

What happens without memcached: each page is drawn for each request; ETags work
as ever.  If memcached cannot be reached while somebody writes an entry, and
comes back with what it held, pages without the entry are shown for a minute at
most.

"""

import asyncio
import hashlib
import sqlite3
import time

import guard
import onthread
import service
from tornado import template, web

from sprockets.clients import memcached

EXPIRY = 60
"""Seconds for which a page is cached."""

ENTRIES = 10
"""How many entries a page has."""

PAGE = template.Template("""\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Guestbook, page {{ number }} of {{ last }}</title>
<h1>Guestbook</h1>
{% for text in entries %}<p>{{ text }}</p>
{% end %}
<form method="post"><input name="text" required><button>Sign</button></form>
</html>
""")

VERSION = hashlib.sha256(PAGE.code.encode()).hexdigest()[:16]
"""Part of each key: when a new version of the program draws other pages, it
does not get those of the old one."""


class Database:
    """The entries in SQLite, whose methods block."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path)
        with self.connection:
            self.connection.execute(
                'CREATE TABLE IF NOT EXISTS entries'
                ' (number INTEGER PRIMARY KEY, text TEXT)'
            )

    def close(self):
        self.connection.close()

    def add(self, text):
        with self.connection:
            self.connection.execute(
                'INSERT INTO entries (text) VALUES (?)', [text]
            )

    def page(self, number):
        """Return the entries of a page, and how many pages there are."""
        (entries,) = self.connection.execute(
            'SELECT count(*) FROM entries'
        ).fetchone()
        rows = self.connection.execute(
            'SELECT text FROM entries ORDER BY number DESC LIMIT ? OFFSET ?',
            [ENTRIES, (number - 1) * ENTRIES],
        )
        return [text for (text,) in rows], max(-(-entries // ENTRIES), 1)


class Application(memcached.ApplicationMixin, web.Application):
    """The service."""

    def __init__(self, path=':memory:'):
        super().__init__([('/', Guestbook)])
        self.entries = onthread.OnThread(Database, path)

    async def close(self):
        """Answer what is under way, and let go of memcached and SQLite."""
        await self.stop_memcached()
        await self.entries.close()


async def which(handler):
    """Return which page it is, None if that cannot be known.

    Of the query this alone tells pages apart, as a number: whatever else
    somebody puts there makes no other page, and so fills no cache.

    """
    generation = await handler.memcached.get('generation')
    if generation is None:
        # Not 1: had memcached dropped it, the pages of an earlier 1 might be
        # there still.
        first = time.time_ns() // 1000
        await handler.memcached.add('generation', first)
        generation = await handler.memcached.get('generation')
    return generation and f'{VERSION}:{generation}:{handler.number}'


class Guestbook(memcached.MemcachedMixin, guard.Guarded):
    """The pages, which are the same for everybody: only such are cached."""

    memcached_prefix = 'pages'

    private = False

    def prepare(self):
        prepared = super().prepare()
        try:
            self.number = int(self.get_query_argument('page', '1'))
        except ValueError:
            raise web.HTTPError(404) from None
        if not 1 <= self.number <= 1_000_000:
            raise web.HTTPError(404)
        return prepared

    # Browsers may keep it, and ask each time whether it is still right.
    @memcached.cached_response(EXPIRY, query=(), vary=which, max_age=0)
    async def get(self):
        entries, last = await self.application.entries.call(
            'page', self.number
        )
        if self.number > last:
            raise web.HTTPError(404)
        # Were there a way to get a script into an entry, it would not run.
        self.set_header(
            'Content-Security-Policy',
            "default-src 'none'; form-action 'self'; base-uri 'none';"
            " frame-ancestors 'none'",
        )
        self.write(
            PAGE.generate(number=self.number, last=last, entries=entries)
        )

    head = get

    async def post(self):
        text = self.get_body_argument('text')
        await self.application.entries.call('add', text[:1000])
        # Afterwards: whoever draws a page between the two stores it under the
        # old generation, which is over in a moment.  If there is none, the
        # next one is new anyway.
        await self.memcached.incr('generation')
        self.redirect('/', status=303)


async def main():
    """Serve until a signal comes."""
    parser = service.arguments(__doc__)
    parser.add_argument('--database', default=':memory:', metavar='FILE')
    options = parser.parse_args()
    application = Application(options.database)
    # With several servers, the generation has one place.  If it went to
    # another server and back, old pages would return with the old number.
    application.memcached_client('pages', failover=False)
    await service.serve(application, options)
    await application.close()


if __name__ == '__main__':
    asyncio.run(main())
