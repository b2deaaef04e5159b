-- Deletes expired rows of the next `pages` pages, behind where the step before ended; how many, and whether this step
-- reached the ends of both tables. Waits for no one: what is locked is left for the next time, and a step that finds
-- another under way does nothing.
CREATE OR REPLACE FUNCTION {sweep}(pages int DEFAULT 128, OUT deleted bigint, OUT is_last boolean)
LANGUAGE plpgsql AS {body}
#variable_conflict use_variable
DECLARE
  clock bigint := {clock};
  begins bigint; log_begins bigint; ends bigint; log_ends bigint; more bigint;
  size bigint := current_setting('block_size')::bigint;
BEGIN
  deleted := 0; is_last := true;
  SELECT m.page, m.log_page INTO begins, log_begins FROM {meta} m LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM set_config('synchronous_commit', 'off', true);
  ends := pg_relation_size({table_name}::regclass) / size;
  log_ends := pg_relation_size({log_name}::regclass) / size;
  DELETE FROM {table} t WHERE t.ctid = ANY (ARRAY(
    SELECT s.ctid FROM {table} s
    WHERE s.ctid >= format('(%s,0)', begins)::tid AND s.ctid < format('(%s,0)', begins + pages)::tid
      AND s.expires < clock
    FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS deleted = ROW_COUNT;
  DELETE FROM {log} t WHERE t.ctid = ANY (ARRAY(
    SELECT s.ctid FROM {log} s
    WHERE s.ctid >= format('(%s,0)', log_begins)::tid AND s.ctid < format('(%s,0)', log_begins + pages)::tid
      AND s.expires < clock
    FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS more = ROW_COUNT;
  deleted := deleted + more;
  is_last := begins + pages >= ends AND log_begins + pages >= log_ends;
  UPDATE {meta} m SET
    page = CASE WHEN is_last THEN 0 ELSE least(begins + pages, ends) END,
    log_page = CASE WHEN is_last THEN 0 ELSE least(log_begins + pages, log_ends) END;
END
{body};
