-- ARGV[3]: owner. Whether the answer of this owner stands. It writes, so that whoever waits for the replicas waits for
-- this, and with it for everything that this server wrote before. It is asked for every answer, so it looks at no more
-- than it needs: what has expired meanwhile stands, too.
local stored = redis.call('HMGET', KEYS[1], 'st', 'ow')
if stored[1] == 'completed' and stored[2] == ARGV[3] then
  redis.call('HSET', KEYS[1], 'st', 'completed')
  return {'done'}
end
return {'changed'}
