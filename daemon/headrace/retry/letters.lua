-- letters: count the dead letters. The eldest are taken off whose tickets are gone, since their time is over: the list itself
-- is trimmed only when another letter comes.
--
-- KEYS[1]  dead letters   zset: "<id>|<owner>" by failure (us)
-- ARGV[1]  what a ticket's key begins with
-- ARGV[2]  how many are taken off at most
--
-- Returns how many there are.

for _ = 1, tonumber(ARGV[2]) do
    local eldest = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
    if not eldest or redis.call('EXISTS', ARGV[1] .. string.match(eldest, '^[^|]*')) == 1 then
        break
    end
    redis.call('ZREM', KEYS[1], eldest)
end
return redis.call('ZCARD', KEYS[1])
