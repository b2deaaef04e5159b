
-- Token bucket and leaky bucket: restates limiter-core/src/algorithm/token_bucket.rs.
--
-- Quota    a permit's refill in us as whole, rem and l (whole + rem / l), the filling as whole and rem, the capacity
-- State    when the bucket is full again: whole us as text (which Redis keeps as an integer) or, where there is a
--          remainder, whole, rem and l as three doubles
-- Reading  base: whole, rem

local function bucket_write(k, s, ttl)
  local value
  if s.rem == 0 then
    value = string.format('%d', s.whole)
  else
    value = struct.pack('<ddd', s.whole, s.rem, s.l)
  end
  redis.call('SET', KEYS[k], value, 'PX', string.format('%d', ttl))
end

local function bucket_load(k)
  local value = values[k]
  local whole, rem, l = 0, 0, 1
  if value then
    local is_sound
    if #value == 24 then
      whole, rem, l = struct.unpack('<ddd', value)
      is_sound = exact(whole) and exact(rem) and exact(l) and rem < l
    else
      whole = tonumber(value)
      is_sound = exact(whole)
    end
    if not is_sound then
      corrupt = corrupt + 1
      whole, rem, l = 0, 0, 1
    end
  end
  local s = { whole = whole, rem = rem, l = l, write = bucket_write, reset_in = false, now = 0 }
  states[k] = s
  return s
end

-- The us that m permits take to refill.
local function bucket_refill(q, m)
  if q.rem == 0 then return m * q.whole, 0 end
  local parts = m * q.rem
  local rem = parts % q.l
  return m * q.whole + (parts - rem) / q.l, rem
end

local function bucket_fits(q, held, held_rem, m)
  local whole, rem = bucket_refill(q, m)
  whole, rem = whole + held, rem + held_rem
  if rem >= q.l then
    whole, rem = whole + 1, rem - q.l
  end
  return whole < q.fill or whole == q.fill and rem <= q.fill_rem
end

-- How many of `count` requests of n permits are granted, the state, and the reading.
local function bucket_look(k, q, now, n, count)
  local s = states[k] or bucket_load(k)
  local base, rem = s.whole, s.rem
  if rem > 0 and s.l ~= q.l then
    base, rem = base + 1, 0
  end
  local held = base - now
  if held < 0 then
    base, rem, held = now, 0, 0
  elseif held > q.fill then
    -- More than two fillings ahead counts as absent.
    local far, far_rem = 2 * q.fill, 2 * q.fill_rem
    if far_rem >= q.l then
      far, far_rem = far + 1, far_rem - q.l
    end
    if held > far or held == far and rem > far_rem then
      base, rem, held = now, 0, 0
    end
  end
  if n == 0 then return count, s, base, rem end
  if n > q.capacity or not bucket_fits(q, held, rem, n) then return 0, s, base, rem end
  if count == 1 then return 1, s, base, rem end
  -- Estimated in floats, then made exact.
  local most = math.min(count, math.floor(q.capacity / n))
  local granted = math.floor((q.fill - held) / (n * (q.whole + q.rem / q.l)))
  granted = math.max(1, math.min(granted, most))
  while granted < most and bucket_fits(q, held, rem, (granted + 1) * n) do granted = granted + 1 end
  while not bucket_fits(q, held, rem, granted * n) do granted = granted - 1 end
  return granted, s, base, rem
end

-- Takes m permits on a reading; the us until the key is reset.
local function bucket_take(s, q, now, m, base, base_rem)
  local whole, rem = bucket_refill(q, m)
  whole, rem = base + whole, base_rem + rem
  if rem >= q.l then
    whole, rem = whole + 1, rem - q.l
  end
  s.whole, s.rem, s.l = whole, rem, q.l
  return whole - now + (rem > 0 and 1 or 0)
end

bucket = function(from)
  local whole, rem, l, fill, fill_rem, capacity, rest = struct.unpack('<dddddd', batch, from)
  return { look = bucket_look, take = bucket_take, whole = whole, rem = rem, l = l, fill = fill,
    fill_rem = fill_rem, capacity = capacity }, rest
end
