-- The tables and functions of limiter-postgres. Safe to repeat, and for many to run at once.
BEGIN;
-- The session's own limits are for decisions. Who waits for a lock makes others wait, so it ends.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '55s';
SET LOCAL check_function_bodies = off;
SELECT pg_advisory_xact_lock(hashtextextended(E'limiter-postgres "public"."rate_limits"', 0));
DO $body$ BEGIN
  -- CREATE SCHEMA needs a permission even if there is one.
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = E'public') THEN
    CREATE SCHEMA "public";
  END IF;
END $body$;

-- A state per key, written in place: see the algorithms. Pages are half empty and no column but the key has an index, so
-- that new versions of a row stay on its page and are pruned there.
CREATE  TABLE IF NOT EXISTS "public"."rate_limits" (
  key bytea PRIMARY KEY,
  a bigint NOT NULL,
  b bigint NOT NULL,
  c bigint NOT NULL,
  -- us since the epoch, from which on the row may be deleted
  expires bigint NOT NULL,
  -- What `take` hands to its own reply
  at bigint NOT NULL DEFAULT 0,
  entry bigint NOT NULL DEFAULT 0
) WITH (
  fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off
);

-- The entries of sliding logs.
CREATE  TABLE IF NOT EXISTS "public"."rate_limits_log" (
  id bigint NOT NULL,
  time bigint NOT NULL,
  before bigint NOT NULL,
  total bigint NOT NULL,
  expires bigint NOT NULL,
  PRIMARY KEY (id, time)
) WITH (
  fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off
);

CREATE SEQUENCE IF NOT EXISTS "public"."rate_limits_log_ids";

-- The schema's version, and the pages at which the next step of a sweep begins.
CREATE TABLE IF NOT EXISTS "public"."rate_limits_meta" (
  version int NOT NULL,
  page bigint NOT NULL DEFAULT 0,
  log_page bigint NOT NULL DEFAULT 0
);

DO $body$ BEGIN
  IF EXISTS (SELECT FROM "public"."rate_limits_meta" WHERE version > 1) THEN
    RAISE EXCEPTION 'the schema is of a newer version than 1' USING ERRCODE = '42P16';
  END IF;
  DELETE FROM "public"."rate_limits_meta" WHERE version < 1;
  INSERT INTO "public"."rate_limits_meta" (version) SELECT 1 WHERE NOT EXISTS (SELECT FROM "public"."rate_limits_meta");
  -- Another durability than it was made with.
  IF EXISTS (SELECT FROM pg_class WHERE oid = E'"public"."rate_limits"'::regclass AND relpersistence <> 'p') THEN
    ALTER TABLE "public"."rate_limits" SET LOGGED;
    ALTER TABLE "public"."rate_limits_log" SET LOGGED;
  END IF;
END $body$;

-- What a sliding log reads and adds, by the index of its entries: see sliding_log.sql. An r3 of -2: entries are missing,
-- and the log counts as absent.
CREATE OR REPLACE FUNCTION "public"."rate_limits_look_log"(
  newest bigint, sum bigint, log_id bigint, now bigint, n bigint, cnt bigint, quota_limit bigint, quota_window bigint,
  OUT granted bigint, OUT r1 bigint, OUT r2 bigint, OUT r3 bigint, OUT r4 bigint
)
LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
  oldest record; entry record;
  excess bigint; low bigint; high bigint; middle bigint;
