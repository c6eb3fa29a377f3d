#!/bin/sh
# memcached 1.6.18 and 1.6.45: how long the line of a gat may be depends on how
# TCP cuts it.
#
# A line of 3.7 kB that names 120 keys is answered if it comes in one piece.  If
# its last byte comes later, memcached closes the connection without a word: of a
# line whose end it has not seen it takes up to 2,048 bytes, unless it begins
# with "get " or "gets ".  These may be as long as you like.  One would guess that
# gat and gats, the same with an exptime, may be so too, and that the network has
# no say in it.

. "$(dirname "$0")/parts"

memcached=$(debian bookworm memcached=1.6.18-1 usr/bin/memcached)
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
listening "$port"

keys=$(seq -f 'key-%025.0f' 120 | tr '\n' ' ')
{
    for command in 'get' 'gat 100'; do
        echo "$command, whole:"
        ask "$port" "$command $keys\r\n"
        echo "$command, in two pieces:"
        # Having sent what it will not read, the other side may see a reset.
        ask "$port" "$command $keys\r" "\n" 2>/dev/null || echo "b''"
    done
} | same "get, whole:
b'END\\r\\n'
get, in two pieces:
b'END\\r\\n'
gat 100, whole:
b'END\\r\\n'
gat 100, in two pieces:
b''"
