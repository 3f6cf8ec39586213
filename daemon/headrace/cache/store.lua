-- store: keep an entry, and keep the sum of all entries under a bound.
--
-- KEYS[1]  the entry            string: its bytes
-- KEYS[2]  the index            zset: fingerprints by the moment they go (ms)
-- KEYS[3]  about                hash: fingerprint -> "bytes|scope|model"
-- KEYS[4]  bytes                string: the sum of those bytes
-- KEYS[5]  purges               stream of purges (only read)
-- ARGV[1]  fingerprint
-- ARGV[2]  the entry's bytes
-- ARGV[3]  ttl, ms (over 0)
-- ARGV[4]  the bound, bytes
-- ARGV[5]  what an entry's key starts with
-- ARGV[6]  scope                holds no "|"; the model may
-- ARGV[7]  model
-- ARGV[8]  the last purge       that the entry's host has applied: its id in the stream
-- Returns how many other entries had to go; if this one was not kept, that number plus one, negative; or 'behind' if there has
-- been another purge since ARGV[8]. A purge looks through what is kept after it was put into the stream, so what is kept here
-- by a host that has not heard of it could outlive it.
--
-- Sent twice it does the same once: an entry replaces itself.
--
-- Which entries must go is known only here, so their keys are made from ARGV[5] instead of coming in through KEYS.
--
-- What one call may drop is bounded: a big entry that meets thousands of small ones is not kept, rather than stopping
-- everybody else for as long as that takes. The next call finds room.

local OVERHEAD = 600  -- what Redis spends around an entry: two keys, the index, the book about it (measured)
local MOST_DROPPED = 1000
local MOST_LAPSED = 200

local function is_after(id, other)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or (ms == other_ms and tonumber(number) > tonumber(other_number))
end

local last = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
if last and is_after(last[1], ARGV[8]) then
  return 'behind'
end

local index, about, bytes = KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function strike(fingerprint)
  local line = redis.call('HGET', about, fingerprint)
  if line then
    redis.call('DECRBY', bytes, string.match(line, '^%d+'))
    redis.call('HDEL', about, fingerprint)
  end
  redis.call('ZREM', index, fingerprint)
end

-- Redis has removed these by itself; the books follow here.
for _, fingerprint in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now_ms, 'LIMIT', 0, MOST_LAPSED)) do
  strike(fingerprint)
end

local size = #ARGV[2] + OVERHEAD
local bound = tonumber(ARGV[4])
strike(ARGV[1])
if size > bound then
  redis.call('DEL', KEYS[1])
  return -1
end

local held = tonumber(redis.call('GET', bytes) or '0')
local dropped = 0
while held + size > bound do
  local soonest = redis.call('ZRANGE', index, 0, 0)[1]
  if not soonest then
    -- Nothing is held: a sum that says otherwise has lost touch (keys deleted by hand).
    redis.call('SET', bytes, 0)
    break
  end
  if dropped == MOST_DROPPED then
    redis.call('DEL', KEYS[1])
    return -1 - dropped
  end
  redis.call('DEL', ARGV[5] .. soonest)
  strike(soonest)
  dropped = dropped + 1
  held = tonumber(redis.call('GET', bytes) or '0')
end

redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', index, now_ms + ARGV[3], ARGV[1])
redis.call('HSET', about, ARGV[1], size .. '|' .. ARGV[6] .. '|' .. ARGV[7])
redis.call('INCRBY', bytes, size)
return dropped
