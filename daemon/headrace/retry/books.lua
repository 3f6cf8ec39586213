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
