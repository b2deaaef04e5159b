-- Token bucket and leaky bucket: restates limiter-core/src/algorithm/token_bucket.rs.
--
-- State    when the bucket is full again: x whole us, y of z parts of one. Kept as text where there is no remainder, which
--          Redis keeps as an integer, else as three doubles
-- Quota    a permit's refill in us as q1 whole and q2 of q3 parts, the filling as q4 whole and q5 parts, q6 the capacity
-- Reading  base: r1 whole, r2 parts
r1, r2 = x, y
if y > 0 and z ~= q3 then
  r1, r2 = x + 1, 0
end
local held = r1 - now
if held > q4 then
  -- More than two fillings ahead counts as absent.
  local far, far_parts = 2 * q4, 2 * q5
  if far_parts >= q3 then
    far, far_parts = far + 1, far_parts - q3
  end
  if held > far or held == far and r2 > far_parts then held = -1 end
end
if held < 0 then
  r1, r2, held = now, 0, 0
end
granted = 0
if n == 0 then
  granted = count
elseif n <= q6 then
  -- The most whose refill fits the filling; of several, estimated in floats, then made exact.
  local most = 1
  if count > 1 then
    most = math.min(count, math.floor(q6 / n))
    most = math.max(1, math.min(most, 1 + math.floor((q4 - held) / (n * (q1 + q2 / q3)))))
  end
  for m = most, 1, -1 do
    local parts = m * n * q2
    local rest = parts % q3
    local whole = held + m * n * q1 + (parts - rest) / q3
    rest = rest + r2
    if rest >= q3 then
      whole, rest = whole + 1, rest - q3
    end
    if whole < q4 or whole == q4 and rest <= q5 then
      granted = m
      break
    end
  end
end
