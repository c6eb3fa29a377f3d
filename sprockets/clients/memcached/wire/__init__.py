"""Bytes and sockets: the protocol, connections, TLS, name look-ups."""
