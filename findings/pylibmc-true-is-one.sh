#!/bin/sh
# pylibmc 1.6.3 beside python-memcached 1.62: True comes back as 1.
#
# Both, and pymemcache, write each other's integers, texts and pickles.  But where
# the others pickle True, pylibmc stores it as the integer 1: whoever reads it,
# pylibmc itself included, gets an int, for which "is True" does not hold and of
# which JSON makes 1.

. "$(dirname "$0")/parts"

memcached=$(debian bookworm memcached=1.6.18-1 usr/bin/memcached)
python python-memcached==1.62 pylibmc==1.6.3
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
listening "$port"

# What it says of itself while its module is imported is of no interest.
"$folder/python/bin/python" - "$port" 2>"$folder/errors" <<'PROGRAM' |
import sys

import memcache
import pylibmc

address = f'127.0.0.1:{sys.argv[1]}'
clients = {
    'python-memcached': memcache.Client([address]),
    'pylibmc': pylibmc.Client([address]),
}
for writer, client in clients.items():
    client.set('key', True)
    for reader, other in clients.items():
        print(f'{writer} to {reader}: {other.get("key")!r}')
PROGRAM
    same "python-memcached to python-memcached: True
python-memcached to pylibmc: True
pylibmc to python-memcached: 1
pylibmc to pylibmc: 1"
