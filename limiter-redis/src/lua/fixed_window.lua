
-- Fixed window: restates limiter-core/src/algorithm/fixed_window.rs.
--
-- Quota    limit, window in us
-- State    the window's start and the count in it, as two doubles
-- Reading  the deciding window's start, the count in it

local function fixed_window_write(k, s, ttl)
  redis.call('SET', KEYS[k], struct.pack('<dd', s.start, s.count), 'PX', string.format('%d', ttl))
end

local function fixed_window_load(k)
  local value = values[k]
  local start, count = 0, 0
  if value then
    if #value == 16 then start, count = struct.unpack('<dd', value) end
    if #value ~= 16 or not (exact(start) and exact(count)) then
      corrupt = corrupt + 1
      start, count = 0, 0
    end
  end
  local s = { start = start, count = count, write = fixed_window_write, reset_in = false, now = 0 }
  states[k] = s
  return s
end

local function fixed_window_look(k, q, now, n, granted)
  local s = states[k] or fixed_window_load(k)
  local window, stood = q.window, s.start
  local deciding = not_before(stood, now, window) or now
  local start = deciding - deciding % window
  local count = 0
  if stood - stood % window == start then count = math.min(s.count, q.limit) end
  if n > 0 then granted = math.min(granted, math.floor((q.limit - count) / n)) end
  return granted, s, start, count
end

local function fixed_window_take(s, q, now, m, start, count)
  s.start, s.count = start, count + m
  return start + q.window - now
end

fixed_window = function(from)
  local limit, window, rest = struct.unpack('<dd', batch, from)
  return { look = fixed_window_look, take = fixed_window_take, limit = limit, window = window }, rest
end
