-- What every script begins with: what is stored, as it reads at this moment.
--
-- KEYS: the record and, as far as the script needs them, the bucket's index of what is unresolved, the mark of the
-- owner that the op speaks for, and the bucket's identity. All of them are in one slot.
-- ARGV[1]: the time in milliseconds, or '' for the server's own.
-- ARGV[2]: the record id as it stands in the index.
local VERSION = '1.1'
local MARK_MS = 60000
-- Records outlive their last moment by so much, so that a server whose clock is ahead forgets none too early.
local SLACK_MS = 600000

local key, index, mark = KEYS[1], KEYS[2], KEYS[3]
local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Numbers are kept as decimal digits; below 10^15 all of them are exact in Lua, too.
local function text(number)
  return string.format('%.0f', number)
end
local function whole(digits)
  return digits and #digits <= 15 and string.find(digits, '^%d+$') and tonumber(digits)
end

local stored = redis.call('HMGET', key, 'v', 'st', 'fp', 'rt', 'ex', 'fo', 'ow', 'fe', 'be', 'le', 'lu',
  'ca', 'si', 'po', 'pf', 'pb', 'pc', 'ps', 'cl', 'tr', 'pl', 'pt')
local r = nil
local leftover = stored[1]
if stored[1] then
  if stored[1] ~= VERSION then
    return {'unreadable', 'it has version ' .. stored[1] .. ', this program knows ' .. VERSION}
  end
  r = {st = stored[2], fp = stored[3], rt = stored[4], ex = whole(stored[5]), fo = whole(stored[6]),
    ow = stored[7], fe = stored[8], be = stored[9], le = stored[10], lu = stored[11],
    ca = stored[12], si = stored[13],
    po = stored[14], pf = stored[15], pb = stored[16], pc = stored[17], ps = stored[18],
    -- What tells the course of attempts; records of earlier versions lack it.
    cl = stored[19] or '', tr = stored[20] or '', pl = stored[21] or '', pt = stored[22] or ''}
  local sound = r.fp and r.rt and r.ex and r.fo and r.ow
  if r.st == 'claimed' then
    sound = sound and whole(r.fe) and whole(r.be) and whole(r.le) and whole(r.lu)
    if r.po or r.pf or r.pb or r.pc or r.ps then
      sound = sound and r.po and whole(r.pf) and whole(r.pb) and r.pc and whole(r.ps)
    end
  elseif r.st == 'unknown' then
    sound = sound and whole(r.fe) and whole(r.be) and r.ca and whole(r.si)
  elseif r.st == 'completed' then
    sound = sound and whole(r.si)
  else
    sound = false
  end
  if not sound then
    return {'unreadable', 'it is damaged'}
  end
  if now >= r.fo then
    r = nil
  elseif now >= r.ex then
    r.st = 'expired'
  end
elseif redis.call('EXISTS', key) == 1 then
  return {'unreadable', 'it is damaged'}
end

local function mine(owner)
  return r and r.st == 'claimed' and r.ow == owner
end

local function is_seen(owner, fence, beat)
  return r.ow == owner and r.fe == fence and r.be == beat
end

local function lapsed()
  return now >= tonumber(r.lu)
end
