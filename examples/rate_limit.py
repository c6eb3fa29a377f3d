"""A rate limiter: so many requests of one client in so many seconds.

    python examples/rate_limit.py --port 8000

    for i in $(seq 12); do curl -i http://127.0.0.1:8000/search; done

The count begins with a client's first request and ends with its expiry: no
clock but memcached's has a say, however many processes there are.

What happens without memcached: nobody is counted, and each limit says for
itself what that means.  ``/search`` is limited so that the service stays fast
for all: it lets everybody in (fails open), for turning everybody away is worse
than what the limit is there to prevent.  ``/login`` is limited so that nobody
can try out passwords: it turns everybody away with 503 (fails closed), or one
could switch off the limit by getting at memcached.

memcached may also drop a count early, when it is short of memory, or with the
server that held it: then a client begins from nothing once more.

"""

import asyncio
import hashlib
import ipaddress

import guard
import service
from tornado import web

from sprockets.clients import memcached


class Limited(memcached.MemcachedMixin, web.RequestHandler):
    """A request of which a client may make only so many.

    To put before a handler's ``get`` and so on: Tornado awaits ``prepare()``
    first.

    """

    memcached_prefix = 'limits'

    limit_name = ''
    """What is counted: limits of the same name are one."""
    limit = 10
    """How many requests a client may make ..."""
    limit_seconds = 60
    """... in as many seconds."""
    limit_fails_open = True
    """Whether to let everybody in when memcached does not answer."""

    async def prepare(self):
        # What comes behind may be a coroutine, or not.
        prepared = super().prepare()
        if prepared is not None:
            await prepared
        allowance = await self.ask()
        if allowance.left is None:
            if not allowance:
                self.refuse(503, 5)
            return
        self.set_header('X-RateLimit-Limit', str(self.limit))
        self.set_header('X-RateLimit-Remaining', str(allowance.left))
        if not allowance:
            # The requests turned away do not prolong it.
            self.refuse(429, max(allowance.seconds, 1))

    async def ask(self):
        """Count this request, and return whether it may go on."""
        return await self.memcached.limit(
            self.key(),
            self.limit,
            self.limit_seconds,
            default=self.limit_fails_open,
        )

    def refuse(self, status, seconds):
        """End the request, and say when to come back."""
        self.set_status(status)
        self.set_header('Retry-After', str(seconds))
        # Once it is finished, Tornado does not call get() or post().
        self.finish()

    def key(self):
        """Return the key of this client's count.

        Whatever one counts by, names of users or tokens as well: its hash is
        fit for a key.

        """
        # Behind a proxy this is the client's address only with --behind-proxy
        # (HTTPServer's xheaders=True), and if the proxy replaces what the
        # client sent.  Without one, anybody could say any address.
        address = ipaddress.ip_address(self.request.remote_ip)
        # IPv4 in the clothes of IPv6.
        address = getattr(address, 'ipv4_mapped', None) or address
        # Whoever has one IPv6 address has 2**64 of them.
        client = address.packed[:8]
        digest = hashlib.sha256(client).hexdigest()
        return f'limit:{self.limit_name}:{digest}'


class Search(Limited, guard.Guarded):
    """A page that costs something."""

    limit_name = 'search'

    def get(self):
        self.write({'found': []})


class Login(Limited, guard.Guarded):
    """A form that somebody might try out passwords with."""

    limit_name = 'login'
    limit = 5
    limit_seconds = 300
    limit_fails_open = False

    def post(self):
        raise web.HTTPError(401)


class Application(memcached.ApplicationMixin, web.Application):
    """The service."""

    def __init__(self):
        super().__init__([('/search', Search), ('/login', Login)])


async def main():
    """Serve until a signal comes."""
    options = service.arguments(__doc__).parse_args()
    application = Application()
    await service.serve(application, options)


if __name__ == '__main__':
    asyncio.run(main())
