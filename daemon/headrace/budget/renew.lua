-- renew: a process says that it lives. Its permits are held for another lease, and what the dead held may lapse.
--
-- KEYS[i]           permits    zset: by lease end (us), each "<hold id>@<inbox of its process>"
-- KEYS[#KEYS-2]     heard      zset: inboxes of processes by their last word here (us)
-- KEYS[#KEYS-1]     holding    hash: inbox -> the keys of the permits that it held then, by spaces
-- KEYS[#KEYS]       pulse      string: "<from_us> <until_us>"; between the two, leases that have ended are over
-- ARGV[1]           our inbox
-- ARGV[2]           four spans (us), by spaces:
--                   lease      of a concurrency permit, and of a place in line
--                   gap        after so long without a word from anybody, it was Redis that was away
--                   hold       how long the permits of a bucket are remembered at the most
--                   silent     who has said nothing for so long and listens no more is dead
-- ARGV[2+i]         hold ids   whose permits in KEYS[i] are renewed, by spaces; the holds' own keys are named after the pulse's
--
-- Leases are measured by Redis's clock, which runs on while Redis stands still and hears nobody. So after a gap nothing is over
-- until a whole lease has passed in which those who live could renew.
--
-- A process that is killed leaves its connections, and its end need not be waited for: whoever beats next finds that it is late
-- and that nobody listens at its inbox. One that is stopped, or cut off without a word, still seems to listen: its leases lapse.
--
-- A permit that has lapsed is taken anew, above the capacity if it must be: its request is at upstream and cannot be unsent, and
-- counting it keeps the next one out. But one whose hold is closed is nobody's: what was said before its settlement, on a
-- connection that broke, may be done, or said again, after it.

local MOST = 1000 -- pairs in one command; Lua's stack has an end
local MOST_LATE = 16

local heard, holding, pulse = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
local inbox = ARGV[1]
local lease_us, gap_us, hold_us, silent_us = string.match(ARGV[2], '(%d+) (%d+) (%d+) (%d+)')
local hold_ms = math.ceil(hold_us / 1e3)

local from_us, until_us = string.match(redis.call('GET', pulse) or '', '^(%d+) (%d+)$')
local is_unbroken = until_us and now_us <= tonumber(until_us) and now_us >= tonumber(until_us) - gap_us
if not is_unbroken then from_us = whole(now_us + lease_us) end
redis.call('SET', pulse, from_us .. ' ' .. whole(now_us + gap_us), 'PX', hold_ms)

local lease_end = whole(now_us + lease_us)
local holds = string.gsub(pulse, 'pulse$', 'hold:', 1)
for i = 1, #KEYS - 3 do
    local taken = {}
    for id in string.gmatch(ARGV[2 + i], '%S+') do
        if redis.call('GET', holds .. id) ~= 'closed' then
            taken[#taken + 1] = lease_end
            taken[#taken + 1] = id .. '@' .. inbox
        end
        if #taken == 2 * MOST then
            redis.call('ZADD', KEYS[i], unpack(taken))
            taken = {}
        end
    end
    if #taken > 0 then redis.call('ZADD', KEYS[i], unpack(taken)) end
    redis.call('PEXPIRE', KEYS[i], hold_ms)
end
redis.call('ZADD', heard, whole(now_us), inbox)
redis.call('HSET', holding, inbox, table.concat(KEYS, ' ', 1, #KEYS - 3))
for _, key in ipairs({heard, holding}) do redis.call('PEXPIRE', key, hold_ms) end

local function forget(who)
    redis.call('ZREM', heard, who)
    redis.call('HDEL', holding, who)
end

-- What a dead process held is free, and so many of those who wait for it are told.
local function bury(who)
    local mark = '@' .. who
    for permits in string.gmatch(redis.call('HGET', holding, who) or '', '%S+') do
        local freed = 0
        for _, permit in ipairs(redis.call('ZRANGE', permits, 0, -1)) do
            if string.sub(permit, -#mark) == mark then freed = freed + redis.call('ZREM', permits, permit) end
        end
        local line, waits = string.gsub(permits, ':permits:', ':line:', 1), string.gsub(permits, ':permits:', ':waits:', 1)
        nudge({line = line, waits = waits, level = freed})
    end
    forget(who)
end

if lapsed_us() > 0 then
    local late = redis.call('ZRANGEBYSCORE', heard, '-inf', whole(now_us - silent_us), 'WITHSCORES', 'LIMIT', 0, MOST_LATE)
    for j = 1, #late, 2 do
        if redis.call('PUBLISH', late[j], 'alive') == 0 then
            bury(late[j])
        elseif tonumber(late[j + 1]) < now_us - lease_us then
            forget(late[j]) -- its leases have lapsed; it comes back with its next word
        end
    end
end
return 1
