-- lapse: let the leases of dead processes end now, so that the sweeper comes to what they held.
--
-- KEYS[1]  what is held            zset: "<holder> <id>" of each running ticket, all of one score
-- KEYS[2]  tickets to look after   zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  heard                   zset: inboxes of processes by their last word (us); the dead are not in it (budget/renew.lua)
-- KEYS[4]  the pulse               string: "<from_us> <until_us>"; only between the two is silence a sign of death
-- ARGV[1]  prefix                  of the tickets' keys
-- ARGV[2]  lease_us                of a ticket
-- ARGV[3]  silent_us               who took or renewed the ticket so lately is not dead, though it was not heard yet
-- ARGV[4]  most                    how many tickets are let go at once
-- ARGV[5]  prefix                  of the keys that say since when a process is missed
-- ARGV[6]  missed_us               who is missed for so long is dead: one that only lost its connections is back by then
--
-- Returns how many were let go. Sent twice, it finds nothing the second time.
--
-- A holder is "<inbox>|<token>", so what one process holds stands together, and one look a process is enough.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local from_us, until_us = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (%d+)$')
if not from_us or now_us < tonumber(from_us) or now_us > tonumber(until_us) then
    return 0
end

if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then
    return 0
end

local MOST_PROCESSES = 10000
local FORGOTTEN_MS = 3000

local silent_us, most, ended = tonumber(ARGV[3]), tonumber(ARGV[4]), 0

local function is_dead(inbox)
    if redis.call('ZSCORE', KEYS[3], inbox) then
        return false
    end
    local missed = ARGV[5] .. inbox
    redis.pcall('SET', missed, string.format('%.0f', now_us), 'NX', 'PX', FORGOTTEN_MS)
    local since_us = redis.pcall('GET', missed)
    return type(since_us) ~= 'string' or (tonumber(since_us) or 0) + tonumber(ARGV[6]) <= now_us
end

local function let_go(holder, id)
    local ticket = ARGV[1] .. id
    local t = redis.pcall('HMGET', ticket, 'state', 'holder', 'lease_us')
    if t.err or t[1] ~= 'RUNNING' or t[2] ~= holder then
        return true -- it is not held any more, whatever was noted
    end
    if (tonumber(t[3]) or 0) - tonumber(ARGV[2]) + silent_us > now_us then
        return false
    end
    redis.call('HSET', ticket, 'lease_us', '0')
    redis.call('ZADD', KEYS[2], string.format('%.0f', now_us), id)
    ended = ended + 1
    return true
end

local from = '-'
for _ = 1, MOST_PROCESSES do
    if ended >= most then break end
    local first = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
    if not first then break end
    local inbox = string.match(first, '^(.*)|') or first
    from = '(' .. inbox .. '|\255'
    if is_dead(inbox) then
        for _, held in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '[' .. first, from, 'LIMIT', 0, most)) do
            local holder, id = string.match(held, '^(%S*) (%S+)$')
            if not id or let_go(holder, id) then
                redis.call('ZREM', KEYS[1], held)
            end
        end
    end
end
return ended
