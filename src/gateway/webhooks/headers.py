"""A request's headers, as senders write them: any name several times, in any case, with any bytes."""

from __future__ import annotations

from collections.abc import Iterable

VALUE_CHARS_MAX = 500

KEPT = (
    "user-agent", "x-github-event", "x-github-delivery", "x-gitlab-event", "x-gitlab-event-uuid", "x-event-type",
    "idempotency-key", "webhook-id", "svix-id",
)  # fmt: skip
"""What the log keeps. Never a signature, never what proves somebody's identity."""


class RequestHeaders:
    """Headers by lower-case name; values are stripped, and what is empty then counts as absent."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if stripped := value.strip():
                self._values.setdefault(name.lower(), []).append(stripped)

    def first(self, name: str) -> str:
        """The first value of a header given in lower case; empty when there is none."""
        return self._values.get(name, [""])[0]

    def every(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def kept(self, signature_headers: Iterable[str]) -> dict[str, str | bool]:
        """What the log may show of them, and whether one of `signature_headers` was there at all."""
        kept: dict[str, str | bool] = {name: shown(self.first(name)) for name in KEPT if name in self}
        return kept | {"signature_present": any(name in self for name in signature_headers)}


def header_bytes(value: str) -> bytes:
    """The bytes that a sender wrote: servers hand them over as Latin-1. Text that never was a header stays harmless."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def shown(value: str) -> str:
    """A header's value as the log holds it."""
    return value[:VALUE_CHARS_MAX].replace("\x00", "").encode("utf-8", "replace").decode()
