#!/bin/sh
# memcached 1.6.45 (Debian's 1.6.45-1, with -Z): a connection that is one too many
# is told so in clear, though the port speaks TLS.
#
# The line is the one that it has without TLS, ERROR Too many open connections, and
# comes before anything is said by the client.  To a TLS client it is a record of
# an unknown version: Python's ssl says WRONG_VERSION_NUMBER, which reads like a
# server without TLS, not like one that is full.  1.6.18 does the same.

. "$(dirname "$0")/parts"

memcached=$(debian sid memcached=1.6.45-1 usr/bin/memcached)
python trustme==1.2.1 cryptography==50.0.2
"$folder/python/bin/python" -m trustme --quiet --dir "$folder" -i localhost
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0 -c 64 -Z \
    -o "ssl_chain_cert=$folder/server.pem,ssl_key=$folder/server.key"
listening "$port"

"$folder/python/bin/python" -c '
import socket, ssl, sys, time
place = "127.0.0.1", int(sys.argv[1])
context = ssl.create_default_context(cafile=sys.argv[2])
with socket.create_connection(place, 5) as connection:
    with context.wrap_socket(connection, server_hostname="localhost") as first:
        first.sendall(b"mn\r\n")
        print(first.recv(100))
others = [socket.create_connection(place, 5) for _ in range(100)]
print(others[-1].recv(100))
try:
    with socket.create_connection(place, 5) as connection:
        context.wrap_socket(connection, server_hostname="localhost")
except ssl.SSLError as error:
    print(error.reason)' "$port" "$folder/client.pem" |
    same "b'MN\\r\\n'
b'ERROR Too many open connections\\r\\n'
WRONG_VERSION_NUMBER"
