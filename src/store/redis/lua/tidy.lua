-- Takes a name out of the index whose record is resolved, or is not there any more. ARGV: the name.
if r and (r.st == 'claimed' and claim_of(r.rt) == ARGV[3] or r.st == 'unknown' and unknown_of(r.rt) == ARGV[3]) then
  return {'unresolved'}
end
redis.call('ZREM', index, ARGV[3])
return {'absent'}
