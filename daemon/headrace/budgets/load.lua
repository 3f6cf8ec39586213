-- load: return what is laid over the configuration, and drop what has ended.
--
-- KEYS[1]  overrides  hash: "limit:<name>" or "caller:<name>" -> "<end (us), 0: none> <JSON>"
--
-- Returns {now (us), field, value, field, value, ...}; the ends are by Redis's own clock.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local reply = {string.format('%.0f', now_us)}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local end_us = tonumber(string.match(all[i + 1], '^(%d+) ')) or 0
    if end_us > 0 and end_us <= now_us then
        redis.call('HDEL', KEYS[1], all[i])
    else
        reply[#reply + 1], reply[#reply + 2] = all[i], all[i + 1]
    end
end
return reply
