"""Every named statement prepares on the migrated schema, and its columns fit the type that its store declares."""

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
from gateway.errors import StoreError
from gateway.postgres import statements
from gateway.postgres.statements import DECLARED, SqlFile
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


def declared_statements():
    """All of them: a store declares its statements when it is imported."""
    for room in (gateway.postgres, gateway.legacy):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    return {f"{each.file}:{each.name}": each for each in DECLARED}


FOREIGN_FILES = {"legacy_source.sql"}
"""Statements for somebody else's database: they cannot be prepared on our schema, and are on theirs below."""

ALL_STATEMENTS = declared_statements()
STATEMENTS = {key: each for key, each in ALL_STATEMENTS.items() if each.file not in FOREIGN_FILES}
FOREIGN_STATEMENTS = {key: each for key, each in ALL_STATEMENTS.items() if each.file in FOREIGN_FILES}


def converted(statement):
    names = set(re.findall(r"%\((\w+)\)s", statement.sql))
    query = PostgresQuery(Transformer())
    query.convert(statement.sql, dict.fromkeys(names))
    return query


def described_columns(database, statement):
    """Names and type names of the result's columns, from libpq's prepare and describe."""
    query = converted(statement)
    with psycopg.connect(database, autocommit=True) as connection:
        prepared = connection.pgconn.prepare(b"s", query.query)
        assert prepared.status == psycopg.pq.ExecStatus.COMMAND_OK, prepared.error_message.decode()
        described = connection.pgconn.describe_prepared(b"s")
        types_by_oid = {each.oid: each.name for each in connection.adapters.types}
        return {described.fname(n).decode(): types_by_oid.get(described.ftype(n), "") for n in range(described.nfields)}


@pytest.fixture
def migrated(postgres):
    """The template itself: preparing changes nothing."""
    return make_conninfo(postgres, dbname=TEMPLATE)


@pytest.mark.parametrize("key", sorted(STATEMENTS))
def test_statement_prepares_and_its_columns_fit_what_is_declared(either_postgres, key):
    database = make_conninfo(either_postgres, dbname=TEMPLATE)
    check_declared(STATEMENTS[key], described_columns(database, STATEMENTS[key]))


FUNCTIONS_THAT_GIVE_ROWS = """
select proname from pg_proc join pg_language on pg_language.oid = prolang
where proretset and lanname = 'sql' and pronamespace = 'public'::regnamespace
"""


def test_functions_that_give_rows_are_planned_as_if_written_in_their_place(migrated):
    with psycopg.connect(migrated, autocommit=True) as connection:
        rows = connection.execute(FUNCTIONS_THAT_GIVE_ROWS).fetchall()
        functions = {name for (name,) in rows}
        assert functions
        users = [each for each in STATEMENTS.values() if any(f"{name}(" in each.sql for name in functions)]
        assert users
        for statement in users:
            plan = connection.pgconn.exec_(b"explain (generic_plan, costs off) " + converted(statement).query)
            assert plan.status == psycopg.pq.ExecStatus.TUPLES_OK, plan.error_message.decode()
            lines = [plan.get_value(n, 0).decode() for n in range(plan.ntuples)]
            called = [line for line in lines if any(name in line for name in functions)]
            assert not called, f"{statement.name}: {called}"


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
    check_declared(statement, columns)
    if not statement.single:
        assert columns == {"fields": "jsonb", "total": "int8"}


def check_declared(statement, columns):
    if statement.single:
        check_types([statement.row], columns)
    elif typing.get_origin(statement.row) is tuple:
        check_types(typing.get_args(statement.row), columns)
    elif statement.row is not None:
        check_record(statement.row, columns)


def check_types(annotations, columns):
    assert len(annotations) == len(columns)
    for annotation, (name, sql_type) in zip(annotations, columns.items(), strict=True):
        check_type(annotation, name, sql_type)


def check_type(annotation, name, sql_type):
    if expected := PYTHON_TYPES.get(sql_type):
        assert accepts(annotation, expected), f"{name}: {sql_type} does not fit {annotation}"


