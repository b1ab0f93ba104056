"""Stored secrets in Postgres, with one `PostgresSecretTable` for each kind of row that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import Changed, Many, One, SqlFile
from gateway.work.secrets import StoredSecret

_SQL = SqlFile("secret.sql")
_BEFORE_ALL = (UUID(int=0), "")


@dataclass(frozen=True, slots=True)
class SecretKind:
    """The three statements of a kind. For rows that keep bytes, the statements return and compare them as base64."""

    name: str
    count: One[int]
    page: Many[StoredSecret]
    replace: Changed


KINDS = (
    SecretKind(
        "installation",
        _SQL.value("count_installation_secrets", int),
        _SQL.many("list_installation_secrets", StoredSecret),
        _SQL.changed("replace_installation_secret"),
    ),
    SecretKind(
        "scan",
        _SQL.value("count_scan_secrets", int),
        _SQL.many("list_scan_secrets", StoredSecret),
        _SQL.changed("replace_scan_secret"),
    ),
    SecretKind(
        "signing secret",
        _SQL.value("count_signing_secrets", int),
        _SQL.many("list_signing_secrets", StoredSecret),
        _SQL.changed("replace_signing_secret"),
    ),
)
"""Every kind of sealed value. A kind missing here would lose its secrets when an old key is taken off the ring."""


class PostgresSecretTable:
    """Implements `work.secrets.SecretTable` for one kind, on a pool that the caller owns."""

    def __init__(self, pool: Pool, kind: SecretKind) -> None:
        self._pool = pool
        self._kind = kind

    @property
    def kind(self) -> str:
        return self._kind.name

    async def count(self) -> int:
        return await self._kind.count(self._pool)

    async def page(self, after: StoredSecret | None, rows_max: int) -> Sequence[StoredSecret]:
        after_id, after_name = _BEFORE_ALL if after is None else (after.owner_id, after.name)
        return await self._kind.page(self._pool, after_id=after_id, after_name=after_name, rows_max=rows_max)

    async def replace(self, secret: StoredSecret, sealed: str) -> bool:
        return await self._kind.replace(
            self._pool, owner_id=secret.owner_id, name=secret.name, before=secret.sealed, sealed=sealed
        )


def secret_tables(pool: Pool) -> list[PostgresSecretTable]:
    """Return a table for each kind in `KINDS`."""
    return [PostgresSecretTable(pool, kind) for kind in KINDS]
