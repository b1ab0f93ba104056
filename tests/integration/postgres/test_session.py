"""Sessions mean the same whatever the database sets, and a database that cannot be used is refused with the cause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.cli.doctor import examine
from gateway.config import Settings
from gateway.daemon.database import open_migrated
from gateway.errors import ConfigError, StoreUnavailable
from gateway.legacy.source_store import open_legacy_source
from gateway.postgres import inspection, migrate, session
from gateway.postgres.driver import TrioConnection
from gateway.postgres.inspection import DatabaseCondition, inspect_database, refuse_unusable
from gateway.postgres.migrate import migrate_up, pending, status
from gateway.postgres.pool import Pool, open_pool
from gateway.postgres.session import open_session
from support import legacy_schema
from support.database import TEMPLATE, fresh_database
from support.processes import free_address

# What a database can set, and what must hold in our sessions all the same.
FOREIGN_SETTINGS = [
    ("client_encoding", "GBK", "UTF8"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("client_encoding", "SQL_ASCII", "UTF8"),
    ("datestyle", "German, DMY", "ISO, MDY"),
    ("timezone", "Asia/Shanghai", "UTC"),
    ("standard_conforming_strings", "off", "on"),
    ("intervalstyle", "iso_8601", "postgres"),
    ("bytea_output", "escape", "hex"),
    ("default_transaction_isolation", "serializable", "read committed"),
    ("default_transaction_deferrable", "on", "off"),
    ("transform_null_equals", "on", "off"),
    ("array_nulls", "off", "on"),
    ("lock_timeout", "1ms", "0"),
    ("idle_session_timeout", "1min", "0"),
]


async def execute(conninfo: str, *statements: str) -> None:
    async with await TrioConnection.connect(conninfo) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


def name_of(conninfo: str) -> str:
    return str(conninfo_to_dict(conninfo)["dbname"])


def settings_for(conninfo: str, **more: Any) -> Settings:
    return Settings.model_validate({"database_url": conninfo, **more})


@pytest.mark.parametrize(("setting", "foreign", "ours"), FOREIGN_SETTINGS)
async def test_setting_of_the_database_does_not_reach_our_sessions(
    database: str, setting: str, foreign: str, ours: str
) -> None:
    await execute(database, f"alter database {name_of(database)} set {setting} = '{foreign}'")
    async with open_pool(database, size_max=1) as pool, pool.connection() as connection:
        cursor = await connection.execute("select current_setting(%s), '你好 \\'", (setting,))
        assert await cursor.fetchone() == (ours, "你好 \\")
    async with await open_session(database) as connection:
        cursor = await connection.execute("select current_setting(%s)", (setting,))
        assert await cursor.fetchone() == (ours,)


async def test_migrations_are_not_bound_by_what_the_database_sets(
    either_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_slow.sql").write_text("select pg_sleep(1);\ncreate table slow (a text default '\\ 你好');\n")
    monkeypatch.setattr(migrate, "asset_dir", lambda _name: tmp_path)
    async with fresh_database(either_postgres, template="template0") as conninfo:
        name = name_of(conninfo)
        settings = {"client_encoding": "GBK", "statement_timeout": "900ms", "standard_conforming_strings": "off"}
        await execute(conninfo, *(f"alter database {name} set {key} = '{value}'" for key, value in settings.items()))
        assert await migrate_up(conninfo) == ["0001_slow"]
        async with await open_session(conninfo) as connection:
            cursor = await connection.execute("insert into slow default values returning a")
            assert await cursor.fetchone() == ("\\ 你好",)


async def test_old_database_with_another_client_encoding_is_read_as_text(postgres: str) -> None:
    async with fresh_database(postgres, template="template0") as conninfo:
        await execute(conninfo, legacy_schema.PARENTS + legacy_schema.LARK + legacy_schema.CHANNEL)
        await execute(conninfo, f"alter database {name_of(conninfo)} set client_encoding = 'GBK'")
        async with open_legacy_source(conninfo) as source:
            cursor = await source._connection.execute("select '你好', current_setting('datestyle')")
            assert await cursor.fetchone() == ("你好", "ISO, MDY")


async def test_server_that_is_too_old_is_refused_at_the_start(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OLDEST_MAJOR", 99)
    with pytest.raises(ConfigError, match="99 is the oldest that works: upgrade the server"):
        async with open_migrated(settings_for(database), attach=False):
            pass


# --- databases that cannot be used ------------------------------------------------------------------------------------


@asynccontextmanager
async def own_role(server: str, *, template: str = TEMPLATE) -> AsyncIterator[tuple[str, str]]:
    """A database, and the conninfo by which a role without any right connects to it."""
    async with fresh_database(server, template=template) as conninfo:
        role = f"role_of_{name_of(conninfo)}"
        await execute(conninfo, f"create role {role} login")
        try:
            # The embedded server knows its accounts by their uid, so the role is taken on after connecting.
            yield conninfo, make_conninfo(conninfo, options=f"-c role={role}")
        finally:
            await execute(conninfo, f"drop owned by {role} cascade", f"drop role {role}")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_CN"])
async def test_database_of_another_encoding_is_refused(postgres: str, encoding: str) -> None:
    name = f"test_encoding_{encoding.lower()}"
    make = f"create database {name} encoding '{encoding}' locale_provider libc locale 'C' template template0"
    await execute(postgres, make)
    try:
        with pytest.raises(ConfigError, match=f"database {name} has the encoding {encoding}, which cannot hold every"):
            async with open_migrated(settings_for(make_conninfo(postgres, dbname=name)), attach=False):
                pass
    finally:
        await execute(postgres, f"drop database {name} with (force)")


UNUSABLE = {
    "read_only": ("set default_transaction_read_only = on", r"is read-only for role gateway .*reset default_trans"),
    "nowhere": ("set search_path = missing", r"search_path \(missing\) leads to no schema"),
    "empty": ("set search_path = ''", r"search_path \(\"\"\) leads to no schema"),
    "system": ("set search_path = pg_catalog", "leads to pg_catalog, where nothing can be stored"),
    "foreign": ("set search_path = other", "leads to schema other, but the gateway's tables are in public: `alter"),
    "foreign_first": ("set search_path = other, public", "leads to schema other, but the gateway's tables are in publ"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_database_with_an_unusable_setting_is_refused_with_the_cause(postgres: str, case: str) -> None:
    setting, words = UNUSABLE[case]
    async with fresh_database(postgres) as conninfo:
        await execute(conninfo, "create schema other", f"alter database {name_of(conninfo)} {setting}")
        for use in (pending, migrate_up):
            with pytest.raises(ConfigError, match=words):
                await use(conninfo)
        if case == "read_only":
            assert all(each.applied_at for each in await status(conninfo))  # reading is enough for that


async def test_role_that_may_not_create_tables_is_refused_as_long_as_steps_are_pending(either_postgres: str) -> None:
    async with own_role(either_postgres, template="template0") as (conninfo, limited):
        with pytest.raises(ConfigError, match=r"may not create tables in schema public .*`grant create on schema pub"):
            await migrate_up(limited)
        role = conninfo_to_dict(limited)["options"].partition("=")[2]
        await execute(conninfo, f"grant create on schema public to {role}")
        assert await migrate_up(limited)
        assert await pending(limited) == []


async def test_role_without_usage_of_the_schema_is_refused(postgres: str) -> None:
    async with own_role(postgres) as (conninfo, limited):
        await execute(conninfo, "revoke all on schema public from public")
        with pytest.raises(ConfigError, match=r"leads to no schema of database .* that role .* may use"):
            await pending(limited)


async def test_role_without_rights_on_the_tables_is_refused(postgres: str) -> None:
    async with own_role(postgres) as (conninfo, limited):
        role = conninfo_to_dict(limited)["options"].partition("=")[2]
        await execute(conninfo, f"grant select on all tables in schema public to {role}")
        with pytest.raises(ConfigError, match=r"may not read and write _yoyo_log, .* and .* more: `grant select, ins"):
            await pending(limited)
        await execute(conninfo, f"grant select, insert, update, delete on all tables in schema public to {role}")
        assert await pending(limited) == []
        await execute(conninfo, "delete from _yoyo_migration where migration_id > '0022'")
        with pytest.raises(ConfigError, match=f"belong to role gateway, so role {role} cannot migrate them: `grant ga"):
            await pending(limited)


async def test_schema_with_tables_of_another_program_is_refused(postgres: str) -> None:
    async with fresh_database(postgres, template="template0") as conninfo:
        await execute(conninfo, "create table agent (id int)", "create table unrelated (id int)")
        with pytest.raises(ConfigError, match=r"schema public of .* holds tables of another program \(agent\)"):
            await pending(conninfo)
        await execute(conninfo, "drop table agent")
        assert await migrate_up(conninfo)


async def test_every_table_that_would_be_in_the_way_is_one_of_ours(pool: Pool) -> None:
    text = inspection._INSPECT_DATABASE.sql
    named = text.partition("relname in ('workspace'")[2].partition(")")[0]
    async with pool.connection() as connection:
        cursor = await connection.execute("select relname from pg_class where relkind = 'r'")
        tables = {name for (name,) in await cursor.fetchall()}
    assert {"agent", "api_token"} < {each.strip(" ',") for each in named.split(",")} - {""} < tables


async def test_schema_of_any_name_serves_if_search_path_leads_to_it(either_postgres: str) -> None:
    async with fresh_database(either_postgres, template="template0") as conninfo:
        own = 'set search_path = "Own Schema"'
        await execute(conninfo, 'create schema "Own Schema"', f"alter database {name_of(conninfo)} {own}")
        async with open_migrated(settings_for(conninfo), attach=False):
            assert await pending(conninfo) == []


async def test_standby_is_unavailable_and_no_mistake_of_the_operator(pool: Pool) -> None:
    async with pool.connection() as connection:
        found = await inspect_database(connection)
    fields = {name: getattr(found, name) for name in DatabaseCondition.__slots__}
    standby = DatabaseCondition(**{**fields, "standby": True})
    with pytest.raises(StoreUnavailable, match="is a standby, which takes no writes"):
        refuse_unusable(standby)
    refuse_unusable(standby, writing=False)


async def test_doctor_finds_the_cause_and_looks_no_further(postgres: str, tmp_path: Path) -> None:
    async with fresh_database(postgres) as conninfo:
        await execute(conninfo, f"alter database {name_of(conninfo)} set search_path = missing")
        found = await examine(settings_for(conninfo, state_dir=tmp_path, http={"bind": free_address()}))
    (finding,) = [each for each in found.checks if each.name == "database"]
    assert not finding.ok
    assert finding.detail.startswith("search_path (missing) leads to no schema of database ")
    assert not [each for each in found.checks if each.name == "migrations"]


async def test_every_cause_is_told_at_once(postgres: str) -> None:
    async with fresh_database(postgres) as conninfo:
        name = name_of(conninfo)
        await execute(
            conninfo,
            f"alter database {name} set search_path = missing",
            f"alter database {name} set default_transaction_read_only = on",
        )
        with pytest.raises(ConfigError, match=r"leads to no schema .*; database .* is read-only"):
            await pending(conninfo)


async def test_identifiers_in_advice_can_be_copied() -> None:
    assert [*map(inspection._quoted, ["plain_1", "Own Schema", 'a"b', "用户"])] == [
        "plain_1", '"Own Schema"', '"a""b"', '"用户"',
    ]  # fmt: skip
