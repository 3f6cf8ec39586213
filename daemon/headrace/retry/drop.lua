-- drop: take a dead letter away for good.
--
-- KEYS[1]  the ticket               hash
-- KEYS[2]  dead letters             zset: "<id>|<owner>" by failure (us)
-- KEYS[3]  its caller's tickets     zset
-- ARGV[1]  id
-- ARGV[2]  owner
--
-- Returns 1, or 0 if it is no dead letter (any more).

if redis.call('ZREM', KEYS[2], ARGV[1] .. '|' .. ARGV[2]) == 0 then
    return 0
end
if redis.call('HGET', KEYS[1], 'state') == 'FAILED' then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[3], ARGV[1])
end
return 1
