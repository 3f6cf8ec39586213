-- exchange: what one borrower has to say of its quanta, all at once: what it spent of them, what comes back, what it asks for.
--
-- KEYS[1+3i]        a bucket       of a rate or a window, as in reserve.lua and bucket.lua (i from 0)
-- KEYS[2+3i]        its line       as in reserve.lua
-- KEYS[3+3i]        its waits      as in reserve.lua
-- KEYS[1+3n]        audit stream   optional: what ARGV[4] tells
-- KEYS[#KEYS]       the pulse      as in renew.lua
--
-- ARGV[1]           inbox          of the borrower, by which it is known and recalled
-- ARGV[2]           number         of this exchange; a borrower's numbers rise, and one that was seen is not done again
-- ARGV[3]           loan_us        how long a loan runs from now on
-- ARGV[4]           audit          "<bucket, from 1> <at_us> <hold> <cost or back> <tokens>" for each move, by spaces
-- ARGV[5]           a letter and nine words for each bucket, by spaces:
--                   form, figure, capacity    as in reserve.lua
--                   spent     tokens of the loan that were granted to calls
--                   back      tokens that calls gave back; below zero: taken in addition, which may leave debt
--                   home      tokens of the loan that come home unspent
--                   kept      tokens of the loan that are left; what else Redis believes to be lent was lost on the way
--                   asked     tokens that are asked for
--                   most      tokens that may be lent to one borrower
--                   said      what upstream says there is at most, in tokens; '-': nothing
--
-- Returns "<now_us> <lent> <left_us> <whole tokens left, lent ones included> <1 if all is to come home> ..." for the buckets in
-- order, left_us being how long the loan still runs. All is to come home while somebody waits, and while the bucket is in debt.
--
-- Nothing is lent while somebody waits, and never more than half of what is there. Of a loan that has ended nothing comes home.
-- What a borrower grants is charged to no flow, as nobody waited when it was lent; so there is nothing to correct either.

local borrower, number, loan_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function read(want)
    look(want)
    local tokens, until_us, last = loan(redis.call('HGET', want.bucket, borrower))
    want.until_us, want.last = until_us or 0, last or 0
    want.loan = want.until_us > now_us and tokens or 0
    want.has_line = redis.call('EXISTS', want.line) == 1
end

-- What comes home and comes back, then what is lent anew.
local function exchange(want)
    local unspent = math.max(0, want.loan - want.spent)
    local kept = math.min(want.kept, unspent)
    local home = math.min(want.home, unspent - kept)
    want.lent = want.lent + (kept - want.loan) * want.unit
    give_back(want, (home + want.back) * want.unit)
    if want.said then hear(want, want.said * want.unit) end
    local more = 0
    if not want.has_line then
        more = math.max(0, math.min(want.asked, want.most - kept, math.floor(want.level / want.unit / 2)))
    end
    want.level = want.level - more * want.unit
    want.lent = want.lent + more * want.unit
    want.loan, want.until_us = kept + more, now_us + loan_us
    if want.loan == 0 then want.until_us = now_us end
end

local function write(want)
    local lapse_us = want.loan > 0 and want.until_us or now_us + REMEMBER_US
    lapse_us = math.min(lapse_us, figure(redis.call('HGET', want.bucket, 'lapse')) or lapse_us)
    redis.call('HSET', want.bucket, 'lent', whole(want.lent / want.unit), 'lapse', whole(lapse_us),
        borrower, whole(want.loan) .. ' ' .. whole(want.until_us) .. ' ' .. whole(number))
    want.remember_us = REMEMBER_US + loan_us
    keep(want)
end

local is_new, reply = false, {whole(now_us)}
local shape = '(%a) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)'
for form, figure, capacity, spent, back, home, kept, asked, most, said in string.gmatch(ARGV[5], shape) do
    local i = (#reply - 1) / 4 + 1
    local want = {
        bucket = KEYS[3 * i - 2], line = KEYS[3 * i - 1], waits = KEYS[3 * i],
        form = form, figure = tonumber(figure), unit = unit_of(form), capacity = tonumber(capacity) * unit_of(form),
        spent = tonumber(spent), back = tonumber(back), home = tonumber(home), kept = tonumber(kept), asked = tonumber(asked),
        most = tonumber(most), said = tonumber(said),
    }
    read(want)
    if want.last < number then
        is_new = true
        exchange(want)
        write(want)
    end
    if want.has_line then nudge(want) end
    reply[#reply + 1] = whole(want.loan)
    reply[#reply + 1] = whole(math.max(0, want.until_us - now_us))
    reply[#reply + 1] = whole(math.floor((want.level + want.lent) / want.unit))
    reply[#reply + 1] = (want.has_line or want.level < 0) and '1' or '0'
end

if is_new and #KEYS % 3 == 2 then
    -- A grant counts from when it was made; what comes back counts from now, as nobody could have it before.
    for i, at_us, hold, what, tokens in string.gmatch(ARGV[4], '(%S+) (%S+) (%S+) (%S+) (%S+)') do
        redis.call('XADD', KEYS[#KEYS - 1], '*', 'bucket', KEYS[3 * i - 2], 'at_us', what == 'back' and whole(now_us) or at_us, 'hold', hold, what, tokens)
    end
end
return table.concat(reply, ' ')
