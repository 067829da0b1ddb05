-- ARGV: owner, fingerprint, route, origin, lease, keep, the store's identity.
local owner, lease, keep = ARGV[3], tonumber(ARGV[7]), tonumber(ARGV[8])
if is_marked() then
  return {'lost'}
elseif mine(owner) then
  -- The call was repeated on its way: the first copy was the claim. It writes all the same, so that whoever
  -- waits for the replicas waits for this, too.
  outlive(r.fo)
  return acquired()
elseif r then
  return told(ARGV[4])
end
local identity = redis.call('GET', KEYS[4])
if not identity then
  return {'emptied'}
elseif identity ~= ARGV[9] then
  return {'another'}
end
local lease_until = text(now + lease)
create({fp = ARGV[4], rt = ARGV[5], og = ARGV[6]}, 'claimed', keep, 0,
  'ow', owner, 'fe', '1', 'be', '0', 'le', ARGV[7], 'lu', lease_until, 'cl', text(now))
redis.call('ZADD', index, lease_until, claim_of(ARGV[5]))
return {'acquired', owner, '1', '0'}
