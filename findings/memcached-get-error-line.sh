#!/bin/sh
# memcached 1.6.45 (Debian's 1.6.45-1): an empty line follows the error of a get
# whose key is too long.
#
# The line is CLIENT_ERROR bad command line format, as it is for set, delete and
# touch, and as it was in 1.6.18.  Behind a get, gets or gat there is an empty
# line besides, which a client that takes one line for the answer reads as the
# answer to its next command.

. "$(dirname "$0")/parts"

memcached=$(debian sid memcached=1.6.45-1 usr/bin/memcached)
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
listening "$port"

key=$(seq -f '%050.0f' 6 | tr -d '\n')
{
    ask "$port" "get $key\r\nmn\r\n"
    ask "$port" "gat 0 $key\r\nmn\r\n"
    ask "$port" "touch $key 0\r\nmn\r\n"
} | same "b'CLIENT_ERROR bad command line format\\r\\n\\r\\nMN\\r\\n'
b'CLIENT_ERROR bad command line format\\r\\n\\r\\nMN\\r\\n'
b'CLIENT_ERROR bad command line format\\r\\nMN\\r\\n'"
