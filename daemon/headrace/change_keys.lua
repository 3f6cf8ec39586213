-- Changes callers' keys, all at once or not at all, and counts the change, so that a daemon that missed the nudge sees it.
--
-- KEYS[1]  headrace:keys           hash: key id -> JSON
-- KEYS[2]  headrace:keys:used      hash: key id -> Unix seconds of its last use
-- KEYS[3]  headrace:keys:version   string: how many changes there were
-- ARGV     threes: id; the record as it must be, "" for whatever it is; the record as it is to be, "" for none
--
-- Returns 1, or 0 where a record is not as it must be. Sent twice it does no more than once: what is as it is to be is right.

for at = 1, #ARGV, 3 do
    local now = redis.call('HGET', KEYS[1], ARGV[at]) or ''
    if ARGV[at + 1] ~= '' and now ~= ARGV[at + 1] and now ~= ARGV[at + 2] then
        return 0
    end
end
for at = 1, #ARGV, 3 do
    if ARGV[at + 2] == '' then
        redis.call('HDEL', KEYS[1], ARGV[at])
        redis.pcall('HDEL', KEYS[2], ARGV[at])
    else
        redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    end
end
local counted = redis.pcall('INCR', KEYS[3])
if type(counted) == 'table' and counted.err then
    -- Whatever somebody put there is no count, and must not stop a revocation. What daemons look at is whether it changes.
    redis.call('SET', KEYS[3], redis.call('TIME')[1])
end
return 1
