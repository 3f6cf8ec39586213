-- erase: take a ticket that has ended away for good, whether it is a dead letter or not.
--
-- KEYS[1]  the ticket               hash
-- KEYS[2]  dead letters             zset: "<id>|<owner>" by failure (us)
-- KEYS[3]  its caller's tickets     zset
-- KEYS[4]  its idempotency key      hash: fingerprint, ticket   (the ticket's own key when it has none)
-- KEYS[5]  its tries                hash
-- ARGV[1]  id
-- ARGV[2]  owner
--
-- Returns 1, or 0 if it is not there, or has not ended (any more).

local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'QUEUED' or state == 'RUNNING' then
    return 0
end
if KEYS[4] ~= KEYS[1] and redis.call('HGET', KEYS[4], 'ticket') == ARGV[1] then
    redis.call('DEL', KEYS[4])
end
redis.call('DEL', KEYS[1], KEYS[5])
redis.call('ZREM', KEYS[2], ARGV[1] .. '|' .. ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
