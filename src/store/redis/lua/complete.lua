-- ARGV: owner, fingerprint, route, origin, answer, keep, tombstone. A truth in hand is never thrown away: marks do
-- not count, and neither does who owns the record by now.
-- ARGV[10]: 'again' where it was recorded before and was lost with its server. An operator may have deleted it since, who
-- leaves a mark.
local owner, keep, tombstone = ARGV[3], tonumber(ARGV[8]), tonumber(ARGV[9])
if ARGV[10] and is_marked() then
  return {'lost'}
end
if not r then
  create({fp = ARGV[4], rt = ARGV[5], og = ARGV[6]}, 'completed', keep, tombstone,
    'ow', owner, 'si', text(now), 'an', ARGV[7])
  unlist(ARGV[5])
  tell()
  return {'done'}
elseif (r.st == 'claimed' or r.st == 'unknown') and r.fp == ARGV[4] then
  settle(owner, ARGV[7], keep, tombstone)
  return {'done'}
elseif r.st == 'completed' and r.ow == owner then
  return {'done'}
end
return {'lost'}
