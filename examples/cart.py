"""A shopping cart that is changed with gets and cas.

    python examples/cart.py --port 8000

    curl -c jar -b jar -X PUT -d '{"count": 2}' \
        http://127.0.0.1:8000/cart/apple
    curl -c jar -b jar http://127.0.0.1:8000/cart
    curl -c jar -b jar -X DELETE http://127.0.0.1:8000/cart

Whose cart it is says a cookie, which is signed: one that somebody has made up,
or planted, is none.  Who brings none has an empty cart, and nothing is stored
before there is something in it.

A customer with two tabs, or an impatient finger, makes two requests at once.
Each reads the cart, changes it and stores it, and whoever stores last would
undo what the other did.  cas stores only if the cart is still as gets saw it,
and says so if not: then the request reads it again.

A request says how many of an item there shall be, not how many more.  So it
can be made again without harm when it is not known whether it was done.

The cart is in memcached only.  It is gone when memcached drops it or restarts,
and then the customer begins anew: that is a nuisance, and a cart that must not
get lost belongs into a database.

What happens without memcached: 503, for the customer to try again.  Nothing
is ever said to be in the cart that is not, and a cart that cannot be reached
is not shown as an empty one.

"""

import asyncio
import hashlib
import os
import secrets

import guard
import service
from tornado import web

from sprockets.clients import memcached

EXPIRY = 7 * 24 * 60 * 60
"""Seconds after its last change for which a cart is kept."""

ATTEMPTS = 10
"""How often a change is tried while others change the cart as well."""

PRICES = {
    'apple': 40,
    'bread': 350,
    'butter': 290,
    'cheese': 620,
    'coffee': 890,
    'egg': 35,
    'honey': 540,
    'milk': 120,
    'rice': 260,
    'tea': 410,
}
"""What there is to buy, and for how many cents."""

NAME = '__Host-cart'
"""The cookie; see guard.py."""

DAYS = EXPIRY / (24 * 60 * 60)

MOST = 99
"""How many of an item may be in a cart."""


class Cart(memcached.MemcachedMixin, guard.Guarded):
    """The cart of whoever has the cookie: what is in it, and away with it."""

    memcached_prefix = 'carts'

    def prepare(self):
        super().prepare()
        self.cookie = self.get_signed_cookie(NAME, max_age_days=DAYS)
        self.key = None if self.cookie is None else self.key_of(self.cookie)

    def key_of(self, cookie):
        # Whoever sees the key cannot make the cookie from it.
        return f'cart:{hashlib.sha256(cookie).hexdigest()}'

    def begin(self):
        """Give a cookie to who has none, or the same one for a week more."""
        if self.cookie is None:
            # Nobody can guess it, and so nobody sees another one's cart.
            self.cookie = secrets.token_bytes(32)
            self.key = self.key_of(self.cookie)
        self.set_signed_cookie(
            NAME,
            self.cookie,
            expires_days=None,
            max_age=EXPIRY,
            **guard.COOKIE,
        )

    async def get(self):
        if self.key is None:
            self.answer({})
            return
        items = await self.memcached.get(self.key)
        if items is None:
            # There is none, or memcached is down: adding an empty one tells.
            if await self.memcached.add(self.key, {}, time=EXPIRY):
                items = {}
            else:
                items = await self.memcached.get(self.key)
        self.answer(items)

    async def delete(self):
        if self.key is None:
            self.answer({})
            return
        # An empty cart rather than none, for it says whether that was done.
        stored = await self.memcached.set(self.key, {}, time=EXPIRY)
        self.answer({} if stored else None)

    def answer(self, items):
        """Tell what is in the cart, or that nobody knows: None."""
        if items is None:
            self.set_status(503)
            self.set_header('Retry-After', '1')
            self.write({'error': 'The cart cannot be reached. Try again.'})
            return
        total = sum(PRICES.get(item, 0) * items[item] for item in items)
        self.write({'items': items, 'total': total})


class Item(Cart):
    """One kind of item in the cart."""

    async def put(self, item):
        count = self.count()
        if item not in PRICES:
            raise web.HTTPError(404)
        self.begin()
        for _ in range(ATTEMPTS):
            items = await self.memcached.gets(self.key)
            items = {**(items or {}), item: count}
            if not count:
                del items[item]
            # After a gets() that found nothing, it stores only if there is
            # still nothing.
            if await self.memcached.cas(self.key, items, time=EXPIRY):
                self.answer(items)
                return
        self.answer(None)

    def count(self):
        """Return how many of the item there shall be."""
        count = self.json().get('count')
        if type(count) is not int or not 0 <= count <= MOST:
            raise web.HTTPError(400)
        return count


class Application(memcached.ApplicationMixin, web.Application):
    """The service."""

    def __init__(self):
        super().__init__(
            [('/cart', Cart), ('/cart/([a-z]+)', Item)],
            # The same for all processes, and after a restart: without it the
            # carts of before are nobody's.
            cookie_secret=os.environ.get('CART_SECRET')
            or secrets.token_hex(32),
        )


async def main():
    """Serve until a signal comes."""
    options = service.arguments(__doc__).parse_args()
    application = Application()
    # With several servers, the carts of one that is down are not looked for
    # on the others: a customer would begin another cart there, and get the
    # first one back later, without what is in the second.
    application.memcached_client('carts', failover=False)
    await service.serve(application, options)


if __name__ == '__main__':
    asyncio.run(main())
