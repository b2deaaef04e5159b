-- Sliding window counter: restates limiter-core/src/algorithm/sliding_counter.rs.
--
-- Quota    kind 4; limit (q1), window in us (q2)
-- State    the current window's start (a), the count in it (b) and in the one before (c)
-- Reading  the deciding instant (r1), the count in its window (r2), the count in the one before (r3)
-- look
r1 := CASE WHEN {a} > now AND {a} - now <= q2 THEN {a} ELSE now END;
start := r1 - r1 % q2;
stood := {a} - {a} % q2;
r2 := greatest({b}, 0); r3 := greatest({c}, 0);
IF stood <> {a} THEN
  r2 := r2 + r3; r3 := 0;
END IF;
IF stood + q2 = start THEN
  r3 := r2; r2 := 0;
ELSIF stood <> start THEN
  r2 := 0; r3 := 0;
END IF;
r2 := least(r2, q1); r3 := least(r3, q1);
IF n = 0 THEN
  fits := cnt;
ELSE
  -- The share of the window before that is still in view, rounded up.
  stood := (r3 * (q2 / 1000 - (r1 - start) / 1000) + q2 / 1000 - 1) / (q2 / 1000);
  fits := least(cnt, greatest(0, q1 - r2 - stood) / n);
END IF;
-- take
{a} := r1 - r1 % q2;
{b} := r2 + m;
{c} := r3;
reset := r1 - r1 % q2 + 2 * q2;
