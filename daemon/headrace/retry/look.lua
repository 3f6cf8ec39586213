-- look: how is a ticket, and say that somebody waits for it.
--
-- KEYS[1]  the ticket     hash
-- KEYS[2]  its audience   zset: inboxes of waiting processes by lease end (us)
-- ARGV[1]  inbox          of the process that waits
-- ARGV[2]  lease_us       how long it counts as waiting without another look
-- ARGV[3]  want_us        how long a ticket that goes with its RPC is wanted without another look
-- ARGV[4]  id             its holder is told that somebody waits elsewhere ("sought <id>")
--
-- Returns {the state ('' if there is no such ticket), the limit that holds its call ('' of none)}.

local t = redis.call('HMGET', KEYS[1], 'state', 'wanted_us', 'holder', 'held')
if t[1] ~= 'QUEUED' and t[1] ~= 'RUNNING' then
    return {t[1] or '', ''}
end
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local is_new = redis.call('ZADD', KEYS[2], string.format('%.0f', now_us + tonumber(ARGV[2])), ARGV[1]) == 1
redis.call('PEXPIRE', KEYS[2], math.ceil(tonumber(ARGV[2]) / 1e3) * 4)
if tonumber(t[2]) > 0 then
    redis.call('HSET', KEYS[1], 'wanted_us', string.format('%.0f', now_us + tonumber(ARGV[3])))
end
if t[1] == 'QUEUED' or not t[3] or t[3] == '' then
    return {t[1], ''}
end
local said = t[3] .. ' '
local is_told = t[4] and string.sub(t[4], 1, #said) == said
if is_new or not is_told then
    redis.call('PUBLISH', string.match(t[3], '^[^|]*'), 'sought ' .. ARGV[4])
end
return {t[1], is_told and string.sub(t[4], #said + 1) or ''}
