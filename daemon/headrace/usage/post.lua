-- Adds one post of one process to a minute, its day and its month. A post that comes a second time changes nothing.
--
-- KEYS  1       posted: the number of the last post of this process
--       2 3 4   the hashes of minute, day and month: a cell's name -> its figures, with blanks between
--       5       the lines of traffic, a list; oldest first
-- ARGV  1       the number of this post
--       2       how long posts are remembered, in seconds
--       3 4 5   the most cells of minute, day and month
--       6 7 8   when these go, in Unix seconds
--       9       the name of the cell for what is beyond
--       10 11   the most lines of traffic, and how long they are kept, in seconds
--       12      how many cells follow, each a name and its figures; then the lines
--
-- Figures are whole numbers below 2^53.

-- What is none of our numbers was posted by none of us.
local posted = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if posted < 2^53 and posted >= tonumber(ARGV[1]) then
  return 0
end

local function sum(old, new)
  local figures, more = {}, string.gmatch(old, '%-?%d+')
  for figure in string.gmatch(new, '%-?%d+') do
    figures[#figures + 1] = string.format('%.0f', tonumber(figure) + tonumber(more() or '0'))
  end
  for figure in more do  -- a newer version of ours has more of them
    figures[#figures + 1] = figure
  end
  return table.concat(figures, ' ')
end

-- Everything is read first: what is no hash, or no list, ends the script before it has changed anything.

local last = 12 + 2 * tonumber(ARGV[12])
local sums = {{}, {}, {}}
for kind = 1, 3 do
  local key, new, most = KEYS[1 + kind], sums[kind], tonumber(ARGV[2 + kind])
  local cells = redis.call('HLEN', key)
  for at = 13, last, 2 do
    local name = ARGV[at]
    local old = redis.call('HGET', key, name)
    if not old and cells >= most then
      name = ARGV[9]
      old = new[name] or redis.call('HGET', key, name)
    elseif not old then
      cells = cells + 1
    end
    new[name] = old and sum(old, ARGV[at + 1]) or ARGV[at + 1]
  end
end
local lines = #ARGV > last and redis.call('LLEN', KEYS[5])

for kind = 1, 3 do
  for name, figures in pairs(sums[kind]) do
    redis.call('HSET', KEYS[1 + kind], name, figures)
  end
  if last > 12 then
    redis.call('EXPIREAT', KEYS[1 + kind], ARGV[5 + kind])
  end
end

if lines then
  for at = last + 1, #ARGV do
    redis.call('RPUSH', KEYS[5], ARGV[at])
  end
  redis.call('LTRIM', KEYS[5], -tonumber(ARGV[10]), -1)
  redis.call('EXPIRE', KEYS[5], ARGV[11])
end

redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
