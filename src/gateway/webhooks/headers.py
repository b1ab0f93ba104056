"""A request's headers as senders may write them: a name may be repeated, in any case, with any bytes in its value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

VALUE_CHARS_MAX = 500

KEPT = (
    "user-agent", "x-github-event", "x-github-delivery", "x-gitlab-event", "x-gitlab-event-uuid", "x-event-type",
    "idempotency-key", "webhook-id", "svix-id", "content-encoding",
)  # fmt: skip
"""Headers that the log keeps. A signature or any other credential must never be among them."""


class RequestHeaders:
    """Headers by lower-case name. Values are stripped, and an empty value counts as absent."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if stripped := value.strip():
                self._values.setdefault(name.lower(), []).append(stripped)

    def first(self, name: str) -> str:
        """Return the first value of a header, or "" when there is none. The name is given in lower case."""
        return self._values.get(name, [""])[0]

    def every(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def kept(self, signature_headers: Iterable[str]) -> dict[str, str | bool]:
        """Return the headers that the log may show. `signature_present`: one of `signature_headers` was there."""
        kept: dict[str, str | bool] = {name: shown(self.first(name)) for name in KEPT if name in self}
        return kept | {"signature_present": any(name in self for name in signature_headers)}


def header_bytes(value: str) -> bytes:
    """Return the bytes that a sender wrote. Servers hand them over decoded as Latin-1.

    Text that never was a header may hold other characters. It is encoded as UTF-8, without an error.
    """
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def shown(value: str) -> str:
    """Return a header's value as the log holds it: bounded, without NUL, and valid Unicode."""
    return value[:VALUE_CHARS_MAX].replace("\x00", "").encode("utf-8", "replace").decode()