BEGIN
  r1 := now; r2 := 0; r3 := -1; r4 := -1;
  IF (log_id > 0 OR newest > 0) AND newest - now <= quota_window AND newest + quota_window > now THEN
    SELECT e.time, e.before, e.total INTO oldest FROM "public"."rate_limits_log" e
      WHERE e.id = log_id AND e.time > greatest(newest, now) - quota_window ORDER BY e.time LIMIT 1;
    IF sum > oldest.before THEN
      r1 := greatest(newest, now); r2 := sum - oldest.before; r3 := newest;
    ELSE
      -- The newest, at least, should be there.
      r3 := -2;
    END IF;
  END IF;
  IF n = 0 THEN
    granted := cnt;
    RETURN;
  END IF;
  granted := CASE WHEN n > quota_limit THEN 0 ELSE least(cnt, greatest(0, (quota_limit - r2) / n)) END;
  IF granted = cnt OR n > quota_limit THEN
    RETURN;
  END IF;
  -- The entry up to which as much leaves as is in excess, once those granted are taken.
  excess := r2 + (granted + 1) * n - quota_limit;
  IF excess > r2 THEN
    r4 := r1;
  ELSIF oldest.total - oldest.before >= excess THEN
    r4 := oldest.time;
  ELSE
    low := oldest.time; high := newest;
    WHILE high - low > 1 LOOP
      middle := low + (high - low) / 2;
      SELECT e.time, e.total INTO entry FROM "public"."rate_limits_log" e
        WHERE e.id = log_id AND e.time > low AND e.time <= middle ORDER BY e.time DESC LIMIT 1;
      IF FOUND AND entry.total - oldest.before >= excess THEN
        high := entry.time;
      ELSE
        low := middle;
      END IF;
    END LOOP;
    r4 := high;
  END IF;
END
$body$;

-- Adds an entry, on a reading whose newest entry is that given; the number of the log's entries.
CREATE OR REPLACE FUNCTION "public"."rate_limits_take_log"(
  sum bigint, log_id bigint, deciding bigint, newest bigint, m bigint, quota_window bigint, expiry bigint
)
RETURNS bigint LANGUAGE plpgsql AS $body$
#variable_conflict use_column
BEGIN
  IF log_id <= 0 THEN
    log_id := nextval(E'"public"."rate_limits_log_ids"');
  ELSIF newest < 0 THEN
    -- Too far ahead: as if absent.
    DELETE FROM "public"."rate_limits_log" e WHERE e.id = log_id AND e.time > deciding - quota_window;
  END IF;
  INSERT INTO "public"."rate_limits_log" AS e (id, time, before, total, expires) VALUES (log_id, deciding, sum, sum + m, expiry)
    ON CONFLICT (id, time) DO UPDATE SET total = excluded.total, expires = excluded.expires;
  IF sum / 16 <> (sum + m) / 16 THEN
    DELETE FROM "public"."rate_limits_log" e WHERE e.ctid = ANY (ARRAY(
      SELECT e.ctid FROM "public"."rate_limits_log" e WHERE e.id = log_id AND e.time <= deciding - quota_window
      ORDER BY e.time LIMIT 64 FOR UPDATE SKIP LOCKED));
  END IF;
  RETURN log_id;
END
$body$;

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
CREATE OR REPLACE FUNCTION "public"."rate_limits_decide"(
  grace bigint, horizon bigint, keys bytea[], locked int, quotas bigint[], requests bigint[], done bigint[] DEFAULT NULL
)
RETURNS bigint[] LANGUAGE plpgsql
-- A plan that was made while the table was small stays right: each key is looked up.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $body$
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
    INSERT INTO "public"."rate_limits" AS s (key, a, b, c, expires) SELECT u.k, 0, 0, 0, 0 FROM unnest(keys[1:locked]) AS u (k)
    ON CONFLICT (key) DO UPDATE SET a = s.a WHERE false;
  END IF;
  clock := (date_part('epoch', clock_timestamp()) * 1000000)::bigint;
  SELECT array_agg(CASE WHEN ((s.a | s.b | s.c) >> 53 = 0) THEN s.a ELSE 0 END), array_agg(CASE WHEN ((s.a | s.b | s.c) >> 53 = 0) THEN s.b ELSE 0 END),
    array_agg(CASE WHEN ((s.a | s.b | s.c) >> 53 = 0) THEN s.c ELSE 0 END), array_agg(coalesce(s.expires, 0)), array_agg(s.ctid),
    array_agg(false), count(*) FILTER (WHERE NOT ((s.a | s.b | s.c) >> 53 = 0))
  INTO sa, sb, sc, expiry, tids, dirty, corrupt
  FROM unnest(keys) AS u (k) LEFT JOIN "public"."rate_limits" s ON s.key = u.k;
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
      IF o <> 7 * requests[first + 3 * j + 1] - 7 THEN
  o := 7 * requests[first + 3 * j + 1] - 7;
  kind := quotas[o + 1]; q1 := quotas[o + 2]; q2 := quotas[o + 3]; q3 := quotas[o + 4];
  q4 := quotas[o + 5]; q5 := quotas[o + 6]; q6 := quotas[o + 7];
