"""Accounts and sessions, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.people.accounts import Account, Membership
from gateway.work.people.directory import User

_Q = load("account.sql", Account, User, Membership)


class PostgresAccountStore:
    """Implements `work.people.accounts.AccountStore` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def account_by_email(self, email: str) -> Account | None:
        async with self._pool.connection() as conn:
            account: Account | None = await _Q.account_by_email(conn, email=email)
            return account

    async def add_session(self, hashed: str, account: Account, seconds: float) -> bool:
        async with self._pool.connection() as conn:
            added: int = await _Q.add_session(
                conn, hashed=hashed, user_id=account.id, password_hash=account.password_hash, seconds=seconds
            )
            return added > 0

    async def session_owner(self, hashed: str) -> UUID | None:
        async with self._pool.connection() as conn:
            user_id: UUID | None = await _Q.session_owner(conn, hashed=hashed)
            return user_id

    async def end_session(self, hashed: str) -> None:
        async with self._pool.connection() as conn:
            await _Q.end_session(conn, hashed=hashed)

    async def person(self, user_id: UUID) -> User | None:
        async with self._pool.connection() as conn:
            person: User | None = await _Q.person(conn, user_id=user_id)
            return person

    async def memberships(self, user_id: UUID) -> list[Membership]:
        async with self._pool.connection() as conn:
            found: list[Membership] = await _Q.memberships(conn, user_id=user_id)
            return found
