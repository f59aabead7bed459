"""What the registry decides inside Redis, each in one atomic call: Lua.

The pointer is a hash: `turn`, `epoch`, `version`, `manifest` and `pinned` of what is served,
`last_epoch`, the highest that ever published, `top_epoch`, `top_version`, the last published, and
`trial`, `share`, the version that a share of users has.
"""

_POINT = """
local function point(pointer, moves, channel, turn, epoch, version, manifest, why, pinned)
  redis.call('HSET', pointer, 'turn', turn, 'epoch', epoch, 'version', version,
             'manifest', manifest, 'pinned', pinned)
  local t = redis.call('TIME')
  redis.call('LPUSH', moves, '{"at_ms":' .. t[1] .. string.format('%03d', t[2] / 1000) ..
             ',"turn":' .. turn .. ',"epoch":' .. epoch .. ',"version":' .. version ..
             ',"why":' .. cjson.encode(why) .. '}')
  redis.call('LTRIM', moves, 0, 199)
  redis.call('PUBLISH', channel, turn .. ' ' .. epoch .. ' ' .. version)
end
local function held_by_another(lease, holder)
  local held = holder ~= '' and redis.call('GET', lease)
  return held and held ~= holder and held
end
"""

# KEYS: pointer, manifests, lease, held, moves, bases, chunk...
# ARGV: epoch, version, SHA-256, manifest, channel, who must hold the lease if anybody does, or '',
#       content, base or '', the base's content, 1 where it may go live, the last turn that the
#       publisher knows of: a Redis that lost its data goes on from there
PUBLISH = (
    _POINT
    + """
local lost = held_by_another(KEYS[3], ARGV[6])
if lost then return {'lost', lost} end
local epoch, version = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'turn', 'pinned', 'last_epoch',
                      'top_epoch', 'top_version')
local served = {tonumber(at[1] or -1), tonumber(at[2] or -1)}
local last = tonumber(at[5] or 0)
local top = {tonumber(at[6] or at[1] or -1), tonumber(at[7] or at[2] or -1)}
if epoch < last then return {'stale', last, top[1], top[2]} end
local there = redis.call('HGET', KEYS[2], ARGV[2])
local known = there and cjson.decode(there)
local content = known and (known.content or known.sha256)
if known and content ~= ARGV[7] then return {'conflict', content} end
local ahead = epoch > top[1] or (epoch == top[1] and version > top[2])
if not known and not ahead then return {'stale', last, top[1], top[2]} end
if not known and ARGV[8] ~= '' then
  local under = redis.call('HGET', KEYS[2], ARGV[8])
  local base = under and cjson.decode(under)
  if not base or (base.content or base.sha256) ~= ARGV[9] then return {'no base'} end
end
if known and known.sha256 ~= ARGV[3] then return {'other', there} end
for i = 7, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return {'missing', i - 7} end
end
for i = 7, #KEYS do redis.call('PERSIST', KEYS[i]) end
local manifest = known and known.epoch == epoch and there or ARGV[4]
redis.call('HSET', KEYS[2], ARGV[2], manifest)
redis.call('HSET', KEYS[1], 'last_epoch', ARGV[1])
if not known and ARGV[8] ~= '' then redis.call('HSET', KEYS[6], ARGV[2], ARGV[8]) end
if not known or (ahead and version >= top[2]) then
  redis.call('HSET', KEYS[1], 'top_epoch', ARGV[1], 'top_version', ARGV[2])
end
local above = epoch > served[1] or (epoch == served[1] and version > served[2])
if known and version < served[2] then above = false end
local free = at[4] ~= '1' and redis.call('HEXISTS', KEYS[4], ARGV[2]) == 0
if ARGV[10] == '1' and above and free then
  local turn = math.max(tonumber(at[3] or 0), tonumber(ARGV[11]))
  point(KEYS[1], KEYS[5], ARGV[5], string.format('%d', turn), ARGV[1], ARGV[2], manifest,
        'published', '')
end
return {known and 'there' or 'new'}
"""
)

