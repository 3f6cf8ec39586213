-- requeue: make a ticket of a dead letter again.
--
-- KEYS[1]  the ticket               hash
-- KEYS[2]  tickets to look after    zset: ids by the moment the sweeper should look (us)
-- KEYS[3]  dead letters             zset: "<id>|<owner>" by failure (us)
-- KEYS[4]  its idempotency key      hash: fingerprint, ticket   (the ticket's own key when it has none)
-- KEYS[5]  its caller's live ones   zset
-- KEYS[6]  their bodies' bytes      hash
-- KEYS[7]  its watchers             set: inboxes of processes
-- KEYS[8]  due tickets              zset: ids by the moment (us)
-- KEYS[9]  all bodies' bytes        hash
-- KEYS[10] its log                  stream: what its attempts said, which begin at 1 again
-- ARGV[1]  id
-- ARGV[2]  owner
-- ARGV[3]  look_us                  when the sweeper should look (unix, us)
-- ARGV[4]  key_ms                   how long its idempotency key is kept
-- ARGV[5]  listed_ms                how long the books of live tickets are kept
-- ARGV[6]  max_live, ARGV[7] live_until_us, ARGV[8] bytes, ARGV[9] max_bytes, ARGV[10] max_all   as for create
-- ARGV[11..] field, value, ...      of the ticket, anew
--
-- Returns {'requeued', ''} | {'gone', ''} if it is no dead letter (any more) | {'full', how many live} | {'heavy', how many bytes} | {'crowded', how many bytes}.
-- Sent twice, it changes nothing and says the same: the ticket has the new deadline then, which is no other requeuing's.

for i = 11, #ARGV, 2 do
    if ARGV[i] == 'deadline' and redis.call('HGET', KEYS[1], 'deadline') == ARGV[i + 1] then
        return {'requeued', ''}
    end
end
if redis.call('HGET', KEYS[1], 'state') ~= 'FAILED' or not redis.call('ZSCORE', KEYS[3], ARGV[1] .. '|' .. ARGV[2]) then
    return {'gone', ''}
end
local refused, how = room(KEYS[5], KEYS[6], KEYS[9], KEYS[2], ARGV[6], ARGV[8], ARGV[9], ARGV[10], 0)
if refused then
    return {refused, how}
end
enter(KEYS[5], KEYS[6], KEYS[9], ARGV[1], ARGV[7], tonumber(ARGV[8]), ARGV[5])

redis.call('HDEL', KEYS[1], 'by', 'error', 'ended', 'source', 'crashes')
redis.call('HSET', KEYS[1], unpack(ARGV, 11))
redis.call('HSET', KEYS[1], 'wanted_us', '0', 'lease_us', '0', 'live', '1')
redis.call('PERSIST', KEYS[1])
redis.call('DEL', KEYS[10])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[8], time[1] .. string.format('%06d', time[2]), ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1] .. '|' .. ARGV[2])
-- Another call may have taken its key meanwhile; then that one keeps it.
if KEYS[4] ~= KEYS[1] and redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('HSET', KEYS[4], 'fingerprint', redis.call('HGET', KEYS[1], 'fingerprint'), 'ticket', ARGV[1])
    redis.call('PEXPIRE', KEYS[4], ARGV[4])
end
moved(KEYS[7], ARGV[1])
return {'requeued', ''}
