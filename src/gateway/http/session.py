"""The session cookie, and the proof that a request with it was made by our own pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

from quart import Response, request

from gateway.errors import RejectedRequest

COOKIE = "gateway_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Sessions:
    """How a cookie is looked up, and where people reach us (None: wherever the request says)."""

    owner: Callable[[str], Awaitable[UUID | None]]
    public_url: str | None = None

    async def signed_in(self) -> UUID | None:
        """Whose session the request's cookie is; None without a live one."""
        secret = session_secret()
        return None if secret is None else await self.owner(secret)

    def require_same_origin(self) -> None:
        """Raises RejectedRequest (403) unless a request that changes something was made by a page of ours."""
        if request.method not in SAFE_METHODS and not self._is_own(request.headers.get("Origin")):
            hint = "behind a proxy set http.public_url"
            message = f"a request with the session cookie needs this server's own Origin; {hint}"
            raise RejectedRequest(403, "foreign_origin", message)

    def refuse_foreign_origin(self) -> None:
        """The same for a request that needs no session: a program, with neither cookie nor Origin, may make it."""
        if request.headers.get("Origin") is not None or session_secret() is not None:
            self.require_same_origin()

    def _is_own(self, origin: str | None) -> bool:
        own = {f"{request.scheme}://{request.host}"}
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            own.add(f"{parts.scheme}://{parts.netloc}")
        return origin in own

    def start(self, response: Response, secret: str, seconds: int) -> None:
        """Hand the session out. Scripts cannot read it, other sites cannot use it, and https never falls back."""
        response.set_cookie(
            COOKIE, secret, max_age=seconds, path="/", httponly=True, samesite="Lax", secure=self._is_secure()
        )

    def end(self, response: Response) -> None:
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="Lax", secure=self._is_secure())

    def _is_secure(self) -> bool:
        return request.scheme == "https" or (self.public_url or "").startswith("https://")


def session_secret() -> str | None:
    """The request's session cookie, whatever it is worth. Nothing is decoded: ours need no quotes."""
    for header in request.headers.getlist("Cookie"):
        for pair in header.split(";"):
            name, _, value = pair.partition("=")
            if name.strip() == COOKIE:
                return value.strip() or None
    return None
