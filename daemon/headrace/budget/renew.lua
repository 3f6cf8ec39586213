-- renew: a process says that it lives. Its permits are held for another lease, and what the dead held may lapse.
--
-- KEYS[1]    pulse      string: "<from_us> <until_us>"; between the two, leases that have ended are over
-- KEYS[1+i]  permits    zset: hold ids by lease end (us)
-- ARGV[1]    three spans (us), by spaces:
--            lease      of a concurrency permit, and of a place in line
--            gap        after so long without a word from anybody, it was Redis that was away
--            hold       how long the permits of a bucket are remembered at the most
-- ARGV[1+i]  hold ids   whose permits in KEYS[1+i] are renewed, by spaces
--
-- Leases are measured by Redis's clock, which runs on while Redis stands still and hears nobody. So after a gap nothing is over
-- until a whole lease has passed in which those who live could renew.
--
-- A permit that has lapsed is taken anew, above the capacity if it must be: its request is at upstream and cannot be unsent, and
-- counting it keeps the next one out.

local MOST = 1000 -- pairs in one command; Lua's stack has an end

local lease_us, gap_us, hold_us = string.match(ARGV[1], '(%d+) (%d+) (%d+)')
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local function whole(number) return string.format('%.0f', number) end

local from_us, until_us = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
local is_unbroken = until_us and now_us <= tonumber(until_us) and now_us >= tonumber(until_us) - gap_us
if not is_unbroken then from_us = whole(now_us + lease_us) end
redis.call('SET', KEYS[1], from_us .. ' ' .. whole(now_us + gap_us), 'PX', math.ceil(hold_us / 1e3))

local lease_end = whole(now_us + lease_us)
for i = 2, #KEYS do
    local taken = {}
    for id in string.gmatch(ARGV[i], '%S+') do
        taken[#taken + 1] = lease_end
        taken[#taken + 1] = id
        if #taken == 2 * MOST then
            redis.call('ZADD', KEYS[i], unpack(taken))
            taken = {}
        end
    end
    if #taken > 0 then redis.call('ZADD', KEYS[i], unpack(taken)) end
    redis.call('PEXPIRE', KEYS[i], math.ceil(hold_us / 1e3))
end
return 1
