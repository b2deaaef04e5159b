
-- Sliding window counter: restates limiter-core/src/algorithm/sliding_counter.rs.
--
-- Quota    limit, window in us
-- State    the current window's start, the count in it and in the one before, as three doubles
-- Reading  the deciding instant, the count in its window, the count in the one before

local function sliding_counter_write(k, s, ttl)
  redis.call('SET', KEYS[k], struct.pack('<ddd', s.start, s.current, s.previous), 'PX', string.format('%d', ttl))
end

local function sliding_counter_load(k)
  local value = values[k]
  local start, current, previous = 0, 0, 0
  if value then
    if #value == 24 then start, current, previous = struct.unpack('<ddd', value) end
    if #value ~= 24 or not (exact(start) and exact(current) and exact(previous)) then
      corrupt = corrupt + 1
      start, current, previous = 0, 0, 0
    end
  end
  local s = { start = start, current = current, previous = previous, write = sliding_counter_write, reset_in = false,
    now = 0 }
  states[k] = s
  return s
end

local function sliding_counter_look(k, q, now, n, granted)
  local s = states[k] or sliding_counter_load(k)
  local window = q.window
  local deciding = not_before(s.start, now, window)
  local current, previous = s.current, s.previous
  if not deciding then deciding, current, previous = now, 0, 0 end
  local start = deciding - deciding % window
  local stood = s.start - s.start % window
  if stood ~= s.start then current, previous = current + previous, 0 end
  if stood + window == start then
    current, previous = 0, current
  elseif stood ~= start then
    current, previous = 0, 0
  end
  current, previous = math.min(current, q.limit), math.min(previous, q.limit)
  if n > 0 then
    local elapsed, window_ms = deciding - start, window / 1000
    -- The share of the window before that is still in view, rounded up.
    local weighed = previous * (window_ms - (elapsed - elapsed % 1000) / 1000)
    local part = weighed % window_ms
    local share = (weighed - part) / window_ms + (part > 0 and 1 or 0)
    granted = math.max(0, math.min(granted, math.floor((q.limit - current - share) / n)))
  end
  return granted, s, deciding, current, previous
end

local function sliding_counter_take(s, q, now, m, deciding, current, previous)
  local start = deciding - deciding % q.window
  s.start, s.current, s.previous = start, current + m, previous
  return start + 2 * q.window - now
end

sliding_counter = function(from)
  local limit, window, rest = struct.unpack('<dd', batch, from)
  return { look = sliding_counter_look, take = sliding_counter_take, limit = limit, window = window }, rest
end
