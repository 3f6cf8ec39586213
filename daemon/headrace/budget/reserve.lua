-- reserve: take the costs of all wants from their buckets, or none and say how long to wait.
--
-- KEYS[1]           the hold       string: "<at_us> <level> ..." once granted, "closed" once settled or released
-- then for the i-th want (i from 0):
-- KEYS[2+3i]        its bucket     by its form; rate: hash of level (units), at (us); permit: zset of hold ids by lease end (us);
--                                  window: hash of what is used
-- KEYS[3+3i]        its line       zset: waiters by arrival (us)
-- KEYS[4+3i]        its waits      hash: waiter -> "<lease end (us)> <cost (units)>"
-- KEYS[2+3n]        audit stream   optional: one entry {bucket, at_us, hold, cost} for each rate or window bucket of a grant
--
-- ARGV[1]           hold id
-- ARGV[2]           waiter         "<inbox channel>|<number>": this place in line, and where to nudge it; '': none is wanted
-- ARGV[3]           six spans (us), by spaces:
--                   waited    since the call arrived
--                   hold      how long the hold is remembered
--                   permit    lease of a concurrency permit
--                   place     lease of a place in line
--                   behind    how soon to ask again when only somebody earlier stands in the way
--                   poll      how soon to ask again for a permit
-- ARGV[4]           a letter and three numbers for each want, by spaces:
--                   form      r: rate, flows in; p: permit, comes back; w: window, all of the capacity until it ends
--                   figure    r: tokens a minute, which is units a microsecond; p: 0; w: its end (us)
--                   capacity  tokens, or permits
--                   cost      tokens, or permits
--
-- Returns {'granted', "<at_us> <whole tokens left> ..."}
--       | {'wait', us, i (from 1) of the bucket that takes longest, "<now_us> <whole tokens left> ..."}
--       | {'never', i (from 1) of a bucket that can never hold the cost}
--       | {'closed'}
--
-- The unit of a rate is 1/60,000,000 token, so that rate x microseconds is exact, of all else 1; numbers are doubles, exact up
-- to 2^53, and written with %.0f, since Lua would write large ones as 1e+15. Time is Redis's own. If it goes back, a bucket
-- keeps its later moment: else the same span would flow in twice. A window is known by its bucket, and not by the time: its
-- bucket is remembered for a day past its end, for hosts whose clocks are behind and for what is settled late.

local UNITS = 60000000
local PAST_END_US = 86400000000
local id, waiter = ARGV[1], ARGV[2]

local function numbers(text)
    local list = {}
    for word in string.gmatch(text, '%S+') do list[#list + 1] = tonumber(word) end
    return list
end

local waited_us, hold_us, permit_us, place_us, behind_us, poll_us = unpack(numbers(ARGV[3]))

local seen = redis.call('GET', KEYS[1])
if seen == 'closed' then return {'closed'} end
if seen then return {'granted', seen} end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local arrival_us = now_us - waited_us

local function whole(number) return string.format('%.0f', number) end

-- What is left in a bucket now, in its unit.
local function read(want)
    if want.form == 'r' then
        local stored = redis.call('HMGET', want.bucket, 'level', 'at')
        want.at_us = math.max(now_us, tonumber(stored[2]) or now_us)
        local inflow = want.figure * (want.at_us - (tonumber(stored[2]) or now_us))
        want.level = math.min(want.capacity, (tonumber(stored[1]) or want.capacity) + inflow)
    elseif want.form == 'w' then
        want.level = want.capacity - (tonumber(redis.call('HGET', want.bucket, 'used')) or 0)
    else
        redis.call('ZREMRANGEBYSCORE', want.bucket, '-inf', whole(now_us))
        want.level = want.capacity - redis.call('ZCARD', want.bucket)
    end
end

-- Read every bucket as it is now.
local wants = {}
for form, figure, capacity, tokens in string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%S+)') do
    local i = #wants + 1
    local unit = form == 'r' and UNITS or 1
    local want = {
        bucket = KEYS[3 * i - 1], line = KEYS[3 * i], waits = KEYS[3 * i + 1], at_us = now_us,
        form = form, figure = tonumber(figure), unit = unit, capacity = tonumber(capacity) * unit, cost = tonumber(tokens) * unit,
    }
    if want.cost > want.capacity then return {'never', i} end
    read(want)
    want.has_line = redis.call('EXISTS', want.line) == 1
    wants[i] = want
end

-- A waiter keeps its first arrival, in every line the same: else two could each stand behind the other.
for _, want in ipairs(wants) do
    local arrived = want.has_line and redis.call('ZSCORE', want.line, waiter)
    if arrived then
        arrival_us = tonumber(arrived)
        break
    end
end

