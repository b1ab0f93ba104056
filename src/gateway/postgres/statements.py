"""The named statements of sql/*.sql. The store that runs a statement declares it, with the type of its result.

    _SQL = SqlFile("team.sql")
    _LIST_SQUADS = _SQL.many("list_squads", Squad)

    squads = await _LIST_SQUADS(pool, workspace_id=workspace_id, limit=10, offset=0)

aiosql reads the files. The operator after a statement's name says what it gives: none for any number of rows, `^` for
at most one row, `$` for at most one value, `!` for the number of rows that it changed. `%` is written `%%` in a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_origin

from aiosql.query_loader import QueryLoader
from aiosql.types import SQLOperationType
from aiosql.utils import VAR_REF
from psycopg import AsyncCursor
from psycopg.rows import AsyncRowFactory, class_row, scalar_row, tuple_row

from gateway.assets import asset_dir
from gateway.errors import StoreError
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool

R = TypeVar("R")

PoolOrConnection = Pool | TrioConnection[Any]
"""Where a statement runs: on a connection that the caller holds, or alone on one of the pool."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One declared statement, for the contract test.

    The test checks that the statement prepares on the migrated schema, and that its columns fit `row`: a record class,
    a `tuple[...]`, or the type of a `single` value. A statement that gives no row has None.
    """

    file: str
    name: str
    sql: str
    row: Any
    single: bool


DECLARED: list[Declared] = []


class Statement(ABC, Generic[R]):
    """A statement that gives an R. Its parameters are named as in its file."""

    def __init__(self, name: str, sql: str, row_factory: AsyncRowFactory[Any]) -> None:
        self.name = name
        self.sql = sql
        self._row_factory = row_factory

    async def __call__(self, on: PoolOrConnection, /, **parameters: Any) -> R:
        """Run it. On the pool, it raises what `Pool.connection` raises.

        On a connection, psycopg's errors come as they are: the block that took it from the pool translates them.
        """
        if isinstance(on, Pool):
            async with on.connection() as connection:
                return await self._run(connection, parameters)
        return await self._run(on, parameters)

    async def _run(self, connection: TrioConnection[Any], parameters: dict[str, Any]) -> R:
        cursor = connection.cursor(row_factory=self._row_factory)
        await cursor.execute(self.sql, parameters)
        return await self._result(cursor)

    @abstractmethod
    async def _result(self, cursor: AsyncCursor[Any]) -> R: ...


class Many(Statement[list[R]]):
    """Gives all rows, or all values of a single column."""

    async def _result(self, cursor: AsyncCursor[R]) -> list[R]:
        return await cursor.fetchall()


class OneOrNone(Statement[R | None]):
    """Gives a row or value, or None where there is none."""

    async def _result(self, cursor: AsyncCursor[R]) -> R | None:
        return await cursor.fetchone()


class One(Statement[R]):
    """Gives a row or value that is always there. Raises StoreError if it is not."""

    async def _result(self, cursor: AsyncCursor[R]) -> R:
        found = await cursor.fetchone()
        if found is None:
            raise StoreError(f"the statement {self.name} gave no result, where there is always one")
        return found


class RowCount(Statement[int]):
    """Gives the number of rows that it inserted, changed or deleted."""

    async def _result(self, cursor: AsyncCursor[Any]) -> int:
        return cursor.rowcount


class Changed(Statement[bool]):
    """Gives True if it inserted, changed or deleted a row."""

    async def _result(self, cursor: AsyncCursor[Any]) -> bool:
        return cursor.rowcount > 0


class SqlFile:
    """The statements of sql/<filename>, to be declared one by one.

    Every method raises ValueError for a name that is not in the file, and for one whose operator says that it gives
    something else.
    """

    def __init__(self, filename: str) -> None:
        loader = QueryLoader(_Pyformat(), None)  # type: ignore[arg-type]
        data = loader.load_query_data_from_file(asset_dir("sql") / filename, encoding="utf-8")
        self._filename = filename
        self._data = {item.query_name: item for item in data}

    def many(self, name: str, row: type[R]) -> Many[R]:
        """Declare rows, as `row`s: a record class, or a `tuple[...]` of the columns' types."""
        return Many(name, self._declare(name, SQLOperationType.SELECT, row), _factory(row))

    def one(self, name: str, row: type[R]) -> One[R]:
        """Declare one row that is always there."""
        return One(name, self._declare(name, SQLOperationType.SELECT_ONE, row), _factory(row))

    def one_or_none(self, name: str, row: type[R]) -> OneOrNone[R]:
        return OneOrNone(name, self._declare(name, SQLOperationType.SELECT_ONE, row), _factory(row))

    def column(self, name: str, value: type[R]) -> Many[R]:
        """Declare rows of one column, as a list of its values."""
        return Many(name, self._declare(name, SQLOperationType.SELECT, value, single=True), scalar_row)

    def value(self, name: str, value: type[R]) -> One[R]:
        """Declare one value that is always there and never null."""
        return One(name, self._declare(name, SQLOperationType.SELECT_VALUE, value, single=True), scalar_row)

    def value_or_none(self, name: str, value: type[R]) -> OneOrNone[R]:
        """Declare one value. No row and a null both give None."""
        return OneOrNone(name, self._declare(name, SQLOperationType.SELECT_VALUE, value, single=True), scalar_row)

    def count(self, name: str) -> RowCount:
        """Declare a statement whose rows are counted and not read, or that runs for its effect alone."""
        return RowCount(name, self._declare(name, SQLOperationType.INSERT_UPDATE_DELETE, None), tuple_row)

    def changed(self, name: str) -> Changed:
        """Declare a statement of which the caller asks only if there was a row to change."""
        return Changed(name, self._declare(name, SQLOperationType.INSERT_UPDATE_DELETE, None), tuple_row)

    def _declare(self, name: str, operation: SQLOperationType, row: Any, *, single: bool = False) -> str:
        """Note a declaration for the contract test, and return the statement's SQL."""
        found = self._data.get(name)
        if found is None:
            raise ValueError(f"sql/{self._filename} has no statement {name}")
        if found.operation_type is not operation:
            raise ValueError(f"sql/{self._filename}: {name} is {found.operation_type.name}, declared {operation.name}")
        DECLARED.append(Declared(self._filename, name, found.sql, row, single))
        return found.sql


class _Pyformat:
    """The one method that aiosql's loader calls on an adapter."""

    def process_sql(self, _name: str, _operation: Any, sql: str) -> str:
        """Replace `:name` with `%(name)s`, except inside quotes."""
        return str(VAR_REF.sub(_to_pyformat, sql))


def _factory(row: type[R]) -> AsyncRowFactory[Any]:
    return tuple_row if get_origin(row) is tuple else class_row(row)


def _to_pyformat(match: Any) -> str:
    groups = match.groupdict()
    if groups["var_name"] is None:
        return str(match.group(0))
    return f"{groups['lead']}%({groups['var_name']})s"
