-- rescue: look at a ticket that should have moved by now, and say what is to be done about it.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  what is held            zset: "<holder> <id>" of each running ticket
-- KEYS[4]  the pulse               string: "<from_us> <until_us>"; between the two, leases that have ended are over
-- KEYS[5]  its watchers            set: inboxes of processes
-- KEYS[6]  due tickets             zset: ids by the moment (us)
-- ARGV[1]  id
-- ARGV[2]  max_crashes             after so many attempts that died with their process there is no other, whatever was to be tried
-- ARGV[3]  again_us                when to look again if nothing changes meanwhile
-- ARGV[4]  grace_us                how long after its deadline a ticket is ended that nobody works on
--
-- Returns {'none'}                                      it moved, or another sweeper has it
--       | {'late'} | {'unwanted'} | {'bound'} | {'crashed'}   it should end, and this is why
--       | {'lapsed', attempt, due}                      its holder is gone; queued again for this attempt
--       | {'overdue', attempt, due}                     still queued past its time, and it was among those that are due no more
--
-- Of several sweepers one gets the ticket: the look moves it on in the index.
--
-- Leases are measured by Redis's clock, which runs on while Redis is away and hears nobody. So after that nobody's ticket is taken
-- away until those who live have had the time to say that they do, and how their tickets ended meanwhile.

local SETTLING_US = 500000

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local look_us = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 'inf')
if look_us > now_us then
    return {'none'}
end

local t = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'broken', 'due', 'deadline', 'lease_us', 'wanted_us', 'bound',
    'holder', 'crashes')
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
local from_us, until_us = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (%d+)$')
if state == 'RUNNING' and from_us and not (tonumber(from_us) <= now_us and now_us <= tonumber(until_us)) then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now_us + SETTLING_US), ARGV[1])
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
    -- One that is not there was queued by an earlier version, or lost with what somebody took away.
    local is_lost = redis.call('ZADD', KEYS[6], 'NX', string.format('%.0f', now_us), ARGV[1]) == 1
    return is_lost and {'overdue', attempt, t[4]} or {'none'}
end
if t[8] == '1' then
    return {'bound'}
end
local crashes = (tonumber(t[10]) or 0) + 1
if crashes >= tonumber(ARGV[2]) then
    return {'crashed'}
end
local due = string.format('%.6f', now_us / 1e6)
redis.call('HSET', KEYS[1], 'state', 'QUEUED', 'holder', '', 'due', due, 'broken', tonumber(t[3]) + 1,
    'crashes', crashes)
note_let_go(KEYS[3], t[9], ARGV[1])
-- One that only stood still hears it as soon as it wakes.
redis.call('PUBLISH', string.match(t[9], '^(.*)|') or '', 'lost ' .. t[9] .. ' ' .. ARGV[1])
redis.call('ZADD', KEYS[6], string.format('%.0f', now_us), ARGV[1])
moved(KEYS[5], ARGV[1])
return {'lapsed', attempt, due}
