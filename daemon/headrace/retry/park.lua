-- park: queue a running ticket for its next attempt.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- ARGV[1]  id
-- ARGV[2]  holder                  only whoever holds it may park it
-- ARGV[3]  attempts                made so far; -1 leaves the count
-- ARGV[4]  broken                  of them; -1 leaves the count
-- ARGV[5]  due                     of the next (unix s)
-- ARGV[6]  look_us                 when the sweeper should look (unix, us)
--
-- Returns the number of the awaited attempt, or 0 if the ticket is in other hands or has ended.
-- Sent twice, it changes nothing and says the same.

local t = redis.call('HMGET', KEYS[1], 'state', 'holder', 'attempts', 'broken')
if t[2] ~= ARGV[2] then
    return 0
end
if t[1] == 'QUEUED' then
    return tonumber(t[3]) + 1
end
if t[1] ~= 'RUNNING' then
    return 0
end
-- The holder stays on record, so that a repeat of this very command is known for what it is.
local attempts = math.max(tonumber(t[3]), tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'state', 'QUEUED', 'attempts', attempts, 'rescues', 0,
    'broken', math.max(tonumber(t[4]), tonumber(ARGV[4])), 'due', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
return attempts + 1