END IF;
      IF kind <= 1 THEN
        IF sa[k] < now THEN
  r1 := now; r2 := 0;
ELSE
  r1 := sa[k]; r2 := sb[k];
  IF r2 > 0 AND (sc[k] <> q3 OR r2 >= q3) THEN
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
      ELSIF kind = 2 THEN
        r1 := CASE WHEN sa[k] > now AND sa[k] - now <= q2 THEN sa[k] ELSE now END;
r1 := r1 - r1 % q2;
r2 := CASE WHEN sa[k] - sa[k] % q2 = r1 THEN least(greatest(sb[k], 0), q1) ELSE 0 END;
fits := CASE WHEN n = 0 THEN cnt ELSE least(cnt, (q1 - r2) / n) END;
      ELSIF kind = 3 THEN
        SELECT l.* INTO fits, r1, r2, r3, r4 FROM "public"."rate_limits_look_log"(sa[k], sb[k], sc[k], now, n, cnt, q1, q2) l;
IF r3 = -2 THEN
  corrupt := corrupt + 1; r3 := -1;
  sa[k] := 0; sb[k] := 0; sc[k] := 0;
END IF;
      ELSE
        r1 := CASE WHEN sa[k] > now AND sa[k] - now <= q2 THEN sa[k] ELSE now END;
start := r1 - r1 % q2;
stood := sa[k] - sa[k] % q2;
r2 := greatest(sb[k], 0); r3 := greatest(sc[k], 0);
IF stood <> sa[k] THEN
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
        IF o <> 7 * requests[first + 3 * j + 1] - 7 THEN
  o := 7 * requests[first + 3 * j + 1] - 7;
  kind := quotas[o + 1]; q1 := quotas[o + 2]; q2 := quotas[o + 3]; q3 := quotas[o + 4];
  q4 := quotas[o + 5]; q5 := quotas[o + 6]; q6 := quotas[o + 7];
END IF;
        r1 := stash[4 * j]; r2 := stash[4 * j + 1]; r3 := stash[4 * j + 2]; r4 := stash[4 * j + 3];
      END IF;
      m := granted * n;
      answers := answers || r1; answers := answers || r2;
      IF kind <= 1 THEN
        IF m > 0 THEN
          sa[k] := r1 + m * q1 + (r2 + m * q2) / q3;
sb[k] := (r2 + m * q2) % q3;
sc[k] := q3;
reset := r1 + m * q1 + (r2 + m * q2 + q3 - 1) / q3;
        END IF;
      ELSIF kind = 2 THEN
        IF m > 0 THEN
          sa[k] := r1;
sb[k] := r2 + m;
reset := r1 + q2;
        END IF;
      ELSIF kind = 3 THEN
        answers := answers || r3; answers := answers || r4;
        IF m > 0 THEN
          reset := r1 + q2;
sc[k] := "public"."rate_limits_take_log"(sb[k], sc[k], r1, r3, m, q2, clock - now + reset + CASE WHEN at < 0 THEN grace ELSE greatest(grace, horizon) END);
sa[k] := r1;
sb[k] := sb[k] + m;
        END IF;
      ELSE
        answers := answers || r3;
        IF m > 0 THEN
          sa[k] := r1 - r1 % q2;
sb[k] := r2 + m;
sc[k] := r3;
reset := r1 - r1 % q2 + 2 * q2;
        END IF;
      END IF;
      IF m > 0 THEN
        dirty[k] := true;
        expiry[k] := CASE WHEN at < 0 THEN reset + grace ELSE clock + greatest(reset - now + grace, horizon) END;
      END IF;
    END LOOP;
  END LOOP;

  UPDATE "public"."rate_limits" AS s SET a = w.a, b = w.b, c = w.c, expires = w.expires
  FROM unnest(tids, sa, sb, sc, expiry, dirty) AS w (tid, a, b, c, expires, dirty)
  WHERE s.ctid = w.tid AND w.dirty;
  -- What was created to be locked, and not taken of.
  IF 0 = ANY (expiry[1:locked]) THEN
    DELETE FROM "public"."rate_limits" s USING unnest(tids[1:locked], expiry[1:locked]) AS w (tid, expires)
    WHERE s.ctid = w.tid AND w.expires = 0;
  END IF;
  answers[2] := corrupt;
  RETURN answers;
