-- append: add items to a log and nudge those who follow it.
--
-- KEYS[1]  the audience   zset: inboxes by lease end (us)
-- KEYS[2]  the log        stream of items, ids <attempt>-1, <attempt>-2, ...
-- KEYS[3]  the ticket     hash: holder   (the log's own key where no ticket stands behind it)
-- ARGV[1]  log_ms         how long the log outlives its last item
-- ARGV[2]  name           for nudges
-- ARGV[3]  attempt        the first half of the ids
-- ARGV[4]  first          the position of the first item below
-- ARGV[5]  holder         of the ticket: an attempt that was overtaken adds nothing; '' where there is no ticket
-- ARGV[6..] items
--
-- Returns how many processes follow, or -1 if the ticket is in other hands. An error if an item could not be added, be it that
-- Redis is full: then it is said again, since what comes after a gap continues nothing.

if ARGV[5] ~= '' and redis.call('HGET', KEYS[3], 'holder') ~= ARGV[5] then
    return -1
end
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
for i = 6, #ARGV do
    local said = redis.pcall('XADD', KEYS[2], ARGV[3] .. '-' .. (tonumber(ARGV[4]) + i - 6), 'i', ARGV[i])
    -- Sent twice, an item's position is taken already: that is no error of ours.
    if said.err and not string.find(said.err, 'equal or smaller', 1, true) then
        return said
    end
end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_us)
local audience = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, inbox in ipairs(audience) do
    redis.call('PUBLISH', inbox, 'log ' .. ARGV[2])
end
return #audience
