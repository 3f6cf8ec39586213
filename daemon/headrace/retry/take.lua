-- take: which tickets are due, or will be in a moment; whoever is told has them at hand.
--
-- KEYS[1]  due tickets   zset: ids by the moment (us)
-- ARGV[1]  prefix        of the tickets' keys
-- ARGV[2]  most          how many
-- ARGV[3]  ahead_us      those that will be due so soon, too
-- ARGV[4]  hold_us       after so long without a start they are told again, be it that who was told is dead, or has no hand free
--
-- Returns id, awaited attempt, microseconds until it is due, and so on, the longest due first. Sent twice, the first are told later.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_us + tonumber(ARGV[3])),
    'WITHSCORES', 'LIMIT', 0, ARGV[2])

local taken = {}
for i = 1, #found, 2 do
    local id, due_us = found[i], tonumber(found[i + 1])
    local t = redis.pcall('HMGET', ARGV[1] .. id, 'state', 'attempts')
    local attempts = not t.err and t[1] == 'QUEUED' and tonumber(t[2])
    if attempts then
        local was_told = due_us % 1 == 0.5
        local left_us = math.max(0, due_us - (was_told and tonumber(ARGV[4]) or 0) - now_us)
        redis.call('ZADD', KEYS[1], string.format('%.0f.5', now_us + left_us + tonumber(ARGV[4])), id)
        taken[#taken + 1] = id
        taken[#taken + 1] = attempts + 1
        taken[#taken + 1] = string.format('%.0f', left_us)
    else
        redis.call('ZREM', KEYS[1], id)
    end
end
return taken
