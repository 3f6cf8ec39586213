-- Notes when callers' keys were used last: the latest word counts, and a key that is gone is not brought back.
--
-- KEYS[1]  headrace:keys        hash: key id -> JSON
-- KEYS[2]  headrace:keys:used   hash: key id -> Unix seconds of its last use
-- ARGV     a moment in whole Unix seconds, then key ids

for at = 2, #ARGV do
    local before = tonumber(redis.call('HGET', KEYS[2], ARGV[at]) or '') or 0
    if before < tonumber(ARGV[1]) and redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1 then
        redis.call('HSET', KEYS[2], ARGV[at], ARGV[1])
    end
end
return 1
