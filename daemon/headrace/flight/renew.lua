-- renew: keep a flight's lease, and note the ticket its leader waits on.
--
-- KEYS[1]  the flight     hash: token, inbox, until_us, ticket
-- ARGV[1]  token          of the leader
-- ARGV[2]  lease_ms       0 gives the lead up, but leaves the ticket for the next leader to wait on
-- ARGV[3]  ticket         '' for none
--
-- Returns 1 if the token still leads (a lease that lapsed without a successor is taken up again), 0 if another does.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
redis.call('HSET', KEYS[1], 'until_us', string.format('%.0f', now_us + tonumber(ARGV[2]) * 1e3), 'ticket', ARGV[3])
redis.call('PEXPIRE', KEYS[1], 86400000)
return 1
