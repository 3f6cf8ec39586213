-- hosts: say that an instance is alive, and count those that are.
--
-- KEYS[1]  hosts       zset: instances by last heartbeat, microseconds
-- ARGV[1]  instance
-- ARGV[2]  lapse       microseconds after which a silent instance no longer counts
-- Returns how many instances are alive, this one included.
--
-- The time is Redis's own: hosts whose clocks disagree must not lapse each other.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now + ARGV[2]), '+inf')  -- nobody has beaten so far ahead
return redis.call('ZCARD', KEYS[1])
