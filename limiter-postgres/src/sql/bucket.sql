-- Token bucket and leaky bucket: restates limiter-core/src/algorithm/token_bucket.rs.
--
-- Quota    kind 0, or 1 where its numbers need more than 63 bits; a permit's refill in us as whole (q1), rem (q2) and l
--          (q3), the filling as whole (q4) and rem (q5), the capacity (q6)
-- State    when the bucket is full again: a whole us, and b / c of one
-- Reading  base: whole (r1), rem (r2)
-- look
IF {a} < now THEN
  r1 := now; r2 := 0;
ELSE
  r1 := {a}; r2 := {b};
  IF r2 > 0 AND ({c} <> q3 OR r2 >= q3) THEN
    r1 := r1 + 1; r2 := 0;
  END IF;
  IF r1 - now >= 2 * q4 AND (r1 - now, r2) > (2 * q4 + 2 * q5 / q3, 2 * q5 % q3) THEN
    r1 := now; r2 := 0;
  END IF;
END IF;
IF kind = 0 THEN
  fits := CASE WHEN n = 0 THEN cnt WHEN n > q6 THEN 0
    ELSE least(cnt, greatest(0, ((q4 - r1 + now) * q3 + q5 - r2) / (n * (q1 * q3 + q2)))) END;
ELSE
  fits := CASE WHEN n = 0 THEN cnt WHEN n > q6 THEN 0
    ELSE least(cnt, greatest(0, div((q4 - r1 + now)::numeric * q3 + q5 - r2, n * (q1::numeric * q3 + q2)))) END;
END IF;
-- take
{a} := r1 + m * q1 + (r2 + m * q2) / q3;
{b} := (r2 + m * q2) % q3;
{c} := q3;
reset := r1 + m * q1 + (r2 + m * q2 + q3 - 1) / q3;
