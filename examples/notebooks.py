"""Notebooks from somewhere else, rendered: what is slow is done once.

    python examples/notebooks.py --port 8000

    curl -i http://127.0.0.1:8000/view/demo.ipynb       # twice
    MEMCACHED_SERVERS=memory python examples/notebooks.py
    MEMCACHED_SERVERS=none python examples/notebooks.py

What such a service needs of a cache, and what does it here: pages that are
kept the longer, the longer they took (``cached_response``, to which the page's
own ``max-age`` is a limit); the notebooks, with the ETag by which their source
says that they are still the same; both in parts where they are larger than
memcached takes (``max_parts``); a limit for what one address may have rendered
(``limit``), which pages from the cache do not count for; and ``memory`` or
``none`` while one develops.

What happens without memcached: each page is fetched and rendered for its
request, or once for those who want it at the same moment; nobody is limited.

"""

import asyncio
import json
import time

import guard
import service
from tornado import escape, httpclient, web

from sprockets.clients import memcached

SHORTEST, LONGEST = 60, 3600
"""Seconds for which a page is kept, at least and at most."""

RATIO = 120
"""Seconds for which it is kept for each second that it took."""

PARTS = 16
"""In how many parts of almost 1 MiB a notebook, or a page, is kept at most."""

DAY = 24 * 60 * 60

RENDERINGS, SECONDS = 30, 600
"""How many pages an address may have rendered in how many seconds."""

DEMO = {
    'cells': [
        {'cell_type': 'markdown', 'source': ['A demonstration.']},
        {'cell_type': 'code', 'source': ['1 + 1']},
    ]
}
"""The only notebook where no source is given."""

CELL = {'markdown': '<p>{}</p>', 'code': '<pre>{}</pre>'}


class Page(memcached.MemcachedMixin, guard.Guarded):
    """A rendered notebook, the same for everybody."""

    memcached_prefix = 'notebooks'

    private = False

    def prepare(self):
        # Not in the method: a page that looks at the address of its reader
        # is for this one alone, and not kept.
        self.address = self.request.remote_ip
        return super().prepare()

    @memcached.cached_response(LONGEST, query=(), stale=DAY)
    async def get(self, name):
        began = time.monotonic()
        await self.count()
        notebook = await self.fetch(name)
        cells = [
            CELL.get(cell['cell_type'], '').format(
                escape.xhtml_escape(''.join(cell['source']))
            )
            for cell in notebook['cells']
        ]
        seconds = (time.monotonic() - began) * RATIO
        kept = round(min(max(seconds, SHORTEST), LONGEST))
        self.set_header('Cache-Control', f'max-age={kept}')
        self.write(f'<!DOCTYPE html><meta charset="utf-8">{"".join(cells)}')

    head = get

    async def count(self):
        """Refuse an address that has had too many pages rendered."""
        if not await self.memcached.limit(
            f'renderings:{self.address}', RENDERINGS, SECONDS
        ):
            raise web.HTTPError(429)

    async def fetch(self, name):
        """Return a notebook, which is sent only if it has changed."""
        if self.application.source is None:
            return DEMO
        url = f'{self.application.source}/{name}'
        etag, body = await self.memcached.get(url, (None, None))
        try:
            response = await httpclient.AsyncHTTPClient().fetch(
                url, headers={'If-None-Match': etag} if etag else {}
            )
        except httpclient.HTTPClientError as error:
            if error.code != 304:
                missing = error.code in (403, 404, 410)
                raise web.HTTPError(404 if missing else 502) from error
        except OSError as error:
            raise web.HTTPError(502) from error
        else:
            body = response.body.decode()
            found = response.headers.get('Etag'), body
            await self.memcached.set(url, found, time=DAY)
        return json.loads(body)


class Application(memcached.ApplicationMixin, web.Application):
    """The service."""

    def __init__(self, source):
        super().__init__([(r'/view/([\w.-]{1,100}\.ipynb)', Page)])
        self.source = source
        # The address of a notebook is a key, whatever is in it.
        self.memcached_client('notebooks', hash_bad_keys=True, max_parts=PARTS)


async def main():
    """Serve until a signal comes."""
    parser = service.arguments(__doc__)
    parser.add_argument('--source', metavar='URL', help='where they are')
    options = parser.parse_args()
    application = Application(options.source)
    await service.serve(application, options)
    await application.stop_memcached()


if __name__ == '__main__':
    asyncio.run(main())
