
-- Sliding window log: restates limiter-core/src/algorithm/sliding_log.rs.
--
-- Quota    q1 the limit, q2 the window in us
-- State    a string of records of 35 bytes, oldest first, that admissions append to: time I7 (us), total I4 (the cost
--          admitted up to and with it, modulo 2^32), and of the log as it stood then: head I3 (the oldest live
--          record, from 1), its time I7, the total before it I4, the number of records I3, when it expires I7 (us).
--          The last record is all that a decision reads while nothing leaves; what left is found by bisection, and
--          dropped by copying the rest once it is the smaller half: a decision costs O(1), O(log L) where entries
--          leave or are searched
-- Reading  the deciding instant, the live entries' cost, the newest's time (-1: none), of a denial the time of the
--          entry whose leaving frees enough (-1: none)

local RECORD = '<I7I4I3I7I4I3I7'
local SIZE = 35
-- The last record's offset, -SIZE; as text, which a command takes quicker than a number.
local TAIL = '-35'
-- More than the highest limit, which all live entries together cannot pass.
local TOTALS = 4294967296
-- More records than a log ever has: those of the highest limit twice, and some.
local MOST = 262144
-- Below so many records none is dropped.
local FEW = 64
-- So many are read at once: few leave at a time, and a reading costs more than what it reads.
local AHEAD = 8

-- Time and total of record i.
local function sliding_log_record(k, log, i)
  if i == log.n then return log.time, log.total end
  if i > log.stored then return log.middle[i].time, log.middle[i].total end
  if i < log.first_seen or i >= log.first_seen + AHEAD then
    log.first_seen = i
    log.seen = redis.call('GETRANGE', KEYS[k], (i - 1) * SIZE, (i - 1 + AHEAD) * SIZE - 1)
  end
  local from = (i - log.first_seen) * SIZE
  if #log.seen >= from + SIZE then
    local time, total = struct.unpack('<I7I4', log.seen, from + 1)
    if log.head_time <= time and time <= log.time then return time, total end
  end
  -- Lost or damaged: as if all had come with the newest, which is stricter.
  if not log.is_torn then corrupt = corrupt + 1 end
  log.is_torn = true
  return log.time, log.total
end

-- The first record from `from` on that `reaches` says yes to, and the total before it; `before` is that of `from`.
-- The last record does.
local function sliding_log_find(k, log, from, before, reaches)
  local low, low_total = from - 1, before
  local high, step = from, 1
  while high < log.n do
    local time, total = sliding_log_record(k, log, high)
    if reaches(time, total) then break end
    low, low_total = high, total
    high, step = math.min(high + step, log.n), step * 2
  end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local time, total = sliding_log_record(k, log, middle)
    if reaches(time, total) then
      high = middle
    else
      low, low_total = middle, total
    end
  end
  return high, low_total
end

-- Writes the log as it stands after record n, once `dropped` of its records are gone.
local function sliding_log_encode(log, time, total, n, dropped)
  return struct.pack(RECORD, time, total, log.head - dropped, log.head_time, log.before, n - dropped, log.expires)
end