local function leave(want, who)
    redis.call('HDEL', want.waits, who)
    return redis.call('ZREM', want.line, who) == 1
end

-- The cost of a place in line, or nil if its lease has lapsed (then the place is gone).
local function waiting_cost(want, who)
    local until_us, cost = string.match(redis.call('HGET', want.waits, who) or '', '^(%d+) (%d+)$')
    if until_us and tonumber(until_us) > now_us then return tonumber(cost) end
    leave(want, who)
end

-- The costs of those who came earlier, and whether there are any. Equal arrivals go by name, as the zset sorts them.
local function ahead(want)
    local sum, is_behind = 0, false
    local line = redis.call('ZRANGE', want.line, 0, -1, 'WITHSCORES')
    for j = 1, #line, 2 do
        local who, arrived_us = line[j], tonumber(line[j + 1])
        if arrived_us > arrival_us or (arrived_us == arrival_us and who >= waiter) then break end
        local cost = waiting_cost(want, who)
        if cost then sum, is_behind = sum + cost, true end
    end
    return sum, is_behind
end

-- Let the first in line ask again, if it fits now.
local function nudge(want)
    local first, cost
    repeat
        first = redis.call('ZRANGE', want.line, 0, 0)[1]
        cost = first and waiting_cost(want, first)
    until cost or not first
    if cost and want.level >= cost then
        redis.call('PUBLISH', string.match(first, '^(.*)|'), 'permit ' .. first)
    end
end

local function levels()
    local parts = {whole(now_us)}
    for i, want in ipairs(wants) do parts[i + 1] = whole(math.floor(want.level / want.unit)) end
    return table.concat(parts, ' ')
end

-- How long until that much more is there than now.
local function wait(want, short)
    if want.form == 'p' then return poll_us end
    if short <= 0 then return behind_us end
    if want.form == 'r' then return math.ceil(short / want.figure) + want.at_us - now_us end
    return math.max(want.figure - now_us, behind_us)
end

local longest_us, longest = -1, 0
for i, want in ipairs(wants) do
    local sum, is_behind = 0, false
    if want.has_line then sum, is_behind = ahead(want) end
    want.is_blocking = is_behind or want.level < want.cost
    if want.is_blocking then
        local wait_us = wait(want, sum + want.cost - want.level)
        if wait_us > longest_us then longest_us, longest = wait_us, i end
    end
end

-- Who names no place stands in no line.
if longest > 0 and waiter == '' then return {'wait', longest_us, longest, levels()} end

if longest > 0 then
    for _, want in ipairs(wants) do
        if want.is_blocking then
            redis.call('ZADD', want.line, whole(arrival_us), waiter)
            redis.call('HSET', want.waits, waiter, whole(now_us + place_us) .. ' ' .. whole(want.cost))
            redis.call('PEXPIRE', want.line, math.ceil(place_us / 1e3) + 1000)
            redis.call('PEXPIRE', want.waits, math.ceil(place_us / 1e3) + 1000)
        elseif want.has_line and leave(want, waiter) then
            nudge(want)
        end
    end
    return {'wait', longest_us, longest, levels()}
end

-- Take.
local function audit(want)
    if #KEYS > 3 * #wants + 1 then
        local cost = whole(want.cost / want.unit)
        redis.call('XADD', KEYS[#KEYS], '*', 'bucket', want.bucket, 'at_us', whole(now_us), 'hold', id, 'cost', cost)
    end
end

for _, want in ipairs(wants) do
    want.level = want.level - want.cost
    if want.form == 'r' then
        redis.call('HSET', want.bucket, 'level', whole(want.level), 'at', whole(want.at_us))
        -- A bucket that would be full again need not be remembered.
        local full_us = (want.capacity - want.level) / want.figure + want.at_us - now_us
        redis.call('PEXPIRE', want.bucket, math.ceil(full_us / 1e3) + 1000)
        audit(want)
    elseif want.form == 'w' then
        redis.call('HSET', want.bucket, 'used', whole(want.capacity - want.level))
        redis.call('PEXPIREAT', want.bucket, math.ceil((math.max(want.figure, now_us) + PAST_END_US) / 1e3))
        audit(want)
    else
        redis.call('ZADD', want.bucket, whole(now_us + permit_us), id)
        redis.call('PEXPIRE', want.bucket, math.ceil(permit_us / 1e3) + 1000)
    end
end
local grant = levels()
redis.call('SET', KEYS[1], grant, 'PX', math.ceil(hold_us / 1e3))

-- Whoever is first in line now may have asked a moment too early, or waited for this place only.
for _, want in ipairs(wants) do
    if want.has_line then
        leave(want, waiter)
        nudge(want)
    end
end
return {'granted', grant}
