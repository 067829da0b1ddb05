-- ARGV: owner, what was seen (owner, fence, beat), lease, keep.
local owner, lease, keep = ARGV[3], tonumber(ARGV[7]), tonumber(ARGV[8])
if is_marked() then
  return {'lost'}
elseif not r then
  return {'changed'}
elseif mine(owner) then
  outlive(r.fo)
  return acquired()
elseif r.st == 'completed' then
  return completed()
elseif r.st == 'expired' then
  return {'expired'}
elseif not is_seen(ARGV[4], ARGV[5], ARGV[6]) then
  return {'changed'}
end
local cause, since, sent = r.ca, r.si, r.tr
if r.st == 'claimed' then
  cause, since, sent = 'lease_lapsed', r.lu, ''
end
r.po, r.pf, r.pb, r.pc, r.ps, r.pl, r.pt = r.ow, r.fe, r.be, cause, since, r.cl, sent
r.ow, r.fe, r.be = owner, text(tonumber(r.fe) + 1), '0'
local lease_until = text(now + lease)
redis.call('HDEL', key, 'ca', 'si', 'tr')
redis.call('HSET', key, 'st', 'claimed', 'ow', r.ow, 'fe', r.fe, 'be', r.be, 'le', ARGV[7], 'lu', lease_until,
  'cl', text(now), 'po', r.po, 'pf', r.pf, 'pb', r.pb, 'pc', r.pc, 'ps', r.ps, 'pl', r.pl, 'pt', r.pt)
keep_for(keep)
list_claim(r.rt, lease_until)
return acquired()
