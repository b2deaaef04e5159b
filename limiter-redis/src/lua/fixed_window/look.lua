-- Fixed window: restates limiter-core/src/algorithm/fixed_window.rs.
--
-- State    x the window's start, y the count in it, as two doubles
-- Quota    q1 the limit, q2 the window in us
-- Reading  r1 the deciding window's start, r2 the count in it
r1 = now
if x > now and x - now <= q2 then r1 = x end
r1 = r1 - r1 % q2
r2 = 0
if x - x % q2 == r1 then r2 = math.min(y, q1) end
granted = count
if n > 0 then granted = math.min(count, math.floor((q1 - r2) / n)) end
