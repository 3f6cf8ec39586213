-- adopt: seal a ticket that has no seal, if it is still there.
--
-- KEYS[1]  the ticket              hash
-- ARGV     field, value, ...       sealed
--
-- Returns 1 if it did, else 0. Sent twice, it changes nothing the second time.

local t = redis.call('HMGET', KEYS[1], 'state', 'facts')
if not t[1] or t[2] then
    return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
