"""A read-through cache over SQLite: articles with edits and a hit counter.

Start it, on a memcached at 127.0.0.1:11211 unless MEMCACHED_SERVERS names
another one:

    python examples/articles.py --port 8000

and try:

    curl http://127.0.0.1:8000/articles/tornado        # twice
    curl -X PUT http://127.0.0.1:8000/articles/tornado \
        -d '{"text": "Spins.", "revision": 1}'         # twice as well
    curl -X DELETE http://127.0.0.1:8000/articles/tornado

What happens without memcached: every answer comes from SQLite, slower, and
``hits`` is null.  Nothing fails.

"""

import asyncio
import random
import sqlite3

import guard
import onthread
import service
from tornado import web

from sprockets.clients import memcached

EXPIRY = 60
"""Seconds for which an article is cached: so long may an answer be out of
date at most, after an edit that memcached did not hear of."""

ATTEMPTS = 5
"""How often an edit tries to put the article into the cache."""

GONE = {'revision': float('inf')}
"""What the cache holds in place of an article that was deleted."""


def key(slug):
    """Return the key of an article.

    One server is shared by many things, so that keys say what they are of.
    The slug comes from the URL, where the route below lets nothing pass that
    does not belong into a key; what may hold anything has to be hashed.

    """
    return f'article:{slug}'