END
$body$;

-- Decides equal requests of one check that may take: what `decide` does for a batch, with a row instead of arrays of them,
-- at less than half the cost.
--
-- Arguments  grace and horizon as of "public"."rate_limits_decide"; the key, the instant and how many requests; the cost and the numbers of the
--            quota
-- Result     as of "public"."rate_limits_decide"; numbers that the algorithm does not read may follow
CREATE OR REPLACE FUNCTION "public"."rate_limits_one"(
  grace bigint, horizon bigint, k bytea, at bigint, cnt bigint, n bigint,
  kind bigint, q1 bigint, q2 bigint, q3 bigint, q4 bigint, q5 bigint, q6 bigint
)
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off
AS $body$
#variable_conflict use_variable
DECLARE
  sa bigint; sb bigint; sc bigint; is_sound boolean; corrupt bigint := 0;
  clock bigint; now bigint; m bigint;
  fits bigint; r1 bigint; r2 bigint; r3 bigint; r4 bigint;
  start bigint; stood bigint; reset bigint;
BEGIN
  SELECT s.a, s.b, s.c, ((s.a | s.b | s.c) >> 53 = 0) INTO sa, sb, sc, is_sound FROM "public"."rate_limits" s WHERE s.key = k FOR UPDATE;
  IF is_sound IS NOT TRUE THEN
    IF NOT FOUND THEN
      -- What was never used admits what may be admitted at all: the row stays.
      INSERT INTO "public"."rate_limits" AS s (key, a, b, c, expires) VALUES (k, 0, 0, 0, 0)
      ON CONFLICT (key) DO UPDATE SET a = s.a WHERE false;
      SELECT s.a, s.b, s.c, ((s.a | s.b | s.c) >> 53 = 0) INTO sa, sb, sc, is_sound FROM "public"."rate_limits" s WHERE s.key = k;
    END IF;
    IF NOT is_sound THEN
      corrupt := 1; sa := 0; sb := 0; sc := 0;
    END IF;
  END IF;
  clock := (date_part('epoch', clock_timestamp()) * 1000000)::bigint;
  now := CASE WHEN at < 0 THEN clock ELSE at END;
  IF kind = 0 AND q3 = 1 AND sb = 0 AND sa <= now + q4 THEN
    -- What most callers ask, of a bucket whose permits refill in whole us: as below, in half as many expressions, each of
    -- which costs the server more to begin than to compute.
    r1 := greatest(sa, now);
    fits := least(cnt, (q4 - r1 + now) / (n * q1));
    IF fits > 0 THEN
      UPDATE "public"."rate_limits" s SET a = r1 + fits * n * q1, b = 0, c = 1,
        expires = CASE WHEN at < 0 THEN r1 + fits * n * q1 + grace
          ELSE clock + greatest(r1 + fits * n * q1 - now + grace, horizon) END
      WHERE s.key = k;
    END IF;
    RETURN ARRAY[clock, corrupt, fits, r1, 0];
  END IF;
  IF kind <= 1 THEN
    IF sa < now THEN
  r1 := now; r2 := 0;
ELSE
  r1 := sa; r2 := sb;
  IF r2 > 0 AND (sc <> q3 OR r2 >= q3) THEN
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
  ELSIF kind = 2 THEN
    r1 := CASE WHEN sa > now AND sa - now <= q2 THEN sa ELSE now END;
r1 := r1 - r1 % q2;
r2 := CASE WHEN sa - sa % q2 = r1 THEN least(greatest(sb, 0), q1) ELSE 0 END;
fits := CASE WHEN n = 0 THEN cnt ELSE least(cnt, (q1 - r2) / n) END;
  ELSIF kind = 3 THEN
    SELECT l.* INTO fits, r1, r2, r3, r4 FROM "public"."rate_limits_look_log"(sa, sb, sc, now, n, cnt, q1, q2) l;
IF r3 = -2 THEN
  corrupt := corrupt + 1; r3 := -1;
  sa := 0; sb := 0; sc := 0;
END IF;
  ELSE
    r1 := CASE WHEN sa > now AND sa - now <= q2 THEN sa ELSE now END;
