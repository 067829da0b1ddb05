-- What changes with every completed record that is taken away or replaced by hand. KEYS: that. ARGV: what to do, a new
-- number.
if ARGV[1] == 'change' then
  redis.call('SET', KEYS[1], ARGV[2])
end
return {redis.call('GET', KEYS[1]) or '0'}
