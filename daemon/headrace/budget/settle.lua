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
--
-- ARGV[1]           hold id
-- ARGV[2]           waiter         to take from the lines, or ''
-- ARGV[3]           closed_us      how long a closed hold is remembered
-- ARGV[4]           a letter and four words for each want, by spaces:
--                   form      as in reserve.lua
--                   figure    as in reserve.lua
--                   capacity  tokens, or permits
--                   back      tokens to give back; below zero: taken in addition, which may leave debt;
--                             g: 1 it went well, 0 nobody knows, -1 upstream was overloaded, -2 its spend limit is reached
--                   said      r: what upstream says there is at most, in tokens; '-': nothing
--                             g: "<chance (1/1000)>/<in the air>/<least pause (us)>/<granted so long ago (us)>/<first pause (us)>/<longest (us)>"
--
-- Returns {what, now_us, change}, change being what became of the gate (0 nothing, 1 shut, 2 opened, 3 spent, 4 gone, 5 still shut), and what being 1 if the hold was open, 0 if it was closed before (then nothing happens), -1 if it is
-- unknown: it was never granted, or its call ran for longer than holds are remembered. Nothing is given back to a rate
-- or a window then, which errs on the safe side; debt and permits are settled all the same.
--
-- What its flow was charged for waiting is corrected by what was used. Units, time, numbers and the keys of fairness as in reserve.lua.

local UNITS = 60000000
local PAST_END_US = 86400000000
local MEAN_US, FIRST_US, LONGEST_US, UNCOUNTED = 3000000, 3000000, 20000000, 4
local GATE_AWAY, GATE_FORGET_US, GATE_OPEN_US, GATE_ASK_US = 1000000, 60000000, 10000000, 60000000
local id, waiter = ARGV[1], ARGV[2]
local audit = #KEYS % 3 == 2 and KEYS[#KEYS]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local function whole(number) return string.format('%.0f', number) end

local seen = redis.call('GET', KEYS[1])
if seen == 'closed' then return {0, whole(now_us), 0} end
redis.call('SET', KEYS[1], 'closed', 'PX', math.ceil(tonumber(ARGV[3]) / 1e3))

-- The level of a rate bucket after *back* came back, and upstream said that there is *most* at most: see bucket.py.
local function give_back(bucket, rate, capacity, back, most)
    local stored = redis.call('HMGET', bucket, 'level', 'at', 'foreign', 'kept', 'heard', 'first')
    local at_us = math.max(now_us, tonumber(stored[2]) or now_us)
    local foreign, kept, heard_us = tonumber(stored[3]) or 0, tonumber(stored[4]) or 0, tonumber(stored[5])
    local first_us = tonumber(stored[6])
    local flows_out = math.floor(math.min(foreign, rate) * 9 / 10)
    local inflow = (rate - flows_out) * (at_us - (tonumber(stored[2]) or now_us))
    local level = math.min(capacity, (tonumber(stored[1]) or capacity) + inflow)
    if back == 0 and not most then return level end
    if level == capacity and stored[3] then
        foreign, flows_out, kept, heard_us, first_us = 0, 0, 0, nil, nil
        redis.call('HDEL', bucket, 'foreign', 'kept', 'heard', 'first')
    end
    level = math.min(capacity, level + back)
    if most then
        local lowered = math.max(0, level - most)
        first_us = first_us or at_us
        local is_first = at_us - first_us < FIRST_US
        local uncounted = is_first and lowered or math.min(lowered, math.max(0, math.floor(capacity / UNCOUNTED) - kept))
        local span_us = heard_us and math.min(at_us - heard_us, LONGEST_US) or 0
        local near = math.max(0, 1 - UNCOUNTED * math.max(0, most - level) / capacity)
        local counted = math.min(lowered - uncounted, rate * (MEAN_US + span_us))
        foreign = math.min(rate, (foreign * MEAN_US + near * (flows_out * span_us) + counted) / (MEAN_US + span_us))
        level, kept = level - lowered, kept + (is_first and 0 or uncounted)
        redis.call('HSET', bucket, 'foreign', string.format('%.17g', foreign), 'kept', whole(kept), 'heard', whole(at_us))
        redis.call('HSET', bucket, 'first', whole(first_us))
    end
    redis.call('HSET', bucket, 'level', whole(level), 'at', whole(at_us))
    -- Remembered until it is full again, however deep the debt.
    local full_us = (capacity - level) / (rate - math.floor(foreign * 9 / 10)) + at_us - now_us
    redis.call('PEXPIRE', bucket, math.ceil(full_us / 1e3) + 1000)
    return level
end

