"""A store of login sessions: kept in SQLite, read from memcached.

    python examples/sessions.py --port 8000

    curl -c jar -d '{"name": "ada", "password": "engine"}' \
        http://127.0.0.1:8000/login
    curl -b jar http://127.0.0.1:8000/me           # twice
    curl -b jar -X POST http://127.0.0.1:8000/logout

memcached may drop a value whenever it needs the room, and it forgets all when
it is restarted.  Who keeps sessions nowhere else logs everybody out then; so
the session itself is in SQLite, and memcached saves the look-ups: a session in
use costs SQLite one in a minute.

What happens without memcached: sessions are looked up in SQLite for every
request, and logging in and out work as ever.  One thing is left: the session
of somebody who logs out while memcached cannot be reached may be in there
still, and is honoured if memcached comes back within a minute.  How often
somebody tries to log in is counted by each process for itself then.

"""

import asyncio
import concurrent.futures
import hashlib
import hmac
import os
import secrets
import sqlite3
import time

import guard
import onthread
import rate_limit
import service
from tornado import web

from sprockets.clients import memcached

CACHED = 60
"""Seconds for which memcached answers for a session by itself."""

IDLE = 30 * 60
"""Seconds after which a session that nobody uses is over."""

LONGEST = 12 * 60 * 60
"""Seconds after which a session is over in any case."""

NAME = '__Host-session'
"""The cookie; see guard.py."""

HASHING = 2
"""How many passwords are hashed at one time: each takes a core for 50 ms, and
16 MB.  Others wait."""

LONGEST_NAME = 100
"""Characters of a name, or a password, that is looked at."""

LOGGED_OUT = ''
"""What memcached holds, in place of the user's name, after a logout."""


def fingerprint(token):
    """Return what SQLite and memcached know of a cookie.

    Whoever gets to see the database or the keys in memcached cannot make the
    cookie from it.  And a cookie may be anything that somebody made up: its
    hash is always fit for a key.

    """
    return hashlib.sha256(token.encode()).hexdigest()


def scramble(password, salt):
    """Return what is stored of a password; slow on purpose."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


class Database:
    """The users and the sessions in SQLite, whose methods block."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path)
        with self.connection:
            self.connection.executescript(
                'CREATE TABLE IF NOT EXISTS users'
                ' (name TEXT PRIMARY KEY, salt BLOB, scrambled BLOB);'
                'CREATE TABLE IF NOT EXISTS sessions'
                ' (fingerprint TEXT PRIMARY KEY, name TEXT, began REAL,'
                ' used REAL);'
            )
        # Somebody to log in as.
        self.add_user('ada', 'engine')

    def close(self):
        self.connection.close()

    def add_user(self, name, password):
        salt = os.urandom(16)
        with self.connection:
            self.connection.execute(
                'INSERT OR IGNORE INTO users VALUES (?, ?, ?)',
                [name, salt, scramble(password, salt)],
            )

    def user(self, name):
        """Return the salt of a user, and the scrambled password."""
        row = self.connection.execute(
            'SELECT salt, scrambled FROM users WHERE name = ?', [name]
        ).fetchone()
        # A name that there is not takes as long as a wrong password, so that
        # nobody can find out names.
        return row or (b'', b'')

    def begin(self, name):
        """Return the cookie of a new session."""
        token = secrets.token_urlsafe(32)
        now = time.time()
        with self.connection:
            self.connection.execute(
                'DELETE FROM sessions WHERE used <= ? OR began <= ?',
                [now - IDLE, now - LONGEST],
            )
            self.connection.execute(
                'INSERT INTO sessions VALUES (?, ?, ?, ?)',
                [fingerprint(token), name, now, now],
            )
        return token

    def use(self, session):
        """Return whose session it is and how long it lasts, and prolong it.

        :return: the user's name and seconds, or None if the session is over

        """
        now = time.time()
        with self.connection:
            self.connection.execute(
                'UPDATE sessions SET used = ?'
                ' WHERE fingerprint = ? AND used > ? AND began > ?',
                [now, session, now - IDLE, now - LONGEST],
            )
            row = self.connection.execute(
                'SELECT name, began FROM sessions'
                ' WHERE fingerprint = ? AND used = ?',
                [session, now],
            ).fetchone()
        return row and (row[0], row[1] + LONGEST - now)

    def end(self, session):
        with self.connection:
            self.connection.execute(
                'DELETE FROM sessions WHERE fingerprint = ?', [session]
            )


