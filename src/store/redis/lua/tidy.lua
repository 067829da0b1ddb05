-- Takes a name out of the index whose record is not there any more. Whoever settles a record takes its name out, too:
-- of one that is still there nobody has. ARGV: the name.
if r and (r.st == 'claimed' and claim_of(r.rt) == ARGV[3] or r.st == 'unknown' and unknown_of(r.rt) == ARGV[3]) then
  return {'unresolved'}
end
if redis.call('ZREM', index, ARGV[3]) == 1 then
  return {'aged_out'}
end
return {'absent'}
