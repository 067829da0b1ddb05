-- ARGV: owner. Always leaves a mark, so that a late copy of the owner's claim is turned away.
set_mark()
if not r then
  return {'done'}
elseif not mine(ARGV[3]) then
  return {'lost'}
elseif not r.po then
  forget()
  return {'done'}
end
-- The attempt before may have executed. It keeps this claim's fence: with its own the same `seen` would come back,
-- and a delayed take-over that compares it would match again.
redis.call('HDEL', key, 'le', 'lu', 'po', 'pf', 'pb', 'pc', 'ps', 'pl', 'pt')
redis.call('HSET', key, 'st', 'unknown', 'ow', r.po, 'be', r.pb, 'ca', r.pc, 'si', r.ps, 'cl', r.pl, 'tr', r.pt)
list_unknown(r.rt, r.ps)
tell()
return {'restored'}
