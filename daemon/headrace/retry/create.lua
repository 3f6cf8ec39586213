-- create: make a ticket, and claim an idempotency key for it in the same step.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  the caller's tickets    zset: ids by creation (us)
-- KEYS[4]  the idempotency key     hash: fingerprint, ticket   (the ticket's own key when there is none)
-- KEYS[5]  the caller's live ones   zset: tickets that stand for themselves and have not ended, by when they surely have (us)
-- KEYS[6]  their bodies' bytes       hash: bytes by ticket, and their sum as 'sum'
-- KEYS[7]  what is held              zset: "<holder> <id>" of each running ticket
-- KEYS[8]  owners of tickets         zset: by the latest one's creation (us)
-- KEYS[9]  due tickets             zset: ids by the moment (us)
-- KEYS[10] all bodies' bytes         hash: their sum as 'sum'
-- ARGV[1]  id
-- ARGV[2]  fingerprint             '' when there is no idempotency key to claim
-- ARGV[3]  lease_us                > 0: it runs in the creator's hands for so long; 0: it is queued
-- ARGV[4]  look_us                 when the sweeper should look at a queued one (unix, us)
-- ARGV[5]  want_us                 > 0: it goes with its RPC, unless that says in time that it still waits
-- ARGV[6]  key_ms                  how long the idempotency key is kept
-- ARGV[7]  listed_ms               how long a ticket stays in its caller's list
-- ARGV[8]  max_live                how many tickets of a caller that stand for themselves may live at once
-- ARGV[9]  live_until_us           when this one has surely ended (unix, us)
-- ARGV[10] bytes                   of its body
-- ARGV[11] max_bytes               of the bodies of a caller's live tickets; a single one may have more
-- ARGV[12] owner                    whose it is
-- ARGV[13] in_us                   until the next attempt of a queued one
-- ARGV[14] max_all                 of the bodies of all callers' live tickets; a single one may have more
-- ARGV[15] left_us                 > 0: it is refused if by the pace of its caller's queue it would not end so soon
-- ARGV[16..] field, value, ...     of the ticket
--
-- Returns {'created', id} | {'same', id of the first ticket} | {'conflict', ''} if the key stands for another call
--       | {'full', how many live} | {'heavy', how many bytes they have} | {'crowded', how many all have}
--       | {'behind', ms by which it would be late}.
-- Sent twice, it changes nothing and says the same.

if ARGV[2] ~= '' then
    local first = redis.call('HMGET', KEYS[4], 'fingerprint', 'ticket')
    -- A key whose ticket is gone stands for nothing: whoever waited for that would wait in vain.
    local tickets = string.sub(KEYS[1], 1, -#ARGV[1] - 1)
    if first[2] and first[2] ~= ARGV[1] and redis.call('EXISTS', tickets .. first[2]) == 1 then
        if first[1] ~= ARGV[2] then
            return {'conflict', ''}
        end
        return {'same', first[2]}
    end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    return {'created', ARGV[1]}
end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local lease_us, want_us = tonumber(ARGV[3]), tonumber(ARGV[5])

-- A ticket that goes with its RPC is bounded by what waits in that RPC's process.
if want_us == 0 then
    local refused, how = room(KEYS[5], KEYS[6], KEYS[10], KEYS[2], ARGV[8], ARGV[10], ARGV[11], ARGV[14], ARGV[15])
    if refused then
        return {refused, how}
    end
    enter(KEYS[5], KEYS[6], KEYS[10], ARGV[1], ARGV[9], tonumber(ARGV[10]), ARGV[7])
    redis.call('HSET', KEYS[1], 'live', '1')
end

redis.call('HSET', KEYS[1], unpack(ARGV, 16))
redis.call('HSET', KEYS[1],
    'wanted_us', want_us > 0 and string.format('%.0f', now_us + want_us) or '0',
    'lease_us', string.format('%.0f', now_us + lease_us))
redis.call('ZADD', KEYS[2], lease_us > 0 and string.format('%.0f', now_us + lease_us) or ARGV[4], ARGV[1])
if lease_us > 0 then
    note_held(KEYS[7], redis.call('HGET', KEYS[1], 'holder'), ARGV[1])
else
    redis.call('ZADD', KEYS[9], string.format('%.0f', now_us + tonumber(ARGV[13])), ARGV[1])
end

-- The list is trimmed as it grows: whatever is older has ended, and its hash is gone.
redis.call('ZADD', KEYS[3], string.format('%.0f', now_us), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now_us - tonumber(ARGV[7]) * 1e3))
redis.call('PEXPIRE', KEYS[3], ARGV[7])
redis.call('ZADD', KEYS[8], string.format('%.0f', now_us), ARGV[12])
redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', string.format('%.0f', now_us - tonumber(ARGV[7]) * 1e3))
redis.call('PEXPIRE', KEYS[8], ARGV[7])

if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[4], 'fingerprint', ARGV[2], 'ticket', ARGV[1])
    redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
return {'created', ARGV[1]}
