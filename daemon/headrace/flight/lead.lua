-- lead: recall a kept answer, or lead the flight for a fingerprint, or follow the one in the air.
--
-- One step, so that no second call slips in between a landing and a look-up, and so that a follower is known to the
-- leader before the leader can land without it.
--
-- KEYS[1]  the kept entry      string   (only read)
-- KEYS[2]  the flight          hash: token, inbox, until_us, ticket, held ("<token> <limit>")
-- KEYS[3]  its audience        zset: inboxes of following processes by lease end (us)
-- KEYS[4]  heard               zset: inboxes of processes by their last word (us); the dead are not in it (budget/renew.lua)
-- KEYS[5]  the pulse           string: "<from_us> <until_us>"; only between the two is silence a sign of death
-- ARGV[1]  token               of this process's attempt to lead; sent twice it changes nothing
-- ARGV[2]  inbox               of this process
-- ARGV[3]  lease_ms            how long a leader or a follower lives without a word
-- ARGV[4]  fresh_ms            an entry with at least so much time to live is an answer; -1: do not recall
-- ARGV[5]  name                of the flight, for nudges
-- ARGV[6]  silent_us           a leader that led or renewed so lately is not dead, though it was not heard yet
--
-- Returns {'recalled', bytes of the entry}
--       | {'leading', ticket ('' or the ticket on which a lapsed leader waited)}
--       | {'following', token of the leader, the limit that holds its call ('' of none)}
--
-- Time is Redis's own: leases of all hosts are measured by one clock. It runs on while Redis is away and hears nobody: after that
-- no lease has lapsed until those who live have had the time to renew.

local fresh_ms = tonumber(ARGV[4])
if fresh_ms >= 0 and redis.call('PTTL', KEYS[1]) > fresh_ms then
    return {'recalled', redis.call('GET', KEYS[1])}
end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local until_us = string.format('%.0f', now_us + tonumber(ARGV[3]) * 1e3)

local flight = redis.call('HMGET', KEYS[2], 'token', 'inbox', 'until_us', 'ticket', 'held')

local function has_lapsed()
    local lapse_us = tonumber(flight[3])
    local from_us, to_us = string.match(redis.call('GET', KEYS[5]) or '', '^(%d+) (%d+)$')
    local is_settled = from_us and tonumber(from_us) <= now_us and now_us <= tonumber(to_us)
    if lapse_us <= now_us then
        return lapse_us == 0 or not from_us or is_settled
    end
    local is_late = lapse_us - tonumber(ARGV[3]) * 1e3 + tonumber(ARGV[6]) <= now_us
    return is_settled and is_late and not redis.call('ZSCORE', KEYS[4], flight[2])
end

if flight[1] and flight[1] ~= ARGV[1] and not has_lapsed() then
    if redis.call('ZADD', KEYS[3], until_us, ARGV[2]) == 1 then
        redis.call('PUBLISH', flight[2], 'audience ' .. ARGV[5])
    end
    redis.call('PEXPIRE', KEYS[3], tonumber(ARGV[3]) * 4)
    -- It stays when another leads, and an older version does not know it: what held one leader's call is not the next one's.
    local of_leader = flight[1] .. ' '
    local is_of_leader = string.sub(flight[5] or '', 1, #of_leader) == of_leader
    return {'following', flight[1], is_of_leader and string.sub(flight[5], #of_leader + 1) or ''}
end

redis.call('HSET', KEYS[2], 'token', ARGV[1], 'inbox', ARGV[2], 'until_us', until_us)
-- Long enough for the next leader to find the ticket of one that died.
redis.call('PEXPIRE', KEYS[2], 86400000)
-- One who followed the leader that died is the leader now, not its own audience.
redis.call('ZREM', KEYS[3], ARGV[2])
return {'leading', flight[4] or ''}
