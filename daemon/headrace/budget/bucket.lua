-- bucket: how a bucket of a rate or a window is read and written, and what is lent of it. Stands before the scripts that do so,
-- in one text with them.
--
-- Beside its level, or what is used of it, a bucket's hash has these while any of it is lent, or was a moment ago:
--   lent      tokens lent, all borrowers together
--   lapse     no loan ends before this moment (us)
--   <inbox>   of a borrower: "<tokens lent> <until (us)> <number of its last exchange>"
--
-- A loan has left the level when it is made, and a rate's level has no room for it while it runs: so whatever moment a borrower
-- spends it at, no window gets more than the bucket's promise. What is not back by the end of its loan is lost.
--
-- And, where upstream's word has lowered it since it was last full, a rate's has these: see bucket.py.
--   foreign   what others use (units a microsecond)
--   kept      units that were lowered and not counted as theirs
--   heard     the moment of that word (us)
--   first     the moment of the first (us)
--
-- A want here is a table: its bucket, form, figure, capacity and unit. Units, time and numbers as in reserve.lua.

local UNITS = 60000000
local PAST_END_US = 86400000000
local MEAN_US, FIRST_US, LONGEST_US, UNCOUNTED = 3000000, 3000000, 20000000, 4
local REMEMBER_US = 90000000  -- so long an exchange's number is remembered, against one that is sent twice

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local function whole(number) return string.format('%.0f', number) end

-- A number as somebody wrote it there; nil for what is none that any of ours is: with nan and inf nothing can be reckoned.
local function figure(text)
    local number = tonumber(text)
    if number and number > -1e18 and number < 1e18 then return number end
end

local function unit_of(form) return form == 'r' and UNITS or 1 end

-- What is lent to a borrower (tokens), until when, and the number of its last exchange; nil if this is no loan's field.
local function loan(text)
    local tokens, until_us, number = string.match(text or '', '^(%d+) (%d+) (%d+)$')
    return tonumber(tokens), tonumber(until_us), tonumber(number)
end

-- Forget the loans that have ended; return what is still lent.
local function without_lapsed(bucket)
    local fields = redis.call('HGETALL', bucket)
    local lent, lapse_us = 0, math.huge
    for j = 1, #fields, 2 do
        local tokens, until_us, number = loan(fields[j + 1])
        if tokens and until_us <= now_us then
            if tokens > 0 then redis.call('HSET', bucket, fields[j], '0 ' .. whole(until_us) .. ' ' .. whole(number)) end
            tokens, until_us = 0, until_us + REMEMBER_US
            if until_us <= now_us then redis.call('HDEL', bucket, fields[j]) end
        end
        if tokens and until_us > now_us then lent, lapse_us = lent + tokens, math.min(lapse_us, until_us) end
    end
    if lapse_us == math.huge then
        redis.call('HDEL', bucket, 'lent', 'lapse')
    else
        redis.call('HSET', bucket, 'lent', whole(lent), 'lapse', whole(lapse_us))
    end
    return lent
end

-- What flows in for us: the rate less nine tenths of what others use.
local function inflow(want) return want.figure - math.floor(math.min(want.foreign, want.figure) * 9 / 10) end

local function look_at_rate(want)
    local stored = redis.call('HMGET', want.bucket, 'level', 'at', 'lent', 'lapse', 'foreign', 'kept', 'heard', 'first')
    want.at_us = math.max(now_us, figure(stored[2]) or now_us)
    want.foreign, want.unheeded, want.heard_us = figure(stored[5]) or 0, figure(stored[6]) or 0, figure(stored[7])
    want.first_us = figure(stored[8])
    local came = inflow(want) * (want.at_us - (figure(stored[2]) or now_us))
    want.lent = (figure(stored[3]) or 0) * UNITS
    want.level = math.min(want.capacity - want.lent, (figure(stored[1]) or want.capacity) + came)
    want.remember_us = stored[3] and REMEMBER_US or 0
    want.forgets = stored[5] and want.level == want.capacity - want.lent
    if want.forgets then want.foreign, want.unheeded, want.heard_us, want.first_us = 0, 0, nil, nil end
    if stored[4] and (figure(stored[4]) or 0) <= now_us then
        -- What had no room beside a loan does not flow in after all once the loan has ended: so the level is written first.
        redis.call('HSET', want.bucket, 'level', whole(want.level), 'at', whole(want.at_us))
        want.lent = without_lapsed(want.bucket) * UNITS
    end
