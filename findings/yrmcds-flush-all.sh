#!/bin/sh
# yrmcds 1.1.9 (Debian's 1.1.9-1+b2): flush_all also takes what is stored after
# it.
#
# A set that follows a flush_all within the same second is answered by STORED,
# and the get right behind it by END.  In memcached the value is there.  So a
# test that empties the server and then fills it finds it empty, sometimes.

. "$(dirname "$0")/parts"

yrmcds=$(debian bookworm yrmcds=1.1.9-1+b2 usr/sbin/yrmcdsd)
memcached=$(debian bookworm memcached=1.6.18-1 usr/bin/memcached)
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
other=$(free)
cat >"$folder/yrmcds.conf" <<CONFIGURATION
virtual_ip = "127.0.0.1"
bind_ip = "127.0.0.2"
port = $other
repl_port = $(free)
user = "$(id -un)"
group = "$(id -gn)"
temp_dir = "$folder"
memory_limit = "64M"
workers = 2
CONFIGURATION
start "$yrmcds" -f "$folder/yrmcds.conf"
listening "$port"
listening "$other"

commands='flush_all\r\nset key 0 0 1\r\nx\r\nget key\r\n'
{
    echo memcached:
    ask "$port" "$commands"
    echo yrmcds:
    ask "$other" "$commands"
    echo yrmcds, a second and more after a flush_all:
    ask "$other" 'flush_all\r\n'
    sleep 2
    ask "$other" 'set key 0 0 1\r\nx\r\nget key\r\n'
} | same "memcached:
b'OK\\r\\nSTORED\\r\\nVALUE key 0 1\\r\\nx\\r\\nEND\\r\\n'
yrmcds:
b'OK\\r\\nSTORED\\r\\nEND\\r\\n'
yrmcds, a second and more after a flush_all:
b'OK\\r\\n'
b'STORED\\r\\nVALUE key 0 1\\r\\nx\\r\\nEND\\r\\n'"
