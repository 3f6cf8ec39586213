-- start: take a queued ticket into this process's hands for one attempt.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  what is held           zset: "<holder> <id>" of each running ticket
-- KEYS[4]  its watchers            set: inboxes of processes
-- KEYS[5]  due tickets             zset: ids by the moment (us)
-- ARGV[1]  id
-- ARGV[2]  attempt                 only the one that is awaited starts: an alarm may ring twice, or late
-- ARGV[3]  holder                  '<inbox>|<token>' of this attempt
-- ARGV[4]  lease_us                how long it runs without a word
--
-- Returns 'started' | 'late' (past its deadline) | 'unwanted' (its RPC is gone) | 'no' (not awaited).
-- Sent twice by the same holder it starts once and says so twice.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local t = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'holder', 'wanted_us', 'deadline')
if t[1] == 'RUNNING' and t[3] == ARGV[3] then
    return 'started'
end
if t[1] ~= 'QUEUED' or tonumber(t[2]) + 1 ~= tonumber(ARGV[2]) then
    return 'no'
end
if tonumber(t[5]) * 1e6 <= now_us then
    return 'late'
end
local wanted_us = tonumber(t[4])
if wanted_us > 0 and wanted_us <= now_us then
    return 'unwanted'
end

local until_us = string.format('%.0f', now_us + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'state', 'RUNNING', 'attempts', ARGV[2], 'holder', ARGV[3], 'lease_us', until_us)
redis.call('ZADD', KEYS[2], until_us, ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
note_held(KEYS[3], ARGV[3], ARGV[1])
moved(KEYS[4], ARGV[1])
return 'started'
