-- ARGV: owner, fingerprint, route, origin, fence, lease, keep.
local owner, fence, keep = ARGV[3], ARGV[7], tonumber(ARGV[9])
local lease_until = text(now + tonumber(ARGV[8]))
if is_marked() then
  return {'lost'}
elseif not r then
  -- The store has lost it, and the owner is still dispatching: without a record a duplicate would, too.
  create({fp = ARGV[4], rt = ARGV[5], og = ARGV[6]}, 'claimed', keep, 0,
    'ow', owner, 'fe', fence, 'be', '0', 'le', ARGV[8], 'lu', lease_until)
  list_claim(ARGV[5], lease_until)
  return {'held', owner, fence, '0'}
elseif not mine(owner) then
  return {'lost'}
end
local beat = text(tonumber(r.be) + 1)
redis.call('HSET', key, 'be', beat, 'le', ARGV[8], 'lu', lease_until)
keep_for(keep)
redis.call('ZADD', index, lease_until, claim_of(r.rt))
return {'held', owner, r.fe, beat}
