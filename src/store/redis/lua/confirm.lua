-- ARGV: owner. Whether the answer of this owner stands. It writes, so that whoever waits for the replicas waits for
-- this, and with it for everything that this server wrote before.
if r and r.st == 'completed' and r.ow == ARGV[3] then
  outlive(r.fo)
  return {'done'}
elseif r and r.st == 'expired' then
  return {'expired'}
end
return {'changed'}
