-- Which rows other transactions hold just now; waits for none of them. A row that one has made and not committed is not
-- seen.
--
-- $1 keys, each once
-- Result  the places in $1 of those that are held
SELECT array_agg(e.i)
FROM (
  SELECT e.i,
    (SELECT true FROM {table} s WHERE s.key = e.key) AS is_there,
    (SELECT true FROM {table} s WHERE s.key = e.key FOR NO KEY UPDATE SKIP LOCKED) AS is_free
  FROM unnest($1) WITH ORDINALITY AS e (key, i)
  OFFSET 0
) e
WHERE e.is_there AND e.is_free IS NULL
