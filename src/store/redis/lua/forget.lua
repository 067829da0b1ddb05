-- An operator's delete. KEYS[5]: the mark of the attempt before, or that of the owner once more.
-- ARGV: what was seen: 'open' with owner, fence and beat, 'completed' with owner and moment, 'expired' with the moment.
-- A delete that is repeated finds nothing.
if not r then
  return {'done'}
end
local is_same
if r.st == 'completed' then
  is_same = ARGV[3] == 'completed' and r.ow == ARGV[4] and r.si == ARGV[5]
elseif r.st == 'expired' then
  is_same = ARGV[3] == 'expired' and text(r.ex) == ARGV[4]
else
  is_same = ARGV[3] == 'open' and is_seen(ARGV[4], ARGV[5], ARGV[6]) and (r.st ~= 'claimed' or lapsed())
end
if not is_same then
  return {'changed'}
end
if r.st ~= 'expired' and r.ow ~= '' then
  set_mark()
  redis.call('SET', KEYS[5], text(now + MARK_MS), 'PX', MARK_MS)
end
forget()
return {'done'}
