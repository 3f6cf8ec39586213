-- renew: keep concurrency permits for another lease.
--
-- KEYS[i]    permits      zset: hold ids by lease end (us); once for each permit
-- ARGV[1]    permit_us    lease of a concurrency permit
-- ARGV[1+i]  hold id      whose permit in KEYS[i] is renewed
--
-- Returns how many were still held. A permit that has lapsed may be another's by now, and is not taken again.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local until_us = string.format('%.0f', now_us + tonumber(ARGV[1]))

local renewed = 0
for i, permits in ipairs(KEYS) do
    renewed = renewed + redis.call('ZADD', permits, 'XX', 'CH', until_us, ARGV[1 + i])
    redis.call('PEXPIRE', permits, math.ceil(tonumber(ARGV[1]) / 1e3) + 1000)
end
return renewed
