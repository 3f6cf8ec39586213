-- reserve: take the costs of all wants from their buckets, or none and say how long to wait.
--
-- KEYS[1]           the hold       string: "<at_us> <level> ..." once granted, and if others waited "|<index> <cost> <basis> <charge>
--                                  <flow> <index> ...": the want it was charged for, its cost and for how much of it (tokens), by how
--                                  much (us), and the wants in whose lines; "closed" once settled or released
-- then for the i-th want (i from 0):
-- KEYS[2+3i]        its bucket     by its form; rate: hash of level (units), at (us); permit: zset by lease end (us), as in renew.lua;
--                                  window: hash of what is used; gate: hash of its state and of who has passed; bucket.lua
--                                  and gate.lua say more
-- KEYS[3+3i]        its line       zset: waiters by rank (us)
-- KEYS[4+3i]        its waits      hash: waiter -> "<lease end (us)> <cost (units)> <charge (us)> <basis (tokens)> <index> <flow>"
-- KEYS[2+3n]        audit stream   optional: one entry {bucket, at_us, hold, cost} for each rate or window bucket of a grant
-- KEYS[#KEYS]       the pulse      as in renew.lua
--
-- ARGV[1]           hold id
-- ARGV[2]           waiter         "<inbox channel>|<number>": this place in line, and where to nudge it; '': none is wanted
-- ARGV[3]           five spans (us), a standing and a name, by spaces:
--                   hold      how long the hold is remembered
--                   permit    lease of a concurrency permit
--                   place     lease of a place in line
--                   behind    how soon to ask again when only somebody earlier stands in the way
--                   poll      how soon to ask again for a permit
--                   standing  what this waiter was told last, should its place be gone; "0 0 0 0": it has never waited
--                   flow      "<lane>/<its share>/<weight>/<caller>": for whom
-- ARGV[4]           a letter and three numbers for each want, by spaces:
--                   form      r: rate, flows in; p: permit, comes back; w: window, all of the capacity until it ends;
--                             g: gate, not there until upstream is overloaded
--                   figure    r: tokens a minute, which is units a microsecond; p, g: 0; w: its end (us)
--                   capacity  tokens, or permits
--                   cost      tokens, or permits
-- ARGV[5]           our inbox      whose the permits are
--
-- Returns {'granted', "<at_us> <whole tokens left, lent ones included> ..."}
--       | {'wait', us, i (from 1) of the bucket that takes longest, "<now_us> <whole tokens left> ...", and for a waiter its
--         standing: "<rank (us)> <charge (us)> <basis (tokens)> <index>"}
--       | {'never', i (from 1) of a bucket that can never hold the cost}
--       | {'spent', i (from 1) of the gate, us until upstream's spend limit is over}
--       | {'closed'}
--
-- Two more keys are named after the line, and touched only if there is one; rank.py says what they are for:
--   headrace:{budget}:fair:<id>    hash: clock (us); "<lane>/<its share>" -> the weights of its flows that are ahead of the clock;
--                                  "@<lane>/<its share>" -> "<finish of all its flows (us)> <when it was last here (us)>"
--   headrace:{budget}:flows:<id>   zset: flows by finish (us)
--
-- The unit of a rate is 1/60,000,000 token, so that rate x microseconds is exact, of all else 1; numbers are doubles, exact up
-- to 2^53, and written with %.0f, since Lua would write large ones as 1e+15. Time is Redis's own. If it goes back, a bucket
-- keeps its later moment: else the same span would flow in twice. A window is known by its bucket, and not by the time: its
-- bucket is remembered for a day past its end, for hosts whose clocks are behind and for what is settled late.

local MOST_US = 1e12 -- of one charge
local FULL_SHARE = 1e6
local GATE_SPAN_US = 1000
local id, waiter = ARGV[1], ARGV[2]
local own_permit = id .. '@' .. ARGV[5]
asking = waiter

local function numbers(text)
    local list = {}
    for word in string.gmatch(text, '%S+') do list[#list + 1] = tonumber(word) end
    return list
end

local hold_us, permit_us, place_us, behind_us, poll_us, old_rank, old_charge, old_basis, old_index = unpack(numbers(ARGV[3]))

local seen = redis.call('GET', KEYS[1])
if seen == 'closed' then return {'closed'} end
if seen and not string.find(seen, '^%d+ %-?%d') then seen = false end -- not what a script of ours wrote

-- Who asks again is told again, and has its permits for another lease. But one that has lapsed may be another's by now.
local function has_permits()
    local permits, i = {}, 0
    for form in string.gmatch(ARGV[4], '(%a) %S+ %S+ %S+') do
        i = i + 1
        if form == 'p' then permits[#permits + 1] = KEYS[3 * i - 1] end
    end
    for _, permit in ipairs(permits) do
        if not redis.call('ZSCORE', permit, own_permit) then return false end
    end
    for _, permit in ipairs(permits) do redis.call('ZADD', permit, whole(now_us + permit_us), own_permit) end
    return true
end

if seen and has_permits() then return {'granted', string.match(seen, '^[^|]*')} end
if seen then redis.call('DEL', KEYS[1]) end -- it begins anew, and what it took comes back first

-- What is left in a bucket now, and what is lent of it, in its unit.
local function read(want)
    if want.form == 'g' then return read_gate(want) end
    if want.form ~= 'p' then return look(want) end
    redis.call('ZREMRANGEBYSCORE', want.bucket, '-inf', whole(lapsed_us()))
    want.level, want.lent = want.capacity - redis.call('ZCARD', want.bucket), 0
end

-- Read every bucket as it is now.
local wants = {}
for form, figure, capacity, tokens in string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%S+)') do
    local i = #wants + 1
    local unit = unit_of(form)
    local want = {
        bucket = KEYS[3 * i - 1], line = KEYS[3 * i], waits = KEYS[3 * i + 1],
        form = form, figure = tonumber(figure), unit = unit, capacity = tonumber(capacity) * unit, cost = tonumber(tokens) * unit,
    }
    if want.cost > want.capacity then return {'never', i} end
    if seen and form == 'p' then redis.call('ZREM', want.bucket, own_permit) end
    if seen and form == 'g' then redis.call('HDEL', want.bucket, 'h:' .. id) end
    read(want)
    if seen and (form == 'r' or form == 'w') then
        give_back(want, want.cost)
        keep(want)
    end
    want.has_line = redis.call('EXISTS', want.line) == 1
    wants[i] = want
end

for i, want in ipairs(wants) do
    local gate = want.gate
    if gate and gate.spent > 0 and gate.ask > now_us then return {'spent', i, gate.spent - now_us} end
end

-- Fairness: what `Fair` does in rank.py.

local flow = string.match(ARGV[3], '%S+$')
if seen then
    local charge, charged = string.match(seen, '|%d+ %d+ %d+ (%d+) %S+ (.*)$')
    for at in string.gmatch(charged or '', '%d+') do correct(wants[tonumber(at)], flow, -charge) end
end
local lane, share, weight = string.match(flow, '^([^/]*/(%d+))/(%d+)/')

local function weigh(want, of, sign)
    local its_lane, its_weight = string.match(of, '^([^/]*/%d+)/(%d+)/')
    if redis.call('HINCRBY', fair(want), its_lane, sign * its_weight) <= 0 then redis.call('HDEL', fair(want), its_lane) end
end

local function serve(want, clock)
    if clock > (want.clock or 0) then
        want.clock = clock
        redis.call('HSET', fair(want), 'clock', whole(clock))
    end
end

-- The clocks of some lines, brought together; those who are no longer ahead of them are forgotten.
local function together(some)
    local clock
    for _, want in ipairs(some) do
        want.clock = tonumber(redis.call('HGET', fair(want), 'clock'))
        if not want.clock then redis.call('DEL', fair(want), flows(want)) end
        clock = math.max(clock or 0, want.clock or 0)
    end
    clock = (clock > 0 and clock or now_us) + 1
    for _, want in ipairs(some) do
        serve(want, clock)
        local past = redis.call('ZRANGEBYSCORE', flows(want), '-inf', whole(clock))
        for _, of in ipairs(past) do weigh(want, of, -1) end
        if #past > 0 then redis.call('ZREMRANGEBYSCORE', flows(want), '-inf', whole(clock)) end
    end
    return clock
end

local function finish(want) return tonumber(redis.call('ZSCORE', flows(want), flow)) end

-- The rank of a call of our flow in some lines.
local function start(some)
    local rank = together(some)
    for _, want in ipairs(some) do rank = math.max(rank, finish(want) or 0) end
    return rank
end

-- How long a bucket takes to give the cost. Of permits and windows nobody knows, and all of them may come in a second; a gate
-- is to count only where no bucket does: see want.py.
local function span(want)
    if want.form == 'r' then return want.cost / want.figure end
    if want.form == 'g' then return GATE_SPAN_US end
    return want.cost / want.capacity * 1e6
end

local function charge_in(want)
    local weights = (redis.call('HGET', fair(want), lane) or 0) + (finish(want) and 0 or tonumber(weight))
    return math.max(1, math.min(MOST_US, math.floor(span(want) * FULL_SHARE * weights / (share * weight))))
end

local function add(want, rank, charge)
    local before = finish(want)
    if not before then weigh(want, flow, 1) end
    redis.call('ZADD', flows(want), whole(math.max(before or 0, rank) + charge), flow)
    move_lane(want, flow, charge, rank)
end

-- The costs of those of lower rank, the last of their ranks, the first of them, and whose that is. Equal ranks go by name, as the
-- zset sorts them. Where the sum decides nothing but whether there is room for all, it ends with the first for whom there is none:
-- lines are long.
local function ahead(want, rank)
    local is_exact = want.form == 'r' or want.form == 'w'
    local most = is_exact and -1 or math.max(0, want.level) + 16
    local sum, after, first, first_flow, seen_all
    repeat
        sum, after, first, first_flow = 0, 0, nil, nil
        local line = redis.call('ZRANGEBYSCORE', want.line, '-inf', whole(rank), 'WITHSCORES', 'LIMIT', 0, most)
        for j = 1, #line, 2 do
            local who, its_rank = line[j], tonumber(line[j + 1])
            if its_rank == rank and who >= waiter then return sum, after, first, first_flow end
            local cost, _, its_flow = waiting_cost(want, who)
            if cost then sum, after, first, first_flow = sum + cost, its_rank, first or its_rank, first_flow or its_flow end
            if not is_exact and want.level < sum + want.cost then return sum, after, first, first_flow end
        end
        seen_all, most = most < 0 or #line < 2 * most, -1
    until seen_all
    return sum, after, first, first_flow
end

local function levels()
    local parts = {whole(now_us)}
    for i, want in ipairs(wants) do parts[i + 1] = whole(math.floor((want.level + want.lent) / want.unit)) end
    return table.concat(parts, ' ')
end

-- A permit comes back when it will, or at the end of a lease that nobody renews.
local function next_permit_us(want)
    local left_us = (redis.call('ZRANGE', want.bucket, 0, 0, 'WITHSCORES')[2] or 0) - now_us
    return left_us > 0 and math.min(poll_us, left_us) or poll_us
end

-- How long until that much more is there than now. What is lent comes home at once, or has been spent.
local function wait(want, short)
    short = short - want.lent
    if want.form == 'p' then return next_permit_us(want) end
    if want.form == 'g' then
        local pause_us = want.gate and want.gate['until'] - now_us or 0
        return pause_us > 0 and pause_us or poll_us
    end
    if short <= 0 then return behind_us end
    if want.form == 'r' then return math.ceil(short / inflow(want)) + want.at_us - now_us end
    return math.max(want.figure - now_us, behind_us)
end

-- A waiter keeps its rank, in every line the same: else two could each stand behind the other.
local rank, charge, basis, index
local lines = {}
for _, want in ipairs(wants) do
    if want.has_line then
        lines[#lines + 1] = want
        local score = tonumber(redis.call('ZSCORE', want.line, waiter))
        local place = score and place_of(want, waiter)
        if place then
            want.is_in_line, rank, charge, basis, index = true, score, place.charge, place.basis, place.index
        elseif score then
            redis.call('ZREM', want.line, waiter)
        end
    end
end
local is_out = not rank -- of all lines; whoever was dropped from them comes back with what it had
if is_out and old_rank > 0 then
    rank, charge, basis, index = old_rank, old_charge, old_basis, old_index
    if #lines > 0 then together(lines) end
elseif is_out and #lines > 0 then
    rank = start(lines)
end
if index then index = math.min(index, #wants) end -- they may have become fewer

local longest_us, longest = -1, 0
local blocking, joining = {}, {}
for i, want in ipairs(wants) do
    local needed = want.cost
    if want.has_line then
        local sum, after
        sum, after, want.first, want.first_flow = ahead(want, rank)
        needed = sum + want.cost + headroom(want, lanes_of(want), flow, rank, after, want.cost)
    end
    want.is_blocking = want.level < needed -- where there is room for all of them, nobody need wait until they ask
    if want.is_blocking then
        blocking[#blocking + 1] = want
        if not want.is_in_line then joining[#joining + 1] = want end
        local wait_us = wait(want, needed - want.level)
        if wait_us > longest_us then longest_us, longest = wait_us, i end
    end
end

-- Who names no place stands in no line.
if longest > 0 and waiter == '' then return {'wait', longest_us, longest, levels()} end

if longest > 0 then
    if #joining > 0 then
        if not rank then rank = start(blocking) else together(blocking) end
        if not charge then
            charge, index = charge_in(wants[longest]), longest
            basis = wants[index].cost / wants[index].unit
        end
        for _, want in ipairs(joining) do add(want, rank, charge) end
    end
    for _, want in ipairs(wants) do
        if want.is_blocking then
            if want.gate then keep_gate(want, 'tight', whole(now_us)) end
            redis.call('ZADD', want.line, whole(rank), waiter)
            local figures = {whole(now_us + place_us), whole(want.cost), whole(charge), whole(basis), index, flow}
            redis.call('HSET', want.waits, waiter, table.concat(figures, ' '))
            for _, key in ipairs({want.line, want.waits}) do redis.call('PEXPIRE', key, math.ceil(hold_us / 1e3)) end
            for _, key in ipairs({fair(want), flows(want)}) do redis.call('PEXPIRE', key, math.ceil(place_us / 1e3) + 1000) end
            if want.lent > 0 then recall(want.bucket) end
            -- Now that we are here the first, of another lane, may have to leave less; it was told to wait for more.
            if want.first_flow and want.form == 'r' and string.match(want.first_flow, '^[^/]*/%d+') ~= lane then nudge(want) end
        elseif want.has_line and leave(want, waiter) then
            nudge(want)
        end
    end
    local standing = table.concat({whole(rank), whole(charge), whole(basis), index}, ' ')
    return {'wait', longest_us, longest, levels(), standing}
end

-- Take.
local function audit(want)
    if #KEYS > 3 * #wants + 2 then
        local cost = whole(want.cost / want.unit)
        redis.call('XADD', KEYS[#KEYS - 1], '*', 'bucket', want.bucket, 'at_us', whole(now_us), 'hold', id, 'cost', cost)
    end
end

for _, want in ipairs(wants) do
    if want.form ~= 'g' then want.level = want.level - want.cost end
    if want.form == 'g' then
        pass_gate(want, id)
    elseif want.form ~= 'p' then
        keep(want)
        audit(want)
    else
        redis.call('ZADD', want.bucket, whole(now_us + permit_us), own_permit)
        redis.call('PEXPIRE', want.bucket, math.ceil(hold_us / 1e3)) -- longer than its lease: see lapsed_us
    end
end
local grant = levels()

-- Who takes before others who wait is charged for it, whether it has waited itself or not.
local record = ''
if #lines > 0 then
    local charged = {}
    if not charge then
        index = 0
        for i, want in ipairs(wants) do
            if want.has_line and (index == 0 or span(want) > span(wants[index])) then index = i end
        end
        charge, basis = charge_in(wants[index]), wants[index].cost / wants[index].unit
    end
    for i, want in ipairs(wants) do
        if is_out and want.has_line then add(want, rank, charge) end
        if want.is_in_line or (is_out and want.has_line) then
            charged[#charged + 1] = i
            want.clock = want.clock or tonumber(redis.call('HGET', fair(want), 'clock'))
            serve(want, math.min(rank, want.first or rank)) -- those who are overtaken still wait, and their flows begin there
            for _, key in ipairs({fair(want), flows(want)}) do redis.call('PEXPIRE', key, math.ceil(place_us / 1e3) + 1000) end
        end
    end
    local figures = {index, whole(wants[index].cost / wants[index].unit), whole(basis), whole(charge), flow, table.concat(charged, ' ')}
    record = '|' .. table.concat(figures, ' ')
end
redis.call('SET', KEYS[1], grant .. record, 'PX', math.ceil(hold_us / 1e3))

-- Whoever is first in line now may have asked a moment too early, or waited for this place only.
for _, want in ipairs(wants) do
    if want.has_line then
        redis.call('HDEL', want.waits, waiter)
        redis.call('ZREM', want.line, waiter)
        nudge(want)
    end
end
return {'granted', grant}
