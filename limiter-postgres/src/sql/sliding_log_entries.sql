-- What a sliding log reads and adds, by the index of its entries: see sliding_log.sql. An r3 of -2: entries are missing,
-- and the log counts as absent.
CREATE OR REPLACE FUNCTION {look_log}(
  newest bigint, sum bigint, log_id bigint, now bigint, n bigint, cnt bigint, quota_limit bigint, quota_window bigint,
  OUT granted bigint, OUT r1 bigint, OUT r2 bigint, OUT r3 bigint, OUT r4 bigint
)
LANGUAGE plpgsql AS {body}
#variable_conflict use_column
DECLARE
  oldest record; entry record;
  excess bigint; low bigint; high bigint; middle bigint;
BEGIN
  r1 := now; r2 := 0; r3 := -1; r4 := -1;
  IF (log_id > 0 OR newest > 0) AND newest - now <= quota_window AND newest + quota_window > now THEN
    SELECT e.time, e.before, e.total INTO oldest FROM {log} e
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
      SELECT e.time, e.total INTO entry FROM {log} e
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
{body};

-- Adds an entry, on a reading whose newest entry is that given; the number of the log's entries.
CREATE OR REPLACE FUNCTION {take_log}(
  sum bigint, log_id bigint, deciding bigint, newest bigint, m bigint, quota_window bigint, expiry bigint
)
RETURNS bigint LANGUAGE plpgsql AS {body}
#variable_conflict use_column
BEGIN
  IF log_id <= 0 THEN
    log_id := nextval({log_ids_name});
  ELSIF newest < 0 THEN
    -- Too far ahead: as if absent.
    DELETE FROM {log} e WHERE e.id = log_id AND e.time > deciding - quota_window;
  END IF;
  INSERT INTO {log} AS e (id, time, before, total, expires) VALUES (log_id, deciding, sum, sum + m, expiry)
    ON CONFLICT (id, time) DO UPDATE SET total = excluded.total, expires = excluded.expires;
  IF sum / 16 <> (sum + m) / 16 THEN
    DELETE FROM {log} e WHERE e.ctid = ANY (ARRAY(
      SELECT e.ctid FROM {log} e WHERE e.id = log_id AND e.time <= deciding - quota_window
      ORDER BY e.time LIMIT 64 FOR UPDATE SKIP LOCKED));
  END IF;
  RETURN log_id;
END
{body};