class Application(memcached.ApplicationMixin, web.Application):
    """The service."""

    def __init__(self, path=':memory:'):
        super().__init__([('/login', Login), ('/me', Me), ('/logout', Logout)])
        self.sessions = onthread.OnThread(Database, path)
        # Not SQLite's thread, for which everybody waits.
        self.hashing = concurrent.futures.ThreadPoolExecutor(HASHING)
        self.attempts = {}

    async def close(self):
        """Answer what is under way, and let go of memcached and SQLite."""
        await self.stop_memcached()
        await self.sessions.close()
        self.hashing.shutdown()


class Handler(memcached.MemcachedMixin, guard.Guarded):
    """A request that may belong to a session."""

    memcached_prefix = 'sessions'

    @property
    def session(self):
        """The fingerprint of the cookie, None if there is none."""
        token = self.get_cookie(NAME)
        return fingerprint(token) if token else None

    async def user(self):
        """Return the name of whoever makes the request, None if unknown."""
        session = self.session
        if session is None:
            return None
        name = await self.memcached.get(f'session:{session}')
        if name is not None:
            return name or None
        found = await self.application.sessions.call('use', session)
        if found is None:
            return None
        name, seconds = found
        # Not set(): it must not undo a logout that came in between.
        await self.memcached.add(
            f'session:{session}', name, time=min(CACHED, seconds)
        )
        return name


class Login(rate_limit.Limited, Handler):
    """Begins a session, and is not for trying out passwords."""

    limit_name = 'session'
    limit = 10
    limit_seconds = 300

    async def ask(self):
        """Extended: without memcached, this process counts."""
        allowance = await super().ask()
        if allowance.left is not None:
            return allowance
        left, seconds = self.count_here()
        return allowance._replace(
            allowed=left >= 0, left=max(left, 0), seconds=seconds
        )

    def count_here(self):
        attempts = self.application.attempts
        now = time.monotonic()
        key = self.key()
        count, end = attempts.get(key, (0, 0))
        if now >= end:
            count, end = 0, now + self.limit_seconds
        if key not in attempts and len(attempts) >= 10_000:
            # There are no more addresses than this: the oldest goes.
            del attempts[next(iter(attempts))]
        attempts[key] = count + 1, end
        return self.limit - count - 1, int(end - now)

    async def post(self):
        given = self.json()
        name, password = given.get('name'), given.get('password')
        for text in (name, password):
            if not isinstance(text, str) or len(text) > LONGEST_NAME:
                raise web.HTTPError(400)
            # Neither encode() nor SQLite take half a character.
            if any('\ud800' <= each <= '\udfff' for each in text):
                raise web.HTTPError(400)
        salt, scrambled = await self.application.sessions.call('user', name)
        found = await asyncio.get_running_loop().run_in_executor(
            self.application.hashing, scramble, password, salt
        )
        if not hmac.compare_digest(found, scrambled):
            raise web.HTTPError(401)
        # A new token for each login: one that somebody else made the browser
        # use before gets him nowhere.
        token = await self.application.sessions.call('begin', name)
        self.set_cookie(NAME, token, max_age=LONGEST, **guard.COOKIE)
        self.write({'user': name})


class Me(Handler):
    """Something that only those who are logged in may see."""

    async def get(self):
        name = await self.user()
        if name is None:
            raise web.HTTPError(401)
        self.write({'user': name})


class Logout(Handler):
    """Ends a session."""

    async def post(self):
        session = self.session
        if session is not None:
            await self.application.sessions.call('end', session)
            # Not delete(): a request that has found the session in SQLite
            # just before would add() it again.
            await self.memcached.set(
                f'session:{session}', LOGGED_OUT, time=CACHED
            )
        self.clear_cookie(NAME, **guard.COOKIE)
        self.set_status(204)


async def main():
    """Serve until a signal comes."""
    parser = service.arguments(__doc__)
    parser.add_argument('--database', default=':memory:', metavar='FILE')
    options = parser.parse_args()
    application = Application(options.database)
    # With several servers, the sessions of one that is down are not looked
    # for on the others.  They would stay on both, and after a logout one of
    # the two would not know of it.
    application.memcached_client('sessions', failover=False)
    await service.serve(application, options)
    await application.close()


if __name__ == '__main__':
    asyncio.run(main())
