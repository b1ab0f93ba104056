-- Tests of the ability to write, by an actual write.

-- name: keep_little_in_memory()$
-- For the rest of the transaction, so that the next statement needs a file.
select set_config('work_mem', '64kB', true);

-- name: fill_a_file()$
-- Tests for free space on the disk: half a megabyte goes through a temporary file, which needs free blocks. An update
-- of a row would go into pages and a log that have their space already, and would succeed long after inserts have begun
-- to fail.
select count(*) from generate_series(1, 20000);

-- name: try_write()$
-- The update changes no row, and fails where rows cannot be changed: on a standby, and in a read-only transaction. The
-- message is one record in the write-ahead log. It is on disk (and where required on a standby too) when the
-- transaction has committed. Replicas share no row that they would wait for, and nothing has to be cleaned up.
with attempt as (update workspace set id = id where false)
select pg_logical_emit_message(true, 'gateway'::text, 'readiness'::text)::text;
