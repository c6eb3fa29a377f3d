#!/bin/sh
# twemproxy 0.5.0 (Debian's 0.5.0+dfsg-2): a set with a negative exptime closes
# the connection.
#
# memcached's protocol has it that what is stored with a negative exptime is
# expired at once, and clients use -1 for that.  twemproxy passes it on in a
# touch.  In a set, add or cas it takes it for an error of the client's, answers
# nothing and closes the connection, and so the answers to all that was sent
# before on it may be lost as well.

. "$(dirname "$0")/parts"

memcached=$(debian bookworm memcached=1.6.18-1 usr/bin/memcached)
nutcracker=$(debian bookworm nutcracker=0.5.0+dfsg-2 usr/sbin/nutcracker)
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
listening "$port"
proxy=$(free)
cat >"$folder/conf.yml" <<CONFIGURATION
pool:
  listen: 127.0.0.1:$proxy
  hash: fnv1a_64
  distribution: ketama
  servers:
    - 127.0.0.1:$port:1
CONFIGURATION
start "$nutcracker" -c "$folder/conf.yml" -o "$folder/nutcracker" \
    -a 127.0.0.1 -s "$(free)"
listening "$proxy"

{
    echo 'memcached itself, set and touch:'
    ask "$port" 'set key 0 -1 1\r\nx\r\nget key\r\n'
    ask "$port" 'set key 0 0 1\r\nx\r\ntouch key -1\r\nget key\r\n'
    echo 'through twemproxy, set and touch:'
    ask "$proxy" 'set key 0 -1 1\r\nx\r\nget key\r\n'
    ask "$proxy" 'set key 0 0 1\r\nx\r\n' 'touch key -1\r\n' 'get key\r\n'
} | same "memcached itself, set and touch:
b'STORED\\r\\nEND\\r\\n'
b'STORED\\r\\nTOUCHED\\r\\nEND\\r\\n'
through twemproxy, set and touch:
b''
b'STORED\\r\\nTOUCHED\\r\\nEND\\r\\n'"
