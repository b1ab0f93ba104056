"""Accounts and sessions, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.people.accounts import Account, Membership
from gateway.work.people.directory import User

_SQL = SqlFile("account.sql")
_ACCOUNT_BY_EMAIL = _SQL.one_or_none("account_by_email", Account)
_ADD_SESSION = _SQL.changed("add_session")
_SESSION_OWNER = _SQL.value_or_none("session_owner", UUID)
_END_SESSION = _SQL.count("end_session")
_PERSON = _SQL.one_or_none("person", User)
_MEMBERSHIPS = _SQL.many("memberships", Membership)


class PostgresAccountStore:
    """Implements `work.people.accounts.AccountStore` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def account_by_email(self, email: str) -> Account | None:
        return await _ACCOUNT_BY_EMAIL(self._pool, email=email)

    async def add_session(self, hashed: str, account: Account, seconds: float) -> bool:
        return await _ADD_SESSION(
            self._pool, hashed=hashed, user_id=account.id, password_hash=account.password_hash, seconds=seconds
        )

    async def session_owner(self, hashed: str) -> UUID | None:
        return await _SESSION_OWNER(self._pool, hashed=hashed)

    async def end_session(self, hashed: str) -> None:
        await _END_SESSION(self._pool, hashed=hashed)

    async def person(self, user_id: UUID) -> User | None:
        return await _PERSON(self._pool, user_id=user_id)

    async def memberships(self, user_id: UUID) -> list[Membership]:
        return await _MEMBERSHIPS(self._pool, user_id=user_id)
