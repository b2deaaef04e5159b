-- A state per key, written in place: see the algorithms. Pages are half empty and no column but the key has an index, so
-- that new versions of a row stay on its page and are pruned there.
CREATE {unlogged} TABLE IF NOT EXISTS {table} (
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
CREATE {unlogged} TABLE IF NOT EXISTS {log} (
  id bigint NOT NULL,
  time bigint NOT NULL,
  before bigint NOT NULL,
  total bigint NOT NULL,
  expires bigint NOT NULL,
  PRIMARY KEY (id, time)
) WITH (
  fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off
);

CREATE SEQUENCE IF NOT EXISTS {log_ids};

-- The schema's version, and the pages at which the next step of a sweep begins.
CREATE TABLE IF NOT EXISTS {meta} (
  version int NOT NULL,
  page bigint NOT NULL DEFAULT 0,
  log_page bigint NOT NULL DEFAULT 0
);

DO {body} BEGIN
  IF EXISTS (SELECT FROM {meta} WHERE version > {version}) THEN
    RAISE EXCEPTION 'the schema is of a newer version than {version}' USING ERRCODE = '42P16';
  END IF;
  DELETE FROM {meta} WHERE version < {version};
  INSERT INTO {meta} (version) SELECT {version} WHERE NOT EXISTS (SELECT FROM {meta});
  -- Another durability than it was made with.
  IF EXISTS (SELECT FROM pg_class WHERE oid = {table_name}::regclass AND relpersistence <> {persistence}) THEN
    ALTER TABLE {table} SET {logged};
    ALTER TABLE {log} SET {logged};
  END IF;
END {body};
