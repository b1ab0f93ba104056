"""Signing in with an e-mail address and a password, and the sessions that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import trio
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from gateway.errors import RejectedRequest
from gateway.ids import SESSION_TOKEN_PREFIX, new_token, token_hash
from gateway.work.people.directory import EMAIL_LENGTH_MAX, PASSWORD_LENGTH_MAX, TOKEN_LENGTH_MAX, User

SESSION_SECONDS = 14 * 24 * 3600
"""How long a session lasts. It is not prolonged by use."""
VERIFICATIONS_MAX = 2
"""Passwords checked at the same time: each takes 64 MiB and a processor for a tenth of a second, on purpose.

One more is kept for people who come from a familiar place.
"""
VERIFICATIONS_WAITING_MAX = 32
"""Passwords that wait to be checked: about two seconds of work. Beyond that somebody floods us."""
BUSY_SECONDS = 3


class TooBusy(RejectedRequest):
    """Too many passwords wait to be checked. Nothing was decided."""

    def __init__(self) -> None:
        message = f"too many people are signing in at once; try again in {BUSY_SECONDS} s"
        super().__init__(429, "too_busy", message, retry_after=BUSY_SECONDS)


@dataclass(frozen=True, slots=True)
class Account:
    """`password_hash` None: this person cannot sign in with a password."""

    id: UUID
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Membership:
    """A workspace of a person, and what they are in it."""

    id: UUID
    name: str
    slug: str
    role: str


class AccountStore(Protocol):
    """Every method raises StoreUnavailable."""

    async def account_by_email(self, email: str) -> Account | None: ...

    async def add_session(self, hashed: str, account: Account, seconds: float) -> bool:
        """False when the account's password is another one by now."""

    async def session_owner(self, hashed: str) -> UUID | None:
        """None for a session that is unknown or over."""

    async def end_session(self, hashed: str) -> None: ...

    async def person(self, user_id: UUID) -> User | None: ...

    async def memberships(self, user_id: UUID) -> list[Membership]: ...


class Accounts:
    """Who is signed in. Only hashes of sessions are stored."""

    def __init__(self, store: AccountStore, *, passwords: PasswordHasher | None = None) -> None:
        self._store = store
        self._passwords = passwords or PasswordHasher()
        self._decoy = ""
        self._room = trio.CapacityLimiter(VERIFICATIONS_MAX)
        # For owners, while strangers at many addresses keep the others busy.
        self._reserve = trio.CapacityLimiter(1)

    async def sign_in(self, email: str, password: str, *, familiar: bool = False) -> str:
        """Open a session; its secret. `familiar`: this account was signed in to from the same place before.

        Raises RejectedRequest (401) for a wrong pair, after the same work whether the address is known or not, and
        TooBusy (429) when too many wait for theirs already.
        """
        address = email.strip().lower()
        known = 0 < len(address) <= EMAIL_LENGTH_MAX and address.isprintable()
        account = await self._store.account_by_email(address) if known else None
        stored = account.password_hash if account is not None else None
        room = self._reserve if familiar else self._room
        if room.statistics().tasks_waiting >= VERIFICATIONS_WAITING_MAX:
            raise TooBusy
        matches = await trio.to_thread.run_sync(self._verify, stored, password, limiter=room)
        secret = new_token(SESSION_TOKEN_PREFIX)
        opened = (
            account is not None
            and matches
            and await self._store.add_session(token_hash(secret), account, SESSION_SECONDS)
        )
        if not opened:
            raise RejectedRequest(401, "invalid_credentials", "the e-mail address or the password is wrong")
        return secret

    async def sign_out(self, secret: str) -> None:
        """End a session; one that is over already is fine."""
        await self._store.end_session(token_hash(secret))

    async def owner(self, secret: str) -> UUID | None:
        """Whose session it is; None for anything that is not a live session of ours."""
        if len(secret) > TOKEN_LENGTH_MAX or not secret.startswith(SESSION_TOKEN_PREFIX) or not secret.isascii():
            return None
        return await self._store.session_owner(token_hash(secret))

    async def person(self, user_id: UUID) -> User:
        person = await self._store.person(user_id)
        if person is None:
            raise RejectedRequest(401, "unauthenticated", "this account is gone")
        return person

    async def memberships(self, user_id: UUID) -> list[Membership]:
        return await self._store.memberships(user_id)

    def _verify(self, stored: str | None, password: str) -> bool:
        """Runs in a thread. Somebody who cannot sign in is measured against a decoy, so that it takes as long."""
        if not self._decoy:
            self._decoy = self._passwords.hash("nobody's password")
        try:
            self._passwords.verify(stored or self._decoy, password[:PASSWORD_LENGTH_MAX])
        except VerifyMismatchError:
            return False
        return stored is not None and len(password) <= PASSWORD_LENGTH_MAX
