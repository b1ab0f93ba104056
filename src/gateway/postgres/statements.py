"""The named statements of sql/*.sql, loaded by aiosql through an adapter of this project.

To aiosql the adapter is "synchronous", but its methods return coroutines. aiosql's generated functions pass them
through, so that the caller awaits every kind of statement. Operators after a statement's name: none gives a list of
rows, `^` one row or None, `$` one value or None, `!` the number of rows. `%` is written `%%` in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiosql.queries import Queries
from aiosql.query_loader import QueryLoader
from aiosql.utils import VAR_REF
from psycopg.rows import class_row, scalar_row, tuple_row

from gateway.assets import asset_dir
from gateway.postgres.driver import TrioConnection


@dataclass(frozen=True, slots=True)
class Statement:
    """One loaded statement, for the contract test.

    The test checks that the statement prepares on the migrated schema, and that its columns fit the record.
    """

    file: str
    name: str
    operation: str
    sql: str
    record: type | None


LOADED: list[Statement] = []


class TrioAdapter:
    """The methods that aiosql calls for each kind of statement. The parameters arrive as a dict."""

    is_aio_driver = False

    def process_sql(self, _name: str, _operation: Any, sql: str) -> str:
        """Replace `:name` with `%(name)s`, except inside quotes."""
        return str(VAR_REF.sub(_to_pyformat, sql))

    async def select(
        self, connection: TrioConnection[Any], _name: str, sql: str, parameters: Mapping[str, Any], record: Any = None
    ) -> list[Any]:
        cursor = connection.cursor(row_factory=class_row(record) if record else tuple_row)
        await cursor.execute(sql, parameters)
        return await cursor.fetchall()

    async def select_one(
        self, connection: TrioConnection[Any], _name: str, sql: str, parameters: Mapping[str, Any], record: Any = None
    ) -> Any:
        cursor = connection.cursor(row_factory=class_row(record) if record else tuple_row)
        await cursor.execute(sql, parameters)
        return await cursor.fetchone()

    async def select_value(
        self, connection: TrioConnection[Any], _name: str, sql: str, parameters: Mapping[str, Any]
    ) -> Any:
        cursor = connection.cursor(row_factory=scalar_row)
        await cursor.execute(sql, parameters)
        return await cursor.fetchone()

    async def insert_update_delete(
        self, connection: TrioConnection[Any], _name: str, sql: str, parameters: Mapping[str, Any]
    ) -> int:
        cursor = connection.cursor()
        await cursor.execute(sql, parameters)
        return cursor.rowcount


def load(filename: str, *records: type) -> Any:
    """Load the statements of sql/<filename> as attributes: `await Q.name(connection, key=value)`.

    A statement's `-- record_class: Name` names one of `records`. Raises ValueError for a name that is not among them,
    because aiosql would silently return tuples for it.
    """
    adapter = TrioAdapter()
    classes = {record.__name__: record for record in records}
    path = asset_dir("sql") / filename
    _check_record_names(path.read_text(), set(classes), filename)
    loader = QueryLoader(adapter, classes)  # type: ignore[arg-type]
    data = loader.load_query_data_from_file(path, encoding="utf-8")
    LOADED.extend(
        Statement(filename, item.query_name, item.operation_type.name, item.sql, item.record_class) for item in data
    )
    return Queries(adapter).load_from_list(data)  # type: ignore[arg-type]


def _check_record_names(text: str, known: set[str], filename: str) -> None:
    header = "-- record_class:"
    for line in text.splitlines():
        if line.startswith(header) and (name := line.removeprefix(header).strip()) not in known:
            raise ValueError(f"sql/{filename} names record class {name}, which load() was not given")


def _to_pyformat(match: Any) -> str:
    groups = match.groupdict()
    if groups["var_name"] is None:
        return str(match.group(0))
    return f"{groups['lead']}%({groups['var_name']})s"
