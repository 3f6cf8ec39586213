-- renew: keep a running ticket in its holder's hands, and note what holds its call.
--
-- KEYS[1]  the ticket     hash
-- KEYS[2]  its audience   zset: inboxes of waiting processes by lease end (us)
-- ARGV[1]  holder
-- ARGV[2]  lease_us       how long it runs without another word
-- ARGV[3]  held           the limit that holds its call, '' for none; told to who waits elsewhere ("held <id>") when it is another
-- ARGV[4]  id
--
-- Returns 1, or 0 if the ticket is in other hands or has ended: then the attempt should stop.
-- The sweeper's index is left alone: it looks when the old lease would have ended, and finds the new one.

local t = redis.call('HMGET', KEYS[1], 'state', 'holder', 'held')
if t[1] ~= 'RUNNING' or t[2] ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local until_us = tonumber(time[1]) * 1e6 + tonumber(time[2]) + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'lease_us', string.format('%.0f', until_us))
-- By its holder, since it says nothing of an attempt that others make after that.
local held = ARGV[1] .. ' ' .. ARGV[3]
if t[3] == held or (not t[3] and ARGV[3] == '') then
    return 1
end
redis.call('HSET', KEYS[1], 'held', held)
for _, inbox in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    redis.call('PUBLISH', inbox, 'held ' .. ARGV[4])
end
return 1