# KEYS: pointer, manifests, lease, held, moves
# ARGV: epoch, version, channel, holder or '', why, the last turn that the publisher knows of
ADVANCE = (
    _POINT
    + """
local lost = held_by_another(KEYS[3], ARGV[4])
if lost then return {'lost', lost} end
local at = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'turn', 'pinned', 'last_epoch')
if tonumber(ARGV[1]) < tonumber(at[5] or 0) then return {'stale', tonumber(at[5])} end
local there = redis.call('HGET', KEYS[2], ARGV[2])
if not there then return {'none'} end
local epoch, version = cjson.decode(there).epoch, tonumber(ARGV[2])
local served = {tonumber(at[1] or -1), tonumber(at[2] or -1)}
local above = epoch > served[1] or (epoch == served[1] and version > served[2])
if not above or at[4] == '1' or redis.call('HEXISTS', KEYS[4], ARGV[2]) == 1 then
  return {'stays'}
end
local turn = math.max(tonumber(at[3] or 0), tonumber(ARGV[6]))
point(KEYS[1], KEYS[5], ARGV[3], string.format('%d', turn), string.format('%.0f', epoch), ARGV[2],
      there, ARGV[5], '')
return {'moved'}
"""
)

# KEYS: pointer, manifests, lease, held
# ARGV: epoch, version or '' for none, channel, holder or '', share
TRIAL = (
    _POINT
    + """
local lost = held_by_another(KEYS[3], ARGV[4])
if lost then return {'lost', lost} end
local at = redis.call('HMGET', KEYS[1], 'pinned', 'last_epoch')
if tonumber(ARGV[1]) < tonumber(at[2] or 0) then return {'stale', tonumber(at[2])} end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'trial', 'share')
else
  if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return {'none'} end
  if at[1] == '1' or redis.call('HEXISTS', KEYS[4], ARGV[2]) == 1 then return {'stays'} end
  redis.call('HSET', KEYS[1], 'trial', ARGV[2], 'share', ARGV[5])
end
redis.call('PUBLISH', ARGV[3], 'trial')
return {'moved'}
"""
)

# KEYS: pointer, manifests, held, moves, pins  ARGV: version, channel, why, 1 to pin it
TURN = (
    _POINT
    + """
local there = redis.call('HGET', KEYS[2], ARGV[1])
if not there then return {'none'} end
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[1], 'trial', 'share')
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[3])
else
  for _, other in ipairs(redis.call('HKEYS', KEYS[2])) do
    if tonumber(other) > tonumber(ARGV[1]) then redis.call('HSETNX', KEYS[3], other, ARGV[3]) end
  end
end
local turn = tonumber(redis.call('HGET', KEYS[1], 'turn') or 0) + 1
local epoch = string.format('%.0f', cjson.decode(there).epoch)
point(KEYS[1], KEYS[4], ARGV[2], string.format('%d', turn), epoch, ARGV[1], there, ARGV[3],
      ARGV[4] == '1' and '1' or '')
return {'moved', turn}
"""
)

# KEYS: manifests, pins  ARGV: version, note
PIN = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""

# KEYS: pointer, pins  ARGV: version
UNPIN = """
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'version') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'pinned', '')
end
"""

# KEYS: readers  ARGV: reader, version, for how many ms
READING = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%d', now + ARGV[3]))
"""

# KEYS: manifests, fulls, held, pins, readers
LEDGER = """
local t = redis.call('TIME')
local out = {string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000))}
for i = 1, 5 do out[i + 1] = redis.call('HGETALL', KEYS[i]) end
return out
"""

# KEYS: manifests, fulls, bases, chunk...  ARGV: version, content, manifest
COMPACT = """
local there = redis.call('HGET', KEYS[1], ARGV[1])
local known = there and cjson.decode(there)
if not known or (known.content or known.sha256) ~= ARGV[2] then return {'none'} end
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return {'missing', i - 4} end
end
for i = 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[1])
return {'new'}
"""

# KEYS: pointer, manifests, fulls, bases, pins, readers, chunk...  ARGV: version, manifest
REMOVE = """
if redis.call('HGET', KEYS[1], 'version') == ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 then return 0 end
for _, base in ipairs(redis.call('HVALS', KEYS[4])) do
  if base == ARGV[1] then return 0 end
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local readers = redis.call('HGETALL', KEYS[6])
for i = 1, #readers, 2 do
  local version, till = string.match(readers[i + 1], '^(%d+) (%d+)$')
  if not till or tonumber(till) < now then
    redis.call('HDEL', KEYS[6], readers[i])
  elseif version == ARGV[1] then
    return 0
  end
end
for i = 2, 4 do redis.call('HDEL', KEYS[i], ARGV[1]) end
for i = 7, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""
