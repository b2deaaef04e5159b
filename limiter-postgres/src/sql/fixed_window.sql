-- Fixed window: restates limiter-core/src/algorithm/fixed_window.rs.
--
-- Quota    kind 2; limit (q1), window in us (q2)
-- State    the window's start (a), the count in it (b)
-- Reading  the deciding window's start (r1), the count in it (r2)
-- look
r1 := CASE WHEN {a} > now AND {a} - now <= q2 THEN {a} ELSE now END;
r1 := r1 - r1 % q2;
r2 := CASE WHEN {a} - {a} % q2 = r1 THEN least(greatest({b}, 0), q1) ELSE 0 END;
fits := CASE WHEN n = 0 THEN cnt ELSE least(cnt, (q1 - r2) / n) END;
-- take
{a} := r1;
{b} := r2 + m;
reset := r1 + q2;
