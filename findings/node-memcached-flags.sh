#!/bin/sh
# memcached 2.2.2 (npm) beside python-memcached 1.62 and pymemcache 4.0.0 (pip):
# a number from Node.js is a compressed value in Python.
#
# The flags of a value say what it is, and each family of clients has its own.
# Node's 8 means a number, Python's 8 means compressed; Node's 2 means JSON,
# Python's 2 means an integer.  So {"n": 5} stored by Node.js makes python-memcached
# raise ValueError, and 5 makes it raise zlib.error; pymemcache's default
# compression does likewise.  One would guess that a plain 5 is a 5 for all, or
# that a value with flags one does not know is a miss.

. "$(dirname "$0")/parts"

memcached=$(debian bookworm memcached=1.6.18-1 usr/bin/memcached)
python python-memcached==1.62 pymemcache==4.0.0
node_with memcached@2.2.2
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0
listening "$port"

(cd "$folder" && node -e '
const Memcached = require("memcached");
const client = new Memcached("127.0.0.1:" + process.argv[1]);
client.set("number", 5, 60, () =>
  client.set("object", { n: 5 }, 60, () =>
    client.set("text", "5", 60, () =>
      client.getMulti(["number", "object", "text"], (error, values) => {
        console.log("Node.js:", JSON.stringify(values));
        client.end();
      }))));
' "$port" >node.out)
{
    cat "$folder/node.out"
    ask "$port" 'get number object text\r\n'
    "$folder/python/bin/python" - "$port" <<'PROGRAM'
import sys

import memcache
from pymemcache import serde
from pymemcache.client import base

port = int(sys.argv[1])
clients = {
    'python-memcached': memcache.Client([f'127.0.0.1:{port}']),
    'pymemcache': base.Client(
        ('127.0.0.1', port), serde=serde.compressed_serde
    ),
}
for name, client in clients.items():
    for key in ('number', 'object', 'text'):
        try:
            found = repr(client.get(key))
        except Exception as error:
            found = f'{type(error).__module__}.{type(error).__name__}'
        print(f'{name}, {key}: {found}')
PROGRAM
} | same "Node.js: {\"number\":5,\"object\":{\"n\":5},\"text\":\"5\"}
b'VALUE number 8 1\\r\\n5\\r\\nVALUE object 2 7\\r\\n{\"n\":5}\\r\\nVALUE text 0 1\\r\\n5\\r\\nEND\\r\\n'
python-memcached, number: zlib.error
python-memcached, object: builtins.ValueError
python-memcached, text: b'5'
pymemcache, number: zlib.error
pymemcache, object: builtins.ValueError
pymemcache, text: b'5'"
