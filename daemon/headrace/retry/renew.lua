-- renew: keep a running ticket in its holder's hands.
--
-- KEYS[1]  the ticket   hash
-- ARGV[1]  holder
-- ARGV[2]  lease_us     how long it runs without another word
--
-- Returns 1, or 0 if the ticket is in other hands or has ended: then the attempt should stop.
-- The sweeper's index is left alone: it looks when the old lease would have ended, and finds the new one.

local t = redis.call('HMGET', KEYS[1], 'state', 'holder')
if t[1] ~= 'RUNNING' or t[2] ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local until_us = tonumber(time[1]) * 1e6 + tonumber(time[2]) + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'lease_us', string.format('%.0f', until_us))
return 1
