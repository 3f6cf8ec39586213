-- renew: keep a flight's lease, and note what its leader waits for.
--
-- KEYS[1]  the flight     hash: token, inbox, until_us, ticket, held ("<token> <limit>")
-- KEYS[2]  its audience   zset: inboxes of following processes by lease end (us)
-- ARGV[1]  token          of the leader
-- ARGV[2]  lease_ms       0 gives the lead up, but leaves the ticket for the next leader to wait on
-- ARGV[3]  ticket         '' for none
-- ARGV[4]  held           the limit that holds the call, '' for none: who follows hears of it
-- ARGV[5]  name           of the flight, for nudges
--
-- Returns 1 if the token still leads (a lease that lapsed without a successor is taken up again), 0 if another does.

local flight = redis.call('HMGET', KEYS[1], 'token', 'held')
if flight[1] ~= ARGV[1] then
    return 0
end
local held = ARGV[4] ~= '' and ARGV[1] .. ' ' .. ARGV[4] or ''
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local until_us = string.format('%.0f', now_us + tonumber(ARGV[2]) * 1e3)
redis.call('HSET', KEYS[1], 'until_us', until_us, 'ticket', ARGV[3], 'held', held)
redis.call('PEXPIRE', KEYS[1], 86400000)
if (flight[2] or '') ~= held then
    for _, inbox in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
        redis.call('PUBLISH', inbox, 'log ' .. ARGV[5])
    end
end
return 1
