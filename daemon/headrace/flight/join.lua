-- join: follow a log, or go on following it.
--
-- KEYS[1]  the audience   zset: inboxes by lease end (us)
-- ARGV[1]  inbox          of the process that follows
-- ARGV[2]  lease_ms

local time = redis.call('TIME')
local until_us = tonumber(time[1]) * 1e6 + tonumber(time[2]) + tonumber(ARGV[2]) * 1e3
redis.call('ZADD', KEYS[1], string.format('%.0f', until_us), ARGV[1])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) * 4)
return 1
