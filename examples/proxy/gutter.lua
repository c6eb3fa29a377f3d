-- memcached's proxy before two servers, and a third one that stands in for
-- either while it is down: a gutter pool.
--
--     memcached -p 11311 -o proxy_config=routelib,proxy_arg=gutter.lua
--
-- What the third one holds is kept for ten seconds at most, so that little of
-- it is old when it stands in again.  Until then it may be: what is deleted
-- while both are up is not deleted there.

settings{
    backend_connect_timeout = 1,
    backend_read_timeout = 1,
}

pools{
    main = { backends = { "127.0.0.1:11211", "127.0.0.1:11212" } },
    gutter = { backends = { "127.0.0.1:11213" } },
}

-- route_ttl knows commands that store and no others.
storing = route_failover{
    children = { "main", route_ttl{ child = "gutter", ttl = 10 } },
}

routes{
    cmap = { set = storing, add = storing, cas = storing },
    default = route_failover{ children = { "main", "gutter" } },
}