class Database:
    """The articles in SQLite, whose methods block."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path)
        with self.connection:
            self.connection.executescript(
                'CREATE TABLE IF NOT EXISTS articles (slug TEXT PRIMARY KEY,'
                ' title TEXT, text TEXT, revision INTEGER);'
                'CREATE TABLE IF NOT EXISTS tags (slug TEXT, tag INTEGER);'
                'CREATE INDEX IF NOT EXISTS by_slug ON tags (slug);'
                'CREATE INDEX IF NOT EXISTS by_tag ON tags (tag);'
            )
        if not self.slugs(1):
            self.seed()

    def close(self):
        self.connection.close()

    def seed(self):
        """Fill the tables, so that there is something to look for."""
        chance = random.Random(1)
        names = ['tornado', 'memcached', 'sqlite']
        names += [f'article-{number}' for number in range(1, 4000)]
        with self.connection:
            self.connection.executemany(
                'INSERT INTO articles VALUES (?, ?, ?, 1)',
                [
                    (name, name.capitalize(), f'All about {name}.')
                    for name in names
                ],
            )
            self.connection.executemany(
                'INSERT INTO tags VALUES (?, ?)',
                [
                    (name, tag)
                    for name in names
                    for tag in chance.sample(range(40), 10)
                ],
            )

    def slugs(self, limit=20):
        """Return the names of the first articles."""
        rows = self.connection.execute(
            'SELECT slug FROM articles ORDER BY rowid LIMIT ?', [limit]
        )
        return [slug for (slug,) in rows]

    def find(self, slug):
        """Return an article, None if there is none by that name."""
        row = self.connection.execute(
            'SELECT slug, title, text, revision FROM articles WHERE slug = ?',
            [slug],
        ).fetchone()
        if row is None:
            return None
        article = dict(
            zip(('slug', 'title', 'text', 'revision'), row, strict=True)
        )
        # The articles with the most tags in common: what makes a cache worth
        # its while is a query like this one.
        related = self.connection.execute(
            'SELECT other.slug FROM tags AS mine JOIN tags AS other'
            ' ON other.tag = mine.tag AND other.slug != mine.slug'
            ' WHERE mine.slug = ? GROUP BY other.slug'
            ' ORDER BY count(*) DESC, other.slug LIMIT 3',
            [slug],
        )
        article['related'] = [other for (other,) in related]
        return article

    def edit(self, slug, changes, revision):
        """Change an article if it still has this revision.

        :return: whether it had, and the article as it is now

        """
        with self.connection:
            edited = self.connection.execute(
                'UPDATE articles SET title = coalesce(?, title),'
                ' text = coalesce(?, text), revision = revision + 1'
                ' WHERE slug = ? AND revision = ?',
                [changes.get('title'), changes.get('text'), slug, revision],
            )
            return edited.rowcount == 1, self.find(slug)

    def delete(self, slug):
        """Delete an article and return whether there was one."""
        with self.connection:
            self.connection.execute('DELETE FROM tags WHERE slug = ?', [slug])
            deleted = self.connection.execute(
                'DELETE FROM articles WHERE slug = ?', [slug]
            )
            return deleted.rowcount == 1


class Application(memcached.ApplicationMixin, web.Application):
    """The service; the mixin gives it ``stop_memcached()``."""

    def __init__(self, path=':memory:'):
        super().__init__(
            [
                ('/articles', Articles),
                ('/articles/([a-z0-9-]{1,100})', Article),
            ]
        )
        self.articles = onthread.OnThread(Database, path)

    async def close(self):
        """Answer what is under way, and let go of memcached and SQLite."""
        await self.stop_memcached()
        await self.articles.close()


class Handler(memcached.MemcachedMixin, guard.Guarded):
    """What both kinds of request have in common.

    Here everybody may edit; who may is another matter than caches.

    """

    private = False

    # ARTICLES_MEMCACHED_SERVERS, or MEMCACHED_SERVERS if that is not set.
    memcached_prefix = 'articles'

    def write_error(self, status_code, **kwargs):
        self.finish({'error': self._reason})


class Articles(Handler):
    """What there is to ask for."""

    async def get(self):
        slugs = await self.application.articles.call('slugs')
        self.write({'articles': slugs})


class Article(Handler):
    """One article: read, edit, delete."""

    async def get(self, slug):
        # Called together they travel together: one round trip for both.
        article, hits = await asyncio.gather(
            self.memcached.get(key(slug)),
            self.memcached.incr(f'hits:{slug}'),
        )
        source = 'memcached'
        if article is None:
            source = 'sqlite'
            article = await self.application.articles.call('find', slug)
            if article is not None:
                # Not set(): whoever edited the article since it was read from
                # SQLite has put a newer one there, which must not be undone.
                await self.memcached.add(key(slug), article, time=EXPIRY)
        if article is None or article == GONE:
            raise web.HTTPError(404, reason='No such article')
        if hits is None:
            hits = await self.first_hit(slug)
        self.write({**article, 'source': source, 'hits': hits})

    async def first_hit(self, slug):
        """Begin to count, and return the count."""
        # incr() needs a number to add to.  Of several requests that find
        # none, add() lets one make it; the others add to that.
        if await self.memcached.add(f'hits:{slug}', 1):
            return 1
        # None again if memcached is down: an article without a count is
        # better than no article.
        return await self.memcached.incr(f'hits:{slug}')

    async def put(self, slug):
        changes, revision = self.edit()
        # SQLite has the truth, and so it decides which of two edits of the
        # same revision wins.
        edited, article = await self.application.articles.call(
            'edit', slug, changes, revision
        )
        if article is None:
            raise web.HTTPError(404, reason='No such article')
        if not edited:
            raise web.HTTPError(
                409, reason=f'The article has revision {article["revision"]}'
            )
        await self.update_cache(slug, article)
        self.write(article)

    def edit(self):
        """Return what the body of the request wants to change, and where."""
        changes = self.json()
        try:
            revision = changes.pop('revision')
            for text in changes.values():
                text.encode('utf-8')
            correct = (
                type(revision) is int
                and 0 < revision < 2**63
                and changes
                and changes.keys() <= {'title', 'text'}
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            correct = False
        if not correct:
            raise web.HTTPError(
                400, reason='Expected {"text": ..., "revision": ...}'
            )
        return changes, revision

    async def update_cache(self, slug, article):
        """Let the cache have this revision, unless it has a newer one."""
        for _ in range(ATTEMPTS):
            cached = await self.memcached.gets(key(slug))
            if cached is not None and cached['revision'] > article['revision']:
                return
            # It stores only if the cache still holds what gets() saw, if that
            # was nothing too: of two edits that come here in the wrong order,
            # the older one does not replace the newer one.
            if await self.memcached.cas(key(slug), article, time=EXPIRY):
                return
        # It lost every time, or memcached is down.
        await self.memcached.delete(key(slug))

    async def delete(self, slug):
        if not await self.application.articles.call('delete', slug):
            raise web.HTTPError(404, reason='No such article')
        # A mark rather than nothing: a request that had read the article from
        # SQLite before would add() it to the cache again.
        await asyncio.gather(
            self.memcached.set(key(slug), GONE, time=EXPIRY),
            self.memcached.delete(f'hits:{slug}'),
        )
        self.set_status(204)


async def main():
    """Serve until a signal comes."""
    parser = service.arguments(__doc__)
    parser.add_argument('--database', default=':memory:', metavar='FILE')
    options = parser.parse_args()
    application = Application(options.database)
    await application.articles.call('slugs')
    await service.serve(application, options)
    await application.close()


if __name__ == '__main__':
    asyncio.run(main())
