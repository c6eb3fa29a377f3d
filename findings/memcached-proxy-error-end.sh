#!/bin/sh
# memcached 1.6.45 (Debian's 1.6.45-1), its built-in proxy: whether an END
# follows an error line depends on how many keys were asked for.
#
# A server of the pool is down.  A get of one of its keys is answered by one
# line, SERVER_ERROR backend failure, and nothing behind it.  A get of that key
# and another one has the same line in the place of the value, and then goes on:
# with the other value, and with END.  So a client that takes the error line for
# the end of the reply, as it is for one key, reads the rest as the answer to its
# next command; and one that waits for END after a single key waits in vain.

. "$(dirname "$0")/parts"

memcached=$(debian sid memcached=1.6.45-1 usr/bin/memcached)
up=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$up" -U 0
listening "$up"
down=$(free)
cat >"$folder/routes.lua" <<ROUTES
pools{
    up = { backends = { "127.0.0.1:$up" } },
    down = { backends = { "127.0.0.1:$down" } },
}
routes{
    map = { a = route_direct{ child = "up" }, b = route_direct{ child = "down" } },
}
ROUTES
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0 \
    -o "proxy_config=routelib,proxy_arg=$folder/routes.lua"
listening "$port"

{
    ask "$port" 'set a/1 0 0 1\r\nx\r\n'
    ask "$port" 'get b/1\r\n'
    ask "$port" 'get b/1 a/1\r\n'
} | same "b'STORED\\r\\n'
b'SERVER_ERROR backend failure\\r\\n'
b'SERVER_ERROR backend failure\\r\\nVALUE a/1 0 1\\r\\nx\\r\\nEND\\r\\n'"
