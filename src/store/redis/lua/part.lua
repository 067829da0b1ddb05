-- The identity of one bucket. KEYS: that. ARGV: what to do, the store's identity.
if ARGV[1] == 'accept' then
  redis.call('SET', KEYS[1], ARGV[2])
elseif ARGV[1] == 'begin' then
  redis.call('SET', KEYS[1], ARGV[2], 'NX')
end
return {redis.call('GET', KEYS[1]) or ''}
