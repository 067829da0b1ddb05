if not r then
  return {'absent'}
end
local blobs = redis.call('HMGET', key, 'og', 'an')
if not blobs[1] then
  return {'unreadable', 'it is damaged'}
end
local reply = {r.st, r.fp, r.rt, blobs[1], text(r.ex), text(r.fo)}
local function say(...)
  for _, value in ipairs({...}) do
    reply[#reply + 1] = value
  end
  return reply
end
if r.st == 'claimed' and r.po then
  return say(r.ow, r.fe, r.be, r.le, r.lu, r.cl, r.po, r.pf, r.pb, r.pc, r.ps, r.pl, r.pt)
elseif r.st == 'claimed' then
  return say(r.ow, r.fe, r.be, r.le, r.lu, r.cl)
elseif r.st == 'unknown' then
  return say(r.ow, r.fe, r.be, r.ca, r.si, r.cl, r.tr)
elseif r.st == 'completed' and not blobs[2] then
  return {'unreadable', 'it has no answer'}
elseif r.st == 'completed' then
  return say(r.ow, r.si, r.fe or '', r.cl, blobs[2])
end
return reply
