-- Whether the database takes writes, tried and not asked.

-- name: keep_little_in_memory()$
-- For the rest of the transaction, so that what follows needs a file.
select set_config('work_mem', '64kB', true);

-- name: fill_a_file()$
-- Room on the disk: half a megabyte goes through a temporary file, which needs blocks that are free. A change of a row
-- would go into pages and a log that have their place already, and succeed long after inserts have begun to fail.
select count(*) from generate_series(1, 20000);

-- name: try_write()$
-- The update changes no row, and fails where rows cannot be changed: on a standby, and in a read-only transaction. The
-- message is one record in the write-ahead log, which is on disk (and where it must be, on a standby too) when the
-- transaction has committed. There is no row that replicas would wait for each other for, and nothing to clean up.
with attempt as (update workspace set id = id where false)
select pg_logical_emit_message(true, 'gateway'::text, 'readiness'::text)::text;
