"""Authentication: bearer tokens of people (`gwu_`) and of runtimes (`gwr_`), and the session cookie of people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quart import current_app, g, request

from gateway.errors import Forbidden, Unauthenticated
from gateway.http.session import Sessions, session_secret
from gateway.work.people.directory import Principal, RuntimePrincipal, UserPrincipal

__all__ = [
    "Authenticate",
    "Principal",
    "RuntimePrincipal",
    "UserPrincipal",
    "credential_check",
    "require_runtime",
    "require_user",
]

Authenticate = Callable[[str], Awaitable[Principal | None]]
"""Looks a token up. Returns None for a token that is unknown or revoked."""

_EXTENSION = "gateway.authenticate"
_SESSIONS = "gateway.sessions"


async def require_runtime() -> RuntimePrincipal:
    """Return the calling runtime. Raises Unauthenticated without a valid token, Forbidden for a person's."""
    principal = await _require()
    if not isinstance(principal, RuntimePrincipal):
        raise Forbidden("runtime_token_required", "this needs a runtime's token (gwr_...)")
    return principal


async def require_user() -> UserPrincipal:
    """Return the calling person. Raises Unauthenticated without a valid token, Forbidden for a runtime's."""
    principal = await _require()
    if not isinstance(principal, UserPrincipal):
        raise Forbidden("user_token_required", "this needs a person's token (gwu_...)")
    return principal


def credential_check() -> Callable[[], Awaitable[bool]]:
    """Return a check that the current request's credential is still valid: neither revoked nor expired.

    It is for requests that last long, and may be called at any time after the request began.
    """
    header, secret = request.headers.get("Authorization"), session_secret()
    authenticate: Authenticate = current_app.extensions[_EXTENSION]
    sessions: Sessions | None = current_app.extensions[_SESSIONS]

    async def is_good() -> bool:
        if header is not None:
            token = bearer_token(header)
            return token is not None and await authenticate(token) is not None
        return sessions is not None and secret is not None and await sessions.owner(secret) is not None

    return is_good


def authenticate_with(
    extensions: dict[str, object], authenticate: Authenticate, sessions: Sessions | None = None
) -> None:
    """Store the look-ups that `require_user` and `require_runtime` use in an application's `extensions`."""
    extensions[_EXTENSION] = authenticate
    extensions[_SESSIONS] = sessions


def bearer_token(header: str) -> str | None:
    """Return the token of an Authorization header, or None if the header holds no bearer token."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token.isascii() and token and " " not in token else None


async def _require() -> Principal:
    principal: Principal | None = g.get("principal")
    if principal is None:
        principal = g.principal = await _identify()
    return principal


async def _identify() -> Principal:
    header = request.headers.get("Authorization")
    if header is None:
        return await _identify_by_cookie()
    token = bearer_token(header)
    if token is None:
        raise Unauthenticated("invalid_token", "the Authorization header holds no bearer token")
    authenticate: Authenticate = current_app.extensions[_EXTENSION]
    principal = await authenticate(token)
    if principal is None:
        raise Unauthenticated("invalid_token", "the token is unknown or revoked")
    return principal


async def _identify_by_cookie() -> Principal:
    sessions: Sessions | None = current_app.extensions[_SESSIONS]
    user_id = None if sessions is None else await sessions.signed_in()
    if sessions is None or user_id is None:
        raise Unauthenticated("unauthenticated", "sign in, or send Authorization: Bearer <token>")
    sessions.require_same_origin()
    return UserPrincipal(user_id)
