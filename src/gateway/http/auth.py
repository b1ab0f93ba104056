"""Authentication: bearer tokens of people (`gwu_`) and of runtimes (`gwr_`), and the session cookie of people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from quart import g, request

from gateway.errors import Forbidden, Unauthenticated
from gateway.http.session import Sessions, session_secret
from gateway.work.people.directory import Principal, RuntimePrincipal, UserPrincipal

Authenticate = Callable[[str], Awaitable[Principal | None]]
"""Looks a token up. Returns None for a token that is unknown or revoked."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Tells who makes the current request. Without `sessions` only tokens count.

    A request's credential is looked up once, however often a route asks.
    """

    authenticate: Authenticate
    sessions: Sessions | None = None

    async def runtime(self) -> RuntimePrincipal:
        """Return the calling runtime. Raises Unauthenticated without a valid token, Forbidden for a person's."""
        principal = await self._principal()
        if not isinstance(principal, RuntimePrincipal):
            raise Forbidden("runtime_token_required", "this needs a runtime's token (gwr_...)")
        return principal

    async def user(self) -> UserPrincipal:
        """Return the calling person. Raises Unauthenticated without a valid token, Forbidden for a runtime's."""
        principal = await self._principal()
        if not isinstance(principal, UserPrincipal):
            raise Forbidden("user_token_required", "this needs a person's token (gwu_...)")
        return principal

    def credential_check(self) -> Callable[[], Awaitable[bool]]:
        """Return a check that the current request's credential is still valid: neither revoked nor expired.

        It is for requests that last long, and may be called at any time after the request began.
        """
        header, secret = request.headers.get("Authorization"), session_secret()

        async def is_good() -> bool:
            if header is not None:
                token = bearer_token(header)
                return token is not None and await self.authenticate(token) is not None
            return self.sessions is not None and secret is not None and await self.sessions.owner(secret) is not None

        return is_good

    async def _principal(self) -> Principal:
        principal: Principal | None = g.get("principal")
        if principal is None:
            principal = g.principal = await self._identify()
        return principal

    async def _identify(self) -> Principal:
        header = request.headers.get("Authorization")
        if header is None:
            return await self._identify_by_cookie()
        token = bearer_token(header)
        if token is None:
            raise Unauthenticated("invalid_token", "the Authorization header holds no bearer token")
        principal = await self.authenticate(token)
        if principal is None:
            raise Unauthenticated("invalid_token", "the token is unknown or revoked")
        return principal

    async def _identify_by_cookie(self) -> Principal:
        user_id = None if self.sessions is None else await self.sessions.signed_in()
        if self.sessions is None or user_id is None:
            raise Unauthenticated("unauthenticated", "sign in, or send Authorization: Bearer <token>")
        self.sessions.require_same_origin()
        return UserPrincipal(user_id)


def bearer_token(header: str) -> str | None:
    """Return the token of an Authorization header, or None if the header holds no bearer token."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token.isascii() and token and " " not in token else None
