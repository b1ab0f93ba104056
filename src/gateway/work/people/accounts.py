"""Sign-in with an e-mail address and a password, and the sessions that it opens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import trio
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from gateway.errors import TooMany, Unauthenticated
from gateway.ids import SESSION_TOKEN_PREFIX, new_token, token_hash
from gateway.work.people.directory import EMAIL_LENGTH_MAX, PASSWORD_LENGTH_MAX, TOKEN_LENGTH_MAX, User

SESSION_SECONDS = 14 * 24 * 3600
"""Lifetime of a session. Use does not prolong it."""
VERIFICATIONS_MAX = 2
"""Passwords checked at the same time. By design each check takes 64 MiB and a processor for a tenth of a second.

One more slot is reserved for people who come from a familiar place.
"""
VERIFICATIONS_WAITING_MAX = 32
"""Passwords that wait to be checked. They are about two seconds of work. More than that is a flood, and is refused."""
BUSY_SECONDS = 3


class TooBusy(TooMany):
    """Too many passwords wait to be checked. This one was not checked."""

    def __init__(self) -> None:
        message = f"too many people are signing in at once; try again in {BUSY_SECONDS} s"
        super().__init__("too_busy", message, retry_after=BUSY_SECONDS)


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account. `password_hash` is None for a person who cannot sign in with a password."""

    id: UUID
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Membership:
    """A workspace of a person, and their role in it."""

    id: UUID
    name: str
    slug: str
    role: str


class AccountStore(Protocol):
    """The store of accounts and sessions. Every method raises StoreUnavailable."""

    async def account_by_email(self, email: str) -> Account | None: ...

    async def add_session(self, hashed: str, account: Account, seconds: float) -> bool:
        """Add a session. False when the account's password has been changed since it was read."""

    async def session_owner(self, hashed: str) -> UUID | None:
        """Find the person of a session. None for a session that is unknown or over."""

    async def end_session(self, hashed: str) -> None: ...

    async def person(self, user_id: UUID) -> User | None: ...

    async def memberships(self, user_id: UUID) -> list[Membership]: ...


class Accounts:
    """Signs people in and out, and knows their sessions. Only hashes of session secrets are stored."""

    def __init__(self, store: AccountStore, *, passwords: PasswordHasher | None = None) -> None:
        self._store = store
        self._passwords = passwords or PasswordHasher()
        self._decoy = ""
        self._room = trio.CapacityLimiter(VERIFICATIONS_MAX)
        # Lets people from a familiar place sign in while a flood from many addresses occupies the other slots.
        self._reserve = trio.CapacityLimiter(1)

    async def sign_in(self, email: str, password: str, *, familiar: bool = False) -> str:
        """Open a session and return its secret. `familiar`: this account was signed in to from the same place before.

        Raises Unauthenticated for a wrong pair of address and password. The work is the same for known and
        unknown addresses, so the time reveals nothing. Raises TooBusy when too many checks wait already.
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
            raise Unauthenticated("invalid_credentials", "the e-mail address or the password is wrong")
        return secret

    async def sign_out(self, secret: str) -> None:
        """End a session. A session that is over already is no error."""
        await self._store.end_session(token_hash(secret))

    async def owner(self, secret: str) -> UUID | None:
        """Return the person of a session. None for any text that is not the secret of a live session."""
        if len(secret) > TOKEN_LENGTH_MAX or not secret.startswith(SESSION_TOKEN_PREFIX) or not secret.isascii():
            return None
        return await self._store.session_owner(token_hash(secret))

    async def person(self, user_id: UUID) -> User:
        person = await self._store.person(user_id)
        if person is None:
            raise Unauthenticated("unauthenticated", "this account is gone")
        return person

    async def memberships(self, user_id: UUID) -> list[Membership]:
        return await self._store.memberships(user_id)

    def _verify(self, stored: str | None, password: str) -> bool:
        """Check a password, in a thread. Without a stored hash a decoy is checked, so that it takes as long."""
        if not self._decoy:
            self._decoy = self._passwords.hash("nobody's password")
        try:
            self._passwords.verify(stored or self._decoy, password[:PASSWORD_LENGTH_MAX])
        except VerifyMismatchError:
            return False
        return stored is not None and len(password) <= PASSWORD_LENGTH_MAX
