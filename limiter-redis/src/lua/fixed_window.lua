-- Fixed window: restates limiter-core/src/algorithm/fixed_window.rs.
--
-- Quota    limit, window in us
-- State    the window's start and the count in it, as two doubles
-- Reading  the deciding window's start, the count in it

local fixed_window = {}
algorithms[2] = fixed_window

function fixed_window.quota(from)
  local limit, window, rest = decode('<dd', batch, from)
  return { algorithm = fixed_window, limit = limit, window = window }, rest
end

local function fixed_window_load(k)
  local value = values[k]
  local start, count = 0, 0
  if value then
    if #value == 16 then start, count = decode('<dd', value) end
    if #value ~= 16 or not (exact(start) and exact(count)) then
      corrupt = corrupt + 1
      start, count = 0, 0
    end
  end
  first[k], second[k] = start, count
end

function fixed_window.look(k, q, now, n, granted)
  if not first[k] then fixed_window_load(k) end
  local deciding = not_before(first[k], now, q.window) or now
  local start = deciding - deciding % q.window
  local count = 0
  if first[k] - first[k] % q.window == start then count = min(second[k], q.limit) end
  if n > 0 then granted = min(granted, floor((q.limit - count) / n)) end
  return granted, start, count
end

function fixed_window.take(k, q, now, m, start, count)
  first[k], second[k] = start, count + m
  return start + q.window - now
end

function fixed_window.give_back(k, q, now, n, taken_at, start)
  if not first[k] then fixed_window_load(k) end
  if first[k] ~= start then return false end
  second[k] = max(0, second[k] - n)
  return true
end

function fixed_window.write(k, ttl)
  call('SET', KEYS[k], encode('<dd', first[k], second[k]), 'PX', format('%.0f', ttl))
end

function fixed_window.tell(reply, o, start, count)
  reply[o], reply[o + 1] = start, count
  return o + 2
end
