-- ARGV: owner, fingerprint, route, origin, fence, cause, what the owner saw, keep.
local owner, cause, sent, keep = ARGV[3], ARGV[8], ARGV[9], tonumber(ARGV[10])
if is_marked() then
  return {'lost'}
elseif not r then
  create({fp = ARGV[4], rt = ARGV[5], og = ARGV[6]}, 'unknown', keep, 0,
    'ow', owner, 'fe', ARGV[7], 'be', '0', 'ca', cause, 'si', text(now), 'tr', sent)
  list_unknown(ARGV[5], text(now))
  tell()
  return {'done'}
elseif mine(owner) then
  redis.call('HDEL', key, 'le', 'lu', 'po', 'pf', 'pb', 'pc', 'ps', 'pl', 'pt')
  redis.call('HSET', key, 'st', 'unknown', 'ca', cause, 'si', text(now), 'tr', sent)
  keep_for(keep)
  list_unknown(r.rt, text(now))
  tell()
  return {'done'}
elseif r.st == 'unknown' and r.ow == owner then
  return {'done'}
elseif r.st == 'completed' then
  return completed()
end
return {'lost'}
