-- Takes from buckets whose permits refill in whole us: most batches whole, in one pass over the rows.
--
-- Each row is locked, in key order, before its instant is read. One that may not admit all that is asked of it is left as
-- it is, locked, and with the others of its kind decided by {decide} in the same trip. The clock is read where it is
-- needed, each time anew: a subquery per row that reads it once costs more. A later reading only makes more fit.
--
-- $1 keys, each once and in order; of each $2 the instant (us; below 0: this server's clock), $3 the us that what is asked
-- takes to refill, as far as a bucket that was never used has it, $4 the bucket's filling in us; $5 grace, $6 horizon,
-- $7 quotas, $8 requests: see {decide}
-- Result  of the keys taken from: place in $1, when the bucket is full again, and the instant, just behind that which
--         decided (below 0: the row is new); and what {decide} answers of the others
WITH taken AS (
  INSERT INTO {table} AS s (key, a, b, c, expires, at, entry)
  SELECT e.key, CASE WHEN e.at < 0 THEN {clock} ELSE e.at END + e.step, 0, 1,
    {clock} + CASE WHEN e.at < 0 THEN e.step + $5 ELSE greatest(e.step + $5, $6) END, e.at, e.i
  FROM unnest($1, $2, $3) WITH ORDINALITY AS e (key, at, step, i)
  ON CONFLICT (key) DO UPDATE SET
    a = greatest({full_at}, {now}) + ($3)[excluded.entry], b = 0, c = 1,
    expires = CASE WHEN excluded.at < 0 THEN greatest({full_at}, {clock}) + ($3)[excluded.entry] + $5
      ELSE {clock} + greatest(greatest({full_at} - excluded.at, 0) + ($3)[excluded.entry] + $5, $6) END,
    at = {now}, entry = excluded.entry
  -- What lies too far ahead, and what is no state, is decided exactly.
  WHERE CASE WHEN {sound} THEN {full_at} + ($3)[excluded.entry] - ($4)[excluded.entry] <= {now} END
  RETURNING entry, a, at
)
SELECT array_agg(entry), array_agg(a), array_agg(at),
  CASE WHEN count(*) < cardinality($1) THEN {decide}($5, $6, $1, 0, $7, $8, coalesce(array_agg(entry), ARRAY[]::bigint[])) END
FROM taken
