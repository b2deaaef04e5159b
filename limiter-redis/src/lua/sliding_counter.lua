-- Sliding window counter: restates limiter-core/src/algorithm/sliding_counter.rs.
--
-- Quota    limit, window in us
-- State    the current window's start, the count in it and in the one before, as three doubles
-- Reading  the deciding instant, the count in its window, the count in the one before

local sliding_counter = {}
algorithms[4] = sliding_counter

function sliding_counter.quota(from)
  local limit, window, rest = decode('<dd', batch, from)
  return { algorithm = sliding_counter, limit = limit, window = window, window_ms = window / 1000 }, rest
end

local function sliding_counter_load(k)
  local value = values[k]
  local start, current, previous = 0, 0, 0
  if value then
    if #value == 24 then start, current, previous = decode('<ddd', value) end
    if #value ~= 24 or not (exact(start) and exact(current) and exact(previous)) then
      corrupt = corrupt + 1
      start, current, previous = 0, 0, 0
    end
  end
  first[k], second[k], third[k] = start, current, previous
end

function sliding_counter.look(k, q, now, n, granted)
  if not first[k] then sliding_counter_load(k) end
  local window = q.window
  local deciding = not_before(first[k], now, window)
  local current, previous = second[k], third[k]
  if not deciding then deciding, current, previous = now, 0, 0 end
  local start = deciding - deciding % window
  local stood = first[k] - first[k] % window
  if stood ~= first[k] then current, previous = current + previous, 0 end
  if stood + window == start then
    current, previous = 0, current
  elseif stood ~= start then
    current, previous = 0, 0
  end
  current, previous = min(current, q.limit), min(previous, q.limit)
  if n > 0 then
    local elapsed = deciding - start
    -- The share of the window before that is still in view, rounded up.
    local weighed = previous * (q.window_ms - (elapsed - elapsed % 1000) / 1000)
    local part = weighed % q.window_ms
    local share = (weighed - part) / q.window_ms + (part > 0 and 1 or 0)
    granted = max(0, min(granted, floor((q.limit - current - share) / n)))
  end
  return granted, deciding, current, previous
end

function sliding_counter.take(k, q, now, m, deciding, current, previous)
  local start = deciding - deciding % q.window
  first[k], second[k], third[k] = start, current + m, previous
  return start + 2 * q.window - now
end

function sliding_counter.give_back(k, q, now, n, taken_at, deciding)
  if not first[k] then sliding_counter_load(k) end
  local start = deciding - deciding % q.window
  if first[k] == start then
    second[k] = max(0, second[k] - n)
  elseif first[k] == start + q.window then
    third[k] = max(0, third[k] - n)
  else
    return false
  end
  return true
end

function sliding_counter.write(k, ttl)
  call('SET', KEYS[k], encode('<ddd', first[k], second[k], third[k]), 'PX', format('%.0f', ttl))
end

function sliding_counter.tell(reply, o, deciding, current, previous)
  reply[o], reply[o + 1], reply[o + 2] = deciding, current, previous
  return o + 3
end
