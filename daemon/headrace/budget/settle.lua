-- settle: close a hold. What was reserved is replaced by what was used, permits come back, and the hold leaves the lines.
--
-- Amending is the same of some of it while the hold stays open: permits and gates are left as they are, and it is done under an
-- id of its own, the hold's with "|told<number>" behind it.
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
-- ARGV[4]           a letter and four words for each want, by spaces:
--                   form      as in reserve.lua
--                   figure    as in reserve.lua
--                   capacity  tokens, or permits
--                   back      tokens to give back; below zero: taken in addition, which may leave debt;
--                             g: 1 it went well, 0 nobody knows, -1 upstream was overloaded, -2 its spend limit is reached
--                   said      r: what upstream says there is at most, in tokens; '-': nothing
--                             g: "<chance (1/1000)>/<in the air>/<least pause (us)>/<granted so long ago (us)>/<first pause (us)>/
--                             <longest (us)>", in one word
-- ARGV[5]           our inbox      whose the permits are
--
-- Returns {what, now_us, change}, change being what became of the gate (gate.lua has the numbers), and what being 1 if the hold was open, 0 if it was closed before (then nothing happens), -1 if it is
-- unknown: it was never granted, or its call ran for longer than holds are remembered. Nothing is given back to a rate
-- or a window then, which errs on the safe side; debt and permits are settled all the same.
--
-- What its flow was charged for waiting is corrected by what was used. Units, time, numbers and the keys of fairness as in reserve.lua.

local id, waiter = ARGV[1], ARGV[2]
local audit = #KEYS % 3 == 0 and KEYS[#KEYS - 1]

local seen = redis.call('GET', KEYS[1])
if seen == 'closed' then return {0, whole(now_us), 0} end
local open = string.match(KEYS[1], '^(.*)|told%d+$')
if open then seen = redis.call('GET', open) end
redis.call('SET', KEYS[1], 'closed', 'PX', math.ceil(tonumber(ARGV[3]) / 1e3))

local change = 0

local function settle(want, back, said)
    if want.form == 'g' then
        change = settle_gate(want, id, back, said)
    elseif want.form ~= 'p' then
        local most = tonumber(said)
        look(want)
        if back == 0 and not most then return end
        give_back(want, back * want.unit)
        if most then hear(want, most * want.unit) end
        keep(want)
        if audit and back ~= 0 then redis.call('XADD', audit, '*', 'bucket', want.bucket, 'at_us', whole(now_us), 'hold', id, 'back', whole(back)) end
    else
        redis.call('ZREM', want.bucket, id .. '@' .. ARGV[5])
        redis.call('ZREMRANGEBYSCORE', want.bucket, '-inf', whole(lapsed_us()))
        want.level = want.capacity - redis.call('ZCARD', want.bucket)
    end
end

local wants, backs = {}, {}
for form, figure, capacity, back, said in string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%S+) (%S+)') do
    local i = #wants + 1
    local want = {
        bucket = KEYS[3 * i - 1], line = KEYS[3 * i], waits = KEYS[3 * i + 1],
        form = form, figure = tonumber(figure), unit = unit_of(form), capacity = tonumber(capacity) * unit_of(form),
    }
    wants[i], backs[i] = want, tonumber(back)
    if not seen and form ~= 'g' then backs[i] = math.min(backs[i], 0) end
    local is_settled = not open or (form ~= 'p' and form ~= 'g')
    if is_settled then settle(want, backs[i], said) end
    if form == 'g' then backs[i] = 0 end -- a gate's is a verdict, and no part of the cost
    if is_settled and redis.call('EXISTS', want.line) == 1 then
        if waiter ~= '' then leave(want, waiter) end
        nudge(want)
    end
end

local index, cost, basis, charge, flow, charged = string.match(seen or '', '|(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
if index and tonumber(basis) > 0 then
    local left = open and 0 or basis - cost
    local more = -math.floor(charge * (left + backs[tonumber(index)]) / basis)
    for at in string.gmatch(charged, '%d+') do
        if more ~= 0 then correct(wants[tonumber(at)], flow, more) end
    end
end
return {seen and 1 or -1, whole(now_us), change}
