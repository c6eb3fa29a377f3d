-- memcached's proxy in one of two zones, each of which holds a copy of
-- everything: what is written goes to both, what is read comes from here.
--
--     memcached -p 11311 -o proxy_config=routelib,proxy_arg=zones.lua
--
-- Each copy has cas uniques of its own, so that cas, update, get_or_set and
-- stale values do not work behind this; see the guide.

settings{
    backend_connect_timeout = 1,
    backend_read_timeout = 1,
}

pools{
    here = { backends = { "127.0.0.1:11211" } },
    there = { backends = { "127.0.0.1:11212" } },
}

reading = route_failover{ children = { "here", "there" }, miss = true }

routes{
    cmap = {
        get = reading,
        gets = reading,
        mg = reading,
    },
    default = route_allsync{ children = { "here", "there" } },
}
