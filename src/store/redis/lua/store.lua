-- What stands for the whole store. KEYS: that. ARGV: what to do, an identity, the check value of the id key.
local act, identity, check = ARGV[1], ARGV[2], ARGV[3]
if act == 'begin' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'identity', identity, 'check', check, 'whole', '0', 'accepted', '0')
elseif act == 'finish' and redis.call('HGET', KEYS[1], 'identity') == identity then
  redis.call('HSET', KEYS[1], 'whole', '1')
elseif act == 'accept' then
  redis.call('HSET', KEYS[1], 'identity', identity, 'check', check, 'whole', '0', 'accepted', '1')
end
local store = redis.call('HMGET', KEYS[1], 'identity', 'check', 'whole', 'accepted')
if not store[1] then
  return {}
end
return {store[1], store[2] or '', store[3] or '0', store[4] or '0'}
