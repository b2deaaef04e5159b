-- The tables and functions of limiter-postgres. Safe to repeat, and for many to run at once.
BEGIN;
-- The session's own limits are for decisions. Who waits for a lock makes others wait, so it ends.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '55s';
SET LOCAL check_function_bodies = off;
SELECT pg_advisory_xact_lock(hashtextextended({lock}, 0));
DO {body} BEGIN
  -- CREATE SCHEMA needs a permission even if there is one.
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema_literal}) THEN
    CREATE SCHEMA {schema};
  END IF;
END {body};
