-- settle: close a hold. What was reserved is replaced by what was used, permits come back, and the hold leaves the lines.
--
-- Releasing is the same with everything given back. Closing a hold that was never granted takes care of the reserve that may
-- still be on its way: it will find the id closed.
--
-- KEYS[1]           the hold       as in reserve.lua
-- then for the i-th want (i from 0):
-- KEYS[2+3i]        its bucket     as in reserve.lua
-- KEYS[3+3i]        its line       as in reserve.lua
-- KEYS[4+3i]        its waits      as in reserve.lua
-- KEYS[2+3n]        audit stream   optional: one entry {bucket, at_us, hold, back} for each rate bucket that is not left as it is
-- KEYS[#KEYS]       the pulse      as in renew.lua
--
-- ARGV[1]           hold id
-- ARGV[2]           waiter         to take from the lines, or ''
-- ARGV[3]           closed_us      how long a closed hold is remembered
-- ARGV[4]           a letter and three numbers for each want, by spaces:
--                   form      as in reserve.lua
--                   figure    as in reserve.lua
--                   capacity  tokens, or permits
--                   back      tokens to give back; below zero: taken in addition, which may leave debt
--
-- Returns {what, now_us}, what being 1 if the hold was open, 0 if it was closed before (then nothing happens), -1 if it is
-- unknown: it was never granted, or its call ran for longer than holds are remembered. Nothing is given back to a rate
-- or a window then, which errs on the safe side; debt and permits are settled all the same.
--
-- What its flow was charged for waiting is corrected by what was used. Units, time, numbers and the keys of fairness as in reserve.lua.

local UNITS = 60000000
local PAST_END_US = 86400000000
local ANSWER_US = 600000 -- both as in reserve.lua
local MOST_NUDGED = 16
local id, waiter = ARGV[1], ARGV[2]
local audit = #KEYS % 3 == 0 and KEYS[#KEYS - 1]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local function whole(number) return string.format('%.0f', number) end

local seen = redis.call('GET', KEYS[1])
if seen == 'closed' then return {0, whole(now_us)} end
redis.call('SET', KEYS[1], 'closed', 'PX', math.ceil(tonumber(ARGV[3]) / 1e3))

-- Leases that ended by this moment are over. None is while Redis has just come back: then those who live renew first.
local over_us
local function lapsed_us()
    if not over_us then
        local from_us, until_us = string.match(redis.call('GET', KEYS[#KEYS]) or '', '^(%d+) (%d+)$')
        over_us = from_us and tonumber(from_us) <= now_us and now_us <= tonumber(until_us) and now_us or 0
    end
    return over_us
end

-- The level of a rate bucket after *back* came back.
local function give_back(bucket, rate, capacity, back)
    local stored = redis.call('HMGET', bucket, 'level', 'at')
    local at_us = math.max(now_us, tonumber(stored[2]) or now_us)
    local inflow = rate * (at_us - (tonumber(stored[2]) or now_us))
    local level = math.min(capacity, (tonumber(stored[1]) or capacity) + inflow)
    if back == 0 then return level end
    level = math.min(capacity, level + back)
    redis.call('HSET', bucket, 'level', whole(level), 'at', whole(at_us))
    -- Remembered until it is full again, however deep the debt.
    redis.call('PEXPIRE', bucket, math.ceil(((capacity - level) / rate + at_us - now_us) / 1e3) + 1000)
    return level
end

-- The level of a window after *back* came back.
local function give_back_in_window(bucket, ends_us, capacity, back)
    local used = tonumber(redis.call('HGET', bucket, 'used')) or 0
    if back == 0 then return capacity - used end
    used = math.max(0, used - back)
    redis.call('HSET', bucket, 'used', whole(used))
    redis.call('PEXPIREAT', bucket, math.ceil((math.max(ends_us, now_us) + PAST_END_US) / 1e3))
    return capacity - used
end

-- The finish of a flow that is ahead of a line's clock.
local function correct(line, flow, more)
    local flows = string.gsub(line, ':line:', ':flows:', 1)
    if redis.call('ZSCORE', flows, flow) then redis.call('ZINCRBY', flows, whole(more), flow) end
end

-- Whoever leaves without a grant takes back what its flow was charged.
local function leave(line, waits, who)
    local charge, flow = string.match(redis.call('HGET', waits, who) or '', '^%d+ %d+ (%d+) %d+ %d+ (%S+)$')
    if charge then correct(line, flow, -charge) end
    redis.call('ZREM', line, who)
    redis.call('HDEL', waits, who)
end

-- As in reserve.lua.
local function drop_process(line, waits, who)
    local inbox = string.match(who, '^(.*|)')
    for _, other in ipairs(redis.call('ZRANGE', line, 0, -1)) do
        if string.sub(other, 1, #inbox) == inbox then leave(line, waits, other) end
    end
end

-- Let the first in line ask again, as many as fit now. Places whose lease has lapsed are cleared away.
local function nudge(line, waits, level)
    for _, who in ipairs(redis.call('ZRANGE', line, 0, MOST_NUDGED - 1)) do
        local until_us, cost, rest = string.match(redis.call('HGET', waits, who) or '', '^(%d+) (%d+)( .*)$')
        if until_us and tonumber(until_us) > lapsed_us() then
            level = level - tonumber(cost)
            if level < 0 then return end
            if tonumber(until_us) > now_us + ANSWER_US then -- else it was nudged already
                if redis.call('PUBLISH', string.match(who, '^(.*)|'), 'permit ' .. who) > 0 then
                    redis.call('HSET', waits, who, whole(now_us + ANSWER_US) .. ' ' .. cost .. rest)
                else
                    level = level + tonumber(cost)
                    drop_process(line, waits, who) -- nobody listens there any more
                end
            end
        else
            drop_process(line, waits, who)
        end
    end
end

local backs = {}
local i = 0
for form, figure, capacity, back in string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%S+)') do
    i = i + 1
    figure, capacity, back = tonumber(figure), tonumber(capacity), tonumber(back)
    if not seen then back = math.min(back, 0) end
    backs[i] = back
    local bucket, line, waits = KEYS[3 * i - 1], KEYS[3 * i], KEYS[3 * i + 1]
    local level
    if form == 'r' then
        level = give_back(bucket, figure, capacity * UNITS, back * UNITS)
    elseif form == 'w' then
        level = give_back_in_window(bucket, figure, capacity, back)
    else
        redis.call('ZREM', bucket, id)
        redis.call('ZREMRANGEBYSCORE', bucket, '-inf', whole(lapsed_us()))
        level = capacity - redis.call('ZCARD', bucket)
    end
    if audit and form ~= 'p' and back ~= 0 then
        redis.call('XADD', audit, '*', 'bucket', bucket, 'at_us', whole(now_us), 'hold', id, 'back', whole(back))
    end
    if redis.call('EXISTS', line) == 1 then
        if waiter ~= '' then leave(line, waits, waiter) end
        nudge(line, waits, level)
    end
end

local index, cost, basis, charge, flow, charged = string.match(seen or '', '|(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
if index and tonumber(basis) > 0 then
    local more = -math.floor(charge * (basis - cost + backs[tonumber(index)]) / basis)
    for at in string.gmatch(charged, '%d+') do
        if more ~= 0 then correct(KEYS[3 * at], flow, more) end
    end
end
return {seen and 1 or -1, whole(now_us)}
