-- held: which tickets are in whose hands, beside the tickets themselves. Stands before the scripts that keep it, in one text with
-- them: a zset of "<holder> <id>", all of one score, so that what one process holds stands together, and what a dead one held is
-- found without a look at every ticket.

-- What lies there instead, put there by somebody else, only costs that: leases lapse without it.
local function note_held(held, holder, id)
    redis.pcall('ZADD', held, 0, holder .. ' ' .. id)
end

local function note_let_go(held, holder, id)
    redis.pcall('ZREM', held, (holder or '') .. ' ' .. id)
end
