"""The database of one test is that of the next, and shows nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from support.database import TABLE_BYTES_MAX, TEMPLATE, ReusedDatabase, execute_blocking

ADD_USER = "insert into app_user (id, email) values (gen_random_uuid(), 'ada@example.invalid')"
COUNT_USERS = "select count(*) from app_user"


@pytest.fixture
def reused(postgres: str) -> Iterator[ReusedDatabase]:
    with closing(ReusedDatabase(postgres)) as reused:
        yield reused


def counts(reused: ReusedDatabase) -> tuple[int, int]:
    return reused.reused, reused.cloned


def test_rows_and_sequences_of_one_test_are_gone_in_the_next(reused: ReusedDatabase) -> None:
    first = reused.take()
    execute_blocking(first, ADD_USER)
    assert execute_blocking(first, "select nextval('outbound_message_seq_seq')") == [(1,)]
    second = reused.take()
    assert execute_blocking(second, COUNT_USERS) == [(0,)]
    assert execute_blocking(second, "select nextval('outbound_message_seq_seq')") == [(1,)]
    assert counts(reused) == (1, 1)


def test_rows_are_gone_though_a_trigger_would_write_others(reused: ReusedDatabase) -> None:
    first = reused.take()
    execute_blocking(
        first,
        "insert into webhook_delivery (id, source) values (gen_random_uuid(), 'github_app')",
    )
    assert execute_blocking(first, "select count(*) from webhook_tally") != [(0,)]
    second = reused.take()
    assert execute_blocking(second, "select from webhook_delivery union all select from webhook_tally") == []
    assert counts(reused) == (1, 1)


def test_sessions_and_locks_of_one_test_end_before_the_next(reused: ReusedDatabase) -> None:
    with closing(psycopg.connect(reused.take())) as left:
        left.execute("listen news")
        left.execute("select pg_advisory_lock(7)")
        left.execute(ADD_USER.encode())
        second = reused.take()
        with pytest.raises(psycopg.OperationalError):
            left.execute("select 1")
    assert execute_blocking(second, "select pg_try_advisory_lock(7)") == [(True,)]
    assert execute_blocking(second, COUNT_USERS) == [(0,)]
    assert counts(reused) == (1, 1)


def test_process_that_is_left_behind_finds_no_database(reused: ReusedDatabase) -> None:
    first = reused.take()
    reused.take()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        execute_blocking(first, "select 1")


@pytest.mark.parametrize(
    "change",
    [
        "create table new (n int)",
        "create index on app_user (name)",
        "alter table app_user drop column name",
        "alter table app_user alter column name set default 'Ada'",
        "alter table app_user rename to people",
        "alter table app_user add check (name <> 'Bob')",
        "create schema elsewhere",
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$",
        "alter table app_user disable trigger all",
        "drop trigger outbound_message_announce on outbound_message",
        "alter sequence outbound_message_seq_seq increment by 2",
        "create view everyone as select from app_user",
        "delete from _yoyo_migration",
        "insert into yoyo_lock values (1, now(), 7)",
        "analyze",
        "do $$ begin"
        " execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$",
        f"insert into app_user (id, email) select gen_random_uuid(), n || '@' || repeat('x', 1000)"
        f" from generate_series(1, {TABLE_BYTES_MAX // 1000}) n",
    ],
)
def test_database_that_became_another_is_not_reused(reused: ReusedDatabase, change: str) -> None:
    execute_blocking(reused.take(), change)
    second = reused.take()
    assert counts(reused) == (0, 2)
    assert execute_blocking(second, COUNT_USERS) == [(0,)]
    execute_blocking(second, ADD_USER)


def test_database_that_a_test_dropped_is_made_again(reused: ReusedDatabase, postgres: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(reused.take())["dbname"]
    execute_blocking(postgres, f"drop database {name}")
    assert execute_blocking(reused.take(), COUNT_USERS) == [(0,)]
    assert counts(reused) == (0, 2)


def test_server_whose_sessions_a_test_ended_serves_the_next(reused: ReusedDatabase, postgres: str) -> None:
    reused.take()
    execute_blocking(postgres, "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    assert execute_blocking(reused.take(), COUNT_USERS) == [(0,)]


def test_database_handed_out_equals_the_template_in_every_table(reused: ReusedDatabase, postgres: str) -> None:
    """By the counts of all rows, which `take` itself does not ask for."""
    template = psycopg.conninfo.make_conninfo(postgres, dbname=TEMPLATE)
    tables = execute_blocking(template, "select oid::regclass::text from pg_class where relkind = 'r' and oid >= 16384")
    count = " union all ".join(f"select '{table}', count(*) from {table}" for (table,) in tables) + " order by 1"
    execute_blocking(reused.take(), ADD_USER)
    assert execute_blocking(reused.take(), count) == execute_blocking(template, count)
    assert counts(reused) == (1, 1)
