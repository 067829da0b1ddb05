-- What is done to a record.

local function is_marked()
  local standing = redis.call('GET', mark)
  -- A mark that is not a number turns its owner away: to be wrong that way costs a retry.
  return standing and not (whole(standing) and now >= tonumber(standing))
end

local function set_mark()
  redis.call('SET', mark, text(now + MARK_MS), 'PX', MARK_MS)
end

-- Retention by the server is for room only; what is said goes by the record's own times.
local function outlive(forget_at)
  redis.call('PEXPIRE', key, text(forget_at - now + SLACK_MS))
end

-- A record's name in the index: a claim is unresolved from its moment on, what was declared unknown whatever the clock
-- says.
local function claim_of(route)
  return ARGV[2] .. ':c:' .. route
end
local function unknown_of(route)
  return ARGV[2] .. ':u:' .. route
end

local function list_claim(route, since)
  redis.call('ZREM', index, unknown_of(route))
  redis.call('ZADD', index, since, claim_of(route))
end

local function list_unknown(route, since)
  redis.call('ZREM', index, claim_of(route))
  redis.call('ZADD', index, since, unknown_of(route))
end

local function unlist(route)
  redis.call('ZREM', index, claim_of(route), unknown_of(route))
end

-- Tells whoever waits for this record. A user without the right to must not fail a script that has written already.
local function tell()
  redis.pcall('SPUBLISH', key, '')
end

-- A record in the place of whatever is left of an older one. `more`: the fields of its state.
local function create(origin, state, keep, tombstone, ...)
  if leftover then
    redis.call('DEL', key)
  end
  local expires_at = now + keep
  local forget_at = expires_at + tombstone
  redis.call('HSET', key, 'v', VERSION, 'fp', origin.fp, 'rt', origin.rt, 'og', origin.og, 'st', state,
    'ex', text(expires_at), 'fo', text(forget_at), ...)
  outlive(forget_at)
end

-- Extends the record's life; never shortens it.
local function keep_for(keep)
  r.ex = math.max(r.ex, now + keep)
  r.fo = math.max(r.fo, r.ex)
  redis.call('HSET', key, 'ex', text(r.ex), 'fo', text(r.fo))
  outlive(r.fo)
end

local function forget()
  redis.call('DEL', key)
  unlist(r.rt)
  tell()
end

-- A final answer in the place of a claim or an unknown outcome; the record keeps what it was made of, and the number
-- and the moment of its last claim.
local function settle(owner, answer, keep, tombstone)
  local expires_at = now + keep
  local forget_at = expires_at + tombstone
  redis.call('HDEL', key, 'be', 'le', 'lu', 'ca', 'tr', 'po', 'pf', 'pb', 'pc', 'ps', 'pl', 'pt')
  redis.call('HSET', key, 'st', 'completed', 'ow', owner, 'si', text(now), 'an', answer,
    'ex', text(expires_at), 'fo', text(forget_at))
  outlive(forget_at)
  unlist(r.rt)
  tell()
end
