-- leave: stop following a flight, and tell its leader, who may be the last one now.
--
-- KEYS[1]  the audience   zset: inboxes by lease end (us)
-- KEYS[2]  the flight     hash: its leader's inbox
-- ARGV[1]  inbox          of the process that leaves
-- ARGV[2]  name           of the flight, for nudges

redis.call('ZREM', KEYS[1], ARGV[1])
local leader = redis.call('HGET', KEYS[2], 'inbox')
if leader then
    redis.call('PUBLISH', leader, 'audience ' .. ARGV[2])
end
return 1
