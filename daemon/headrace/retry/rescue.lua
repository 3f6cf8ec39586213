-- rescue: look at a ticket that should have moved by now, and say what is to be done about it.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  its watchers            set: inboxes of processes
-- ARGV[1]  id
-- ARGV[2]  max_broken              attempts that died with their process count among the broken ones
-- ARGV[3]  again_us                when to look again if nothing changes meanwhile
-- ARGV[4]  grace_us                how long after its deadline a ticket is ended that nobody works on
--
-- Returns {'none'}                                      it moved, or another sweeper has it
--       | {'late'} | {'unwanted'} | {'bound'} | {'crashed'}   it should end, and this is why
--       | {'lapsed', attempt, due, 0}                   its holder is gone; queued again for this attempt
--       | {'overdue', attempt, due, rescues}            still queued past its time: is there an alarm?
--
-- Of several sweepers one gets the ticket: the look moves it on in the index.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local look_us = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 'inf')
if look_us > now_us then
    return {'none'}
end

local t = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'broken', 'due', 'deadline', 'lease_us', 'wanted_us', 'bound', 'rescues')
local state = t[1]
if state ~= 'QUEUED' and state ~= 'RUNNING' then
    redis.call('ZREM', KEYS[2], ARGV[1])
    return {'none'}
end
local late = tonumber(t[5]) * 1e6 + tonumber(ARGV[4]) <= now_us
local lease_us, wanted_us = tonumber(t[6]), tonumber(t[7])
-- Past its deadline, too, a running ticket is left to its holder: a stream that has begun ends when upstream ends it.
if state == 'RUNNING' and lease_us > now_us then
    redis.call('ZADD', KEYS[2], t[6], ARGV[1])
    return {'none'}
end

redis.call('ZADD', KEYS[2], string.format('%.0f', now_us + tonumber(ARGV[3])), ARGV[1])
if late then
    return {'late'}
end
if wanted_us > 0 and wanted_us <= now_us then
    return {'unwanted'}
end
local attempt = tonumber(t[2]) + 1
if state == 'QUEUED' then
    return {'overdue', attempt, t[4], tonumber(t[9])}
end
if t[8] == '1' then
    return {'bound'}
end
if tonumber(t[3]) + 1 >= tonumber(ARGV[2]) then
    return {'crashed'}
end
local due = string.format('%.6f', now_us / 1e6)
redis.call('HSET', KEYS[1], 'state', 'QUEUED', 'holder', '', 'due', due, 'rescues', 0, 'broken', tonumber(t[3]) + 1)
moved(KEYS[3], ARGV[1])
return {'lapsed', attempt, due, 0}
