"""Stored secrets in Postgres, with one `PostgresSecretTable` for each kind of row that keeps them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.secrets import StoredSecret

_Q = load("secret.sql", StoredSecret)
_BEFORE_ALL = (UUID(int=0), "")

_Statement = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class SecretKind:
    """The three statements of a kind. For rows that keep bytes, the statements return and compare them as base64."""

    name: str
    count: _Statement
    page: _Statement
    replace: _Statement


KINDS = (
    SecretKind(
        "installation",
        _Q.count_installation_secrets,
        _Q.list_installation_secrets,
        _Q.replace_installation_secret,
    ),
    SecretKind("scan", _Q.count_scan_secrets, _Q.list_scan_secrets, _Q.replace_scan_secret),
    SecretKind("signing secret", _Q.count_signing_secrets, _Q.list_signing_secrets, _Q.replace_signing_secret),
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
        async with self._pool.connection() as conn:
            return int(await self._kind.count(conn))

    async def page(self, after: StoredSecret | None, rows_max: int) -> Sequence[StoredSecret]:
        after_id, after_name = _BEFORE_ALL if after is None else (after.owner_id, after.name)
        async with self._pool.connection() as conn:
            secrets: list[StoredSecret] = await self._kind.page(
                conn, after_id=after_id, after_name=after_name, rows_max=rows_max
            )
            return secrets

    async def replace(self, secret: StoredSecret, sealed: str) -> bool:
        async with self._pool.connection() as conn:
            replaced: int = await self._kind.replace(
                conn, owner_id=secret.owner_id, name=secret.name, before=secret.sealed, sealed=sealed
            )
            return replaced > 0


def secret_tables(pool: Pool) -> list[PostgresSecretTable]:
    """Return a table for each kind in `KINDS`."""
    return [PostgresSecretTable(pool, kind) for kind in KINDS]
