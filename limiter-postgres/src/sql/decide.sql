-- Decides a batch of requests in one step: each request all or nothing, in order as each key sees them.
--
-- All rows that may be written are locked first, in key order, absent ones created; only then is the clock read, every
-- state read, and each decision made. Rows of peeks, and of costs that no wait makes fit, are read without a lock.
--
-- grace    us that a state is kept once it is reset; horizon: us, the least where an instant is given
-- keys     each once; the first `locked` are to be locked, and in key order
-- quotas   seven numbers each: which algorithm, and its numbers; see `look` of each
-- requests at (us; below 0: this server's clock), count (how many equal ones in a row, of one check each), checks, then
--          for each check: key, quota (both from 1), cost
-- done     the places of requests that are answered already, and not to be decided; all rows are locked then
-- Result   the clock, how many rows held no state, then for each request how many of its count were granted and, for each
--          check, the reading
CREATE OR REPLACE FUNCTION {decide}(
  grace bigint, horizon bigint, keys bytea[], locked int, quotas bigint[], requests bigint[], done bigint[] DEFAULT NULL
)
RETURNS bigint[] LANGUAGE plpgsql
-- A plan that was made while the table was small stays right: each key is looked up.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS {body}
#variable_conflict use_variable
DECLARE
  -- The states of the keys, when they expire, where their rows are, and whether they are to be written.
  sa bigint[]; sb bigint[]; sc bigint[]; expiry bigint[]; tids tid[]; dirty boolean[];
  -- The quota at hand, where it begins in `quotas`, and its numbers.
  o int := -1; kind bigint; q1 bigint; q2 bigint; q3 bigint; q4 bigint; q5 bigint; q6 bigint;
  clock bigint; now bigint; at bigint; cnt bigint; n bigint; m bigint;
  checks int; k int; pos int := 1; first int;
  granted bigint; fits bigint; r1 bigint; r2 bigint; r3 bigint; r4 bigint;
  start bigint; stood bigint; reset bigint;
  place int := 0; is_done boolean[];
  corrupt bigint; stash bigint[]; answers bigint[];
BEGIN
  IF locked > 0 THEN
    INSERT INTO {table} AS s (key, a, b, c, expires) SELECT u.k, 0, 0, 0, 0 FROM unnest(keys[1:locked]) AS u (k)
    ON CONFLICT (key) DO UPDATE SET a = s.a WHERE false;
  END IF;
  clock := {clock};
  SELECT array_agg(CASE WHEN {sound} THEN s.a ELSE 0 END), array_agg(CASE WHEN {sound} THEN s.b ELSE 0 END),
    array_agg(CASE WHEN {sound} THEN s.c ELSE 0 END), array_agg(coalesce(s.expires, 0)), array_agg(s.ctid),
    array_agg(false), count(*) FILTER (WHERE NOT {sound})
  INTO sa, sb, sc, expiry, tids, dirty, corrupt
  FROM unnest(keys) AS u (k) LEFT JOIN {table} s ON s.key = u.k;
  answers := ARRAY[clock, corrupt];

  IF done IS NOT NULL THEN
    is_done := array_fill(false, ARRAY[cardinality(keys)]);
    FOR j IN 1..cardinality(done) LOOP
      is_done[done[j]] := true;
    END LOOP;
  END IF;

  WHILE pos <= cardinality(requests) LOOP
    place := place + 1;
    IF is_done[place] THEN
      pos := pos + 3 + 3 * requests[pos + 2];
      CONTINUE;
    END IF;
    at := requests[pos];
    granted := requests[pos + 1]; cnt := granted;
    checks := requests[pos + 2];
    now := CASE WHEN at < 0 THEN clock ELSE at END;
    first := pos + 3; pos := first + 3 * checks;
    FOR j IN 0..checks - 1 LOOP
      k := requests[first + 3 * j];
      n := requests[first + 3 * j + 2];
      {quota}
      IF kind <= 1 THEN
        {look_bucket}
      ELSIF kind = 2 THEN
        {look_fixed_window}
      ELSIF kind = 3 THEN
        {look_sliding_log}
      ELSE
        {look_sliding_counter}
      END IF;
      granted := least(granted, fits);
      IF checks > 1 THEN
        stash[4 * j] := r1; stash[4 * j + 1] := r2; stash[4 * j + 2] := r3; stash[4 * j + 3] := r4;
      END IF;
    END LOOP;
    answers := answers || granted;
    FOR j IN 0..checks - 1 LOOP
      IF checks > 1 THEN
        k := requests[first + 3 * j];
        n := requests[first + 3 * j + 2];
        {quota}
        r1 := stash[4 * j]; r2 := stash[4 * j + 1]; r3 := stash[4 * j + 2]; r4 := stash[4 * j + 3];
      END IF;
      m := granted * n;
      answers := answers || r1; answers := answers || r2;
      IF kind <= 1 THEN
        IF m > 0 THEN
          {take_bucket}
        END IF;
      ELSIF kind = 2 THEN
        IF m > 0 THEN
          {take_fixed_window}
        END IF;
      ELSIF kind = 3 THEN
        answers := answers || r3; answers := answers || r4;
        IF m > 0 THEN
          {take_sliding_log}
        END IF;
      ELSE
        answers := answers || r3;
        IF m > 0 THEN
          {take_sliding_counter}
        END IF;
      END IF;
      IF m > 0 THEN
        dirty[k] := true;
        expiry[k] := CASE WHEN at < 0 THEN reset + grace ELSE clock + greatest(reset - now + grace, horizon) END;
      END IF;
    END LOOP;
  END LOOP;

  UPDATE {table} AS s SET a = w.a, b = w.b, c = w.c, expires = w.expires
  FROM unnest(tids, sa, sb, sc, expiry, dirty) AS w (tid, a, b, c, expires, dirty)
  WHERE s.ctid = w.tid AND w.dirty;
  -- What was created to be locked, and not taken of.
  IF 0 = ANY (expiry[1:locked]) THEN
    DELETE FROM {table} s USING unnest(tids[1:locked], expiry[1:locked]) AS w (tid, expires)
    WHERE s.ctid = w.tid AND w.expires = 0;
  END IF;
  answers[2] := corrupt;
  RETURN answers;
END
{body};
