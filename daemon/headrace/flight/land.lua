-- land: end a flight and hand its last items to those who follow it on other hosts.
--
-- KEYS[1]  the flight     hash
-- KEYS[2]  its audience   zset: inboxes by lease end (us)
-- KEYS[3]  its log        stream of items, ids 1-1, 1-2, ...
-- ARGV[1]  token          of the leader; another's flight is left alone
-- ARGV[2]  log_ms         how long the handed-over log is kept
-- ARGV[3]  name           of the flight, for nudges
-- ARGV[4]  first          the position of the first item below
-- ARGV[5]  ticket         left for the next leader to wait on, '' for none: it goes on, though this flight does not
-- ARGV[6..] items         what the log lacks so far, the landing last
--
-- Returns how many processes followed, or -1 if another leads by now (its followers are its own; ours, if any are left,
-- find the log all the same).
--
-- The answer is handed over apart from the cache, since not every answer may be kept.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local mine = redis.call('HGET', KEYS[1], 'token') == ARGV[1]

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_us)
local audience = redis.call('ZRANGE', KEYS[2], 0, -1)
if #audience > 0 then
    for i = 6, #ARGV do
        -- Sent twice, an item's position is taken already: that is no error of ours.
        redis.pcall('XADD', KEYS[3], '1-' .. (tonumber(ARGV[4]) + i - 6), 'i', ARGV[i])
    end
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
    for _, inbox in ipairs(audience) do
        redis.call('PUBLISH', inbox, 'log ' .. ARGV[3])
    end
end
if not mine then
    return -1
end
redis.call('DEL', KEYS[2])
if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[1], 'until_us', '0', 'ticket', ARGV[5])
else
    redis.call('DEL', KEYS[1])
end
return #audience
