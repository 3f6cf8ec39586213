-- purge: drop the entries that a selector means, some at a time.
--
-- KEYS[1]  the index            zset: fingerprints by the moment they go (ms)
-- KEYS[2]  about                hash: fingerprint -> "bytes|scope|model"
-- KEYS[3]  bytes                string: the sum of those bytes
-- ARGV[1]  what an entry's key starts with
-- ARGV[2]  cursor               "0" at first, then what the last call returned
-- ARGV[3]  about how many entries to look at
-- ARGV[4]  fingerprint          "*" for any, or "=" and what it must be; so too the next two
-- ARGV[5]  scope                the scope itself, or one that begins with it and "#"
-- ARGV[6]  model
-- Returns {cursor ("0" when all have been seen), entries dropped}.
--
-- Which entries match is known only here, so their keys are made from ARGV[1] instead of coming in through KEYS.

local index, about, bytes = KEYS[1], KEYS[2], KEYS[3]

local function is(wanted, value)
  return wanted == '*' or wanted == '=' .. value
end

local function is_scope(wanted, scope)
  return is(wanted, scope) or string.sub('=' .. scope, 1, #wanted + 1) == wanted .. '#'
end

local function drop(fingerprint, line)
  local size, scope, model = string.match(line, '^(%d+)|([^|]*)|(.*)$')
  if not (size and is_scope(ARGV[5], scope) and is(ARGV[6], model)) then
    return 0
  end
  redis.call('HDEL', about, fingerprint)
  redis.call('ZREM', index, fingerprint)
  redis.call('DECRBY', bytes, size)
  return redis.call('DEL', ARGV[1] .. fingerprint)  -- 0 if its time was over
end

if ARGV[4] ~= '*' then
  local fingerprint = string.sub(ARGV[4], 2)
  local line = redis.call('HGET', about, fingerprint)
  return {'0', line and drop(fingerprint, line) or 0}
end

local found = redis.call('HSCAN', about, ARGV[2], 'COUNT', ARGV[3])
local dropped = 0
for i = 1, #found[2], 2 do
  dropped = dropped + drop(found[2][i], found[2][i + 1])
end
return {found[1], dropped}
