"""The session cookie, and the check that a request with it was made by one of our own pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

from quart import Response, request

from gateway.errors import Forbidden

COOKIE = "gateway_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Sessions:
    """The look-up of a session cookie's owner, and the URL at which people reach this server.

    With `public_url` None only the request's own scheme and host count as this server's origin.
    """

    owner: Callable[[str], Awaitable[UUID | None]]
    public_url: str | None = None

    async def signed_in(self) -> UUID | None:
        """Return the id of the person whose session the request's cookie is, or None without a live session."""
        secret = session_secret()
        return None if secret is None else await self.owner(secret)

    def require_same_origin(self) -> None:
        """Check that a page of ours made the request, if the request may change something.

        Raises Forbidden if its Origin is missing or is not this server's.
        """
        if request.method not in SAFE_METHODS and not self._is_own(request.headers.get("Origin")):
            hint = "behind a proxy set http.public_url"
            message = f"a request with the session cookie needs this server's own Origin; {hint}"
            raise Forbidden("foreign_origin", message)

    def refuse_foreign_origin(self) -> None:
        """Check the Origin as `require_same_origin` does, for a request that needs no session.

        A request with neither a session cookie nor an Origin passes: a program made it, and no browser.
        """
        if request.headers.get("Origin") is not None or session_secret() is not None:
            self.require_same_origin()

    def _is_own(self, origin: str | None) -> bool:
        own = {f"{request.scheme}://{request.host}"}
        if self.public_url is not None:
            own.add(origin_of(self.public_url))
        return origin in own

    def start(self, response: Response, secret: str, seconds: int) -> None:
        """Set the session cookie. Scripts cannot read it, and other sites cannot use it.

        With https the browser never sends it over plain http.
        """
        response.set_cookie(
            COOKIE,
            secret,
            max_age=seconds,
            path=self._path(),
            httponly=True,
            samesite="Lax",
            secure=self._is_secure(),
        )

    def end(self, response: Response) -> None:
        response.delete_cookie(COOKIE, path=self._path(), httponly=True, samesite="Lax", secure=self._is_secure())

    def _path(self) -> str:
        """Return the cookie's path. Other applications of the host, beside the path of `public_url`, do not get it."""
        return mount_path(self.public_url) or "/"

    def _is_secure(self) -> bool:
        return request.scheme == "https" or (self.public_url or "").startswith("https://")


def mount_path(public_url: str | None) -> str:
    """Return the path under which people reach this server: empty, or a path without a slash at its end."""
    return "" if public_url is None else urlsplit(public_url).path.rstrip("/")


def origin_of(url: str) -> str:
    """Return the origin of a URL as browsers write it: in lower case, and without the scheme's own port."""
    parts = urlsplit(url)
    scheme, place = parts.scheme.lower(), parts.netloc.lower()
    return f"{scheme}://{place.removesuffix({'http': ':80', 'https': ':443'}.get(scheme, ''))}"


def session_secret() -> str | None:
    """Return the request's session cookie, unchecked, or None. Nothing is unquoted: our cookies need no quotes."""
    for header in request.headers.getlist("Cookie"):
        for pair in header.split(";"):
            name, _, value = pair.partition("=")
            if name.strip() == COOKIE:
                return value.strip() or None
    return None
