-- keep: write down what came of some calls, and let go of the eldest.
--
-- KEYS[1]  calls      zset: ids by when their calls came (us)
-- ARGV[1]  the beginning of the names of the lists
-- ARGV[2]  how long a list is kept after its last call, in seconds
-- ARGV[3]  how many ids there may be
-- ARGV[4]  how many calls of one id
-- ARGV[5]  before this (us) all are gone
-- ARGV[6]  and so on: an id, when its call came (us), and what came of it
--
-- A list that somebody has put another type of value in the place of is made anew: it is ours.

for at = 6, #ARGV, 3 do
    local name = ARGV[1] .. ARGV[at]
    if redis.call('TYPE', name).ok ~= 'list' then
        redis.call('DEL', name)
    end
    redis.call('RPUSH', name, ARGV[at + 2])
    redis.call('LTRIM', name, -tonumber(ARGV[4]), -1)
    redis.call('EXPIRE', name, ARGV[2])
    redis.call('ZADD', KEYS[1], ARGV[at + 1], ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[5])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if over > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do
        redis.call('ZREM', KEYS[1], id)
        redis.call('DEL', ARGV[1] .. id)
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
