-- append: add items to a log and nudge those who follow it.
--
-- KEYS[1]  the audience   zset: inboxes by lease end (us)
-- KEYS[2]  the log        stream of items, ids 1-0, 2-0, ...
-- ARGV[1]  log_ms         how long the log outlives its last item
-- ARGV[2]  name           for nudges
-- ARGV[3]  first          the position of the first item below
-- ARGV[4..] items
--
-- Returns how many processes follow.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
for i = 4, #ARGV do
    -- Sent twice, an item's position is taken already: that is no error of ours.
    redis.pcall('XADD', KEYS[2], (tonumber(ARGV[3]) + i - 4) .. '-0', 'i', ARGV[i])
end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_us)
local audience = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, inbox in ipairs(audience) do
    redis.call('PUBLISH', inbox, 'log ' .. ARGV[2])
end
return #audience