start := r1 - r1 % q2;
stood := sa - sa % q2;
r2 := greatest(sb, 0); r3 := greatest(sc, 0);
IF stood <> sa THEN
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
  END IF;
  IF fits > 0 THEN
    m := fits * n;
    IF kind <= 1 THEN
      sa := r1 + m * q1 + (r2 + m * q2) / q3;
sb := (r2 + m * q2) % q3;
sc := q3;
reset := r1 + m * q1 + (r2 + m * q2 + q3 - 1) / q3;
    ELSIF kind = 2 THEN
      sa := r1;
sb := r2 + m;
reset := r1 + q2;
    ELSIF kind = 3 THEN
      reset := r1 + q2;
sc := "public"."rate_limits_take_log"(sb, sc, r1, r3, m, q2, clock - now + reset + CASE WHEN at < 0 THEN grace ELSE greatest(grace, horizon) END);
sa := r1;
sb := sb + m;
    ELSE
      sa := r1 - r1 % q2;
sb := r2 + m;
sc := r3;
reset := r1 - r1 % q2 + 2 * q2;
    END IF;
    UPDATE "public"."rate_limits" s SET a = sa, b = sb, c = sc,
      expires = CASE WHEN at < 0 THEN reset + grace ELSE clock + greatest(reset - now + grace, horizon) END
    WHERE s.key = k;
  END IF;
  RETURN ARRAY[clock, corrupt, fits, r1, r2, coalesce(r3, 0), coalesce(r4, 0)];
END
$body$;

-- Forgets the states of keys, locked in key order; entries of logs go with the sweep.
CREATE OR REPLACE FUNCTION "public"."rate_limits_reset"(keys bytea[])
RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $body$
DECLARE
  deleted bigint;
BEGIN
  PERFORM 1 FROM unnest(keys) AS u (k) JOIN "public"."rate_limits" s ON s.key = u.k ORDER BY s.key FOR UPDATE OF s;
  DELETE FROM "public"."rate_limits" s USING unnest(keys) AS u (k) WHERE s.key = u.k;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN deleted;
END
$body$;

-- Deletes expired rows of the next `pages` pages, behind where the step before ended; how many, and whether this step
-- reached the ends of both tables. Waits for no one: what is locked is left for the next time, and a step that finds
-- another under way does nothing.
CREATE OR REPLACE FUNCTION "public"."rate_limits_sweep"(pages int DEFAULT 128, OUT deleted bigint, OUT is_last boolean)
LANGUAGE plpgsql AS $body$
#variable_conflict use_variable
DECLARE
  clock bigint := (date_part('epoch', clock_timestamp()) * 1000000)::bigint;
  begins bigint; log_begins bigint; ends bigint; log_ends bigint; more bigint;
  size bigint := current_setting('block_size')::bigint;
BEGIN
  deleted := 0; is_last := true;
  SELECT m.page, m.log_page INTO begins, log_begins FROM "public"."rate_limits_meta" m LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM set_config('synchronous_commit', 'off', true);
  ends := pg_relation_size(E'"public"."rate_limits"'::regclass) / size;
  log_ends := pg_relation_size(E'"public"."rate_limits_log"'::regclass) / size;
  DELETE FROM "public"."rate_limits" t WHERE t.ctid = ANY (ARRAY(
    SELECT s.ctid FROM "public"."rate_limits" s
    WHERE s.ctid >= format('(%s,0)', begins)::tid AND s.ctid < format('(%s,0)', begins + pages)::tid
      AND s.expires < clock
    FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS deleted = ROW_COUNT;
  DELETE FROM "public"."rate_limits_log" t WHERE t.ctid = ANY (ARRAY(
    SELECT s.ctid FROM "public"."rate_limits_log" s
    WHERE s.ctid >= format('(%s,0)', log_begins)::tid AND s.ctid < format('(%s,0)', log_begins + pages)::tid
      AND s.expires < clock
    FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS more = ROW_COUNT;
  deleted := deleted + more;
  is_last := begins + pages >= ends AND log_begins + pages >= log_ends;
  UPDATE "public"."rate_limits_meta" m SET
    page = CASE WHEN is_last THEN 0 ELSE least(begins + pages, ends) END,
    log_page = CASE WHEN is_last THEN 0 ELSE least(log_begins + pages, log_ends) END;
END
$body$;

COMMIT;
