"""Every named statement prepares on the migrated schema, and its columns fit the record that receives them."""

import importlib
import pkgutil
import re
import types
import typing
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from uuid import UUID

import psycopg
import pytest
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from psycopg.conninfo import make_conninfo

import gateway.legacy
import gateway.postgres
from gateway.assets import asset_dir
from gateway.postgres import statements
from gateway.postgres.statements import LOADED, load
from support import legacy_schema
from support.database import TEMPLATE, execute_blocking

PYTHON_TYPES = {
    "uuid": UUID,
    "text": str,
    "varchar": str,
    "name": str,
    "bool": bool,
    "int2": int,
    "int4": int,
    "int8": int,
    "float4": float,
    "float8": float,
    "timestamptz": datetime,
    "bytea": bytes,
}


def loaded_statements():
    """All of them: a store loads its file when it is imported."""
    for room in (gateway.postgres, gateway.legacy):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            if module.name.endswith("_store"):
                importlib.import_module(module.name)
    return {f"{each.file}:{each.name}": each for each in LOADED if (asset_dir("sql") / each.file).is_file()}


FOREIGN_FILES = {"legacy_source.sql"}
"""Statements for somebody else's database: they cannot be prepared on our schema, and are on theirs below."""

ALL_STATEMENTS = loaded_statements()
STATEMENTS = {key: each for key, each in ALL_STATEMENTS.items() if each.file not in FOREIGN_FILES}
FOREIGN_STATEMENTS = {key: each for key, each in ALL_STATEMENTS.items() if each.file in FOREIGN_FILES}


def described_columns(database, statement):
    """Names and type names of the result's columns, from libpq's prepare and describe."""
    names = set(re.findall(r"%\((\w+)\)s", statement.sql))
    query = PostgresQuery(Transformer())
    query.convert(statement.sql, dict.fromkeys(names))
    with psycopg.connect(database, autocommit=True) as connection:
        prepared = connection.pgconn.prepare(b"s", query.query)
        assert prepared.status == psycopg.pq.ExecStatus.COMMAND_OK, prepared.error_message.decode()
        described = connection.pgconn.describe_prepared(b"s")
        types_by_oid = {each.oid: each.name for each in connection.adapters.types}
        return {described.fname(n).decode(): types_by_oid.get(described.ftype(n), "") for n in range(described.nfields)}


@pytest.fixture(scope="module")
def migrated(postgres):
    """One database for all statements: preparing changes nothing."""
    name = "test_statements"
    execute_blocking(postgres, f"create database {name} template {TEMPLATE}")
    yield make_conninfo(postgres, dbname=name)
    execute_blocking(postgres, f"drop database {name} with (force)")


@pytest.mark.parametrize("key", sorted(STATEMENTS))
def test_statement_prepares_and_its_columns_fit_its_record(migrated, key):
    statement = STATEMENTS[key]
    columns = described_columns(migrated, statement)
    if statement.record is not None:
        check_record(statement.record, columns)
    elif statement.operation == "SELECT_VALUE":
        assert len(columns) == 1


@pytest.fixture(scope="module")
def foreign(postgres):
    """The reference product's database with both generations of its tables."""
    name = "test_foreign_statements"
    execute_blocking(postgres, f"create database {name} template template0")
    conninfo = make_conninfo(postgres, dbname=name)
    execute_blocking(conninfo, legacy_schema.PARENTS + legacy_schema.LARK + legacy_schema.CHANNEL)
    yield conninfo
    execute_blocking(postgres, f"drop database {name} with (force)")


@pytest.mark.parametrize("key", sorted(FOREIGN_STATEMENTS))
def test_foreign_statement_prepares_where_it_is_meant_to_run(foreign, key):
    statement = FOREIGN_STATEMENTS[key]
    columns = described_columns(foreign, statement)
    if statement.operation == "SELECT_VALUE":
        assert list(columns.values()) == ["bool"]
    else:
        assert columns == {"fields": "jsonb", "total": "int8"}


def check_record(record, columns):
    required = {each.name for each in fields(record) if each.default is MISSING and each.default_factory is MISSING}
    assert required <= set(columns) <= {each.name for each in fields(record)}
    annotations = typing.get_type_hints(record)
    for name, sql_type in columns.items():
        if expected := PYTHON_TYPES.get(sql_type):
            assert accepts(annotations[name], expected), f"{name}: {sql_type} does not fit {annotations[name]}"


def accepts(annotation, expected):
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(each, expected) for each in typing.get_args(annotation) if each is not type(None))
    if origin is typing.Literal:
        return all(isinstance(each, expected) for each in typing.get_args(annotation))
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return accepts(annotation.__value__, expected)
    return annotation in (expected, typing.Any, object)


def test_every_sql_file_is_loaded_by_a_store():
    files = {path.name for path in asset_dir("sql").glob("*.sql")}
    assert files <= {each.file for each in LOADED}


@dataclass(frozen=True, slots=True)
class Row:
    n: int
    text: str


@pytest.fixture
def own_statements(tmp_path, monkeypatch):
    monkeypatch.setattr(statements, "asset_dir", lambda _name: tmp_path)
    monkeypatch.setattr(statements, "LOADED", [])

    def load_text(text, *records):
        (tmp_path / "own.sql").write_text(text)
        return load("own.sql", *records)

    return load_text


async def test_operators_decide_what_a_statement_returns(pool, own_statements):
    queries = own_statements(
        """
        -- name: rows(most)
        -- record_class: Row
        -- The comment that says why.
        select n, 'a:b 100%%' as text from generate_series(1, :most) n;
        -- name: row(n)^
        -- record_class: Row
        select :n::int as n, 'x' as text where :n > 0;
        -- name: pairs(most)
        select n, n + 1 from generate_series(1, :most) n;
        -- name: number(n)$
        select :n::int where :n > 0;
        -- name: change(n)!
        update app_user set name = name where :n = 0;
        """.replace("\n        ", "\n"),
        Row,
    )
    async with pool.connection() as connection:
        assert await queries.rows(connection, most=2) == [Row(1, "a:b 100%"), Row(2, "a:b 100%")]
        assert await queries.row(connection, n=1) == Row(1, "x")
        assert await queries.row(connection, n=0) is None
        assert await queries.pairs(connection, most=1) == [(1, 2)]
        assert await queries.number(connection, n=7) == 7
        assert await queries.number(connection, n=0) is None
        assert await queries.change(connection, n=0) == 0


def test_unknown_record_class_is_refused(own_statements):
    with pytest.raises(ValueError, match="Missing"):
        own_statements("-- name: one()^\n-- record_class: Missing\nselect 1 as n\n", Row)
