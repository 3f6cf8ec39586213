-- finish: bring a ticket to its one terminal state. The first one wins; every end goes through here.
--
-- KEYS[1]  the ticket              hash
-- KEYS[2]  tickets to look after   zset
-- KEYS[3]  its audience            zset: inboxes of waiting processes by lease end (us)
-- KEYS[4]  its idempotency key     hash: fingerprint, ticket   (the ticket's own key when it has none)
-- KEYS[5]  what is held           zset: "<holder> <id>" of each running ticket
-- KEYS[6]  its watchers            set: inboxes of processes
-- KEYS[7]  dead letters            zset: "<id>|<owner>" by failure (us)
-- KEYS[8]  due tickets             zset: ids by the moment (us)
-- KEYS[9]  all live bodies' bytes  hash
-- ARGV[1]  id
-- ARGV[2]  by                      token of this finish: sent twice, it wins twice
-- ARGV[3]  state                   SUCCEEDED, FAILED, CANCELED or EXPIRED
-- ARGV[4]  result                  the encoded answer, or error
-- ARGV[5]  source                  where an answer came from
-- ARGV[6]  attempts                made in all; -1 leaves the count
-- ARGV[7]  keep_ms                 how long the ended ticket is kept; a minute at most if its answer was handed over to its RPC,
--                                  and no shorter than its key stands for its answer
-- ARGV[8]  condition               '' always
--                                  'unwanted'  only if its RPC is still gone
--                                  'lapsed'    only if its attempt's lease is still lapsed
--                                  'alone'     only if no process but ARGV[9] waits for it
--                                  'queued'    only if no attempt is being made
-- ARGV[9]  inbox                   of this process
-- ARGV[10] ended                   unix s, to show
-- ARGV[11] holder                  whose attempt it was: only who holds the ticket may end it by what came of its attempt;
--                                  '' for who ends it from outside
-- ARGV[12] letter_ms               how long it is kept if it becomes a dead letter: failed, and it stood for itself
-- ARGV[13] letters                 how many dead letters are kept
-- ARGV[14], ARGV[15]               prefixes of the books of live tickets, and of their bytes, by owner
-- ARGV[16] waited_us               how long it waited for its turn, in the queue and in line
--
-- Returns 1 if this finish won, else 0.

local HANDED_OVER_MS = 60000

-- Of too many letters the eldest goes, its ticket with it.
local function keep_letter(letters, id, owner, now_us, keep_ms, most, ticket)
    redis.call('ZADD', letters, string.format('%.0f', now_us), id .. '|' .. owner)
    redis.call('PEXPIRE', letters, keep_ms)
    redis.call('ZREMRANGEBYSCORE', letters, '-inf', string.format('%.0f', now_us - keep_ms * 1e3))
    local prefix = string.sub(ticket, 1, -#id - 1)
    local over = redis.call('ZCARD', letters) - most
    for _, eldest in ipairs(over > 0 and redis.call('ZRANGE', letters, 0, over - 1) or {}) do
        redis.call('ZREM', letters, eldest)
        redis.call('DEL', prefix .. string.match(eldest, '^[^|]*'))
    end
end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1e6 + tonumber(time[2])

local t = redis.call('HMGET', KEYS[1], 'state', 'by', 'holder', 'wanted_us', 'lease_us', 'live', 'caller')
local state, wanted_us, live = t[1], tonumber(t[4]), t[6]  -- live: it counts as a live one of its caller
if state ~= 'QUEUED' and state ~= 'RUNNING' then
    return t[2] == ARGV[2] and 1 or 0
end

if ARGV[11] ~= '' and not (state == 'RUNNING' and t[3] == ARGV[11]) then
    return 0
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_us)
local audience = redis.call('ZRANGE', KEYS[3], 0, -1)
local condition = ARGV[8]
if condition == 'unwanted' and not (wanted_us > 0 and wanted_us <= now_us) then
    return 0
end
if condition == 'lapsed' and not (state == 'RUNNING' and tonumber(t[5]) <= now_us) then
    return 0
end
if condition == 'queued' and state ~= 'QUEUED' then
    return 0
end
if condition == 'alone' then
    for _, inbox in ipairs(audience) do
        if inbox ~= ARGV[9] then
            return 0
        end
    end
end

local succeeded = ARGV[3] == 'SUCCEEDED'
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'by', ARGV[2], succeeded and 'answer' or 'error', ARGV[4],
    'source', ARGV[5], 'ended', ARGV[10])
if tonumber(ARGV[6]) >= 0 then
    redis.call('HSET', KEYS[1], 'attempts', ARGV[6])
end
-- Only a dead letter that stood for itself needs its call again, should a person want to repeat it.
if ARGV[3] ~= 'FAILED' or wanted_us > 0 then
    redis.call('HDEL', KEYS[1], 'call', 'body')
end
-- The answer of a ticket that goes with its RPC is handed over at once; the hash is only for those who look a little later.
local keep_ms = tonumber(ARGV[7])
if succeeded and wanted_us > 0 then
    keep_ms = math.min(keep_ms, HANDED_OVER_MS)
end
-- An answer is there for as long as the key that stands for it.
local has_key = KEYS[4] ~= KEYS[1] and redis.call('HGET', KEYS[4], 'ticket') == ARGV[1]
if succeeded and has_key then
    keep_ms = math.max(keep_ms, redis.call('PTTL', KEYS[4]))
end
if ARGV[3] == 'FAILED' and wanted_us == 0 then
    keep_ms = tonumber(ARGV[12])
    keep_letter(KEYS[7], ARGV[1], t[7] or '', now_us, keep_ms, tonumber(ARGV[13]), KEYS[1])
end
redis.call('PEXPIRE', KEYS[1], keep_ms)
if live then
    local books = ARGV[15] .. (t[7] or '')
    leave(ARGV[14] .. (t[7] or ''), books, KEYS[9], ARGV[1])
    if succeeded and ARGV[11] ~= '' then
        note_pace(books, now_us, tonumber(ARGV[16]))
    end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
-- After a failed first, its idempotency key is free again.
if not succeeded and has_key then
    redis.call('DEL', KEYS[4])
end

for _, inbox in ipairs(audience) do
    redis.call('PUBLISH', inbox, 'ticket ' .. ARGV[1])
end
redis.call('DEL', KEYS[3])
moved(KEYS[6], ARGV[1])
if state == 'RUNNING' then
    note_let_go(KEYS[5], t[3], ARGV[1])
    redis.call('PUBLISH', string.match(t[3], '^(.*)|'), 'ticket ' .. ARGV[1])
end
return 1
