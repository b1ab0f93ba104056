import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import make_conninfo

from gateway.errors import ConfigError, StoreConflict, StoreError, StoreUnavailable
from gateway.postgres.pool import open_pool, translated


async def value(pool, query, *parameters):
    async with pool.connection() as connection:
        return (await (await connection.execute(query, parameters or None)).fetchone())[0]


async def execute_all(context, *statements):
    async with context as connection:
        for statement in statements:
            await connection.execute(statement)


async def test_pool_keeps_a_sound_connection(pool):
    async with pool.connection() as connection:
        first = connection.info.backend_pid
    async with pool.connection() as connection:
        assert connection.info.backend_pid == first
    assert (pool.size, pool.idle, pool.in_use, pool.connects, pool.discards) == (1, 1, 0, 1, 0)


async def test_pool_session_speaks_utc_and_bounds_statements(database):
    async with open_pool(database, size_max=1, statement_timeout_seconds=0.1) as pool:
        assert await value(pool, "show timezone") == "UTC"
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            await value(pool, "select 1 from pg_sleep(60)")
        assert pool.idle == 1


async def test_pool_never_opens_more_than_its_bound_and_serves_everybody(database):
    async with open_pool(database, size_max=3) as pool:
        most = 0

        async def work():
            nonlocal most
            async with pool.connection() as connection:
                most = max(most, pool.in_use)
                await connection.execute("select pg_sleep(0.005)")

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.waiting == 17
        assert (most, pool.connects, pool.size, pool.in_use, pool.waiting) == (3, 3, 3, 0, 0)


async def test_waiting_for_a_connection_can_be_cancelled_and_gives_its_place_back(database):
    async with open_pool(database, size_max=1) as pool, trio.open_nursery() as nursery:
        async with pool.connection():
            waiting = trio.CancelScope()

            async def wait():
                with waiting:
                    await value(pool, "select 1")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            waiting.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert pool.waiting == 0
        assert await value(pool, "select 2") == 2


async def test_waiting_too_long_for_a_connection_is_unavailable(database):
    async with open_pool(database, size_max=1, acquire_timeout_seconds=0.05) as pool:
        async with pool.connection(), trio.open_nursery() as nursery:

            async def wait():
                with pytest.raises(StoreUnavailable, match="none of 1 database connections"):
                    await value(pool, "select 1")

            nursery.start_soon(wait)


async def test_asking_for_a_second_connection_while_holding_one_is_refused(pool):
    async with pool.connection():
        with pytest.raises(RuntimeError):
            await value(pool, "select 1")


async def test_connection_left_inside_a_transaction_is_not_kept(pool):
    async with pool.connection() as connection:
        await connection.execute("begin")
    assert (pool.size, pool.discards) == (0, 1)


async def test_terminated_connection_is_unavailable_and_not_kept(pool):
    with pytest.raises(StoreUnavailable):
        await value(pool, "select pg_terminate_backend(pg_backend_pid())")
    assert pool.size == 0
    assert await value(pool, "select 1") == 1


async def test_connection_that_died_while_idle_is_replaced_unnoticed(pool, database):
    async with pool.connection() as connection:
        pid = connection.info.backend_pid
    async with open_pool(database, size_max=1) as admin:
        await value(admin, "select pg_terminate_backend(%s, 5000)", pid)
    assert await value(pool, "select pg_backend_pid()") != pid
    assert pool.discards == 1


async def test_absent_server_is_unavailable_and_counted(tmp_path):
    async with open_pool(make_conninfo(host=str(tmp_path), user="u", dbname="d"), size_max=1) as pool:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await value(pool, "select 1")
        assert (pool.connect_failures, pool.in_use, pool.size) == (2, 0, 0)


async def test_unreadable_conninfo_is_a_config_error_without_its_text():
    with pytest.raises(ConfigError) as caught:
        async with open_pool("hunter2 is no conninfo", size_max=1):
            raise AssertionError
    assert "hunter2" not in str(caught.value)


async def test_constraint_violation_is_a_conflict_that_names_the_rule_and_no_value(pool):
    with pytest.raises(StoreConflict) as caught:
        await execute_all(
            pool.transaction(),
            "create table t (a text constraint only_short check (length(a) < 3))",
            "insert into t values ('secret content')",
        )
    assert caught.value.constraint == "only_short"
    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


async def test_unacceptable_value_is_not_repeated_in_the_error(pool):
    with pytest.raises(StoreError) as caught:
        await value(pool, "select %s::text::uuid", "secret content")
    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


async def test_serialization_failure_is_a_conflict(pool):
    with pytest.raises(StoreConflict):
        await value(pool, "do $$ begin raise exception using errcode = 'serialization_failure'; end $$")


async def test_mistake_in_a_statement_is_a_store_error_with_its_cause(pool):
    with pytest.raises(StoreError, match="nowhere") as caught:
        await value(pool, "select * from nowhere")
    assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)
    assert not isinstance(caught.value, StoreUnavailable | StoreConflict)


async def test_read_only_server_is_unavailable_and_its_connection_not_kept(pool):
    with pytest.raises(StoreUnavailable):
        await execute_all(pool.connection(), "set default_transaction_read_only = on", "create table t (a int)")
    assert pool.size == 0


async def test_transaction_commits_or_rolls_back(pool):
    await execute_all(pool.transaction(), "create table t (a int)")
    with pytest.raises(StoreError):
        await execute_all(pool.transaction(), "insert into t values (1)", "select 1/0")
    assert await value(pool, "select count(*) from t") == 0


async def test_cancelled_transaction_gives_back_a_clean_connection(pool):
    with trio.move_on_after(0.05):
        async with pool.transaction() as connection:
            await connection.execute("create table t (a int)")
            await connection.execute("select pg_sleep(60)")
    assert await value(pool, "select to_regclass('t')::text") is None
    assert (pool.size, pool.in_use) == (1, 0)


async def test_closed_pool_closes_what_comes_back(database):
    async with open_pool(database, size_max=2) as pool:
        async with pool.connection() as connection:
            pool.close()
        assert connection.closed
        assert pool.size == 0
        with pytest.raises(StoreUnavailable):
            await value(pool, "select 1")


async def test_limit_that_one_statement_exceeds_is_no_outage(pool):
    """To psycopg it is an OperationalError like a lost connection; trying again would only fail again."""
    async with pool.connection() as connection:
        await connection.execute("create temporary table keyed (key text primary key)")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded) as caught:
            await connection.execute(
                "insert into keyed select string_agg(md5(n::text), '') from generate_series(1, 500) n"
            )
        error = translated(caught.value)
    assert type(error) is StoreError
