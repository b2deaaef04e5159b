-- Takes from buckets whose permits refill in whole us: most batches whole, in one pass over the rows. A statement of its
-- own and no function: it costs one caller alone little more than any upsert.
--
-- Each row is locked, in key order, before its instant is read. A row that may not admit is left as it is, locked, and
-- with the others of its kind decided by {decide} in the same trip.
--
-- $1 keys, each once and in order; of each the instant (us; below 0: this server's clock), how many equal requests, the
-- us that one of them takes to refill, and the bucket's filling in us; $6 grace, $7 horizon, $8 quotas, $9 requests: see
-- {decide}
-- Result  of the keys taken from: place in $1, how many were granted, the instant, when the bucket is full again; and
--         what {decide} answers of the others
WITH taken AS (
  INSERT INTO {table} AS s (key, a, b, c, expires, at, granted, entry)
  SELECT e.key, e.now + e.step * e.fit, 0, 1,
    e.clock + CASE WHEN e.at < 0 THEN e.step * e.fit + $6 ELSE greatest(e.step * e.fit + $6, $7) END, e.now, e.fit, e.i
  FROM (
    SELECT e.*, CASE WHEN e.at < 0 THEN e.clock ELSE e.at END AS now, least(e.cnt, e.room / e.step) AS fit
    FROM (
      SELECT e.*, {clock} AS clock
      FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS e (key, at, cnt, step, room, i)
      OFFSET 0
    ) e
    OFFSET 0
  ) e
  ON CONFLICT (key) DO UPDATE SET (a, b, c, expires, at, granted, entry) = (
    SELECT base + fit * step, 0, 1,
      clock + CASE WHEN x.at < 0 THEN base + fit * step - now + $6 ELSE greatest(base + fit * step - now + $6, $7) END,
      now, fit, excluded.entry
    FROM (
      SELECT x.*, least(cnt, greatest(0, (room - base + now) / step)) AS fit
      FROM (
        SELECT x.*, greatest(full_at, now) AS base
        FROM (
          SELECT clock, x.at, CASE WHEN x.at < 0 THEN clock ELSE x.at END AS now,
            s.a + CASE WHEN s.b > 0 THEN 1 ELSE 0 END AS full_at,
            ($3)[excluded.entry] AS cnt, ($4)[excluded.entry] AS step, ($5)[excluded.entry] AS room
          FROM (SELECT {clock} AS clock, ($2)[excluded.entry] AS at OFFSET 0) x
          OFFSET 0
        ) x
        OFFSET 0
      ) x
      OFFSET 0
    ) x
  )
  -- Whether one fits for sure; what this leaves out, and what lies too far ahead, is decided exactly.
  WHERE s.a + 1 + ($4)[excluded.entry] - ($5)[excluded.entry]
    <= CASE WHEN ($2)[excluded.entry] < 0 THEN {clock} ELSE ($2)[excluded.entry] END
  RETURNING entry, granted, at, a
)
SELECT array_agg(entry), array_agg(granted), array_agg(at), array_agg(a),
  CASE WHEN count(*) < cardinality($1) THEN {decide}($6, $7, $1, 0, $8, $9, coalesce(array_agg(entry), ARRAY[]::bigint[])) END
FROM taken
