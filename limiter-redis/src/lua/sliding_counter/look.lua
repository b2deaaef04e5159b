-- Sliding window counter: restates limiter-core/src/algorithm/sliding_counter.rs.
--
-- State    x the current window's start, y the count in it, z the count in the one before, as three doubles
-- Quota    q1 the limit, q2 the window in us
-- Reading  r1 the deciding instant, r2 the count in its window, r3 the count in the one before
r1, r2, r3 = now, y, z
if x > now then
  if x - now <= q2 then
    r1 = x
  else
    r2, r3 = 0, 0
  end
end
local start, stood = r1 - r1 % q2, x - x % q2
if stood ~= x then r2, r3 = r2 + r3, 0 end
if stood + q2 == start then
  r2, r3 = 0, r2
elseif stood ~= start then
  r2, r3 = 0, 0
end
r2, r3 = math.min(r2, q1), math.min(r3, q1)
granted = count
if n > 0 then
  local elapsed, window_ms = r1 - start, q2 / 1000
  -- The share of the window before that is still in view, rounded up.
  local weighed = r3 * (window_ms - (elapsed - elapsed % 1000) / 1000)
  local part = weighed % window_ms
  local share = (weighed - part) / window_ms + (part > 0 and 1 or 0)
  granted = math.max(0, math.min(count, math.floor((q1 - r2 - share) / n)))
end
