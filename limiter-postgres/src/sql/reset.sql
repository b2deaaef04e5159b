-- Forgets the states of keys, locked in key order; entries of logs go with the sweep.
CREATE OR REPLACE FUNCTION {reset}(keys bytea[])
RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS {body}
DECLARE
  deleted bigint;
BEGIN
  PERFORM 1 FROM unnest(keys) AS u (k) JOIN {table} s ON s.key = u.k ORDER BY s.key FOR UPDATE OF s;
  DELETE FROM {table} s USING unnest(keys) AS u (k) WHERE s.key = u.k;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN deleted;
END
{body};
