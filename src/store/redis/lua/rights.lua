-- Which of the commands that the scripts use the user may not run, on these keys. KEYS: one that nobody else uses.
-- Commands for other types fail on it without any effect, once the user was found to have the right.
local key = KEYS[1]
local tried = {
  {'SET', key, '', 'PX', '1000'}, {'GET', key}, {'EXISTS', key}, {'PEXPIRE', key, '1000'}, {'TIME'},
  {'HSET', key, 'f', ''}, {'HGET', key, 'f'}, {'HMGET', key, 'f'}, {'HDEL', key, 'f'},
  {'ZADD', key, '0', ''}, {'ZREM', key, ''}, {'ZRANGEBYSCORE', key, '0', '0'},
  {'SPUBLISH', key, ''}, {'DEL', key},
}
local missing = {}
for _, command in ipairs(tried) do
  local answer = redis.pcall(unpack(command))
  local why = type(answer) == 'table' and answer.err
  if why and (string.find(why, 'NOPERM', 1, true) or string.find(why, 'user executing the script', 1, true)) then
    missing[#missing + 1] = string.lower(command[1])
  end
end
return missing
