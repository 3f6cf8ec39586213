-- books: which tickets of a caller live that stand for themselves, and how large they are. Stands before the scripts that keep
-- them, in one text with them: a zset of ids by when they have surely ended (us), and a hash of bytes by id, with their sum as 'sum'.

-- What is no number, as others may have left it there, is nothing.
local function bytes_of(books, field)
    local bytes = tonumber(redis.call('HGET', books, field) or 0)
    return bytes and bytes >= 0 and bytes < 1e15 and math.floor(bytes) or 0
end

local function put(books, field, bytes)
    redis.call('HSET', books, field, string.format('%.0f', math.max(0, bytes)))
end

local function enter(live, books, id, until_us, bytes)
    redis.call('ZADD', live, until_us, id)
    put(books, id, bytes)
    put(books, 'sum', bytes_of(books, 'sum') + bytes)
end

local function leave(live, books, id)
    if redis.call('ZREM', live, id) == 1 then
        put(books, 'sum', bytes_of(books, 'sum') - bytes_of(books, id))
        redis.call('HDEL', books, id)
    end
end

-- Returns nothing if one more of so many bytes may live beside them; else why not, and how many there are.
local function room(live, books, max_live, bytes, max_bytes)
    local time = redis.call('TIME')
    for _, ended in ipairs(redis.call('ZRANGEBYSCORE', live, '-inf', time[1] .. string.format('%06d', time[2]))) do
        leave(live, books, ended)
    end
    local count, sum = redis.call('ZCARD', live), bytes_of(books, 'sum')
    if count >= tonumber(max_live) then
        return 'full', tostring(count)
    end
    if count > 0 and sum + tonumber(bytes) > tonumber(max_bytes) then
        return 'heavy', string.format('%.0f', sum)
    end
end