-- The records of this batch from `from` on.
local function sliding_log_records(log, from, dropped)
  local last = sliding_log_encode(log, log.time, log.total, log.n, dropped)
  if from == log.n then return last end
  local records = {}
  for i = from, log.n - 1 do
    local record = log.middle[i]
    records[#records + 1] = sliding_log_encode(log, record.time, record.total, i, dropped)
  end
  records[#records + 1] = last
  return table.concat(records)
end

-- The time to live is written for half as long again, so that not every admission has to prolong it.
local function sliding_log_prolong(log, ttl)
  ttl = math.floor(ttl * 1.5)
  log.expires = math.min(log.now + ttl * 1000, 9007199254740991)
  return string.format('%d', ttl)
end

-- One record for all that is live, at the newest instant: what remains to be done when records were lost.
local function sliding_log_mend(k, log, ttl)
  log.head, log.head_time = 1, log.time
  ttl = sliding_log_prolong(log, ttl)
  redis.call('SET', KEYS[k], sliding_log_encode(log, log.time, log.total, 1, 0), 'PX', ttl)
end

local function sliding_log_write(k, log, ttl)
  local key, dropped = KEYS[k], log.head - 1
  if log.is_torn then
    sliding_log_mend(k, log, ttl)
  elseif dropped >= log.stored then
    ttl = sliding_log_prolong(log, ttl)
    redis.call('SET', key, sliding_log_records(log, log.head, dropped), 'PX', ttl)
  elseif log.n >= FEW and dropped > log.n / 2 then
    ttl = sliding_log_prolong(log, ttl)
    local kept = redis.call('GETRANGE', key, dropped * SIZE, -1)
    redis.call('SET', key, kept .. sliding_log_records(log, log.stored + 1, dropped), 'PX', ttl)
  else
    local prolonged = log.expires < log.now + ttl * 1000 and sliding_log_prolong(log, ttl)
    local length = redis.call('APPEND', key, sliding_log_records(log, log.stored + 1, 0))
    if length ~= log.n * SIZE then
      corrupt = corrupt + 1
      sliding_log_mend(k, log, ttl)
    elseif prolonged then
      redis.call('PEXPIRE', key, prolonged)
    end
  end
end

-- stored: records in Redis, of which those from first_seen on are in `seen`; n: with those of this batch. The last is
-- time and total; those between are in `middle`. Sixteen fields are few enough for a table of half the size.
local function sliding_log_load(k)
  local log = { n = 0, stored = 0, time = 0, total = 0, head = 1, head_time = 0, before = 0, expires = 0,
    live = false, live_time = 0, live_before = 0, first_seen = -AHEAD, seen = '', write = sliding_log_write,
    reset_in = false, now = 0 }
  states[k] = log
  local tail = redis.pcall('GETRANGE', KEYS[k], TAIL, '-1')
  if tail == '' then return log end
  -- What is of another type is no log; any other error is none of the state's.
  if type(tail) == 'table' and not string.find(tail.err, 'WRONGTYPE', 1, true) then error(tail) end
  if type(tail) == 'string' and #tail == SIZE then
    local time, total, head, head_time, before, n, expires = struct.unpack(RECORD, tail)
    if time < 9007199254740992 and 1 <= head and head <= n and n < MOST and head_time <= time then
      log.time, log.total, log.head, log.head_time, log.before, log.expires =
        time, total, head, head_time, before, expires
      log.n, log.stored = n, n
      return log
    end
  end
  corrupt = corrupt + 1
  return log
end

local function sliding_log_look(k, q, now, n, granted)
  local log = states[k] or sliding_log_load(k)
  local window = q.q2
  local deciding = math.max(log.time, now)
  if log.n == 0 or deciding - now > window or log.time + window <= deciding then
    -- None, all gone, or too far ahead.
    log.live = false
    if n > 0 then granted = math.min(granted, math.floor(q.q1 / n)) end
    return granted, log, now, 0, -1, -1
  end
  local head, head_time, before = log.head, log.head_time, log.before
  if head_time + window <= deciding then
    head, before = sliding_log_find(k, log, head, before, function(time) return time + window > deciding end)
    head_time = sliding_log_record(k, log, head)
  end
  log.live, log.live_time, log.live_before = head, head_time, before
  local used = (log.total - before) % TOTALS
  if n > 0 then granted = math.max(0, math.min(granted, math.floor((q.q1 - used) / n))) end
  return granted, log, deciding, used, log.time, -1
end

local function sliding_log_take(log, q, now, m, deciding)
  if log.live then
    log.head, log.head_time, log.before = log.live, log.live_time, log.live_before
  else
    log.n, log.stored = 0, 0
    if log.middle then log.middle = nil end
    log.total, log.head, log.head_time, log.before = 0, 1, deciding, 0
  end
  if log.n == log.stored then
    log.n = log.n + 1
  elseif log.time ~= deciding then
    log.middle = log.middle or {}
    log.middle[log.n] = { time = log.time, total = log.total }
    log.n = log.n + 1
  end
  log.time, log.total = deciding, (log.total + m) % TOTALS
  return deciding + q.q2 - now
end

-- Of a denial of n permits, which could be had: the time of the entry whose leaving frees enough.
local function sliding_log_frees(k, q, now, n)
  local _, log, _, used = sliding_log_look(k, q, now, 0, 1)
  local excess, before = used + n - q.q1, log.live_before
  local index = sliding_log_find(k, log, log.live, before, function(_, total)
    return (total - before) % TOTALS >= excess
  end)
  return (sliding_log_record(k, log, index))
end

sliding_log = function(from)
  local limit, window, rest = struct.unpack('<dd', batch, from)
  return { look = sliding_log_look, take = sliding_log_take, frees = sliding_log_frees, q1 = limit,
    q2 = window }, rest
end
