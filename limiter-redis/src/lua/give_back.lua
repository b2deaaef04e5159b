
-- Gives back what one check has taken, as far as it still weighs: restates `give_back` of limiter-core's algorithms.
--
-- KEYS     the state's key
-- ARGV[1]  a batch's head and its one quota, then at d (below 0: this server's clock), cost d, and of the taking its
--          instant d and the first number of its reading d
-- Reply    nothing of use
-- Writes   the state; its time to live goes on

-- As far as it has not refilled since.
local function bucket_give_back(s, q, now, n, taken_at)
  local changed = s.y > 0 and s.z ~= q.q3
  local parts = n * q.q2
  local unfilled = taken_at + n * q.q1 + (parts - parts % q.q3) / q.q3 - now
  if changed or now < taken_at or unfilled <= 0 or s.x < now then return false end
  s.x = s.x - unfilled
  if s.x < now then s.x, s.y = now, 0 end
  return true
end

local function fixed_window_give_back(s, n, start)
  if s.x ~= start then return false end
  s.y = math.max(0, s.y - n)
  return true
end

local function sliding_counter_give_back(s, q, n, deciding)
  local start = deciding - deciding % q.q2
  if s.x == start then
    s.y = math.max(0, s.y - n)
  elseif s.x == start + q.q2 then
    s.z = math.max(0, s.z - n)
  else
    return false
  end
  return true
end

-- Takes n permits out of the records of `deciding`, of which each trip has written one; out goes what is left empty.
-- Writes by itself: the records before them stay as they are, those behind are few.
local function sliding_log_give_back(k, log, n, deciding)
  if log.n == 0 or log.time < deciding then return false end
  local index, before = sliding_log_find(k, log, log.head, log.before, function(time) return time >= deciding end)
  local left, given, kept = n, 0, {}
  for i = index, log.n do
    local time, total = sliding_log_record(k, log, i)
    local held = (total - before) % TOTALS
    local back = time == deciding and math.min(left, held) or 0
    left, given, before = left - back, given + back, total
    if back < held then kept[#kept + 1] = { time, (total - given) % TOTALS } end
  end
  if given == 0 or log.is_torn then return false end
  local count = index - 1 + #kept
  if count < log.head then
    redis.call('UNLINK', KEYS[k])
    return false
  end
  if #kept == 0 then
    index = index - 1
    kept[1] = { sliding_log_record(k, log, index) }
  elseif index == log.head then
    log.head_time = kept[1][1]
  end
  local written = { index == 1 and '' or redis.call('GETRANGE', KEYS[k], 0, (index - 1) * SIZE - 1) }
  for _, record in ipairs(kept) do
    written[#written + 1] = sliding_log_encode(log, record[1], record[2], count, 0)
  end
  redis.call('SET', KEYS[k], table.concat(written), 'KEEPTTL')
  return false
end

local at, n, taken_at, reading = struct.unpack('<dddd', batch, pos)
local now = at >= 0 and at or read_clock()
local q = quota[1]
local _, s = q.look(1, q, now, 0, 1)
local rewritten
if q.look == bucket_look then
  rewritten = bucket_give_back(s, q, now, n, taken_at)
elseif q.look == fixed_window_look then
  rewritten = fixed_window_give_back(s, n, reading)
elseif q.look == sliding_counter_look then
  rewritten = sliding_counter_give_back(s, q, n, reading)
else
  rewritten = sliding_log_give_back(1, s, n, reading)
end
local left = rewritten and redis.call('PTTL', KEYS[1])
if left and left > 0 then s.write(1, s, left) end
return 0
