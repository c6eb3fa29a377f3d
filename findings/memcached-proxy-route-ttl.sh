#!/bin/sh
# memcached 1.6.45 (Debian's 1.6.45-1), its built-in proxy: a pool that stands
# in, behind route_failover and route_ttl, stores values and gives none back.
#
# While the first pool is down, a set is answered by STORED, and the value is in
# the second one, with its time bounded.  A get of it is answered by SERVER_ERROR
# lua failure, which names neither route_ttl nor its cause: that route knows
# commands that store and no others.  Alone it says so (invalid command for
# route_ttl), behind route_failover that is lost.  It wants a cmap that gives it
# set, add and cas.

. "$(dirname "$0")/parts"

memcached=$(debian sid memcached=1.6.45-1 usr/bin/memcached)
server=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$server" -U 0
listening "$server"
down=$(free)
cat >"$folder/routes.lua" <<ROUTES
pools{
    main = { backends = { "127.0.0.1:$down" } },
    gutter = { backends = { "127.0.0.1:$server" } },
}
routes{
    default = route_failover{
        children = { "main", route_ttl{ child = "gutter", ttl = 10 } },
    },
}
ROUTES
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0 \
    -o "proxy_config=routelib,proxy_arg=$folder/routes.lua"
listening "$port"

{
    ask "$port" 'set key 0 0 1\r\nx\r\n'
    ask "$port" 'get key\r\n'
    ask "$server" 'get key\r\n'
} | same "b'STORED\\r\\n'
b'SERVER_ERROR lua failure\\r\\n'
b'VALUE key 0 1\\r\\nx\\r\\nEND\\r\\n'"
