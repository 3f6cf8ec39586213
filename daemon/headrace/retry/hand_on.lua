-- hand_on: a process that leaves had a ticket at hand for an attempt, and did not start it: others are told of it at once.
--
-- KEYS[1]  due tickets   zset: ids by the moment (us)
-- KEYS[2]  the ticket    hash
-- ARGV[1]  id
-- ARGV[2]  attempt       if it awaits another by now, that is due in its own time
--
-- Returns 1 if it did, else 0.

local t = redis.call('HMGET', KEYS[2], 'state', 'attempts')
if t[1] ~= 'QUEUED' or tonumber(t[2]) + 1 ~= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
return 1