end

local function look_at_window(want)
    local stored = redis.call('HMGET', want.bucket, 'used', 'lent', 'lapse')
    want.level = want.capacity - (figure(stored[1]) or 0)
    want.lent = figure(stored[2]) or 0
    if stored[3] and (figure(stored[3]) or 0) <= now_us then want.lent = without_lapsed(want.bucket) end
end

-- A bucket as it is now: its level, and what is lent of it.
local function look(want)
    if want.form == 'r' then look_at_rate(want) else look_at_window(want) end
end

-- So much comes back; below zero: is taken in addition, which may leave debt.
local function give_back(want, back)
    local room = want.form == 'r' and want.capacity - want.lent or want.capacity
    want.level = math.min(room, want.level + back)
end

-- Upstream says that there is *most* at most. What is lent is on its way there. What has to be lowered again and again is what
-- others use: see bucket.py.
local function hear(want, most)
    most = most - want.lent
    local lowered = math.max(0, want.level - most)
    if want.form == 'r' then
        want.first_us = want.first_us or want.at_us
        local is_first = want.at_us - want.first_us < FIRST_US
        local uncounted = is_first and lowered or math.min(lowered, math.max(0, math.floor(want.capacity / UNCOUNTED) - want.unheeded))
        local span_us = want.heard_us and math.min(want.at_us - want.heard_us, LONGEST_US) or 0
        local near = math.max(0, 1 - UNCOUNTED * math.max(0, most - want.level) / want.capacity)
        local counted = math.min(lowered - uncounted, want.figure * (MEAN_US + span_us))
        local flowed_out = near * ((want.figure - inflow(want)) * span_us)
        want.foreign = math.min(want.figure, (want.foreign * MEAN_US + flowed_out + counted) / (MEAN_US + span_us))
        want.unheeded, want.heard_us = want.unheeded + (is_first and 0 or uncounted), want.at_us
        want.forgets = false
        local said = string.format('%.17g', want.foreign)
        redis.call('HSET', want.bucket, 'foreign', said, 'kept', whole(want.unheeded), 'heard', whole(want.heard_us),
            'first', whole(want.first_us))
    end
    want.level = want.level - lowered
end

-- Write it down. A rate's bucket that would be full again need not be remembered, unless anything of it was lent.
local function keep(want)
    if want.form == 'r' then
        redis.call('HSET', want.bucket, 'level', whole(want.level), 'at', whole(want.at_us))
        if want.forgets then redis.call('HDEL', want.bucket, 'foreign', 'kept', 'heard', 'first') end
        local full_us = (want.capacity - want.level) / inflow(want) + want.at_us - now_us
        redis.call('PEXPIRE', want.bucket, math.ceil(math.max(full_us, want.remember_us) / 1e3) + 1000)
    else
        redis.call('HSET', want.bucket, 'used', whole(want.capacity - want.level))
        redis.call('PEXPIREAT', want.bucket, math.ceil((math.max(want.figure, now_us) + PAST_END_US) / 1e3))
    end
end

-- Somebody waits: all borrowers are to return what they hold.
local function recall(bucket)
    local fields = redis.call('HGETALL', bucket)
    for j = 1, #fields, 2 do
        if (loan(fields[j + 1]) or 0) > 0 then redis.call('PUBLISH', fields[j], 'recall ' .. bucket) end
    end
end

