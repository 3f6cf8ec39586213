-- gate: how the gate of a model class is read, passed and moved by what attempts say; gate.py tells what for. Stands after
-- bucket.lua, before the scripts that do so, in one text with them.
--
-- A gate's hash has, while there is one: until, window (1/1000), aim, cut, tight, strikes, spent, ask; and "h:<hold id>" -> lease
-- end (us) of whoever has passed. A want here is a table: its bucket; its level is how many may pass.

local GATE_AWAY, GATE_LEASE_US, GATE_FORGET_US, GATE_OPEN_US, GATE_ASK_US = 1000000, 60000000, 60000000, 10000000, 60000000
local GATE_LEAST_AIM = 8000
local CHANGE = {nothing = 0, shut = 1, opened = 2, spent = 3, gone = 4, still_shut = 5, narrowed = 6}

-- Whether there is a gate; and how it stands, if there is.
local function look_at_gate(want)
    want.lent, want.gate = 0, nil
    if redis.call('EXISTS', want.bucket) == 0 then return false end
    local gate = {}
    want.passed = 0
    local stored = redis.call('HGETALL', want.bucket)
    for j = 1, #stored, 2 do
        local name, value = stored[j], figure(stored[j + 1])
        if string.sub(name, 1, 2) ~= 'h:' then gate[name] = value
        elseif (value or 0) > now_us then want.passed = want.passed + 1
        else redis.call('HDEL', want.bucket, name) end
    end
    for name in string.gmatch('until window aim cut tight strikes spent ask', '%l+') do
        if not gate[name] then return false end -- somebody else's
    end
    if gate.spent <= now_us then gate.spent = 0 end
    want.gate = gate
    return true
end

local function may_pass(want)
    local gate = want.gate
    if not gate then return GATE_AWAY end
    if gate.spent > 0 then return 1 end
    if gate['until'] > now_us then return 0 end
    return math.floor(gate.window / 1000) - want.passed
end

local function read_gate(want)
    look_at_gate(want)
    want.level = may_pass(want)
end

local function keep_gate(want, ...)
    redis.call('HSET', want.bucket, ...)
    local keep_us = math.max(now_us, want.gate['until'], want.gate.spent) + GATE_FORGET_US - now_us
    redis.call('PEXPIRE', want.bucket, math.ceil(keep_us / 1e3))
end

-- Somebody passes; the level says how many more may.
local function pass_gate(want, id)
    if not want.gate then return end
    want.level = want.level - want.cost
    keep_gate(want, 'h:' .. id, whole(now_us + GATE_LEASE_US))
    if want.gate.spent > 0 then keep_gate(want, 'ask', whole(now_us + GATE_ASK_US)) end
end

-- It went well.
local function widen(want)
    local gate, change = want.gate, CHANGE.nothing
    if gate.strikes > 1 or gate.spent > 0 then change = CHANGE.opened end
    gate.strikes, gate.spent = 0, 0
    if now_us - gate.tight > GATE_OPEN_US then
        redis.call('DEL', want.bucket)
        want.gate = nil
        return CHANGE.gone
    end
    local more = gate.window < gate.aim and 1000 or math.max(1, math.floor(1000000 / gate.window))
    gate.window = math.min(GATE_AWAY, gate.window + more)
    return change
end

-- Upstream was overloaded.
local function cut(gate, said)
    gate.cut, gate.tight, gate.strikes = now_us, now_us, gate.strikes + 1
    if gate.strikes == 1 then
        gate.aim = math.max(GATE_LEAST_AIM, math.floor(gate.window / 2))
        gate.window = math.max(1000, math.floor(gate.window / 2))
        gate['until'] = now_us + said.least_us
        return CHANGE.narrowed
    end
    local pause_us = math.min(said.longest_us, said.first_us * 2 ^ math.min(gate.strikes - 2, 8))
    gate['until'] = now_us + math.max(said.least_us, math.floor(pause_us * said.chance / 1000))
    gate.window = 1000
    return gate.strikes == 2 and CHANGE.shut or CHANGE.still_shut
end

-- Upstream's spend limit is reached.
local function spend(gate, said)
    gate.cut = now_us
    gate.spent, gate.ask = now_us + said.least_us, now_us + GATE_ASK_US
    return CHANGE.spent
end

local function heard(text)
    local chance, in_the_air, least_us, age_us, first_us, longest_us =
        string.match(text .. (text == '-' and '0/0/0/0/0/0' or ''), '(%d+)/(%d+)/(%d+)/(%d+)/(%d+)/(%d+)$')
    return {
        chance = tonumber(chance), in_the_air = tonumber(in_the_air), least_us = tonumber(least_us), age_us = tonumber(age_us),
        first_us = tonumber(first_us), longest_us = tonumber(longest_us),
    }
end

-- How many may pass after an attempt has said how it went; returns what that has changed.
local function settle_gate(want, id, verdict, text)
    local said, change = heard(text), CHANGE.nothing
    if redis.call('EXISTS', want.bucket) == 0 and verdict < 0 then
        local window = math.max(1, said.in_the_air) * 1000
        local aim = math.max(GATE_LEAST_AIM, math.floor(window / 2))
        redis.call('HSET', want.bucket, 'until', 0, 'window', whole(window), 'aim', whole(aim), 'cut', 0, 'tight', 0, 'strikes', 1, 'spent', 0, 'ask', 0)
    end
    redis.call('HDEL', want.bucket, 'h:' .. id)
    if look_at_gate(want) and verdict ~= 0 and now_us - said.age_us >= want.gate.cut then
        if verdict == 1 then change = widen(want)
        elseif verdict == -2 then change = spend(want.gate, said)
        else change = cut(want.gate, said) end
        if want.gate then
            for name, value in pairs(want.gate) do redis.call('HSET', want.bucket, name, whole(value)) end
            keep_gate(want, 'until', whole(want.gate['until']))
        end
    end
    want.level = may_pass(want)
    return change
end