def check_record(record, columns):
    required = {each.name for each in fields(record) if each.default is MISSING and each.default_factory is MISSING}
    assert required <= set(columns) <= {each.name for each in fields(record)}
    annotations = typing.get_type_hints(record)
    for name, sql_type in columns.items():
        check_type(annotations[name], name, sql_type)


def accepts(annotation, expected):
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(each, expected) for each in typing.get_args(annotation) if each is not type(None))
    if origin is typing.Literal:
        return all(isinstance(each, expected) for each in typing.get_args(annotation))
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return accepts(annotation.__value__, expected)
    return annotation in (expected, typing.Any, object)


def test_column_of_another_type_does_not_fit():
    with pytest.raises(AssertionError, match="text does not fit"):
        check_types([int], {"name": "text"})
    with pytest.raises(AssertionError):
        check_types([UUID, int], {"id": "uuid"})


def test_every_sql_file_is_declared_by_a_store():
    files = {path.name for path in asset_dir("sql").glob("*.sql")}
    assert files == {each.file for each in ALL_STATEMENTS.values()}


@dataclass(frozen=True, slots=True)
class Row:
    n: int
    text: str


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(statements, "asset_dir", lambda _name: tmp_path)
    monkeypatch.setattr(statements, "DECLARED", [])

    def open_text(text):
        (tmp_path / "own.sql").write_text(text)
        return SqlFile("own.sql")

    return open_text


KINDS = """\
-- name: rows(most)
-- The comment that says why.
select n, 'a:b 100%%' as text from generate_series(1, :most) n;
-- name: row(n)^
select :n::int as n, 'x' as text where :n > 0;
-- name: numbers(most)
select n from generate_series(1, :most) n;
-- name: number(n)$
select :n::int where :n > 0;
-- name: change(n)!
update app_user set name = name where :n = 0;
-- name: notify(n)!
select pg_notify('nobody', n::text) from generate_series(1, :n) n;
"""


async def test_declaration_decides_what_a_statement_gives(pool, own_file):
    file = own_file(KINDS)
    async with pool.connection() as connection:
        assert await file.many("rows", Row)(connection, most=2) == [Row(1, "a:b 100%"), Row(2, "a:b 100%")]
        assert await file.many("rows", tuple[int, str])(connection, most=1) == [(1, "a:b 100%")]
        assert await file.one("row", Row)(connection, n=1) == Row(1, "x")
        assert await file.one_or_none("row", Row)(connection, n=1) == Row(1, "x")
        assert await file.one_or_none("row", Row)(connection, n=0) is None
        assert await file.column("numbers", int)(connection, most=2) == [1, 2]
        assert await file.value("number", int)(connection, n=7) == 7
        assert await file.value_or_none("number", int)(connection, n=0) is None
        assert await file.count("change")(connection, n=0) == 0
        assert await file.count("notify")(connection, n=2) == 2
        assert await file.changed("change")(connection, n=0) is False
        assert await file.changed("notify")(connection, n=1) is True


@pytest.mark.parametrize("kind", ["one", "value"])
async def test_missing_result_of_a_statement_that_always_has_one_is_an_error(pool, own_file, kind):
    file = own_file(KINDS)
    statement = file.one("row", Row) if kind == "one" else file.value("number", int)
    with pytest.raises(StoreError, match="gave no result"):
        await statement(pool, n=0)


async def test_statement_on_the_pool_gives_its_connection_back_and_translates_errors(pool, own_file):
    number = own_file(KINDS).value("number", int)
    assert await number(pool, n=3) == 3
    with pytest.raises(StoreError, match="not acceptable"):
        await number(pool, n="x")
    assert pool.in_use == 0


@pytest.mark.parametrize(
    ("kind", "name"), [("many", "row"), ("one", "rows"), ("value", "row"), ("column", "number"), ("count", "rows")]
)
def test_declaration_that_the_operator_contradicts_is_refused(own_file, kind, name):
    file = own_file(KINDS)
    with pytest.raises(ValueError, match=f"own.sql: {name} is SELECT"):
        getattr(file, kind)(*([name] if kind == "count" else [name, int]))


def test_declaration_of_an_unknown_statement_is_refused(own_file):
    with pytest.raises(ValueError, match="no statement missing"):
        own_file(KINDS).many("missing", Row)
