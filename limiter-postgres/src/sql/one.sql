-- Decides equal requests of one check that may take: what `decide` does for a batch, with a row instead of arrays of them,
-- at less than half the cost.
--
-- Arguments  grace and horizon as of {decide}; the key, the instant and how many requests; the cost and the numbers of the
--            quota
-- Result     as of {decide}; numbers that the algorithm does not read may follow
CREATE OR REPLACE FUNCTION {one}(
  grace bigint, horizon bigint, k bytea, at bigint, cnt bigint, n bigint,
  kind bigint, q1 bigint, q2 bigint, q3 bigint, q4 bigint, q5 bigint, q6 bigint
)
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off
AS {body}
#variable_conflict use_variable
DECLARE
  sa bigint; sb bigint; sc bigint; is_sound boolean; corrupt bigint := 0;
  clock bigint; now bigint; m bigint;
  fits bigint; r1 bigint; r2 bigint; r3 bigint; r4 bigint;
  start bigint; stood bigint; reset bigint;
BEGIN
  SELECT s.a, s.b, s.c, {sound} INTO sa, sb, sc, is_sound FROM {table} s WHERE s.key = k FOR UPDATE;
  IF is_sound IS NOT TRUE THEN
    IF NOT FOUND THEN
      -- What was never used admits what may be admitted at all: the row stays.
      INSERT INTO {table} AS s (key, a, b, c, expires) VALUES (k, 0, 0, 0, 0)
      ON CONFLICT (key) DO UPDATE SET a = s.a WHERE false;
      SELECT s.a, s.b, s.c, {sound} INTO sa, sb, sc, is_sound FROM {table} s WHERE s.key = k;
    END IF;
    IF NOT is_sound THEN
      corrupt := 1; sa := 0; sb := 0; sc := 0;
    END IF;
  END IF;
  clock := {clock};
  now := CASE WHEN at < 0 THEN clock ELSE at END;
  IF kind = 0 AND q3 = 1 AND sb = 0 AND sa <= now + q4 THEN
    -- What most callers ask, of a bucket whose permits refill in whole us: as below, in half as many expressions, each of
    -- which costs the server more to begin than to compute.
    r1 := greatest(sa, now);
    fits := least(cnt, (q4 - r1 + now) / (n * q1));
    IF fits > 0 THEN
      UPDATE {table} s SET a = r1 + fits * n * q1, b = 0, c = 1,
        expires = CASE WHEN at < 0 THEN r1 + fits * n * q1 + grace
          ELSE clock + greatest(r1 + fits * n * q1 - now + grace, horizon) END
      WHERE s.key = k;
    END IF;
    RETURN ARRAY[clock, corrupt, fits, r1, 0];
  END IF;
  IF kind <= 1 THEN
    {look_bucket}
  ELSIF kind = 2 THEN
    {look_fixed_window}
  ELSIF kind = 3 THEN
    {look_sliding_log}
  ELSE
    {look_sliding_counter}
  END IF;
  IF fits > 0 THEN
    m := fits * n;
    IF kind <= 1 THEN
      {take_bucket}
    ELSIF kind = 2 THEN
      {take_fixed_window}
    ELSIF kind = 3 THEN
      {take_sliding_log}
    ELSE
      {take_sliding_counter}
    END IF;
    UPDATE {table} s SET a = sa, b = sb, c = sc,
      expires = CASE WHEN at < 0 THEN reset + grace ELSE clock + greatest(reset - now + grace, horizon) END
    WHERE s.key = k;
  END IF;
  RETURN ARRAY[clock, corrupt, fits, r1, r2, coalesce(r3, 0), coalesce(r4, 0)];
END
{body};
