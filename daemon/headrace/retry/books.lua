-- books: which tickets of a caller live that stand for themselves, how large they are, and how fast they end. Stands before the
-- scripts that keep them, in one text with them: a zset of ids by when they have surely ended (us), and a hash of bytes by id, with
-- their sum as 'sum'. Another hash has the sum of all callers' bytes.

-- Pace: 'since' (us), 'ends' and 'waits' (us, in all) of the spell that is being measured; 'pace' (ends a second, believed
-- slowly if it rises) and 'wait' (us, on average) of the last one. A caller of whom nothing lives has none: what it did long ago says nothing.
local SPELL_US, SPELL_ENDS = 1e6, 10
local MOST = 9e15  -- what a number here can be, moments in us among them
local KEEPS = 0.75  -- of the pace before, in a faster one: a burst is over soon, and what was taken in for it is late
-- Whoever comes last in a queue that is just short enough would be refused in line, and make room for the next of whom that is
-- true. So who is taken in has this share of its time to spare.
local SPARE = 0.1
local WAITS_US = 0.5e6  -- whose tickets wait less is not held up by its own queue, however slowly they end

-- What is no number, as others may have left it there, is nothing.
local function bytes_of(books, field)
    local bytes = tonumber(redis.call('HGET', books, field) or 0)
    return bytes and bytes >= 0 and bytes < MOST and math.floor(bytes) or 0
end

local function put(books, field, bytes)
    redis.call('HSET', books, field, string.format('%.0f', math.max(0, bytes)))
end

local function enter(live, books, all, id, until_us, bytes, kept_ms)
    if redis.call('ZCARD', live) == 0 then
        redis.call('HDEL', books, 'since', 'ends', 'waits', 'pace', 'wait')
    end
    redis.call('ZADD', live, until_us, id)
    put(books, id, bytes)
    put(books, 'sum', bytes_of(books, 'sum') + bytes)
    put(all, 'sum', bytes_of(all, 'sum') + bytes)
    for _, key in ipairs({live, books, all}) do
        redis.call('PEXPIRE', key, kept_ms)
    end
end

local function leave(live, books, all, id)
    if redis.call('ZREM', live, id) == 1 then
        local bytes = bytes_of(books, id)
        put(books, 'sum', bytes_of(books, 'sum') - bytes)
        put(all, 'sum', bytes_of(all, 'sum') - bytes)
        redis.call('HDEL', books, id)
    end
end

local function pace_of(books)
    local pace = tonumber(redis.call('HGET', books, 'pace') or 0)
    return pace and pace > 0 and pace < MOST and pace or 0
end

local function note_pace(books, now_us, waited_us)
    local since_us, ends, waits = bytes_of(books, 'since'), bytes_of(books, 'ends') + 1, bytes_of(books, 'waits') + waited_us
    if since_us == 0 then
        since_us = now_us
    end
    if now_us - since_us >= SPELL_US and ends >= SPELL_ENDS then
        local pace, before = ends * 1e6 / (now_us - since_us), pace_of(books)
        if before > 0 and pace > before then
            pace = KEEPS * before + (1 - KEEPS) * pace
        end
        redis.call('HSET', books, 'pace', string.format('%.6f', pace))
        put(books, 'wait', waits / ends)
        since_us, ends, waits = now_us, 0, 0
    end
    put(books, 'since', since_us)
    put(books, 'ends', ends)
    put(books, 'waits', waits)
end

-- Returns nothing if one more of so many bytes may live beside them; else why not, and how many there are. One that would not
-- come to its turn in left_us (0: it does not matter) by the pace at which they end is told by how much too late, in ms.
local function room(live, books, all, tickets, max_live, bytes, max_bytes, max_all, left_us)
    local time = redis.call('TIME')
    for _, ended in ipairs(redis.call('ZRANGEBYSCORE', live, '-inf', time[1] .. string.format('%06d', time[2]))) do
        leave(live, books, all, ended)
    end
    if redis.call('ZCARD', tickets) == 0 then
        redis.call('DEL', all)  -- whatever was lost: where nothing lives there is nothing
    end
    local count, sum, total = redis.call('ZCARD', live), bytes_of(books, 'sum'), bytes_of(all, 'sum')
    if count >= tonumber(max_live) then
        return 'full', tostring(count)
    end
    if count > 0 and sum + tonumber(bytes) > tonumber(max_bytes) then
        return 'heavy', string.format('%.0f', sum)
    end
    if total > 0 and total + tonumber(bytes) > tonumber(max_all) then
        return 'crowded', string.format('%.0f', total)
    end
    local pace = pace_of(books)
    if tonumber(left_us) > 0 and pace > 0 and bytes_of(books, 'wait') >= WAITS_US then
        local late_us = count / pace * 1e6 - (1 - SPARE) * tonumber(left_us)
        if late_us > 0 then
            return 'behind', string.format('%.0f', math.min(late_us / 1e3, 86400000))
        end
    end
end
