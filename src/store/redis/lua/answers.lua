-- What is said of a record.

local function acquired()
  if r.po then
    return {'acquired', r.ow, r.fe, r.be, r.po, r.pf, r.pb, r.pc, r.ps, r.pl, r.pt}
  end
  return {'acquired', r.ow, r.fe, r.be}
end

local function completed()
  local answer = redis.call('HGET', key, 'an')
  if not answer then
    return {'unreadable', 'it has no answer'}
  end
  return {'completed', r.fp, r.ow, r.si, r.fe or '', r.cl, text(r.ex - now), answer}
end

-- What a stranger with this fingerprint is told.
local function told(fingerprint)
  if r.fp ~= fingerprint then
    return {'mismatch'}
  elseif r.st == 'claimed' and lapsed() then
    return {'unknown', r.ow, r.fe, r.be, 'lease_lapsed', r.lu}
  elseif r.st == 'claimed' then
    return {'in_flight', r.ow, r.fe, r.be, text(tonumber(r.lu) - now)}
  elseif r.st == 'unknown' then
    return {'unknown', r.ow, r.fe, r.be, r.ca, r.si}
  elseif r.st == 'completed' then
    return completed()
  end
  return {'expired'}
end
