-- line: who waits for a bucket, and who comes next. Stands after bucket.lua, before the scripts that grant or give back, in one
-- text with them.
--
-- A want here is a table: its line, its waits, and the level that is left. What its keys hold, reserve.lua says.

local function fair(want) return (string.gsub(want.line, ':line:', ':fair:', 1)) end
local function flows(want) return (string.gsub(want.line, ':line:', ':flows:', 1)) end

-- A flow has cost so much more than it was charged; below zero: less. One that is behind the clock owes nothing.
local function correct(want, flow, more)
    if redis.call('ZSCORE', flows(want), flow) then redis.call('ZINCRBY', flows(want), whole(more), flow) end
end

local function place_of(want, who)
    local until_us, cost, charge, basis, index, flow = string.match(
        redis.call('HGET', want.waits, who) or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
    return until_us and {
        until_us = tonumber(until_us), cost = tonumber(cost), charge = tonumber(charge), basis = tonumber(basis),
        index = tonumber(index), flow = flow,
    }
end

-- Whoever leaves without a grant takes back what its flow was charged.
local function leave(want, who)
    local place = place_of(want, who)
    if place then correct(want, place.flow, -place.charge) end
    redis.call('HDEL', want.waits, who)
    return redis.call('ZREM', want.line, who) == 1
end

-- The cost of a place in line, or nil if its lease has lapsed (then the place is gone).
local function waiting_cost(want, who)
    local place = place_of(want, who)
    if place and place.until_us > now_us then return place.cost end
    leave(want, who)
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

