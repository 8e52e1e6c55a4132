-- Sets a version anew, and tells whoever listens. The whole time is the engine's.
-- KEYS[1] the version, as "<number> <mark>"; ARGV: channel, a new mark, the least number, what must stand there ("*": anything).
-- Returns what stands there afterwards.
local stands = redis.call('GET', KEYS[1]) or ''
if ARGV[4] ~= '*' and stands ~= ARGV[4] then
  return stands
end
local time = redis.call('TIME')
local number = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before = tonumber(string.match(stands, '^(%d+) ') or '0')
number = math.max(number, before + 1, tonumber(ARGV[3]))
local new = string.format('%.0f %s', number, ARGV[2])
redis.call('SET', KEYS[1], new)
redis.call('PUBLISH', ARGV[1], '')
return new
