-- Sliding window log: restates limiter-core/src/algorithm/sliding_log.rs.
--
-- Quota    kind 3; limit (q1), window in us (q2)
-- State    the newest entry's time (a), the running total up to it (b), the number of its entries in {log} (c). There an
--          entry holds its time and the running totals before it and with it. The oldest live entry is found by its
--          time, so that a decision is O(log L); entries that have left are deleted by and by, a few at a time
-- Reading  the deciding instant (r1), the live entries' cost (r2), the newest's time (r3; -1: none), of a denial the time
--          of the entry whose leaving frees enough (r4; -1: none)
-- look
SELECT l.* INTO fits, r1, r2, r3, r4 FROM {look_log}({a}, {b}, {c}, now, n, cnt, q1, q2) l;
IF r3 = -2 THEN
  corrupt := corrupt + 1; r3 := -1;
  {a} := 0; {b} := 0; {c} := 0;
END IF;
-- take
reset := r1 + q2;
{c} := {take_log}({b}, {c}, r1, r3, m, q2, clock - now + reset + CASE WHEN at < 0 THEN grace ELSE greatest(grace, horizon) END);
{a} := r1;
{b} := {b} + m;
