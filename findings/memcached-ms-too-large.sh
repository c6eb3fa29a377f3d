#!/bin/sh
# memcached 1.6.45 (Debian's 1.6.45-1): ms of a value that is too large removes
# what is stored, in every mode.
#
# set does so too, lest an old value stay that was to be replaced; add, replace,
# append and cas leave it.  ms with the mode for add (ME), replace (MR) or append
# (MA), or with a cas unique (C) that is another one's, removes it: whoever says ms
# where he said add before loses a value that he was not going to touch.  It is
# meant so (memcached's issue 1069).

. "$(dirname "$0")/parts"

memcached=$(debian sid memcached=1.6.45-1 usr/bin/memcached)
port=$(free)
start "$memcached" -u "$(id -un)" -l 127.0.0.1 -p "$port" -U 0 \
    -I 4k -o slab_chunk_max=2
listening "$port"

large=$(seq -f '%0100.0f' 60 | tr -d '\n')
tell() {
    printf '%s: ' "$1"
    ask "$port" "set key 0 0 3\r\nold\r\n$2\r\n$large\r\nget key\r\n"
}
refused="b'STORED\r\nSERVER_ERROR object too large for cache\r\n"
kept="${refused}VALUE key 0 3\r\nold\r\nEND\r\n'"
removed="${refused}END\r\n'"

{
    tell add 'add key 0 0 6000'
    tell 'ms ME' 'ms key 6000 ME'
    tell replace 'replace key 0 0 6000'
    tell 'ms MR' 'ms key 6000 MR'
    tell append 'append key 0 0 6000'
    tell 'ms MA' 'ms key 6000 MA'
    tell cas 'cas key 0 0 6000 1'
    tell 'ms C' 'ms key 6000 C1'
} | same "add: $kept
ms ME: $removed
replace: $kept
ms MR: $removed
append: $kept
ms MA: $removed
cas: $kept
ms C: $removed"
