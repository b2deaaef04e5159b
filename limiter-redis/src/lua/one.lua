-- Decides a batch of one kind of request, of one check, that is no log's: as `batch.lua`, without what makes ready for
-- more. What stands in capitals is filled in from the files of a folder.
--
-- KEYS, ARGV, reply and writes are those of `batch.lua`.

local _, _, _, grace, horizon, _, QUOTAS, at, count, _, _, _, n = struct.unpack('<HHHddBQUOTAdI4HHHd', ARGV[1])
local clock, corrupt, now = 0, 0, at
local value, x, y, z = redis.call('MGET', KEYS[1])[1], 0, 0, 0
if value then
  LOAD
end
if at < 0 then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
  now = clock
end
local granted, r1, r2, r3
LOOK
if granted > 0 and n > 0 then
  local m, reset_in = granted * n
  TAKE
  local ttl = math.ceil(reset_in / 1000) + grace
  if at >= 0 then ttl = math.max(ttl, horizon) end
  WRITE
  redis.call('SET', KEYS[1], value, 'PX', string.format('%d', math.max(ttl, 1)))
end
return struct.pack('<dddddd', clock, corrupt, granted, r1, r2, r3 or 0)
