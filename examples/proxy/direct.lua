-- memcached's proxy before three servers: each key lives on one of them.
--
--     memcached -p 11311 -o proxy_config=routelib,proxy_arg=direct.lua
--
-- A server that is down costs its own keys.

settings{
    -- Well under MEMCACHED_SOCKET_TIMEOUT, in seconds: a read may have to
    -- wait twice for a server that hangs.
    backend_connect_timeout = 1,
    backend_read_timeout = 1,
}

pools{
    main = { backends = { "127.0.0.1:11211", "127.0.0.1:11212", "127.0.0.1:11213" } },
}

routes{
    default = route_direct{ child = "main" },
}
