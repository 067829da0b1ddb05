-- ARGV: what was seen (owner, fence, beat), and of a completion the answer, keep and tombstone.
if not r then
  return {'changed'}
elseif r.st == 'completed' then
  return completed()
elseif r.st == 'expired' then
  return {'expired'}
elseif not is_seen(ARGV[3], ARGV[4], ARGV[5]) or (r.st == 'claimed' and not lapsed()) then
  return {'changed'}
elseif ARGV[6] then
  -- Without an owner: the former one's own answer may be on its way into the store, and must not read as a
  -- repetition of this.
  settle('', ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
  return {'done'}
end
-- The mark turns away a renewal or a declaration of the former owner that is still on its way.
set_mark()
forget()
return {'done'}
