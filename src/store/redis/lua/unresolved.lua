-- One bucket's claims past their lease, and what was declared unknown, oldest first. KEYS: the index.
-- ARGV: the time or '', the first moment, how many names to skip, how many to look at.
-- Says how many it looked at, and then of each that is unresolved its name and since when.
local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', ARGV[3], ARGV[4])
local said = {string.format('%d', #found / 2)}
for at = 1, #found, 2 do
  if string.find(found[at], ':u:', 1, true) or tonumber(found[at + 1]) <= now then
    said[#said + 1] = found[at]
    said[#said + 1] = found[at + 1]
  end
end
return said
