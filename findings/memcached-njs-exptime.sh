#!/bin/sh
# memcached-njs 0.3.16 (npm): values never expire, and touch says that they will.
#
# It is a memcached for tests, and takes an exptime with each command.  But it
# answers TOUCHED, STORED, and then VALUE for ever: a test of what happens when a
# value is gone waits in vain.  Its package names a main file that is not in it,
# so that it is loaded from its sources here.

. "$(dirname "$0")/parts"

node_with memcached-njs@0.3.16
port=$(free)
start sh -c 'cd "$1" && exec node -e "
require(\"memcached-njs/src\").startServer({
  port: { port: Number(process.argv[1]), host: \"127.0.0.1\" },
});" "$2"' sh "$folder" "$port"
listening "$port"

{
    (cd "$folder" && node -e 'require("memcached-njs")' 2>&1 || :) |
        grep -o MODULE_NOT_FOUND | head -n 1
    ask "$port" 'set first 0 1 1\r\nx\r\n'
    ask "$port" 'set second 0 0 1\r\nx\r\n' 'touch second 1\r\n'
    sleep 3
    ask "$port" 'get first second\r\n'
} | same "MODULE_NOT_FOUND
b'STORED\\r\\n'
b'STORED\\r\\nTOUCHED\\r\\n'
b'VALUE first 0 1\\r\\nx\\r\\nVALUE second 0 1\\r\\nx\\r\\nEND\\r\\n'"
