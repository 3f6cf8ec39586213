-- look: how is a ticket, and say that somebody waits for it.
--
-- KEYS[1]  the ticket     hash
-- KEYS[2]  its audience   zset: inboxes of waiting processes by lease end (us)
-- ARGV[1]  inbox          of the process that waits
-- ARGV[2]  lease_us       how long it counts as waiting without another look
-- ARGV[3]  want_us        how long a ticket that goes with its RPC is wanted without another look
--
-- Returns the state, '' if there is no such ticket.

local t = redis.call('HMGET', KEYS[1], 'state', 'wanted_us')
if t[1] ~= 'QUEUED' and t[1] ~= 'RUNNING' then
    return t[1] or ''
end
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', now_us + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[2], math.ceil(tonumber(ARGV[2]) / 1e3) * 4)
if tonumber(t[2]) > 0 then
    redis.call('HSET', KEYS[1], 'wanted_us', string.format('%.0f', now_us + tonumber(ARGV[3])))
end
return t[1]
