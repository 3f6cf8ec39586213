-- line: who waits for a bucket, and who comes next. Stands after bucket.lua, before the scripts that grant or give back, in one
-- text with them.
--
-- A want here is a table: its line, its waits, and the level that is left. What its keys hold, reserve.lua says; the last of all
-- keys is the pulse.

local ANSWER_US = 600000 -- who is nudged and does not ask in this time no longer holds up the others
local MOST_NUDGED = 16
local PRESENT_US, MOST_ROOM = 10000000, 0.8
local asking -- the waiter that asks right now, if it is one who does: it is there, whatever its lease says

-- Leases that ended by this moment are over. None is while Redis has just come back: then those who live renew first.
local over_us
local function lapsed_us()
    if not over_us then
        local from_us, until_us = string.match(redis.call('GET', KEYS[#KEYS]) or '', '^(%d+) (%d+)$')
        over_us = from_us and tonumber(from_us) <= now_us and now_us <= tonumber(until_us) and now_us or 0
    end
    return over_us
end

local function fair(want) return (string.gsub(want.line, ':line:', ':fair:', 1)) end
local function flows(want) return (string.gsub(want.line, ':line:', ':flows:', 1)) end

-- The finish of a lane, as of one flow, moves by its part of what one of its flows is charged. *rank* is that of a call that
-- comes; nil: one that has come is charged otherwise.
local function move_lane(want, flow, charge, rank)
    local lane, weight = string.match(flow, '^([^/]*/%d+)/(%d+)/')
    local before = redis.call('HMGET', fair(want), lane, '@' .. lane)
    local finish, seen_us = string.match(before[2] or '', '^(%-?%d+) (%d+)$')
    if not before[1] or not (finish or rank) then return end
    local start = rank and math.max(tonumber(finish) or 0, rank) or tonumber(finish)
    finish = start + math.floor(charge * weight / before[1])
    redis.call('HSET', fair(want), '@' .. lane, whole(finish) .. ' ' .. (rank and whole(now_us) or seen_us))
end

-- A flow has cost so much more than it was charged; below zero: less. One that is behind the clock owes nothing.
local function correct(want, flow, more)
    if not redis.call('ZSCORE', flows(want), flow) then return end
    redis.call('ZINCRBY', flows(want), whole(more), flow)
    move_lane(want, flow, more)
end

-- The clock of a line, and the lanes that were there lately.
local function lanes_of(want)
    local lanes, fields = {clock = 0}, redis.call('HGETALL', fair(want))
    for j = 1, #fields, 2 do
        local lane, share = string.match(fields[j], '^@(.*/(%d+))$')
        local finish, seen_us = string.match(fields[j + 1], '^(%-?%d+) (%d+)$')
        if fields[j] == 'clock' then
            lanes.clock = tonumber(fields[j + 1])
        elseif lane and now_us - seen_us < PRESENT_US then
            lanes[#lanes + 1] = {name = lane, share = tonumber(share), finish = tonumber(finish)}
        end
    end
    return lanes
end

-- How much of a rate a call leaves to the other lanes: `Fair.headroom` in rank.py.
local function headroom(want, lanes, flow, rank, after, cost)
    if want.form ~= 'r' then return 0 end
    local room, sum = math.floor(math.max(0, want.capacity - want.lent - cost) * MOST_ROOM), 0
    local own = string.match(flow, '^[^/]*/%d+')
    for _, lane in ipairs(lanes) do
        local ahead_us = rank - math.max(lanes.clock, lane.finish, after)
        if lane.name ~= own and ahead_us > 0 then
            sum = sum + math.min(room, math.floor(ahead_us * lane.share / 1e6 * want.figure))
        end
    end
    return math.min(sum, room)
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

-- One of its places has lapsed: a process is gone, or stands still, with all who wait in it. If it lives they soon ask again, and
-- are where they were: they bring their rank and their charge.
local function drop_process(want, who)
    local inbox = string.match(who, '^(.*|)')
    for _, other in ipairs(redis.call('ZRANGE', want.line, 0, -1)) do
        if other ~= asking and string.sub(other, 1, #inbox) == inbox then leave(want, other) end
    end
end

-- The cost of a place in line, its lease end and its flow, or nil if that is over (then the place is gone).
local function waiting_cost(want, who)
    local place = place_of(want, who)
    if place and place.until_us > lapsed_us() then return place.cost, place.until_us, place.flow end
    if place then drop_process(want, who) else leave(want, who) end
end

-- Whether somebody listens where a waiter is; if so it is to ask in a moment, and nobody nudges it again before that.
local function is_told(want, who)
    if redis.call('PUBLISH', string.match(who, '^(.*)|'), 'permit ' .. who) == 0 then return false end
    local rest = string.match(redis.call('HGET', want.waits, who), ' .*$')
    redis.call('HSET', want.waits, who, whole(now_us + ANSWER_US) .. rest)
    return true
end

-- Let the first in line ask again, as many as fit now: of those before who asks, if it stands there itself.
local function nudge(want)
    local left, after, lanes = want.level, 0, nil
    local line = redis.call('ZRANGE', want.line, 0, MOST_NUDGED - 1, 'WITHSCORES')
    for j = 1, #line, 2 do
        local who, rank = line[j], tonumber(line[j + 1])
        if who == asking then return end
        local cost, until_us, flow = waiting_cost(want, who)
        if cost then
            if left < cost then return end
            lanes = lanes or lanes_of(want)
            if left < cost + headroom(want, lanes, flow, rank, after, cost) then return end
            after = rank
            if until_us <= now_us + ANSWER_US or is_told(want, who) then -- the former was nudged already
                left = left - cost
            else
                drop_process(want, who)
            end
        end
    end
end

