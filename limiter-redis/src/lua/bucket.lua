-- Token bucket and leaky bucket: restates limiter-core/src/algorithm/token_bucket.rs.
--
-- Quota    a permit's refill in us as whole, rem and l (whole + rem / l), the filling as whole and rem, the capacity
-- State    when the bucket is full again: whole us as text (which Redis keeps as an integer) or, where there is a
--          remainder, whole, rem and l as three doubles
-- Reading  base: whole, rem

local bucket = {}
algorithms[0], algorithms[1] = bucket, bucket

function bucket.quota(from)
  local whole, rem, l, fill, fill_rem, capacity, rest = decode('<dddddd', batch, from)
  local far, far_rem = 2 * fill, 2 * fill_rem
  if far_rem >= l then
    far, far_rem = far + 1, far_rem - l
  end
  return { algorithm = bucket, whole = whole, rem = rem, l = l, fill = fill, fill_rem = fill_rem,
    capacity = capacity, interval = whole + rem / l, far = far, far_rem = far_rem }, rest
end

local function bucket_load(k)
  local value = values[k]
  local whole, rem, l = 0, 0, 1
  if value then
    if #value == 24 then
      whole, rem, l = decode('<ddd', value)
    else
      whole = tonumber(value)
    end
    if not (exact(whole) and exact(rem) and exact(l) and rem < l) then
      corrupt = corrupt + 1
      whole, rem, l = 0, 0, 1
    end
  end
  first[k], second[k], third[k] = whole, rem, l
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

-- How many of `count` requests of n permits are granted, and the reading.
function bucket.look(k, q, now, n, count)
  if not first[k] then bucket_load(k) end
  local base, rem = first[k], second[k]
  if rem > 0 and third[k] ~= q.l then
    base, rem = base + 1, 0
  end
  local held = base - now
  if held < 0 or held > q.far or held == q.far and rem > q.far_rem then
    base, rem, held = now, 0, 0
  end
  if n == 0 then return count, base, rem end
  if n > q.capacity or not bucket_fits(q, held, rem, n) then return 0, base, rem end
  if count == 1 then return 1, base, rem end
  -- Estimated in floats, then made exact.
  local most = min(count, floor(q.capacity / n))
  local granted = floor((q.fill - held) / (n * q.interval))
  granted = max(1, min(granted, most))
  while granted < most and bucket_fits(q, held, rem, (granted + 1) * n) do granted = granted + 1 end
  while not bucket_fits(q, held, rem, granted * n) do granted = granted - 1 end
  return granted, base, rem
end

-- Takes m permits on a reading; the us until the key is reset.
function bucket.take(k, q, now, m, base, base_rem)
  local whole, rem = bucket_refill(q, m)
  whole, rem = base + whole, base_rem + rem
  if rem >= q.l then
    whole, rem = whole + 1, rem - q.l
  end
  first[k], second[k], third[k] = whole, rem, q.l
  return whole - now + (rem > 0 and 1 or 0)
end

-- Gives back n permits that were taken at `taken_at`, as far as they have not refilled since.
function bucket.give_back(k, q, now, n, taken_at)
  if not first[k] then bucket_load(k) end
  local changed = second[k] > 0 and third[k] ~= q.l
  local unfilled = taken_at + bucket_refill(q, n) - now
  if changed or now < taken_at or unfilled <= 0 or first[k] < now then return false end
  first[k] = first[k] - unfilled
  if first[k] < now then first[k], second[k] = now, 0 end
  return true
end

function bucket.write(k, ttl)
  local value
  if second[k] == 0 then
    value = format('%.0f', first[k])
  else
    value = encode('<ddd', first[k], second[k], third[k])
  end
  call('SET', KEYS[k], value, 'PX', format('%.0f', ttl))
end

function bucket.tell(reply, o, base, rem)
  reply[o], reply[o + 1] = base, rem
  return o + 2
end