-- How many may pass a gate after an attempt has said how it went; and what that has changed: see gate.py.
local function settle_gate(bucket, verdict, said)
    local chance, in_the_air, least_us, age_us, first_us, longest_us =
        string.match(said .. (said == '-' and '0/0/0/0/0/0' or ''), '(%d+)/(%d+)/(%d+)/(%d+)/(%d+)/(%d+)$')
    if redis.call('EXISTS', bucket) == 0 then
        if verdict >= 0 then return GATE_AWAY, 0 end
        local window = whole(math.max(1, tonumber(in_the_air)) * 1000)
        redis.call('HSET', bucket, 'until', 0, 'window', window, 'aim', 1000, 'cut', 0, 'tight', 0, 'strikes', 0, 'spent', 0, 'ask', 0)
    end
    redis.call('HDEL', bucket, 'h:' .. id)
    local gate, passed, change = {}, 0, 0
    local stored = redis.call('HGETALL', bucket)
    for j = 1, #stored, 2 do
        local name, value = stored[j], tonumber(stored[j + 1])
        if string.sub(name, 1, 2) ~= 'h:' then gate[name] = value
        elseif value > now_us then passed = passed + 1 end
    end
    if gate.spent <= now_us then gate.spent = 0 end

    if verdict ~= 0 and now_us - tonumber(age_us) >= gate.cut then
        if verdict == 1 then
            if gate.strikes > 0 or gate.spent > 0 then change = 2 end
            gate.strikes, gate.spent = 0, 0
            if now_us - gate.tight > GATE_OPEN_US then
                redis.call('DEL', bucket)
                return GATE_AWAY, 4
            end
            local more = gate.window < gate.aim and 1000 or math.max(1, math.floor(1000000 / gate.window))
            gate.window = math.min(GATE_AWAY, gate.window + more)
        elseif verdict == -2 then
            change, gate.cut = 3, now_us
            gate.spent, gate.ask = now_us + tonumber(least_us), now_us + GATE_ASK_US
        else
            change, gate.cut, gate.tight = gate.strikes == 0 and 1 or 5, now_us, now_us
            if gate.strikes == 0 then gate.aim = math.max(1000, math.floor(gate.window / 2)) end
            local pause_us = math.min(tonumber(longest_us), tonumber(first_us) * 2 ^ math.min(gate.strikes, 8))
            pause_us = math.floor(pause_us * tonumber(chance) / 1000)
            gate['until'] = now_us + math.max(tonumber(least_us), pause_us)
            gate.strikes, gate.window = gate.strikes + 1, 1000
        end
        for name, value in pairs(gate) do redis.call('HSET', bucket, name, whole(value)) end
        local keep_us = math.max(now_us, gate['until'], gate.spent) + GATE_FORGET_US - now_us
        redis.call('PEXPIRE', bucket, math.ceil(keep_us / 1e3))
    end
    if gate.spent > 0 then return 1, change end
    if gate['until'] > now_us then return 0, change end
    return math.floor(gate.window / 1000) - passed, change
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

-- Let the first in line ask again, if it fits now. Places whose lease has lapsed are cleared away.
local function nudge(line, waits, level)
    while true do
        local first = redis.call('ZRANGE', line, 0, 0)[1]
        if not first then return end
        local until_us, cost = string.match(redis.call('HGET', waits, first) or '', '^(%d+) (%d+) ')
        if until_us and tonumber(until_us) > now_us then
            if level >= tonumber(cost) then
                redis.call('PUBLISH', string.match(first, '^(.*)|'), 'permit ' .. first)
            end
            return
        end
        leave(line, waits, first)
    end
end

local backs = {}
local i, change = 0, 0
for form, figure, capacity, back, said in string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%S+) (%S+)') do
    i = i + 1
    figure, capacity, back = tonumber(figure), tonumber(capacity), tonumber(back)
    if not seen and form ~= 'g' then back = math.min(back, 0) end
    backs[i] = form == 'g' and 0 or back -- a gate's is a verdict, and no part of the cost
    local bucket, line, waits = KEYS[3 * i - 1], KEYS[3 * i], KEYS[3 * i + 1]
    local level
    if form == 'r' then
        local most = tonumber(said)
        level = give_back(bucket, figure, capacity * UNITS, back * UNITS, most and most * UNITS)
    elseif form == 'g' then
        level, change = settle_gate(bucket, back, said)
    elseif form == 'w' then
        level = give_back_in_window(bucket, figure, capacity, back)
    else
        redis.call('ZREM', bucket, id)
        redis.call('ZREMRANGEBYSCORE', bucket, '-inf', whole(now_us))
        level = capacity - redis.call('ZCARD', bucket)
    end
    if audit and (form == 'r' or form == 'w') and back ~= 0 then
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
return {seen and 1 or -1, whole(now_us), change}
