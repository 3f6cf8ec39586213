-- end: end a flight that nobody follows on another host; the common case, which need not carry the answer here.
--
-- KEYS[1]  the flight     hash
-- KEYS[2]  its audience   zset: inboxes by lease end (us)
-- ARGV[1]  token          of the leader
--
-- Returns 1 if it is over, 0 if somebody follows (or another leads by now): then `land` hands over what was said.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
if redis.call('ZCOUNT', KEYS[2], now_us, '+inf') > 0 then
    return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
