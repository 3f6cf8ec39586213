-- Count the tickets that have not ended, by state, and find the eldest that is queued.
-- KEYS: tickets. ARGV: what a ticket's key begins with; how many are looked at, at most.
-- Returns how many there are, how many of those looked at are QUEUED and RUNNING, and when the eldest QUEUED was made ("" for none).
local ids = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)
local queued, running, eldest = 0, 0, ''
for _, id in ipairs(ids) do
  local found = redis.call('HMGET', ARGV[1] .. id, 'state', 'created')
  if found[1] == 'QUEUED' then
    queued = queued + 1
    local created = tonumber(found[2])
    if created and (eldest == '' or created < tonumber(eldest)) then
      eldest = found[2]
    end
  elseif found[1] == 'RUNNING' then
    running = running + 1
  end
end
return { redis.call('ZCARD', KEYS[1]), queued, running, eldest }
