-- park: queue a running ticket for its next attempt.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  what is held           zset: "<holder> <id>" of each running ticket
-- KEYS[4]  its watchers            set: inboxes of processes
-- KEYS[5]  due tickets             zset: ids by the moment (us)
-- ARGV[1]  id
-- ARGV[2]  holder                  only whoever holds it may park it
-- ARGV[3]  attempts                made so far; one that began but was not made is taken back; -1 leaves the count
-- ARGV[4]  broken                  of them; -1 leaves the count
-- ARGV[5]  due                     of the next (unix s)
-- ARGV[6]  look_us                 when the sweeper should look (unix, us)
-- ARGV[7]  in_us                   until the next attempt
--
-- Returns {number of the awaited attempt}, or {} if the ticket is in other hands or has ended.
-- Sent twice, it changes nothing and says the same.

local t = redis.call('HMGET', KEYS[1], 'state', 'holder', 'attempts', 'broken')
if t[2] ~= ARGV[2] then
    return {}
end
if t[1] == 'QUEUED' then
    return {tonumber(t[3]) + 1}
end
if t[1] ~= 'RUNNING' then
    return {}
end
local attempts = tonumber(ARGV[3]) < 0 and tonumber(t[3]) or tonumber(ARGV[3])
local broken = tonumber(ARGV[4]) < 0 and tonumber(t[4]) or tonumber(ARGV[4])
-- The holder stays on record, so that a repeat of this very command is known for what it is.
redis.call('HSET', KEYS[1], 'state', 'QUEUED', 'attempts', attempts, 'broken', broken, 'due', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
local time = redis.call('TIME')
local due_us = tonumber(time[1]) * 1e6 + tonumber(time[2]) + tonumber(ARGV[7])
redis.call('ZADD', KEYS[5], string.format('%.0f', due_us), ARGV[1])
note_let_go(KEYS[3], ARGV[2], ARGV[1])
moved(KEYS[4], ARGV[1])
return {attempts + 1}
