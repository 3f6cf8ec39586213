-- held: count the entries of one scope, some at a time.
--
-- KEYS[1]  about                hash: fingerprint -> "bytes|scope|model"
-- ARGV[1]  cursor               "0" at first, then what the last call returned
-- ARGV[2]  about how many entries to look at
-- ARGV[3]  scope
-- Returns {cursor ("0" when all have been seen), entries, bytes}.

local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local entries, bytes = 0, 0
for i = 2, #found[2], 2 do
  local size, scope = string.match(found[2][i], '^(%d+)|([^|]*)|')
  if size and scope == ARGV[3] then
    entries, bytes = entries + 1, bytes + tonumber(size)
  end
end
return {found[1], entries, bytes}
