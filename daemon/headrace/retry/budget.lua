-- budget: may so many retries go upstream now? They are at most a share of what all processes sent there lately.
--
-- KEYS[1]  the tally    hash: "c<bin>" calls' first attempts, "r<bin>" retries, by bins of time
-- ARGV[1]  bin_us       how long a bin is
-- ARGV[2]  bins         how many of them count
-- ARGV[3]  share        retries for each first attempt, in millionths
-- ARGV[4]  least        retries that may go in so many bins beside that, however little is sent
-- ARGV[5]  firsts       first attempts that the process has sent since it last said
-- ARGV[6]  wanted       retries that it would send now
--
-- Returns {how many of them may go, microseconds until it is worth asking again}. Sent twice, it counts twice: towards fewer retries,
-- for retries count more than firsts.

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])
local bin_us, bins, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[6])
local bin = math.floor(now_us / bin_us)

local tally, sums, now_r = redis.call('HGETALL', KEYS[1]), {c = tonumber(ARGV[5]), r = 0}, 0
for i = 1, #tally, 2 do
    local kind, at = string.match(tally[i], '^([cr])(%d+)$')
    local count = tonumber(tally[i + 1])
    if kind and count and tonumber(at) > bin - bins and tonumber(at) <= bin then
        sums[kind] = sums[kind] + count
        now_r = now_r + (kind == 'r' and tonumber(at) == bin and count or 0)
    else
        redis.call('HDEL', KEYS[1], tally[i])
    end
end
local least = tonumber(ARGV[4])
local left = math.max(math.floor(sums.c * tonumber(ARGV[3]) / 1e6), least) - sums.r
-- Those few go on going when the share is spent, bin by bin: nobody waits until a whole minute is over.
left = math.max(left, math.floor(least / bins) - now_r)
local granted = math.max(0, math.min(wanted, left))
if tonumber(ARGV[5]) > 0 then
    redis.call('HINCRBY', KEYS[1], string.format('c%.0f', bin), ARGV[5])
end
if granted > 0 then
    redis.call('HINCRBY', KEYS[1], string.format('r%.0f', bin), granted)
end
redis.call('PEXPIRE', KEYS[1], math.ceil(bin_us * (bins + 1) / 1e3))
return {granted, (bin + 1) * bin_us - now_us}
